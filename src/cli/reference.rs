//! `recsae reference`: what the live windows are compared with.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;

use crate::cli::dataset_args::DatasetArgs;
use crate::cli::in_cluster::refuse_by_hand;
use crate::cli::plain::plain;
use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError, asked_wrong};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::config::settings::Settings;
use crate::drift::alert::utc_text;
use crate::drift::closed::ClosedWindow;
use crate::drift::reference::{Reference, SelfCheck};
use crate::drift::window::WindowSpec;
use crate::http::actions::{ActionBody, BuildBody};
use crate::http::client::{self, ClientError};
use crate::monitor::admission::segment_fields;
use crate::monitor::models::Models;
use crate::store::references::Approval;
use crate::store::{Store, StoreError, StoreReader};
use crate::workshop::dataset::Dataset;
use crate::workshop::recorded_windows::{RecordedCounting, recorded_windows};
use crate::workshop::reference::{BuildRequest, build, build_recorded, compare};

/// Arguments of `recsae reference`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  recsae reference build -c recsae.toml --name spring --embeddings spring.npy --fields spring.parquet --entity user_id --timestamp ts\n  recsae reference build -c recsae.toml --name autumn --from 2026-10-01 --to 2026-10-15 --exclude 2026-10-03..2026-10-04\n  recsae reference approve -c recsae.toml autumn --who ana --why 'two quiet weeks'\n  recsae reference list -c recsae.toml\n  recsae reference show -c recsae.toml autumn\n  recsae reference compare -c recsae.toml spring autumn"
)]
pub struct Args {
    #[command(subcommand)]
    command: ReferenceCommand,
}

