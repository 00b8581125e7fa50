//! Row 12 and the order of the two commits: a full disk, one that cannot sync, one that turns read-only, and what the kernel saw.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::monitor::{Checked, Monitor};
use crate::process_faults::consumed;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::support;
use crate::verdict::settle;

/// A small disk in memory, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "none"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// The disk fills: not ready, nothing acknowledged that is not stored, and it goes on by itself when
/// there is room again.
pub(crate) fn full(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "disk-full", plan(stage, 30, 8_000));
    let Some(disk) = SmallDisk::mount(&site.folder.path().join("disk")) else {
        support::skip("a tmpfs cannot be mounted here (needs root)");
        return Ok("skipped: no mount".into());
    };
    site.settings.store.path = disk.0.join("recsae.db");
    site.produce(0..3_000, Duration::ZERO)?;
    let mut monitor = site.start(&[], "");
    let kept = |_: &Monitor| (crate::kills::stored(&site)? >= 3_000 && committed(stage, &site).ok()? > 0).then_some(());
    monitor.wait_for(Duration::from_secs(60), "the first records are stored, and some committed", kept)?;
    let ballast = disk.0.join("ballast");
    // Fills what is left to the last byte.
    drop(fs::write(&ballast, vec![1_u8; 16 << 20]));
    let seen = unsynced_while(stage, &site, &mut monitor, 3_000..6_000)?;
    fs::remove_file(&ballast).unwrap();
    monitor.wait_ready(Duration::from_secs(60))?;
    site.produce(6_000..8_000, Duration::ZERO)?;
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(8_000.0))?;
    let verdict = settle(stage, &site, monitor)?;
    Ok(format!("{seen}; ready again by itself; {}", verdict.words()))
}

/// The program under strace with these options, and the file of the trace.
fn traced(site: &Site, strace: &Path, options: &[&str]) -> (Monitor, PathBuf) {
    let trace = site.folder.path().join("trace");
    let (config, metrics, http) = site.write_config("traced", &site.settings);
    // `-D`: the child is the program itself, and signals reach it.
    let arguments: Vec<&OsStr> = ["-D", "-f"]
        .iter()
        .chain(options)
        .chain(&["-o"])
        .map(OsStr::new)
        .chain([trace.as_os_str(), site.recsae.as_os_str(), "run".as_ref(), "-c".as_ref(), config.as_os_str()])
        .collect();
    let environment = [("ORT_DYLIB_PATH", site.library.as_os_str())];
    let process = crate::process::Process::start(strace, &arguments, &environment, site.folder.path().join("traced.log"));
    (Monitor::over(process, metrics, http), trace)
}

/// Syncs that fail in [`sync_fails`]; the program tries again once a second.
const FAILED_SYNCS: u32 = 8;

/// The disk takes what is written, and says EIO when it is to be made sure of: not ready, nothing read meanwhile, nothing
/// acknowledged that is not stored, and it goes on by itself.
pub(crate) fn sync_fails(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "sync-fails", plan(stage, 34, 8_000));
    let Some(strace) = support::program("strace") else { return Ok("skipped: no strace".into()) };
    // Counted a thread; one thread writes the store. The first ones are those of a start.
    let inject = format!("inject=fdatasync,fsync:error=EIO:when=30..{}", 29 + FAILED_SYNCS);
    let (mut monitor, trace) = traced(&site, &strace, &["-e", "trace=fdatasync,fsync", "-e", &inject]);
    monitor.wait_ready(Duration::from_secs(60))?;
    let seen = std::thread::scope(|scope| {
        let feed = scope.spawn(|| site.produce(0..8_000, Duration::from_millis(100)));
        let seen = unsynced(stage, &site, &mut monitor);
        feed.join().map_err(|_| "the feed panicked".to_owned())??;
        seen
    })?;
    monitor.wait_ready(Duration::from_secs(60))?;
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(8_000.0))?;
    let verdict = settle(stage, &site, monitor)?;
    let injected = fs::read_to_string(&trace).unwrap_or_default().matches("(INJECTED)").count();
    if injected != FAILED_SYNCS as usize {
        return Err(format!("{injected} syncs were made to fail, expected {FAILED_SYNCS}"));
    }
    Ok(format!("{injected} syncs failed; {seen}; ready again by itself; {}", verdict.words()))
}

