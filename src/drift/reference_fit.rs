//! Building a reference: which windows it is fitted to, and the checks it must pass.

use std::collections::BTreeSet;
use std::convert::Infallible;

use crate::drift::closed::{ALL, ClosedWindow};
use crate::drift::contract::ContractReference;
use crate::drift::fired::FiredSums;
use crate::drift::fit::FittedStreams;
use crate::drift::observed::{Observed, ObservedWindow, add_dense, floats, outliers, residual_threshold};
use crate::drift::reference::{LeftOut, Reference, ReferenceError, add_segments, fit_all};
use crate::drift::self_check::{SelfChecking, n_fitted};
use crate::drift::settings::{CountingUnit, JudgeSettings};
use crate::drift::wander::is_unmodelled;

/// Bytes of segments that are gathered at a time: windows are read again for the next ones.
const GATHERED: usize = 12 << 20;

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
        let read = |each: &mut dyn FnMut(&ClosedWindow)| {
            windows.iter().for_each(each);
            Ok::<(), Infallible>(())
        };
        let Ok(fitted) = Self::fit_read(name, fingerprint, settings, read);
        fitted
    }

    /// The same from windows that are read several times, each time all of them: of `_all` once, then of some segments at
    /// a time. Two weeks of hours with many segments and latents are some hundred MB.
    ///
    /// # Errors
    /// As `read`; inside, as [`Reference::fit`].
    pub fn fit_read<E>(
        name: &str,
        fingerprint: &str,
        settings: &JudgeSettings,
        read: impl FnMut(&mut dyn FnMut(&ClosedWindow)) -> Result<(), E>,
    ) -> Result<Result<Self, ReferenceError>, E> {
        Self::fit_gathering(name, fingerprint, settings, GATHERED, read)
    }

    fn fit_gathering<E>(
        name: &str,
        fingerprint: &str,
        settings: &JudgeSettings,
        most: usize,
        mut read: impl FnMut(&mut dyn FnMut(&ClosedWindow)) -> Result<(), E>,
    ) -> Result<Result<Self, ReferenceError>, E> {
        let mut windows = AllOfWindows::default();
        read(&mut |window| windows.push(window, settings.unit))?;
        let from_bin = windows.count_outliers(settings);
        let (kept, left_out) = select(&windows.observed, settings);
        if settings.unit == CountingUnit::Presence {
            windows.add_tables(&kept, &mut read)?;
        }
        let all: Vec<&ObservedWindow> = kept.iter().map(|&at| &windows.observed[at]).collect();
        let mut fitting = match Fitting::begin(name, fingerprint, &all, left_out, settings) {
            Ok(fitting) => fitting,
            Err(error) => return Ok(Err(error)),
        };
        let a_segment = size_of::<f64>() * settings.n_latents * kept.len();
        let names: Vec<String> = windows.names.into_iter().collect();
        for names in names.chunks((most / a_segment.max(1)).max(1)) {
            let (mut gathered, mut fired) = (Vec::with_capacity(kept.len()), [FiredSums::default(), FiredSums::default()]);
            let (mut at, mut wanted) = (0, kept.iter().peekable());
            read(&mut |window| {
                if wanted.next_if(|next| **next == at).is_some() {
                    let part = usize::from(gathered.len() >= n_fitted(kept.len()));
                    gathered.push(some_of(window, names, settings.unit, from_bin, &mut fired[part]));
                }
                at += 1;
            })?;
            fitting.add_segments(&gathered.iter().collect::<Vec<_>>(), fired);
        }
        Ok(fitting.finish(&all).map(|reference| Self { residual_from_bin: from_bin, ..reference }))
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
        let kept: Vec<&ObservedWindow> = kept.into_iter().map(|at| &windows[at]).collect();
        let mut fitting = Fitting::begin(name, fingerprint, &kept, left_out, settings)?;
        let (fitted, rest) = kept.split_at(n_fitted(kept.len()));
        fitting.add_segments(&kept, [FiredSums::of(fitted), FiredSums::of(rest)]);
        fitting.finish(&kept)
    }
}

/// A reference and the one of its self-check, on their way.
struct Fitting<'a> {
    reference: Reference,
    streams: FittedStreams,
    check: Option<SelfChecking>,
    settings: &'a JudgeSettings,
}

impl<'a> Fitting<'a> {
    fn begin(
        name: &str,
        fingerprint: &str,
        kept: &[&ObservedWindow],
        left_out: Vec<LeftOut>,
        settings: &'a JudgeSettings,
    ) -> Result<Self, ReferenceError> {
        let (reference, streams) = fit_all(name, fingerprint, kept, left_out, settings)?;
        let rates = &reference.rates;
        let weight = rates.mean_expected.iter().zip(&rates.dispersion).map(|(mu, phi)| mu / phi);
        if is_unmodelled(reference.sigma_w, weight, reference.n_windows) {
            return Err(ReferenceError::Unmodelled { sigma_w: reference.sigma_w });
        }
        let check = SelfChecking::begin(kept, reference.season, settings)?;
        Ok(Self { reference, streams, check, settings })
    }

