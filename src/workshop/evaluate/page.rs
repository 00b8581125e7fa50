//! An evaluation as one HTML file with its plots inside.

use maud::{Markup, PreEscaped, html};

use crate::workshop::evaluate::quality::Quality;
use crate::workshop::evaluate::ranking_plots::ranking_plots;
use crate::workshop::evaluate::{Evaluation, Ranking};
use crate::workshop::page::{digits, page, percent};
use crate::workshop::plot::{Axes, bars};

/// The evaluation of `name` on the rows `described`.
#[must_use]
pub fn evaluation_page(name: &str, described: &str, of: &Evaluation) -> String {
    let body = html! {
        p { (of.sae.d_in) " values, " (of.sae.d_sae) " latents, " (of.sae.selection) ". " (of.quality.rows) " rows: " (described) "." }
        (quality_table(of))
        @if let Some(ranking) = &of.ranking { (ranking_part(ranking)) (ranking_plots(ranking, &of.users)) }
        h2 { "Latents" }
        p {
            (of.latents.n_dead) " of " (of.sae.d_sae) " latents (" (percent(of.latents.dead)) ") fired in none of the " (of.latents.rows) " rows; "
            (percent(of.latents.above_1_percent)) " fired in more than 1 % of them, " (percent(of.latents.above_10_percent)) " in more than 10 %. "
            (of.latents.n_alike) " live latents have a decoder row within cosine 0.9 of another's; the mean largest cosine is " (digits(of.latents.mean_max_cosine)) "."
        }
        (PreEscaped(bars(Axes { title: "Latents by how often they fire", x: "share of rows", y: "latents", log_y: false },
            &of.latents.histogram.iter().map(|bin| (format!("{:.1e}", bin.from), bin.latents as f64)).collect::<Vec<_>>())))
        @if !of.latents.alike.is_empty() {
            h2 { "Most similar decoder rows" }
            table { tr { th { "latents" } th { "cosine" } }
                @for pair in &of.latents.alike { tr { td { (pair.a.0) ", " (pair.b.0) } td { (digits(f64::from(pair.cosine))) } } }
            }
        }
        h2 { "Rows" }
        (PreEscaped(bars(Axes { title: "Rows by cosine of embedding and reconstruction", x: "cosine, lower edge", y: "rows", log_y: false },
            &of.cosine_histogram.iter().enumerate().map(|(i, n)| (format!("{:.2}", i as f64 / of.cosine_histogram.len() as f64), *n as f64)).collect::<Vec<_>>())))
        (PreEscaped(bars(Axes { title: "Rows by active latents", x: "active latents (value > 0)", y: "rows", log_y: false },
            &of.l0_histogram.iter().map(|(l0, n)| (l0.to_string(), *n as f64)).collect::<Vec<_>>())))
        @if !of.segments.is_empty() {
            (PreEscaped(bars(Axes { title: "FVU by segment", x: "segment", y: "FVU", log_y: false },
                &of.segments.iter().map(|(name, part)| (name.clone(), part.quality.fvu)).collect::<Vec<_>>())))
        }
    };
    page(&format!("Evaluation of {name}"), &body)
}

fn quality_table(of: &Evaluation) -> Markup {
    let row = |name: &str, q: &Quality, ranking: Option<&Ranking>| {
        html! {
            tr {
                td { (name) } td { (q.rows) } td { (digits(q.fvu)) } td { (digits(q.explained_variance)) } td { (digits(q.cosine)) }
                td { (digits(q.norm_ratio)) } td { (format!("{:.2}", q.l0)) }
                @if let Some(r) = ranking { td { (digits(r.ndcg_before)) } td { (digits(r.ndcg_after)) } td { (percent(r.overlap)) } }
            }
        }
    };
    html! {
        table {
            tr {
                th { "rows" } th { "n" } th { "FVU" } th { "explained variance" } th { "cosine" } th { "norm ratio" } th { "L0" }
                @if of.ranking.is_some() { th { "NDCG before" } th { "after" } th { "overlap" } }
            }
            (row("all", &of.quality, of.ranking.as_ref()))
            @for (name, part) in &of.segments { (row(name, &part.quality, part.ranking.as_ref())) }
        }
    }
}

fn ranking_part(r: &Ranking) -> Markup {
    html! {
        h2 { "Recommendations" }
        p {
            "All items ranked, the user's earlier items masked, " (r.rows) " cases. NDCG@" (r.top) ": " (digits(r.ndcg_before)) " from the embedding, "
            (digits(r.ndcg_after)) " from its reconstruction; HR@" (r.top) ": " (digits(r.hit_rate_before)) " and " (digits(r.hit_rate_after)) "; "
            (percent(r.overlap)) " of the first " (r.top) " places hold the same items."
        }
    }
}
