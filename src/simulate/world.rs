//! Users, tastes, surfaces and hours: which concepts a recommendation carries, window by window.
//!
//! Every window is drawn from a stream of its own, so that window 90 is the same whoever asks and with
//! whatever was drawn before. A planted shift swaps one concept of a record against another and leaves
//! the number of concepts as it was: nothing else about the record changes.

use std::collections::BTreeMap;

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Normal, StandardNormal};

use crate::simulate::dictionary::{D_IN, Dictionary, MOST_CONCEPTS, N_CONCEPTS};
use crate::simulate::served::Served;
use crate::simulate::shift::{SURFACES, Shift, Truth};
use crate::simulate::words::{GENRES, MOODS};

/// Length of a window, ms.
pub const WINDOW_MS: i64 = 3_600_000;
/// Windows of the season.
const HOURS: u64 = 24;
const N_USERS: usize = 6_000;
/// Sessions of a window, mean over the day. More: surer and slower.
const SESSIONS: f64 = 1_500.0;
const N_ITEMS: usize = 1_792;
/// Items of the rarest concept: enough for a name to be made from some and tested on others.
const LEAST_ITEMS: usize = 12;
/// Items a concept of an embedding brings into the list that is served.
const ITEMS_A_CONCEPT: usize = 3;
const FAVOURITES: usize = 8;
/// Slots that follow the user's taste; the rest follow surface and hour.
const FROM_TASTE: f64 = 0.4;
/// Noise of an embedding's value; a concept's projection then errs by as much, the threshold by 0.094.
const NOISE: f32 = 0.018;
/// Records behind the estimate of how often a concept is shown.
const CALIBRATION_WINDOWS: u64 = 24;

/// The world of one seed.
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    start_ms: i64,
    dictionary: Dictionary,
    tastes: Vec<[usize; FAVOURITES]>,
    /// By surface and hour.
    shown: Vec<WeightedIndex<f64>>,
    items_of: Vec<Vec<usize>>,
    /// Records of a surface that carry a concept, share of all, by surface; without shift.
    rates: Vec<Vec<f64>>,
    shift: Option<Shift>,
}

/// One window as served, and the truth about the shift in it.
#[derive(Clone, Debug, Default)]
pub struct ServedWindow {
    /// In order of time.
    pub records: Vec<Served>,
    /// Of the shifted concept on its surface.
    pub truth: Truth,
}

