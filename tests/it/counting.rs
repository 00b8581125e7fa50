//! The window code against the slow obvious version: a map of counts, built from the whole list of records.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use proptest::prelude::*;
use recsae::drift::closed::PartialWindow;
use recsae::drift::counts::{BUCKET_EDGES, N_BUCKETS};
use recsae::drift::partition::{Admission, PartitionPosition, PartitionWindows};
use recsae::drift::segment::{SegmentFields, SegmentTable};
use recsae::drift::window::{CountedRow, CountingSpec, Fit, OpenCounts, WindowSpec};
use recsae::record::{RejectReason, TopicPartition};
use recsae::sae::latent::LatentId;

const D_SAE: usize = 6;
const SPEC: WindowSpec = WindowSpec { length_ms: 100, origin_ms: 30, lateness_ms: 40 };
const ADMITTED_FROM: i64 = 330;

#[derive(Clone, Debug)]
struct Event {
    time_ms: i64,
    entity: u64,
    surface: String,
    latents: BTreeSet<u32>,
}

fn event() -> impl Strategy<Value = Event> {
    let surface = prop::sample::select(vec!["", "home", "mail", "rare"]);
    (0..1000_i64, 0..5_u64, surface, prop::collection::btree_set(0..D_SAE as u32, 0..4)).prop_map(|(time_ms, entity, surface, latents)| {
        // Event times wander forward with jitter once the list is laid out (see `timed`).
        Event { time_ms, entity, surface: surface.to_owned(), latents }
    })
}

/// Lays the events out in time: the i-th happens around `8 i`, up to 150 ms out of order.
fn timed(mut events: Vec<Event>) -> Vec<Event> {
    for (i, event) in events.iter_mut().enumerate() {
        event.time_ms = 8 * i as i64 + event.time_ms % 150;
    }
    events
}

fn spec(by_entity: bool) -> CountingSpec {
    CountingSpec {
        d_in: NonZeroUsize::MIN,
        d_sae: D_SAE,
        by_entity,
        kish: by_entity,
        max_entities: 1000,
        sample_shift: 0,
        families_of: vec![vec![0], vec![0], vec![1], vec![], vec![0, 1], vec![]],
        n_families: 2,
    }
}

fn table() -> SegmentTable {
    let mut table = SegmentTable::new(SegmentFields { names: vec!["surface".into()], pairs: vec![] }, 8);
    assert!(table.admit("surface=home", i64::MIN));
    assert!(table.admit("surface=mail", ADMITTED_FROM));
    table
}

fn partition() -> TopicPartition {
    TopicPartition { topic: Arc::from("t"), partition: 3 }
}

/// Runs events from `from` on; returns the closed windows and the late offsets.
fn run(windows: &mut PartitionWindows, events: &[Event], from: i64, by_entity: bool) -> (Vec<PartialWindow>, Vec<i64>) {
    run_in_batches(windows, events, from, by_entity, 1)
}

/// The same with windows taken after so many events each, as a worker does after a batch.
fn run_in_batches(
    windows: &mut PartitionWindows,
    events: &[Event],
    from: i64,
    by_entity: bool,
    batch: i64,
) -> (Vec<PartialWindow>, Vec<i64>) {
    let mut table = table();
    let models = vec![("v1".to_owned(), spec(by_entity))];
    let (mut closed, mut late) = (Vec::new(), Vec::new());
    for (offset, event) in events.iter().enumerate().map(|(i, e)| (i as i64, e)).filter(|(offset, _)| *offset >= from) {
        windows.consumed(offset);
        match windows.admit(offset, event.time_ms) {
            Admission::Late => {
                windows.rejected(offset, RejectReason::Late);
                late.push(offset);
            }
            Admission::Replayed => {}
            Admission::Open { window_start_ms } => {
                windows.accepted(offset, event.time_ms);
                let segments = table.mask(std::slice::from_ref(&event.surface), window_start_ms);
                let latents: Vec<LatentId> = event.latents.iter().map(|l| LatentId(*l)).collect();
                let values = vec![1.0; latents.len()];
                let fit = Fit { squared_error: 0.25, cosine: 1.0, norm_ratio: 1.0, squared_norm: 1.0 };
                let row = CountedRow {
                    entity: Some(event.entity),
                    segments,
                    embedding: &[1.0],
                    latents: &latents,
                    values: &values,
                    fit: Some(fit),
                };
                windows.count(window_start_ms, offset, 0, &models[0].1, &row);
            }
        }
        if (offset + 1) % batch == 0 {
            closed.extend(windows.close_due(&models, &table));
        }
    }
    closed.extend(windows.close_due(&models, &table));
    (closed, late)
}

