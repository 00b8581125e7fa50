//! A steering evaluation as one HTML file: the table of all tags, failures included, and their curves.

use maud::{Markup, PreEscaped, html};

use crate::workshop::page::{digits, page, percent};
use crate::workshop::plot::{Axes, Series, lines};
use crate::workshop::steer::SteerReport;
use crate::workshop::steer::bootstrap::Interval;
use crate::workshop::steer::dose::Dose;
use crate::workshop::steer::lists::ListReport;
use crate::workshop::steer::popularity::PopularityReport;
use crate::workshop::steer::tag_response::TagResponse;

/// The page.
#[must_use]
pub fn steer_page(name: &str, report: &SteerReport) -> String {
    let n_moved = report.tags.iter().filter(|tag| tag.moved).count();
    let body = html! {
        p {
            "Latents and doses were chosen on " (report.rows.0) " rows and are reported on " (report.rows.1) " others. The share of a tag is that in the first "
            (report.top) " places; intervals are 95 % by bootstrap over rows. Controls move every vector exactly as far: latents that do not stand "
            "for the tag, and a random direction. " (n_moved) " of " (report.tags.len()) " tags moved beyond both."
        }
        (table(report))
        @if let Some(popularity) = &report.popularity { (recipes(popularity)) }
        @for tag in report.tags.iter().filter(|tag| !tag.doses.is_empty()) { (curves(tag)) }
    };
    page(&format!("Steering by {name}"), &body)
}

fn recipes(popularity: &PopularityReport) -> Markup {
    let ends = |(low, high): (f64, f64)| format!("{} to {}", percent(low), percent(high));
    let lists = |of: &ListReport| {
        html! { td { (percent(of.coverage)) } td { (digits(of.gini)) } td { (digits(of.ndcg)) } td { (percent(of.overlap)) } }
    };
    html! {
        h2 { "Popularity taken back" }
        p {
            "How many latents, and how far, was chosen by coverage on the rows of the choice. Coverage is raised where it is above that of the "
            "unsteered and of every control."
        }
        table {
            tr { th { "recipe" } th { "edit" } th { "Cohen's d, mean" } th { "moved" } th { "coverage" } th { "Gini" } th { "NDCG" } th { "overlap" }
                th { "control latents" } th { "random directions" } th { "" } }
            tr { td { "unsteered" } td { "–" } td { "–" } td { "–" } (lists(&popularity.before)) td { "–" } td { "–" } td { "" } }
            @for recipe in &popularity.recipes {
                @if let Some(edit) = &recipe.edit {
                    tr { td { (recipe.recipe) } td { (edit.words()) } td { (format!("{:.2}", recipe.cohens_d)) } td { (percent(recipe.moved)) }
                        (lists(&recipe.lists)) td { (ends(recipe.control_latents)) } td { (ends(recipe.random_directions)) }
                        td { @if recipe.raised { "raised" } @else { "not beyond the controls" } } }
                } @else {
                    tr { td { (recipe.recipe) } td colspan="10" { "nothing raised coverage at its cost" } }
                }
            }
        }
    }
}

fn table(report: &SteerReport) -> Markup {
    let between = |i: &Interval| format!("{:.3} [{:.3}, {:.3}]", i.mean, i.low, i.high);
    html! {
        table {
            tr { th { "tag" } th { "latents" } th { "dose" } th { "share before" } th { "share after" } th { "control latents" } th { "random direction" } th { "NDCG" } th { "" } }
            @for tag in &report.tags {
                tr {
                    td { (tag.tag) } td { (tag.latents.len()) }
                    @if let Some(chosen) = &tag.chosen {
                        td { (chosen.dose) } td { (between(&tag.before.share)) } td { (between(&chosen.share)) } td { (between(&chosen.control_latents)) }
                        td { (between(&chosen.random_direction)) } td { (digits(tag.before.lists.ndcg)) " → " (digits(chosen.lists.ndcg)) }
                        td { @if tag.moved { "moved" } @else { "not beyond the controls" } }
                    } @else {
                        td { "–" } td { (between(&tag.before.share)) } td { "–" } td { "–" } td { "–" } td { (digits(tag.before.lists.ndcg)) }
                        td { (tag.why_not.unwrap_or("")) }
                    }
                }
            }
        }
    }
}

fn curves(tag: &TagResponse) -> Markup {
    let x = |dose: &Dose| f64::from(dose.dose);
    let of = |name: &str, part: fn(&Dose) -> Interval| Series {
        name: name.into(),
        points: tag.doses.iter().map(|dose| (x(dose), part(dose).mean)).collect(),
        band: tag.doses.iter().map(|dose| (x(dose), part(dose).low, part(dose).high)).collect(),
    };
    let shares = [of("concept", |d| d.share), of("control latents", |d| d.control_latents), of("random direction", |d| d.random_direction)];
    let cost = Series { name: "NDCG".into(), points: tag.doses.iter().map(|dose| (x(dose), dose.lists.ndcg)).collect(), band: Vec::new() };
    let axes = |title: &'static str, y: &'static str| Axes { title, x: "dose, 99th percentiles of the activation", y, log_y: false };
    html! {
        h2 { (tag.tag) }
        p { "Latents " (tag.latents.iter().map(|l| format!("{} (lift {:.2}, pull {:.2})", l.latent.0, l.lift, l.pull)).collect::<Vec<_>>().join(", ")) "." }
        (PreEscaped(lines(axes("Share of the tag", "share"), &shares)))
        (PreEscaped(lines(axes("What it costs", "NDCG"), &[cost])))
    }
}
