//! Who showed which latent: the memory that counting by entity needs while a window is open.
//!
//! Counting is deferred. While the window is open a record only appends its active latents to an
//! arena; entities are sorted out when the window closes, in one pass, so that the hot path has no
//! hash set per entity. When the arena has doubled since it was last compacted, records of the same
//! entity and segments are folded into one visit, so memory follows distinct (entity, latent) pairs,
//! not records.
//!
//! Rejected: a set of latents per entity, updated per record. Measured several times slower, and a
//! hundred thousand small allocations.

use ahash::AHashMap;

use crate::drift::counts::{N_BUCKETS, N_RESIDUAL_BINS, SegmentCounts, bucket_of, kish_weight};
use crate::drift::distinct::Distinct;
use crate::drift::segment::{MASK_ALL, SegmentMask, bits};
use crate::sae::latent::LatentId;

/// What a record adds: the latents it shows and how well it was reconstructed.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// Salted hash of the entity.
    pub entity: u64,
    /// Segments of the record.
    pub segments: SegmentMask,
    /// Active latents, ascending.
    pub latents: &'a [LatentId],
    /// Bin of its residual (`drift::counts::residual_bin`); `None` without a decoder.
    pub residual_bin: Option<u8>,
}

/// Why presence cannot be counted in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyEntities {
    /// The configured bound.
    pub max_entities: usize,
}

/// Visits folded together: all of one entity in one combination of segments.
#[derive(Clone, Copy, Debug)]
struct Group {
    entity: u32,
    segments: SegmentMask,
    n_records: u32,
    n_dead: u32,
    latents: (usize, usize),
    bins: (usize, usize),
}

/// The arena of an open window.
#[derive(Clone, Debug)]
pub struct Visits {
    max_entities: usize,
    keep_repeats: bool,
    entities: AHashMap<u64, u32>,
    groups: Vec<Group>,
    latents: Vec<LatentId>,
    /// In how many records of its group each entry of `latents` is active; empty unless `keep_repeats`.
    repeats: Vec<u32>,
    bins: Vec<u8>,
    compact_at: usize,
    overflown: bool,
}

/// Latents in the arena before the first compaction (4 bytes each).
const FIRST_COMPACTION: usize = 1 << 18;

impl Visits {
    /// An empty arena. `keep_repeats` where records of an entity are counted apart (Kish weights).
    #[must_use]
    pub fn new(max_entities: usize, keep_repeats: bool) -> Self {
        Self {
            max_entities,
            keep_repeats,
            entities: AHashMap::new(),
            groups: Vec::new(),
            latents: Vec::new(),
            repeats: Vec::new(),
            bins: Vec::new(),
            compact_at: FIRST_COMPACTION,
            overflown: false,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// One entity too many; the arena is emptied for good and the window can give no verdict.
    pub fn add(&mut self, visit: Visit<'_>) -> Result<(), TooManyEntities> {
        let refusal = TooManyEntities { max_entities: self.max_entities };
        if self.overflown {
            return Err(refusal);
        }
        let n_entities = self.entities.len();
        let next = u32::try_from(n_entities).map_err(|_| refusal)?;
        let entity = *self.entities.entry(visit.entity).or_insert(next);
        if entity == next && n_entities >= self.max_entities {
            let max_entities = self.max_entities;
            *self = Self { overflown: true, ..Self::new(max_entities, self.keep_repeats) };
            return Err(refusal);
        }
        let latents = self.latents.len();
        let bins = self.bins.len();
        self.latents.extend_from_slice(visit.latents);
        if self.keep_repeats {
            self.repeats.resize(self.latents.len(), 1);
        }
        self.bins.extend(visit.residual_bin);
        self.groups.push(Group {
            entity,
            segments: visit.segments,
            n_records: 1,
            n_dead: u32::from(visit.latents.is_empty()),
            latents: (latents, self.latents.len()),
            bins: (bins, self.bins.len()),
        });
        if self.latents.len() + self.groups.len() >= self.compact_at {
            self.compact();
        }
        Ok(())
    }

    /// Distinct entities.
    #[must_use]
    pub fn n_entities(&self) -> usize {
        self.entities.len()
    }

    /// The `n` smallest entity hashes, ascending.
    #[must_use]
    pub fn smallest_hashes(&self, n: usize) -> Vec<u64> {
        let mut hashes: Vec<u64> = self.entities.keys().copied().collect();
        if hashes.len() > n {
            hashes.select_nth_unstable(n);
            hashes.truncate(n);
        }
        hashes.sort_unstable();
        hashes
    }

    /// Writes entity counts into `segments` (position = segment index; only masks' bits are touched):
    /// `entities`, `presence`, `presence_by_bucket` of `_all`, `family_presence`, and the Kish sums.
    /// `families_of[latent]` lists the families a latent belongs to.
    pub fn count(&mut self, segments: &mut [SegmentCounts], d_sae: usize, n_families: usize, families_of: &[Vec<u32>]) {
        self.sort_by_entity();
        let mut fold = Fold::new(d_sae, n_families);
        for groups in self.groups.chunk_by(|a, b| a.entity == b.entity) {
            fold.entity(self, groups, segments, families_of);
        }
    }

    /// Groups of an entity one after the other, in the order of the records. Entities are numbered from 0, so that
    /// counting them says where each begins.
    fn sort_by_entity(&mut self) {
        let mut next = vec![0_usize; self.entities.len() + 1];
        self.groups.iter().for_each(|group| next[group.entity as usize + 1] += 1);
        let mut begin = 0;
        for place in &mut next {
            begin += *place;
            *place = begin;
        }
        let mut sorted = self.groups.clone();
        for group in &self.groups {
            let place = &mut next[group.entity as usize];
            sorted[*place] = *group;
            *place += 1;
        }
        self.groups = sorted;
    }

    fn compact(&mut self) {
        self.sort_by_entity();
        // Stable: latents of one group keep the order of the records, so the result is deterministic.
        for groups in self.groups.chunk_by_mut(|a, b| a.entity == b.entity) {
            groups.sort_by_key(|group| group.segments);
        }
        let mut latents = Vec::with_capacity(self.latents.len() / 2);
        let mut repeats = Vec::new();
        let mut bins = Vec::with_capacity(self.bins.len());
        let mut groups = Vec::new();
        let (mut repeated, mut distinct) = (Vec::new(), Distinct::default());
        for same in self.groups.chunk_by(|a, b| (a.entity, a.segments) == (b.entity, b.segments)) {
            let (start, bins_start) = (latents.len(), bins.len());
            for group in same {
                bins.extend_from_slice(&self.bins[group.bins.0..group.bins.1]);
            }
            let visits = same.iter().map(|group| group.latents.0..group.latents.1);
            if self.keep_repeats {
                repeated.clear();
                repeated.extend(visits.flatten().map(|i| (self.latents[i], self.repeats[i])));
                add_repeats(&mut repeated);
                latents.extend(repeated.iter().map(|(latent, _)| *latent));
                repeats.extend(repeated.iter().map(|(_, n)| *n));
            } else if same.len() == 1 {
                visits.for_each(|range| latents.extend_from_slice(&self.latents[range]));
            } else {
                visits.for_each(|range| distinct.add(&self.latents[range]));
                distinct.take(&mut latents);
            }
            groups.push(Group {
                n_records: same.iter().map(|g| g.n_records).sum(),
                n_dead: same.iter().map(|g| g.n_dead).sum(),
                latents: (start, latents.len()),
                bins: (bins_start, bins.len()),
                ..same[0]
            });
        }
        self.compact_at = (2 * (latents.len() + groups.len())).max(FIRST_COMPACTION);
        (self.latents, self.repeats, self.bins, self.groups) = (latents, repeats, bins, groups);
    }
}

/// Sorts by latent and leaves one entry of each with the sum of its numbers.
fn add_repeats(repeated: &mut Vec<(LatentId, u32)>) {
    repeated.sort_unstable_by_key(|(latent, _)| *latent);
    repeated.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 += later.1;
        }
        same
    });
}

