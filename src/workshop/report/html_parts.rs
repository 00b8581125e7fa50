//! Parts of the page that stand by themselves: the comparison, the gaps, the proof.

use maud::{Markup, html};

use crate::drift::carriers::Carriers;
use crate::drift::closed::ALL;
use crate::drift::explanation::{Explanation, Stretch};
use crate::workshop::report::comparison::{Comparison, NAMED_AT};
use crate::workshop::report::content::{Gap, Report};
use crate::workshop::report::figures;
use crate::workshop::report::words::{counted, grouped, minute, percent, ratio, segment_words, verdict_words};

/// Rows of a comparison that are drawn and listed; the JSON has all.
const SHOWN: usize = 24;
/// Gaps listed; the JSON has all.
const GAPS_SHOWN: usize = 60;

/// Two sides and what differs.
pub(super) fn comparison_section(comparison: &Comparison) -> Markup {
    let shown = &comparison.differences[..comparison.differences.len().min(SHOWN)];
    let named = usize::try_from(comparison.named).unwrap_or(0).min(shown.len());
    let what = if comparison.of == "segment" { "segment" } else { "model version" };
    let units = |entities: u64, records: u64| {
        if entities > 0 { format!("{} entities", grouped(entities)) } else { format!("{} records", grouped(records)) }
    };
    html! {
        section #comparison {
            h2 { (segment_words(&comparison.a)) " and " (segment_words(&comparison.b)) " side by side" }
            p {
                "A test made for one look, over the " (counted(comparison.windows, "window", "windows")) " in which both " (what) "s were counted ("
                (units(comparison.entities_a, comparison.records_a)) " and " (units(comparison.entities_b, comparison.records_b)) ", summed over windows). "
                "Windows are strata, so that what moves both sides alike cancels; session lengths are taken out; the variance is measured between windows. "
                "Of " (counted(comparison.tested, "concept", "concepts")) " tested, " strong { (counted(comparison.named, "differs", "differ")) }
                " where at most " (format!("{:.0} %", NAMED_AT * 100.0)) " of those named are expected to be named wrongly (Benjamini and Hochberg). "
                (counted(comparison.too_rare, "concept was", "concepts were")) " too rare to be tested."
            }
            @if named > 0 { figure {
                figcaption { "How much more often " strong { (segment_words(&comparison.b)) } " shows a concept than " strong { (segment_words(&comparison.a)) } ", with 95 % intervals; the surest first" }
                (figures::forest(&shown[..named]))
            } }
            div.scroll { table {
                thead { tr { th scope="col" { "Concept" } th scope="col" { (segment_words(&comparison.a)) } th scope="col" { (segment_words(&comparison.b)) } th scope="col" { "Ratio (95 %)" } th scope="col" { "z" } th scope="col" { "False discovery rate" } } }
                tbody { @for difference in shown {
                    tr data-stream=(difference.stream) data-named=(difference.q_value <= NAMED_AT) {
                        th scope="row" { (difference.concept) " " span.quiet { (difference.stream) } }
                        td.number { (percent(difference.rate_a)) }
                        td.number { (percent(difference.rate_b)) }
                        td.number { strong { "×" (ratio(difference.ratio)) } " " span.quiet { (ratio(Some(difference.low))) " to " (ratio(difference.high)) } }
                        td.number { (format!("{:+.1}", difference.z)) }
                        td.number { @if difference.q_value < 0.0001 { "< 0.0001" } @else { (format!("{:.4}", difference.q_value)) } }
                    }
                } }
            } }
            @if comparison.differences.len() > SHOWN { p.quiet { (comparison.differences.len() - SHOWN) " more in the JSON." } }
        }
    }
}

/// What the records around an alert's change point say.
pub(super) fn explained(explanation: &Explanation) -> Markup {
    let floor =
        |value: Option<f64>, floor: Option<f64>| value.zip(floor).map(|(value, floor)| format!("{value:.3} (with no change {floor:.3})"));
    let described = &explanation.described;
    html! {
        div.explained {
            @match &explanation.records {
                None => p { "The records were not read: " (explanation.unread.as_deref().unwrap_or("no reason was kept")) },
                Some(records) => {
                    p { (shown("Before", &records.before)) "; " (shown("since", &records.after)) "." }
                    @if let Some(entities) = &records.entities { p data-carriers="users" { strong { "Users: " } (carried(entities, "user", "users")) } }
                    @if let Some(items) = &records.items { p data-carriers="items" { strong { "Items: " } (carried(items, "item", "items")) } }
                    @if !records.after.examples.is_empty() || !records.before.examples.is_empty() {
                        p { "Records to look at: " @for (idx, example) in records.before.examples.iter().chain(&records.after.examples).enumerate() {
                            @if idx > 0 { ", " } (example.partition) " " (example.offset)
                        } }
                    }
                }
            }
            p.quiet {
                @if let Some(reference) = &explanation.reference { "Judged against " (reference.name) ", " (reference.age_hours) " h old. " }
                @if let Some(psi) = floor(described.psi, described.psi_noise_floor) { "PSI " (psi) ". " }
                @if let Some(js) = floor(described.js, described.js_noise_floor) { "Jensen-Shannon divergence " (js) "." }
            }
        }
    }
}

