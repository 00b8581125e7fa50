//! What somebody does before `recsae run`: record the topic, train an SAE on it, name its latents, test the names, and
//! make a bundle. The demo does it on its first hours, step by step as the commands do, and tells what each gave.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::bundle::build::{BuildRequest, build};
use crate::cli::UsageError;
use crate::config::settings::Settings;
use crate::encode;
use crate::sae::concept::Verification;
use crate::sae::hold_out::HoldOut;
use crate::sae::weights::SaeWeights;
use crate::simulate::dictionary::{D_IN, N_CONCEPTS};
use crate::simulate::words::{concept_name, item_title};
use crate::simulate::world::World;
use crate::task::Shutdown;
use crate::workshop::dataset::table::Table;
use crate::workshop::dataset::{Dataset, DatasetRequest};
use crate::workshop::encoding::n_threads;
use crate::workshop::follow::follow;
use crate::workshop::label::gather::{EvidenceKind, GatherRequest, gather};
use crate::workshop::label::items::{ItemColumns, Items};
use crate::workshop::label::label;
use crate::workshop::label::naming::Rule;
use crate::workshop::label::propose::with_proposals;
use crate::workshop::named_sae::NamedSae;
use crate::workshop::recording::{Limits, Recording};
use crate::workshop::train::prepare::{HeldOut, Rows, split};
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::run::{self, Common, THRESHOLD_FOLDER};
use crate::workshop::verify::{verify, with_tests};

/// Windows that are recorded: half a day, some 22,000 records.
pub(super) const RECORDED_WINDOWS: u64 = 12;
/// Latents: twice what the world has, as nobody knows how many there are. The rest stay dead.
const LATENTS: usize = 4 * D_IN;
/// Concepts of a vector, on average: a user finds it by training several and looking at the error.
const ACTIVE: usize = 2;
/// Passes over the rows; more find nothing more here.
const EPOCHS: usize = 10;

/// An SAE that was learnt from the topic.
pub(super) struct Learnt {
    weights: SaeWeights,
}

impl Learnt {
    /// The latent that reads a concept of the world: the one whose decoder row lies closest to the concept's direction.
    /// Names have no part in this, so that the verdict can hold a name wrong.
    pub(super) fn latent_of(&self, world: &World, concept: usize) -> usize {
        let direction = world.dictionary().direction(concept);
        let Some(rows) = self.weights.w_dec() else { return 0 };
        let cosine = |row: ndarray::ArrayView1<'_, f32>| row.dot(&direction) / row.dot(&row).sqrt().max(f32::MIN_POSITIVE);
        let cosines: Vec<f32> = rows.outer_iter().map(cosine).collect();
        (0..cosines.len()).max_by(|a, b| cosines[*a].total_cmp(&cosines[*b])).unwrap_or(0)
    }
}

