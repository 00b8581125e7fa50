//! Which family a checkpoint is of, by its tensors' names, shapes and configuration, and what it computes.
//!
//! What the files do not say is asked for: a TopK SAE read as ReLU has ten times the active latents and
//! nobody notices (SAELens issue 308).

use std::num::NonZeroUsize;

use anyhow::{Context, bail, ensure};
use ndarray::{Array1, Array2};
use serde_json::Value;

use crate::workshop::import::checkpoint::{Checkpoint, Tensor};
use crate::workshop::import::fold::{Activation, Foreign, scale_rows};
use crate::workshop::import::options::{ImportOptions, Normalisation};

/// A recognised checkpoint.
pub(super) struct Recognised {
    pub(super) family: &'static str,
    pub(super) architecture: String,
    pub(super) foreign: Foreign,
    pub(super) notes: Vec<String>,
}

/// Recognises a checkpoint.
pub(super) fn recognise(checkpoint: &Checkpoint, options: &ImportOptions) -> anyhow::Result<Recognised> {
    let view = View::new(checkpoint, options)?;
    if view.has("W_enc") {
        return saelens(&view);
    }
    if view.has("pre_bias") || view.has("latent_bias") {
        return openai(&view);
    }
    if view.has("decoder.weight") || view.has("gate_bias") {
        return dictionary_learning(&view);
    }
    sparsify_or_recsae(&view)
}

/// The tensors of one SAE, by the names its own module gives them.
struct View<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a ImportOptions,
    /// What stands before the names: `sae_module.` in a whole recommender.
    prefix: String,
    d_sae: usize,
    d_in: usize,
}

impl<'a> View<'a> {
    fn new(checkpoint: &'a Checkpoint, options: &'a ImportOptions) -> anyhow::Result<Self> {
        let names: Vec<&String> = checkpoint.tensors.keys().collect();
        let encoders = |ending: &str| names.iter().filter(|name| name.as_str() == ending || name.ends_with(&format!(".{ending}"))).count();
        let list = || names.iter().take(20).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let own = names.iter().find(|name| name.contains("sae_module.encoder.weight"));
        let encoder: &str = match (own, encoders("encoder.weight"), encoders("W_enc")) {
            (Some(own), ..) => own,
            (None, 1, 0) => names.iter().find(|name| name.ends_with("encoder.weight")).map_or("", |name| name.as_str()),
            (None, 0, 1) => names.iter().find(|name| name.ends_with("W_enc")).map_or("", |name| name.as_str()),
            (None, 0, 0) => bail!("expected an SAE's encoder (encoder.weight or W_enc), found {}", list()),
            _ => bail!("more than one encoder: save the SAE's own state_dict(); found {}", list()),
        };
        let prefix = encoder.trim_end_matches("encoder.weight").trim_end_matches("W_enc").to_owned();
        let mut view = Self { checkpoint, options, prefix, d_sae: 0, d_in: 0 };
        let length = |names: &[&str]| {
            names.iter().find_map(|name| view.tensor(name)).filter(|tensor| tensor.shape.len() == 1).map(|t| t.values.len())
        };
        let matrix = &checkpoint.tensors[encoder];
        let [a, b] = matrix.shape[..] else { bail!("{encoder}: expected a matrix, found shape {:?}", matrix.shape) };
        let n = length(&["encoder.bias", "b_enc", "latent_bias", "b_gate", "gate_bias", "threshold"]).filter(|n| *n == a || *n == b);
        let d = length(&["b_dec", "pre_bias", "bias", "decoder_bias", "decoder.bias"]).filter(|d| *d == a || *d == b);
        // Where the biases tell the sides apart they decide; else the family's convention does.
        (view.d_sae, view.d_in) = match (n, d) {
            (Some(n), _) if a != b => (n, a + b - n),
            (None, Some(d)) if a != b => (a + b - d, d),
            _ if encoder.ends_with("W_enc") => (b, a),
            _ => (a, b),
        };
        ensure!(view.d_sae > 0 && view.d_in > 0, "{encoder}: a matrix without values");
        Ok(view)
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.checkpoint.tensors.get(&format!("{}{name}", self.prefix))
    }

    fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    /// A matrix with one row a latent, turned round where it is stored the other way. `by_rows`: how its
    /// family stores it, for square ones, whose shape says nothing.
    fn per_latent(&self, name: &str, by_rows: bool) -> anyhow::Result<Array2<f32>> {
        let tensor = self.tensor(name).with_context(|| format!("expected a tensor {name}, found none"))?;
        let [a, b] = tensor.shape[..] else { bail!("{name}: expected a matrix, found shape {:?}", tensor.shape) };
        let matrix = Array2::from_shape_vec((a, b), tensor.values.clone())?;
        let (n, d) = (self.d_sae, self.d_in);
        if (a, b) == (n, d) && (n != d || by_rows) {
            Ok(matrix)
        } else if (a, b) == (d, n) {
            Ok(matrix.reversed_axes().as_standard_layout().into_owned())
        } else {
            bail!("{name}: expected [{n}, {d}] or [{d}, {n}], found [{a}, {b}]")
        }
    }

