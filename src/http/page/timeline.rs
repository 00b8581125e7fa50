//! A concept's rate against expectation over the last windows, with its alerts: inline SVG and the same as a table.

use maud::{Markup, html};

use crate::drift::alert::AlertListing;
use crate::http::page::layout::scroll;
use crate::http::page::words::{rate_text, short_time};
use crate::snapshot::RatePoint;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
/// Room for the axis at the left, the time below, and above.
const LEFT: f64 = 64.0;
const BELOW: f64 = 26.0;
const ABOVE: f64 = 12.0;

/// Draws the points; `alerts` are those of the same stream and segment.
pub(super) fn timeline(name: &str, points: &[RatePoint], alerts: &[&AlertListing]) -> Markup {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return html! { p.empty { "No window of it was judged since this instance began." } };
    };
    if points.len() < 2 {
        return html! { p.empty { "One window was judged: a line needs two." } };
    }
    let top = points.iter().flat_map(|point| [f64::from(point.rate), f64::from(point.expected)]).fold(0.0, f64::max).max(1e-9) * 1.08;
    let span = (last.end_ms - first.end_ms).max(1) as f64;
    let x = |ms: i64| LEFT + (WIDTH - LEFT - 8.0) * ((ms - first.end_ms) as f64 / span).clamp(0.0, 1.0);
    let y = |value: f64| ABOVE + (HEIGHT - ABOVE - BELOW) * (1.0 - value / top);
    let line = |value: fn(&RatePoint) -> f32| -> String {
        points.iter().map(|point| format!("{:.1},{:.1} ", x(point.end_ms), y(f64::from(value(point))))).collect()
    };
    let words = format!(
        "{name}: rate {} in the last window, {} expected; {} windows from {} to {}. The values are in the table below.",
        rate_text(f64::from(last.rate)),
        rate_text(f64::from(last.expected)),
        points.len(),
        short_time(first.end_ms),
        short_time(last.end_ms)
    );
    let shown: Vec<&&AlertListing> = alerts.iter().filter(|alert| alert.ended.is_none_or(|ended| ended >= first.end_ms)).collect();
    html! {
        svg.timeline viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(words) data-points=(points.len()) data-alerts=(shown.len()) {
            @for alert in &shown {
                rect.in-alert x=(format!("{:.1}", x(alert.window_end))) y=(ABOVE)
                    width=(format!("{:.1}", (x(alert.ended.unwrap_or(last.end_ms)) - x(alert.window_end)).max(2.0))) height=(HEIGHT - ABOVE - BELOW) {}
                line.change x1=(format!("{:.1}", x(alert.began))) x2=(format!("{:.1}", x(alert.began))) y1=(ABOVE) y2=(HEIGHT - BELOW) {}
            }
            @for part in [0.0, 0.5, 1.0] {
                line.grid x1=(LEFT) x2=(WIDTH - 8.0) y1=(format!("{:.1}", y(top * part))) y2=(format!("{:.1}", y(top * part))) {}
                text x=(LEFT - 8.0) y=(format!("{:.1}", y(top * part) + 4.0)) text-anchor="end" { (rate_text(top * part)) }
            }
            polyline.expected points=(line(|point| point.expected)) {}
            polyline.rate points=(line(|point| point.rate)) {}
            circle cx=(format!("{:.1}", x(last.end_ms))) cy=(format!("{:.1}", y(f64::from(last.rate)))) r="3.5" {}
            text x=(LEFT) y=(HEIGHT - 6.0) { (short_time(first.end_ms)) }
            text x=(WIDTH - 8.0) y=(HEIGHT - 6.0) text-anchor="end" { (short_time(last.end_ms)) }
        }
        p.legend { span.key.rate {} " share that showed it  " span.key.expected {} " share expected  " span.key.change {} " change began  " span.key.in-alert {} " alert open" }
        details {
            summary { "The values of " (points.len()) " windows" }
            (scroll("Values by window", &html! { table {
                thead { tr { th scope="col" { "Window ends" } th scope="col" { "Rate" } th scope="col" { "Expected" } } }
                tbody { @for point in points.iter().rev() {
                    tr { td { (short_time(point.end_ms)) } td.number { (rate_text(f64::from(point.rate))) } td.number { (rate_text(f64::from(point.expected))) } }
                } }
            } }))
        }
    }
}
