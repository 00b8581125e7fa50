//! Labels without a language model: p-values beside scipy's, names of simulated worlds whose concepts are
//! known, and the real SAEs, each with the tags dealt anew.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ndarray::{Array1, Array2};
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use recsae::encode::Encoder;
use recsae::sae::activation::SparseActivations;
use recsae::sae::embedding::EmbeddingBatch;
use recsae::sae::weights::{SaeSpec, SaeWeights, Selection};
use recsae::workshop::encoding::encoder;
use recsae::workshop::label::cases::Cases;
use recsae::workshop::label::characteristic::ItemCounts;
use recsae::workshop::label::hypergeometric::Overlap;
use recsae::workshop::label::naming::{Rule, name_latents};
use recsae::workshop::label::tags::TagTable;
use serde_json::{Value, json};

use crate::support;

/// scipy's tail, and the exact one from integers where those are small enough to sum.
const YARDSTICK: &str = r"
import json, sys, math
from scipy.stats import hypergeom
out = []
for n, k, m, x in json.load(sys.stdin):
    terms = range(x, min(k, m) + 1)
    exact = sum(math.comb(k, i) * math.comb(n - k, m - i) for i in terms) / math.comb(n, m) if n <= 2000 else None
    out.append([float(hypergeom.sf(x - 1, n, k, m)), exact])
json.dump(out, sys.stdout)
";

#[test]
fn p_values_equal_scipys_and_exact_integers() {
    let Some(python) = support::python() else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tables: Vec<[u64; 4]> = vec![[50_000, 2_000, 400, 16], [50_000, 2_000, 400, 120], [10, 5, 5, 5], [10, 5, 5, 0]];
    for i in 0..300 {
        let n = if i % 2 == 0 { rng.random_range(2..2_000_u64) } else { rng.random_range(2_000..100_000) };
        let (k, m) = (rng.random_range(1..=n), rng.random_range(1..=n.min(3_000)));
        let mean = m * k / n;
        let x = rng.random_range(mean.saturating_sub(20)..=k.min(m).min(mean + 40));
        tables.push([n, k, m, x]);
    }
    let mut child = Command::new(python).args(["-c", YARDSTICK]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(tables).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let answers: Vec<(f64, Option<f64>)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), tables.len());
    for ([n, k, m, x], (scipy, exact)) in tables.into_iter().zip(answers) {
        let ours = Overlap { n_cases: n, n_tagged: k, n_active: m, n_both: x }.p_value();
        if let Some(exact) = exact.filter(|exact| *exact > 1e-290) {
            assert!((ours / exact - 1.0).abs() < 1e-11, "N {n} K {k} M {m} x {x}: {ours:e}, exactly {exact:e}");
        }
        // scipy takes differences of log-gammas: at N = 100,000 it is exact to some 1e-10 itself.
        if scipy > 1e-290 {
            assert!((ours / scipy - 1.0).abs() < 1e-8, "N {n} K {k} M {m} x {x}: {ours:e}, scipy {scipy:e}");
        }
    }
}

/// Worlds of a run; `make label-worlds SEEDS=7,8` names them.
const WORLDS: usize = 3;
const D_IN: usize = 48;
const CONCEPTS: usize = 120;
const ITEMS: u32 = 1_500;
const ROWS: u64 = 9_000;

/// A world whose concepts are random directions, not orthogonal, with Zipf rates; items carry a concept (some
/// two), the genre of ten concepts, and a word of chance. The SAE reads the directions, and errs where they
/// are near each other.
struct World {
    cases: Cases,
    tags: TagTable,
    /// By latent: rows of its concept, and active rows of its concept.
    shown: Vec<u32>,
    right: Vec<u32>,
}

