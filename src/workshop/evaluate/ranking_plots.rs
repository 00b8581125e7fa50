//! What reconstruction does to recommendations, as plots: the means side by side, and what becomes of each user.
//!
//! A mean that stays may hide users who lose all and users who gain as much: so the users by what they had before and
//! have after, and by the difference.

use std::collections::BTreeMap;

use maud::{Markup, PreEscaped, html};

use crate::workshop::evaluate::{Ranking, UserValues};
use crate::workshop::plot::{Axes, Series, bars, lines};

/// Steps of a user's NDCG, from 0 to 1.
const STEPS: usize = 50;
/// Bars of a user's change of NDCG, from -1 to 1; an odd number, so that no change is in the middle of one.
const CHANGES: usize = 21;

/// The plots of a comparison; those of users where they are known.
pub(super) fn ranking_plots(all: &Ranking, users: &BTreeMap<String, UserValues>) -> Markup {
    let top = all.top;
    let means = [
        (format!("NDCG@{top} before"), all.ndcg_before),
        (format!("NDCG@{top} after"), all.ndcg_after),
        (format!("HR@{top} before"), all.hit_rate_before),
        (format!("HR@{top} after"), all.hit_rate_after),
    ];
    let ranked: Vec<&Ranking> = users.values().map(|user| &user.ranking).filter(|ranking| ranking.rows > 0).collect();
    let axes = |title, x, y| Axes { title, x, y, log_y: false };
    html! {
        (PreEscaped(bars(axes("Recommendations before and after reconstruction", "", "mean of all cases"), &means)))
        @if !ranked.is_empty() {
            (PreEscaped(lines(axes("Users by their NDCG", "NDCG", "share of users with at most as much"), &[
                reached("before", &ranked, |ranking| ranking.ndcg_before), reached("after", &ranked, |ranking| ranking.ndcg_after),
            ])))
            (PreEscaped(bars(axes("Users by the change of their NDCG", "after less before", "users"), &changes(&ranked))))
        }
    }
}

/// Share of users with at most a value, over all values.
fn reached(name: &str, users: &[&Ranking], of: fn(&Ranking) -> f64) -> Series {
    let share = |value: f64| users.iter().filter(|user| of(user) <= value).count() as f64 / users.len() as f64;
    let points = (0..=STEPS).map(|step| step as f64 / STEPS as f64).map(|value| (value, share(value))).collect();
    Series { name: name.into(), points, band: Vec::new() }
}

/// Users by the change of their NDCG, each bar by its middle.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bars")]
fn changes(users: &[&Ranking]) -> Vec<(String, f64)> {
    let mut counts = [0u32; CHANGES];
    for user in users {
        let place = (user.ndcg_after - user.ndcg_before + 1.0) / 2.0 * CHANGES as f64;
        counts[place.clamp(0.0, (CHANGES - 1) as f64) as usize] += 1;
    }
    let middle = |bar: usize| (2.0 * bar as f64 + 1.0) / CHANGES as f64 - 1.0;
    counts.iter().enumerate().map(|(bar, n)| (format!("{:+.2}", middle(bar)), f64::from(*n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(before: f64, after: f64) -> UserValues {
        UserValues {
            rows: 1,
            ranking: Ranking { rows: 1, top: 10, ndcg_before: before, ndcg_after: after, ..Ranking::default() },
            ..UserValues::default()
        }
    }

    #[test]
    fn every_user_is_in_one_bar_and_the_curves_end_at_all() {
        let users = [user(0.0, 0.0), user(1.0, 0.0), user(0.0, 1.0), user(0.5, 0.52), user(0.3, 0.2)];
        let ranked: Vec<&Ranking> = users.iter().map(|user| &user.ranking).collect();
        let bars = changes(&ranked);
        assert_eq!(bars.iter().map(|(_, n)| n).sum::<f64>(), 5.0);
        assert_eq!([&bars[0], &bars[9], &bars[10], &bars[20]].map(|(_, n)| *n), [1.0, 1.0, 2.0, 1.0]);
        assert_eq!(bars[10].0, "+0.00");
        let before = reached("before", &ranked, |ranking| ranking.ndcg_before).points;
        assert_eq!((before[0], before[STEPS]), ((0.0, 0.4), (1.0, 1.0)));
    }

    #[test]
    fn without_users_the_means_alone_are_plotted() {
        let plots = ranking_plots(&Ranking { rows: 3, top: 10, ndcg_before: 0.2, ..Ranking::default() }, &BTreeMap::new()).into_string();
        assert_eq!(plots.matches("<svg").count(), 1);
        assert!(plots.contains("NDCG@10 before: 0.2000"), "{plots}");
    }
}
