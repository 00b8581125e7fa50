//! From a file and the environment to [`Settings`], or to the complete list of what is wrong.
//!
//! The `config` crate reads and overlays; it stops at the first fault, so the tree is compared with the
//! JSON Schema of the settings here: unknown keys with the nearest known name, wrong values key by key.

use std::path::Path;

use config::{Config, Environment, File, FileFormat, Map, Value, ValueKind};

use crate::config::check::check;
use crate::config::fault::{ConfigError, Fault};
use crate::config::secret::is_secret;
use crate::config::settings::Settings;
use crate::config::shape::Shape;

/// Reads `path`, lays `env` over it (`RECSAE__KAFKA__BROKERS`, lists as `a,b` or in TOML's brackets,
/// `RECSAE__MODEL__0__BUNDLE`), and checks everything that can be checked without touching the world.
///
/// # Errors
/// The file cannot be read, is not TOML, or any fault was found: all of them are listed.
pub fn load(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    load_text(path, &text, env)
}

/// [`load`] from a text; `path` is only for the messages.
///
/// # Errors
/// As [`load`].
pub fn load_text(path: &Path, text: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Settings, ConfigError> {
    let (settings, faults) = read_leniently(path, text, env)?;
    if faults.is_empty() { Ok(settings) } else { Err(ConfigError::Faults { path: path.to_owned(), faults }) }
}

/// Settings with everything faulty left at its default, and the faults: for `check`, which goes on to
/// look at what else is wrong. `run` must not.
///
/// # Errors
/// The file cannot be read, or is not TOML.
pub fn load_leniently(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Result<(Settings, Vec<Fault>), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    read_leniently(path, &text, env)
}

fn read_leniently(path: &Path, text: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<(Settings, Vec<Fault>), ConfigError> {
    let syntax = |error: &config::ConfigError| ConfigError::Syntax { path: path.to_owned(), message: words(error) };
    let environment = Environment::with_prefix(PREFIX).prefix_separator("__").separator("__").source(Some(own_variables(env)));
    let mut tree = Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .add_source(environment)
        .build()
        // Not `try_deserialize`, which would forget which values came from the environment.
        .map(|built| built.cache)
        .map_err(|error| syntax(&error))?;

    let mut faults = Vec::new();
    refuse_secrets_in_file(text, &mut faults);
    dot_option_names(&mut tree);
    Shape::of_settings().prune(&mut tree, &mut faults);
    prune_wrong_values(&mut tree, &mut faults);
    let settings: Settings = tree.try_deserialize().map_err(|error| syntax(&error))?;
    faults.extend(check(&settings));
    faults.sort();
    faults.dedup();
    Ok((settings, faults))
}

const PREFIX: &str = "RECSAE";

/// Variables that start with `RECSAE__`, list positions written the way the `config` crate reads them:
/// `RECSAE__MODEL__0__BUNDLE` becomes `RECSAE__MODEL[0]__BUNDLE`.
fn own_variables(env: impl IntoIterator<Item = (String, String)>) -> Map<String, String> {
    let own = env.into_iter().filter(|(key, _)| key.starts_with("RECSAE__"));
    own.map(|(key, value)| {
        let mut name = String::new();
        for (level, part) in key.split("__").enumerate() {
            if level > 1 && !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
                name.push_str(&format!("[{part}]"));
            } else {
                name.push_str(if level == 0 { "" } else { "__" });
                name.push_str(part);
            }
        }
        (name, value)
    })
    .collect()
}

/// `sasl_password` (a variable's name can hold no dot) is `sasl.password`. The few options that do have an
/// underscore in librdkafka are handles for programs, not for files.
fn dot_option_names(tree: &mut Value) {
    for section in ["librdkafka", "secret_files"] {
        let Some(ValueKind::Table(options)) = table_mut(tree)
            .and_then(|root| root.get_mut("kafka"))
            .and_then(|kafka| table_mut(kafka).and_then(|kafka| kafka.get_mut(section)).map(|value| &mut value.kind))
        else {
            continue;
        };
        *options = std::mem::take(options).into_iter().map(|(key, value)| (key.replace('_', "."), value)).collect();
    }
}

/// A secret in a file that is copied, committed and mounted is a leak: say where it belongs.
fn refuse_secrets_in_file(text: &str, faults: &mut Vec<Fault>) {
    let Ok(file) = text.parse::<toml::Table>() else { return };
    let Some(options) = file.get("kafka").and_then(|kafka| kafka.get("librdkafka")).and_then(toml::Value::as_table) else { return };
    for key in options.keys().filter(|key| is_secret(key)) {
        faults.push(Fault::new(
            format!("kafka.librdkafka.{key}"),
            format!(
                "secrets do not belong in this file: put the value into a file of its own and name it in [kafka.secret_files], \
                 or set RECSAE__KAFKA__LIBRDKAFKA__{}",
                key.replace('.', "_").to_uppercase()
            ),
        ));
    }
}

/// Reads each value alone, so that one of the wrong kind does not hide the next, and takes it out.
fn prune_wrong_values(tree: &mut Value, faults: &mut Vec<Fault>) {
    let Some(root) = table_mut(tree) else { return };
    root.retain(|section, value| match &mut value.kind {
        ValueKind::Table(keys) => {
            keys.retain(|key, value| {
                let alone = table_of(section, Value::new(None, table_of(key, value.clone())));
                keep_or_report(&format!("{section}.{key}"), alone, faults)
            });
            true
        }
        ValueKind::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                let Some(keys) = table_mut(item) else { continue };
                keys.retain(|key, value| {
                    let item = Value::new(None, table_of(key, value.clone()));
                    let alone = table_of(section, Value::new(None, ValueKind::Array(vec![item])));
                    keep_or_report(&format!("{section}[{index}].{key}"), alone, faults)
                });
            }
            keep_or_report(section, table_of(section, value.clone()), faults)
        }
        _ => keep_or_report(section, table_of(section, value.clone()), faults),
    });
}

