//! The two listeners over real sockets: names of the contract, errors as JSON, limits, nothing changed
//! without the token.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use recsae::drift::alert::AlertListing;
use recsae::http::openapi::openapi;
use serde_json::{Value, json};

use crate::picture::{NOW_MS, TOKEN, instance, start_text};

fn temp() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recsae.db");
    (folder, path)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut response = agent().get(format!("http://{address}{path}")).call().unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

fn get_json(address: SocketAddr, path: &str) -> Value {
    let (status, body) = get(address, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn post(address: SocketAddr, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
    let mut request = agent().post(format!("http://{address}{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut response = request.send_json(body).unwrap();
    (response.status().as_u16(), response.body_mut().read_json().unwrap())
}

#[test]
fn answers_carry_the_names_of_the_contract() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let alerts = get_json(instance.api, "/api/v1/alerts");
    let names = "id state model_version segment stream concept verification direction ratio ratio_low ratio_high began began_low began_high \
                 alerted_at window_start window_end evidence_log threshold_log exposure reference mde_ratio actions";
    for name in names.split_whitespace() {
        assert!(alerts[0].get(name).is_some(), "{name} in {}", alerts[0]);
    }
    assert_eq!(
        (&alerts[0]["concept"], &alerts[0]["segment"], &alerts[0]["state"]),
        (&json!("Anime · Space opera"), &json!("surface=home"), &json!("firing"))
    );
    assert_eq!((&alerts[0]["window_start"], &alerts[0]["crossings"]), (&json!(start_text(30)), &json!(2)));
    assert_eq!(alerts[1]["state"], "recovered");

    let windows = get_json(instance.api, &format!("/api/v1/windows?from={}&to={}&segment=_all", start_text(3), start_text(5)));
    assert_eq!(windows.as_array().unwrap().len(), 2);
    for name in
        "window_start window_end model_version segment records entities rejected fvu cosine norm_ratio l0 verdict offsets".split(' ')
    {
        assert!(windows[0].get(name).is_some(), "{name} in {}", windows[0]);
    }
    assert_eq!(windows[0]["offsets"], json!([{"topic": "recommendations", "partition": 0, "from": 10, "to": 5130}]));

    let concepts = get_json(instance.api, "/api/v1/concepts?segment=surface%3Dhome&limit=3");
    for name in "stream concept verification family segment rate expected_rate ratio evidence_log threshold_log state".split(' ') {
        assert!(concepts[0].get(name).is_some(), "{name} in {}", concepts[0]);
    }
    assert_eq!(
        (concepts.as_array().unwrap().len(), &concepts[0]["stream"], &concepts[0]["state"]),
        (3, &json!("latent:0"), &json!("alert"))
    );
    let one = get_json(instance.api, "/api/v1/concepts/latent:7");
    assert_eq!((one.as_array().unwrap().len(), &one[0]["ratio_high"]), (4, &Value::Null), "an infinite limit is null");
    assert_eq!(one[0]["history"].as_array().unwrap().len(), 32);

    let status = get_json(instance.api, "/api/v1/status");
    for name in "version config_hash engine lineage partitions last_window judging history_head ready not_ready models".split(' ') {
        assert!(status.get(name).is_some(), "{name} in {status}");
    }
    assert_eq!((&status["partitions"][2]["lag_records"], &status["models"][0]["reference"]["name"]), (&json!(18), &json!("first:14d")));
}

#[test]
fn an_alert_by_its_number_is_explained_as_the_store_has_it() {
    let (folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let reader = recsae::store::StoreReader::open(&path).unwrap();
    let found = get_json(instance.api, "/api/v1/alerts/2");
    // Through text on both sides, as the API's answer went.
    let stored: Value = serde_json::from_str(&serde_json::to_string(&reader.explanation(2).unwrap()).unwrap()).unwrap();
    assert_eq!(found["explanation"], stored);
    let listed = &get_json(instance.api, "/api/v1/alerts")[0];
    for (name, value) in listed.as_object().unwrap() {
        assert_eq!(&found[name], value, "{name}");
    }
    assert_eq!(found["names"], json!({"latent:2": "Family animation?", "latent:4": "Heist films"}));
    assert_eq!(get_json(instance.api, "/api/v1/alerts/1")["explanation"], Value::Null);
    for (path, status) in [("/api/v1/alerts/9", 404), ("/api/v1/alerts/nine", 400)] {
        assert_eq!(get(instance.api, path).0, status, "{path}");
    }
    let (code, out, errors) = recsae(folder.path(), &instance.api.to_string(), &["alerts", "show", "2"]);
    assert_eq!(code, 0, "{errors}");
    for words in [
        "Anime · Space opera",
        "entities: the crowd",
        "one item carries",
        "Interstellar (2014) & more",
        "31 h old",
        "shown with  Heist films",
    ] {
        assert!(out.contains(words), "{words} in {out}");
    }
    assert_eq!(recsae(folder.path(), &instance.api.to_string(), &["alerts", "show", "9"]).0, 2);
}

fn send_form(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> (u16, String, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
    let mut response = agent.post(format!("http://{address}{path}")).send_form(fields.iter().copied()).unwrap();
    let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status().as_u16(), location, response.body_mut().read_to_string().unwrap())
}

#[test]
fn a_form_acts_without_scripts_needs_the_token_and_keeps_what_was_filled_in() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let filled = |token: &'static str, action: &'static str, who: &'static str| {
        [("who", who), ("why", "a <campaign> & more"), ("token", token), ("hours", "8"), ("action", action)]
    };
    let (status, _, body) = send_form(instance.api, "/alerts/2", &filled("another", "mute", "ana"));
    assert_eq!(status, 401);
    assert!(body.contains("role=\"alert\"") && body.contains("a &lt;campaign&gt; &amp; more") && !body.contains("another"), "{body}");
    assert_eq!(send_form(instance.api, "/alerts/2", &filled(TOKEN, "delete", "ana")).0, 400);
    assert_eq!(send_form(instance.api, "/alerts/2", &filled(TOKEN, "acknowledge", " ")).0, 409, "who acts is asked for");
    assert_eq!(send_form(instance.api, "/alerts/9", &filled(TOKEN, "mute", "ana")).0, 404);
    let (status, location, _) = send_form(instance.api, "/alerts/2", &filled(TOKEN, "mute", "ana"));
    assert_eq!((status, location.as_str()), (303, "/alerts/2#actions"));
    let listed = get_json(instance.api, "/api/v1/alerts/2");
    let until = recsae::drift::alert::utc_text(NOW_MS + 8 * 3_600_000);
    let action = &listed["actions"][0];
    assert_eq!((&action["action"], &action["who"], &action["until"]), (&json!("mute"), &json!("ana"), &json!(until)));
    assert!(get(instance.api, "/alerts/2").1.contains("by <strong>ana</strong>"));
    // Without a token nothing can be sent, and the page says so instead of offering a form.
    let (_other, path) = temp();
    let closed = crate::picture::instance(&path, None);
    assert!(!get(closed.api, "/alerts/2").1.contains("<form"));
    assert_eq!(send_form(closed.api, "/alerts/2", &filled(TOKEN, "mute", "ana")).0, 403);
}

#[test]
fn what_cannot_be_answered_says_why_as_json() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    for (path, status, kind) in [
        ("/api/v1/nothing", 404, "not_found"),
        ("/api/v1/concepts/latent:x", 400, "bad_request"),
        ("/api/v1/concepts/latent:4000", 404, "not_found"),
        ("/api/v1/windows?from=yesterday", 400, "bad_request"),
        ("/api/v1/windows?colour=red", 400, "bad_request"),
        ("/api/v1/concepts?state=furious", 400, "bad_request"),
        ("/api/v1/alerts/1/mute", 405, "method_not_allowed"),
    ] {
        let (found, body) = get(instance.api, path);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((found, &body["error"]["kind"]), (status, &json!(kind)), "{path}: {body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    assert_eq!(get(instance.metrics, "/api/v1/alerts").0, 404, "the metrics listener shows metrics and probes alone");
    for (address, path) in [(instance.metrics, "/metrics"), (instance.metrics, "/readyz"), (instance.api, "/api/v1/alerts")] {
        let (status, refused) = post(address, path, None, &json!({}));
        assert_eq!((status, &refused["error"]["kind"]), (405, &json!("method_not_allowed")), "{path}: {refused}");
    }
}

#[test]
fn an_action_needs_the_token_and_is_seen_at_once() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let body = json!({"who": "ana", "why": "a campaign"});
    let act = |token, path, body: &Value| post(instance.api, path, token, body);
    assert_eq!(act(None, "/api/v1/alerts/2/acknowledge", &body).0, 401);
    assert_eq!(act(Some("another"), "/api/v1/alerts/2/acknowledge", &body).0, 401);
    assert_eq!(act(Some(TOKEN), "/api/v1/alerts/9/acknowledge", &body).0, 404);
    assert_eq!(act(Some(TOKEN), "/api/v1/alerts/2/delete", &body).0, 404);
    assert_eq!(act(Some(TOKEN), "/api/v1/alerts/2/accept", &json!({"who": "", "why": "x"})).0, 409);
    assert_eq!(act(Some(TOKEN), "/api/v1/alerts/2/accept", &json!({"who": "ana"})).0, 422);
    assert_eq!(act(Some(TOKEN), "/api/v1/alerts/2/mute", &json!({"who": "ana", "why": "x", "until": "2001-01-01T00:00:00Z"})).0, 400);
    assert_eq!(act(Some(TOKEN), "/api/v1/alerts/2/mute", &body).0, 400, "a mute has an end");
    let until = recsae::drift::alert::utc_text(NOW_MS + 3_600_000);
    let mute = json!({"who": "ana", "why": "a campaign", "until": until});
    assert_eq!(act(Some(TOKEN), "/api/v1/alerts/1/mute", &mute).0, 409, "it has recovered");
    let (status, muted) = act(Some(TOKEN), "/api/v1/alerts/2/mute", &json!({"who": "ana", "why": "a campaign", "until": until}));
    assert_eq!((status, &muted["actions"][0]["until"]), (200, &json!(until)), "{muted}");
    let listed: Vec<AlertListing> = serde_json::from_value(get_json(instance.api, "/api/v1/alerts")).unwrap();
    assert_eq!((listed[0].actions[0].who.as_str(), listed[0].actions[0].why.as_str()), ("ana", "a campaign"));
}

#[test]
fn without_a_token_file_actions_are_off() {
    let (_folder, path) = temp();
    let instance = instance(&path, None);
    let (status, body) = post(instance.api, "/api/v1/alerts/2/acknowledge", Some(""), &json!({"who": "ana", "why": "x"}));
    assert_eq!((status, &body["error"]["kind"]), (403, &json!("no_token_configured")));
}

#[test]
fn the_test_alert_is_shown_until_its_time() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let series = "recsae_concept_state{model_version=\"test\",segment=\"test\",stream=\"test\"} 2.0";
    assert!(!get(instance.metrics, "/metrics").1.contains(series));
    assert_eq!(post(instance.api, "/api/v1/alerts/test", Some(TOKEN), &json!({"who": "ana", "minutes": 5})).0, 200);
    assert!(get(instance.metrics, "/metrics").1.contains(series));
    instance.clock.set(NOW_MS + 300_000);
    assert!(!get(instance.metrics, "/metrics").1.contains(series));
}

#[test]
fn a_reload_needs_the_token_and_says_what_is_not_sound() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let ask = |token, body: &serde_json::Value| post(instance.api, "/api/v1/reload", token, body);
    let body = json!({"who": "ana", "why": "a new SAE"});
    assert_eq!(ask(None, &body).0, 401);
    assert_eq!(ask(Some(TOKEN), &json!({"who": "ana", "why": " "})).0, 400);
    let (status, answer) = ask(Some(TOKEN), &body);
    assert_eq!((status, &answer["error"]["kind"]), (409, &json!("reload_refused")));
    assert_eq!(answer["error"]["message"], "models: 0 are configured", "in the words of who checks");
}

