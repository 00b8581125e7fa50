//! Two fingerprints of the settings: of all of them, and of those that decide what is counted.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::settings::{CountingUnit, Dtype, RecordFormat, Settings};

/// Hash of the whole configuration (secrets left out), 16 hex digits: shown in the status and the audit trail.
#[must_use]
pub fn config_hash(settings: &Settings) -> String {
    hash(settings)
}

/// Hash of everything that changes counts, 16 hex digits: fingerprint of the SAE, window length,
/// lateness, origin, segments, unit, sampling, entity key and decode paths, and nothing else. Windows
/// with different hashes are never merged; a change starts a new lineage.
#[must_use]
pub fn counting_hash(settings: &Settings, fingerprint: &str) -> String {
    #[derive(Serialize)]
    struct Counting<'a> {
        fingerprint: &'a str,
        length_ms: u128,
        lateness_ms: u128,
        origin: &'a str,
        segments: &'a crate::config::settings::SegmentSettings,
        unit: CountingUnit,
        sample_shift: u32,
        format: RecordFormat,
        dtype: Dtype,
        embedding: &'a str,
        entity: &'a str,
        timestamp: &'a str,
        model_version: &'a str,
    }
    let (window, record) = (&settings.window, &settings.record);
    hash(&Counting {
        fingerprint,
        length_ms: window.length.as_millis(),
        lateness_ms: window.lateness.as_millis(),
        origin: &window.origin,
        segments: &settings.segments,
        unit: settings.counting.unit,
        sample_shift: settings.counting.sample_shift,
        format: record.format,
        dtype: record.dtype,
        embedding: &record.embedding,
        entity: &record.entity,
        timestamp: &record.timestamp,
        model_version: &record.model_version,
    })
}

/// Hash of everything that judging a counted window depends on, 16 hex digits: `[drift]`, `[window]`, `[segments]`, `[counting]`,
/// the models and the names of their concepts. Instances that judge as one must have it alike.
#[must_use]
pub fn judging_hash(settings: &Settings, fingerprint: &str, catalogues: &[String]) -> String {
    let versions: Vec<_> = settings.model.iter().map(|model| &model.version).collect();
    hash(&(&settings.drift, &settings.window, &settings.segments, &settings.counting, versions, fingerprint, catalogues))
}

/// SHA-256 of the value's JSON: field order is that of the declaration, maps are sorted.
fn hash(value: &impl Serialize) -> String {
    let mut hasher = Sha256::new();
    // Plain structs of text and numbers always serialise; a failure would hash what was written so far.
    if let Err(error) = serde_json::to_writer(&mut hasher, value) {
        tracing::debug!(%error, "settings did not serialise to the end");
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One change to the settings.
    type Change = fn(&mut Settings);

    #[test]
    fn only_what_changes_counts_changes_the_counting_hash() {
        let base = Settings::default();
        let of = |change: Change| {
            let mut settings = base.clone();
            change(&mut settings);
            counting_hash(&settings, "fp")
        };
        let same: [Change; 6] = [
            |s| s.drift.min_effect = 0.5,
            |s| s.window.timezone = "Asia/Tokyo".into(),
            |s| s.kafka.group = "other".into(),
            |s| s.counting.max_entities = 7,
            |s| s.window.idle_after = Duration::from_secs(1),
            |s| s.record.items = "shown".into(),
        ];
        let different: [Change; 7] = [
            |s| s.window.length = Duration::from_secs(60),
            |s| s.window.lateness = Duration::ZERO,
            |s| s.window.origin = "1970-01-01T00:00:01Z".into(),
            |s| s.segments.fields.push("surface".into()),
            |s| s.counting.unit = CountingUnit::Kish,
            |s| s.counting.sample_shift = 1,
            |s| s.record.entity = "session".into(),
        ];
        for change in same {
            assert_eq!(of(change), of(|_| ()));
        }
        for (n, change) in different.into_iter().enumerate() {
            assert_ne!(of(change), of(|_| ()), "change {n}");
        }
        assert_ne!(counting_hash(&base, "a"), counting_hash(&base, "b"));
    }

    #[test]
    fn every_setting_but_a_secret_changes_the_config_hash() {
        let base = Settings::default();
        let mut changed = base.clone();
        changed.drift.min_effect = 0.5;
        assert_ne!(config_hash(&base), config_hash(&changed));
        let (mut one, mut two) = (base.clone(), base);
        one.kafka.librdkafka.insert("sasl.password".into(), "one".into());
        two.kafka.librdkafka.insert("sasl.password".into(), "two".into());
        assert_eq!(config_hash(&one), config_hash(&two));
    }
}
