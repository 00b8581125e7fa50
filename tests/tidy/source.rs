//! Rust source as tidy reads it: without comments, strings and tests, and the modules it names.
//!
//! Text, not a syntax tree: a parser would be the slowest crate of the build, and what is looked for
//! (paths, words, lines) survives a scanner that knows comments, strings and braces.

/// The source with comments and the contents of strings and character literals blanked; line breaks stay.
pub(crate) fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            at + rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest) {
            at + length
        } else if rest.starts_with('"') {
            at + quoted(rest, b'"')
        } else if rest.starts_with('\'') && is_character(rest) {
            at + quoted(rest, b'\'')
        } else {
            out.push(bytes[at]);
            at += 1;
            continue;
        };
        out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The lines before the tests at the end of a file.
pub(crate) fn without_tests(source: &str) -> &str {
    let tests = source.match_indices("#[cfg(test)]").find(|(at, found)| {
        let starts_a_line = *at == 0 || source.as_bytes()[at - 1] == b'\n';
        starts_a_line && source[at + found.len()..].trim_start().starts_with("mod tests")
    });
    tests.map_or(source, |(at, _)| &source[..at])
}

/// Whether `word` stands in `code` as a whole word.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| is_bounded(code, at, word.len()))
}

/// Whether `code` names the crate: `name::` or `use name`, but not a module of ours of that name.
pub(crate) fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].trim_end();
        let after = &code[at + name.len()..];
        is_bounded(code, at, name.len()) && !before.ends_with("::") && (after.starts_with("::") || before.ends_with("use"))
    })
}

/// Every path that starts at `crate::`, brace lists unfolded: `["drift", "counts", "Counts"]`.
pub(crate) fn crate_paths(code: &str, root: &str) -> Vec<Vec<String>> {
    let prefix = format!("{root}::");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(&prefix) {
        if is_bounded(code, at, root.len()) && !code[..at].ends_with("::") {
            unfold(&code[at + prefix.len()..], &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Reads one use tree after `prefix`, adds its paths, and returns how many bytes it took.
fn unfold(tree: &str, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let skipped = tree.len() - tree.trim_start().len();
    let text = &tree[skipped..];
    if let Some(list) = text.strip_prefix('{') {
        let mut at = 0;
        while at < list.len() && !list[at..].starts_with('}') {
            if list[at..].starts_with([',', ' ', '\n']) {
                at += 1;
            } else {
                at += unfold(&list[at..], prefix, paths).max(1);
            }
        }
        return skipped + 1 + at + 1;
    }
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let after = skipped + name.len();
    if name.is_empty() {
        paths.push(prefix.clone());
        return after;
    }
    prefix.push(name);
    let taken = if tree[after..].starts_with("::") {
        2 + unfold(&tree[after + 2..], prefix, paths)
    } else {
        paths.push(prefix.clone());
        0
    };
    prefix.pop();
    let renamed = tree[after + taken..].strip_prefix(" as ");
    let alias = renamed.map_or(0, |rest| 4 + rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').count());
    after + taken + alias
}

fn is_bounded(code: &str, at: usize, length: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    !code[..at].ends_with(word) && !code[at + length..].starts_with(word)
}

/// Length of a raw string (`r"..."`, `r#"..."#`, `br"..."`) at the start of `rest`.
fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inner = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(rest.len() - inner.len() + inner.find(&close)? + close.len())
}

/// Length of a quoted literal at the start of `rest`, escapes respected.
fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// A character literal, not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) => true,
        (Some(_), Some(close)) => close == '\'',
        _ => false,
    }
}
