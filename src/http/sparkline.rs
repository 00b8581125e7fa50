//! A line of the last windows' rates, as inline SVG: no script, no image request.

use maud::{Markup, html};

use crate::snapshot::RatePoint;

const WIDTH: f32 = 132.0;
const HEIGHT: f32 = 30.0;
const MARGIN: f32 = 3.0;

/// Rates as a line, expected rates as a dashed one, from zero to the highest of both; a dot on the last
/// window. Fewer than two points: nothing to draw, said in words.
pub(super) fn sparkline(points: &[RatePoint], name: &str) -> Markup {
    if points.len() < 2 {
        return html! { span.quiet { "one window" } };
    }
    let top = points.iter().flat_map(|point| [point.rate, point.expected]).filter(|value| value.is_finite()).fold(0.0_f32, f32::max);
    let scale = if top > 0.0 { (HEIGHT - 2.0 * MARGIN) / top } else { 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "at most some dozen points")]
    let x = |idx: usize| MARGIN + (WIDTH - 2.0 * MARGIN) * idx as f32 / (points.len() - 1) as f32;
    let y = |value: f32| HEIGHT - MARGIN - if value.is_finite() { value * scale } else { 0.0 };
    let line = |value: fn(&RatePoint) -> f32| -> String {
        points.iter().enumerate().map(|(idx, point)| format!("{:.1},{:.1} ", x(idx), y(value(point)))).collect()
    };
    let last = points.len() - 1;
    html! {
        svg.spark viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } width=(WIDTH) height=(HEIGHT) role="img" data-points=(points.len())
            aria-label={ "Rate of " (name) " in the last " (points.len()) " windows" } {
            polyline.expected points=(line(|point| point.expected)) {}
            polyline.rate points=(line(|point| point.rate)) {}
            circle cx=(format!("{:.1}", x(last))) cy=(format!("{:.1}", y(points[last].rate))) r="2.2" {}
        }
    }
}
