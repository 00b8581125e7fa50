//! Plots as SVG text, to stand inside a report of one HTML file.
//!
//! Colours are the page's (`currentColor`), so that a plot is readable on light and dark ground. No
//! library: three kinds of plot do not earn one.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
/// Room for the axes' words: left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (64.0, 16.0, 28.0, 44.0);
const COLOURS: [&str; 6] = ["#2f6fb3", "#c2571a", "#3d8b40", "#8a4fa3", "#a08000", "#777777"];
const TICKS: usize = 5;

/// A line with its name, and an interval about it where there is one.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// `(x, y)`, x ascending.
    pub points: Vec<(f64, f64)>,
    /// `(x, low, high)`; empty for none.
    pub band: Vec<(f64, f64, f64)>,
}

/// What the axes say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Axes<'a> {
    /// Above the plot.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// Left of it.
    pub y: &'a str,
    /// Logarithmic y: values that are not > 0 are left out.
    pub log_y: bool,
}

/// Lines over common axes.
#[must_use]
pub fn lines(axes: Axes<'_>, series: &[Series]) -> String {
    let y_of = |y: f64| if axes.log_y { y.log10() } else { y };
    let fits = |x: &f64, y: &f64| x.is_finite() && y_of(*y).is_finite();
    let points =
        || series.iter().flat_map(|s| s.points.iter().copied().chain(s.band.iter().flat_map(|(x, low, high)| [(*x, *low), (*x, *high)])));
    let kept: Vec<(f64, f64)> = points().filter(|(x, y)| fits(x, y)).map(|(x, y)| (x, y_of(y))).collect();
    let frame = Frame::around(&kept);
    let mut svg = frame.open(axes);
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let band: Vec<_> = series.band.iter().filter(|(x, low, high)| fits(x, low) && fits(x, high)).collect();
        if !band.is_empty() {
            let forth = band.iter().map(|(x, low, _)| (*x, *low));
            let back = band.iter().rev().map(|(x, _, high)| (*x, *high));
            let path: Vec<String> = forth.chain(back).map(|(x, y)| frame.at(x, y_of(y))).collect();
            push(&mut svg, format_args!("<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.18\"/>", path.join(" ")));
        }
        let path: Vec<String> = series.points.iter().filter(|(x, y)| fits(x, y)).map(|(x, y)| frame.at(*x, y_of(*y))).collect();
        push(&mut svg, format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>", path.join(" ")));
    }
    legend(&mut svg, series.iter().map(|series| series.name.as_str()));
    svg + "</svg>"
}

/// Bars with a label each; labels that would overlap are left out.
#[must_use]
pub fn bars(axes: Axes<'_>, values: &[(String, f64)]) -> String {
    let highest = values.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    let frame = Frame { x: (0.0, values.len().max(1) as f64), y: (0.0, if highest > 0.0 { highest } else { 1.0 }), x_ticks: false };
    let mut svg = frame.open(axes);
    let width = frame.px(1.0) - frame.px(0.0);
    let every = values.len().div_ceil(12).max(1);
    for (i, (label, value)) in values.iter().enumerate().filter(|(_, (_, value))| value.is_finite()) {
        let (left, top, bottom) = (frame.px(i as f64), frame.py(value.max(0.0)), frame.py(0.0));
        let (x, w, h) = (left + width * 0.1, width * 0.8, bottom - top);
        let title = escape(label);
        push(
            &mut svg,
            format_args!(
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"{}\"><title>{title}: {value:.4}</title></rect>",
                COLOURS[0]
            ),
        );
        if i % every == 0 {
            let (x, y) = (left + width / 2.0, bottom + 14.0);
            push(&mut svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{title}</text>"));
        }
    }
    svg + "</svg>"
}

/// The plot's place between values and pixels.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    x_ticks: bool,
}

impl Frame {
    fn around(points: &[(f64, f64)]) -> Self {
        let range = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) = points.iter().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
            match () {
                () if low > high => (0.0, 1.0),
                () if low == high => (low - 0.5, high + 0.5),
                () => (low, high),
            }
        };
        let (low, high) = range(|point| point.1);
        let room = (high - low) * 0.05;
        Self { x: range(|point| point.0), y: (low - room, high + room), x_ticks: true }
    }

    fn px(&self, x: f64) -> f64 {
        MARGIN.0 + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - MARGIN.0 - MARGIN.1)
    }

    fn py(&self, y: f64) -> f64 {
        HEIGHT - MARGIN.3 - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - MARGIN.2 - MARGIN.3)
    }

    fn at(&self, x: f64, y: f64) -> String {
        format!("{:.1},{:.1}", self.px(x), self.py(y))
    }

    /// The SVG's head, title, grid and ticks.
    fn open(&self, axes: Axes<'_>) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" font-family=\"sans-serif\" \
             font-size=\"11\" fill=\"currentColor\" role=\"img\">"
        );
        let middle = (MARGIN.0 + WIDTH - MARGIN.1) / 2.0;
        push(
            &mut svg,
            format_args!(
                "<title>{0}</title><text x=\"{middle}\" y=\"16\" text-anchor=\"middle\" font-size=\"13\">{0}</text>",
                escape(axes.title)
            ),
        );
        push(&mut svg, format_args!("<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 8.0, escape(axes.x)));
        let centre = (MARGIN.2 + HEIGHT - MARGIN.3) / 2.0;
        push(
            &mut svg,
            format_args!("<text transform=\"translate(14 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>", escape(axes.y)),
        );
        for tick in 0..=TICKS {
            let part = tick as f64 / TICKS as f64;
            let y = self.y.0 + (self.y.1 - self.y.0) * part;
            let (at, value) = (self.py(y), if axes.log_y { 10f64.powf(y) } else { y });
            push(
                &mut svg,
                format_args!(
                    "<line x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"currentColor\" stroke-opacity=\"0.15\"/>\
                     <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    MARGIN.0,
                    WIDTH - MARGIN.1,
                    MARGIN.0 - 5.0,
                    at + 4.0,
                    short(value)
                ),
            );
            if self.x_ticks {
                let x = self.x.0 + (self.x.1 - self.x.0) * part;
                push(
                    &mut svg,
                    format_args!(
                        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                        self.px(x),
                        HEIGHT - MARGIN.3 + 14.0,
                        short(x)
                    ),
                );
            }
        }
        svg
    }
}

fn legend<'a>(svg: &mut String, names: impl Iterator<Item = &'a str>) {
    for (i, (name, colour)) in names.filter(|name| !name.is_empty()).zip(COLOURS.iter().cycle()).enumerate() {
        let y = MARGIN.2 + 12.0 + 14.0 * i as f64;
        push(
            svg,
            format_args!(
                "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
                WIDTH - MARGIN.1 - 12.0,
                y - 9.0,
                WIDTH - MARGIN.1 - 18.0,
                escape(name)
            ),
        );
    }
}

/// A number as an axis shows it.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    svg.write_fmt(text).ok();
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_plotted_stands_inside_the_picture() {
        let nasty = [0.0, -1.0, 1e-30, f64::NAN, f64::INFINITY, 3.0];
        let series = Series {
            name: "<a & b>".into(),
            points: nasty.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect(),
            band: vec![(1.0, 0.5, 2.0)],
        };
        for log_y in [true, false] {
            for series in [vec![series.clone()], vec![]] {
                let svg = lines(Axes { title: "t<", x: "x", y: "y", log_y }, &series);
                assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<a &"), "{svg}");
            }
        }
        for values in [vec![], nasty.iter().map(|v| ("x".to_owned(), *v)).collect()] {
            let svg = bars(Axes::default(), &values);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