    /// `fired`: in the windows that the self-check fits, and in the rest.
    fn add_segments(&mut self, kept: &[&ObservedWindow], [mut fired, rest]: [FiredSums; 2]) {
        if let Some(check) = &mut self.check {
            check.add_segments(kept, &fired);
        }
        fired.add_all(&rest);
        add_segments(&mut self.reference, &self.streams, kept, &fired, self.settings);
    }

    fn finish(mut self, kept: &[&ObservedWindow]) -> Result<Reference, ReferenceError> {
        if let Some(check) = self.check {
            self.reference.self_check = check.judge(kept)?;
        }
        Ok(self.reference)
    }
}

/// `_all` of every window, and the names of the other segments.
#[derive(Default)]
struct AllOfWindows {
    observed: Vec<ObservedWindow>,
    /// Histograms of reconstruction errors: where their outliers begin is known when all are read.
    residuals: Vec<Vec<u64>>,
    names: BTreeSet<String>,
}

impl AllOfWindows {
    fn push(&mut self, window: &ClosedWindow, unit: CountingUnit) {
        let all = window.segments.get_key_value(ALL);
        let segments = all.iter().map(|(name, counts)| ((*name).clone(), Observed::of(counts, unit, None, false))).collect();
        self.observed.push(ObservedWindow::holding(window, segments));
        self.residuals.push(all.map(|(_, counts)| counts.residual.clone()).unwrap_or_default());
        self.names.extend(window.segments.keys().filter(|name| *name != ALL).cloned());
    }

    /// First bin of outliers, and how many there are in each window.
    fn count_outliers(&mut self, settings: &JudgeSettings) -> Option<usize> {
        let usable = |window: &ObservedWindow| window.incomplete.is_none() && !settings.is_calendar_day(window.start_ms);
        let usable = self.observed.iter().zip(&self.residuals).filter(|(window, _)| usable(window) && window.segments.contains_key(ALL));
        let from_bin = residual_threshold(usable.map(|(_, residual)| residual.clone()));
        for (window, residual) in self.observed.iter_mut().zip(&self.residuals) {
            window.segments.values_mut().for_each(|all| all.residual_outlier = outliers(residual, from_bin));
        }
        from_bin
    }

    /// The tables by session length, of which a fit takes the sum: over the windows that the self-check fits, and over
    /// the rest. Sums of whole numbers are exact, so it is the same which window holds them.
    fn add_tables<E>(&mut self, kept: &[usize], read: &mut impl FnMut(&mut dyn FnMut(&ClosedWindow)) -> Result<(), E>) -> Result<(), E> {
        let (fitted, rest) = kept.split_at(n_fitted(kept.len()));
        let (mut tables, mut at) = ([Vec::new(), Vec::new()], 0);
        read(&mut |window| {
            let is_in = |part: &[usize]| part.binary_search(&at).is_ok();
            let table = if is_in(fitted) { Some(0) } else { is_in(rest).then_some(1) };
            if let (Some(table), Some(counts)) = (table, window.segments.get(ALL)) {
                add_dense(&mut tables[table], &floats(&counts.presence_by_bucket));
            }
            at += 1;
        })?;
        for (part, table) in [fitted, rest].into_iter().zip(tables) {
            let first = part.first().and_then(|&at| self.observed[at].segments.get_mut(ALL));
            first.into_iter().for_each(|all| all.by_bucket.clone_from(&table));
        }
        Ok(())
    }
}

/// These segments of a window, and how much there is of `_all`. What they fired is added to `fired` instead.
fn some_of(window: &ClosedWindow, names: &[String], unit: CountingUnit, from_bin: Option<usize>, fired: &mut FiredSums) -> ObservedWindow {
    let of = |name: &String| {
        let mut observed = Observed::of(window.segments.get(name)?, unit, from_bin, false);
        fired.add(name, observed.records, &std::mem::take(&mut observed.fired));
        Some((name.clone(), observed))
    };
    let all = window.segments.get(ALL).map(|counts| {
        let (entities, records) = (counts.entities.map(|n| n as f64), counts.records as f64);
        (ALL.to_owned(), Observed { entities, records, ..Observed::default() })
    });
    ObservedWindow::holding(window, names.iter().filter_map(of).chain(all).collect())
}