fn shown(when: &str, stretch: &Stretch) -> String {
    let share = if stretch.records > 0 { stretch.shown as f64 / stretch.records as f64 } else { 0.0 };
    format!("{when} it was shown in {} of {} read", percent(share), counted(stretch.records, "record", "records"))
}

/// The sentence, and who is named: at most three.
fn carried(carriers: &Carriers, one: &str, many: &str) -> Markup {
    html! {
        (carriers.words(one, many)) "."
        @for (idx, top) in carriers.top.iter().take(3).enumerate() {
            @if idx == 0 { " Most by " } @else { ", " } code { (top.name) } " (" (grouped(top.before)) " before, " (grouped(top.after)) " since)"
        }
    }
}

/// What was not judged.
pub(super) fn gap_table(gaps: &[Gap]) -> Markup {
    html! {
        @if gaps.is_empty() { p { "Every window of every segment was judged." } } @else {
            div.scroll { table {
                thead { tr { th scope="col" { "From" } th scope="col" { "To" } th scope="col" { "What" } th scope="col" { "Windows" } th scope="col" { "Why not" } } }
                tbody { @for gap in gaps.iter().take(GAPS_SHOWN) {
                    tr data-gap=(gap.verdict) {
                        td.time { (minute(gap.from)) }
                        td.time { (minute(gap.to)) }
                        td { @if gap.segment.is_empty() || gap.segment == ALL { "everything" } @else { (gap.segment) } @if !gap.model_version.is_empty() { " " span.quiet { (gap.model_version) } } }
                        td.number { @if gap.windows > 0 { (grouped(gap.windows)) } @else { "–" } }
                        td { (verdict_words(&gap.verdict)) @if gap.why != verdict_words(&gap.verdict) { span.quiet { " (" (gap.why) ")" } } }
                    }
                } }
            } }
            @if gaps.len() > GAPS_SHOWN { p.quiet { (gaps.len() - GAPS_SHOWN) " more in the JSON." } }
        }
    }
}

/// How a reader can check every number.
pub(super) fn record_section(report: &Report) -> Markup {
    let record = &report.record;
    html! {
        section #record {
            h2 { "How this can be checked" }
            @if let Some(why) = &record.broken {
                p.broken { "The record is not as it was written: " (why) ". What is reported of later windows is not proven." }
            } @else {
                p { "Every judged window, alert and act is an entry in a chain of hashes in which each proves all before it. When this report was made the chain had "
                    (counted(u64::try_from(record.entries).unwrap_or(0), "entry", "entries")) ", all of them intact, and this head:" }
            }
            p { code.head { (record.head) } }
            p { "To check it later, on this store or a copy of it:" }
            pre { "recsae history verify --head " (record.head) "\nrecsae history rejudge WINDOW     # the stored evidence again, bit for bit\nrecsae history recount WINDOW     # the counts again, from the records in Kafka" }
            p { "A window is named by its start. Where the records of an alert's window lie:" }
            div.scroll { table {
                thead { tr { th scope="col" { "Alert" } th scope="col" { "Window" } th scope="col" { "Topic, partition: offsets" } } }
                tbody { @for found in report.found.iter().filter(|found| !found.offsets.is_empty()).take(SHOWN) {
                    tr { td.number { (found.alert.id) } td.time { (minute(found.alert.window_start)) }
                        td { @for (idx, range) in found.offsets.iter().enumerate() { @if idx > 0 { ", " } (range.partition) ": " (range.from) "–" (range.to - 1) } } }
                } }
            } }
            p.quiet { "Made " (minute(report.made_at)) " UTC by " (report.program) ". All times are UTC. The same content is in the JSON file beside this one." }
        }
    }
}