    fn vector(&self, name: &str, n: usize) -> anyhow::Result<Array1<f32>> {
        let tensor = self.tensor(name).with_context(|| format!("expected a tensor {name}, found none"))?;
        ensure!(tensor.values.len() == n, "{name}: expected [{n}], found {:?}", tensor.shape);
        Ok(Array1::from(tensor.values.clone()))
    }

    fn vector_or_zero(&self, name: &str, n: usize) -> anyhow::Result<Array1<f32>> {
        if self.has(name) { self.vector(name, n) } else { Ok(Array1::zeros(n)) }
    }

    /// A number that lies among the tensors: `k`, `threshold`.
    fn number(&self, name: &str) -> Option<f64> {
        let stored = self.tensor(name).filter(|tensor| tensor.values.len() == 1).map(|tensor| f64::from(tensor.values[0]));
        stored.or_else(|| match self.checkpoint.others.get(&format!("{}{name}", self.prefix))? {
            Value::String(text) => text.parse().ok(),
            other => other.as_f64(),
        })
    }

    fn config(&self, key: &str) -> Option<&Value> {
        // dictionary_learning nests everything under "trainer".
        let config = &self.checkpoint.config;
        config.get(key).or_else(|| config.get("trainer")?.get(key)).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.config(key)?.as_str()
    }

    /// k from the user, else as found; asked for where neither is there.
    fn k(&self, found: Option<f64>) -> anyhow::Result<NonZeroUsize> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a whole number of this range")]
        let found = match found {
            Some(k) if k.fract() == 0.0 && (1.0..1e9).contains(&k) => NonZeroUsize::new(k as usize),
            Some(k) => bail!("k = {k}, expected a whole number above 0"),
            None => None,
        };
        match (self.options.k, found) {
            (Some(asked), Some(found)) if asked != found => bail!("--k {asked}, but the file says k = {found}"),
            (asked, found) => {
                asked.or(found).context("the files do not say how many latents are active: give --k (RecSAE puts it into the file's name)")
            }
        }
    }
}

fn foreign(view: &View<'_>, names: [&str; 4], by_rows: [bool; 2], centring: bool, activation: Activation) -> anyhow::Result<Foreign> {
    let [w_enc, b_enc, w_dec, b_dec] = names;
    Ok(Foreign {
        w_enc: view.per_latent(w_enc, by_rows[0])?,
        b_enc: view.vector_or_zero(b_enc, view.d_sae)?,
        w_dec: view.per_latent(w_dec, by_rows[1])?,
        b_dec: view.vector_or_zero(b_dec, view.d_in)?,
        centring,
        activation,
    })
}

