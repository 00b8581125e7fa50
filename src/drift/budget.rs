//! The false-alarm budget: from "1 per 30d" to A in windows, and how segments share it.

/// The text states no budget.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BudgetError {
    /// Not of the form.
    #[error("expected a budget like \"1 per 30d\" or \"1 per 1000 windows\", found {found:?}")]
    Malformed {
        /// What stood there.
        found: String,
    },
    /// Less than one window between false alarms.
    #[error("expected at least one window between false alarms, found {found:?} = one in {windows} windows; allow fewer alarms")]
    TooMany {
        /// What stood there.
        found: String,
        /// Windows between alarms.
        windows: f64,
    },
}

impl BudgetError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed_budget",
            Self::TooMany { .. } => "too_many_alarms",
        }
    }
}

/// A: mean number of windows between false alarms that `text` allows, e.g. `1 per 30d` or `2 per 1000 windows`.
///
/// # Errors
/// The text has another form, or allows more than one alarm a window.
pub fn budget_windows(text: &str, window_ms: i64) -> Result<f64, BudgetError> {
    let malformed = || BudgetError::Malformed { found: text.to_owned() };
    let (alarms, span) = text.split_once(" per ").ok_or_else(malformed)?;
    let alarms: f64 = alarms.trim().parse().map_err(|_| malformed())?;
    let span = span.trim();
    let windows = match span.strip_suffix("windows").or_else(|| span.strip_suffix("window")) {
        Some(n) => n.trim().parse::<f64>().map_err(|_| malformed())?,
        None => {
            let span = humantime::parse_duration(span).map_err(|_| malformed())?;
            span.as_secs_f64() * 1000.0 / window_ms.max(1) as f64
        }
    };
    let between = windows / alarms;
    if alarms <= 0.0 || !between.is_finite() {
        return Err(malformed());
    }
    if between < 1.0 {
        return Err(BudgetError::TooMany { found: text.to_owned(), windows: between });
    }
    Ok(between)
}

/// Share of the budget of `_all` with its families: 1 without segments, else 1/2.
#[must_use]
pub fn global_share(n_segments: usize) -> f64 {
    if n_segments == 0 { 1.0 } else { 0.5 }
}

/// Share of each of `n_segments >= 1` segments: the other half, split evenly.
#[must_use]
pub fn segment_share(n_segments: usize) -> f64 {
    0.5 / n_segments.max(1) as f64
}

/// `ln(A m / share)`: what ln M must reach in a group of `n_streams` m that has that share.
#[must_use]
pub fn threshold_log(budget_windows: f64, n_streams: usize, share: f64) -> f64 {
    (budget_windows * n_streams as f64 / share).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn spans_and_windows_are_read() {
        assert_eq!(budget_windows("1 per 30d", HOUR), Ok(720.0));
        assert_eq!(budget_windows("2 per 30d", HOUR), Ok(360.0));
        assert_eq!(budget_windows("1 per 1000 windows", HOUR), Ok(1000.0));
        assert_eq!(budget_windows("1 per 364d", 7 * 24 * HOUR), Ok(52.0));
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["", "1", "per 30d", "x per 30d", "1 per", "1 per soon", "0 per 30d", "-1 per 30d", "NaN per 30d", "1 per inf windows"]
        {
            assert!(matches!(budget_windows(text, HOUR), Err(BudgetError::Malformed { .. })), "{text}");
        }
        assert!(matches!(budget_windows("5 per 1 window", HOUR), Err(BudgetError::TooMany { .. })));
    }

    #[test]
    fn shares_sum_to_one() {
        for n in 1..9 {
            assert!((global_share(n) + n as f64 * segment_share(n) - 1.0).abs() < 1e-12);
        }
        assert_eq!(global_share(0), 1.0);
    }
}
