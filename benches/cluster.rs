//! What a cluster of 1,000 partitions, 100 segments and 16,384 latents would cost: the topics' bytes and the judge's CPU and
//! memory a window, from the program's own code on counts that are made up, with no broker.
//!
//! `cargo bench --bench cluster`, or `PARTITIONS=100 SEGMENTS=24 LATENTS=2048 cargo bench --bench cluster`. A million
//! entities a window with two records of 32 latents each, latents by Zipf's law. Thread CPU time.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "what a benchmark is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recsae::drift::closed::{ALL, ClosedWindow, PartialWindow};
use recsae::drift::counts::{N_BUCKETS, SegmentCounts, bucket_of};
use recsae::drift::judge::ModelJudge;
use recsae::drift::reference::Reference;
use recsae::drift::settings::JudgeSettings;
use recsae::monitor::assemble::Assembly;
use recsae::monitor::cluster::wire::{Joiner, Told, publish_part};
use recsae::record::TopicPartition;

const HOUR: i64 = 3_600_000;
const ENTITIES: usize = 1_000_000;
const RECORDS_EACH: u32 = 2;
const ACTIVE: usize = 32;
/// Windows of the reference, as few as one may have; and judged ones.
const REFERENCE: i64 = 8;
const JUDGED: i64 = 3;

fn main() {
    let [partitions, segments, latents] = [("PARTITIONS", 1_000), ("SEGMENTS", 100), ("LATENTS", 16_384)]
        .map(|(name, n)| std::env::var(name).map_or(n, |text| text.parse().unwrap()));
    let mut rng = StdRng::seed_from_u64(1);
    let weights: Vec<f64> = (0..latents).map(|j| 1.0 / (j as f64 + 10.0)).collect();
    let zipf = rand::distr::weighted::WeightedIndex::new(&weights).unwrap();

    let mut assembly = Assembly::new(0, HOUR, &[String::new()]);
    let (mut bytes, mut pieces, mut publishing, mut reading) = (0, 0, Duration::ZERO, Duration::ZERO);
    for partition in 0..partitions {
        let part = part(partition, ENTITIES / partitions, (segments, latents), &zipf, &mut rng);
        let began = thread_cpu();
        let published = publish_part("counting", &part, 1 << 20).unwrap();
        publishing += thread_cpu() - began;
        drop(part);
        pieces += published.len();
        bytes += published.iter().map(|record| record.key.len() + record.value.len()).sum::<usize>();
        let began = thread_cpu();
        let mut joiner = Joiner::default();
        for (offset, record) in (0..).zip(&published) {
            if let Some(Told::Part(part)) = joiner.take("counting", (0, offset), record.key.as_bytes(), &record.value).unwrap() {
                assembly.add(&part);
            }
        }
        reading += thread_cpu() - began;
    }
    let merged = assembly.finish(true).windows.remove(0);
    println!("{partitions} partitions, {segments} segments, {latents} latents, {ENTITIES} entities a window");
    let each = 1e3 / f64::from(i32::try_from(partitions).unwrap());
    println!(
        "windows topic: {:.1} MB a window in {pieces} records; {:.1} ms CPU a part to publish; {:.1} ms to read and merge, {:.1} s for all, on every instance",
        bytes as f64 / 1e6,
        publishing.as_secs_f64() * each,
        reading.as_secs_f64() * each,
        reading.as_secs_f64()
    );
    println!("after merging, one part at a time: {} MiB at most so far", peak_mib());

    // Windows that differ by their time alone: what is measured does not depend on what is found.
    let settings = JudgeSettings { weekend: Some(false), harmonics: Some(0), ..JudgeSettings::hourly(latents) };
    let at = |t: i64| ClosedWindow { start_ms: t * HOUR, end_ms: (t + 1) * HOUR, ..merged.clone() };
    let began = thread_cpu();
    let reference = Arc::new(Reference::fit("bench", "", &(0..REFERENCE).map(at).collect::<Vec<_>>(), &settings).unwrap());
    println!("reference of {REFERENCE} windows fitted: {:.1} s CPU", (thread_cpu() - began).as_secs_f64());
    let mut judge = ModelJudge::new(reference, settings).unwrap();
    let mut judging = Duration::ZERO;
    for t in REFERENCE..REFERENCE + JUDGED {
        let window = at(t);
        let began = thread_cpu();
        judge.judge(&window);
        judging += thread_cpu() - began;
    }
    println!(
        "judged: {} streams, {:.2} s CPU a window; {} MiB at most",
        judge.streams_tested(),
        judging.as_secs_f64() / JUDGED as f64,
        peak_mib()
    );
}

/// A partition's part: every entity in `_all` and in one segment.
fn part(
    partition: usize,
    entities: usize,
    (segments, latents): (usize, usize),
    zipf: &rand::distr::weighted::WeightedIndex<f64>,
    rng: &mut StdRng,
) -> PartialWindow {
    let mut counts: BTreeMap<String, SegmentCounts> = BTreeMap::new();
    for _ in 0..entities {
        let segment = format!("field={}", rng.random_range(0..segments - 1));
        let mut shown = BTreeSet::new();
        for _ in 0..RECORDS_EACH {
            for latent in rng.sample_iter(zipf).take(ACTIVE).collect::<BTreeSet<usize>>() {
                shown.insert(latent);
                for name in [ALL, &segment] {
                    let of = counts.entry(name.to_owned()).or_insert_with(|| zeros(latents, name == ALL));
                    of.fired[latent] += 1;
                    of.magnitude[latent] += 0.5;
                }
            }
        }
        for name in [ALL, &segment] {
            let of = counts.entry(name.to_owned()).or_insert_with(|| zeros(latents, name == ALL));
            of.records += u64::from(RECORDS_EACH);
            of.entities[bucket_of(RECORDS_EACH)] += 1;
            shown.iter().for_each(|&latent| of.presence[latent] += 1);
        }
        let all = counts.entry(ALL.to_owned()).or_default();
        shown.iter().for_each(|&latent| all.presence_by_bucket[bucket_of(RECORDS_EACH) * latents + latent] += 1);
    }
    PartialWindow {
        partition: TopicPartition { topic: "t".into(), partition: i32::try_from(partition).unwrap() },
        start_ms: 0,
        end_ms: HOUR,
        models: [(String::new(), counts)].into(),
        rejected: BTreeMap::new(),
        offsets: 0..i64::try_from(entities).unwrap(),
        seen: BTreeMap::new(),
        entity_sketch: Vec::new(),
        incomplete: None,
    }
}

fn zeros(latents: usize, is_all: bool) -> SegmentCounts {
    SegmentCounts {
        fired: vec![0; latents],
        magnitude: vec![0.0; latents],
        presence: vec![0; latents],
        presence_by_bucket: if is_all { vec![0; N_BUCKETS * latents] } else { Vec::new() },
        ..SegmentCounts::default()
    }
}

/// Largest resident set so far.
fn peak_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Time this thread has been on a CPU.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
