//! Programs that run beside a test and end with it, free ports, and waiting for what they do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Passwords and tokens of all tests: no program may print one, whatever happens to it.
const SECRETS: [&str; 3] = [crate::kafka_server::PASSWORD, crate::together::TOKEN, "a-token-of-the-test"];

/// A running program: ended by SIGTERM when dropped, and when the test process is no more.
pub(crate) struct Background {
    supervisor: Child,
    /// What it printed.
    pub(crate) log: PathBuf,
}

impl Background {
    /// Starts `program`; both outputs go to `log`.
    pub(crate) fn start(program: &Path, arguments: &[&OsStr], environment: &[(&str, &OsStr)], log: PathBuf) -> Self {
        // The shell's input closes with this process, however it ends. A program that does not heed
        // SIGTERM within 20 s is killed, so that no test leaves one behind.
        let script = r#"log=$1; shift
"$@" >"$log" 2>&1 </dev/null &
program=$!
echo "$program" >"$log.pid"
cat >/dev/null
kill "$program" 2>/dev/null
for _ in $(seq 200); do kill -0 "$program" 2>/dev/null || break; sleep 0.1; done
kill -9 "$program" 2>/dev/null
wait "$program""#;
        let supervisor = Command::new("sh")
            .args(["-c", script, "supervisor"])
            .arg(&log)
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { supervisor, log }
    }

    /// Sends it a signal by name: `KILL`, `STOP`, `CONT`, `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        // It may have ended by itself.
        drop(Command::new("kill").args([format!("-{name}"), self.pid()]).stderr(Stdio::null()).status());
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> String {
        let file = format!("{}.pid", self.log.display());
        let written = || std::fs::read_to_string(&file).ok()?.strip_suffix('\n').map(str::to_owned);
        until(Duration::from_secs(10), written, || "no pid".into())
    }

    /// What it printed so far.
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Waiting closes the supervisor's input first.
        drop(self.supervisor.wait());
        if !std::thread::panicking() {
            let printed = self.printed();
            let told = SECRETS.iter().find(|secret| printed.contains(**secret));
            assert!(told.is_none(), "a secret is in {}", self.log.display());
        }
    }
}

/// Looks every 100 ms until `look` finds something.
///
/// # Panics
/// After `limit`, with what `otherwise` says.
pub(crate) fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>, otherwise: impl FnOnce() -> String) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() > deadline {
            panic!("not within {limit:?}: {}", otherwise());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