fn keep_or_report(key: &str, alone: ValueKind, faults: &mut Vec<Fault>) -> bool {
    let read: Result<Settings, _> = Value::new(None, alone).try_deserialize();
    read.map_err(|error| faults.push(Fault::new(key, words(&error)))).is_ok()
}

fn table_of(key: &str, value: Value) -> ValueKind {
    ValueKind::Table(std::iter::once((key.to_owned(), value)).collect())
}

fn table_mut(value: &mut Value) -> Option<&mut Map<String, Value>> {
    match &mut value.kind {
        ValueKind::Table(table) => Some(table),
        _ => None,
    }
}

/// The error's words without the path, which the fault carries itself.
fn words(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { unexpected, expected, .. } => format!("expected {expected}, found {unexpected}"),
        config::ConfigError::At { error, .. } => words(error),
        config::ConfigError::Message(message) => message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str, env: &[(&str, &str)]) -> Vec<Fault> {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        match load_text(Path::new("test.toml"), &format!("{text}\n[[model]]\nbundle = \"b\"\n"), env) {
            Ok(_) => Vec::new(),
            Err(error) => error.faults(),
        }
    }

    fn settings(text: &str, env: &[(&str, &str)]) -> Settings {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        load_text(Path::new("test.toml"), text, env).unwrap()
    }

    const MODEL: &str = "[[model]]\nbundle = \"b\"\n";

    #[test]
    fn all_faults_are_listed_not_only_the_first() {
        let found = faults("[kafka]\ntopic = ['a']\nworkers = 'many'\n[windows]\n[record]\nformat = 'jsn'\n[window]\nlength = 'soon'", &[]);
        let keys: Vec<&str> = found.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["kafka.topic", "kafka.workers", "record.format", "window.length", "windows"], "{found:#?}");
        assert!(found[0].message.contains("did you mean `topics`"), "{}", found[0]);
        assert!(found[2].message.contains("did you mean `json`"), "{}", found[2]);
        assert!(found[4].message.contains("did you mean `window`"), "{}", found[4]);
    }

    #[test]
    fn a_pair_of_three_is_refused_and_not_cut() {
        let found = faults("[segments]\nfields = ['a', 'b', 'x']\npairs = [['a', 'b', 'x'], ['a', 'x']]", &[]);
        assert_eq!(found, [Fault::new("segments.pairs[0]", "expected 2 values, found 3: [\"a\", \"b\", \"x\"]")]);
        assert_eq!(faults("[segments]\nfields = ['a', 'b']\npairs = [['a']]", &[]).len(), 1);
    }

    #[test]
    fn a_key_of_another_section_is_sent_there() {
        let found = faults("[kafka]\nlateness = '1m'", &[]);
        assert!(found[0].message.contains("belongs in [window]"), "{}", found[0]);
    }

    #[test]
    fn unknown_environment_variables_are_refused_too() {
        let found = faults("", &[("RECSAE__KAFKA__BROKER", "a:1"), ("RECSAE_CACHE", "/x"), ("PATH", "/bin")]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].to_string().starts_with("kafka.broker: ") && found[0].message.contains("`brokers`"), "{}", found[0]);
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let read = settings(
            &format!("[kafka]\nbrokers = 'file:1'\ngroup = 'g'\n{MODEL}"),
            &[
                ("RECSAE__KAFKA__BROKERS", "env:2"),
                ("RECSAE__KAFKA__TOPICS", "a, b"),
                ("RECSAE__KAFKA__WORKERS", "3"),
                ("RECSAE__KAFKA__LIBRDKAFKA__SASL_PASSWORD", "hunter2"),
                ("RECSAE__SEGMENTS__FIELDS", "surface,country"),
                ("RECSAE__SEGMENTS__PAIRS", "[['surface', 'country']]"),
                ("RECSAE__MODEL__0__BUNDLE", "/bundles/v1"),
                ("RECSAE__DRIFT__WEEKEND", "true"),
                ("RECSAE__DRIFT__MIN_EFFECT", "0.05"),
                ("RECSAE__WINDOW__LENGTH", "2h"),
            ],
        );
        assert_eq!((read.kafka.brokers.as_str(), read.kafka.group.as_str(), read.kafka.workers), ("env:2", "g", 3));
        assert_eq!(read.kafka.topics, ["a", "b"]);
        assert_eq!(read.kafka.librdkafka.get("sasl.password").map(String::as_str), Some("hunter2"));
        assert_eq!(read.segments.pairs, [["surface".to_owned(), "country".to_owned()]]);
        assert_eq!(read.model.len(), 1);
        assert_eq!(read.model[0].bundle, Path::new("/bundles/v1"));
        assert_eq!((read.drift.weekend, read.drift.min_effect), (Some(true), 0.05));
        assert_eq!(read.window.length.as_secs(), 7200);
        assert!(!format!("{read:?}").contains("hunter2"));
    }

    #[test]
    fn dotted_option_names_survive() {
        let read = settings(&format!("[kafka.librdkafka]\n'session.timeout.ms' = '9000'\n{MODEL}"), &[]);
        assert_eq!(read.kafka.librdkafka.get("session.timeout.ms").map(String::as_str), Some("9000"));
    }

    #[test]
    fn a_secret_in_the_file_is_refused_without_printing_it() {
        let found = faults("[kafka.librdkafka]\n'sasl.password' = 'hunter2'", &[]);
        assert_eq!(found[0].key, "kafka.librdkafka.sasl.password");
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn garbage_is_an_error_with_a_place_never_a_panic() {
        for text in ["[kafka", "kafka = 3", "model = 3", "model = [3]", "[[kafka]]", "\u{0}", "[model]\nbundle='b'", "drift = [[1]]"] {
            let error = load_text(Path::new("test.toml"), text, []).unwrap_err();
            assert!(!error.faults().is_empty(), "{text}");
        }
        let error = load(Path::new("/nonexistent/recsae.toml"), []).unwrap_err();
        assert_eq!(error.kind(), "read");
        assert!(error.to_string().contains("/nonexistent/recsae.toml"));
        for name in ["RECSAE__", "RECSAE____", "RECSAE__KAFKA[", "RECSAE__0", "RECSAE__MODEL__7", "RECSAE__MODEL__-1__BUNDLE"] {
            assert!(load_text(Path::new("test.toml"), MODEL, [(name.to_owned(), "x".to_owned())]).is_err(), "{name}");
        }
    }
}
