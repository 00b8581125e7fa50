//! What every page has: head, way through the pages, foot; and tables that scroll by keyboard.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::http::page::words::short_time;
use crate::http::views::StatusView;

const STYLE: &str = include_str!("../page.css");

/// Which page is shown, for the way through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    /// `/`.
    Overview,
    /// `/concepts` and below.
    Concepts,
    /// `/reference`.
    Reference,
    /// `/alerts/{id}`.
    Alert,
}

/// A whole page. `renew`: seconds after which it loads itself again; only where somebody asked for it, because
/// a page that changes under a screen reader or a half-filled form is worse than an old one.
pub(super) fn shell(title: &str, here: Here, status: &StatusView, renew: Option<u32>, content: &Markup) -> Markup {
    let current = |page: Here| (page == here).then_some("page");
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(seconds) = renew { meta http-equiv="refresh" content=(seconds); }
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header {
                    p.brand { strong { "recsae" } span.quiet { " what the recommender has started to think" } }
                    nav aria-label="Pages" {
                        a href="/" aria-current=[current(Here::Overview)] { "Overview" }
                        a href="/concepts" aria-current=[current(Here::Concepts)] { "Concepts" }
                        a href="/reference" aria-current=[current(Here::Reference)] { "Reference" }
                    }
                    p.pills { (readiness(status)) }
                }
                main #main { (content) }
                (foot(status))
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

fn foot(status: &StatusView) -> Markup {
    html! {
        footer.quiet {
            p {
                "recsae " (status.version) " · " (status.engine) " · up since " (short_time(status.started)) " UTC · lineage " (status.lineage)
                @for model in &status.models { " · SAE " code { (model.fingerprint.chars().take(12).collect::<String>()) } }
                @if !status.history_head.is_empty() { " · history head " code title=(status.history_head) { (status.history_head.chars().take(12).collect::<String>()) } }
            }
            p { a href="/api/v1/openapi.json" { "API" } " · all times UTC · " a href="/?renew=15" { "overview that renews itself every 15 s" } }
        }
    }
}

/// A table that may be wider than the page: a region that the keyboard reaches and a screen reader names.
pub(super) fn scroll(name: &str, table: &Markup) -> Markup {
    html! { div.scroll role="region" aria-label=(name) tabindex="0" { (table) } }
}