impl World {
    /// The world of `seed`; its first window starts at `start_ms`. Without shift until one is planted.
    ///
    /// # Errors
    /// Never with the constants of this file: the weights of a distribution are positive.
    pub fn new(seed: u64, start_ms: i64) -> Result<Self, rand::distr::weighted::Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let dictionary = Dictionary::draw(&mut rng);
        let popularity = popularity(&mut rng);
        let shown = shown_by_surface_and_hour(&popularity, &mut rng)?;
        let favourite = WeightedIndex::new(&popularity)?;
        let tastes = (0..N_USERS).map(|_| std::array::from_fn(|_| favourite.sample(&mut rng))).collect();
        let mut items_of = vec![Vec::new(); N_CONCEPTS];
        for item in 0..N_ITEMS {
            // The others are as popular as their concepts.
            let concept = if item < LEAST_ITEMS * N_CONCEPTS { item % N_CONCEPTS } else { favourite.sample(&mut rng) };
            items_of[concept].push(item);
        }
        let mut world = Self { seed, start_ms, dictionary, tastes, shown, items_of, rates: Vec::new(), shift: None };
        world.rates = world.measure_rates();
        Ok(world)
    }

    /// Draws concept, surface, ratio and first window from the seed, and plants the shift. The concept is
    /// one that the surface shows often enough to be seen soon: at least 40 records a window expected
    /// (80 before a fall), which some concept always is.
    pub fn plant_shift(&mut self, windows: std::ops::Range<u64>) -> &Shift {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x5148_1F7E_D000_0001);
        let surface = rng.random_range(0..SURFACES.len());
        let up = rng.random_bool(0.5);
        let size: f64 = rng.random_range(2.5..4.0);
        let records = SESSIONS * SURFACES[surface].1 * RECORDS_PER_SESSION;
        let rates = &self.rates[surface];
        let wanted = if up { 40.0 } else { 80.0 } / records;
        // A concept that is everywhere cannot be shown four times as often.
        let mut fit: Vec<usize> = (0..N_CONCEPTS).filter(|&concept| rates[concept] >= wanted && rates[concept] * 4.0 <= 0.5).collect();
        if fit.is_empty() {
            fit = (0..N_CONCEPTS).max_by(|a, b| rates[*a].total_cmp(&rates[*b])).into_iter().collect();
        }
        let concept = *fit.choose(&mut rng).unwrap_or(&0);
        let from_window = rng.random_range(windows);
        self.shift.insert(Shift { concept, surface, ratio: if up { size } else { 1.0 / size }, from_window })
    }

    /// The planted shift.
    #[must_use]
    pub fn shift(&self) -> Option<&Shift> {
        self.shift.as_ref()
    }

    /// The directions the embeddings are made of.
    #[must_use]
    pub fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// Items that carry a concept, by number.
    #[must_use]
    pub fn items_of(&self, concept: usize) -> &[usize] {
        &self.items_of[concept]
    }

    /// Start of a window, ms since 1970 UTC.
    #[must_use]
    pub fn window_start_ms(&self, window: u64) -> i64 {
        self.start_ms + i64::try_from(window).unwrap_or(i64::MAX / WINDOW_MS) * WINDOW_MS
    }

    /// Everything served in one window.
    #[must_use]
    pub fn window(&self, window: u64) -> ServedWindow {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(window + 1);
        let mut drawn = self.draw_window(window, &mut rng);
        let mut served = ServedWindow { truth: drawn.truth, ..ServedWindow::default() };
        drawn.records.sort_by_key(|record| record.time_ms);
        served.records = drawn.records.into_iter().map(|record| self.serve(record, &mut rng)).collect();
        served
    }

    fn serve(&self, drawn: Drawn, rng: &mut ChaCha8Rng) -> Served {
        let mut embedding: Vec<f32> =
            self.dictionary.mean().iter().map(|mean| mean + NOISE * rng.sample::<f32, _>(StandardNormal)).collect();
        for &concept in &drawn.concepts {
            let strength = rng.random_range(1.0_f32..1.3);
            for (value, direction) in embedding.iter_mut().zip(self.dictionary.direction(concept)) {
                *value += strength * direction;
            }
        }
        debug_assert_eq!(embedding.len(), D_IN);
        let items =
            drawn.concepts.iter().flat_map(|&concept| self.items_of[concept].choose_multiple(rng, ITEMS_A_CONCEPT)).copied().collect();
        let mut concepts = drawn.concepts;
        concepts.sort_unstable();
        Served { user: drawn.user, surface: SURFACES[drawn.surface].0, time_ms: drawn.time_ms, concepts, embedding, items }
    }

    fn draw_window(&self, window: u64, rng: &mut ChaCha8Rng) -> DrawnWindow {
        let hour = window % HOURS;
        let start_ms = self.window_start_ms(window);
        let shift = self.shift.as_ref().filter(|shift| window >= shift.from_window);
        let mut records = Vec::new();
        let mut shows: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
        for _ in 0..sessions(hour, rng) {
            let user = rng.random_range(0..N_USERS);
            let user_name = u32::try_from(user).unwrap_or(u32::MAX);
            let surface = surface(rng);
            let first_ms = rng.random_range(0..WINDOW_MS);
            for step in 0..session_length(rng) {
                let mut concepts = self.draw_concepts(user, surface, hour, rng);
                if let Some(shift) = shift.filter(|shift| shift.surface == surface) {
                    let shown = shows.entry(user_name).or_default();
                    shown.0 |= concepts.contains(&shift.concept);
                    self.apply(shift, &mut concepts, hour, rng);
                    shown.1 |= concepts.contains(&shift.concept);
                }
                let time_ms = start_ms + (first_ms + i64::from(step) * 20_000).min(WINDOW_MS - 1);
                records.push(Drawn { user: user_name, surface, time_ms, concepts });
            }
        }
        let count = |of: fn(&(bool, bool)) -> bool| shows.values().filter(|shown| of(shown)).map(|_| 1).sum();
        let truth = Truth { entities_before: count(|shown| shown.0), entities_after: count(|shown| shown.1) };
        DrawnWindow { records, truth }
    }

    fn draw_concepts(&self, user: usize, surface: usize, hour: u64, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let n_concepts = rng.random_range(1..=MOST_CONCEPTS);
        let mut concepts = Vec::with_capacity(n_concepts);
        while concepts.len() < n_concepts {
            let concept = if rng.random_bool(FROM_TASTE) {
                self.tastes[user][rng.random_range(0..FAVOURITES)]
            } else {
                self.shown[surface * 24 + usize::try_from(hour).unwrap_or(0)].sample(rng)
            };
            if !concepts.contains(&concept) {
                concepts.push(concept);
            }
        }
        concepts
    }

    /// Swaps the concept in, or out, so that records with it become `ratio` times as many.
    fn apply(&self, shift: &Shift, concepts: &mut [usize], hour: u64, rng: &mut ChaCha8Rng) {
        let place = concepts.iter().position(|&concept| concept == shift.concept);
        match place {
            None if shift.ratio > 1.0 => {
                let rate = self.rates[shift.surface][shift.concept];
                let swap = ((shift.ratio - 1.0) * rate / (1.0 - rate)).clamp(0.0, 1.0);
                if rng.random_bool(swap) {
                    let out = rng.random_range(0..concepts.len());
                    concepts[out] = shift.concept;
                }
            }
            Some(out) if shift.ratio < 1.0 && rng.random_bool(1.0 - shift.ratio) => {
                let shown = &self.shown[shift.surface * 24 + usize::try_from(hour).unwrap_or(0)];
                let other = std::iter::repeat_with(|| shown.sample(rng)).find(|other| !concepts.contains(other));
                concepts[out] = other.unwrap_or(concepts[out]);
            }
            _ => {}
        }
    }

    fn measure_rates(&self) -> Vec<Vec<f64>> {
        let mut counts = vec![vec![0_u32; N_CONCEPTS]; SURFACES.len()];
        let mut records = [0_u32; SURFACES.len()];
        let mut rng = ChaCha8Rng::seed_from_u64(!self.seed);
        for window in 0..CALIBRATION_WINDOWS {
            for record in self.draw_window(window, &mut rng).records {
                records[record.surface] += 1;
                record.concepts.iter().for_each(|&concept| counts[record.surface][concept] += 1);
            }
        }
        let share = |surface: usize, count: u32| f64::from(count) / f64::from(records[surface].max(1));
        counts.iter().enumerate().map(|(surface, counts)| counts.iter().map(|&count| share(surface, count)).collect()).collect()
    }
}