#[test]
fn probes_say_what_is_missing() {
    let (_folder, path) = temp();
    let instance = instance(&path, None);
    assert_eq!(get(instance.metrics, "/readyz"), (200, "ok\n".into()));
    instance.live.set_not_ready("store", "disk full");
    assert_eq!(get(instance.metrics, "/readyz"), (503, "store: disk full\n".into()));
    assert_eq!(get(instance.metrics, "/startupz").0, 200);
    assert_eq!(get(instance.metrics, "/livez").0, 200);
    let exposed = get(instance.metrics, "/metrics").1;
    assert!(exposed.contains("recsae_ready 0.0") && exposed.contains("recsae_not_ready{part=\"store\"} 1.0"), "{exposed}");
}

#[test]
fn a_body_or_header_beyond_the_limit_is_refused() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let (status, _) = post(instance.api, "/api/v1/alerts/2/acknowledge", Some(TOKEN), &json!({"who": "a".repeat(100_000), "why": "x"}));
    assert_eq!(status, 413);
    let mut stream = TcpStream::connect(instance.metrics).unwrap();
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n", "a".repeat(100_000)).as_bytes()).unwrap();
    let mut answer = Vec::new();
    // The server may close before it has read everything, which arrives here as a reset.
    drop(stream.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(post(instance.api, "/api/v1/alerts/2/acknowledge", None, &json!({"who": "ana", "why": "x"})).0, 401);
    assert_eq!(get(instance.api, "/nowhere").0, 404);
    // A wrong path is nobody's refusal. The connection that was cut is counted when its task ends, soon after.
    let counted = || get(instance.metrics, "/metrics").1.contains("recsae_http_requests_rejected_total 3\n");
    assert!((0..2000).any(|_| counted()), "three refusals are not counted");
}