/// What it does while nothing can be stored and these records come, and that some of them wait in the end.
fn unsynced_while(stage: &Stage, site: &Site, monitor: &mut Monitor, numbers: std::ops::Range<u64>) -> Checked<String> {
    let until = numbers.end;
    let seen = std::thread::scope(|scope| {
        let feed = scope.spawn(|| site.produce(numbers, Duration::from_millis(50)));
        let seen = unsynced(stage, site, monitor);
        feed.join().map_err(|_| "the feed panicked".to_owned())??;
        seen
    })?;
    let read = monitor.scrape().ok_or("no scrape")?.get("recsae_records_consumed_total");
    if monitor.is_ready() || read >= until as f64 {
        return Err(format!("{read} of {until} records were read while nothing could be stored"));
    }
    Ok(format!("{seen}, {read} of {until} read"))
}

/// What it does while no sync succeeds.
fn unsynced(stage: &Stage, site: &Site, monitor: &mut Monitor) -> Checked<String> {
    let refused = |m: &Monitor| {
        let scrape = m.scrape().filter(|_| !m.is_ready())?;
        let (failures, part) = (scrape.get("recsae_checkpoint_failures_total"), scrape.get("recsae_not_ready{part=\"store\"}"));
        (failures > 0.0 && part == 1.0).then_some(())
    };
    monitor.wait_for(Duration::from_secs(60), "it says that it is not ready, and that it is the store", refused)?;
    let why = monitor.status().map(|status| status["not_ready"].to_string()).unwrap_or_default();
    let read = |m: &Monitor| m.scrape().map(|scrape| scrape.get("recsae_records_consumed_total"));
    // What was polled when the store refused is still counted.
    std::thread::sleep(Duration::from_millis(500));
    let before = read(monitor);
    std::thread::sleep(Duration::from_secs(1));
    let after = read(monitor);
    let (committed, stored) = (committed(stage, site)?, crate::kills::stored(site).unwrap_or(0));
    if monitor.is_ready() {
        return Err("syncs succeeded again before this could be looked at".into());
    }
    if before != after || committed > stored {
        return Err(format!("{before:?} records read, then {after:?}; {committed} committed, and only {stored} are stored"));
    }
    Ok(format!("not ready ({why}), nothing read, {committed} committed and {stored} stored meanwhile"))
}

/// Calls that a file system gone read-only refuses on a file that is open already.
const WRITES: &str = "pwrite64,write,ftruncate,fallocate,fdatasync,fsync,unlink";

/// A file system that is read-only, to a running program, until dropped.
///
/// `mount -o remount,ro` is refused while a file is open for writing, as the store always is; what a kernel does after
/// an error of the disk is to answer EROFS to whatever would write. That is what strace answers, once it is attached.
struct ReadOnly {
    strace: std::process::Child,
    trace: PathBuf,
}

impl ReadOnly {
    /// For the files of this store. `None` where a running program may not be traced.
    fn turn(monitor: &Monitor, site: &Site, strace: &Path) -> Option<Self> {
        let trace = site.folder.path().join("read-only");
        let store = site.store().display().to_string();
        let mut command = Command::new(strace);
        command.args(["-f", "-p", &monitor.process.pid.to_string(), "-e", &format!("trace={WRITES}")]);
        command.args(["-e", &format!("inject={WRITES}:error=EROFS"), "-o"]).arg(&trace);
        for ending in ["", "-wal", "-shm", "-journal"] {
            command.args(["-P", &format!("{store}{ending}")]);
        }
        let mut strace = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        // Long enough to be refused.
        std::thread::sleep(Duration::from_millis(500));
        strace.try_wait().unwrap().is_none().then_some(Self { strace, trace })
    }

    /// Writable again; how many calls were refused.
    fn turn_back(mut self) -> usize {
        self.let_go();
        fs::read_to_string(&self.trace).unwrap_or_default().matches("EROFS").count()
    }

    /// SIGTERM: what is traced goes on by itself.
    fn let_go(&mut self) {
        drop(Command::new("kill").arg(self.strace.id().to_string()).status());
        drop(self.strace.wait());
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            self.let_go();
        }
    }
}

