//! The settings' JSON Schema as the list of known keys: what is unknown is refused with the nearest name.

use config::{File, FileFormat, Value, ValueKind};
use serde_json::Value as Json;

use crate::config::fault::Fault;
use crate::config::settings::Settings;

/// Names less alike than this are no help; then all known names are listed instead.
/// Lower: nonsense suggestions. Higher: `topic` no longer finds `topics`.
const ALIKE: f64 = 0.75;

/// Which keys exist where, and which values an enumeration has.
pub(crate) struct Shape {
    schema: Json,
}

impl Shape {
    /// The shape of [`Settings`].
    pub(crate) fn of_settings() -> Self {
        Self { schema: schemars::schema_for!(Settings).to_value() }
    }

    /// Takes every unknown key and unknown enumeration value out of `tree` and reports it. Text from the
    /// environment where a list or table belongs is read as one.
    pub(crate) fn prune(&self, tree: &mut Value, faults: &mut Vec<Fault>) {
        self.prune_at(&self.schema, "", tree, faults);
    }

    /// Whether `value` stays.
    fn prune_at(&self, schema: &Json, path: &str, value: &mut Value, faults: &mut Vec<Fault>) -> bool {
        let schema = self.resolved(schema);
        if let Some(text) = from_environment(value)
            && let Some(kind) = structured(schema, &text)
        {
            *value = Value::new(value.origin().map(str::to_owned).as_ref(), kind);
        }
        let words = words_of(schema);
        match &mut value.kind {
            ValueKind::String(found) if !words.is_empty() && !words.contains(&found.as_str()) => {
                faults.push(Fault::new(path, format!("expected {}, found {found:?}{}", words.join(" or "), suggestion(found, &words))));
                false
            }
            ValueKind::Table(table) => {
                let Some(known) = schema.get("properties").and_then(Json::as_object) else { return true };
                table.retain(|key, value| {
                    let place = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    match known.get(key) {
                        Some(schema) => self.prune_at(schema, &place, value, faults),
                        None => {
                            let names: Vec<&str> = known.keys().map(String::as_str).collect();
                            faults.push(Fault::new(place, self.unknown(path, key, &names)));
                            false
                        }
                    }
                });
                true
            }
            ValueKind::Array(items) => {
                let bound = |name: &str, otherwise: usize| {
                    schema.get(name).and_then(Json::as_u64).map_or(otherwise, |n| usize::try_from(n).unwrap_or(usize::MAX))
                };
                let (least, most) = (bound("minItems", 0), bound("maxItems", usize::MAX));
                // A list that is too long would be cut without a word where it is read.
                if !(least..=most).contains(&items.len()) {
                    let expected = if least == most { most.to_string() } else { format!("{least} to {most}") };
                    let found: Vec<String> = items.iter().map(|item| format!("{:?}", item.to_string())).collect();
                    faults.push(Fault::new(path, format!("expected {expected} values, found {}: [{}]", items.len(), found.join(", "))));
                    return false;
                }
                if let Some(schema) = schema.get("items") {
                    let mut index = 0;
                    items.retain_mut(|item| {
                        let keep = self.prune_at(schema, &format!("{path}[{index}]"), item, faults);
                        index += 1;
                        keep
                    });
                }
                true
            }
            _ => true,
        }
    }

    fn unknown(&self, section: &str, key: &str, names: &[&str]) -> String {
        let what = if section.is_empty() { "unknown section".to_owned() } else { format!("unknown key in [{section}]") };
        if let Some(home) = self.section_with(key) {
            return format!("{what}: `{key}` belongs in [{home}]");
        }
        match suggestion(key, names) {
            nearest if !nearest.is_empty() => format!("{what}{nearest}"),
            _ => format!("{what}; known are {}", names.join(", ")),
        }
    }

    fn section_with(&self, key: &str) -> Option<&str> {
        let sections = self.schema.get("properties")?.as_object()?;
        let holds = |schema: &Json| {
            let schema = self.resolved(schema);
            let schema = schema.get("items").map_or(schema, |items| self.resolved(items));
            schema.get("properties").and_then(|keys| keys.get(key)).is_some()
        };
        sections.iter().find(|(_, schema)| holds(schema)).map(|(name, _)| name.as_str())
    }

    fn resolved<'a>(&'a self, schema: &'a Json) -> &'a Json {
        let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| self.schema.get("$defs")?.get(name)).unwrap_or(schema)
    }
}

/// `; did you mean ...`, or nothing.
fn suggestion(found: &str, names: &[&str]) -> String {
    let likeness = |name: &str| strsim::jaro_winkler(&found.to_lowercase(), name);
    let best = names.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.filter(|name| likeness(name) >= ALIKE).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Values of an enumeration, in the order of declaration; empty for anything else.
fn words_of(schema: &Json) -> Vec<&str> {
    let plain = schema.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    let documented = schema.get("oneOf").and_then(Json::as_array).into_iter().flatten();
    let documented = documented.flat_map(|one| {
        let many = one.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
        one.get("const").and_then(Json::as_str).into_iter().chain(many)
    });
    plain.chain(documented).collect()
}

fn from_environment(value: &Value) -> Option<String> {
    match (&value.kind, value.origin()) {
        (ValueKind::String(text), Some("the environment")) => Some(text.clone()),
        _ => None,
    }
}

/// A list or table given as text: TOML in brackets, else values between commas.
fn structured(schema: &Json, text: &str) -> Option<ValueKind> {
    let of_type = |name: &str| schema.get("type").and_then(Json::as_str) == Some(name);
    if !of_type("array") && !of_type("object") {
        return None;
    }
    if text.trim_start().starts_with(['[', '{']) {
        let table = config::Source::collect(&File::from_str(&format!("value = {text}"), FileFormat::Toml)).ok()?;
        return table.get("value").map(|value: &Value| value.kind.clone());
    }
    let one = |part: &str| Value::new(Some(&"the environment".to_owned()), ValueKind::String(part.trim().to_owned()));
    of_type("array").then(|| ValueKind::Array(text.split(',').filter(|part| !part.trim().is_empty()).map(one).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_and_its_keys_are_known() {
        let shape = Shape::of_settings();
        let sections = shape.schema.get("properties").and_then(Json::as_object).unwrap();
        assert_eq!(sections.len(), 12);
        assert_eq!(shape.section_with("lateness"), Some("window"));
        assert_eq!(shape.section_with("bundle"), Some("model"));
        assert_eq!(shape.section_with("nonsense"), None);
        let mut tree = Value::new(None, ValueKind::Table(config::Map::new()));
        let mut faults = Vec::new();
        shape.prune(&mut tree, &mut faults);
        assert!(faults.is_empty());
    }
}
