//! The planted drift: one concept on one surface is shown more, or less, from one window on.

use serde::Serialize;

use crate::drift::report::Direction;

/// Surfaces of the world and their shares of the sessions.
pub const SURFACES: [(&str, f64); 3] = [("home", 0.45), ("search", 0.30), ("mail", 0.25)];

/// What was planted: known to the demo, not to the monitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shift {
    /// Which concept, the latent of the same number.
    pub concept: usize,
    /// Index into [`SURFACES`].
    pub surface: usize,
    /// Records of the surface that carry the concept, after over before.
    pub ratio: f64,
    /// First window that is touched.
    pub from_window: u64,
}

impl Shift {
    /// Up when the ratio is above one.
    #[must_use]
    pub fn direction(&self) -> Direction {
        if self.ratio > 1.0 { Direction::Up } else { Direction::Down }
    }

    /// `home`, `search` or `mail`.
    #[must_use]
    pub fn surface_name(&self) -> &'static str {
        SURFACES[self.surface].0
    }
}

/// Entities of a surface that show a concept in a window, as they would have been without the shift and
/// as they are: the truth in the unit that the monitor counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Truth {
    /// Without the shift.
    pub entities_before: u64,
    /// With it.
    pub entities_after: u64,
}
