//! librdkafka options as the file gives them, with the secret ones hidden wherever they are printed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Whether an option's value must never be printed: passwords, private keys, tokens, secrets.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 6] = ["password", "secret", "key.pem", "jaas", "oauthbearer.config", "assertion"];
    WORDS.iter().any(|word| key.contains(word))
}

/// Any librdkafka option by its dotted name. Reads like a map; prints and serialises without secrets.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LibrdkafkaOptions(pub BTreeMap<String, String>);

impl LibrdkafkaOptions {
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), if is_secret(key) { REDACTED } else { value.as_str() }))
    }
}

impl Deref for LibrdkafkaOptions {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for LibrdkafkaOptions {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl From<BTreeMap<String, String>> for LibrdkafkaOptions {
    fn from(options: BTreeMap<String, String>) -> Self {
        Self(options)
    }
}

impl fmt::Debug for LibrdkafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for LibrdkafkaOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.shown() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_neither_debugged_nor_serialised() {
        let mut options = LibrdkafkaOptions::default();
        for key in ["sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            options.insert(key.into(), "hunter2".into());
        }
        options.insert("client.rack".into(), "a".into());
        let printed = format!("{options:?} {}", serde_json::to_string(&options).unwrap());
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.contains("client.rack") && printed.contains("sasl.password"), "{printed}");
    }
}
