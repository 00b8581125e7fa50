//! Building a reference: which windows it is fitted to, and the checks it must pass.

use crate::drift::closed::{ALL, ClosedWindow};
use crate::drift::contract::ContractReference;
use crate::drift::observed::{ObservedWindow, residual_threshold};
use crate::drift::reference::{LeftOut, Reference, ReferenceError, fit_kept};
use crate::drift::self_check::self_check;
use crate::drift::settings::JudgeSettings;
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
        let usable = windows.iter().filter(|window| window.incomplete.is_none() && !settings.is_calendar_day(window.start_ms));
        let residual_from_bin = residual_threshold(usable);
        let observed: Vec<_> = windows.iter().map(|window| ObservedWindow::of(window, settings.unit, residual_from_bin, true)).collect();
        let mut reference = Self::fit_observed(name, fingerprint, &observed, settings)?;
        reference.residual_from_bin = residual_from_bin;
        Ok(reference)
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