#[derive(Debug, clap::Subcommand)]
#[expect(clippy::large_enum_variant, reason = "made once a process, and clap does not read a box")]
enum ReferenceCommand {
    /// Fit a reference to judged windows of the store, or to recorded embeddings
    Build {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        recorded: Option<DatasetArgs>,
        /// Column of recorded embeddings that names the entity; default: as `[record]` entity says
        #[arg(long, value_name = "COLUMN")]
        entity: Option<String>,
        /// Column of their event time; default: as `[record]` timestamp says
        #[arg(long, value_name = "COLUMN")]
        timestamp: Option<String>,
        /// Its name; references are immutable
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// First window start, RFC 3339 or a date; default: all windows
        #[arg(long)]
        from: Option<String>,
        /// End of the span; default: all windows
        #[arg(long)]
        to: Option<String>,
        /// A span to leave out, FROM..TO; may be repeated
        #[arg(long, value_name = "FROM..TO")]
        exclude: Vec<String>,
        /// Model version; default: the only one
        #[arg(long)]
        model: Option<String>,
    },
    /// List references
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Show one reference: windows, wander, self-check, what was left out
    Show {
        #[command(flatten)]
        common: Common,
        /// Its name
        name: String,
    },
    /// Approve a reference for use by `drift.reference`
    Approve {
        #[command(flatten)]
        common: Common,
        /// Its name
        name: String,
        /// Who approves
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        who: String,
        /// Why
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        why: String,
    },
    /// Compare two references of one SAE, stream by stream
    Compare {
        #[command(flatten)]
        common: Common,
        /// The first
        a: String,
        /// The second
        b: String,
        /// Streams shown
        #[arg(long, default_value_t = 20)]
        top: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// The configuration or the store cannot be used, or the windows cannot carry a reference.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        ReferenceCommand::Build { common, recorded, entity, timestamp, name, from, to, exclude, model } => {
            let settings = settings(&common.config)?;
            let body = BuildBody {
                name: name.clone(),
                model_version: model.clone(),
                from: from.as_deref().map(instant).transpose()?,
                to: to.as_deref().map(instant).transpose()?,
                exclude: exclude.iter().map(|text| span(text)).collect::<anyhow::Result<_>>()?,
            };
            check_spans(&body)?;
            // Recorded embeddings are read here, so the store's lock is needed; judged windows are the instance's.
            let answer = if recorded.is_none() { asked(client::post(&settings, "/api/v1/references", &body))? } else { None };
            let facts = match (answer, recorded) {
                (Some(facts), _) => facts,
                (None, dataset) => {
                    let counted = match dataset {
                        Some(dataset) => {
                            let (models, at) = model_of(&settings, &body)?;
                            let columns = (entity.as_deref(), timestamp.as_deref());
                            let windows = count_recorded(&settings, &models, at, dataset, columns).map_err(asked_wrong)?;
                            let judging = &models.judging(&settings)?[at];
                            Some(build_recorded(windows, &request_of(&models, at, &body), judging).map_err(asked_wrong)?)
                        }
                        // Opened for reading first, so that a wrong path does not make an empty store.
                        None => reader(&common.config).map(drop).map(|()| None)?,
                    };
                    let mut store = open_for_writing(&settings)?;
                    let reference = match counted {
                        Some(reference) => reference,
                        None => fit(&settings, store.read(), &body)?,
                    };
                    store.put_fitted(&reference, SystemClock.now_ms())?;
                    facts(&reference)
                }
            };
            if common.json {
                writeln!(out, "{facts}")?;
            } else {
                let (windows, left_out, wander) = (&facts["windows"], &facts["left_out"], facts["wander"].as_f64().unwrap_or(f64::NAN));
                writeln!(out, "{name}: {windows} windows, {left_out} left out, wander {wander:.4}")?;
                writeln!(
                    out,
                    "self-check: {}",
                    self_check_words(&serde_json::from_value(facts["self_check"].clone()).unwrap_or_default())
                )?;
                writeln!(out, "next: recsae reference approve -c {} {name} --who YOU --why WHY", common.config.display())?;
            }
        }
        ReferenceCommand::List { common } => {
            let entries = reader(&common.config)?.references()?;
            if common.json {
                writeln!(out, "{}", serde_json::to_string(&entries)?)?;
            } else {
                for entry in entries {
                    let approval = entry.approval.map_or_else(|| "not approved".to_owned(), |a| format!("approved by {}", plain(&a.who)));
                    writeln!(
                        out,
                        "{}  {} .. {}  {} windows  {approval}",
                        plain(&entry.name),
                        utc_text(entry.from_ms),
                        utc_text(entry.to_ms),
                        entry.windows
                    )?;
                }
            }
        }
        ReferenceCommand::Show { common, name } => {
            let (entry, reference) = reader(&common.config)?.fitted(name)?.ok_or_else(|| no_reference(name))?;
            let facts = serde_json::json!({
                "entry": entry, "unit": reference.unit, "window_ms": reference.window_ms, "timezone": reference.timezone,
                "windows": reference.n_windows, "left_out": reference.left_out, "wander": reference.sigma_w,
                "self_check": reference.self_check, "segments": reference.segments.keys().collect::<Vec<_>>(), "streams": reference.layout.len(),
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&facts)?)?;
        }
        ReferenceCommand::Approve { common, name, who, why } => {
            let settings = settings(&common.config)?;
            let body = ActionBody { who: who.clone(), why: why.clone(), until: None };
            // Through the instance, which reads its store: who may act need not be able to.
            let checked: SelfCheck =
                match asked(client::post(&settings, &format!("/api/v1/references/{}/approve", path_segment(name)), &body))? {
                    Some(facts) => serde_json::from_value(facts["self_check"].clone()).unwrap_or_default(),
                    None => {
                        let checked = reader(&common.config)?.fitted(name)?.ok_or_else(|| no_reference(name))?.1.self_check;
                        let approval = Approval { who: who.clone(), why: why.clone(), at_ms: SystemClock.now_ms() };
                        open_for_writing(&settings)?.approve_reference(name, &approval)?;
                        checked
                    }
                };
            if common.json {
                writeln!(out, "{}", serde_json::json!({"name": name, "self_check": checked}))?;
            } else {
                writeln!(out, "self-check: {}", self_check_words(&checked))?;
                writeln!(out, "{name} approved; use it with [drift] reference = \"{name}\"")?;
            }
        }
        ReferenceCommand::Compare { common, a, b, top } => {
            let reader = reader(&common.config)?;
            let load = |name: &str| -> anyhow::Result<_> { Ok(reader.fitted(name)?.ok_or_else(|| no_reference(name))?.1) };
            let (a, b) = (load(a)?, load(b)?);
            anyhow::ensure!(
                a.fingerprint == b.fingerprint,
                UsageError(format!("{} and {} belong to different SAEs: their streams are not the same", a.name, b.name))
            );
            let rows = compare(&a, &b);
            if common.json {
                writeln!(out, "{}", serde_json::to_string(&rows)?)?;
            } else {
                for row in rows.iter().take(*top) {
                    writeln!(out, "{:<14} {:>9.5} {:>9.5}  x{:<7.3} z {:+.1}", row.stream, row.rate_a, row.rate_b, row.ratio, row.z)?;
                }
            }
        }
    }
    Ok(Outcome::Done)
}

/// Windows of recorded embeddings, counted as live ones would be.
fn count_recorded(
    settings: &Settings,
    models: &Models,
    at: usize,
    dataset: &DatasetArgs,
    (entity, timestamp): (Option<&str>, Option<&str>),
) -> anyhow::Result<Vec<ClosedWindow>> {
    let dataset = Dataset::open(&dataset.request()?)?;
    let encoder = || Ok(models.encoders(settings)?.swap_remove(at));
    let fault = |fault: config::Fault| UsageError(fault.to_string());
    let counting = RecordedCounting {
        model_version: &models.labels[at],
        bundle: &models.bundles[at],
        spec: &models.counting(settings)[at].1,
        window: WindowSpec {
            length_ms: settings.window.length_ms(),
            origin_ms: settings.window.origin_ms().map_err(fault)?,
            lateness_ms: 0,
        },
        entity: entity.unwrap_or(&settings.record.entity),
        timestamp: timestamp.unwrap_or(&settings.record.timestamp),
        segments: segment_fields(settings),
        max_segments: settings.segments.max,
    };
    let progress = Progress::of(dataset.n_rows(), "rows");
    let windows = recorded_windows(&dataset, &counting, encoder, |rows| progress.add(rows))?;
    progress.finish();
    Ok(windows)
}

