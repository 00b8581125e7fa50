//! Alerts and lineages: what fires belongs to the lineage it was opened in, and ends with it.

use std::collections::BTreeMap;

use super::{WINDOW, crossing, judgement, open, temp};
use crate::drift::alert::{ActionKind, AlertAction, AlertConcept};
use crate::drift::report::{AlertChange, AlertState, Crossing};
use crate::drift::stream::StreamId;
use crate::sae::latent::LatentId;
use crate::store::Store;
use crate::store::alerts::changeable;
use crate::store::audit::Verification;
use crate::store::judgement::JudgementOutcome;
use crate::store::schema::VERSION;

fn opens(store: &mut Store, crossing: Crossing, sae: &str, name: &str) {
    let start_ms = crossing.window_start_ms;
    let concept = AlertConcept { fingerprint: Some(sae.into()), name: Some((name.into(), "accepted".into())) };
    let mut judged = judgement(start_ms, 0, vec![AlertChange::Opened(crossing)]);
    judged.models[0].concepts = BTreeMap::from([(StreamId::Latent(LatentId(1)), concept)]);
    assert_eq!(store.commit_judgement(&judged).unwrap(), JudgementOutcome::Stored);
}

fn told(store: &Store, kind: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    let keep = |entry: &crate::store::audit::AuditEntry| bodies.extend((entry.kind == kind).then(|| entry.body.clone()));
    assert!(matches!(store.read().verify_audit(keep).unwrap(), Verification::Intact { .. }));
    bodies
}

#[test]
fn what_fires_ends_when_a_new_lineage_begins_and_the_next_crossing_opens_an_alert_of_its_own() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    opens(&mut store, crossing(1, 1000), "first SAE", "westerns");
    store.begin_lineage("other", "", &WINDOW, 9000).unwrap();
    let ended = store.read().alert(1).unwrap().unwrap();
    assert_eq!((ended.state, ended.ended_ms), (AlertState::Ended, Some(9000)));
    let entry: serde_json::Value = serde_json::from_str(&told(&store, "alerts_ended")[0]).unwrap();
    assert_eq!((&entry["alerts"], &entry["why"]), (&serde_json::json!([1]), &serde_json::json!("a new lineage began")));

    // The same model version, segment and stream: of another SAE.
    let later = Crossing { reference: "second".into(), ..crossing(1, 50_000) };
    opens(&mut store, later.clone(), "second SAE", "operas");
    let alerts = store.read().alerts(10).unwrap();
    let seen: Vec<_> = alerts.iter().map(|alert| (alert.id, alert.state, alert.n_crossings, alert.opened.reference.as_str())).collect();
    assert_eq!(seen, [(2, AlertState::Firing, 1, "second"), (1, AlertState::Ended, 1, "first")]);
    let name = |at: usize| alerts[at].concept.name.clone().unwrap().0;
    assert_eq!((name(0), name(1)), ("operas".into(), "westerns".into()), "each under the name it was opened under");
    assert_eq!(told(&store, "alert_opened").len(), 2);

    let relapse = AlertChange::Relapsing(Crossing { window_start_ms: 51_000, ..later });
    assert_eq!(store.commit_judgement(&judgement(51_000, 0, vec![relapse])).unwrap(), JudgementOutcome::Stored);
    assert_eq!(store.read().alert(1).unwrap().unwrap().n_crossings, 1, "no crossing of the new one is written on the old one");

    let accept = AlertAction { action: ActionKind::Mute, who: "ana".into(), why: "known".into(), at_ms: 9500, until_ms: Some(9900) };
    let refused = store.act(1, &accept).unwrap_err().to_string();
    assert!(refused.contains("alert 1 is ended since a new lineage began"), "{refused}");
    assert!(changeable(&ended, ActionKind::Accept).is_err() && changeable(&ended, ActionKind::Acknowledge).is_ok());

    store.reader.connection.execute_batch("UPDATE alerts SET concept = 'something else' WHERE id = 1").unwrap();
    assert!(matches!(store.read().verify_audit(|_| {}).unwrap(), Verification::Broken { .. }), "the name is in the chain");
}

#[test]
fn what_a_lineage_without_a_window_ended_fires_on_when_it_is_taken_back() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    opens(&mut store, crossing(1, 1000), "SAE", "westerns");
    store.begin_lineage("other", "", &WINDOW, 9000).unwrap();
    assert_eq!(store.read().alert(1).unwrap().unwrap().state, AlertState::Ended);
    assert!(store.begin_lineage("hash", "", &WINDOW, 9500).unwrap().continued);
    let again = store.read().alert(1).unwrap().unwrap();
    assert_eq!((again.state, again.ended_ms), (AlertState::Firing, None));
    assert!(told(&store, "lineage_taken_back")[0].contains("\"alerts\":[1]"));
}

#[test]
fn an_alert_of_an_older_program_gets_its_sae_from_its_reference() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    opens(&mut store, crossing(1, 1000), "SAE", "westerns");
    let as_before = "ALTER TABLE alerts DROP COLUMN fingerprint; ALTER TABLE alerts DROP COLUMN concept;
        ALTER TABLE alerts DROP COLUMN verification; DROP TABLE followed; DROP TABLE cluster; DROP TABLE topics;
        DROP INDEX partials_unjudged;
        ALTER TABLE positions DROP COLUMN mark_offset; ALTER TABLE positions DROP COLUMN mark_timestamp_ms; PRAGMA user_version = 4;
        INSERT INTO reference_models (name, fingerprint, created_ms, from_ms, to_ms, windows, body) VALUES ('first', 'old SAE', 1, 0, 1, 1, x'')";
    store.reader.connection.execute_batch(as_before).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(VERSION, 9);
    let expected = AlertConcept { fingerprint: Some("old SAE".into()), name: None };
    assert_eq!(store.read().alert(1).unwrap().unwrap().concept, expected);
}