/// `W_enc [d, n]`: SAELens, or dictionary_learning's JumpReLU, which differs in that it does not centre.
fn saelens(view: &View<'_>) -> anyhow::Result<Recognised> {
    let class = view.text("dict_class").unwrap_or_default();
    let is_theirs = class.contains("JumpRelu");
    let configured = view.checkpoint.config.is_object();
    let mut notes = Vec::new();
    let centring = match (view.options.centring, view.config("apply_b_dec_to_input").and_then(Value::as_bool)) {
        (Some(asked), _) => asked,
        (None, Some(stated)) => stated,
        (None, None) if is_theirs => false,
        // SAELens' own reading of configurations from before version 6.
        (None, None) if configured => true,
        _ => bail!("without cfg.json it is not known whether b_dec is subtracted first: give --centring true or false"),
    };
    if view.text("reshape_activations").is_some_and(|reshape| reshape != "none") {
        bail!(
            "reshape_activations {:?}: an SAE of attention heads reads no embedding",
            view.text("reshape_activations").unwrap_or_default()
        );
    }
    let old_k = view.config("activation_fn_kwargs").and_then(|kwargs| kwargs.get("k")).and_then(Value::as_f64);
    let function = view.text("activation_fn").or_else(|| view.text("activation_fn_str")).unwrap_or("relu");
    let stated = view.text("architecture").map(str::to_owned);
    let architecture = match stated.as_deref() {
        _ if view.has("b_gate") || view.has("r_mag") => "gated",
        Some("batchtopk" | "matryoshka_batchtopk") | None if view.has("threshold") => "jumprelu",
        Some("jumprelu") => "jumprelu",
        Some("batchtopk" | "matryoshka_batchtopk") => bail!(
            "a BatchTopK SAE without its threshold: which latents are active depends on the other rows of a batch; export it with its threshold (SAELens saves it as jumprelu)"
        ),
        Some("topk") => "topk",
        Some("standard") if function == "topk" || old_k.is_some() => "topk",
        Some("standard") => "standard",
        Some("gated") => bail!("architecture gated, expected tensors b_gate, b_mag, r_mag, found none"),
        Some(other) => bail!("architecture {other:?}: expected standard, topk, jumprelu or gated"),
        None if function == "topk" || old_k.is_some() || view.options.k.is_some() => "topk",
        None if configured || view.options.threshold.is_some() => "standard",
        None => bail!("without cfg.json it is not known which latents are active: give --k K, or --threshold 0 for a plain ReLU SAE"),
    };
    ensure!(matches!(function, "relu" | "topk"), "activation function {function:?}: expected relu or topk");
    let activation = match architecture {
        "topk" => Activation::TopK(view.k(view.config("k").and_then(Value::as_f64).or(old_k))?),
        "jumprelu" => Activation::Thresholds(view.vector("threshold", view.d_sae)?),
        "standard" => Activation::Threshold(view.options.threshold.unwrap_or(0.0)),
        _ => Activation::Relu,
    };
    let mut foreign = foreign(view, ["W_enc", "b_enc", "W_dec", "b_dec"], [false, true], centring, activation)?;
    if architecture == "gated" {
        let part = |name| view.vector(name, view.d_sae);
        foreign = foreign.gated(&part("b_gate")?, &part("b_mag")?, &part("r_mag")?);
    }
    if view.config("rescale_acts_by_decoder_norm").and_then(Value::as_bool) == Some(true) {
        foreign = foreign.rescaled_by_decoder();
        notes.push("values are in units of the decoder rows' norms, as the SAE selects by them".to_owned());
    }
    if view.has("scaling_factor") && view.config("finetuning_scaling_factor").and_then(Value::as_bool) == Some(true) {
        scale_rows(&mut foreign.w_dec, &view.vector("scaling_factor", view.d_sae)?);
    }
    let normalisation = match view.config("normalize_activations") {
        Some(Value::Bool(false)) => "none",
        Some(Value::Bool(true)) => "expected_average_only_in",
        Some(value) => value.as_str().unwrap_or("unknown"),
        None if configured => "none",
        None => "unknown",
    };
    let foreign = normalised(foreign, view, normalisation)?;
    let family = if is_theirs { "dictionary_learning" } else { "saelens" };
    Ok(Recognised { family, architecture: architecture.to_owned(), foreign, notes })
}

/// `pre_bias`, `latent_bias`: OpenAI's.
fn openai(view: &View<'_>) -> anyhow::Result<Recognised> {
    let text = |key: &str| view.checkpoint.others.get(&format!("{}{key}", view.prefix)).and_then(Value::as_str);
    let function = text("activation").unwrap_or(if view.options.k.is_some() { "TopK" } else { "" }).to_owned();
    let activation = match function.as_str() {
        "TopK" => Activation::TopK(view.k(view.number("activation_state_dict.k").or_else(|| view.number("k")))?),
        "ReLU" => Activation::Threshold(view.options.threshold.unwrap_or(0.0)),
        "" if view.options.threshold.is_some() => Activation::Threshold(view.options.threshold.unwrap_or(0.0)),
        "" => bail!("the file does not name its activation: give --k K, or --threshold 0 for ReLU"),
        other => bail!("activation {other:?}: expected TopK or ReLU"),
    };
    let tied = !view.has("decoder.weight");
    let w_dec = if tied { "encoder.weight" } else { "decoder.weight" };
    let foreign = foreign(view, ["encoder.weight", "latent_bias", w_dec, "pre_bias"], [true, tied], true, activation)?;
    // Their reader takes every TopK model to be trained behind a LayerNorm; the file does not say.
    let normalisation = if function == "TopK" { "unknown (OpenAI's own TopK models read layer-normalised vectors)" } else { "none" };
    let notes = if tied { vec!["the decoder is the encoder's transpose".to_owned()] } else { Vec::new() };
    Ok(Recognised { family: "openai", architecture: function.to_lowercase(), foreign: normalised(foreign, view, normalisation)?, notes })
}

