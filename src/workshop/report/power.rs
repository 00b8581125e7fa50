//! With what power was watched: the smallest shift the streams of a segment would have shown.

use crate::drift::report::StreamReport;
use crate::workshop::report::content::Power;

/// Over the streams of one window. `None` without streams.
#[must_use]
pub fn power(streams: &[StreamReport]) -> Option<Power> {
    let mut ratios: Vec<f64> = streams.iter().map(|stream| stream.mde_ratio).collect();
    if ratios.is_empty() {
        return None;
    }
    // A stream without a detectable ratio has an infinite one, and stands last.
    ratios.iter_mut().filter(|ratio| ratio.is_nan()).for_each(|ratio| *ratio = f64::INFINITY);
    ratios.sort_by(f64::total_cmp);
    let n = ratios.len();
    // The smallest ratio that `tenths` of the streams reach.
    let quantile = |tenths: usize| Some(ratios[(n * tenths).div_ceil(10).max(1) - 1]).filter(|ratio| ratio.is_finite());
    let share = |limit: f64| ratios.partition_point(|&ratio| ratio <= limit) as f64 / n as f64;
    Some(Power {
        tenth: quantile(1),
        half: quantile(5),
        nine_tenths: quantile(9),
        share_quarter: share(1.25),
        share_half: share(1.5),
        share_double: share(2.0),
        share_triple: share(3.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::report::StreamState;
    use crate::drift::stream::StreamId;

    fn stream(mde_ratio: f64) -> StreamReport {
        StreamReport {
            stream: StreamId::DeadRecord,
            state: StreamState::Ok,
            evidence_log: 0.0,
            threshold_log: 1.0,
            count: 0.0,
            expected: 0.0,
            exposure: 0.0,
            dispersion: 1.0,
            ratio: 1.0,
            ratio_low: 1.0,
            ratio_high: 1.0,
            mde_ratio,
        }
    }

    #[test]
    fn shares_count_what_would_have_been_seen() {
        let streams: Vec<StreamReport> = [1.2, 1.4, 1.6, 2.0, f64::INFINITY].map(stream).into();
        let found = power(&streams).unwrap();
        assert_eq!((found.share_quarter, found.share_half, found.share_double, found.share_triple), (0.2, 0.4, 0.8, 0.8));
        assert_eq!((found.tenth, found.half, found.nine_tenths), (Some(1.2), Some(1.6), None));
        assert_eq!(power(&[]), None);
    }
}
