//! Building a reference: which windows it is fitted to, and the checks it must pass.

use std::collections::BTreeMap;

use crate::drift::closed::{ALL, ClosedWindow};
use crate::drift::contract::ContractReference;
use crate::drift::observed::{ObservedWindow, outliers, residual_threshold};
use crate::drift::reference::{LeftOut, Reference, ReferenceError, fit_kept};
use crate::drift::self_check::self_check;
use crate::drift::settings::{CountingUnit, JudgeSettings};
use crate::drift::wander::is_unmodelled;

impl Reference {
    /// Fits a reference to windows counted live, in order of time.
    ///
    /// Windows without data, incomplete, on a calendar day or with a broken contract are left out and
    /// listed; the caller leaves out those in ALERT ([`Reference::also_left_out`]).
    ///
    /// # Errors
    /// Too few windows (8; 3 days where a season is fitted), or the checks of references of 168 windows
    /// and more failed.
    pub fn fit(name: &str, fingerprint: &str, windows: &[ClosedWindow], settings: &JudgeSettings) -> Result<Self, ReferenceError> {
        let mut read = ReferenceWindows::new(settings.unit);
        windows.iter().for_each(|window| read.push(window));
        read.fit(name, fingerprint, settings)
    }

    /// The same from windows of a file. `residual_outlier` is tested where any window holds it.
    ///
    /// # Errors
    /// As [`Reference::fit`].
    pub fn fit_observed(
        name: &str,
        fingerprint: &str,
        windows: &[ObservedWindow],
        settings: &JudgeSettings,
    ) -> Result<Self, ReferenceError> {
        let (kept, left_out) = select(windows, settings);
        let mut reference = fit_kept(name, fingerprint, &kept, left_out, settings)?;
        let rates = &reference.rates;
        let weight = rates.mean_expected.iter().zip(&rates.dispersion).map(|(mu, phi)| mu / phi);
        if is_unmodelled(reference.sigma_w, weight, reference.n_windows) {
            return Err(ReferenceError::Unmodelled { sigma_w: reference.sigma_w });
        }
        reference.self_check = self_check(&kept, reference.season, settings)?;
        Ok(reference)
    }
}

/// Windows on their way into a reference, one at a time: of each only what a fit looks at is kept.
#[derive(Debug)]
pub struct ReferenceWindows {
    unit: CountingUnit,
    observed: Vec<ObservedWindow>,
    /// Histograms of reconstruction errors, window by window and segment by segment: where their outliers begin is
    /// known when all are read.
    residuals: Vec<BTreeMap<String, Vec<u64>>>,
}

impl ReferenceWindows {
    /// None yet.
    #[must_use]
    pub fn new(unit: CountingUnit) -> Self {
        Self { unit, observed: Vec::new(), residuals: Vec::new() }
    }

    /// The next window, in order of time.
    pub fn push(&mut self, window: &ClosedWindow) {
        self.observed.push(ObservedWindow::of(window, self.unit, None, true));
        self.residuals.push(window.segments.iter().map(|(name, counts)| (name.clone(), counts.residual.clone())).collect());
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.observed.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.observed.is_empty()
    }

    /// See [`Reference::fit`].
    ///
    /// # Errors
    /// As there.
    pub fn fit(mut self, name: &str, fingerprint: &str, settings: &JudgeSettings) -> Result<Reference, ReferenceError> {
        let usable = |(window, _): &(&ObservedWindow, _)| window.incomplete.is_none() && !settings.is_calendar_day(window.start_ms);
        let all = |(_, segments): (_, &'_ BTreeMap<String, Vec<u64>>)| segments.get(ALL).cloned();
        let from_bin = residual_threshold(self.observed.iter().zip(&self.residuals).filter(usable).filter_map(all));
        for (window, residuals) in self.observed.iter_mut().zip(&self.residuals) {
            for (segment, observed) in &mut window.segments {
                observed.residual_outlier = residuals.get(segment).and_then(|histogram| outliers(histogram, from_bin));
            }
        }
        let mut reference = Reference::fit_observed(name, fingerprint, &self.observed, settings)?;
        reference.residual_from_bin = from_bin;
        Ok(reference)
    }
}

fn select<'a>(windows: &'a [ObservedWindow], settings: &JudgeSettings) -> (Vec<&'a ObservedWindow>, Vec<LeftOut>) {
    let typical = ContractReference::typical_fvu(windows);
    let mut left_out = Vec::new();
    let mut leave_out = |window: &ObservedWindow, why: &str| {
        left_out.push(LeftOut { start_ms: window.start_ms, why: why.to_owned() });
        false
    };
    let kept = windows
        .iter()
        .filter(|window| {
            let all = window.segments.get(ALL);
            if window.incomplete.is_some() {
                leave_out(window, "incomplete")
            } else if settings.is_calendar_day(window.start_ms) {
                leave_out(window, "calendar")
            } else if all.is_none_or(|all| all.units(settings.unit) <= 0.0) {
                leave_out(window, "no_data")
            } else if all.is_some_and(|all| typical.is_broken(all)) {
                leave_out(window, "contract_broken")
            } else {
                true
            }
        })
        .collect();
    (kept, left_out)
}
