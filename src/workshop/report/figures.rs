//! Figures as SVG inside the page: timelines with their band, volume, contract, heat map, forest plot.

use maud::{Markup, html};

use crate::drift::alert::AlertListing;
use crate::drift::report::StreamState;
use crate::workshop::report::comparison::Difference;
use crate::workshop::report::content::{HeatRow, InputPoint, Point, Timeline};
use crate::workshop::report::scale::{Linear, time_ticks};
use crate::workshop::report::words::{grouped, minute, percent, ratio, segment_words};

/// Width of every figure, in units of the drawing; about 0.25 mm each on paper.
const WIDTH: f64 = 720.0;
/// Room for the labels of the vertical axis.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 8.0;
/// Room for the labels of the time axis.
const BOTTOM: f64 = 20.0;
/// Room for names at the left of rows.
const NAMES: f64 = 168.0;

/// The span a figure covers, ms since 1970 UTC.
pub type SpanMs = (i64, i64);

/// What all figures draw on: the hatch of time without a verdict. Once a page.
#[must_use]
pub fn definitions() -> Markup {
    html! {
        svg.definitions width="0" height="0" aria-hidden="true" { defs { pattern id="none" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
            rect.hatch-ground width="4" height="4" {} line.hatch x1="0" x2="0" y1="0" y2="4" {}
        } } }
    }
}

/// One stream over time: what was seen, what was expected, the band, the change point, the alert.
#[must_use]
pub fn timeline(timeline: &Timeline, alert: Option<&AlertListing>, span: SpanMs) -> Markup {
    let height = 168.0;
    let points = &timeline.points;
    let top = points.iter().flat_map(|p| [p.rate, p.expected, p.high]).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let (x, y) = (time_scale(span), Linear::new((0.0, top * 1.05), (height - BOTTOM, TOP)));
    let label = format!("Share that met {} in {}, with the band expected", timeline.concept, segment_words(&timeline.segment));
    html! {
        svg.figure viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(label) data-points=(points.len()) {
            @for (from, to) in unjudged(points, span) {
                rect.unjudged x=(r(x.time(from))) y=(TOP) width=(r(x.time(to) - x.time(from))) height=(height - BOTTOM - TOP) fill="url(#none)" { title { "no verdict" } }
            }
            @if let Some(alert) = alert { (alert_marks(alert, &x, span, height)) }
            (share_axis(&y))
            (time_axis(&x, span, height))
            @for run in runs(points) {
                polygon.band points=(band(run, &x, &y)) {}
                polyline.expected points=(line(run, &x, &y, |p| p.expected)) {}
                polyline.rate points=(line(run, &x, &y, |p| p.rate)) {}
                @if let [only] = run { circle.rate cx=(r(x.time(middle(only)))) cy=(r(y.at(only.rate))) r="1.6" {} }
            }
            @for point in points.iter().filter(|point| point.state == StreamState::Alert) {
                circle.alert cx=(r(x.time(middle(point)))) cy=(r(y.at(point.rate))) r="1.9" {}
            }
        }
    }
}

fn alert_marks(alert: &AlertListing, x: &Linear, (_, to): SpanMs, height: f64) -> Markup {
    let (from, until) = (x.time(alert.window_end), x.time(alert.ended.unwrap_or(to)));
    let (low, high, began) = (x.time(alert.began_low), x.time(alert.began_high.max(alert.began)), x.time(alert.began));
    let tall = height - BOTTOM - TOP;
    html! {
        rect.in-alert x=(r(from)) y=(TOP) width=(r((until - from).max(1.0))) height=(tall) { title { "alert from " (minute(alert.window_end)) } }
        rect.change-interval x=(r(low)) y=(TOP) width=(r((high - low).max(1.0))) height=(tall) {}
        line.change x1=(r(began)) x2=(r(began)) y1=(TOP) y2=(r(height - BOTTOM)) { title { "the change began about " (minute(alert.began)) } }
    }
}

/// Records and rejected records, window by window.
#[must_use]
pub fn volume(windows: &[InputPoint], span: SpanMs) -> Markup {
    let height = 110.0;
    let count = |n: u64| n as f64;
    let top = windows.iter().map(|w| count(w.records + w.rejected)).fold(1.0, f64::max);
    let (x, y) = (time_scale(span), Linear::new((0.0, top * 1.05), (height - BOTTOM, TOP)));
    let bar = |window: &InputPoint, from: u64, to: u64, class: &str| {
        let (left, right) = (x.time(window.start), x.time(window.end));
        let (low, high) = (y.at(count(from)), y.at(count(to)));
        html! { rect class=(class) x=(r(left)) width=(r((right - left - 0.4).max(0.4))) y=(r(high)) height=(r((low - high).max(0.0))) {} }
    };
    html! {
        svg.figure viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label="Records by window" data-windows=(windows.len()) {
            @for tick in y.ticks(3.0) { (tick_line(y.at(tick), &grouped(tick_count(tick)))) }
            (time_axis(&x, span, height))
            @for window in windows {
                (bar(window, 0, window.records, "records"))
                @if window.rejected > 0 { (bar(window, window.records, window.records + window.rejected, "rejected")) }
            }
        }
    }
}

