//! The rules of states, each by itself, then over random paths.

use proptest::prelude::*;

use super::*;

const GATE: Gate = Gate { up: 1.1, down: 0.9 };

fn window(count: f64, expected: f64) -> HeldWindow {
    HeldWindow { count, expected, gate: GATE, dispersion: 1.0, run_nats: 0.0 }
}

fn crossed(direction: Direction, ratio: f64) -> Crossed {
    Crossed { direction, evidence_log: 14.0, ratio, windows: 3, start_ms: 0 }
}

#[test]
fn an_alert_holds_while_the_shift_lasts_and_recovers_soon_after() {
    let mut hold = Hold::open(crossed(Direction::Up, 1.5));
    for _ in 0..40 {
        assert_eq!(hold.step(window(150.0, 100.0)), HoldStep::Held);
    }
    let steps: Vec<HoldStep> = (0..300).map(|_| hold.step(window(100.0, 100.0))).collect();
    let recovered = steps.iter().position(|step| *step == HoldStep::Recovered).unwrap();
    assert!((24..=36).contains(&recovered), "{recovered}");
    assert_eq!(steps[recovered + 200], HoldStep::Over);
}

#[test]
fn a_short_change_is_over_after_twelve_windows_inside() {
    let mut hold = Hold::open(crossed(Direction::Up, 3.0));
    for _ in 0..3 {
        hold.step(window(300.0, 100.0));
    }
    let recovered = (0..).find(|_| hold.step(window(100.0, 100.0)) == HoldStep::Recovered).unwrap();
    assert!((12..=24).contains(&recovered), "{recovered}");
}

#[test]
fn recovered_is_shown_for_twelve_windows() {
    let mut hold = Hold::open(crossed(Direction::Up, 2.0));
    while hold.step(window(100.0, 100.0)) != HoldStep::Recovered {}
    for _ in 0..12 {
        assert_eq!(hold.state(), Some(StreamState::Recovered));
        hold.step(window(100.0, 100.0));
    }
    assert_eq!(hold.state(), None);
}

#[test]
fn a_level_on_either_side_does_not_recover() {
    for level in [70.0, 140.0] {
        let mut hold = Hold::open(crossed(Direction::Down, 0.5));
        for _ in 0..200 {
            assert_eq!(hold.step(window(level, 100.0)), HoldStep::Held, "{level}");
        }
    }
}

#[test]
fn a_run_that_gathers_evidence_keeps_the_alert() {
    let mut hold = Hold::open(crossed(Direction::Up, 2.0));
    for _ in 0..100 {
        assert_eq!(hold.step(HeldWindow { run_nats: 5.0, ..window(100.0, 100.0) }), HoldStep::Held);
    }
}

#[test]
fn a_concept_that_vanished_recovers_when_it_is_back() {
    let mut hold = Hold::open(crossed(Direction::Down, 0.0));
    for _ in 0..20 {
        assert_eq!(hold.step(window(0.0, 2.0)), HoldStep::Held);
    }
    assert!((0..60).any(|_| hold.step(window(2.0, 2.0)) == HoldStep::Recovered));
}

#[test]
fn a_relapse_needs_two_crossings_and_recovers_more_slowly() {
    let mut hold = Hold::open(crossed(Direction::Up, 2.0));
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push((1..).find(|_| hold.step(window(100.0, 100.0)) == HoldStep::Recovered).unwrap());
        assert_eq!(hold.cross_again(crossed(Direction::Up, 2.0)), Told::Unconfirmed);
        for _ in 0..13 {
            hold.step(window(100.0, 100.0));
        }
        assert_eq!(hold.cross_again(crossed(Direction::Up, 2.0)), Told::Unconfirmed, "the first is too long ago");
        assert_eq!(hold.cross_again(crossed(Direction::Up, 2.0)), Told::Opens);
    }
    assert_eq!(waits, [12, 48, 192, 768]);
    assert_eq!(hold.cross_again(crossed(Direction::Down, 0.5)), Told::Again, "written on the same alert");
}

#[test]
fn warn_begins_at_a_hundredth_of_the_threshold() {
    assert_eq!(unheld_state(10.0, 14.7), StreamState::Ok);
    assert_eq!(unheld_state(10.2, 14.7), StreamState::Warn);
}

proptest! {
    #[test]
    fn no_path_of_counts_flaps(
        path in proptest::collection::vec((0.0..300.0_f64, 0.0..6.0_f64, proptest::bool::weighted(0.1), any::<bool>()), 1..1000),
    ) {
        let mut hold: Option<Hold> = None;
        let (mut notifications, mut last_crossing) = (Vec::new(), 0);
        for (t, (count, run_nats, crosses, up)) in path.into_iter().enumerate() {
            if crosses {
                let crossing = crossed(if up { Direction::Up } else { Direction::Down }, if up { 1.6 } else { 0.6 });
                let told = match &mut hold {
                    Some(hold) => hold.cross_again(crossing),
                    none => { *none = Some(Hold::open(crossing)); Told::Opens }
                };
                notifications.extend((told == Told::Opens).then_some(t));
                last_crossing = t;
            }
            match hold.as_mut().map(|hold| hold.step(HeldWindow { run_nats, ..window(count, 100.0) })) {
                Some(HoldStep::Recovered) => {
                    prop_assert!(t - last_crossing >= 11, "a recovery takes twelve windows");
                    notifications.push(t);
                }
                Some(HoldStep::Over) => hold = None,
                _ => {}
            }
        }
        // Recoveries wait 12, 48, 192 and from then on 768 windows, each alert but the first needs two crossings.
        prop_assert!(notifications.len() <= 7, "{notifications:?}");
        let in_200 = (0..notifications.len()).map(|i| notifications[i..].iter().filter(|t| **t < notifications[i] + 60).count()).max();
        prop_assert!(in_200.unwrap_or(0) <= 4);
    }
}
