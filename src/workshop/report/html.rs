//! The report as one HTML file: reads without scripts, prints well, fetches nothing.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::drift::alert::ActionKind;
use crate::workshop::report::content::{Finding, Report, Summary, Watched};
use crate::workshop::report::figures::{self, SpanMs};
use crate::workshop::report::html_parts::{comparison_section, explained, gap_table, record_section};
use crate::workshop::report::words::{change, counted, grouped, length, minute, percent, ratio, segment_words};

const STYLE: &str = include_str!("report.css");

/// The whole file.
#[must_use]
pub fn html(report: &Report) -> String {
    let span = (report.from, report.to);
    let title = format!("What the recommender thought, {} to {}", day(report.from), day(report.to - 1));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (figures::definitions())
                header {
                    p.kind { "Audit report · " (report.program) }
                    h1 { "What the recommender thought" }
                    p.span { (minute(report.from)) " to " (minute(report.to)) " UTC" @if let Some(segment) = &report.segment { " · segment " strong { (segment) } } }
                }
                main {
                    (summary_section(report))
                    (watched_section(&report.watched, &report.summary))
                    (found_section(report, span))
                    (segments_section(report, span))
                    @if let Some(comparison) = &report.comparison { (comparison_section(comparison)) }
                    (done_section(report))
                    section #not-watched { h2 { "What was not watched, and when" } (gap_table(&report.not_watched)) }
                    (instrument_section(report, span))
                    (record_section(report))
                }
            }
        }
    };
    page.into_string()
}

fn summary_section(report: &Report) -> Markup {
    let summary = &report.summary;
    html! {
        section #summary {
            p.lead { (in_one_breath(report)) }
            dl.figures {
                (figure("windows", &grouped(summary.windows), &format!("windows, {} judged", grouped(summary.judged))))
                (figure("records", &grouped(summary.records), &format!("records, {} rejected", grouped(summary.rejected))))
                (figure("alerts-opened", &grouped(summary.alerts_opened), &format!("alerts opened, {} open at the end", grouped(summary.alerts_open))))
                (figure("actions", &grouped(summary.actions), "acts of people on the record"))
                (figure("gaps", &grouped(report.not_watched.len() as u64), "stretches without a verdict"))
            }
        }
    }
}

fn figure(key: &str, value: &str, words: &str) -> Markup {
    html! { div data-figure=(key) { dt { (value) } dd { (words) } } }
}

/// The whole report in a few sentences.
fn in_one_breath(report: &Report) -> String {
    let summary = &report.summary;
    let streams: u64 = report.watched.iter().map(|watched| watched.streams).sum();
    let mut text = if summary.judged == 0 {
        "In this time no window was judged: nothing can be said of drift.".to_owned()
    } else {
        format!(
            "{} were tested in each of {}, all together under one false-alarm budget.",
            counted(streams, "stream", "streams"),
            counted(summary.judged, "judged window", "judged windows")
        )
    };
    if summary.judged > 0 {
        let named: Vec<String> =
            report.found.iter().filter(|found| found.alert.window_start >= report.from).take(3).map(in_short).collect();
        text += &match summary.alerts_opened {
            0 => " No drift was found.".to_owned(),
            n => {
                let more = n.saturating_sub(named.len() as u64);
                let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
                format!(" {} opened: {}{rest}.", counted(n, "alert", "alerts"), named.join("; "))
            }
        };
    }
    if !report.not_watched.is_empty() {
        text += " Not all of the time was watched: see what was not watched, and when.";
    }
    text += if report.record.intact { " The record is intact." } else { " THE RECORD DOES NOT PROVE ITSELF: see the last section." };
    text
}

fn in_short(found: &Finding) -> String {
    let alert = &found.alert;
    format!("{} in {} {} since {}", alert.concept, segment_words(&alert.segment), change(alert.ratio), minute(alert.began))
}