#[test]
fn the_description_lists_every_path_and_nothing_else() {
    let (_folder, path) = temp();
    let instance = instance(&path, None);
    let document = get_json(instance.api, "/api/v1/openapi.json");
    assert_eq!(document, openapi());
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{stream}", "latent:0").replace("{id}", "2").replace("{name}", "first");
        let status = if methods.get("get").is_some() { get(instance.api, &path).0 } else { post(instance.api, &path, None, &json!({})).0 };
        assert!([200, 403].contains(&status), "{path}: {status}");
    }
}

/// Every field of an answer is described, so that a client made from the description loses none.
#[test]
fn the_description_names_every_field_of_an_answer() {
    let (_folder, path) = temp();
    let instance = instance(&path, None);
    let document = openapi();
    for (path, schema) in [("concepts", "Concept"), ("windows", "Window"), ("alerts", "Alert")] {
        let answer = get_json(instance.api, &format!("/api/v1/{path}"));
        let described = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        let found = answer.as_array().unwrap();
        assert!(!found.is_empty(), "{path}");
        for field in found.iter().flat_map(|item| item.as_object().unwrap().keys()) {
            assert!(described.contains_key(field), "{path}: {field} is not described");
        }
    }
}

/// Runs `recsae` with a configuration of this instance; exit code, output, errors.
fn recsae(folder: &std::path::Path, api: &str, arguments: &[&str]) -> (i32, String, String) {
    std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
    let store = folder.join("recsae.db");
    let text = format!(
        "[[model]]\nbundle = \"bundle\"\n[store]\npath = {store:?}\n[http]\nlisten = \"{api}\"\ntoken_file = {:?}\n",
        folder.join("token")
    );
    std::fs::write(folder.join("recsae.toml"), text).unwrap();
    let config = folder.join("recsae.toml").display().to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).args(["-c", &config]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_alerts_command_goes_through_the_running_instance() {
    let (folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let api = instance.api.to_string();
    let (code, out, errors) = recsae(folder.path(), &api, &["alerts", "list", "--firing"]);
    assert_eq!(code, 1, "{errors}");
    assert!(out.contains("FIRING") && out.contains("Anime · Space opera [latent:0]  surface=home  up x2.06"), "{out}");
    assert!(!out.contains("recovered"), "{out}");
    let (code, out, errors) =
        recsae(folder.path(), &api, &["alerts", "mute", "2", "--who", "ana", "--why", "campaign", "--for", "2h", "--json"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(serde_json::from_str::<Vec<AlertListing>>(&out).unwrap()[0].actions[0].who, "ana");
    let (code, _, errors) = recsae(folder.path(), &api, &["alerts", "acknowledge", "77", "--why", "x"]);
    assert_eq!(code, 2);
    assert!(errors.contains("no alert \"77\""), "{errors}");
    assert_eq!(recsae(folder.path(), &api, &["alerts", "test", "--minutes", "1"]).0, 0);
    assert!(get(instance.metrics, "/metrics").1.contains("stream=\"test\"} 2.0"));
}

#[test]
fn an_instance_that_keeps_another_store_refuses_a_command() {
    let (_folder, path) = temp();
    let instance = instance(&path, Some(TOKEN));
    let (elsewhere, _) = temp();
    for arguments in [&["alerts", "list"][..], &["alerts", "mute", "2", "--who", "ana", "--why", "x", "--for", "2h"]] {
        let (code, _, errors) = recsae(elsewhere.path(), &instance.api.to_string(), arguments);
        assert_eq!(code, 2, "{errors}");
        let (own, meant) = (path.display().to_string(), elsewhere.path().join("recsae.db").display().to_string());
        assert!(errors.contains(&own) && errors.contains(&meant), "{errors}");
    }
    let alerts = get_json(instance.api, "/api/v1/alerts");
    assert!(alerts.as_array().unwrap().iter().all(|alert| !alert["actions"].to_string().contains("\"ana\"")), "{alerts}");
}

#[test]
fn with_no_instance_running_alerts_and_the_record_are_read_from_the_store() {
    let (folder, path) = temp();
    let closed = { instance(&path, None).api.to_string() };
    let (code, out, errors) = recsae(folder.path(), &closed, &["alerts", "list"]);
    assert_eq!(code, 0, "{errors}");
    assert!(out.contains("latent 0 [latent:0]"), "{out}");
    assert_eq!(recsae(folder.path(), &closed, &["alerts", "acknowledge", "2", "--who", "ana", "--why", "x"]).0, 0);
    let (code, _, errors) = recsae(folder.path(), &closed, &["alerts", "test"]);
    assert_eq!(code, 2);
    assert!(errors.contains("goes through a running one"), "{errors}");

    let (code, out, _) = recsae(folder.path(), &closed, &["history", "verify", "--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["intact"], &found["entries"]), (0, &json!(true), &json!(43)), "{found}");
    let head = found["head"].as_str().unwrap();
    assert_eq!(recsae(folder.path(), &closed, &["history", "verify", "--head", head]).0, 0);
    assert_eq!(recsae(folder.path(), &closed, &["history", "verify", "--head", &"0f".repeat(32)]).0, 1);
    assert_eq!(recsae(folder.path(), &closed, &["history", "verify", "--head", "00ff"]).0, 2, "a part of a head proves nothing");
}
