//! `recsae alerts`: see them and act on them, through the running instance; with none running, in the store.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::builder::NonEmptyStringValueParser;

use crate::bundle::Bundle;
use crate::cli::in_cluster::refuse_by_hand;
use crate::cli::plain::plain;
use crate::cli::{Outcome, UsageError, alert_words};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::config::settings::Settings;
use crate::drift::alert::{ActionKind, Alert, AlertAction, AlertListing, utc_text};
use crate::drift::report::{AlertState, Direction};
use crate::http::actions::{ActionBody, TestBody};
use crate::http::alert_view::AlertDetail;
use crate::http::client::{self, ClientError};
use crate::http::views;
use crate::monitor::judge;
use crate::monitor::models::Models;
use crate::monitor::version::{self, Version};
use crate::snapshot::{ModelPicture, Snapshot};
use crate::store::{Store, StoreError, StoreReader};

/// Arguments of `recsae alerts`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae alerts list -c recsae.toml
  recsae alerts show 3 -c recsae.toml   # everything that explains it
  recsae alerts acknowledge 3 -c recsae.toml --why 'the catalogue team looks into it'
  recsae alerts accept 3 -c recsae.toml --why 'the new genre page is here to stay'
  recsae alerts mute 3 -c recsae.toml --for 2d --why 'spring campaign, marketing knows'
  recsae alerts test -c recsae.toml --minutes 5   # through Prometheus and Alertmanager to whoever is told")]
