//! The configured models: bundles opened and checked once, an encoder for each worker.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::config::settings::{CountingUnit, EngineChoice, Settings};
use crate::drift::settings::JudgeSettings;
use crate::drift::window::CountingSpec;
use crate::encode::{self, Encoder, Engine};
use crate::monitor::error::MonitorError;
use crate::monitor::intake::ModelIndex;
use crate::sae::embedding::{EmbeddingBatch, MAX_VALUE};

/// Label of a model that neither the configuration nor its bundle gives a version.
const DEFAULT_LABEL: &str = "default";

/// A value this many times the largest in the golden rows is no vector of the model they come from.
const GOLDEN_TIMES: f32 = 100.0;

/// All models, in the configuration's order.
#[derive(Clone)]
pub struct Models {
    /// Labels, as metrics and windows carry them.
    pub labels: Vec<String>,
    /// Their bundles.
    pub bundles: Vec<Arc<Bundle>>,
    /// Which reads which version.
    pub index: ModelIndex,
}

impl Models {
    /// Opens every bundle.
    ///
    /// # Errors
    /// There is no model, a bundle is refused, two models have one label, or `drift.reference` names none of them.
    pub fn open(settings: &Settings) -> Result<Self, MonitorError> {
        if settings.model.is_empty() {
            return Err(MonitorError::NoModel);
        }
        let (mut labels, mut bundles, mut index) = (Vec::<String>::new(), Vec::new(), ModelIndex::default());
        for (at, model) in settings.model.iter().enumerate() {
            let bundle = Bundle::open(&model.bundle)?;
            let label = label_of(model.version.as_deref(), &bundle);
            if let Some(other) = labels.iter().position(|known| *known == label) {
                return Err(MonitorError::Config(vec![same_label(settings, other, at, &label)]));
            }
            labels.push(label);
            bundles.push(Arc::new(bundle));
            match &model.version {
                Some(version) => drop(index.by_version.insert(version.clone(), at)),
                None => index.default = Some(at),
            }
        }
        if let Some(fault) = unknown_reference_model(settings, &labels) {
            return Err(MonitorError::Config(vec![fault]));
        }
        Ok(Self { labels, bundles, index })
    }

    /// One encoder a model, each after its golden rows were met.
    ///
    /// # Errors
    /// ONNX Runtime is missing or too old, or a golden row is not met.
    pub fn encoders(&self, settings: &Settings) -> Result<Vec<Box<dyn Encoder>>, MonitorError> {
        let engine = match settings.encode.engine {
            EngineChoice::Auto => Engine::Auto,
            EngineChoice::Onnxruntime => Engine::OnnxRuntime,
            EngineChoice::Native => Engine::Native,
        };
        let library = settings.encode.onnxruntime.as_deref();
        self.bundles.iter().map(|bundle| Ok(encode::open_comparing(bundle, engine, library, settings.encode.compare_every)?)).collect()
    }

    /// An empty batch for each, which takes embeddings of its width and of values up to a hundred times those of its golden
    /// rows. Rows that recsae made itself say nothing of the input's size.
    #[must_use]
    pub fn empty_batches(&self) -> Vec<EmbeddingBatch> {
        let batch = |bundle: &Arc<Bundle>| {
            let golden = bundle.golden();
            let largest = golden.embedding.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let is_known = golden.is_verified() && largest > 0.0;
            EmbeddingBatch::within(bundle.spec().d_in, if is_known { GOLDEN_TIMES * largest } else { MAX_VALUE })
        };
        self.bundles.iter().map(batch).collect()
    }

    /// Fingerprints of all, for the counting hash.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let each: Vec<String> =
            self.labels.iter().zip(&self.bundles).map(|(label, bundle)| format!("{label}={}", bundle.fingerprint())).collect();
        each.join(",")
    }

    /// What is counted of each.
    #[must_use]
    pub fn counting(&self, settings: &Settings) -> Vec<(String, CountingSpec)> {
        let unit = settings.counting.unit;
        let spec = |bundle: &Bundle| {
            let families = &bundle.catalogue().families;
            let mut families_of = vec![Vec::new(); if families.is_empty() { 0 } else { bundle.spec().d_sae.get() }];
            for (at, family) in families.iter().enumerate() {
                for latent in &family.latents {
                    families_of[latent.index()].extend(u32::try_from(at));
                }
            }
            CountingSpec {
                d_in: bundle.spec().d_in,
                d_sae: bundle.spec().d_sae.get(),
                by_entity: unit != CountingUnit::Records,
                kish: unit == CountingUnit::Kish,
                max_entities: settings.counting.max_entities,
                sample_shift: settings.counting.sample_shift,
                n_families: families.len(),
                families_of,
            }
        };
        self.labels.iter().cloned().zip(self.bundles.iter().map(|bundle| spec(bundle))).collect()
    }

    /// How each is judged.
    ///
    /// # Errors
    /// A key of `[drift]` or `[window]` cannot be read.
    pub fn judging(&self, settings: &Settings) -> Result<Vec<JudgeSettings>, MonitorError> {
        let one = |bundle: &Arc<Bundle>| {
            let families = bundle.catalogue().families.iter().map(|family| family.latents.clone()).collect();
            settings.judge_settings(bundle.spec().d_sae.get(), families)
        };
        let all: Result<Vec<_>, crate::config::Fault> = self.bundles.iter().map(one).collect();
        all.map_err(|fault| MonitorError::Config(vec![fault]))
    }
}

/// What a model is called in windows, metrics and alerts: its version, else its bundle's.
#[must_use]
pub fn label_of(version: Option<&str>, bundle: &Bundle) -> String {
    let label = version.or(bundle.manifest().model_version.as_deref());
    label.filter(|label| !label.is_empty()).unwrap_or(DEFAULT_LABEL).to_owned()
}

/// Two models of one label: a window has one row for a label, so neither of them could be judged.
#[must_use]
pub fn same_label(settings: &Settings, one: usize, other: usize, label: &str) -> crate::config::Fault {
    let named = |at: usize| match &settings.model[at].version {
        Some(version) => format!("model[{at}] by its version {version:?}"),
        None => format!("model[{at}] without a version by its bundle {}", settings.model[at].bundle.display()),
    };
    let (one, other) = (named(one), named(other));
    let message = format!("expected labels that differ, found {label:?} twice: {one}, {other}; give one of them another version");
    crate::config::Fault::new("model", message)
}

/// `drift.reference = "model:VERSION"` of a version that no model has: its windows would be waited for for ever.
#[must_use]
pub fn unknown_reference_model(settings: &Settings, labels: &[String]) -> Option<crate::config::Fault> {
    let Ok(crate::config::ReferenceChoice::OfModel(version)) = settings.drift.reference_choice() else { return None };
    let known = labels.join(", ");
    let message = format!("expected model: and one of the configured models ({known}), found {:?}", settings.drift.reference);
    (!labels.contains(&version)).then(|| crate::config::Fault::new("drift.reference", message))
}