/// Mean of [`session_length`].
const RECORDS_PER_SESSION: f64 = 2.1;

struct Drawn {
    user: u32,
    surface: usize,
    time_ms: i64,
    concepts: Vec<usize>,
}

struct DrawnWindow {
    records: Vec<Drawn>,
    truth: Truth,
}

/// Zipf-like weights in random order.
fn popularity(rng: &mut impl Rng) -> Vec<f64> {
    let mut ranks: Vec<usize> = (0..N_CONCEPTS).collect();
    rand::seq::SliceRandom::shuffle(ranks.as_mut_slice(), rng);
    ranks.into_iter().map(|rank| 1.0 / (rank as f64 + 8.0).powf(0.7)).collect()
}

/// What is shown where and when: popularity, a taste of the surface for genres, and a daily swing of each
/// genre by 10 to 30 %.
fn shown_by_surface_and_hour(popularity: &[f64], rng: &mut impl Rng) -> Result<Vec<WeightedIndex<f64>>, rand::distr::weighted::Error> {
    let mut by_genre = || -> Vec<f64> { (0..GENRES.len()).map(|_| rng.random_range(0.0..1.0)).collect() };
    let (swing, phase) = (by_genre(), by_genre());
    let mut tables = Vec::with_capacity(SURFACES.len() * 24);
    for _ in SURFACES {
        let liking = by_genre();
        for hour in 0..24_u32 {
            let weight = |(concept, popularity): (usize, &f64)| {
                let genre = concept / MOODS.len();
                let angle = std::f64::consts::TAU * (f64::from(hour) / 24.0 - phase[genre]);
                popularity * (0.6 + 0.8 * liking[genre]) * (1.0 + (0.1 + 0.2 * swing[genre]) * angle.cos())
            };
            tables.push(WeightedIndex::new(popularity.iter().enumerate().map(weight))?);
        }
    }
    Ok(tables)
}

