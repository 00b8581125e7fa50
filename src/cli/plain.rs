//! Texts that others wrote, on a terminal: a control character would move its cursor, colour it or begin a line of its own.

use std::borrow::Cow;

/// The text with every control character written out (`\\u{1b}`), and those that turn the direction of writing.
#[must_use]
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let written = |c: char| if is_hidden(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(written).collect())
}

fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(plain("planned\u{1b}[31m\r\n 5  FIRING\u{9b}2J\u{202e}"), "planned\\u{1b}[31m\\r\\n 5  FIRING\\u{9b}2J\\u{202e}");
        assert!(matches!(plain("Žižek · 日本 — 20 %"), Cow::Borrowed(_)));
    }
}
