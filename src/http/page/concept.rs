//! One concept: rate against expectation, its segments, what it means and how far that is tested, examples, alerts.

use maud::{Markup, html};

use crate::drift::alert::AlertListing;
use crate::drift::explanation::Explanation;
use crate::drift::stream::StreamId;
use crate::http::page::layout::scroll;
use crate::http::page::timeline::timeline;
use crate::http::page::words::{alert_state, arrow, concept_url, in_query, rate_text, ratio_number, ratio_text, short_time, stream_state};
use crate::http::sparkline::sparkline;
use crate::http::views::ConceptView;
use crate::sae::concept::{Concept, ConceptCatalog};
use crate::sae::latent::LatentId;
use crate::snapshot::RatePoint;

/// Items, reviews and neighbours shown.
const SHOWN: usize = 12;

/// Everything a card shows.
pub(super) struct Card<'a> {
    /// The stream in each segment, the shown one first.
    pub(super) segments: Vec<(ConceptView, Vec<RatePoint>)>,
    /// Alerts of the stream and model, newest first.
    pub(super) alerts: Vec<&'a AlertListing>,
    /// What explains the newest of them that is explained.
    pub(super) explanation: Option<Explanation>,
    /// What the bundle knows of it.
    pub(super) catalogue: Option<&'a ConceptCatalog>,
    /// Latents of the nearest decoder rows, with their cosine.
    pub(super) nearest: Vec<(LatentId, f32)>,
}

/// The content of a concept's page; `card.segments` is not empty.
pub(super) fn content(card: &Card<'_>) -> Markup {
    let Some((now, points)) = card.segments.first() else { return html! {} };
    let (state, class) = stream_state(now.state);
    let here: Vec<&AlertListing> = card.alerts.iter().copied().filter(|alert| alert.segment == now.segment).collect();
    let concept = match now.stream {
        StreamId::Latent(latent) => card.catalogue.and_then(|catalogue| catalogue.concepts.get(&latent)),
        _ => None,
    };
    html! {
        div.heading data-stream=(now.stream) data-segment=(now.segment) data-state=(state) {
            h1 { (now.concept) }
            p { span.pill.(class) { (state) } " in " strong { (now.segment) } " · " (now.stream) " · " (now.verification) @if !now.model_version.is_empty() { " · " (now.model_version) }
                @if let Some(family) = now.family { " · " a href=(concept_url(StreamId::Family(family), &now.model_version)) { "family:" (family) } } }
        }
        section { h2 { "Rate against expectation" } (timeline(&now.concept, points, &here)) }
        section { h2 { "Segments" } (segments(card)) }
        div.columns {
            section { h2 { "What it means, and how far that is tested" } (meaning(now, concept)) }
            section { h2 { "Neighbours" } (neighbours(card, now)) }
        }
        section { h2 { "Records that show it" } (examples(card)) }
        section { h2 { "Alerts" } (alerts(card)) }
    }
}

fn segments(card: &Card<'_>) -> Markup {
    scroll(
        "The concept by segment",
        &html! { table {
            thead { tr { th scope="col" { "Segment" } th scope="col" { "State" } th scope="col" { "Ratio (95 %)" } th scope="col" { "Rate" } th scope="col" { "Expected" } th scope="col" { "Evidence" } th scope="col" { "Would show" } th scope="col" { "Last windows" } } }
            tbody { @for (of, points) in &card.segments {
                @let (state, class) = stream_state(of.state);
                tr data-segment=(of.segment) data-state=(state) {
                    th scope="row" { a href=(segment_url(of)) { (of.segment) } }
                    td { span.pill.(class) { (state) } }
                    td.number { (ratio_text(of.ratio, of.ratio_low, of.ratio_high)) }
                    td.number { (rate_text(of.rate)) } td.number { (rate_text(of.expected_rate)) }
                    td.number { (format!("{:.1}", of.evidence_log)) span.quiet { " of " (format!("{:.1}", of.threshold_log)) } }
                    td.number { @if of.mde_ratio.is_some() { "×" (ratio_number(of.mde_ratio)) } @else { "–" } }
                    td { (sparkline(points, &format!("{} in {}", of.concept, of.segment))) }
                }
            } }
        } },
    )
}

