//! The page and API over TLS, asked by another program's TLS: what the plain listener promises holds there too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use recsae::http::server::ListenOptions;
use recsae::http::tls;
use serde_json::Value;

use crate::picture::{Instance, TOKEN, instance_with};
use crate::support;

/// A certificate that signs itself for 127.0.0.1, and its key.
fn certificate(folder: &Path, name: &str) -> Option<(PathBuf, PathBuf)> {
    let openssl = support::program("openssl")?;
    let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let made = Command::new(openssl)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=recsae", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some((cert, key))
}

fn start(folder: &Path, options: ListenOptions) -> Option<(Instance, PathBuf)> {
    let (cert, key) = certificate(folder, "own")?;
    let options = ListenOptions { tls: Some(tls::acceptor(&cert, &key).unwrap()), ..options };
    Some((instance_with(&folder.join("recsae.db"), Some(TOKEN), options), cert))
}

/// Asks with Python's own TLS, trusting `authority` alone: (status, body), or why there was no answer.
const ASK: &str = "
import json, ssl, sys, urllib.error, urllib.request
authority, url, token, body, cookie = sys.argv[1:]
headers = {'authorization': 'Bearer ' + token, 'content-type': 'application/json'}
if cookie: headers['cookie'] = 'a' * int(cookie)
data = b'x' * int(body) if body.isdigit() else body.encode() or None
request = urllib.request.Request(url, data=data, headers=headers)
try:
    context = ssl.create_default_context(cafile=authority)
    with urllib.request.urlopen(request, context=context, timeout=20) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
except OSError as error:
    print(json.dumps([0, str(error)]))
";

#[derive(Default)]
struct Ask<'a> {
    token: &'a str,
    body: &'a str,
    cookie: &'a str,
}

fn ask(python: &Path, authority: &Path, address: SocketAddr, path: &str, with: &Ask<'_>) -> (u16, String) {
    let url = format!("https://{address}{path}");
    let output = Command::new(python).args(["-c", ASK]).arg(authority).args([&url, with.token, with.body, with.cookie]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn over_tls_page_and_api_answer_and_actions_need_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let (Some(python), Some((instance, cert))) = (support::python(), start(folder.path(), ListenOptions::default())) else { return };
    let ask = |path: &str, with: &Ask<'_>| ask(&python, &cert, instance.api, path, with);
    assert!(ask("/", &Ask::default()).1.starts_with("<!DOCTYPE html>"));
    let (status, body) = ask("/api/v1/alerts", &Ask::default());
    let alerts: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &alerts[0]["concept"]), (200, &Value::from("Anime · Space opera")));
    let action = r#"{"who": "ana", "why": "seen"}"#;
    assert_eq!(ask("/api/v1/alerts/2/acknowledge", &Ask { body: action, ..Ask::default() }).0, 401);
    assert_eq!(ask("/api/v1/alerts/2/acknowledge", &Ask { body: action, token: TOKEN, ..Ask::default() }).0, 200);
    // Refused before it is read to its end: what the client sees is the answer, or that nobody reads on.
    let (status, answer) = ask("/api/v1/alerts/2/acknowledge", &Ask { body: "66000", token: TOKEN, ..Ask::default() });
    assert!(status == 413 || (status == 0 && answer.contains("pipe")) || answer.contains("reset"), "body cap: {status} {answer}");
    assert_ne!(ask("/api/v1/status", &Ask { cookie: "60000", ..Ask::default() }).0, 200, "header cap");

    let (other, _) = certificate(folder.path(), "other").unwrap();
    let (status, why) = self::ask(&python, &other, instance.api, "/", &Ask::default());
    assert!(status == 0 && why.contains("CERTIFICATE_VERIFY_FAILED"), "{why}");
    let mut plain = TcpStream::connect(instance.api).unwrap();
    plain.write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn connections_that_ask_nothing_make_room_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = ListenOptions { max_connections: 2, header_timeout: Duration::from_secs(3600), ..ListenOptions::default() };
    let (Some(python), Some((instance, cert))) = (support::python(), start(folder.path(), options)) else { return };
    let mut silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(instance.api).unwrap()).collect();
    assert_eq!(ask(&python, &cert, instance.api, "/api/v1/status", &Ask::default()).0, 200, "all places are taken, for an hour");
    assert_cut_off(silent.drain(..7));
}

#[test]
fn a_handshake_or_header_that_never_ends_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let options = ListenOptions { header_timeout: Duration::from_millis(600), ..ListenOptions::default() };
    let Some((instance, _)) = start(folder.path(), options) else { return };
    assert_cut_off((0..2).map(|_| TcpStream::connect(instance.api).unwrap()));
}

fn assert_cut_off(silent: impl Iterator<Item = TcpStream>) {
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut rest = Vec::new();
        // Closed or reset; never the end of our patience.
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
}

/// Runs `recsae alerts list` with a configuration of this instance; exit code, output, errors.
fn alerts(folder: &Path, address: SocketAddr, cert: &Path, arguments: &[&str]) -> (i32, String, String) {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let text = format!(
        "[[model]]\nbundle = 'bundle'\n[store]\npath = {:?}\n[http]\nlisten = '{address}'\ntls_cert_file = {cert:?}\ntls_key_file = 'unread'\ntoken_file = {:?}\n",
        folder.join("recsae.db"),
        folder.join("token")
    );
    std::fs::write(folder.join("recsae.toml"), text).unwrap();
    let config = folder.join("recsae.toml").display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(arguments).args(["-c", &config]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_command_asks_the_instance_of_its_own_certificate_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let Some((instance, cert)) = start(folder.path(), ListenOptions::default()) else { return };
    let (code, out, errors) = alerts(folder.path(), instance.api, &cert, &["alerts", "list"]);
    assert!(code == 0 && out.contains("Anime · Space opera [latent:0]"), "{out}{errors}");
    let mute = ["alerts", "mute", "2", "--who", "ana", "--why", "campaign", "--for", "2h"];
    assert_eq!(alerts(folder.path(), instance.api, &cert, &mute).0, 0);
    let (other, _) = certificate(folder.path(), "other").unwrap();
    let (code, _, errors) = alerts(folder.path(), instance.api, &other, &["alerts", "list"]);
    assert!(code == 2 && errors.contains("another certificate than http.tls_cert_file holds"), "{errors}");
}

#[test]
fn files_that_are_no_certificate_and_key_are_told_in_one_line_that_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let Some((cert, key)) = certificate(folder.path(), "one") else { return };
    let (other, _) = certificate(folder.path(), "two").unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for (cert, key, named, words) in [
        (&empty, &key, "http.tls_cert_file", "expected a certificate"),
        (&key, &key, "http.tls_cert_file", "found none"),
        (&cert, &cert, "http.tls_key_file", "expected a private key"),
        (&other, &key, "http.tls_key_file", "does not belong"),
        (&folder.path().join("gone"), &key, "http.tls_cert_file", "cannot read"),
    ] {
        let error = tls::acceptor(cert, key).err().unwrap();
        let line = error.to_string();
        assert!(error.key() == named && line.contains(words) && !line.contains('\n'), "{}: {line}", error.key());
        assert!(!line.contains("BEGIN EC") && line.len() < 400, "{line}");
        let text = format!("[[model]]\nbundle = 'b'\n[http]\ntls_cert_file = {cert:?}\ntls_key_file = {key:?}\n");
        let config = folder.path().join("recsae.toml");
        std::fs::write(&config, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_recsae")).args(["check", "--offline", "-c"]).arg(&config).output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        assert!(printed.contains(&format!("{named}: ")) && printed.contains(words), "{printed}");
    }
}
