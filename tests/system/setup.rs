//! Set-up: a second run needs no network, and what cannot be installed is named with the command to get it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::support;

#[test]
fn a_second_run_does_nothing_and_passes_with_the_network_off() {
    let Some(unshare) = support::program("unshare") else { return };
    // A network of its own, with nothing in it; as a user's, where only root may otherwise.
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let mut command = Command::new(unshare);
    command.args(if root { &["-n"][..] } else { &["-rn"][..] }).args(["make", "--no-print-directory", "setup"]);
    let output = command.current_dir(support::repo()).output().unwrap();
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "`make setup` was not run since a version changed: {printed}");
    assert_eq!(printed, "", "nothing is left to do after `make setup`");
}

#[test]
fn what_only_root_can_install_is_named_with_the_command() {
    let folder = tempfile::tempdir().unwrap();
    // A machine without pkg-config, python and the rest, for a user who is not root.
    for name in ["sh", "dirname", "mkdir", "cat", "grep", "sed"] {
        symlink(support::program(name).unwrap(), folder.path().join(name)).unwrap();
    }
    let id = folder.path().join("id");
    fs::write(&id, "#!/bin/sh\necho 1000\n").unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |group: &str, required: &str| {
        let output = Command::new(folder.path().join("sh"))
            .arg(support::repo().join("deploy/setup/debian.sh"))
            .arg(group)
            .env_clear()
            .env("PATH", folder.path())
            .env("HOME", folder.path())
            .env("RECSAE_REQUIRE_DATA", required)
            .output()
            .unwrap();
        (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    let (passed, printed) = run("build", "0");
    assert!(
        !passed && printed.contains("Run: sudo apt-get install --no-install-recommends python3-venv pkg-config libssl-dev"),
        "{printed}"
    );
    let (passed, printed) = run("test", "0");
    assert!(passed && printed.contains("maven kcat prometheus") && printed.contains("will say that they skip"), "{printed}");
    assert!(!run("test", "1").0, "under RECSAE_REQUIRE_DATA=1 nothing may be missing");
}
