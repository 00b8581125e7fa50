//! What a user of the world would have: an ONNX file, a catalogue of names, and a configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bundle::onnx::write::full_graph;
use crate::config::settings::{ModelSettings, Settings};
use crate::sae::concept::{Concept, ConceptCatalog, LabelState};
use crate::sae::latent::LatentId;
use crate::simulate::dictionary::N_CONCEPTS;
use crate::simulate::shift::SURFACES;
use crate::simulate::words::{concept_name, item_title};
use crate::simulate::world::World;

/// Topic of the demo.
pub const TOPIC: &str = "recommendations";
/// Partitions of it: two a core of the smallest machine.
pub const PARTITIONS: i32 = 4;
/// Windows of the reference: three days, the shortest that a season is fitted to.
pub const REFERENCE_WINDOWS: u64 = 72;

/// Wanted mean number of windows between false alarms. The demo judges some 40 windows, so the design's
/// bound on any false alarm in it is 40 / 20,000 = 0.2 %. Measured on 200 random worlds each: the shift found
/// after 3 windows (median; at worst 7), no false alert beside it, and none in 12,000 windows without drift
/// (the bound allows 0.6). A smaller number finds some shifts a window earlier and cries wolf more often.
pub const BUDGET_WINDOWS: u32 = 20_000;

/// The files a user would hand to `recsae bundle build`.
#[derive(Clone, Debug)]
pub struct WorldFiles {
    /// The SAE.
    pub onnx: PathBuf,
    /// Names of its latents.
    pub concepts: PathBuf,
}

/// Writes the world's own SAE and names into `dir`: what the tests watch with, where the demo trains one.
///
/// # Errors
/// The folder cannot be written.
pub fn write_files(world: &World, dir: &Path) -> std::io::Result<WorldFiles> {
    let files = WorldFiles { onnx: dir.join("sae.onnx"), concepts: dir.join("concepts.json") };
    let sae = world.dictionary().sae().map_err(std::io::Error::other)?;
    std::fs::write(&files.onnx, full_graph(&sae).map_err(std::io::Error::other)?)?;
    std::fs::write(&files.concepts, serde_json::to_vec_pretty(&catalogue(world))?)?;
    Ok(files)
}

fn catalogue(world: &World) -> ConceptCatalog {
    let concept = |idx: usize| Concept {
        label: Some(concept_name(idx)),
        state: LabelState::Accepted,
        top_items: world.items_of(idx).iter().take(3).map(|&item| item_title(item)).collect(),
        ..Concept::default()
    };
    let latent = |idx: usize| LatentId(u32::try_from(idx).unwrap_or(u32::MAX));
    ConceptCatalog { revision: 1, concepts: (0..N_CONCEPTS).map(|idx| (latent(idx), concept(idx))).collect(), ..ConceptCatalog::default() }
}

/// The configuration of the demo: the defaults, but for addresses, a short reference and the surfaces.
#[must_use]
pub fn settings(brokers: &str, bundle: &Path, dir: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.kafka.brokers = brokers.to_owned();
    settings.kafka.topics = vec![TOPIC.to_owned()];
    settings.kafka.group = "recsae-demo".to_owned();
    // The in-process broker gives members that long, less a second, to answer a rebalance, and always waits it out.
    let session = [("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "500")];
    settings.kafka.librdkafka.extend(session.map(|(key, value)| (key.to_owned(), value.to_owned())));
    settings.kafka.drain = Duration::from_millis(2500);
    // Topics of the in-process broker are made by the demo; rejects would be a fault of its own.
    settings.kafka.dead_letter_topic = String::new();
    settings.model = vec![ModelSettings { version: None, bundle: bundle.to_owned() }];
    settings.segments.fields = vec!["surface".to_owned()];
    settings.segments.values = BTreeMap::from([("surface".to_owned(), SURFACES.iter().map(|(name, _)| (*name).to_owned()).collect())]);
    settings.drift.false_alarm_budget = format!("1 per {BUDGET_WINDOWS} windows");
    settings.drift.reference = format!("first:{REFERENCE_WINDOWS} windows");
    // The world's day is one swing; three harmonics on three days would widen every gate.
    settings.drift.harmonics = Some(1);
    settings.store.path = dir.join("recsae.db");
    settings.metrics.listen = "127.0.0.1:0".to_owned();
    settings.http.listen = "127.0.0.1:0".to_owned();
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_settings_are_sound() {
        assert_eq!(crate::config::check(&settings("127.0.0.1:1", Path::new("b"), Path::new("d"))), []);
    }
}
