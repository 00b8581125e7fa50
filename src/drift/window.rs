//! An open window of one model version: what records add while it is open, and its sums when it closes.

use std::num::NonZeroUsize;

use crate::drift::closed::SegmentMap;
use crate::drift::counts::{N_RESIDUAL_BINS, SegmentCounts, WEIGHT_ONE, residual_bin};
use crate::drift::presence::{TooManyEntities, Visit, Visits};
use crate::drift::segment::{SegmentMask, SegmentTable, bits};
use crate::sae::latent::LatentId;

/// Where windows lie and how long they stay open; all in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpec {
    /// Length, > 0.
    pub length_ms: i64,
    /// An instant at which a window starts.
    pub origin_ms: i64,
    /// How far a record may lag behind its partition's watermark.
    pub lateness_ms: i64,
}

impl WindowSpec {
    /// Start of the window an instant lies in; exact also before the origin.
    #[must_use]
    pub fn start_of(&self, time_ms: i64) -> i64 {
        time_ms - (time_ms - self.origin_ms).rem_euclid(self.length_ms)
    }

    /// One past the last instant of the window that starts there.
    #[must_use]
    pub fn end_of(&self, start_ms: i64) -> i64 {
        start_ms.saturating_add(self.length_ms)
    }

    /// Windows that start before this are closed at the watermark: `end + lateness <= watermark`.
    /// `i64::MIN` at no watermark.
    #[must_use]
    pub fn closed_before(&self, watermark_ms: i64) -> i64 {
        if watermark_ms == i64::MIN {
            return i64::MIN;
        }
        self.start_of(watermark_ms.saturating_sub(self.lateness_ms))
    }
}

/// What is counted, per model.
#[derive(Clone, Debug)]
pub struct CountingSpec {
    /// Width of an embedding.
    pub d_in: NonZeroUsize,
    /// Latents.
    pub d_sae: usize,
    /// Whether entities are told apart (presence and Kish).
    pub by_entity: bool,
    /// Whether each latent's Kish-weighted records are kept (unit = kish).
    pub kish: bool,
    /// Bound on entities in a window and partition.
    pub max_entities: usize,
    /// Entities whose hash ends in this many zero bits are kept.
    pub sample_shift: u32,
    /// Families of each latent, `[d_sae]` or empty.
    pub families_of: Vec<Vec<u32>>,
    /// Families.
    pub n_families: usize,
}

/// How a row was reconstructed; `None` in [`CountedRow`] where the bundle has no decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// `||x - x_hat||^2`.
    pub squared_error: f32,
    /// `cos(x, x_hat)`; 0 where either is zero.
    pub cosine: f32,
    /// `||x_hat|| / ||x||`; 0 where x is zero.
    pub norm_ratio: f32,
    /// `||x||^2`.
    pub squared_norm: f32,
}

/// An encoded record, ready to be counted.
#[derive(Clone, Copy, Debug)]
pub struct CountedRow<'a> {
    /// Entity, where entities are told apart.
    pub entity: Option<u64>,
    /// Segments.
    pub segments: SegmentMask,
    /// The embedding, `[d_in]`.
    pub embedding: &'a [f32],
    /// Active latents, ascending.
    pub latents: &'a [LatentId],
    /// Their values.
    pub values: &'a [f32],
    /// Reconstruction.
    pub fit: Option<Fit>,
}

/// Combinations of segments that have a table of their own.
const MOST_COMBINED: usize = 8;

/// Counts of one model version in an open window.
///
/// A record is mostly in two segments or more, `_all` and one of a field. What the records of one combination of segments add
/// is counted once and added to each of them when the window closes: half of the memory that a record touches. Where
/// there are many combinations, the later ones are added to each of their segments at once.
#[derive(Clone, Debug)]
pub struct OpenCounts {
    combined: Vec<(SegmentMask, OpenSegment)>,
    /// By segment, what the records of other combinations add.
    segments: Vec<OpenSegment>,
    /// Sum of the embeddings, `[d_in]`.
    embeddings: Vec<f64>,
    visits: Option<Visits>,
    overflow: Option<TooManyEntities>,
}

impl OpenCounts {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(spec: &CountingSpec) -> Self {
        let visits = spec.by_entity.then(|| Visits::new(spec.max_entities, spec.kish));
        Self { combined: Vec::new(), segments: Vec::new(), embeddings: Vec::new(), visits, overflow: None }
    }

