//! What is sent: record i is a function of the seed and of i alone.
//!
//! Vectors keep a distance from every boundary of the selection, so that any honest arithmetic picks the
//! same latents and counts must be equal, not close. The SAE is drawn by the numpy script; only its
//! numbers come in here.

use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Width of a vector.
pub(crate) const D_IN: usize = 16;
/// Latents.
pub(crate) const D_SAE: usize = 64;
/// Latents a record shows at most.
pub(crate) const K: usize = 4;
/// Distance from every boundary of the selection.
pub(crate) const MARGIN: f64 = 2e-3;
/// Length of a window.
pub(crate) const WINDOW_MS: i64 = 60_000;
/// How far a record may lag: with this three windows or more are open at any time.
pub(crate) const LATENESS_MS: i64 = 120_000;
/// Values of the one segment field; those after the first three are not configured.
pub(crate) const SURFACES: [&str; 5] = ["home", "search", "feed", "elsewhere", "\u{e9}t\u{e9} & \"}"];
/// Of these the first are followed by configuration.
pub(crate) const N_CONFIGURED: usize = 3;

/// What is wrong with a record; the numbers are the ledger's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Good = 0,
    MalformedJson = 1,
    Tombstone = 2,
    NotFinite = 3,
    MissingEmbedding = 4,
    WrongWidth = 5,
    Future = 6,
    EmptyPayload = 7,
}

impl Kind {
    /// Why it is rejected; `None`: it is not, unless it comes late.
    pub(crate) fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::Good => return None,
            Self::MalformedJson => "malformed_json",
            Self::Tombstone => "tombstone",
            Self::NotFinite => "not_finite",
            Self::MissingEmbedding => "missing_embedding",
            Self::WrongWidth => "wrong_width",
            Self::Future => "future",
            Self::EmptyPayload => "empty_payload",
        })
    }
}

/// Poison in turn.
const POISON: [Kind; 7] =
    [Kind::MalformedJson, Kind::Tombstone, Kind::NotFinite, Kind::MissingEmbedding, Kind::WrongWidth, Kind::Future, Kind::EmptyPayload];

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) kind: Kind,
    pub(crate) vector: Vec<f32>,
    pub(crate) entity: u32,
    /// Position in [`SURFACES`]; one past the end: the field is absent.
    pub(crate) surface: usize,
    pub(crate) event_ms: i64,
    pub(crate) partition: i32,
}

/// What a scenario sends.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) n_records: u64,
    pub(crate) n_windows: u64,
    pub(crate) n_partitions: i32,
    pub(crate) n_entities: u32,
    /// One record in so many is poison; 0: none.
    pub(crate) poison_every: u64,
    /// Start of the first window.
    pub(crate) base_ms: i64,
    /// From this record on all are of entities that were not there before, and none comes far too late: what a partition
    /// that is added begins with.
    pub(crate) newcomers_from: u64,
}

/// The SAE's numbers and the plan.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    w_enc: Vec<f32>,
    b_enc: Vec<f32>,
    b_dec: Vec<f32>,
}

impl World {
    /// Reads the numbers that the script drew into `folder`.
    pub(crate) fn read(folder: &Path, plan: Plan) -> Self {
        let floats = |name: &str| -> Vec<f32> {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
        };
        let world = Self { plan, w_enc: floats("w_enc.f32"), b_enc: floats("b_enc.f32"), b_dec: floats("b_dec.f32") };
        assert_eq!((world.w_enc.len(), world.b_enc.len(), world.b_dec.len()), (D_SAE * D_IN, D_SAE, D_IN));
        world
    }

    /// Record `i`.
    pub(crate) fn record(&self, i: u64) -> Made {
        let plan = &self.plan;
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ i);
        let is_newcomer = i >= plan.newcomers_from;
        let entity = rng.random_range(0..plan.n_entities) + if is_newcomer { plan.n_entities } else { 0 };
        let at = plan.base_ms + i64::try_from(i * plan.n_windows * WINDOW_MS.unsigned_abs() / plan.n_records).unwrap();
        // Mostly a little out of order, some far, a few so late that their window has closed.
        let lag = match rng.random_range(0..100) {
            0..88 => rng.random_range(0..20_000),
            88..97 => rng.random_range(0..LATENESS_MS - 10_000),
            _ if is_newcomer => 0,
            _ => rng.random_range(LATENESS_MS..4 * LATENESS_MS),
        };
        let n_poison = i.checked_div(plan.poison_every).unwrap_or(0);
        let is_poison = plan.poison_every > 0 && i % plan.poison_every == plan.poison_every / 2;
        Made {
            kind: if is_poison { POISON[usize::try_from(n_poison).unwrap() % POISON.len()] } else { Kind::Good },
            vector: self.vector(&mut rng),
            entity,
            surface: rng.random_range(0..=SURFACES.len()),
            event_ms: (at - lag).max(plan.base_ms),
            partition: i32::try_from(entity).unwrap() % plan.n_partitions,
        }
    }

    /// A vector whose selection no honest arithmetic can see differently.
    fn vector(&self, rng: &mut ChaCha8Rng) -> Vec<f32> {
        loop {
            let vector: Vec<f32> = (0..D_IN).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
            if self.margin(&vector) >= MARGIN {
                return vector;
            }
        }
    }

    /// Distance to the nearest boundary: from the last selected to the first that is not, and of every
    /// value that could be selected from zero.
    fn margin(&self, vector: &[f32]) -> f64 {
        let centred: Vec<f64> = vector.iter().zip(&self.b_dec).map(|(x, b)| f64::from(*x) - f64::from(*b)).collect();
        let dot = |row: &[f32]| row.iter().zip(&centred).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        let mut values: Vec<f64> = self.w_enc.chunks(D_IN).zip(&self.b_enc).map(|(row, b)| dot(row) + f64::from(*b)).collect();
        let nearest_zero = values.iter().map(|value| value.abs()).fold(f64::INFINITY, f64::min);
        values.sort_by(|a, b| b.total_cmp(a));
        (values[K - 1] - values[K]).min(nearest_zero)
    }
}

impl Made {
    /// The payload as it goes to the broker.
    pub(crate) fn payload(&self) -> Option<Vec<u8>> {
        let surface = SURFACES.get(self.surface);
        let mut vector: Vec<String> = self.vector.iter().map(ToString::to_string).collect();
        match self.kind {
            Kind::Tombstone => return None,
            Kind::EmptyPayload => return Some(Vec::new()),
            Kind::NotFinite => vector[3] = "NaN".into(),
            Kind::WrongWidth => drop(vector.pop()),
            _ => {}
        }
        let timestamp = if self.kind == Kind::Future { 9_000_000_000_000 } else { self.event_ms };
        let embedding = if self.kind == Kind::MissingEmbedding { String::new() } else { format!("\"embedding\":[{}],", vector.join(",")) };
        let surface = surface.map(|name| format!(",\"surface\":{}", serde_json::to_string(name).unwrap())).unwrap_or_default();
        let text = format!("{{{embedding}\"entity\":\"u{}\",\"timestamp\":{timestamp}{surface}}}", self.entity);
        let bytes = text.into_bytes();
        Some(if self.kind == Kind::MalformedJson { bytes[..bytes.len() / 2].to_vec() } else { bytes })
    }

    /// The key.
    pub(crate) fn key(&self) -> String {
        format!("u{}", self.entity)
    }
}