/// What must come out, from the whole list: maps of sets, no arena, no bits, no watermark state.
fn twin(events: &[Event]) -> (BTreeMap<(i64, String), Twin>, Vec<i64>) {
    let mut newest = i64::MIN;
    let mut late = Vec::new();
    let mut out: BTreeMap<(i64, String), Twin> = BTreeMap::new();
    for (offset, e) in events.iter().enumerate() {
        let start = (e.time_ms - 30).div_euclid(100) * 100 + 30;
        if newest != i64::MIN && start + 100 + 40 <= newest {
            late.push(offset as i64);
            continue;
        }
        newest = newest.max(e.time_ms);
        let mut segments = vec!["_all".to_owned()];
        match e.surface.as_str() {
            "" => {}
            "home" => segments.push("surface=home".into()),
            "mail" if start >= ADMITTED_FROM => segments.push("surface=mail".into()),
            _ => segments.push("_other".into()),
        }
        for segment in segments {
            out.entry((start, segment)).or_default().records.push((e.entity, e.latents.clone()));
        }
    }
    (out, late)
}

#[derive(Debug, Default)]
struct Twin {
    records: Vec<(u64, BTreeSet<u32>)>,
}

impl Twin {
    fn of(&self, entity: u64) -> Vec<&BTreeSet<u32>> {
        self.records.iter().filter(|(e, _)| *e == entity).map(|(_, latents)| latents).collect()
    }

    fn entities(&self) -> BTreeSet<u64> {
        self.records.iter().map(|(e, _)| *e).collect()
    }

    fn weight(n: usize) -> f64 {
        1.0 / (1.0 + 0.1 * (n as f64 - 1.0))
    }
}

fn bucket(n: usize) -> usize {
    (0..N_BUCKETS).rev().find(|&b| BUCKET_EDGES[b] as usize <= n).unwrap()
}

fn check(closed: &[PartialWindow], expected: &BTreeMap<(i64, String), Twin>) -> Result<(), TestCaseError> {
    for window in closed {
        let names: BTreeSet<&String> = window.models["v1"].keys().collect();
        let wanted: BTreeSet<&String> = expected.keys().filter(|(start, _)| *start == window.start_ms).map(|(_, s)| s).collect();
        prop_assert_eq!(names, wanted);
        for (segment, counts) in &window.models["v1"] {
            let twin = &expected[&(window.start_ms, segment.clone())];
            prop_assert_eq!(counts.records as usize, twin.records.len());
            let mut entities = [0_u64; N_BUCKETS];
            let mut kish_exposure = 0.0;
            for entity in twin.entities() {
                let n = twin.of(entity).len();
                entities[bucket(n)] += 1;
                kish_exposure += n as f64 * Twin::weight(n);
            }
            prop_assert_eq!(counts.entities, entities);
            prop_assert!((counts.kish_exposure as f64 / 2_f64.powi(32) - kish_exposure).abs() < 1e-6);
            let residual: f64 = counts.residual.iter().map(|w| *w as f64 / 2_f64.powi(32)).sum();
            prop_assert!((residual - kish_exposure).abs() < 1e-6);
            for latent in 0..D_SAE as u32 {
                let shows = |entity: &u64| twin.of(*entity).iter().any(|latents| latents.contains(&latent));
                let fired = twin.records.iter().filter(|(_, latents)| latents.contains(&latent)).count();
                let present: Vec<u64> = twin.entities().into_iter().filter(shows).collect();
                prop_assert_eq!(at(&counts.fired, latent), fired as u64);
                prop_assert_eq!(at(&counts.presence, latent), present.len() as u64);
                let kish: f64 =
                    twin.records.iter().filter(|(_, l)| l.contains(&latent)).map(|(e, _)| Twin::weight(twin.of(*e).len())).sum();
                let counted = counts.kish.get(latent as usize).copied().unwrap_or(0) as f64 / 2_f64.powi(32);
                prop_assert!((counted - kish).abs() < 1e-6);
                if segment == "_all" {
                    for b in 0..N_BUCKETS {
                        let of_bucket = present.iter().filter(|e| bucket(twin.of(**e).len()) == b).count();
                        prop_assert_eq!(at(&counts.presence_by_bucket, (b * D_SAE) as u32 + latent), of_bucket as u64);
                    }
                }
            }
            for (family, members) in [[0, 1, 4].as_slice(), &[2, 4]].iter().enumerate() {
                let shows = |e: &u64| twin.of(*e).iter().any(|latents| members.iter().any(|m| latents.contains(m)));
                let present = twin.entities().into_iter().filter(shows).count();
                prop_assert_eq!(at(&counts.family_presence, family as u32), present as u64);
            }
            let dead: f64 = twin.records.iter().filter(|(_, l)| l.is_empty()).map(|(e, _)| Twin::weight(twin.of(*e).len())).sum();
            prop_assert!((counts.dead_record as f64 / 2_f64.powi(32) - dead).abs() < 1e-6);
        }
    }
    Ok(())
}