fn world(seed: u64) -> World {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut directions = Array2::from_shape_simple_fn((CONCEPTS, D_IN), || rng.sample::<f32, _>(StandardNormal));
    for mut row in directions.rows_mut() {
        let norm = row.dot(&row).sqrt();
        row /= norm;
    }
    let rates: Vec<f64> = (0..CONCEPTS).map(|rank| 1.0 / (rank as f64 + 3.0)).collect();
    let by_rate = WeightedIndex::new(&rates).unwrap();
    let mut items_of: Vec<Vec<u32>> = vec![Vec::new(); CONCEPTS];
    let mut sources: [(String, Vec<Vec<String>>); 3] =
        [("word".into(), Vec::new()), ("genre".into(), Vec::new()), ("concept".into(), Vec::new())];
    for item in 0..ITEMS {
        let mut concepts = vec![if rng.random_bool(0.5) { rng.random_range(0..CONCEPTS) } else { by_rate.sample(&mut rng) }];
        if rng.random_bool(0.2) {
            concepts.push(rng.random_range(0..CONCEPTS));
        }
        concepts.iter().for_each(|concept| items_of[*concept].push(item));
        sources[0].1.push(vec![format!("word {}", rng.random_range(0..200))]);
        sources[1].1.push(concepts.iter().map(|concept| format!("genre {}", concept / 10)).collect());
        sources[2].1.push(concepts.iter().map(|concept| format!("concept {concept}")).collect());
    }
    let size = |n: usize| NonZeroUsize::new(n).unwrap();
    let spec = SaeSpec { d_in: size(D_IN), d_sae: size(CONCEPTS), selection: Selection::TopK(size(4)), centring: true };
    let bias = Array1::from_elem(CONCEPTS, -0.5);
    let sae = SaeWeights::new(spec, directions.clone(), bias, Some(directions.clone()), Array1::zeros(D_IN)).unwrap();
    let mut encoder = encoder(&sae);
    let mut world = World {
        cases: Cases::new(CONCEPTS),
        tags: TagTable::collect(ITEMS as usize, &sources),
        shown: vec![0; CONCEPTS],
        right: vec![0; CONCEPTS],
    };
    let (mut batch, mut activations) = (EmbeddingBatch::new(spec.d_in), SparseActivations::default());
    for row in 0..ROWS {
        let mut concepts: Vec<usize> = (0..rng.random_range(1..=3)).map(|_| by_rate.sample(&mut rng)).collect();
        concepts.sort_unstable();
        concepts.dedup();
        let mut embedding: Vec<f32> = (0..D_IN).map(|_| 0.03 * rng.sample::<f32, _>(StandardNormal)).collect();
        for concept in &concepts {
            let strength = rng.random_range(0.9..1.4_f32);
            embedding.iter_mut().zip(directions.row(*concept)).for_each(|(value, direction)| *value += strength * direction);
        }
        let mut items = Vec::new();
        for _ in 0..6 {
            let of = &items_of[concepts[rng.random_range(0..concepts.len())]];
            // One in five is there for another reason: popular, sponsored.
            items.push(if of.is_empty() || rng.random_bool(0.2) { rng.random_range(0..ITEMS) } else { of[rng.random_range(0..of.len())] });
        }
        batch.clear();
        batch.push(&embedding).unwrap();
        encoder.encode(&batch, &mut activations).unwrap();
        let (latents, values) = activations.row(0);
        concepts.iter().for_each(|concept| world.shown[*concept] += 1);
        latents.iter().filter(|latent| concepts.contains(&latent.index())).for_each(|latent| world.right[latent.index()] += 1);
        world.cases.push(row / 6, items, latents, values);
    }
    world
}

#[test]
fn concepts_of_simulated_worlds_are_named_right_and_chance_names_none() {
    let seeds = support::seeds(WORLDS);
    let mut deals_with_names = 0;
    println!("{:<22} {:>11} {:>11} {:>12} {:>14}", "world (seed)", "detectable", "named right", "named wrong", "shuffled tags");
    for seed in seeds.iter().copied() {
        let world = world(seed);
        let rule = Rule::default();
        let naming = name_latents(&world.cases, &world.tags, &rule);
        let counts = ItemCounts::new(&world.cases, ITEMS as usize);
        let seen = counts.seen();
        let items_seen = |name: &str| {
            let has = |item: &u32| world.tags.of_item(*item).iter().any(|tag| world.tags.tags()[*tag as usize].value == name);
            seen.iter().filter(|item| has(item)).count()
        };
        let (mut detectable, mut right, mut wrong) = (0, 0, 0);
        for latent in &naming.latents {
            let concept = latent.latent.index();
            // What the SAE does not follow, and what too few items carry, nobody could name.
            let followed = f64::from(world.right[concept]) >= 0.7 * latent.n_active as f64;
            let can_be_found = latent.n_active >= 30 && followed && items_seen(&format!("concept {concept}")) >= 5;
            detectable += usize::from(can_be_found);
            let name = latent.name.ok().map(|tag| world.tags.tags()[tag].value.clone());
            let is_right = name.as_deref() == Some(&format!("concept {concept}"));
            right += usize::from(can_be_found && is_right);
            wrong += usize::from(can_be_found && name.is_some() && !is_right);
        }
        let shuffled: Vec<usize> =
            (0..10).map(|deal| name_latents(&world.cases, &world.tags.shuffled(&seen, deal), &rule).named().count()).collect();
        println!("{seed:<22} {detectable:>11} {right:>11} {wrong:>12} {shuffled:?}");
        assert!(detectable >= CONCEPTS / 3, "seed {seed}: too few concepts to say anything");
        assert!(right * 10 >= detectable * 9, "seed {seed}: {right} of {detectable} named right");
        deals_with_names += shuffled.iter().filter(|named| **named > 0).count();
    }
    // Where every name is false, Benjamini-Hochberg bounds the share of deals with any name by q = 1 %. Real data,
    // below, must give none at its fixed seeds.
    let n_deals = 10 * seeds.len();
    let most = most_by_chance(n_deals, Rule::default().q);
    println!("{deals_with_names} of {n_deals} deals of the tags named something; more than {most} is no chance");
    assert!(deals_with_names <= most, "{deals_with_names} of {n_deals} deals named something");
}

