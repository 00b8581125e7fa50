//! The overview at `/`: what fires, which concepts moved, whether the instrument can be trusted.

use maud::{Markup, html};

use crate::drift::alert::{AlertListing, utc_text};
use crate::drift::report::AlertState;
use crate::http::page::layout::scroll;
use crate::http::page::words::{
    ago, alert_state, arrow, concept_name, grouped, grouped_u64, rate_text, ratio_text, short_time, stream_state,
};
use crate::http::sparkline::sparkline;
use crate::http::views::{self, ConceptFilter, ConceptView, PartitionView, SegmentView, StatusView};
use crate::snapshot::{RatePoint, Snapshot};

/// Concepts on the page: what a person reads; `/concepts` has a thousand, the API all of them.
const N_CONCEPTS: usize = 60;
/// Alerts on the page.
const N_ALERTS: usize = 30;

/// Title of the page: how many alerts fire is seen in the browser's tab.
pub(super) fn title(snapshot: &Snapshot) -> String {
    match snapshot.alerts.iter().filter(|alert| alert.state == AlertState::Firing).count() {
        0 => "recsae".to_owned(),
        n_firing => format!("({n_firing}) recsae"),
    }
}

/// The content of the page.
pub(super) fn content(snapshot: &Snapshot, status: &StatusView, now_ms: i64) -> Markup {
    let alerts = views::alerts(snapshot);
    let n_firing = alerts.iter().filter(|alert| alert.state == AlertState::Firing).count();
    html! {
        h1.hidden { "Overview" }
        (tiles(status, n_firing, now_ms))
        (alert_section(&alerts, now_ms))
        (concept_section(snapshot))
        div.columns { (contract_section(status)) (partition_section(status)) }
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
                (scroll("Alerts, newest first", &html! { table.alerts {
                    thead { tr { th scope="col" { "Alert" } th scope="col" { "Concept" } th scope="col" { "Segment" } th scope="col" { "Change" } th scope="col" { "Began" } th scope="col" { "Alerted" } th scope="col" { "Evidence" } th scope="col" { "Actions" } } }
                    tbody { @for alert in alerts.iter().take(N_ALERTS) { (alert_row(alert, now_ms)) } }
                } }))
                @if alerts.len() > N_ALERTS { p.quiet { (alerts.len() - N_ALERTS) " more in /api/v1/alerts" } }
            }
        }
    }
}

fn alert_row(alert: &AlertListing, now_ms: i64) -> Markup {
    let (state, class) = alert_state(alert.state);
    html! {
        tr data-alert=(alert.id) data-state=(state) data-segment=(alert.segment) data-stream=(alert.stream) data-concept=(alert.concept)
            data-ratio=(alert.ratio.map_or_else(String::new, |ratio| ratio.to_string())) {
            td { a href={ "/alerts/" (alert.id) } { "Alert " (alert.id) } br; span.pill.(class) { (state) } }
            td { (concept_name(&alert.concept, alert.stream, &alert.verification, &alert.model_version)) }
            td { (alert.segment) }
            td.number { (arrow(alert.direction)) (ratio_text(alert.ratio, alert.ratio_low, alert.ratio_high)) }
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
            h2 { "Concepts by evidence" span.quiet { " " (grouped_u64(total as u64)) " streams followed" } }
            @if concepts.is_empty() { p.empty { "No verdicts yet: concepts appear once a reference exists and a window was judged." } } @else {
                (scroll("Concepts by evidence", &html! { table.concepts {
                    thead { tr { th scope="col" { "Concept" } th scope="col" { "Segment" } th scope="col" { "State" } th scope="col" { "Ratio (95 %)" } th scope="col" { "Rate" } th scope="col" { "Expected" } th scope="col" { "Evidence" } th scope="col" { "Last windows" } } }
                    tbody { @for concept in &concepts { (concept_row(snapshot, concept)) } }
                } }))
                @if total > concepts.len() { p.quiet { "The first " (concepts.len()) " by evidence; " a href="/concepts" { "search all of them" } } }
            }
        }
    }
}

fn concept_row(snapshot: &Snapshot, concept: &ConceptView) -> Markup {
    let (state, class) = stream_state(concept.state);
    let share = if concept.threshold_log > 0.0 { (concept.evidence_log / concept.threshold_log).clamp(0.0, 1.0) } else { 0.0 };
    html! {
        tr data-stream=(concept.stream) data-segment=(concept.segment) data-state=(state) {
            td { (concept_name(&concept.concept, concept.stream, &concept.verification, &concept.model_version)) }
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

fn contract_section(status: &StatusView) -> Markup {
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.3}"));
    html! {
        section {
            h2 { "Input contract and segments" }
            (scroll("Input contract by segment", &html! { table {
                thead { tr { th scope="col" { "Segment" } th scope="col" { "Verdict" } th scope="col" { "Records" } th scope="col" { "Entities" } th scope="col" { "FVU" } th scope="col" { "Cosine" } th scope="col" { "Norm" } th scope="col" { "L0" } } }
                tbody { @for model in &status.models { @for segment in &model.segments {
                    tr data-segment=(segment.segment) {
                        td { (segment.segment) @if status.models.len() > 1 { " " span.quiet { (model.model_version) } } }
                        td { span.pill.(if is_broken(segment) { "alert" } else if segment.verdict == "judged" { "ok" } else { "quiet" }) title=[&segment.why] { (segment.verdict.replace('_', " ")) } }
                        td.number { (grouped_u64(segment.records)) }
                        td.number { (grouped_u64(segment.entities)) }
                        td.number { (number(segment.contract.fvu)) }
                        td.number { (number(segment.contract.cosine)) }
                        td.number { (number(segment.contract.norm_ratio)) }
                        td.number { (format!("{:.1}", segment.contract.l0)) }
                    }
                } } }
            } }))
            @for model in &status.models {
                p.quiet { @match &model.reference {
                    Some(reference) => { "Reference " a href="/reference" { (reference.name) } ": " (reference.windows) " windows to " (short_time(reference.to_ms))
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
                (scroll("Partitions", &html! { table {
                    thead { tr { th scope="col" { "Partition" } th scope="col" { "Position" } th scope="col" { "Lag" } th scope="col" { "Lag, time" } th scope="col" { "State" } } }
                    tbody { @for partition in &status.partitions { (row(partition)) } }
                } }))
            }
        }
    }
}

/// The verdict on `_all` of the first model that has one, and why.
fn verdict_of(status: &StatusView) -> (String, String) {
    let all = status.models.iter().flat_map(|model| &model.segments).find(|segment| segment.segment == crate::drift::closed::ALL);
    let text = |segment: &SegmentView| {
        let records = format!("{} records", grouped_u64(segment.records));
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

fn points(snapshot: &Snapshot, concept: &ConceptView) -> Vec<RatePoint> {
    let model = snapshot.models.iter().find(|model| model.model_version == concept.model_version);
    model.map(|model| model.history.points(&concept.segment, concept.stream)).unwrap_or_default()
}