fn at(counts: &[u32], i: u32) -> u64 {
    counts.get(i as usize).copied().map_or(0, u64::from)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn windows_equal_a_map_of_counts(events in prop::collection::vec(event(), 1..120).prop_map(timed)) {
        let mut windows = PartitionWindows::resume(partition(), SPEC, PartitionPosition::starting_at(0));
        let (mut closed, late) = run(&mut windows, &events, 0, true);
        windows.raise_watermark(1_000_000);
        closed.extend(windows.close_due(&[("v1".to_owned(), spec(true))], &table()));
        let (expected, expected_late) = twin(&events);
        prop_assert_eq!(late, expected_late);
        prop_assert_eq!(closed.len(), expected.keys().filter(|(_, s)| s == "_all").count());
        prop_assert_eq!(windows.position().replay_offset, events.len() as i64);
        check(&closed, &expected)?;
    }

    #[test]
    fn a_window_is_the_same_in_whatever_batches_its_records_and_rejects_came(
        events in prop::collection::vec(event(), 1..120).prop_map(timed),
        batch in 2i64..40,
    ) {
        let mut one = PartitionWindows::resume(partition(), SPEC, PartitionPosition::starting_at(0));
        let mut many = PartitionWindows::resume(partition(), SPEC, PartitionPosition::starting_at(0));
        prop_assert_eq!(run(&mut one, &events, 0, true), run_in_batches(&mut many, &events, 0, true, batch));
        prop_assert_eq!(one.position(), many.position());
    }

    #[test]
    fn a_restart_anywhere_closes_the_same_windows(events in prop::collection::vec(event(), 2..120).prop_map(timed), cut in 0.0..1.0) {
        let cut = (events.len() as f64 * cut) as usize;
        let mut whole = PartitionWindows::resume(partition(), SPEC, PartitionPosition::starting_at(0));
        let (expected, expected_late) = run(&mut whole, &events, 0, true);
        let mut first = PartitionWindows::resume(partition(), SPEC, PartitionPosition::starting_at(0));
        let (mut closed, mut late) = run(&mut first, &events[..cut], 0, true);
        let stored = first.position();
        let mut second = PartitionWindows::resume(partition(), SPEC, stored.clone());
        prop_assert_eq!(second.position(), stored, "a restart before any record is read again changes nothing");
        let from = second.read_from();
        let (more, more_late) = run(&mut second, &events, from, true);
        closed.extend(more);
        late.extend(more_late);
        prop_assert_eq!(late, expected_late);
        prop_assert_eq!(second.position(), whole.position());
        prop_assert_eq!(closed, expected);
    }
}

#[test]
fn compaction_changes_no_count() {
    // Enough visits of few entities that the arena is folded several times.
    use recsae::drift::counts::SegmentCounts;
    use recsae::drift::presence::{Visit, Visits};
    let mut visits = Visits::new(10, true);
    let n = 400_000_u64;
    for i in 0..n {
        let latents = [LatentId((i % 3) as u32), LatentId(3 + (i % 2) as u32)];
        visits
            .add(Visit { entity: i % 4, segments: 1 | u128::from(i % 4 == 1) << 2, latents: &latents, residual_bin: Some((i % 5) as u8) })
            .unwrap();
    }
    let mut segments = vec![SegmentCounts::default(); 3];
    visits.count(&mut segments, D_SAE, 0, &[]);
    assert_eq!(segments[0].n_entities(), 4);
    assert_eq!(segments[0].presence, [4, 4, 4, 2, 2, 0]);
    assert_eq!(segments[2].presence, [1, 1, 1, 0, 1, 0]);
    let weight = recsae::drift::counts::kish_weight((n / 4) as u32);
    assert_eq!(segments[0].kish_exposure, n * weight);
    assert_eq!(segments[0].kish.iter().sum::<u64>(), 2 * n * weight);
    assert_eq!(segments[0].residual.iter().sum::<u64>(), n * weight);
}

