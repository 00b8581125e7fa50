//! The documented default file, carried in the program so that `recsae config --defaults` always fits it.

/// `config/recsae.toml`: every key with its default and meaning.
pub const DOCUMENTED: &str = include_str!("../../config/recsae.toml");

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value as Json;

    use super::*;
    use crate::config::settings::Settings;

    /// The file's lines with the keys behind `#` switched on.
    fn all_keys_on() -> String {
        let is_key = |line: &str| {
            let name = line.split(" =").next().unwrap_or_default();
            line.starts_with("[[")
                || (line.contains(" = ") && !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        };
        DOCUMENTED.lines().map(|line| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_file_states_the_defaults() {
        let read: Settings = toml::from_str(DOCUMENTED).unwrap();
        assert_eq!(read, Settings::default());
    }

    #[test]
    fn file_and_settings_have_the_same_keys() {
        let schema = schemars::schema_for!(Settings).to_value();
        let keys_of = |schema: &Json| -> BTreeSet<String> {
            schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
        };
        let file: toml::Table = toml::from_str(&all_keys_on()).unwrap();
        let in_file: BTreeMap<String, BTreeSet<String>> = file
            .iter()
            .map(|(section, value)| {
                let table = value.as_table().or_else(|| value.as_array().and_then(|items| items[0].as_table())).unwrap();
                (section.clone(), table.keys().cloned().collect())
            })
            .collect();
        let mut in_settings = BTreeMap::new();
        for (section, schema_of) in schema["properties"].as_object().unwrap() {
            let reference = schema_of.get("$ref").or_else(|| schema_of["items"].get("$ref")).and_then(Json::as_str).unwrap();
            let name = reference.strip_prefix("#/$defs/").unwrap();
            in_settings.insert(section.clone(), keys_of(&schema["$defs"][name]));
        }
        assert_eq!(in_file, in_settings);
    }

    #[test]
    fn every_key_of_the_file_is_explained() {
        let lines: Vec<&str> = DOCUMENTED.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let key = line.trim_start_matches('#').split(" = ").next().unwrap_or_default();
            if line.contains(" = ") && !line.starts_with("# ") && !["listen", "path", "tls_key_file"].contains(&key) {
                assert!(lines[n - 1].starts_with("# "), "no comment above: {line}");
            }
        }
    }

    #[test]
    fn the_file_with_all_keys_loads() {
        let path = std::path::Path::new("config/recsae.toml");
        crate::config::load_text(path, &all_keys_on(), []).unwrap();
    }
}
