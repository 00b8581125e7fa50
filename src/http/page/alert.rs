//! One alert: what changed and how surely, what explains it, what was done, and the forms to do something.

use maud::{Markup, html};

use crate::drift::alert::{AlertListing, utc_text};
use crate::drift::carriers::Carriers;
use crate::drift::explanation::{Explanation, RecordEvidence, Stretch};
use crate::drift::report::AlertState;
use crate::drift::stream::StreamId;
use crate::http::alert_view::AlertDetail;
use crate::http::page::form::{self, Tried};
use crate::http::page::layout::scroll;
use crate::http::page::timeline::timeline;
use crate::http::page::words::{
    ago, alert_state, arrow, concept_name, concept_url, grouped_u64, length, ratio_number, ratio_text, short_time,
};
use crate::snapshot::RatePoint;

/// Contributors named on the page; the API has ten.
const NAMED: usize = 5;

/// The content of an alert's page.
pub(super) fn content(detail: &AlertDetail, points: &[RatePoint], now_ms: i64, actions_on: bool, tried: Option<&Tried>) -> Markup {
    let alert = &detail.alert;
    let (state, class) = alert_state(alert.state);
    html! {
        @if let Some(tried) = tried { p.refusal role="alert" { (tried.why_not) } }
        div.heading data-alert=(alert.id) data-state=(state) data-stream=(alert.stream) data-segment=(alert.segment) {
            h1 { "Alert " (alert.id) ": " (alert.concept) }
            p { span.pill.(class) { (state) } " " (arrow(alert.direction)) (ratio_text(alert.ratio, alert.ratio_low, alert.ratio_high)) " of what was expected in "
                strong { (alert.segment) } " since " (short_time(alert.began)) "." @if let Some(ended) = alert.ended { " Over since " (short_time(ended)) (if alert.state == AlertState::Ended { ": a new lineage began." } else { "." }) } }
        }
        section { h2 { "Rate against expectation" } (timeline(&alert.concept, points, &[alert])) }
        div.columns {
            section { h2 { "What changed, and how surely" } (facts(alert, detail.explanation.as_ref(), now_ms)) }
            section #actions { h2 { "What was done" } (done(alert)) @if alert.state == AlertState::Firing { (form::forms(alert.id, actions_on, tried)) } }
        }
        @match &detail.explanation {
            None => section { h2 { "What explains it" } p.empty { "Not explained yet: the records around the change point are read some seconds after the alert. After retention has taken those windows it is gone for good." } },
            Some(Explanation { records: None, unread, .. }) => section { h2 { "What explains it" } p.empty { "The records could not be read: " (unread.as_deref().unwrap_or("for no reason that was kept")) } },
            Some(Explanation { records: Some(records), .. }) => { (explained(detail, records)) }
        }
    }
}

fn facts(alert: &AlertListing, explanation: Option<&Explanation>, now_ms: i64) -> Markup {
    let number = |value: f64| format!("{value:.1}");
    let with_floor = |value: Option<f64>, floor: Option<f64>| match (value, floor) {
        (Some(value), Some(floor)) => format!("{value:.4}, noise floor {floor:.4}"),
        _ => "none".to_owned(),
    };
    html! {
        dl.facts {
            dt { "Concept" } dd { (concept_name(&alert.concept, alert.stream, &alert.verification, &alert.model_version)) }
            dt { "Ratio" } dd { (ratio_text(alert.ratio, alert.ratio_low, alert.ratio_high)) span.quiet { " of presence, 95 %" } }
            @if alert.rate_ratio.is_some() { dt { "Activations" } dd { (ratio_text(alert.rate_ratio, alert.rate_low, alert.rate_high)) span.quiet { " of activations a record" } } }
            dt { "Began" } dd { (short_time(alert.began)) span.quiet { ", between " (short_time(alert.began_low)) " and " (short_time(alert.began_high)) } }
            dt { "Told" } dd { (short_time(alert.alerted_at)) span.quiet { ", " (ago(now_ms - alert.alerted_at)) } }
            dt { "Evidence" } dd { "ln M = " (number(alert.evidence_log)) span.quiet { " of " (number(alert.threshold_log)) ", " (alert.crossings) " crossings" } }
            dt { "Exposure" } dd { (number(alert.exposure)) }
            dt { "Power" } dd { @match alert.mde_ratio { Some(ratio) => { "×" (ratio_number(Some(ratio))) }, None => "none" } span.quiet { " is the least that twenty such windows would have shown" } }
            dt { "Reference" } dd { (alert.reference) @if let Some(reference) = explanation.and_then(|explanation| explanation.reference.as_ref()) {
                br; span.quiet { (reference.windows) " windows to " (short_time(reference.to)) ", " (length(reference.age_hours * 3_600_000)) " old at the alert" } } }
            @if let Some(described) = explanation.map(|explanation| &explanation.described) {
                dt { "PSI" } dd { (with_floor(described.psi, described.psi_noise_floor)) }
                dt { "JS" } dd { (with_floor(described.js, described.js_noise_floor)) span.quiet { " (description, never the alarm)" } }
            }
            @if let Some(part_of) = &alert.part_of { dt { "Told with" } dd { (part_of) } }
            @if !alert.moved_with.is_empty() { dt { "Moved with" } dd { ul.plain { @for moved in &alert.moved_with {
                li { a href=(concept_url(moved.stream, &alert.model_version)) { (moved.stream) } " ×" (ratio_number(Some(moved.ratio))) @if moved.same_family { span.quiet { " same family" } } }
            } } } }
        }
    }
}