/// Places of the windows that are fitted, and why the others are not.
fn select(windows: &[ObservedWindow], settings: &JudgeSettings) -> (Vec<usize>, Vec<LeftOut>) {
    let typical = ContractReference::typical_fvu(windows);
    let mut left_out = Vec::new();
    let mut leave_out = |window: &ObservedWindow, why: &str| {
        left_out.push(LeftOut { start_ms: window.start_ms, why: why.to_owned() });
        false
    };
    let kept = windows
        .iter()
        .enumerate()
        .filter(|(_, window)| {
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
        .map(|(at, _)| at)
        .collect();
    (kept, left_out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::drift::counts::{ContractSums, N_BUCKETS, N_RESIDUAL_BINS, SegmentCounts, WEIGHT_ONE};

    const HOUR_MS: i64 = 3_600_000;

    /// Window `t` of a stream that never changes: `_all` and four segments, one of them followed since the middle, one
    /// too late.
    fn window(t: i64, m: usize, seed: u64) -> ClosedWindow {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ t.unsigned_abs());
        let mut counts = |share: u64, by_bucket: bool| {
            let mut rate = |j: usize| u32::try_from(share * (j as u64 % 7 + 1) * 40 + rng.random_range(0..60)).unwrap();
            let presence: Vec<u32> = (0..m).map(&mut rate).collect();
            let fired: Vec<u32> = presence.iter().map(|n| n + n / 3).collect();
            let table: Vec<u32> = presence.iter().map(|n| n / 2).chain(presence.iter().map(|n| n - n / 2)).collect();
            let presence_by_bucket = table.into_iter().chain(std::iter::repeat_n(0, (N_BUCKETS - 2) * m)).collect();
            let mut entities = [0; N_BUCKETS];
            (entities[0], entities[1]) = (share * 900 + rng.random_range(0..90), share * 800);
            let residual = (0..N_RESIDUAL_BINS as u64).map(|bin| WEIGHT_ONE * ((bin * 7) % 31 + rng.random_range(0..3))).collect();
            let contract = ContractSums {
                n: 1_000 * share,
                n_active: 4_000 * share,
                squared_error: rng.random_range(90.0..110.0),
                cosine: rng.random_range(940.0..960.0) * share as f64,
                norm_ratio: 980.0 * share as f64,
                squared_norm: rng.random_range(1_900.0..2_100.0) * share as f64,
                sum: (0..3).map(|_| rng.random_range(-9.0..9.0)).collect(),
            };
            let presence_by_bucket = if by_bucket { presence_by_bucket } else { Vec::new() };
            SegmentCounts {
                records: share * 2_000 + u64::from(presence[0]),
                presence,
                fired,
                presence_by_bucket,
                entities,
                residual,
                contract,
                ..SegmentCounts::default()
            }
        };
        let mut segments = BTreeMap::from([(ALL.to_owned(), counts(9, true))]);
        for (name, share, since) in [("a", 5, 0), ("b", 3, 0), ("c", 2, 100), ("d", 1, 235)] {
            if t >= since {
                segments.insert(name.to_owned(), counts(share, false));
            }
        }
        ClosedWindow {
            start_ms: t * HOUR_MS,
            end_ms: (t + 1) * HOUR_MS,
            model_version: String::new(),
            segments,
            rejected: BTreeMap::new(),
            offsets: Vec::new(),
            incomplete: (t % 50 == 49).then(|| "a gap".to_owned()),
        }
    }

    #[test]
    fn gathering_some_segments_at_a_time_gives_the_bits_of_gathering_all() {
        let seed = jiff::Timestamp::now().as_millisecond().unsigned_abs();
        println!("seed {seed}");
        let windows: Vec<ClosedWindow> = (0..240).map(|t| window(t, 12, seed)).collect();
        for unit in [CountingUnit::Presence, CountingUnit::Records] {
            let settings = JudgeSettings { unit, ..JudgeSettings::hourly(12) };
            let read = |each: &mut dyn FnMut(&ClosedWindow)| {
                windows.iter().for_each(each);
                Ok::<(), Infallible>(())
            };
            let by_segments = |most| {
                let Ok(fitted) = Reference::fit_gathering("r", "f", &settings, most, read);
                fitted.unwrap()
            };
            let (one, two) = (by_segments(1), by_segments(2 * 16 * 12 * 236));
            let from_bin = one.residual_from_bin;
            let observed: Vec<ObservedWindow> = windows.iter().map(|window| ObservedWindow::of(window, unit, from_bin, true)).collect();
            let all = Reference { residual_from_bin: from_bin, ..Reference::fit_observed("r", "f", &observed, &settings).unwrap() };
            assert!(from_bin.is_some() && all.contract.variance.is_some() && all.left_out.len() == 4);
            assert_eq!(all.segments.keys().collect::<Vec<_>>(), ["a", "b", "c"], "d is too short");
            assert!(matches!(all.self_check, crate::drift::reference::SelfCheck::Passed { .. }), "{:?}", all.self_check);
            let bytes = |reference: &Reference| rmp_serde::to_vec_named(reference).unwrap();
            assert!(bytes(&one) == bytes(&all) && bytes(&two) == bytes(&all), "{unit:?}");
        }
    }
}