/// `decoder.weight [d, n]` without OpenAI's biases: one of dictionary_learning's classes.
fn dictionary_learning(view: &View<'_>) -> anyhow::Result<Recognised> {
    let class = view.text("dict_class").unwrap_or_default().to_owned();
    let made = |architecture: &str, foreign: Foreign| Recognised {
        family: "dictionary_learning",
        architecture: architecture.to_owned(),
        foreign,
        notes: Vec::new(),
    };
    if view.has("gate_bias") {
        let parts = foreign(view, ["encoder.weight", "mag_bias", "decoder.weight", "decoder_bias"], [true, false], true, Activation::Relu)?;
        let part = |name| view.vector(name, view.d_sae);
        return Ok(made("gated", parts.gated(&part("gate_bias")?, &part("mag_bias")?, &part("r_mag")?)));
    }
    if view.has("bias") && !view.has("b_dec") {
        let relu = Activation::Threshold(view.options.threshold.unwrap_or(0.0));
        return Ok(made(
            "standard",
            foreign(view, ["encoder.weight", "encoder.bias", "decoder.weight", "bias"], [true, false], true, relu)?,
        ));
    }
    if view.has("decoder.bias") {
        let relu = Activation::Threshold(view.options.threshold.unwrap_or(0.0));
        let parts = foreign(view, ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"], [true, false], false, relu)?;
        return Ok(made("standard", parts));
    }
    let (k, threshold) = (view.number("k"), view.number("threshold").filter(|threshold| *threshold >= 0.0));
    let architecture = match (class.as_str(), view.options.k, view.options.threshold) {
        (class, ..) if class.contains("BatchTopK") => "batchtopk",
        (class, ..) if class.contains("TopK") => "topk",
        ("", Some(_), None) => "topk",
        ("", None, Some(_)) => "batchtopk",
        ("", ..) => bail!(
            "without config.json a TopK and a BatchTopK SAE look alike (k = {k:?}, threshold = {threshold:?}): give --k to take the k largest of each row, or --threshold"
        ),
        (other, ..) => {
            bail!("class {other:?}: expected AutoEncoder, GatedAutoEncoder, JumpReluAutoEncoder, AutoEncoderTopK or BatchTopKSAE")
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "stored as f32")]
    let activation = if architecture == "topk" {
        Activation::TopK(view.k(k)?)
    } else {
        let given = view.options.threshold.or(threshold.map(|threshold| threshold as f32));
        Activation::Threshold(given.context(
            "a BatchTopK SAE whose threshold was never set (-1): which latents are active depends on the other rows of a batch; train it further, or give --threshold",
        )?)
    };
    Ok(made(architecture, foreign(view, ["encoder.weight", "encoder.bias", "decoder.weight", "b_dec"], [true, false], true, activation)?))
}

/// `encoder.weight [n, d]`, `W_dec [n, d]`: sparsify says the rest in cfg.json, RecSAE does not.
fn sparsify_or_recsae(view: &View<'_>) -> anyhow::Result<Recognised> {
    for (key, wrong) in [("transcode", true), ("skip_connection", true)] {
        ensure!(
            view.config(key).and_then(Value::as_bool) != Some(wrong),
            "{key}: a transcoder reconstructs another layer, not the vector it reads"
        );
    }
    ensure!(!view.has("W_skip"), "W_skip: a transcoder reconstructs another layer, not the vector it reads");
    let function = view.text("activation").unwrap_or("topk");
    ensure!(
        function == "topk",
        "activation {function:?}: expected topk; groupmax picks one latent in each group, which recsae does not do"
    );
    let is_sparsify = view.config("k").is_some();
    let family = match (is_sparsify, view.number("k"), view.prefix.is_empty()) {
        (true, ..) => "sparsify",
        (false, Some(_), true) => "recsae-monitor",
        _ => "recsae",
    };
    let activation = match view.options.threshold {
        Some(threshold) if !is_sparsify => Activation::Threshold(threshold),
        _ => Activation::TopK(view.k(view.config("k").and_then(Value::as_f64).or_else(|| view.number("k")))?),
    };
    let foreign = foreign(
        view,
        ["encoder.weight", "encoder.bias", "W_dec", "b_dec"],
        [true, true],
        view.options.centring.unwrap_or(true),
        activation,
    )?;
    Ok(Recognised { family, architecture: "topk".into(), foreign, notes: Vec::new() })
}

/// What happens to a vector before the encoder: folded where it is one factor, else asked for or refused.
fn normalised(foreign: Foreign, view: &View<'_>, stated: &str) -> anyhow::Result<Foreign> {
    match (view.options.normalisation, stated) {
        (Some(Normalisation::Scale(scale)), _) => {
            ensure!(scale.is_finite() && scale > 0.0, "--normalisation {scale}: expected a factor above 0");
            Ok(foreign.scaled_input(scale))
        }
        (Some(Normalisation::None), "none" | "unknown") | (None, "none") => Ok(foreign),
        (Some(Normalisation::None), stated) if stated.starts_with("unknown") => Ok(foreign),
        (Some(Normalisation::Upstream), _) => Ok(foreign),
        (_, "expected_average_only_in") => bail!(
            "normalize_activations expected_average_only_in: vectors are multiplied by a factor the files do not hold; give --normalisation FACTOR (sqrt(d_in) / mean norm of the training vectors)"
        ),
        (_, stated) => bail!(
            "normalisation {stated}: recsae reads vectors as they are. Give --normalisation none if none is done, a factor, or upstream if the vectors on the topic are normalised already"
        ),
    }
}
