//! The systemd unit: readable by systemd, and as closed as the program allows.

use std::process::Command;

use crate::support;

#[test]
fn the_unit_is_hardened_to_an_exposure_of_at_most_one_and_a_half() {
    let Some(analyze) = support::program("systemd-analyze") else { return };
    let unit = support::repo().join("deploy/recsae.service");
    let output = Command::new(analyze)
        .args(["security", "--offline=true", "--no-pager", "--threshold=15"])
        .arg(unit)
        .output()
        .expect("systemd-analyze runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
    println!("{verdict}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(verdict.contains("recsae.service"), "no verdict in {text}");
}