/// Fraction of variance unexplained, window by window; broken windows are marked.
#[must_use]
pub fn contract(windows: &[InputPoint], span: SpanMs) -> Markup {
    let height = 96.0;
    let known: Vec<&InputPoint> = windows.iter().filter(|window| window.fvu.is_some_and(f64::is_finite)).collect();
    let top = known.iter().filter_map(|window| window.fvu).fold(0.1, f64::max);
    let (x, y) = (time_scale(span), Linear::new((0.0, top * 1.08), (height - BOTTOM, TOP)));
    let at = |window: &InputPoint| (x.time((window.start + window.end) / 2), y.at(window.fvu.unwrap_or(0.0)));
    html! {
        svg.figure viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label="Fraction of variance the SAE leaves unexplained, by window" data-windows=(known.len()) {
            @for tick in y.ticks(3.0) { (tick_line(y.at(tick), &format!("{tick:.2}"))) }
            (time_axis(&x, span, height))
            @for run in known.chunk_by(|a, b| b.start - a.end <= 0) {
                polyline.fvu points=(run.iter().map(|w| { let (x, y) = at(w); format!("{},{} ", r(x), r(y)) }).collect::<String>()) {}
            }
            @for window in known.iter().filter(|window| window.verdict == "contract_broken") {
                @let (x, y) = at(window);
                circle.alert cx=(r(x)) cy=(r(y)) r="2.4" {}
            }
        }
    }
}

/// Segments over time: how near the nearest stream came, where an alert was open, where nothing was judged.
#[must_use]
pub fn heat(rows: &[HeatRow], span: SpanMs, name: &dyn Fn(&HeatRow) -> String) -> Markup {
    const ROW: f64 = 17.0;
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let x = Linear::new(float_span(span), (NAMES, WIDTH - RIGHT));
    html! {
        svg.figure viewBox={ "0 0 " (WIDTH) " " (r(height)) } role="img" aria-label="Segments over time" data-rows=(rows.len()) {
            @for (idx, row) in rows.iter().enumerate() {
                @let y = TOP + ROW * idx as f64;
                text.row x=(NAMES - 8.0) y=(r(y + 11.5)) text-anchor="end" { (short(&name(row), 28)) }
                @let width = (WIDTH - RIGHT - NAMES) / row.cells.len().max(1) as f64;
                @for (at, cell) in row.cells.iter().enumerate() {
                    @let left = NAMES + width * at as f64;
                    @if cell.windows > 0 {
                        rect x=(r(left)) y=(r(y)) width=(r((width - 0.6).max(0.6))) height=(ROW - 2.0) fill=(cell_fill(cell.judged, cell.alerts, cell.evidence_share)) {
                            title { (cell.judged) " of " (cell.windows) " windows judged, evidence " (percent(cell.evidence_share)) " of the threshold" @if cell.alerts > 0 { ", " (cell.alerts) " in alert" } }
                        }
                    }
                }
            }
            (time_axis(&x, span, height))
        }
    }
}

/// Ratios with their intervals on a logarithmic axis, one row a concept.
#[must_use]
pub fn forest(differences: &[Difference]) -> Markup {
    const ROW: f64 = 18.0;
    let height = TOP + ROW * differences.len() as f64 + BOTTOM;
    let widest = differences.iter().flat_map(|d| [d.low, d.high.unwrap_or(d.low)]).filter(|v| *v > 0.0).map(|v| v.ln().abs());
    let reach = widest.fold(1.5_f64.ln(), f64::max).min(16_f64.ln());
    let x = Linear::new((-reach, reach), (NAMES + 8.0, WIDTH - 110.0));
    let ticks: Vec<f64> = [0.0625, 0.125, 0.25, 0.5, 0.667, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0]
        .into_iter()
        .filter(|t: &f64| t.ln().abs() <= reach + 1e-9)
        .collect();
    let bottom = height - BOTTOM;
    html! {
        svg.figure viewBox={ "0 0 " (WIDTH) " " (r(height)) } role="img" aria-label="Ratios with 95 % intervals" data-rows=(differences.len()) {
            @for tick in &ticks {
                line class=(if (*tick - 1.0).abs() < 1e-9 { "one" } else { "grid" }) x1=(r(x.at(tick.ln()))) x2=(r(x.at(tick.ln()))) y1=(TOP - 2.0) y2=(r(bottom)) {}
                text.tick x=(r(x.at(tick.ln()))) y=(r(bottom + 13.0)) text-anchor="middle" { "×" (ratio_tick(*tick)) }
            }
            @for (idx, difference) in differences.iter().enumerate() {
                @let y = TOP + ROW * (idx as f64 + 0.5);
                @let middle = difference.ratio.map_or(reach, |ratio| ratio.max(1e-9).ln());
                text.row x=(NAMES - 4.0) y=(r(y + 4.0)) text-anchor="end" { (short(&difference.concept, 28)) }
                line.interval x1=(r(x.at(difference.low.max(1e-9).ln()))) x2=(r(x.at(difference.high.map_or(reach, |high| high.max(1e-9).ln())))) y1=(r(y)) y2=(r(y)) {}
                circle class=(if middle > 0.0 { "up" } else { "down" }) cx=(r(x.at(middle))) cy=(r(y)) r="3.2" {}
                text.row x=(WIDTH - RIGHT) y=(r(y + 4.0)) text-anchor="end" { "×" (ratio(difference.ratio)) }
            }
        }
    }
}

