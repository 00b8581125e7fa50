//! Building a bundle from what a user has: an ONNX file, and maybe weights, golden rows and names.
//!
//! Nothing is believed that can be tried: the rewritten graph is run on the golden rows, and the
//! weights must encode them alike, before anything is written.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::bundle::error::BundleError;
use crate::bundle::golden::{GoldenReport, GoldenRows, SELF_MADE};
use crate::bundle::manifest::{
    CONCEPTS_FILE, FORMAT_VERSION, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Manifest, Normalisation, WEIGHTS_FILE, sha256,
};
use crate::bundle::onnx::{self, EncoderGraph};
use crate::bundle::tensors::{TensorFile, write_weights};
use crate::bundle::{catalogue, fingerprint_of};
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::latent::LatentId;
use crate::sae::reconstruction::Decoder;
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// What a bundle is built from.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// The user's ONNX file.
    pub onnx: PathBuf,
    /// Weights as safetensors; absent, they are read out of the graph where it has them.
    pub weights: Option<PathBuf>,
    /// Which latents are active; absent, the graph (or the weights' metadata) must say.
    pub selection: Option<Selection>,
    /// Golden rows, `.npz` or `.safetensors`; absent, recsae makes rows that count as unverified.
    pub golden: Option<PathBuf>,
    /// Catalogue, `.json` or `.parquet`.
    pub concepts: Option<PathBuf>,
    /// Version of the recommender the SAE was trained on.
    pub model_version: Option<String>,
    /// Where in the recommender the vectors are taken.
    pub probing_site: Option<String>,
    /// Folder to make.
    pub out: PathBuf,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The manifest as written.
    pub manifest: Manifest,
    /// How the golden rows were met.
    pub golden: GoldenReport,
    /// Whether another program than recsae computed them.
    pub golden_verified: bool,
    /// Whether the reconstruction error can be measured.
    pub has_decoder: bool,
    /// Named latents.
    pub n_concepts: usize,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Runs a graph on a batch: the engine, which this room does not know.
pub type RunGraph<'a> = dyn FnMut(&SaeSpec, &[u8], &EmbeddingBatch) -> Result<SparseActivations, String> + 'a;

/// Row and latent of the first activation that is infinite (NaN is never above zero, so never active).
fn not_finite(answer: &SparseActivations) -> Option<(usize, LatentId)> {
    (0..answer.n_rows()).find_map(|row| {
        let (latents, values) = answer.row(row);
        values.iter().position(|value| !value.is_finite()).map(|at| (row, latents[at]))
    })
}

