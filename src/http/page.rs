//! The page at `/`: status, alerts, concepts by evidence, lag and contract. Server-rendered, no scripts.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::drift::alert::{AlertListing, utc_text};
use crate::drift::report::{AlertState, Direction, StreamState};
use crate::http::sparkline::sparkline;
use crate::http::state::HttpState;
use crate::http::views::{self, ConceptFilter, ConceptView, PartitionView, SegmentView, StatusView};
use crate::snapshot::{RatePoint, Snapshot};

/// Concepts on the page: what a person reads; the API has all of them.
const N_CONCEPTS: usize = 60;
/// Alerts on the page.
const N_ALERTS: usize = 30;
const STYLE: &str = include_str!("page.css");

/// `GET /`.
pub(super) async fn page(State(state): State<Arc<HttpState>>) -> Html<String> {
    let (snapshot, live) = (state.snapshots.load(), state.live.load());
    Html(render(&snapshot, &views::status(&snapshot, &live), state.clock.now_ms()).into_string())
}

/// The whole page.
fn render(snapshot: &Snapshot, status: &StatusView, now_ms: i64) -> Markup {
    let alerts = views::alerts(snapshot);
    let n_firing = alerts.iter().filter(|alert| alert.state == AlertState::Firing).count();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="refresh" content="15";
                title { @if n_firing > 0 { "(" (n_firing) ") " } "recsae" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "recsae" span.quiet { " what the recommender has started to think" } }
                    p.pills { (readiness(status)) }
                }
                main {
                    (tiles(status, n_firing, now_ms))
                    (alert_section(&alerts, now_ms))
                    (concept_section(snapshot))
                    div.columns { (contract_section(status)) (partition_section(status)) }
                }
                (footer(status))
            }
        }
    }
}

fn readiness(status: &StatusView) -> Markup {
    html! {
        @if status.ready { span.pill.ok { "ready" } } @else {
            @for (gate, why) in &status.not_ready { span.pill.alert { "not ready: " (gate) ", " (why) } }
        }
        span.pill { @if status.judging { "judging" } @else { "following" } }
    }
}

fn tiles(status: &StatusView, n_firing: usize, now_ms: i64) -> Markup {
    let lag: i64 = status.partitions.iter().filter_map(|partition| partition.lag_records).sum();
    let lag_seconds = status.partitions.iter().filter_map(|partition| partition.facts.lag_seconds).fold(0.0, f64::max);
    let broken = status.models.iter().flat_map(|model| &model.segments).filter(|segment| is_broken(segment)).count();
    let (verdict, why) = verdict_of(status);
    html! {
        section.tiles aria-label="Overview" {
            (tile("Alerts firing", &n_firing.to_string(), if n_firing > 0 { "alert" } else { "ok" }, &format!("budget: one false alarm in {:.0} windows", status.false_alarm_budget_windows)))
            (tile("Last window", &status.last_window.map_or_else(|| "none yet".into(), short_time), "", &status.last_window.map_or_else(String::new, |end| ago(now_ms - end))))
            (tile("Verdict", &verdict, if verdict == "judged" { "ok" } else { "warn" }, &why))
            (tile("Input contract", if broken > 0 { "broken" } else { "holds" }, if broken > 0 { "alert" } else { "ok" }, &fvu_text(status)))
            (tile("Lag", &format!("{} records", grouped(lag)), if lag_seconds > 60.0 { "warn" } else { "ok" }, &format!("{lag_seconds:.0} s over {} partitions", status.partitions.len())))
        }
    }
}

fn tile(title: &str, value: &str, state: &str, more: &str) -> Markup {
    html! { div.tile.(state) { h2 { (title) } p.value { (value) } p.quiet { (more) } } }
}

fn alert_section(alerts: &[AlertListing], now_ms: i64) -> Markup {
    html! {
        section {
            h2 { "Alerts" }
            @if alerts.is_empty() { p.empty { "No stream has crossed its threshold." } } @else {
                div.scroll { table.alerts {
                    thead { tr { th { "State" } th { "Concept" } th { "Segment" } th { "Change" } th { "Began" } th { "Alerted" } th { "Evidence" } th { "Actions" } } }
                    tbody { @for alert in alerts.iter().take(N_ALERTS) { (alert_row(alert, now_ms)) } }
                } }
                @if alerts.len() > N_ALERTS { p.quiet { (alerts.len() - N_ALERTS) " more in /api/v1/alerts" } }
            }
        }
    }
}

