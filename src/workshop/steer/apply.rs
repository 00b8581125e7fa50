//! Editing a vector through the SAE's latents, in delta form.
//!
//! `x' = x + decode(z') - decode(z) = x + sum_j (z'_j - z_j) W_dec[j]`: what the SAE does not explain stays
//! as it is, and where no activation changes the vector keeps its bytes.

use std::collections::BTreeMap;

use crate::sae::latent::LatentId;
use crate::sae::weights::SaeWeights;
use crate::workshop::steer::plan::{Action, Plan, Unit};
use crate::workshop::steer::strength::Strength;

/// A plan made ready: amounts in the latents' own units resolved.
#[derive(Clone, Debug)]
pub struct Steerer {
    edits: Vec<(LatentId, Action)>,
    cap: Option<f32>,
    w_dec: ndarray::Array2<f32>,
    changes: BTreeMap<LatentId, f32>,
    delta: Vec<f32>,
}

impl Steerer {
    /// `None` where the SAE has no decoder. `strength` is asked for every latent that is edited in its units.
    #[must_use]
    pub fn new(sae: &SaeWeights, plan: &Plan, strength: &dyn Fn(LatentId) -> Strength) -> Option<Self> {
        let edits = plan.edits.iter().flat_map(|edit| {
            edit.latents.iter().map(move |latent| {
                let of = if edit.unit == Unit::Absolute { Strength::default() } else { strength(*latent) };
                (*latent, edit.action.absolute(edit.unit, of))
            })
        });
        let w_dec = sae.w_dec()?.clone();
        Some(Self { edits: edits.collect(), cap: plan.cap, delta: vec![0.0; w_dec.ncols()], w_dec, changes: BTreeMap::new() })
    }

    /// Edits `x` in place, given its active latents and their values. Returns `||x' - x|| / ||x||`.
    pub fn apply(&mut self, x: &mut [f32], latents: &[LatentId], values: &[f32]) -> f32 {
        self.changes.clear();
        let before = |latent: LatentId| latents.binary_search(&latent).map_or(0.0, |at| values[at]);
        for (latent, action) in &self.edits {
            let z = self.changes.get(latent).map_or_else(|| before(*latent), |change| before(*latent) + change);
            let edited = match action {
                Action::Ablate => 0.0,
                Action::Scale(factor) => z * factor,
                Action::Clamp(amount) => *amount,
                Action::Add(amount) => (z + amount).max(0.0),
            };
            self.changes.insert(*latent, edited - before(*latent));
        }
        self.changes.retain(|_, change| *change != 0.0);
        if self.changes.is_empty() {
            return 0.0;
        }
        self.delta.fill(0.0);
        for (latent, change) in &self.changes {
            self.delta.iter_mut().zip(self.w_dec.row(latent.index())).for_each(|(sum, w)| *sum += change * w);
        }
        add_capped(x, &self.delta, self.cap)
    }
}