fn watched_section(watched: &[Watched], summary: &Summary) -> Markup {
    let shift = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| change(Some(value)));
    html! {
        section #watched {
            h2 { "What was watched, and with what power" }
            p {
                "Power is what a test would have seen had it been there. The smallest increase that twenty windows would have shown, "
                "at the volume of the last judged window, for the streams that are easiest, middling and hardest to see; and the share of all streams in which a shift of the given size would have been seen. "
                "A stream that is shown too rarely would have shown none of these."
            }
            div.scroll { table.power {
                thead {
                    tr { th scope="col" rowspan="2" { "Watched" } th scope="col" rowspan="2" { "Streams" } th scope="col" rowspan="2" { "Windows" br; "judged" } th scope="col" rowspan="2" { "Median" br; "entities" }
                        th scope="colgroup" colspan="3" { "Smallest increase seen in" } th scope="colgroup" colspan="3" { "Streams that would have shown" } }
                    tr { th scope="col" { "1 in 10" } th scope="col" { "half" } th scope="col" { "9 in 10" } th scope="col" { "+50 %" } th scope="col" { "×2" } th scope="col" { "×3" } }
                }
                tbody { @for row in watched {
                    tr data-model=(row.model_version) data-segment=(row.segment) data-judged=(row.judged) data-streams=(row.streams) {
                        th scope="row" { (segment_words(&row.segment)) @if !row.model_version.is_empty() { " " span.quiet { (row.model_version) } } }
                        td.number { (grouped(row.streams)) }
                        td.number { (grouped(row.judged)) span.quiet { " of " (grouped(row.windows)) } }
                        td.number { @if row.median_entities > 0 { (grouped(row.median_entities)) } @else { "–" } }
                        @if let Some(power) = &row.power {
                            td.number { (shift(power.tenth)) } td.number { strong { (shift(power.half)) } } td.number { (shift(power.nine_tenths)) }
                            td.number { (percent(power.share_half)) } td.number { (percent(power.share_double)) } td.number { (percent(power.share_triple)) }
                        } @else { td colspan="6" { span.quiet { "nothing was judged" } } }
                    }
                } }
            } }
            @if let (Some(budget), Some(allowed)) = (summary.budget_windows, summary.false_alarms_allowed) {
                p { "Budget: one false alarm in " (grouped(whole(budget))) " windows for all streams together. In the " (grouped(summary.judged)) " judged windows that allows "
                    strong { (format!("{allowed:.2}")) } " false alarms on average." }
            }
            @let references: std::collections::BTreeSet<&String> = watched.iter().flat_map(|row| &row.references).collect();
            @if !references.is_empty() { p.quiet { "Judged against: " (references.into_iter().cloned().collect::<Vec<_>>().join(", ")) "." } }
        }
    }
}

fn found_section(report: &Report, span: SpanMs) -> Markup {
    html! {
        section #found {
            h2 { "What was found" }
            @if report.found.is_empty() { p { "No alert was open in this time." } } @else {
                div.scroll { table.found {
                    thead { tr { th scope="col" { "Nr" } th scope="col" { "Concept" } th scope="col" { "Where" } th scope="col" { "Ratio (95 %)" } th scope="col" { "Change began" } th scope="col" { "Alert opened" } th scope="col" { "Evidence" } th scope="col" { "State" } } }
                    tbody { @for found in &report.found { (found_row(found)) } }
                } }
            }
            @for found in &report.found { @if let Some(timeline) = &found.timeline {
                figure.timeline data-alert=(found.alert.id) {
                    figcaption { strong { "Alert " (found.alert.id) ": " (found.alert.concept) } " in " (segment_words(&found.alert.segment)) ", " (change(found.alert.ratio)) " "
                        span.quiet { "(" (found.alert.stream) ", " (found.alert.verification) ")" } }
                    (figures::timeline(timeline, Some(&found.alert), span))
                    @if let Some(explanation) = &found.explanation { (explained(explanation)) }
                    @for action in &found.alert.actions {
                        p.action { (minute(action.at_ms)) ": " (done_word(action.action)) " by " strong { (action.who) } @if let Some(until) = action.until_ms { " until " (minute(until)) } ": " (action.why) }
                    }
                }
            } }
            (legend())
            @if !report.closest.is_empty() {
                h3 { "Nearest to an alert without one" }
                p { "The streams whose evidence came nearest to the threshold. They are shown so that a reader can see what no alert looks like; none of them is a finding." }
                @for timeline in &report.closest {
                    figure.timeline {
                        figcaption { strong { (timeline.concept) } " in " (segment_words(&timeline.segment)) span.quiet { ", at most " (percent(timeline.evidence_share)) " of the threshold" } }
                        (figures::timeline(timeline, None, span))
                    }
                }
            }
        }
    }
}

