//! `recsae demo`: the whole chain on this machine, with nothing installed and a drift that is known.
//!
//! Before it is watched, the topic's first hours are recorded and an SAE is trained on them, named and tested: nothing of
//! the world but its records and its table of items goes into that. The world and the monitor meet only at the broker, and
//! the demo reads the monitor as anybody would: over its HTTP API. What it knows about the planted shift it uses only to
//! compare at the end.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::demo_learn::{Learnt, RECORDED_WINDOWS, learn};
use crate::cli::demo_verdict::{SeenAlert, Verdict};
use crate::cli::serve::{Addresses, serve};
use crate::cli::setup_cache;
use crate::cli::{Outcome, UsageError};
use crate::clock::{Clock, SystemClock};
use crate::config::settings::Settings;
use crate::kafka::embedded::EmbeddedBroker;
use crate::monitor::{self, OnOpen, RunOptions};
use crate::simulate::feed::Feed;
use crate::simulate::setup::{self, PARTITIONS, REFERENCE_WINDOWS, TOPIC};
use crate::simulate::world::{WINDOW_MS, World};
use crate::task::{Shutdown, TaskGroup, trigger_on_signal};
use crate::{encode, telemetry};

/// Windows after the reference among which the shift begins.
const SHIFT_BEGINS: std::ops::Range<u64> = REFERENCE_WINDOWS + 6..REFERENCE_WINDOWS + 18;
/// Windows after the shift's begin in which it must be found.
const WINDOWS_TO_FIND: u64 = 24;
/// Windows of a run without drift: as many as one with drift may take.
const WINDOWS_WITHOUT_DRIFT: u64 = SHIFT_BEGINS.end + WINDOWS_TO_FIND;
/// Windows the feed may be ahead of the judge. The in-process broker keeps 5 MiB a partition and a window
/// is 1.7 MB over four, so that ten windows ahead it would silently drop records.
const WINDOWS_AHEAD: u64 = 5;
/// Wall-clock limit of a search. The demo takes some 15 s on two cores; past this the machine is at fault.
const TIME_TO_FIND: Duration = Duration::from_secs(110);
/// Wait between two looks at the monitor.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// Arguments of `recsae demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae demo                              # watch it, then look at the page it prints
  recsae demo --seed 7 --exit-when-found   # exit 0 when the right concept was named, else 1")]
pub struct Args {
    /// Draws the world, and concept, surface, size and time of the shift [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Plant nothing: no alert must come; exit 1
    #[arg(long)]
    no_drift: bool,
    /// Stop when the planted shift was named (exit 0), or was not within its time (exit 1)
    #[arg(long)]
    exit_when_found: bool,
    /// Print the outcome as JSON; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// Path of the ONNX Runtime library [default: ORT_DYLIB_PATH, what `make setup` fetched, beside the executable, the system]
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

/// Runs world and monitor until the shift is found, the time is over, or a signal comes.
///
/// # Errors
/// ONNX Runtime is missing, or a part failed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    // The demo tells in its own words what a log would warn of.
    telemetry::start("error");
    let clock = SystemClock;
    let seed = args.seed.unwrap_or_else(|| clock.now_ms().unsigned_abs() % 1_000_000);
    let folder = Folder::new(seed)?;
    let mut world = World::new(seed, start_ms(clock.now_ms()))?;
    if !args.no_drift {
        world.plant_shift(SHIFT_BEGINS);
    }
    let mut say = Say::new(args.json);
    say.line(&format!("seed {seed}: a made-up recommender with 128 concepts, three surfaces, 6,000 users"))?;

    let broker = EmbeddedBroker::start()?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    let mut settings = setup::settings(&broker.brokers(), &folder.0.join("bundle"), &folder.0);
    settings.encode.onnxruntime = args.onnxruntime.clone().or_else(set_up_library);

