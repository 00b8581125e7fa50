//! An alert and all that explains it, in lines for a terminal.

use std::io::{self, Write};

use crate::cli::plain::plain;
use crate::drift::alert::utc_text;
use crate::drift::explanation::{Described, Explanation, RecordEvidence, Stretch};
use crate::drift::report::{AlertState, Direction};
use crate::drift::stream::StreamId;
use crate::http::alert_view::AlertDetail;

/// Contributors printed; the JSON has ten.
const SHOWN: usize = 5;

/// Writes it.
///
/// # Errors
/// The terminal has gone.
pub(super) fn write(out: &mut impl Write, detail: &AlertDetail) -> io::Result<()> {
    let alert = &detail.alert;
    let state = match alert.state {
        AlertState::Firing => "FIRING",
        AlertState::Ended => "ended: a new lineage began",
        other => other.kind(),
    };
    let direction = if alert.direction == Direction::Up { "up" } else { "down" };
    writeln!(out, "alert {}  {state}  {} ({}) [{}]", alert.id, plain(&alert.concept), alert.verification, alert.stream)?;
    line(out, "where", &format!("segment {}, model version {:?}", alert.segment, alert.model_version))?;
    let activations = alert.rate_ratio.map(|_| format!("; activations {}", interval(alert.rate_ratio, alert.rate_low, alert.rate_high)));
    let ratio = interval(alert.ratio, alert.ratio_low, alert.ratio_high);
    line(out, "change", &format!("{direction} {ratio} of what was expected{}", activations.unwrap_or_default()))?;
    let (began, low, high) = (utc_text(alert.began), utc_text(alert.began_low), utc_text(alert.began_high));
    line(out, "began", &format!("{began}, between {low} and {high}; told {}", utc_text(alert.alerted_at)))?;
    let (evidence, threshold, crossings) = (alert.evidence_log, alert.threshold_log, alert.crossings);
    line(out, "evidence", &format!("ln M = {evidence:.1} of {threshold:.1}, {crossings} crossings; exposure {:.1}", alert.exposure))?;
    let detectable = alert.mde_ratio.map_or_else(|| "no ratio".to_owned(), |ratio| format!("x{ratio:.2}"));
    line(out, "power", &format!("{detectable} is the least that twenty windows of this volume would have shown"))?;
    if let Some(part_of) = &alert.part_of {
        line(out, "part of", part_of)?;
    }
    match &detail.explanation {
        Some(explanation) => explained(out, detail, explanation)?,
        None => line(out, "records", "not explained yet, or no more: retention took the windows it was read from")?,
    }
    for moved in &alert.moved_with {
        let family = if moved.same_family { ", same family" } else { "" };
        line(out, "moved with", &format!("{} [{}] x{:.2}{family}", detail.name_of(moved.stream), moved.stream, moved.ratio))?;
    }
    for action in &alert.actions {
        let until = action.until_ms.map(|until| format!(" until {}", utc_text(until))).unwrap_or_default();
        line(out, "done", &format!("{}: {} by {}{until}: {}", utc_text(action.at_ms), action.action.kind(), action.who, action.why))?;
    }
    Ok(())
}

fn explained(out: &mut impl Write, detail: &AlertDetail, explanation: &Explanation) -> io::Result<()> {
    if let Some(reference) = &explanation.reference {
        let (name, windows, age) = (&reference.name, reference.windows, reference.age_hours);
        let span = format!("{} to {}", utc_text(reference.from), utc_text(reference.to));
        line(out, "reference", &format!("{name}: {windows} windows, {span}; {age} h old at the alert"))?;
    }
    let Described { psi, psi_noise_floor, js, js_noise_floor, .. } = &explanation.described;
    let with_floor = |value: &Option<f64>, floor: &Option<f64>| match (value, floor) {
        (Some(value), Some(floor)) => format!("{value:.4} (noise floor {floor:.4})"),
        _ => "none".to_owned(),
    };
    line(out, "described", &format!("PSI {}, JS {}", with_floor(psi, psi_noise_floor), with_floor(js, js_noise_floor)))?;
    if let Some(unread) = &explanation.unread {
        line(out, "records", &format!("could not be read: {unread}"))?;
    }
    explanation.records.as_ref().map_or(Ok(()), |records| told(out, detail, records))
}

fn told(out: &mut impl Write, detail: &AlertDetail, records: &RecordEvidence) -> io::Result<()> {
    for (name, stretch) in [("before", &records.before), ("since", &records.after)] {
        let part = if stretch.is_part { " (a part of the windows' records)" } else { "" };
        let span = format!("{} to {}", utc_text(stretch.from), utc_text(stretch.to));
        line(out, name, &format!("shown {} times in {} records{part}, {span}", stretch.shown, stretch.records))?;
    }
    for (carriers, one, many) in [(&records.entities, "entity", "entities"), (&records.items, "item", "items")] {
        let Some(carriers) = carriers else { continue };
        line(out, "carried by", &format!("{many}: {}", carriers.words(one, many)))?;
        for top in carriers.top.iter().take(SHOWN) {
            line(out, "", &format!("  {} {}: {} before, {} since", one, top.name, top.before, top.after))?;
        }
    }
    for shown in &records.shown_with {
        let name = detail.name_of(StreamId::Latent(shown.latent));
        line(out, "shown with", &format!("{name}: in {:.0} % of its records, x{:.1} of chance", 100.0 * shown.share, shown.lift))?;
    }
    examples(out, "before", &records.before)?;
    examples(out, "since", &records.after)
}

fn examples(out: &mut impl Write, when: &str, stretch: &Stretch) -> io::Result<()> {
    for example in &stretch.examples {
        let entity = example.entity.as_deref().unwrap_or("unknown");
        let items = if example.items.is_empty() { "none named".to_owned() } else { example.items.join(", ") };
        line(out, "example", &format!("{when}: {} offset {}, entity {entity}, items {items}", example.partition, example.offset))?;
    }
    Ok(())
}

fn line(out: &mut impl Write, name: &str, words: &str) -> io::Result<()> {
    writeln!(out, "  {name:<11} {}", plain(words))
}

fn interval(ratio: Option<f64>, low: Option<f64>, high: Option<f64>) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "inf".into(), |value| format!("{value:.2}"));
    format!("x{} ({} to {})", number(ratio), number(low), number(high))
}