    /// Counts a row in each of its segments.
    pub fn add(&mut self, spec: &CountingSpec, row: &CountedRow<'_>) {
        let bin = row.fit.map(|fit| residual_bin(fit.squared_error / fit.squared_norm));
        let mut known = self.combined.iter().position(|(mask, _)| *mask == row.segments);
        if known.is_none() && self.combined.len() < MOST_COMBINED {
            known = Some(self.combined.len());
            self.combined.push((row.segments, OpenSegment::default()));
        }
        if let Some(at) = known {
            add_record(&mut self.combined[at].1, spec, row, bin);
        } else {
            for segment in bits(row.segments) {
                add_record(of(&mut self.segments, segment), spec, row, bin);
            }
        }
        self.embeddings.resize(spec.d_in.get(), 0.0);
        for (sum, value) in self.embeddings.iter_mut().zip(row.embedding) {
            *sum += f64::from(*value);
        }
        if let (Some(visits), Some(entity)) = (&mut self.visits, row.entity)
            && entity.trailing_zeros() >= spec.sample_shift
        {
            let residual_bin = bin.and_then(|bin| u8::try_from(bin).ok());
            let visit = Visit { entity, segments: row.segments, latents: row.latents, residual_bin };
            if let Err(overflow) = visits.add(visit) {
                self.overflow = Some(overflow);
            }
        }
    }

    /// Why the counts by entity cannot be trusted, if so.
    #[must_use]
    pub fn incomplete(&self) -> Option<String> {
        self.overflow.map(|overflow| {
            format!(
                "more than counting.max_entities = {} entities in one partition's window; raise it, or set counting.sample_shift = 1 (or more) to keep a half (quarter, ...) of them",
                overflow.max_entities
            )
        })
    }

    /// The smallest entity hashes, for the check that the topic is keyed by the entity.
    #[must_use]
    pub fn entity_sketch(&self, n: usize) -> Vec<u64> {
        self.visits.as_ref().map(|visits| visits.smallest_hashes(n)).unwrap_or_default()
    }

    /// The window's sums by segment name.
    #[must_use]
    pub fn close(self, spec: &CountingSpec, table: &SegmentTable) -> SegmentMap {
        let mut segments: Vec<SegmentCounts> = self.segments.into_iter().map(OpenSegment::close).collect();
        for (mask, counts) in self.combined.into_iter().map(|(mask, combined)| (mask, combined.close())) {
            for segment in bits(mask) {
                of(&mut segments, segment).merge(&counts);
            }
        }
        if let Some(all) = segments.first_mut() {
            all.contract.sum = self.embeddings;
        }
        if let Some(mut visits) = self.visits {
            visits.count(&mut segments, spec.d_sae, spec.n_families, &spec.families_of);
        }
        let named = table.names().iter().zip(segments);
        named.filter(|(_, counts)| counts.records > 0).map(|(name, counts)| (name.clone(), counts)).collect()
    }
}

/// A segment while its window is open. What a record adds to a latent lies together: tables of a few segments do not
/// fit the first cache, and so one line of it is fetched for a latent and not two.
#[derive(Clone, Debug, Default)]
struct OpenSegment {
    /// `[d_sae]`, or empty before the first record: records in which a latent is active, and the sum of its values.
    active: Vec<(u32, f64)>,
    /// Everything else.
    counts: SegmentCounts,
}

impl OpenSegment {
    fn close(self) -> SegmentCounts {
        let (fired, magnitude) = self.active.into_iter().unzip();
        SegmentCounts { fired, magnitude, ..self.counts }
    }
}

/// What belongs to a segment, made where it is the first time that it is asked for.
fn of<T: Default>(all: &mut Vec<T>, segment: usize) -> &mut T {
    if segment >= all.len() {
        all.resize_with(segment + 1, T::default);
    }
    &mut all[segment]
}

fn add_record(segment: &mut OpenSegment, spec: &CountingSpec, row: &CountedRow<'_>, bin: Option<usize>) {
    let OpenSegment { active, counts } = segment;
    counts.records += 1;
    if active.is_empty() {
        active.resize(spec.d_sae, (0, 0.0));
    }
    for (latent, value) in row.latents.iter().zip(row.values) {
        let (fired, magnitude) = &mut active[latent.index()];
        *fired += 1;
        *magnitude += f64::from(*value);
    }
    let contract = &mut counts.contract;
    contract.n_active += row.latents.len() as u64;
    if let Some(fit) = row.fit {
        contract.n += 1;
        contract.squared_error += f64::from(fit.squared_error);
        contract.cosine += f64::from(fit.cosine);
        contract.norm_ratio += f64::from(fit.norm_ratio);
        contract.squared_norm += f64::from(fit.squared_norm);
    }
    if !spec.by_entity {
        // Records are the unit: each is its own entity, so every Kish weight is one.
        counts.kish_exposure += WEIGHT_ONE;
        counts.dead_record += if row.latents.is_empty() { WEIGHT_ONE } else { 0 };
        if let Some(bin) = bin {
            counts.residual.resize(N_RESIDUAL_BINS, 0);
            counts.residual[bin] += WEIGHT_ONE;
        }
    }
}