    let shutdown = Shutdown::new();
    let outer = TaskGroup::new(shutdown.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    outer.task(runtime.handle(), "signals", trigger_on_signal(shutdown.clone()));
    let mut feed = Feed::new(world, &settings.kafka, TOPIC)?;
    (0..RECORDED_WINDOWS).try_for_each(|_| feed.send_window())?;
    let learnt = learn(&settings, feed.world(), (seed, &folder.0), &shutdown, &mut |text| say.line(text));
    if shutdown.is_triggered() {
        outer.drain(settings.kafka.drain);
        say.line("interrupted before anything was watched")?;
        return Ok(Outcome::No);
    }
    let learnt = learnt?;
    let opened = start_monitor(&settings, &outer, runtime.handle())?;
    let watched = opened
        .recv()
        .map_err(|_| anyhow::anyhow!("the monitor did not start"))
        .and_then(|addresses| watch(args, seed, feed, &learnt, addresses, &shutdown, &mut say));
    if let Ok(verdict) = &watched {
        say.verdict(verdict)?;
    }
    // The monitor's own drain comes first and has the same deadline.
    let report = outer.drain(settings.kafka.drain * 3);
    if let Some(failure) = report.failures.first() {
        return Err(if failure.message.starts_with(SETUP) {
            UsageError(failure.message.trim_start_matches(SETUP).to_owned()).into()
        } else {
            anyhow::anyhow!("{}: {}", failure.name, failure.message)
        });
    }
    let verdict = watched?;
    Ok(if verdict.found { Outcome::Done } else { Outcome::No })
}

/// What `make setup` fetched, unless a variable names another.
fn set_up_library() -> Option<PathBuf> {
    if std::env::var_os(encode::LIBRARY_VARIABLE).is_some_and(|path| !path.is_empty()) {
        return None;
    }
    setup_cache::onnxruntime(|name| std::env::var_os(name))
}

/// Marks a failure of the monitor thread that is the set-up's, not ours.
const SETUP: &str = "set-up: ";

fn start_monitor(settings: &Settings, outer: &TaskGroup, runtime: &tokio::runtime::Handle) -> anyhow::Result<Receiver<Addresses>> {
    let (ready, opened) = channel();
    let group = TaskGroup::new(outer.shutdown().clone());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let on_open: OnOpen = {
        let (settings, group, clock, runtime) = (settings.clone(), group.clone(), Arc::clone(&clock), runtime.clone());
        Box::new(move |opened| {
            let addresses = serve(&settings, opened, clock, None, &group, &runtime)?;
            // Nobody waits any more when the demo was interrupted while it started.
            ready.send(addresses).ok();
            Ok(())
        })
    };
    let options = RunOptions { until_end: false, clock, on_open };
    let settings = settings.clone();
    outer.thread("monitor", move || -> anyhow::Result<()> {
        let ended = monitor::run(&settings, options, &group);
        ended.map(drop).map_err(|error| if error.is_setup() { anyhow::anyhow!("{SETUP}{error}") } else { error.into() })
    })?;
    Ok(opened)
}

/// Feeds and looks, in turns, until there is a verdict (or, without `--exit-when-found`, a signal).
fn watch(
    args: &Args,
    seed: u64,
    mut feed: Feed,
    learnt: &Learnt,
    addresses: Addresses,
    shutdown: &Shutdown,
    say: &mut Say,
) -> anyhow::Result<Verdict> {
    let api = Api::new(addresses);
    say.line(&format!("page     http://{}/", addresses.http))?;
    say.line(&format!("alerts   http://{}/api/v1/alerts", addresses.http))?;
    say.line(&format!("metrics  http://{}/metrics", addresses.metrics))?;
    say.line(&format!("the first {REFERENCE_WINDOWS} hours are the reference, then hour after hour is judged"))?;
    let started = Instant::now();
    let shift = feed.world().shift().cloned();
    let last_window = shift.as_ref().map_or(WINDOWS_WITHOUT_DRIFT, |shift| shift.from_window + WINDOWS_TO_FIND);
    let planted = shift.map(|shift| (shift.clone(), learnt.latent_of(feed.world(), shift.concept)));
    let mut verdict = Verdict::new(seed, planted, feed.world(), addresses);
    let mut next_send = Instant::now();
    loop {
        let Some(judged) = unless_ending(api.windows_judged(feed.world().window_start_ms(0)), shutdown)? else { break };
        let behind = feed.n_windows() < judged + WINDOWS_AHEAD;
        if behind && Instant::now() >= next_send {
            feed.send_window()?;
            // The judge sees a window only when a later one has begun, so two more than the last one are sent.
            next_send = Instant::now() + pace(args, &feed, verdict.is_final());
        }
        if !verdict.is_final() {
            let Some(alerts) = unless_ending(api.alerts(), shutdown)? else { break };
            verdict.look(&feed, judged, started.elapsed(), alerts);
            say.progress(&verdict, last_window)?;
            if verdict.found || judged >= last_window || started.elapsed() >= TIME_TO_FIND {
                verdict.finish();
                if args.exit_when_found || args.no_drift {
                    return Ok(verdict);
                }
                say.verdict(&verdict)?;
                say.line("still running: look at the page, stop with Ctrl-C")?;
            }
        }
        if shutdown.wait_timeout(LOOK_EVERY) {
            break;
        }
    }
    verdict.finish();
    Ok(verdict)
}

/// The answer; `None` where there is none because the monitor is on its way out, which is no fault.
fn unless_ending<T>(answer: anyhow::Result<T>, shutdown: &Shutdown) -> anyhow::Result<Option<T>> {
    match answer {
        Err(_) if shutdown.is_triggered() => Ok(None),
        answer => answer.map(Some),
    }
}

/// The reference as fast as the monitor reads it, then a pace that can be watched; slowly when all is said.
fn pace(args: &Args, feed: &Feed, is_said: bool) -> Duration {
    match () {
        () if is_said => Duration::from_secs(2),
        () if args.exit_when_found || args.no_drift || feed.n_windows() < REFERENCE_WINDOWS => Duration::ZERO,
        () => Duration::from_millis(250),
    }
}

/// A midnight a year ago: event time runs fast and must not overtake the clock.
fn start_ms(now_ms: i64) -> i64 {
    const DAY_MS: i64 = 24 * WINDOW_MS;
    (now_ms.div_euclid(DAY_MS) - 365) * DAY_MS
}

/// The monitor as anybody sees it.
struct Api {
    agent: ureq::Agent,
    base: String,
}

impl Api {
    fn new(addresses: Addresses) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(20))).build().into();
        Self { agent, base: format!("http://{}/api/v1", addresses.http) }
    }

    /// Whole windows since the world began whose verdict is out.
    fn windows_judged(&self, start_ms: i64) -> anyhow::Result<u64> {
        let status: serde_json::Value = self.get("status")?;
        let Some(end) = status.get("last_window").and_then(serde_json::Value::as_str) else { return Ok(0) };
        let end_ms = end.parse::<jiff::Timestamp>().context("last_window")?.as_millisecond();
        Ok(u64::try_from((end_ms - start_ms) / WINDOW_MS).unwrap_or(0))
    }

    fn alerts(&self) -> anyhow::Result<Vec<SeenAlert>> {
        self.get("alerts")
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let url = format!("{}/{path}", self.base);
        self.agent.get(&url).call().and_then(|mut answer| answer.body_mut().read_json()).with_context(|| url)
    }
}