/// The least number that so many trials of chance `q` exceed in fewer than 20 of a million runs.
fn most_by_chance(n: usize, q: f64) -> usize {
    let (mut chance, mut above) = ((1.0 - q).powi(i32::try_from(n).unwrap()), 1.0);
    for most in 0..n {
        above -= chance;
        if above < 20e-6 {
            return most;
        }
        chance *= (n - most) as f64 / (most + 1) as f64 * q / (1.0 - q);
    }
    n
}

#[test]
fn the_bound_on_chance_is_the_binomials() {
    // By scipy: binom.isf(20e-6, n, .01) is 3, 4, 5, 7 and 14.
    assert_eq!([10, 30, 40, 100, 400].map(|n| most_by_chance(n, 0.01)), [3, 4, 5, 7, 14]);
}

fn real(arguments: &[(&str, &Path)], more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.args(["label", "--json", "--dry-run"]).args(more);
    arguments.iter().for_each(|(name, path)| {
        command.arg(name).arg(path);
    });
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Named latents, after the rules that hold for every report.
fn named(report: &Value) -> u64 {
    let n = report["n_named"].as_u64().unwrap();
    println!("{n} of {} named; by source {}; shuffled {}", report["n_latents"], report["by_source"], report["shuffled"]);
    assert_eq!(report["shuffled"], json!([0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "tags dealt anew name nothing");
    let unnamed: u64 = report["unnamed"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(n + unnamed, report["n_latents"].as_u64().unwrap());
    for label in report["labels"].as_array().unwrap() {
        assert!(label["precision"].as_f64() >= Some(0.5) && label["lift"].as_f64() >= Some(1.5), "{label}");
        assert!(label["ln_q_value"].as_f64() <= Some(0.01_f64.ln()), "{label}");
    }
    n
}

#[test]
fn real_saes_of_three_kinds_of_model_are_named_by_several_sources() {
    let Some(data) = support::data() else { return };
    let file = |name: &str| -> PathBuf { data.join("ml100k").join(name) };
    let items = file("items.parquet");
    let report = real(
        &[
            ("--sae", &file("sasrec.sae_k32_s32.safetensors")),
            ("--embeddings", &file("sasrec.embeddings.npy")),
            ("--fields", &file("sasrec.events.parquet")),
            ("--items", &items),
        ],
        &[],
    );
    assert!(named(&report) >= 400, "SASRec");
    assert!(report["by_source"].as_array().unwrap().len() >= 3);
    for model in ["bprmf", "lightgcn"] {
        let sae = file(&format!("{model}.sae_k8_s16.safetensors"));
        let users = file(&format!("{model}.user_embeddings.npy"));
        let recs = file(&format!("{model}.user_recs.parquet"));
        let report = real(&[("--sae", &sae), ("--embeddings", &users), ("--fields", &recs), ("--items", &items)], &["--by", "user_id"]);
        assert!(named(&report) > 0, "{model}");
    }
    // The items' own vectors as evidence: each item is a case of its own tags.
    for (model, size, least) in [("sasrec", "k32_s32", 4), ("bprmf", "k8_s16", 20), ("lightgcn", "k8_s16", 10)] {
        let (sae, vectors) = (file(&format!("{model}.sae_{size}.safetensors")), file(&format!("{model}.item_embeddings.npy")));
        let report = real(
            &[("--sae", &sae), ("--embeddings", &vectors), ("--items", &items)],
            &["--evidence", "vectors", "--hold-out-entities", "0", "--hold-out-items", "0"],
        );
        assert_eq!((&report["n_cases"], named(&report) >= least), (&json!(1008), true), "{model}");
    }
}