fn alert_row(alert: &AlertListing, now_ms: i64) -> Markup {
    let (state, class) = match alert.state {
        AlertState::Firing => ("firing", "alert"),
        AlertState::Recovered => ("recovered", "recovered"),
        AlertState::Accepted => ("accepted", "quiet"),
    };
    html! {
        tr data-alert=(alert.id) data-state=(state) data-segment=(alert.segment) data-stream=(alert.stream) data-concept=(alert.concept)
            data-ratio=(alert.ratio.map_or_else(String::new, |ratio| ratio.to_string())) {
            td { span.pill.(class) { (state) } }
            td { (concept_name(&alert.concept, &alert.stream.to_string(), &alert.verification, &alert.model_version)) }
            td { (alert.segment) }
            td.number { span.arrow { (arrow(alert.direction)) } (ratio_text(alert.ratio, alert.ratio_low, alert.ratio_high)) }
            td { (short_time(alert.began)) }
            td title=(utc_text(alert.alerted_at)) { (short_time(alert.alerted_at)) br; span.quiet { (ago(now_ms - alert.alerted_at)) } }
            td.number title=(format!("ln M = {:.2}, threshold {:.2}", alert.evidence_log, alert.threshold_log)) {
                (format!("{:.1}", alert.evidence_log)) span.quiet { " of " (format!("{:.1}", alert.threshold_log)) }
                @if alert.crossings > 1 { br; span.quiet { (alert.crossings) " crossings" } }
            }
            td { @for action in &alert.actions { span.action title=(action.why) { (action.action.kind()) " by " (action.who) } } }
        }
    }
}

fn concept_section(snapshot: &Snapshot) -> Markup {
    let concepts = views::concepts(snapshot, &ConceptFilter::default(), N_CONCEPTS);
    let total: usize = snapshot.models.iter().map(|model| model.streams_tested).sum();
    html! {
        section {
            h2 { "Concepts by evidence" span.quiet { " " (grouped(i64::try_from(total).unwrap_or(i64::MAX))) " streams followed" } }
            @if concepts.is_empty() { p.empty { "No verdicts yet: concepts appear once a reference exists and a window was judged." } } @else {
                div.scroll { table.concepts {
                    thead { tr { th { "Concept" } th { "Segment" } th { "State" } th { "Ratio (95 %)" } th { "Rate" } th { "Expected" } th { "Evidence" } th { "Last windows" } } }
                    tbody { @for concept in &concepts { (concept_row(snapshot, concept)) } }
                } }
                @if total > concepts.len() { p.quiet { "The first " (concepts.len()) " by evidence; all of them in /api/v1/concepts" } }
            }
        }
    }
}

fn concept_row(snapshot: &Snapshot, concept: &ConceptView) -> Markup {
    let (state, class) = match concept.state {
        StreamState::Ok => ("ok", "ok"),
        StreamState::Warn => ("warn", "warn"),
        StreamState::Alert => ("alert", "alert"),
        StreamState::Recovered => ("recovered", "recovered"),
        StreamState::NoVerdict => ("no verdict", "quiet"),
    };
    let share = if concept.threshold_log > 0.0 { (concept.evidence_log / concept.threshold_log).clamp(0.0, 1.0) } else { 0.0 };
    html! {
        tr data-stream=(concept.stream) data-segment=(concept.segment) data-state=(state) {
            td { (concept_name(&concept.concept, &concept.stream.to_string(), &concept.verification, &concept.model_version)) }
            td { (concept.segment) }
            td { span.pill.(class) { (state) } }
            td.number { (ratio_text(concept.ratio, concept.ratio_low, concept.ratio_high)) }
            td.number { (rate_text(concept.rate)) }
            td.number { (rate_text(concept.expected_rate)) }
            td { div.meter title=(format!("ln M = {:.2} of {:.2}", concept.evidence_log, concept.threshold_log)) {
                svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" { rect.(class) width=(format!("{:.1}", share * 100.0)) height="6" {} }
                span.number { (format!("{:.1}", concept.evidence_log)) }
            } }
            td { (sparkline(&points(snapshot, concept), &concept.concept)) }
        }
    }
}

fn points(snapshot: &Snapshot, concept: &ConceptView) -> Vec<RatePoint> {
    let model = snapshot.models.iter().find(|model| model.model_version == concept.model_version);
    model.map(|model| model.history.points(&concept.segment, concept.stream)).unwrap_or_default()
}

fn concept_name(name: &str, stream: &str, verification: &str, model_version: &str) -> Markup {
    html! {
        strong { (name) } br;
        span.quiet { (stream) " · " (verification) @if !model_version.is_empty() { " · " (model_version) } }
    }
}