/// Where the demo writes: results to standard output, or, when that is for JSON, to standard error.
struct Say {
    json: bool,
    bar: Option<ProgressBar>,
    last_progress: Option<u64>,
}

impl Say {
    fn new(json: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} hours judged {msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { json, bar, last_progress: None }
    }

    fn line(&mut self, text: &str) -> std::io::Result<()> {
        let write = || if self.json { writeln!(std::io::stderr().lock(), "{text}") } else { writeln!(std::io::stdout().lock(), "{text}") };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// A bar on a terminal, a line every twelve windows elsewhere.
    fn progress(&mut self, verdict: &Verdict, last_window: u64) -> std::io::Result<()> {
        let judged = verdict.windows_judged;
        if let Some(bar) = &self.bar {
            bar.set_length(last_window);
            bar.set_position(judged);
            return Ok(());
        }
        let step = judged / 12;
        if self.last_progress.is_none_or(|last| step > last) {
            self.last_progress = Some(step);
            self.line(&format!("{judged} of at most {last_window} hours judged, {} records sent", verdict.records_sent))?;
        }
        Ok(())
    }

    fn verdict(&mut self, verdict: &Verdict) -> anyhow::Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if verdict.was_printed.replace(true) {
            return Ok(());
        }
        if self.json {
            writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(verdict)?)?;
        } else {
            write!(std::io::stdout().lock(), "{verdict}")?;
        }
        Ok(())
    }
}

/// The demo's folder; gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(seed: u64) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("recsae-demo-{}-{seed}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the demo's folder was left behind");
        }
    }
}
