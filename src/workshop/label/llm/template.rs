//! Prompts as editable templates: text with `{{name}}` where something is put in.

use anyhow::{bail, ensure};

/// The prompt that asks for a latent's name, after RecSAE's (arXiv 2411.06112, section 3.3): places `items`, `others`.
pub const EXPLAIN: &str = include_str!("explain.txt");
/// The prompt that asks whether a case fits a name: places `label`, `items`.
pub const PREDICT: &str = include_str!("predict.txt");

/// Fills a template.
///
/// # Errors
/// It names a place that is not filled, or lacks one that must be there.
pub fn fill(template: &str, places: &[(&str, &str)], required: &[&str]) -> anyhow::Result<String> {
    for name in required {
        ensure!(template.contains(&format!("{{{{{name}}}}}")), "the prompt template has no {{{{{name}}}}}");
    }
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    // In one pass, so that an item called "{{label}}" stays an item.
    while let Some(at) = rest.find("{{") {
        filled.push_str(&rest[..at]);
        let Some(end) = rest[at..].find("}}") else { bail!("the prompt template has a {{{{ without }}}}") };
        let name = rest[at + 2..at + end].trim();
        match places.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => filled.push_str(value),
            None => {
                let known: Vec<&str> = places.iter().map(|(name, _)| *name).collect();
                bail!("the prompt template names {name:?}, expected one of {}", known.join(", "))
            }
        }
        rest = &rest[at + end + 2..];
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once_and_unknown_ones_refused() {
        let places = [("items", "a {{label}}"), ("label", "b")];
        assert_eq!(fill("{{items}}-{{ label }}", &places, &["items"]).unwrap(), "a {{label}}-b");
        assert!(fill("{{item}}", &places, &[]).unwrap_err().to_string().contains("items, label"));
        assert!(fill("x", &places, &["items"]).unwrap_err().to_string().contains("no {{items}}"));
        assert!(fill("{{items", &places, &[]).is_err());
    }

    #[test]
    fn the_templates_that_come_along_are_whole() {
        assert!(fill(EXPLAIN, &[("items", "x"), ("others", "y")], &["items", "others"]).unwrap().contains("\nx\n"));
        assert!(fill(PREDICT, &[("items", "x"), ("label", "y")], &["items", "label"]).unwrap().contains("concept: y\n"));
    }
}