/// Scratch memory of the closing pass: which segments showed which latent of the current entity.
struct Fold {
    seen: Vec<SegmentMask>,
    touched: Vec<LatentId>,
    seen_family: Vec<SegmentMask>,
    touched_families: Vec<u32>,
    d_sae: usize,
}

impl Fold {
    fn new(d_sae: usize, n_families: usize) -> Self {
        Self { seen: vec![0; d_sae], touched: Vec::new(), seen_family: vec![0; n_families], touched_families: Vec::new(), d_sae }
    }

    fn entity(&mut self, visits: &Visits, groups: &[Group], segments: &mut [SegmentCounts], families_of: &[Vec<u32>]) {
        let all = groups.iter().fold(0, |mask, group| mask | group.segments);
        let n_records = |segment: usize| groups.iter().filter(|g| g.segments >> segment & 1 == 1).map(|g| g.n_records).sum::<u32>();
        for segment in bits(all) {
            let n = n_records(segment);
            let counts = &mut segments[segment];
            let weight = kish_weight(n);
            counts.entities[bucket_of(n)] += 1;
            counts.kish_exposure += u64::from(n) * weight;
            for group in groups.iter().filter(|g| g.segments >> segment & 1 == 1) {
                counts.dead_record += u64::from(group.n_dead) * weight;
                let bins = &visits.bins[group.bins.0..group.bins.1];
                if !bins.is_empty() {
                    counts.residual.resize(N_RESIDUAL_BINS, 0);
                    bins.iter().for_each(|&bin| counts.residual[usize::from(bin)] += weight);
                }
                if visits.keep_repeats {
                    counts.kish.resize(self.d_sae, 0);
                    for i in group.latents.0..group.latents.1 {
                        counts.kish[visits.latents[i].index()] += u64::from(visits.repeats[i]) * weight;
                    }
                }
            }
        }
        let bucket = bucket_of(n_records(0));
        self.mark(visits, groups, families_of);
        for latent in self.touched.drain(..) {
            let mask = std::mem::take(&mut self.seen[latent.index()]);
            for segment in bits(mask) {
                let counts = &mut segments[segment];
                counts.presence.resize(self.d_sae, 0);
                counts.presence[latent.index()] += 1;
            }
            if mask & MASK_ALL != 0 {
                segments[0].presence_by_bucket.resize(N_BUCKETS * self.d_sae, 0);
                segments[0].presence_by_bucket[bucket * self.d_sae + latent.index()] += 1;
            }
        }
        for family in self.touched_families.drain(..) {
            let mask = std::mem::take(&mut self.seen_family[family as usize]);
            for segment in bits(mask) {
                let counts = &mut segments[segment];
                counts.family_presence.resize(self.seen_family.len(), 0);
                counts.family_presence[family as usize] += 1;
            }
        }
    }

    fn mark(&mut self, visits: &Visits, groups: &[Group], families_of: &[Vec<u32>]) {
        for group in groups {
            for &latent in &visits.latents[group.latents.0..group.latents.1] {
                let seen = &mut self.seen[latent.index()];
                if *seen == 0 {
                    self.touched.push(latent);
                }
                *seen |= group.segments;
                for &family in families_of.get(latent.index()).map_or(&[][..], Vec::as_slice) {
                    let seen = &mut self.seen_family[family as usize];
                    if *seen == 0 {
                        self.touched_families.push(family);
                    }
                    *seen |= group.segments;
                }
            }
        }
    }
}
