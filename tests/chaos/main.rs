//! The chaos harness: injures the real program on a real broker, then compares its books with an oracle
//! that shares no code with it. A program of its own: `make chaos SEED=7 FAULTS=kill-outside`.
//!
//! Each scenario: a generator writes record i as a function of the seed; faults; then with nothing wrong
//! any more a liveness record passes, everything is drained, and the export is compared with the numpy
//! script's counts of what the broker acknowledged. The scenario also shows that its fault happened.
//!
//! `FAULTS=list` names the row of each scenario; [`ELSEWHERE`] says where the rows are whose oracle is another one.
//! `tests/system/cluster*.rs` compare several instances with one alone.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program of tests, which the lints' own exception for tests does not reach"
)]

#[path = "../system/kafka_server.rs"]
mod kafka_server;
#[path = "../it/support.rs"]
mod support;

mod clock_faults;
mod commit_faults;
mod commit_order;
mod disk_faults;
mod edge_faults;
mod frozen_faults;
mod input_faults;
mod kills;
mod load_faults;
mod long;
mod member_faults;
mod monitor;
mod namespace;
mod network_faults;
mod process;
mod process_faults;
mod ready;
mod relay;
mod segment_faults;
mod site;
mod stage;
mod store_faults;
mod storm;
mod swap_faults;
mod together;
mod together_kills;
mod verdict;
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use monitor::Checked;
use stage::Stage;

/// A scenario: its name, the row of faults it belongs to, and what it does. It gives what it saw.
type Scenario = (&'static str, &'static str, fn(&Stage) -> Checked<String>);

const SCENARIOS: &[Scenario] = &[
    ("kill-outside", "1: kill -9 at random times", kills::from_outside),
    ("kill-points", "1: killed at every named point", kills::at_points),
    ("kill-together", "1: killed at points of a cluster", together_kills::at_some_points),
    ("mutants", "the harness can fail", kills::mutants),
    ("sigterm", "2: SIGTERM under load", process_faults::terminated),
    ("frozen", "3: frozen past its session", frozen_faults::frozen),
    ("broker", "4: broker killed, restarted, stalled", process_faults::broker_restarted),
    ("cut", "5: the network cut, both ways and one way", network_faults::cut),
    ("storm", "6: members join, die and leave", member_faults::rebalance_storm),
    ("storm-together", "6: instances of a cluster join, die and leave every 2 s", storm::short),
    ("taken", "6: counted elsewhere before it was here", member_faults::taken_before_the_first_record),
    ("commits", "7: commits refused while partitions move", commit_faults::refused),
    ("poison", "8, 9: poison of every kind", input_faults::poison),
    ("segments", "15: segment values without end", segment_faults::hostile_segments),
    ("clock", "10: the clock is set, an hour on and back", clock_faults::stepped),
    ("idle", "11: idle partitions", input_faults::idle_partition),
    ("disk-full", "12: the disk fills up", disk_faults::full),
    ("sync-fails", "12: syncs of the disk fail", disk_faults::sync_fails),
    ("read-only", "12: the file system turns read-only, and back", disk_faults::read_only),
    ("sync-order", "1: the store is synced, by the kernel", disk_faults::sync_before_commit),
    ("commit-order", "1: no commit ahead of the store", commit_order::behind_the_store),
    ("flips", "13: 1,000 flipped bytes of the store", store_faults::flipped),
    ("refused", "13: newer, truncated, foreign store", store_faults::refused),
    ("swapped", "16: killed right after another SAE was taken up", swap_faults::killed_after_a_swap),
    ("burst", "19: a hundred times the load", load_faults::burst),
    ("recreated", "22: topic deleted and made again", member_faults::topic_recreated),
    ("added", "22: partitions added", member_faults::partitions_added),
    ("two-on-one", "24: two processes on one store, on one port", store_faults::two_on_one),
    ("restored", "24: a store restored from an older copy", store_faults::restored),
    ("lost", "24: a store that is gone", store_faults::lost),
    ("late-commit", "3: a commit that comes when its member is out of the group", frozen_faults::late_commit),
];

/// Rows of the table of faults.
const N_ROWS: u32 = 24;
/// Rows that a test of another suite plays, or a scenario by name alone: the row, and a function of a file.
const ELSEWHERE: &[(u32, &str, &str)] = &[
    (14, include_str!("edge_faults.rs"), "scraped"),
    (14, include_str!("../it/tls.rs"), "connections_that_ask_nothing_make_room_at_once"),
    (16, include_str!("../system/reload.rs"), "a_new_sae_is_taken_up_at_a_window_edge_and_a_faulty_one_keeps_the_old"),
    (17, include_str!("../it/hostile_onnx.rs"), "truncated_and_random_files_are_refused_and_never_panic"),
    (18, include_str!("../it/hostile_onnx.rs"), "external_data_outside_the_folder_or_the_file_is_refused"),
    (18, include_str!("../system/secured.rs"), "a_panic_tells_no_secret"),
    (20, include_str!("load_faults.rs"), "soak"),
    (21, include_str!("../system/degrade.rs"), "without_the_named_reference_windows_are_counted_and_it_is_taken_up_once_it_is_approved"),
    (23, include_str!("../system/refused.rs"), "a_topic_that_is_not_keyed_by_the_entity_gives_no_verdict_and_says_so"),
];

