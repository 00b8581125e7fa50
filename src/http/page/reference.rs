//! The references: what each model version is judged against, how old that is, and what else the store holds.

use maud::{Markup, html};

use crate::http::page::layout::scroll;
use crate::http::page::words::{ago, grouped, length, short_time};
use crate::http::views::StatusView;
use crate::store::references::ReferenceEntry;

/// From this age on a reference is marked: on real weeks one never renewed alarmed every week after months.
const OLD_MS: i64 = 60 * 86_400_000;

/// The content of `/reference`.
pub(super) fn content(status: &StatusView, entries: &[ReferenceEntry], now_ms: i64) -> Markup {
    html! {
        h1 { "References" }
        @for model in &status.models {
            section data-model=(model.model_version) {
                h2 { @if model.model_version.is_empty() { "In use" } @else { "In use by " (model.model_version) } }
                @match &model.reference {
                    None => p.empty { "None yet: the first windows are being gathered, or the one that is named is not approved. Nothing is judged." },
                    Some(reference) => dl.facts {
                        dt { "Name" } dd { strong { (reference.name) } }
                        dt { "Age" } dd data-age-ms=(now_ms - reference.to_ms) { (length(now_ms - reference.to_ms)) " since its last window "
                            @if now_ms - reference.to_ms > OLD_MS { span.pill.warn { "old" } } @else { span.pill.ok { "fresh" } } }
                        dt { "Windows" } dd { (reference.windows) ", " (short_time(reference.from_ms)) " to " (short_time(reference.to_ms)) }
                        dt { "Self-check" } dd { @if reference.self_checked { "passed: fitted on its first 70 %, the rest raised no more alarms than its budget" } @else { "not run: it is too short for that" } }
                        dt { "Own wander" } dd { (reference.self_measured_wander.map_or_else(|| "not measured".to_owned(), |wander| format!("{:.1} % a window", 100.0 * wander))) }
                        dt { "SAE" } dd { code { (reference.fingerprint.chars().take(16).collect::<String>()) } }
                    }
                }
            }
        }
        section {
            h2 { "On the record" }
            @if entries.is_empty() { p.empty { "The store holds no reference." } } @else {
                (scroll("References in the store", &html! { table {
                    thead { tr { th scope="col" { "Name" } th scope="col" { "Windows" } th scope="col" { "From" } th scope="col" { "To" } th scope="col" { "Made" } th scope="col" { "Approved" } } }
                    tbody { @for entry in entries {
                        tr data-reference=(entry.name) {
                            th scope="row" { (entry.name) }
                            td.number { (grouped(entry.windows)) } td { (short_time(entry.from_ms)) } td { (short_time(entry.to_ms)) }
                            td { (short_time(entry.created_ms)) br; span.quiet { (ago(now_ms - entry.created_ms)) } }
                            td { @match &entry.approval { Some(approval) => { "by " strong { (approval.who) } br; span.quiet { (approval.why) } }, None => span.quiet { "by nobody" } } }
                        }
                    } }
                } }))
            }
            p.quiet { "Another one: " code { "recsae reference build" } ", then " code { "approve" } "." }
        }
    }
}
