//! The curve of a run: what the report plots and the run folder keeps.

use serde::{Deserialize, Serialize};

use crate::workshop::plot::{Axes, Series, lines};

/// One point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Rows seen.
    pub rows: u64,
    /// Mean FVU of the training batches since the last point, about the training rows' mean.
    pub train_fvu: f64,
    /// FVU of entities never trained on; absent where none are held out.
    pub held_out_fvu: Option<f64>,
    /// Latents that count as dead.
    pub dead: usize,
}

/// The curve as an SVG file.
#[must_use]
pub fn svg(curve: &[CurvePoint]) -> String {
    let x = |point: &CurvePoint| point.rows as f64;
    let train = Series { name: "training rows".into(), points: curve.iter().map(|p| (x(p), p.train_fvu)).collect(), band: Vec::new() };
    let held_out = curve.iter().filter_map(|p| Some((x(p), p.held_out_fvu?))).collect();
    let held_out = Series { name: "held-out entities".into(), points: held_out, band: Vec::new() };
    lines(Axes { title: "Fraction of variance unexplained", x: "rows seen", y: "FVU", log_y: true }, &[train, held_out])
}