fn segment_url(of: &ConceptView) -> String {
    let url = concept_url(of.stream, &of.model_version);
    format!("{url}{}segment={}", if url.contains('?') { "&" } else { "?" }, in_query(&of.segment))
}

fn meaning(now: &ConceptView, concept: Option<&Concept>) -> Markup {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    html! {
        p { "The name is " strong { (now.verification) } "." }
        @match concept {
            None => p.empty { "The bundle's catalogue says nothing of it." },
            Some(concept) => {
                @if !concept.top_items.is_empty() { h3 { "Items it is strongest for" } ul.plain { @for item in concept.top_items.iter().take(SHOWN) { li { (item) } } } }
                @if let Some(evidence) = &concept.evidence {
                    p { "Proposed from " (evidence.source) @if !evidence.value.is_empty() { " “" (evidence.value) "”" } ": of " (evidence.n_active) " cases that show it " (percent(evidence.precision)) " carry the tag (×" (ratio_number(Some(evidence.lift))) " of chance)." }
                }
                @if let Some(tested) = &concept.tested {
                    p { "On cases it was not made from: " strong { (percent(tested.balanced_accuracy)) } " told rightly (95 %: " (percent(tested.interval[0])) " to " (percent(tested.interval[1])) "; chance is 50 %), " (tested.n_positive) " with it and " (tested.n_negative) " without." }
                } @else { p { "It was not tested on cases it was not made from." } }
                @for review in concept.reviews.iter().rev().take(SHOWN) {
                    p.quiet { (short_time(review.at_ms)) ": " (review.reviewer) " said " (format!("{:?}", review.state).to_lowercase()) @if !review.note.is_empty() { ", “" (review.note) "”" } }
                }
            }
        }
    }
}

fn neighbours(card: &Card<'_>, now: &ConceptView) -> Markup {
    let name = |latent: &LatentId| card.catalogue.map_or_else(|| latent.to_string(), |catalogue| catalogue.name(*latent));
    html! {
        @if card.nearest.is_empty() { p.empty { "The weights are not in the bundle, or this is no single latent." } } @else {
            (scroll("Latents that mean alike", &html! { table {
                thead { tr { th scope="col" { "Concept" } th scope="col" { "Cosine" } } }
                tbody { @for (latent, cosine) in &card.nearest {
                    tr { td { a href=(concept_url(StreamId::Latent(*latent), &now.model_version)) { (name(latent)) } br; span.quiet { (StreamId::Latent(*latent)) } } td.number { (format!("{cosine:.2}")) } }
                } }
            } }))
        }
    }
}

fn examples(card: &Card<'_>) -> Markup {
    let records = card.explanation.as_ref().and_then(|explanation| explanation.records.as_ref());
    let examples =
        records.map(|records| records.after.examples.iter().chain(&records.before.examples).collect::<Vec<_>>()).unwrap_or_default();
    html! {
        @if examples.is_empty() { p.empty { "Records are named once an alert of it is explained; they were read then, and are not searched for here." } } @else {
            (scroll("Records that show it", &html! { table {
                thead { tr { th scope="col" { "Record" } th scope="col" { "Entity" } th scope="col" { "Items" } } }
                tbody { @for example in examples { tr { td { (example.partition) ": " (example.offset) } td { code { (example.entity.as_deref().unwrap_or("–")) } } td { (example.items.join(", ")) } } } }
            } }))
        }
    }
}

fn alerts(card: &Card<'_>) -> Markup {
    html! {
        @if card.alerts.is_empty() { p.empty { "None on the record." } } @else {
            (scroll("Alerts of the concept", &html! { table {
                thead { tr { th scope="col" { "Alert" } th scope="col" { "State" } th scope="col" { "Segment" } th scope="col" { "Change" } th scope="col" { "Began" } } }
                tbody { @for alert in &card.alerts {
                    @let (state, class) = alert_state(alert.state);
                    tr data-alert=(alert.id) { td { a href={ "/alerts/" (alert.id) } { "Alert " (alert.id) } } td { span.pill.(class) { (state) } } td { (alert.segment) }
                        td.number { (arrow(alert.direction)) (ratio_text(alert.ratio, alert.ratio_low, alert.ratio_high)) } td { (short_time(alert.began)) } }
                } }
            } }))
        }
    }
}