fn found_row(found: &Finding) -> Markup {
    let alert = &found.alert;
    let state = alert.state.kind();
    html! {
        tr data-alert=(alert.id) data-state=(state) data-stream=(alert.stream) data-segment=(alert.segment) data-ratio=(alert.ratio.map_or_else(String::new, |r| r.to_string())) {
            td.number { (alert.id) }
            th scope="row" { (alert.concept) br; span.quiet { (alert.stream) } }
            td { (segment_words(&alert.segment)) @if !alert.model_version.is_empty() { br; span.quiet { (alert.model_version) } } }
            td.number { strong { (if matches!(alert.direction, crate::drift::report::Direction::Up) { "▲ ×" } else { "▼ ×" }) (ratio(alert.ratio)) } br; span.quiet { (ratio(alert.ratio_low)) " to " (ratio(alert.ratio_high)) } }
            td { (minute(alert.began)) br; span.quiet { "± " (length((alert.began_high - alert.began_low) / 2)) } }
            td { (minute(alert.window_end)) br; span.quiet { (length(alert.window_end - alert.began)) " after the change" } }
            td.number { (format!("{:.1}", alert.evidence_log)) br; span.quiet { "of " (format!("{:.1}", alert.threshold_log)) } }
            td { span class={ "pill " (state) } { (state) } @if let Some(ended) = alert.ended { br; span.quiet { (minute(ended)) } } }
        }
    }
}

fn done_word(action: ActionKind) -> &'static str {
    match action {
        ActionKind::Acknowledge => "acknowledged",
        ActionKind::Accept => "accepted as the new level",
        ActionKind::Mute => "muted",
    }
}

fn legend() -> Markup {
    html! {
        p.legend {
            span.key.rate {} " share of entities that met the concept  " span.key.expected {} " share expected  " span.key.band {} " where 95 of 100 windows lie without a change  "
            span.key.change {} " when the change began, with its interval  " span.key.in-alert {} " alert open  " span.key.unjudged {} " no verdict"
        }
    }
}

fn segments_section(report: &Report, span: SpanMs) -> Markup {
    let several = report.heat.iter().any(|row| report.heat.first().is_some_and(|first| first.model_version != row.model_version));
    html! {
        section #segments {
            h2 { "Segments over time" }
            p { "Each cell is the stream of the segment that came nearest to an alert. Deeper blue is nearer, red is an alert, hatched means that no window of the cell was judged, white that there was none." }
            figure { (figures::heat(&report.heat, span, &|row| {
                let name = segment_words(&row.segment).to_owned();
                if several { format!("{name} · {}", row.model_version) } else { name }
            })) }
        }
    }
}

fn done_section(report: &Report) -> Markup {
    html! {
        section #done {
            h2 { "What was done, by whom" }
            @if report.done.is_empty() { p { "Nobody acted in this time, and what is watched did not change." } } @else {
                div.scroll { table {
                    thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Why" } th scope="col" { "Entry" } } }
                    tbody { @for deed in &report.done {
                        tr data-entry=(deed.entry) { td.time { (minute(deed.at)) } td { @if deed.who.is_empty() { span.quiet { "by rule" } } @else { strong { (deed.who) } } } td { (deed.what) } td { (deed.why) } td.number { (deed.entry) } }
                    } }
                } }
            }
        }
    }
}

fn instrument_section(report: &Report, span: SpanMs) -> Markup {
    html! {
        section #instrument {
            h2 { "Whether the instrument could be trusted" }
            p { "Drift is only judged while the sparse autoencoder still fits the vectors it reads. The share of variance it leaves unexplained (FVU) says so: where it leaves its contract, no concept is judged. Red dots mark such windows." }
            @for series in &report.input {
                @if report.input.len() > 1 { h3 { "Model " (series.model_version) } }
                figure { figcaption { "Records a window" @if series.windows.iter().any(|w| w.rejected > 0) { ", rejected ones in red" } } (figures::volume(&series.windows, span)) }
                @if series.windows.iter().any(|window| window.fvu.is_some()) {
                    figure { figcaption { "FVU a window" } (figures::contract(&series.windows, span)) }
                } @else { p.quiet { "No FVU: the bundle has no decoder, or there was no reference to compare with." } }
            }
        }
    }
}

fn day(ms: i64) -> String {
    minute(ms).chars().take(10).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "windows of a budget, rounded for reading")]
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}