/// `x += delta`, shortened to `cap ||x||`; returns the length of what was added over that of `x`. A zero vector stays
/// as it is, whatever the cap: it has no length to be moved by. Sums that f32 cannot hold give a result that is
/// not finite.
pub fn add_capped(x: &mut [f32], delta: &[f32], cap: Option<f32>) -> f32 {
    let norm = |v: &[f32]| v.iter().map(|value| value * value).sum::<f32>().sqrt();
    let (length, own) = (norm(delta), norm(x));
    if own == 0.0 {
        return 0.0;
    }
    let ratio = length / own;
    let factor = cap.filter(|cap| ratio > *cap).map_or(1.0, |cap| cap / ratio);
    x.iter_mut().zip(delta).for_each(|(x, d)| *x += factor * d);
    ratio * factor
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2};
    use proptest::prelude::*;

    use super::*;
    use crate::sae::weights::{SaeSpec, Selection};
    use crate::workshop::steer::plan::Edit;

    fn sae(numbers: &[f32]) -> SaeWeights {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let spec = SaeSpec { d_in: size(6), d_sae: size(10), selection: Selection::TopK(size(3)), centring: true };
        let mut cycle = numbers.iter().copied().cycle();
        let w = Array2::from_shape_simple_fn((10, 6), || cycle.next().unwrap());
        SaeWeights::new(spec, w.clone(), Array1::zeros(10), Some(w), Array1::from_elem(6, 0.2)).unwrap()
    }

    fn plan(action: Action, latents: &[u32], cap: Option<f32>) -> Plan {
        let edit = Edit { concept: None, latents: latents.iter().map(|l| LatentId(*l)).collect(), action, unit: Unit::P99 };
        Plan { fingerprint: "f".into(), edits: vec![edit], cap }
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Ablate),
            (0.0f32..3.0).prop_map(Action::Scale),
            (0.0f32..2.0).prop_map(Action::Clamp),
            (-2.0f32..2.0).prop_map(Action::Add)
        ]
    }

    fn unit() -> impl Strategy<Value = (Unit, f64)> {
        prop_oneof![Just((Unit::Absolute, 1.0)), Just((Unit::P99, 0.5)), Just((Unit::Sd, 0.25))]
    }

    proptest! {
        #[test]
        #[expect(clippy::cast_possible_truncation, reason = "what an engine would give")]
        fn the_delta_equals_the_difference_of_two_whole_decodes(
            numbers in prop::collection::vec(-1.0f32..1.0, 60), x in prop::collection::vec(-2.0f32..2.0, 6), action in action(), (unit, one) in unit(),
        ) {
            let sae = sae(&numbers);
            let active = sae.encode(&x);
            let latents: Vec<LatentId> = active.iter().map(|(l, _)| *l).collect();
            let values: Vec<f32> = active.iter().map(|(_, v)| *v as f32).collect();
            let mut plan = plan(action, &[1, 4, 7], None);
            plan.edits[0].unit = unit;
            let mut steered = x.clone();
            Steerer::new(&sae, &plan, &|_| Strength { n: 1, p99: 0.5, sd: 0.25 }).unwrap().apply(&mut steered, &latents, &values);
            let mut edited: BTreeMap<LatentId, f64> = active.iter().copied().collect();
            for latent in [1, 4, 7].map(LatentId) {
                let z = edited.get(&latent).copied().unwrap_or(0.0);
                edited.insert(latent, match action {
                    Action::Ablate => 0.0,
                    Action::Scale(f) => z * f64::from(f),
                    Action::Clamp(a) => f64::from(a) * one,
                    Action::Add(a) => (z + f64::from(a) * one).max(0.0),
                });
            }
            let (before, after) = (sae.decode(&active).unwrap(), sae.decode(&edited.into_iter().collect::<Vec<_>>()).unwrap());
            for i in 0..6 {
                prop_assert!((f64::from(steered[i]) - (f64::from(x[i]) + after[i] - before[i])).abs() < 1e-4);
            }
        }

        #[test]
        fn a_cap_holds_and_no_change_is_the_same_bytes(
            numbers in prop::collection::vec(-1.0f32..1.0, 60), x in prop::collection::vec(-2.0f32..2.0, 6), cap in 0.01f32..0.5,
        ) {
            let sae = sae(&numbers);
            let strength = |_| Strength { n: 1, p99: 3.0, sd: 1.0 };
            let mut steered = x.clone();
            let moved = Steerer::new(&sae, &plan(Action::Add(5.0), &[2], Some(cap)), &strength).unwrap().apply(&mut steered, &[], &[]);
            prop_assert!(moved <= cap * 1.0001);
            for nothing in [plan(Action::Ablate, &[2], None), plan(Action::Scale(1.0), &[5], None), plan(Action::Add(0.0), &[5], None), Plan::default()] {
                let mut same = x.clone();
                prop_assert_eq!(Steerer::new(&sae, &nothing, &strength).unwrap().apply(&mut same, &[LatentId(5)], &[0.7]), 0.0);
                prop_assert_eq!(same.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), x.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_zero_vector_stays_and_overflow_is_not_hidden() {
        for cap in [None, Some(0.1)] {
            let mut zero = [0.0; 3];
            assert_eq!((add_capped(&mut zero, &[1.0, 2.0, 3.0], cap), zero), (0.0, [0.0; 3]));
        }
        assert!(!add_capped(&mut [1.0, 0.0], &[3e38, 3e38], None).is_finite());
    }

    #[test]
    fn plans_that_cannot_be_meant_are_refused_and_a_hash_names_a_plan() {
        let good = plan(Action::Add(1.0), &[3], Some(0.5));
        let json = serde_json::to_vec(&good).unwrap();
        assert_eq!(Plan::read(&json, "f", 10).unwrap(), good);
        assert!(Plan::read(&json, "g", 10).unwrap_err().to_string().contains("the plan is for SAE f"));
        assert!(Plan::read(&json, "f", 3).unwrap_err().to_string().contains("this SAE has 3"));
        assert!(Plan::read(b"{}", "f", 3).is_err());
        assert!(plan(Action::Scale(f32::NAN), &[3], None).check(10).is_err());
        assert!(plan(Action::Clamp(-1.0), &[3], None).check(10).is_err());
        assert!(plan(Action::Ablate, &[3], Some(0.0)).check(10).is_err());
        assert!(plan(Action::Ablate, &[], None).check(10).unwrap_err().to_string().contains("no latent"));
        assert!(plan(Action::Add(1.0), &[3, 4, 3], None).check(10).unwrap_err().to_string().contains("twice"));
        assert_ne!(good.hash().unwrap(), plan(Action::Add(1.0), &[3], Some(0.4)).hash().unwrap());
    }
}