fn contract_section(status: &StatusView) -> Markup {
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.3}"));
    html! {
        section {
            h2 { "Input contract and segments" }
            div.scroll { table {
                thead { tr { th { "Segment" } th { "Verdict" } th { "Records" } th { "Entities" } th { "FVU" } th { "Cosine" } th { "Norm" } th { "L0" } } }
                tbody { @for model in &status.models { @for segment in &model.segments {
                    tr data-segment=(segment.segment) {
                        td { (segment.segment) @if status.models.len() > 1 { " " span.quiet { (model.model_version) } } }
                        td { span.pill.(if is_broken(segment) { "alert" } else if segment.verdict == "judged" { "ok" } else { "quiet" }) title=[&segment.why] { (segment.verdict.replace('_', " ")) } }
                        td.number { (grouped(i64::try_from(segment.records).unwrap_or(i64::MAX))) }
                        td.number { (grouped(i64::try_from(segment.entities).unwrap_or(i64::MAX))) }
                        td.number { (number(segment.contract.fvu)) }
                        td.number { (number(segment.contract.cosine)) }
                        td.number { (number(segment.contract.norm_ratio)) }
                        td.number { (format!("{:.1}", segment.contract.l0)) }
                    }
                } } }
            } }
            @for model in &status.models {
                p.quiet { @match &model.reference {
                    Some(reference) => { "Reference " strong { (reference.name) } ": " (reference.windows) " windows to " (short_time(reference.to_ms))
                        @if !reference.self_checked { ", not self-checked" } }
                    None => { "No reference yet: the first windows are being gathered, nothing is judged." }
                } }
            }
        }
    }
}

fn partition_section(status: &StatusView) -> Markup {
    let row = |partition: &PartitionView| {
        html! {
            tr {
                td { (partition.topic) " [" (partition.partition) "]" }
                td.number { (grouped(partition.facts.position)) }
                td.number { (partition.lag_records.map_or_else(|| "–".into(), grouped)) }
                td.number { (partition.facts.lag_seconds.map_or_else(|| "–".into(), |lag| format!("{lag:.0} s"))) }
                td { @if partition.facts.stalled { span.pill.alert { "stalled" } } @else { span.pill.ok { "moving" } } }
            }
        }
    };
    html! {
        section {
            h2 { "Partitions" }
            @if status.partitions.is_empty() { p.empty { "None assigned." } } @else {
                div.scroll { table {
                    thead { tr { th { "Partition" } th { "Position" } th { "Lag" } th { "Lag, time" } th { "State" } } }
                    tbody { @for partition in &status.partitions { (row(partition)) } }
                } }
            }
        }
    }
}

fn footer(status: &StatusView) -> Markup {
    html! {
        footer.quiet {
            p {
                "recsae " (status.version) " · " (status.engine) " · up since " (short_time(status.started)) " UTC · lineage " (status.lineage)
                @for model in &status.models { " · SAE " code { (model.fingerprint.chars().take(12).collect::<String>()) } }
                @if !status.history_head.is_empty() { " · history head " code title=(status.history_head) { (status.history_head.chars().take(12).collect::<String>()) } }
            }
            p { a href="/api/v1/openapi.json" { "API" } " · all times UTC · this page renews itself every 15 s" }
        }
    }
}

/// The verdict on `_all` of the first model that has one, and why.
fn verdict_of(status: &StatusView) -> (String, String) {
    let all = status.models.iter().flat_map(|model| &model.segments).find(|segment| segment.segment == crate::drift::closed::ALL);
    let text = |segment: &SegmentView| {
        let records = format!("{} records", grouped(i64::try_from(segment.records).unwrap_or(i64::MAX)));
        (segment.verdict.replace('_', " "), segment.why.clone().unwrap_or(records))
    };
    all.map_or_else(|| ("waiting".into(), "no window closed yet".into()), text)
}

fn fvu_text(status: &StatusView) -> String {
    let all = status.models.iter().flat_map(|model| &model.segments).find(|segment| segment.segment == crate::drift::closed::ALL);
    all.and_then(|segment| segment.contract.fvu).map_or_else(|| "no decoder, no FVU".into(), |fvu| format!("FVU {fvu:.3}"))
}

fn is_broken(segment: &SegmentView) -> bool {
    segment.contract.broken.is_some() || segment.verdict == "contract_broken"
}

fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "▲ ",
        Direction::Down => "▼ ",
    }
}

fn ratio_text(ratio: Option<f64>, low: Option<f64>, high: Option<f64>) -> Markup {
    let number = |value: Option<f64>| {
        value.map_or_else(|| "∞".into(), |value| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") })
    };
    html! { strong { "×" (number(ratio)) } span.quiet { " " (number(low)) "–" (number(high)) } }
}

/// A share as per cent with three digits; anything above 1 (records per window) as it is.
fn rate_text(rate: f64) -> String {
    let percent = rate * 100.0;
    match percent {
        _ if rate > 1.0 => format!("{rate:.2}"),
        _ if percent >= 10.0 => format!("{percent:.1} %"),
        _ if percent >= 1.0 => format!("{percent:.2} %"),
        _ => format!("{percent:.3} %"),
    }
}

/// `1998-01-03 00:00`.
fn short_time(ms: i64) -> String {
    utc_text(ms).chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

fn ago(ms: i64) -> String {
    match ms.max(0) / 1000 {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

/// `53 475`, with thin spaces.
fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::from(if n < 0 { "-" } else { "" });
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}
