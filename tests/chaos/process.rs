//! A `recsae` that can be hurt: signalled by its own process number, and gone when this program is.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Its input closes when this program ends, however it does: then the program is killed. Its own exit
/// status is the program's.
const SUPERVISOR: &str = r#"log=$1; shift
"$@" >>"$log" 2>&1 </dev/null &
program=$!
echo "$program"
exec 3<&0
(cat <&3 >/dev/null; kill -9 "$program" 2>/dev/null) >/dev/null 2>&1 &
guard=$!
wait "$program"
status=$?
kill "$guard" 2>/dev/null
exit "$status""#;

/// A running program.
pub(crate) struct Process {
    supervisor: Child,
    /// Its process number.
    pub(crate) pid: u32,
    /// What it printed.
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts `program`; both outputs are appended to `log`.
    pub(crate) fn start(program: &Path, arguments: &[&OsStr], environment: &[(&str, &OsStr)], log: PathBuf) -> Self {
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(&log)
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(supervisor.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { supervisor, pid: line.trim().parse().unwrap(), log }
    }

    /// Sends a signal by its name (`KILL`, `TERM`, `STOP`, `CONT`, `HUP`).
    pub(crate) fn signal(&self, name: &str) {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).stderr(Stdio::null()).status().unwrap();
    }

    /// Exit status (128 + signal where one ended it); `None` while it runs.
    pub(crate) fn status(&mut self) -> Option<i32> {
        self.supervisor.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<i32, String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.status() {
                Some(status) => return Ok(status),
                None if Instant::now() > deadline => return Err(format!("still running after {limit:?}:\n{}", self.printed_tail())),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// What it printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it printed.
    pub(crate) fn printed_tail(&self) -> String {
        tail(&self.printed())
    }

    /// Most memory it ever had in use, KiB.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        self.number("VmHWM:")
    }

    /// What the kernel counts of it now: memory in use (KiB), threads, open files.
    pub(crate) fn in_use(&self) -> Option<[u64; 3]> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count();
        Some([self.number("VmRSS:")?, self.number("Threads:")?, files as u64])
    }

    fn number(&self, name: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
        // Waiting closes the supervisor's input first.
        drop(self.supervisor.wait());
    }
}

/// The last lines of a log.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
