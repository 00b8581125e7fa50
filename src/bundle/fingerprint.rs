//! The fingerprint: what a label, a reference and a window belong to.
//!
//! sha256 over the weights, the selection, the centring and the normalisation, in a fixed order and
//! with lengths, so that two SAEs that could activate differently never share it. Names, catalogue
//! and golden rows are left out: changing them changes no activation.

use sha2::{Digest, Sha256};

use crate::bundle::manifest::{Normalisation, hex};
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// Fingerprint of an SAE whose weights are known.
#[must_use]
pub fn of_weights(weights: &SaeWeights, normalisation: Normalisation) -> String {
    let mut hash = of_spec(weights.spec(), normalisation);
    let mut tensor = |name: &str, values: &mut dyn Iterator<Item = &f32>| {
        hash.update(name.as_bytes());
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    };
    tensor("W_enc", &mut weights.w_enc().iter());
    tensor("b_enc", &mut weights.b_enc().iter());
    tensor("b_dec", &mut weights.b_dec().iter());
    if let Some(w_dec) = weights.w_dec() {
        tensor("W_dec", &mut w_dec.iter());
    }
    if let Some(thresholds) = weights.thresholds() {
        tensor("thresholds", &mut thresholds.iter());
    }
    hex(&hash.finalize())
}

/// Fingerprint of an SAE of which only the graph is known: over the graph's bytes.
#[must_use]
pub fn of_graph(spec: &SaeSpec, model: &[u8], normalisation: Normalisation) -> String {
    let mut hash = of_spec(spec, normalisation);
    hash.update(b"graph");
    hash.update(model);
    hex(&hash.finalize())
}

/// A hash that has taken in everything but the weights.
fn of_spec(spec: &SaeSpec, normalisation: Normalisation) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(b"recsae-sae-1");
    hash.update((spec.d_in.get() as u64).to_le_bytes());
    hash.update((spec.d_sae.get() as u64).to_le_bytes());
    match spec.selection {
        Selection::TopK(k) => {
            hash.update(b"k");
            hash.update((k.get() as u64).to_le_bytes());
        }
        Selection::Threshold(threshold) => {
            hash.update(b"t");
            hash.update(threshold.to_le_bytes());
        }
    }
    hash.update([u8::from(spec.centring)]);
    match normalisation {
        Normalisation::None => hash.update(b"none"),
    }
    hash
}