/// Sessions of an hour: most in the evening, a third of that at night, 2 % of noise.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=10 SESSIONS")]
fn sessions(hour: u64, rng: &mut ChaCha8Rng) -> u32 {
    let angle = std::f64::consts::TAU * (hour as f64 - 20.0) / 24.0;
    let noise: f64 = rng.sample(StandardNormal);
    (SESSIONS * (1.0 + 0.5 * angle.cos()) * (1.0 + 0.02 * noise)).clamp(1.0, 10.0 * SESSIONS) as u32
}

/// Records of a session: `1 + floor(exp(N(0, 0.6)))`, at most 12.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=11")]
fn session_length(rng: &mut ChaCha8Rng) -> u32 {
    let log_length = Normal::new(0.0_f64, 0.6).map_or(0.0, |normal| normal.sample(rng));
    1 + log_length.exp().floor().clamp(0.0, 11.0) as u32
}

fn surface(rng: &mut ChaCha8Rng) -> usize {
    let mut left: f64 = rng.random_range(0.0..1.0);
    SURFACES
        .iter()
        .position(|(_, share)| {
            left -= share;
            left < 0.0
        })
        .unwrap_or(SURFACES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> u64 {
        use crate::clock::Clock;
        let seed = u64::try_from(crate::clock::SystemClock.now_ms()).unwrap();
        println!("seed {seed}");
        seed
    }

    #[test]
    fn a_window_is_the_same_whoever_asks() {
        let (one, two) = (World::new(5, 0).unwrap(), World::new(5, 0).unwrap());
        drop(two.window(7));
        assert_eq!(one.window(3).records, two.window(3).records);
        assert_ne!(one.window(3).records, World::new(6, 0).unwrap().window(3).records);
    }

    #[test]
    fn records_lie_in_their_window_with_one_to_three_concepts() {
        let world = World::new(seed(), 1_000 * WINDOW_MS).unwrap();
        for window in [0, 30] {
            let served = world.window(window);
            let start_ms = world.window_start_ms(window);
            assert!(served.records.len() > 500);
            assert!(served.records.is_sorted_by_key(|record| record.time_ms));
            for record in &served.records {
                assert!((start_ms..start_ms + WINDOW_MS).contains(&record.time_ms));
                assert!((1..=MOST_CONCEPTS).contains(&record.concepts.len()) && record.concepts.is_sorted());
                assert_eq!(record.items.len(), ITEMS_A_CONCEPT * record.concepts.len());
            }
        }
    }

    #[test]
    fn the_shift_moves_one_concept_on_one_surface_by_its_ratio() {
        for seed in seed()..seed() + 6 {
            let clean = World::new(seed, 0).unwrap();
            let mut shifted = clean.clone();
            let shift = shifted.plant_shift(10..20).clone();
            assert!((10..20).contains(&shift.from_window));
            assert_eq!(clean.window(9).records, shifted.window(9).records);
            let rate = |world: &World, surface: &str, windows: std::ops::Range<u64>| {
                let records: Vec<Served> =
                    windows.flat_map(|window| world.window(window).records).filter(|r| r.surface == surface).collect();
                let hits = records.iter().filter(|record| record.concepts.contains(&shift.concept)).count();
                hits as f64 / records.len() as f64
            };
            let windows = shift.from_window..shift.from_window + 24;
            let ratio = rate(&shifted, shift.surface_name(), windows.clone()) / rate(&clean, shift.surface_name(), windows.clone());
            assert!((ratio / shift.ratio).ln().abs() < 0.15, "seed {seed}: planted {}, found {ratio}", shift.ratio);
            for (surface, _) in SURFACES.iter().filter(|(name, _)| *name != shift.surface_name()) {
                let ratio = rate(&shifted, surface, windows.clone()) / rate(&clean, surface, windows.clone());
                assert!(ratio.ln().abs() < 0.25, "seed {seed}: {surface} moved by {ratio}");
            }
            let truth = shifted.window(shift.from_window + 1).truth;
            assert!((truth.entities_after > truth.entities_before) == (shift.ratio > 1.0), "{truth:?}");
        }
    }

    #[test]
    fn the_known_sae_finds_exactly_the_concepts_that_are_there() {
        let world = World::new(seed(), 0).unwrap();
        let sae = world.dictionary().sae().unwrap();
        let (mut rows, mut different) = (0, 0);
        for record in world.window(0).records {
            let found: Vec<usize> = sae.encode(&record.embedding).iter().map(|(l, _)| l.index()).collect();
            rows += 1;
            different += usize::from(found != record.concepts);
        }
        assert!(different * 1000 <= rows, "{different} of {rows} rows");
    }
}
