//! All concepts, to be searched: one row each in one segment, no drawing, so that a thousand are read without lag.

use maud::{Markup, html};
use serde::Deserialize;

use crate::drift::closed::ALL;
use crate::drift::report::StreamState;
use crate::http::page::layout::scroll;
use crate::http::page::words::{concept_url, grouped_u64, rate_text, ratio_number, stream_state};
use crate::http::views::{self, ConceptFilter, ConceptView};
use crate::snapshot::Snapshot;

/// Rows of a page: what a browser lays out in a blink (some 12 elements and 400 bytes a row).
pub(super) const MOST: usize = 1000;
const STATES: [(&str, StreamState); 4] =
    [("alert", StreamState::Alert), ("warn", StreamState::Warn), ("recovered", StreamState::Recovered), ("ok", StreamState::Ok)];

/// What is looked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::http) struct Search {
    q: String,
    segment: String,
    state: String,
    model: String,
}

/// The content of `/concepts`.
pub(super) fn content(snapshot: &Snapshot, search: &Search) -> Markup {
    let filter = ConceptFilter {
        segment: Some(if search.segment.is_empty() { ALL.to_owned() } else { search.segment.clone() }),
        model_version: (!search.model.is_empty()).then(|| search.model.clone()),
        state: STATES.iter().find(|(name, _)| *name == search.state).map(|(_, state)| *state),
        stream: None,
    };
    let words = search.q.to_lowercase();
    let named = |concept: &ConceptView| concept.concept.to_lowercase().contains(&words) || concept.stream.to_string().contains(&words);
    let mut found = views::concepts(snapshot, &filter, usize::MAX);
    found.retain(named);
    let total = found.len();
    found.truncate(MOST);
    html! {
        h1 { "Concepts" }
        section {
        (search_form(snapshot, search))
        p role="status" { (grouped_u64(total as u64)) " found" @if total > MOST { ", the first " (grouped_u64(MOST as u64)) " by evidence shown: search for a name to see others" } }
        @if !found.is_empty() { (scroll("Concepts by evidence", &html! { table.concepts {
            thead { tr { th scope="col" { "Concept" } th scope="col" { "Stream" } th scope="col" { "State" } th scope="col" { "Ratio" } th scope="col" { "Rate" } th scope="col" { "Expected" } th scope="col" { "Evidence" } } }
            tbody { @for concept in &found { (row(concept)) } }
        } })) }
        }
    }
}

fn row(concept: &ConceptView) -> Markup {
    let (state, class) = stream_state(concept.state);
    html! {
        tr data-state=(state) {
            td { a href=(concept_url(concept.stream, &concept.model_version)) { (concept.concept) } }
            td { (concept.stream) }
            td { span.pill.(class) { (state) } }
            td { "×" (ratio_number(concept.ratio)) }
            td { (rate_text(concept.rate)) }
            td { (rate_text(concept.expected_rate)) }
            td { (format!("{:.1}", concept.evidence_log)) }
        }
    }
}

fn search_form(snapshot: &Snapshot, search: &Search) -> Markup {
    let mut segments: Vec<&str> = Vec::new();
    for segment in snapshot.models.iter().filter_map(|model| model.report.as_ref()).flat_map(|report| &report.segments) {
        if !segments.contains(&segment.segment.as_str()) {
            segments.push(&segment.segment);
        }
    }
    let wanted = if search.segment.is_empty() { ALL } else { search.segment.as_str() };
    html! {
        form.search method="get" action="/concepts" role="search" {
            div.field { label for="q" { "Name or stream" } input #q type="search" name="q" value=(search.q); }
            div.field { label for="segment" { "Segment" } select #segment name="segment" { @for segment in segments { option value=(segment) selected[segment == wanted] { (segment) } } } }
            div.field { label for="state" { "State" } select #state name="state" { option value="" { "any" } @for (name, _) in STATES { option value=(name) selected[name == search.state] { (name) } } } }
            @if snapshot.models.len() > 1 {
                div.field { label for="model" { "Model version" } select #model name="model" { option value="" { "any" } @for model in &snapshot.models { option value=(model.model_version) selected[model.model_version == search.model] { (model.model_version) } } } }
            }
            button { "Search" }
        }
    }
}