#[test]
fn one_entity_too_many_is_said_and_costs_no_memory() {
    use recsae::drift::presence::{Visit, Visits};
    let mut visits = Visits::new(2, false);
    let add = |visits: &mut Visits, entity| visits.add(Visit { entity, segments: 1, latents: &[LatentId(0)], residual_bin: None });
    assert!(add(&mut visits, 1).is_ok() && add(&mut visits, 2).is_ok() && add(&mut visits, 1).is_ok());
    assert!(add(&mut visits, 3).is_err());
    assert!(add(&mut visits, 1).is_err(), "the window stays without a verdict");
    assert_eq!(visits.n_entities(), 0);
}

proptest! {
    /// Records of a combination of segments share a table, as long as combinations are few: here they mostly are not.
    #[test]
    fn segments_are_counted_alike_however_many_combinations_of_them_there_are(
        records in prop::collection::vec((0..4_u8, 0..4_u8, 0..3_u8, prop::collection::btree_set(0..D_SAE as u32, 0..4), 0.25_f32..4.0), 1..200),
    ) {
        let fields = SegmentFields { names: vec!["a".into(), "b".into(), "c".into()], pairs: vec![(0, 1)] };
        let mut table = SegmentTable::new(fields, 64);
        for (field, n) in [("a", 3), ("b", 3), ("c", 2)] {
            (0..n).for_each(|value| assert!(table.admit(&format!("{field}={value}"), i64::MIN)));
        }
        assert!(table.admit("a=1&b=1", i64::MIN));
        let spec = spec(false);
        let mut open = OpenCounts::new(&spec);
        type Active = BTreeMap<u32, (u32, f64)>;
        let mut expected: BTreeMap<String, (u64, Active)> = BTreeMap::new();
        for (a, b, c, latents, value) in &records {
            let mut names = BTreeSet::from(["_all".to_owned()]);
            for (field, admitted, value) in [("a", 3, a), ("b", 3, b), ("c", 2, c)] {
                names.insert(if *value < admitted { format!("{field}={value}") } else { "_other".into() });
            }
            // Of the pairs one is followed.
            names.insert(if (*a, *b) == (1, 1) { "a=1&b=1" } else { "_other" }.into());
            for name in names {
                let (n, active) = expected.entry(name).or_default();
                *n += 1;
                for latent in latents {
                    let (fired, magnitude) = active.entry(*latent).or_default();
                    (*fired, *magnitude) = (*fired + 1, *magnitude + f64::from(*value));
                }
            }
            let segments = table.mask(&[a.to_string(), b.to_string(), c.to_string()], 0);
            let (latents, values): (Vec<_>, Vec<_>) = latents.iter().map(|latent| (LatentId(*latent), *value)).unzip();
            let row = CountedRow { entity: None, segments, embedding: &[*value], latents: &latents, values: &values, fit: None };
            open.add(&spec, &row);
        }
        let closed = open.close(&spec, &table);
        prop_assert_eq!(closed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, (n, active)) in expected {
            let counts = &closed[&name];
            prop_assert_eq!(counts.records, n);
            for latent in 0..D_SAE as u32 {
                let (fired, magnitude) = active.get(&latent).copied().unwrap_or_default();
                prop_assert_eq!(counts.fired[latent as usize], fired);
                // Added up in another order.
                prop_assert!((counts.magnitude[latent as usize] - magnitude).abs() <= 1e-12 * magnitude, "{} latent {}", name, latent);
            }
        }
        let sum: f64 = records.iter().map(|(.., value)| f64::from(*value)).sum();
        prop_assert_eq!(&closed["_all"].contract.sum, &[sum]);
        prop_assert!(closed.iter().all(|(name, counts)| name == "_all" || counts.contract.sum.is_empty()));
    }
}