/// Builds the bundle.
///
/// # Errors
/// A part is refused, parts do not belong together, or the folder exists already.
pub fn build(request: &BuildRequest, run: &mut RunGraph<'_>) -> Result<Built, BundleError> {
    if request.out.exists() {
        return Err(BundleError::part(&request.out, "exists already; give a new folder with --out, or remove it"));
    }
    let weights_file = match &request.weights {
        Some(path) => Some((path.as_path(), std::fs::read(path).map_err(BundleError::io(path))?)),
        None => None,
    };
    let weights_file = match &weights_file {
        Some((path, bytes)) => Some((*path, TensorFile::read(path, bytes)?)),
        None => None,
    };
    if let Some(Selection::Threshold(threshold)) = request.selection
        && !threshold.is_finite()
    {
        let message = format!("expected a finite threshold, found {threshold}: no latent would ever be above it, or all would");
        return Err(BundleError::part(&request.onnx, message));
    }
    let selection = request.selection.or_else(|| weights_file.as_ref().and_then(|(_, file)| selection_in(file)));
    let graph = onnx::read(&request.onnx, selection).map_err(|source| BundleError::Onnx { path: request.onnx.clone(), source })?;
    let EncoderGraph { model, mut spec, weights: graph_weights, mut notes } = graph;

    let given = match &request.golden {
        Some(path) => Some(GoldenRows::read(path)?),
        None => None,
    };
    let embedding = match &given {
        Some(golden) => golden.embedding.clone(),
        None => {
            graph_weights.as_ref().map_or_else(|| GoldenRows::random_embeddings(&spec), |weights| GoldenRows::self_made(weights).embedding)
        }
    };
    let golden_path = request.golden.clone().unwrap_or_else(|| request.onnx.clone());
    let rows = GoldenRows::of_activations(embedding, &SparseActivations::default(), SELF_MADE);
    let batch = rows.batch(&spec).map_err(|error| BundleError::part(&golden_path, error.to_string()))?;
    let answer = run(&spec, &model, &batch).map_err(|message| BundleError::Engine { message })?;
    if let Some((row, latent)) = not_finite(&answer) {
        let message = format!("latent {latent} of row {row} is not finite where the vector is: export the SAE from a sound checkpoint");
        return Err(BundleError::Mismatch { message });
    }

    let weights = match &weights_file {
        Some((path, file)) => {
            notes.retain(|note| !note.contains("--weights"));
            Some(fitting_weights(path, file, spec, &rows, &answer)?)
        }
        None => graph_weights,
    };
    if let Some(weights) = &weights {
        GoldenRows::of_rows(weights, rows.embedding.clone())
            .compare(&answer, None)
            .map_err(|mismatch| BundleError::Mismatch { message: format!("the weights do not encode as the graph does: {mismatch}") })?;
        spec = *weights.spec();
    }
    let golden = given.unwrap_or_else(|| match &weights {
        Some(weights) => GoldenRows { producer: SELF_MADE.into(), ..GoldenRows::of_rows(weights, rows.embedding) },
        None => GoldenRows::of_activations(rows.embedding, &answer, SELF_MADE),
    });
    let decoder = weights.as_ref().and_then(Decoder::new);
    let report = golden.compare(&answer, decoder.as_ref()).map_err(|mismatch| BundleError::part(&golden_path, mismatch.to_string()))?;
    if !golden.is_verified() {
        notes.push(
            "golden rows were made by recsae itself, so the bundle counts as unverified; give rows from your trainer with --golden".into(),
        );
    }

    let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let encode = |result: Result<Vec<u8>, String>| result.map_err(|message| BundleError::Mismatch { message });
    files.insert(GOLDEN_FILE, encode(golden.to_safetensors())?);
    if let Some(weights) = &weights {
        files.insert(WEIGHTS_FILE, encode(write_weights(weights))?);
    }
    let mut manifest = Manifest {
        format_version: FORMAT_VERSION,
        recsae_version: env!("CARGO_PKG_VERSION").into(),
        architecture: if matches!(spec.selection, Selection::TopK(_)) { "topk".into() } else { "threshold".into() },
        sae: spec,
        normalisation: Normalisation::None,
        probing_site: request.probing_site.clone(),
        model_version: request.model_version.clone(),
        fingerprint: String::new(),
        files: BTreeMap::new(),
    };
    manifest.fingerprint = fingerprint_of(&manifest, &model, weights.as_ref());
    files.insert(MODEL_FILE, model);
    let mut n_concepts = 0;
    if let Some(path) = &request.concepts {
        let mut catalogue = catalogue::read(path, spec.d_sae.get())?;
        if !catalogue.fingerprint.is_empty() && catalogue.fingerprint != manifest.fingerprint {
            let message =
                format!("it names SAE {}, this is {}: its labels belong to another SAE", catalogue.fingerprint, manifest.fingerprint);
            return Err(BundleError::part(path, message));
        }
        catalogue.fingerprint.clone_from(&manifest.fingerprint);
        n_concepts = catalogue.concepts.len();
        let json = serde_json::to_vec_pretty(&catalogue).map_err(|error| BundleError::part(path, error.to_string()))?;
        files.insert(CONCEPTS_FILE, json);
    }
    manifest.files = files.iter().map(|(name, bytes)| ((*name).to_owned(), sha256(bytes))).collect();
    write(&request.out, &files, &manifest)?;
    let golden_verified = golden.is_verified();
    Ok(Built { manifest, golden: report, golden_verified, has_decoder: decoder.is_some(), n_concepts, notes })
}

/// The `k` or the threshold in a weights file's metadata: the trainer's word, so not a guess.
fn selection_in(file: &TensorFile<'_>) -> Option<Selection> {
    let k = || file.metadata("k")?.parse::<NonZeroUsize>().ok().map(Selection::TopK);
    let threshold = || file.metadata("threshold")?.parse::<f32>().ok().filter(|t| t.is_finite()).map(Selection::Threshold);
    k().or_else(threshold)
}

/// The weights, with or without centring, whichever encodes as the graph does.
fn fitting_weights(
    path: &Path,
    file: &TensorFile<'_>,
    spec: SaeSpec,
    rows: &GoldenRows,
    answer: &SparseActivations,
) -> Result<SaeWeights, BundleError> {
    let mut first_mismatch = None;
    for centring in [true, false] {
        let weights = file.weights(SaeSpec { centring, ..spec })?;
        match GoldenRows::of_rows(&weights, rows.embedding.clone()).compare(answer, None) {
            Ok(_) => return Ok(weights),
            Err(mismatch) => first_mismatch = first_mismatch.or(Some(mismatch)),
        }
    }
    let why = first_mismatch.map(|mismatch| mismatch.to_string()).unwrap_or_default();
    Err(BundleError::part(path, format!("these weights do not encode as the graph does: {why}")))
}

/// Writes the folder beside its place and moves it there whole.
fn write(out: &Path, files: &BTreeMap<&str, Vec<u8>>, manifest: &Manifest) -> Result<(), BundleError> {
    let name = out.file_name().ok_or_else(|| BundleError::part(out, "expected the name of a new folder"))?.to_string_lossy();
    let staging = out.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::create_dir_all(&staging).map_err(BundleError::io(&staging))?;
    let json = serde_json::to_vec_pretty(manifest).map_err(|error| BundleError::Mismatch { message: error.to_string() })?;
    let all = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).chain([(MANIFEST_FILE, json.as_slice())]);
    let written = all.into_iter().try_for_each(|(name, bytes)| {
        let path = staging.join(name);
        std::fs::write(&path, bytes).map_err(BundleError::io(&path))
    });
    written.and_then(|()| std::fs::rename(&staging, out).map_err(BundleError::io(out))).inspect_err(|_| {
        // Best effort: the error that is returned matters more than what is left behind.
        std::fs::remove_dir_all(&staging).ok();
    })
}