/// Records what the topic holds, and goes from there to the bundle that the settings name; works in `dir`.
pub(super) fn learn(
    settings: &Settings,
    world: &World,
    (seed, dir): (u64, &Path),
    shutdown: &Shutdown,
    say: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<Learnt> {
    let recorded = dir.join("recorded");
    let n_records = record(settings, &recorded, shutdown)?;
    say(&format!("record   {n_records} vectors of the topic's first {RECORDED_WINDOWS} hours, to Parquet"))?;

    let dataset = Dataset::open(&DatasetRequest { embeddings: recorded, ..DatasetRequest::default() })?;
    let folder = dir.join("sae");
    let (latents_alive, seconds, fvu) = train(&dataset, seed, &folder)?;
    say(&format!("train    {LATENTS} latents, {latents_alive} of them alive: FVU {fvu:.3}, {seconds:.1} s"))?;

    let concepts = dir.join("concepts.json");
    let (weights, n_named, n_verified) = name(&dataset, &items(world)?, &folder.join(THRESHOLD_FOLDER), &concepts)?;
    say(&format!("label    {n_named} latents named by what the items they go with are tagged"))?;
    say(&format!("verify   {n_verified} of the names hold on users and items they were not made from"))?;

    let request = BuildRequest {
        onnx: folder.join(THRESHOLD_FOLDER).join("sae.onnx"),
        weights: Some(folder.join(THRESHOLD_FOLDER).join("weights.safetensors")),
        concepts: Some(concepts),
        model_version: Some("demo".into()),
        probing_site: Some("made up".into()),
        out: settings.model.first().context("the demo has one model")?.bundle.clone(),
        ..BuildRequest::default()
    };
    let library = settings.encode.onnxruntime.as_deref();
    build(&request, &mut |spec, model, batch| encode::run_graph(spec, model, batch, library))
        .map_err(|error| UsageError(error.to_string()))?;
    Ok(Learnt { weights })
}

fn record(settings: &Settings, folder: &Path, shutdown: &Shutdown) -> anyhow::Result<u64> {
    let limits = Limits { entities: 1.0, rows: 100_000, bytes: 1 << 30 };
    let mut recording = Recording::open(folder, &settings.record, &settings.segments.fields, limits)?;
    let mut kafka = settings.kafka.clone();
    kafka.group = format!("{}-record", kafka.group);
    follow(&kafka, true, &|| shutdown.is_triggered(), &mut recording)?;
    Ok(recording.done().records)
}

/// Latents alive, seconds, and FVU with the threshold.
fn train(dataset: &Dataset, seed: u64, folder: &Path) -> anyhow::Result<(usize, f64, f64)> {
    let held_out = HeldOut { share: 0.05, entity: Some("entity".into()), item: None };
    let split = split(dataset, &held_out)?;
    let rows = Rows::of(dataset, &split.train, 2 * D_IN)?;
    let hash = run::hash(&rows);
    let recipe = Recipe { epochs: EPOCHS, ..Recipe::new(D_IN, LATENTS, ACTIVE, seed) };
    let common =
        Common { dataset, split: &split, held_out: &held_out, rows: &rows, data: &hash, checkpoint_every: Duration::from_secs(3600) };
    let report = run::train(common, &recipe, folder, n_threads(), "the demo's first hours", &|_, _, _| ())?;
    let alive = (1.0 - report.train.dead) * LATENTS as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the latents")]
    Ok((alive.round() as usize, report.seconds, report.with_threshold.fvu))
}

/// Names the latents of the SAE in `folder`, tests the names, and writes them to `concepts`; names, and those that hold.
fn name(dataset: &Dataset, items: &Items, folder: &Path, concepts: &Path) -> anyhow::Result<(SaeWeights, usize, usize)> {
    let sae = NamedSae::open_or_new(folder, None, Some(concepts))?;
    let request = GatherRequest { evidence: EvidenceKind::Served, column: None, entity: None };
    let gathered = gather(&sae.weights, dataset, items, &request, &|_| ())?;
    let hold_out = HoldOut { entities: 0.3, items: 0.3, seed: 0 };
    let labelling = label(&gathered, items, &hold_out, &Rule::default(), 0, &|_| ());
    let mut catalogue = with_proposals(&sae.catalogue, &labelling, items, gathered.n_rows, &gathered.active_rows);
    catalogue.hold_out = Some(hold_out);
    let tests = verify(&catalogue, &sae.weights, &[], &gathered, items, 0)?;
    sae.save(&with_tests(&catalogue, &tests))?;
    let holds = |test: &&crate::workshop::verify::LabelTest| test.detection.status == Verification::Verified;
    Ok((sae.weights, labelling.naming.named().count(), tests.tests.iter().filter(holds).count()))
}

/// The table a shop has of its items: what each is called and which style it is of.
fn items(world: &World) -> anyhow::Result<Items> {
    let mut columns: [(&str, Vec<Value>); 3] = [("item", Vec::new()), ("title", Vec::new()), ("style", Vec::new())];
    for concept in 0..N_CONCEPTS {
        for item in world.items_of(concept) {
            let cells = [format!("i{item}"), item_title(*item), concept_name(concept)];
            columns.iter_mut().zip(cells).for_each(|((_, column), cell)| column.push(cell.into()));
        }
    }
    let table = Table::of(columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect())?;
    Items::read(&table, &ItemColumns { tags: vec!["style".into()], ..ItemColumns::default() }).context("the world's items")
}