pub struct Args {
    #[command(subcommand)]
    command: AlertsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AlertsCommand {
    /// Firing alerts and the latest others, newest first
    List {
        #[command(flatten)]
        common: Common,
        /// Only those that fire; exit 1 when there are any
        #[arg(long)]
        firing: bool,
    },
    /// One alert with all that explains it: records before and since, who carries it, what moved with it
    Show {
        #[command(flatten)]
        common: Common,
        /// Number of the alert
        id: i64,
    },
    /// Say that somebody is looking at it
    Acknowledge {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        action: Action,
    },
    /// Take the new level for the level from now on
    Accept {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        action: Action,
    },
    /// Tell nobody until a time
    Mute {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        action: Action,
        /// How long, e.g. 2d
        #[arg(long = "for", value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
        length: Duration,
    },
    /// Send one marked alert through the real route: metrics, Prometheus, Alertmanager, receiver
    Test {
        #[command(flatten)]
        common: Common,
        /// How long it is shown; 0 takes it back
        #[arg(long, default_value_t = 10)]
        minutes: u32,
        /// Who asks for it
        #[arg(long, env = "USER", default_value = "unknown", value_parser = NonEmptyStringValueParser::new())]
        who: String,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Configuration file of the instance
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Action {
    /// Number of the alert
    id: i64,
    /// Who acts
    #[arg(long, env = "USER", default_value = "unknown", value_parser = NonEmptyStringValueParser::new())]
    who: String,
    /// Why; it is kept on the record
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    why: String,
}

/// Lists or acts.
///
/// # Errors
/// The configuration or the instance refuses.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        AlertsCommand::List { common, firing } => list(common, *firing),
        AlertsCommand::Show { common, id } => show(common, *id),
        AlertsCommand::Acknowledge { common, action } => act(common, action, ActionKind::Acknowledge, None),
        AlertsCommand::Accept { common, action } => act(common, action, ActionKind::Accept, None),
        AlertsCommand::Mute { common, action, length } => act(common, action, ActionKind::Mute, Some(*length)),
        AlertsCommand::Test { common, minutes, who } => test(common, *minutes, who),
    }
}

fn list(common: &Common, firing: bool) -> anyhow::Result<Outcome> {
    let settings = settings(common)?;
    let mut alerts: Vec<AlertListing> = match answered(client::get(&settings, "/api/v1/alerts"))? {
        Some(alerts) => alerts,
        None => {
            let kept = StoreReader::open(&settings.store.path).and_then(|reader| reader.alerts(200)).map_err(usage)?;
            let named = named(&settings);
            kept.iter().map(|alert| views::alert(&named, alert)).collect()
        }
    };
    alerts.retain(|alert| !firing || alert.state == AlertState::Firing);
    print(common, &alerts)?;
    Ok(if firing && !alerts.is_empty() { Outcome::No } else { Outcome::Done })
}

fn show(common: &Common, id: i64) -> anyhow::Result<Outcome> {
    let settings = settings(common)?;
    let detail: AlertDetail = match answered(client::get(&settings, &format!("/api/v1/alerts/{id}")))? {
        Some(detail) => detail,
        None => {
            let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
            let not_found = || StoreError::NotFound { what: "alert", name: id.to_string() };
            let alert = reader.alert(id).and_then(|alert| alert.ok_or_else(not_found)).map_err(usage)?;
            AlertDetail::of(&named(&settings), &alert, reader.explanation(id).map_err(usage)?)
        }
    };
    let mut out = std::io::stdout().lock();
    if common.json {
        writeln!(out, "{}", serde_json::to_string(&detail)?)?;
    } else {
        alert_words::write(&mut out, &detail)?;
    }
    Ok(Outcome::Done)
}

fn act(common: &Common, action: &Action, kind: ActionKind, length: Option<Duration>) -> anyhow::Result<Outcome> {
    let settings = settings(common)?;
    let now_ms = SystemClock.now_ms();
    let until = length.map(|length| now_ms.saturating_add(i64::try_from(length.as_millis()).unwrap_or(i64::MAX)));
    let body = ActionBody { who: action.who.clone(), why: action.why.clone(), until };
    let path = format!("/api/v1/alerts/{}/{}", action.id, kind.kind());
    let alert: AlertListing = match answered(client::post(&settings, &path, &body))? {
        Some(alert) => alert,
        None => {
            // Opened for reading first, so that a wrong path does not make an empty store.
            StoreReader::open(&settings.store.path).map_err(usage)?;
            let done = AlertAction { action: kind, who: body.who, why: body.why, at_ms: now_ms, until_ms: until };
            views::alert(&named(&settings), &act_on_store(&settings, action.id, &done)?)
        }
    };
    print(common, &[alert])?;
    Ok(Outcome::Done)
}

/// With no instance running: the names that the configured bundles give. Without a bundle alerts are told by stream.
fn named(settings: &Settings) -> Snapshot {
    let models = Models::open(settings).inspect_err(|error| eprintln!("recsae: concepts have no names here: {error}"));
    let pictures = models.iter().flat_map(|models| models.labels.iter().zip(&models.bundles));
    let picture = |(label, bundle): (&String, &Arc<Bundle>)| ModelPicture {
        model_version: label.clone(),
        fingerprint: bundle.fingerprint().to_owned(),
        names: Arc::new(version::names(bundle)),
        ..ModelPicture::default()
    };
    Snapshot { models: pictures.map(picture).collect(), ..Snapshot::default() }
}

/// With no instance running: takes the store's lock. Accepting changes the detectors, so the models are read too.
fn act_on_store(settings: &Settings, alert: i64, action: &AlertAction) -> anyhow::Result<Alert> {
    refuse_by_hand(settings)?;
    let mut store = Store::open(&settings.store.path).map_err(usage)?;
    let mut versions = if action.action == ActionKind::Accept { versions_of(settings, &store)? } else { Vec::new() };
    judge::act(&mut store, &mut versions, alert, action).map_err(usage)
}

fn versions_of(settings: &Settings, store: &Store) -> anyhow::Result<Vec<Version>> {
    let models = Models::open(settings)?;
    let choice = settings.drift.reference_choice().map_err(|fault| UsageError(fault.to_string()))?;
    Ok(Version::all(&models, models.judging(settings)?, &choice, store)?)
}

fn test(common: &Common, minutes: u32, who: &str) -> anyhow::Result<Outcome> {
    let settings = settings(common)?;
    let body = TestBody { who: who.to_owned(), why: "recsae alerts test".into(), minutes };
    let answer: Option<serde_json::Value> = answered(client::post(&settings, "/api/v1/alerts/test", &body))?;
    let Some(answer) = answer else {
        let url = client::url(&settings.http);
        bail!(UsageError(format!("no instance answers at {url}: the test alert goes through a running one")));
    };
    let mut out = std::io::stdout().lock();
    if common.json {
        writeln!(out, "{answer}")?;
    } else if minutes == 0 {
        writeln!(out, "the test alert is taken back")?;
    } else {
        let until = answer["until"].as_str().unwrap_or_default();
        writeln!(out, "recsae_concept_state{{stream=\"test\"}} is 2 until {until}: whoever is told of drift is told of it")?;
    }
    Ok(Outcome::Done)
}

fn settings(common: &Common) -> anyhow::Result<Settings> {
    Ok(config::load(&common.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?)
}

/// Asks the running instance; `None` when nobody listens there.
fn answered<T: serde::de::DeserializeOwned>(answer: Result<Option<serde_json::Value>, ClientError>) -> anyhow::Result<Option<T>> {
    let answer = answer.map_err(|error| UsageError(error.to_string()))?;
    Ok(answer.map(serde_json::from_value).transpose()?)
}

fn print(common: &Common, alerts: &[AlertListing]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if common.json {
        writeln!(out, "{}", serde_json::to_string(alerts)?)?;
        return Ok(());
    }
    if alerts.is_empty() {
        writeln!(out, "no alerts")?;
    }
    for alert in alerts {
        let state = match alert.state {
            AlertState::Firing => "FIRING",
            other => other.kind(),
        };
        let direction = if alert.direction == Direction::Up { "up" } else { "down" };
        let number = |value: Option<f64>| value.map_or_else(|| "inf".into(), |value| format!("{value:.2}"));
        let ratio = format!("x{} ({} to {})", number(alert.ratio), number(alert.ratio_low), number(alert.ratio_high));
        let (began, id) = (utc_text(alert.began), alert.id);
        let (concept, segment) = (plain(&alert.concept), plain(&alert.segment));
        writeln!(out, "{id:>5}  {state:<9}  {concept} [{}]  {segment}  {direction} {ratio}  since {began}", alert.stream)?;
        for action in &alert.actions {
            let until = action.until_ms.map(|until| format!(" until {}", utc_text(until))).unwrap_or_default();
            writeln!(out, "       {} by {}{until}: {}", action.action.kind(), plain(&action.who), plain(&action.why))?;
        }
    }
    Ok(())
}

fn usage(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Database(_) => error.into(),
        error => UsageError(error.to_string()).into(),
    }
}