fn done(alert: &AlertListing) -> Markup {
    html! {
        @if alert.actions.is_empty() { p.empty { "Nobody has acted on it." } } @else {
            ul.deeds { @for action in &alert.actions {
                li { strong { (action.action.kind()) } " by " strong { (action.who) } ", " (short_time(action.at_ms))
                    @if let Some(until) = action.until_ms { " until " (short_time(until)) } br; (action.why) }
            } }
        }
    }
}

fn explained(detail: &AlertDetail, records: &RecordEvidence) -> Markup {
    html! {
        section {
            h2 { "Who carries the change" }
            div.columns.tight {
                @if let Some(entities) = &records.entities { (carriers("Users", "user", "users", entities)) }
                @if let Some(items) = &records.items { (carriers("Items", "item", "items", items)) }
            }
            @if records.entities.is_none() && records.items.is_none() { p.empty { "The records name neither entities nor items." } }
        }
        section {
            h2 { "Records that show it" }
            div.columns.tight { (stretch("Before the change", &records.before)) (stretch("Since", &records.after)) }
        }
        @if !records.shown_with.is_empty() { section {
            h2 { "Shown in the same records" }
            (scroll("Latents shown in the same records", &html! { table {
                thead { tr { th scope="col" { "Concept" } th scope="col" { "In its records" } th scope="col" { "Times chance" } } }
                tbody { @for shown in &records.shown_with {
                    @let stream = StreamId::Latent(shown.latent);
                    tr { td { a href=(concept_url(stream, &detail.alert.model_version)) { (detail.name_of(stream)) } } td.number { (format!("{:.0} %", 100.0 * shown.share)) } td.number { "×" (ratio_number(Some(shown.lift))) } }
                } }
            } }))
        } }
    }
}

fn carriers(title: &str, one: &str, many: &str, carriers: &Carriers) -> Markup {
    html! { div {
        h3 { (title) }
        p.sentence data-carried-by=(format!("{:?}", carriers.carried_by).to_lowercase()) data-carriers=(many) { (carriers.words(one, many)) "." }
        @if !carriers.top.is_empty() {
            (scroll(&format!("{title} with the largest part of the change"), &html! { table {
                thead { tr { th scope="col" { "Most by" } th scope="col" { "Records before" } th scope="col" { "Records since" } } }
                tbody { @for top in carriers.top.iter().take(NAMED) { tr { td { code { (top.name) } } td.number { (grouped_u64(top.before)) } td.number { (grouped_u64(top.after)) } } } }
            } }))
        }
    } }
}

fn stretch(title: &str, stretch: &Stretch) -> Markup {
    html! {
        div {
            h3 { (title) }
            p { "Shown " strong { (grouped_u64(stretch.shown)) } " times in " (grouped_u64(stretch.records)) " records"
                @if stretch.is_part { ", a part of those" } " from " time datetime=(utc_text(stretch.from)) { (short_time(stretch.from)) } " to " (short_time(stretch.to)) "." }
            @if stretch.examples.is_empty() { p.empty { "No record shows it." } } @else {
                (scroll(&format!("Examples: {title}"), &html! { table {
                    thead { tr { th scope="col" { "Record" } th scope="col" { "Entity" } th scope="col" { "Items" } } }
                    tbody { @for example in &stretch.examples {
                        tr data-offset=(example.offset) { td { (example.partition) ": " (example.offset) } td { code { (example.entity.as_deref().unwrap_or("–")) } } td { (example.items.join(", ")) } }
                    } }
                } }))
            }
        }
    }
}