/// The file system turns read-only under the running program, and writable again: not ready meanwhile, nothing read,
/// nothing acknowledged that is not stored, and it goes on by itself.
pub(crate) fn read_only(stage: &Stage) -> Checked<String> {
    let site = Site::new(stage, "read-only", plan(stage, 35, 8_000));
    let Some(strace) = support::program("strace") else { return Ok("skipped: no strace".into()) };
    let mut monitor = site.start(&[], "");
    site.produce(0..2_000, Duration::ZERO)?;
    let kept = |_: &Monitor| (crate::kills::stored(&site)? >= 2_000 && committed(stage, &site).ok()? > 0).then_some(());
    monitor.wait_for(Duration::from_secs(60), "the first records are stored, and some committed", kept)?;
    let Some(read_only) = ReadOnly::turn(&monitor, &site, &strace) else {
        support::skip("a running program may not be traced here (needs root, or kernel.yama.ptrace_scope = 0)");
        return Ok("skipped: no tracing of a running program".into());
    };
    let seen = unsynced_while(stage, &site, &mut monitor, 2_000..6_000)?;
    let refused = read_only.turn_back();
    if refused == 0 {
        return Err("no call was refused".into());
    }
    monitor.wait_ready(Duration::from_secs(60))?;
    site.produce(6_000..8_000, Duration::ZERO)?;
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(8_000.0))?;
    let verdict = settle(stage, &site, monitor)?;
    Ok(format!("{refused} calls refused with EROFS; {seen}; ready again by itself; {}", verdict.words()))
}

/// Sum of the group's committed offsets, by the broker.
pub(crate) fn committed(stage: &Stage, site: &Site) -> Checked<i64> {
    let script = "import sys; from confluent_kafka import Consumer, TopicPartition as T
c = Consumer({'bootstrap.servers': sys.argv[1], 'group.id': sys.argv[2]})
print(sum(max(0, p.offset) for p in c.committed([T(sys.argv[3], n) for n in range(int(sys.argv[4]))], timeout=20)))";
    let kafka = &site.settings.kafka;
    let n = site.world.plan.n_partitions.to_string();
    let out = Command::new(&stage.python).args(["-c", script, &kafka.brokers, &kafka.group, &site.topic, &n]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().map_err(|_| String::from_utf8_lossy(&out.stderr).into_owned())
}

/// What the kernel saw: steps are synced, no fewer times than offsets are committed. That no commit is ahead of its own
/// step is what [`crate::commit_order`] shows.
pub(crate) fn sync_before_commit(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "sync-order", plan(stage, 31, 20_000));
    site.settings.store.checkpoint_every = Duration::from_millis(20);
    let Some(strace) = support::program("strace") else { return Ok("skipped: no strace".into()) };
    let options = ["-y", "-xx", "-s", "24", "-e", "trace=fdatasync,fsync,sendto,sendmsg,write,writev"];
    let (mut monitor, trace) = traced(&site, &strace, &options);
    monitor.wait_ready(Duration::from_secs(60))?;
    // Four seconds of flow: a standing topic is read faster than commits follow each other.
    site.produce(0..20_000, Duration::from_millis(20))?;
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(20_000.0))?;
    let (status, _) = monitor.end(Duration::from_secs(60))?;
    let began = Instant::now();
    let trace = loop {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        if text.contains("+++ exited") || began.elapsed() > Duration::from_secs(20) {
            break text;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    // Each commit is of positions whose steps were synced, each by a sync of its own: at every commit that leaves, at
    // least as many syncs have returned since partitions were asked for. (Not in turn: two workers' syncs may come before
    // both commits. And not since the first fetch: where a partition begins is stored, and committed, before that.)
    let (mut assigning, mut syncs, mut commits) = (false, 0, 0);
    for line in trace.lines() {
        // `-y` prints the file behind a descriptor, in hexadecimal under `-xx`: "-wal" ends it.
        let is_sync = (line.contains("fdatasync") || line.contains("fsync")) && line.ends_with("= 0");
        syncs += u32::from(is_sync && assigning);
        assigning |= is_request(line, "0e");
        if is_request(line, "08") {
            commits += 1;
            if commits > syncs {
                return Err(format!("commit {commits} was sent after {syncs} syncs: {line}"));
            }
        }
    }
    if status != 0 || commits < 3 {
        return Err(format!("exit {status}, {commits} commits and {syncs} syncs seen\n{}", crate::process::tail(&site.printed())));
    }
    Ok(format!("{commits} offset commits sent, no fewer syncs of the store returned before ({syncs} syncs)"))
}

/// A Kafka request begins with its length (4 bytes) and its kind: 8 commits offsets, 14 (SyncGroup) asks for partitions.
fn is_request(line: &str, kind: &str) -> bool {
    let Some(bytes) = line.split('"').nth(1) else { return false };
    let bytes: Vec<&str> = bytes.split("\\x").skip(1).collect();
    line.contains("send") && bytes.len() >= 8 && bytes[4..6] == ["00", kind] && bytes[..2] == ["00", "00"]
}