fn no_reference(name: &str) -> UsageError {
    UsageError(format!("no reference {name:?} in the store; see `recsae reference list`"))
}

fn settings(path: &Path) -> anyhow::Result<Settings> {
    config::load(path, std::env::vars()).map_err(|error| UsageError(error.to_string()).into())
}

fn reader(path: &Path) -> anyhow::Result<StoreReader> {
    Ok(StoreReader::open(&settings(path)?.store.path)?)
}

/// Takes the store's lock and goes on with its newest lineage.
fn open_for_writing(settings: &Settings) -> anyhow::Result<Store> {
    refuse_by_hand(settings)?;
    Store::open(&settings.store.path).map_err(|error| match error {
        locked @ StoreError::Locked { .. } => {
            UsageError(format!("{locked}, and no instance answers at {}: mend [http] listen", client::url(&settings.http))).into()
        }
        other => other.into(),
    })
}

/// What the running instance answered; `None` when none runs.
fn asked(answer: Result<Option<serde_json::Value>, ClientError>) -> anyhow::Result<Option<serde_json::Value>> {
    Ok(answer.map_err(|error| UsageError(error.to_string()))?)
}

/// A name as one segment of a path.
fn path_segment(name: &str) -> String {
    name.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte))
        } else {
            path += &format!("%{byte:02X}")
        }
        path
    })
}

/// Fits a reference to judged windows: in the running instance, or here while none runs.
pub(super) fn fit(settings: &Settings, reader: &StoreReader, body: &BuildBody) -> anyhow::Result<Reference> {
    check_spans(body)?;
    let (models, at) = model_of(settings, body)?;
    build(reader, &request_of(&models, at, body), &models.judging(settings)?[at]).map_err(asked_wrong)
}

/// The models, and which of them is asked for.
fn model_of(settings: &Settings, body: &BuildBody) -> anyhow::Result<(Models, usize)> {
    let models = Models::open(settings)?;
    let at = match &body.model_version {
        Some(label) => models.labels.iter().position(|known| known == label),
        None if models.labels.len() == 1 => Some(0),
        None => None,
    };
    let known = models.labels.join(", ");
    let at = at.ok_or_else(|| match &body.model_version {
        Some(found) => UsageError(format!("expected --model to be one of {known}, found {found:?}")),
        None => UsageError(format!("choose a model with --model, one of {known}")),
    })?;
    Ok((models, at))
}

fn request_of(models: &Models, at: usize, body: &BuildBody) -> BuildRequest {
    BuildRequest {
        name: body.name.clone(),
        model_version: models.labels[at].clone(),
        fingerprint: models.bundles[at].fingerprint().to_owned(),
        span: body.from.unwrap_or(i64::MIN)..body.to.unwrap_or(i64::MAX),
        exclude: body.exclude.iter().map(|[from, to]| *from..*to).collect(),
    }
}

/// What is said of a reference that was built.
pub(super) fn facts(reference: &Reference) -> serde_json::Value {
    serde_json::json!({
        "name": reference.name, "windows": reference.n_windows, "left_out": reference.left_out.len(), "wander": reference.sigma_w,
        "self_check": reference.self_check
    })
}

/// A span the wrong way round holds no window: what was meant to be left out would silently be in.
fn check_spans(body: &BuildBody) -> anyhow::Result<()> {
    let spans = body.exclude.iter().map(|[from, to]| ("an excluded span", *from, *to));
    let whole = body.from.zip(body.to).map(|(from, to)| ("the span", from, to));
    for (what, from, to) in spans.chain(whole) {
        if from >= to {
            let found = format!("{} to {}", utc_text(from), utc_text(to));
            return Err(UsageError(format!("expected {what} to begin before it ends, found {found}")).into());
        }
    }
    Ok(())
}

/// What the check of a reference against itself said, for who approves it. One that fails is not kept at all.
fn self_check_words(checked: &SelfCheck) -> String {
    match checked {
        SelfCheck::TooShort => {
            "not run, too few windows (it takes 168, and a week before the last 30 % where weekends are told from weekdays)".to_owned()
        }
        SelfCheck::Passed { judged, alarm_windows, worst } => {
            let worst: Vec<String> = worst.iter().take(3).map(|(stream, over)| format!("{stream} {over:+.1} nats")).collect();
            format!("fitted on the first 70 %, {alarm_windows} of the {judged} windows since alarm; nearest to it: {}", worst.join(", "))
        }
    }
}

fn instant(text: &str) -> anyhow::Result<i64> {
    let wrong = || UsageError(format!("expected a date (2026-10-01) or an RFC 3339 time, found {text:?}"));
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    // A bare date is its first instant, UTC.
    let day: jiff::Timestamp = format!("{text}T00:00:00Z").parse().map_err(|_| wrong())?;
    Ok(day.as_millisecond())
}

fn span(text: &str) -> anyhow::Result<[i64; 2]> {
    let (from, to) = text.split_once("..").ok_or_else(|| UsageError(format!("expected FROM..TO, found {text:?}")))?;
    Ok([instant(from)?, instant(to)?])
}