fn ratio_tick(tick: f64) -> String {
    match tick {
        t if t < 0.1 => "1/16".to_owned(),
        t if t < 0.2 => "1/8".to_owned(),
        t if t < 0.3 => "1/4".to_owned(),
        t if t < 0.6 => "1/2".to_owned(),
        t if t < 0.9 => "2/3".to_owned(),
        t => format!("{t}"),
    }
}

fn cell_fill(judged: u64, alerts: u64, share: f64) -> String {
    if judged == 0 {
        return "url(#none)".to_owned();
    }
    if alerts > 0 {
        return "#b3261e".to_owned();
    }
    // From almost white to a strong blue; the square makes the middle of the scale quiet, as it should be.
    let mix = |from: f64, to: f64| from + (to - from) * share * share;
    format!("rgb({:.0},{:.0},{:.0})", mix(234.0, 36.0), mix(240.0, 88.0), mix(248.0, 166.0))
}

fn time_scale(span: SpanMs) -> Linear {
    Linear::new(float_span(span), (LEFT, WIDTH - RIGHT))
}

#[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years of milliseconds")]
fn float_span((from, to): SpanMs) -> (f64, f64) {
    (from as f64, to as f64)
}

fn time_axis(x: &Linear, (from, to): SpanMs, height: f64) -> Markup {
    let bottom = height - BOTTOM;
    html! {
        line.axis x1=(r(x.time(from))) x2=(r(x.time(to))) y1=(r(bottom)) y2=(r(bottom)) {}
        @for (ms, label) in time_ticks(from, to) {
            line.axis x1=(r(x.time(ms))) x2=(r(x.time(ms))) y1=(r(bottom)) y2=(r(bottom + 3.0)) {}
            text.tick x=(r(x.time(ms).clamp(16.0, WIDTH - 16.0))) y=(r(bottom + 14.0)) text-anchor="middle" { (label) }
        }
    }
}

fn share_axis(y: &Linear) -> Markup {
    html! { @for tick in y.ticks(4.0) { (tick_line(y.at(tick), &percent_tick(tick))) } }
}

fn tick_line(y: f64, label: &str) -> Markup {
    html! {
        line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(r(y)) y2=(r(y)) {}
        text.tick x=(LEFT - 5.0) y=(r(y + 3.5)) text-anchor="end" { (label) }
    }
}

fn percent_tick(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a tick of a count")]
fn tick_count(tick: f64) -> u64 {
    tick.max(0.0) as u64
}

/// Runs of windows that follow one another: a line is not drawn across time without a verdict.
fn runs(points: &[Point]) -> impl Iterator<Item = &[Point]> {
    points.chunk_by(|a, b| b.start - a.end <= 0)
}

/// Stretches of the span between the windows of a timeline.
fn unjudged(points: &[Point], (from, to): SpanMs) -> Vec<SpanMs> {
    let starts = points.iter().map(|point| point.start).chain([to]);
    let ends = std::iter::once(from).chain(points.iter().map(|point| point.end));
    ends.zip(starts).filter(|(end, start)| start > end).collect()
}

fn middle(point: &Point) -> i64 {
    i64::midpoint(point.start, point.end)
}

fn line(points: &[Point], x: &Linear, y: &Linear, of: fn(&Point) -> f64) -> String {
    points.iter().map(|point| format!("{},{} ", r(x.time(middle(point))), r(y.at(of(point))))).collect()
}

fn band(points: &[Point], x: &Linear, y: &Linear) -> String {
    let there = points.iter().map(|point| format!("{},{} ", r(x.time(middle(point))), r(y.at(point.high))));
    let back = points.iter().rev().map(|point| format!("{},{} ", r(x.time(middle(point))), r(y.at(point.low))));
    there.chain(back).collect()
}

/// A tenth of a unit is below what an eye or a printer can tell.
fn r(value: f64) -> String {
    format!("{value:.1}")
}

fn short(text: &str, n: usize) -> String {
    if text.chars().count() <= n { text.to_owned() } else { format!("{}…", text.chars().take(n - 1).collect::<String>()) }
}
