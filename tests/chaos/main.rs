//! The chaos harness: injures the real program on a real broker, then compares its books with an oracle
//! that shares no code with it. A program of its own: `make chaos SEED=7 FAULTS=kill-outside`.
//!
//! Each scenario: a generator writes record i as a function of the seed; faults; then with nothing wrong
//! any more a liveness record passes, everything is drained, and the export is compared with the numpy
//! script's counts of what the broker acknowledged. The scenario also shows that its fault happened.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program of tests, which the lints' own exception for tests does not reach"
)]

#[path = "../system/kafka_server.rs"]
mod kafka_server;
#[path = "../it/support.rs"]
mod support;

mod kills;
mod monitor;
mod process;
mod site;
mod stage;
mod verdict;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use monitor::Checked;
use stage::Stage;

/// A scenario: its name, the row of faults it belongs to, and what it does. It gives what it saw.
type Scenario = (&'static str, &'static str, fn(&Stage) -> Checked<String>);

const SCENARIOS: &[Scenario] = &[("kill-outside", "1: kill -9 at random times", kills::from_outside)];

fn main() -> ExitCode {
    let chosen = std::env::var("FAULTS").unwrap_or_default();
    if chosen == "list" {
        SCENARIOS.iter().for_each(|(name, row, _)| println!("{name:24}{row}"));
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> = chosen.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().any(|(known, ..)| known == *name)) {
        println!("FAULTS={unknown}: no such scenario; `make chaos FAULTS=list` lists them");
        return ExitCode::from(2);
    }
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(seed_of_the_clock);
    println!("seed {seed}");
    let Some(stage) = Stage::set_up(seed) else { return ExitCode::SUCCESS };
    let (mut passed, mut failed) = (0, 0);
    for (name, row, scenario) in SCENARIOS.iter().filter(|(name, ..)| names.is_empty() || names.contains(name)) {
        let began = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&stage)));
        let outcome = outcome.unwrap_or_else(|_| Err("panicked, see above".into()));
        let took = began.elapsed().as_secs_f32();
        match outcome {
            Ok(seen) => {
                passed += 1;
                println!("ok   {name} ({row}; {took:.1} s): {seen}");
            }
            Err(why) => {
                failed += 1;
                println!("FAIL {name} ({row}; {took:.1} s): {why}\n     again: make chaos SEED={seed} FAULTS={name}");
            }
        }
    }
    // The line that `make test` counts.
    println!("\ntest result: {}. {passed} passed; {failed} failed; 0 ignored", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seed_of_the_clock() -> u64 {
    jiff::Timestamp::now().as_millisecond().unsigned_abs() % 1_000_000
}