/// Scenarios at a time: they mostly wait for sessions, restarts and ends of idle times.
const LANES: usize = 3;

/// Only by name: long, or of little worth at every run.
const LONG: &[Scenario] = &[
    ("long", "1: hundreds of kills", long::run),
    ("frozen-long", "3: frozen for a minute", frozen_faults::frozen_for_long),
    ("asleep", "3, 10: frozen alone, for longer than idle partitions are waited for", frozen_faults::asleep),
    ("cut-by-relay", "5: the same where packets cannot be dropped", network_faults::cut_by_relay),
    ("cut-long", "5: the network cut for 75 s, each way", network_faults::cut_for_long),
    ("burst-long", "19: a hundred times the load for a minute", load_faults::burst_for_long),
    ("scraped", "14: fifty scrapers, slow requests, huge headers", edge_faults::scraped),
    ("soak", "20: half an hour with members that come and go", load_faults::soak),
    ("ready", "1: ready again at 24 segments of 2,048 latents", ready::again),
    ("kill-together-long", "1: killed three times at every point of a cluster", together_kills::at_all_points),
    ("storm-long", "6: three to eight instances, forty moves under each protocol", storm::long),
    ("static", "1, 6: killed in a rebalance under static names", member_faults::killed_in_a_rebalance),
];

fn main() -> ExitCode {
    let chosen = std::env::var("FAULTS").unwrap_or_default();
    if chosen == "list" {
        SCENARIOS.iter().chain(LONG).for_each(|(name, row, _)| println!("{name:24}{row}"));
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> = chosen.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().chain(LONG).any(|(known, ..)| known == *name)) {
        println!("FAULTS={unknown}: no such scenario; `make chaos FAULTS=list` lists them");
        return ExitCode::from(2);
    }
    let uncovered = uncovered();
    if !uncovered.is_empty() {
        println!("rows of the table of faults that nothing plays: {uncovered:?}");
        return ExitCode::FAILURE;
    }
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(seed_of_the_clock);
    println!("seed {seed}");
    let Some(stage) = Stage::set_up(seed) else { return ExitCode::SUCCESS };
    let (all, began) = (names.is_empty(), Instant::now());
    let chosen: Vec<&Scenario> =
        SCENARIOS.iter().filter(|_| all).chain(SCENARIOS.iter().chain(LONG).filter(|(name, ..)| names.contains(name))).collect();
    let next = AtomicUsize::new(0);
    let lane = || {
        let mut n_failed = 0;
        while let Some(scenario) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            n_failed += usize::from(!holds(scenario, &stage));
        }
        n_failed
    };
    let failed: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).sum()
    });
    let passed = chosen.len() - failed;
    println!("\n{} scenarios in {:.0} s", chosen.len(), began.elapsed().as_secs_f32());
    // The line that `make test` counts.
    println!("\ntest result: {}. {passed} passed; {failed} failed; 0 ignored", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Rows that neither a scenario of every run nor a test elsewhere plays.
fn uncovered() -> Vec<u32> {
    let rows = |words: &str| -> Vec<u32> {
        words.split(':').next().into_iter().flat_map(|rows| rows.split(", ")).flat_map(str::parse::<u32>).collect()
    };
    let elsewhere = ELSEWHERE.iter().filter(|(_, file, name)| file.contains(&format!("fn {name}("))).map(|(row, ..)| *row);
    let covered: Vec<u32> = SCENARIOS.iter().flat_map(|(_, row, _)| rows(row)).chain(elsewhere).collect();
    (1..=N_ROWS).filter(|row| !covered.contains(row)).collect()
}

/// Plays a scenario and tells what became of it.
fn holds((name, row, scenario): &Scenario, stage: &Stage) -> bool {
    let began = Instant::now();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(stage)));
    let outcome = outcome.unwrap_or_else(|_| Err("panicked, see above".into()));
    let took = began.elapsed().as_secs_f32();
    match &outcome {
        Ok(seen) => println!("ok   {name} ({row}; {took:.1} s): {seen}"),
        Err(why) => {
            println!("FAIL {name} ({row}; {took:.1} s): {why}\n     again: make chaos SEED={} FAULTS={name}", stage.seed);
        }
    }
    outcome.is_ok()
}

fn seed_of_the_clock() -> u64 {
    jiff::Timestamp::now().as_millisecond().unsigned_abs() % 1_000_000
}
