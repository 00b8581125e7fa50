//! The frame of every report of the workshop: one HTML file, nothing fetched.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Style of the workshop's reports.
pub const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #8883}td:first-child,th:first-child{text-align:left}\
svg{max-width:100%;height:auto}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}";

/// A page of the workshop.
#[must_use]
pub fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; meta name="viewport" content="width=device-width"; title { (title) } style { (PreEscaped(STYLE)) } }
            body { h1 { (title) } (body) }
        }
    };
    page.into_string()
}

/// Four digits behind the point.
#[must_use]
pub fn digits(value: f64) -> String {
    format!("{value:.4}")
}

/// A share as percent.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
