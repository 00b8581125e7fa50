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

use std::ops::Range;

use ahash::AHashMap;

use crate::drift::counts::{N_BUCKETS, N_RESIDUAL_BINS, SegmentCounts, bucket_of, kish_weight};
use crate::drift::distinct::Distinct;
use crate::drift::segment::{ALL_AT, SegmentMask, bits};
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

/// Visits folded together: all of one entity in one combination of segments. There are as many as records between two
/// compactions, so it is small: the combination is a number, and of a range there is a beginning and a length.
#[derive(Clone, Copy, Debug)]
struct Group {
    entity: u32,
    /// Position in [`Visits::masks`].
    mask: u32,
    n_records: u32,
    n_dead: u32,
    latents: usize,
    bins: usize,
    n_latents: u32,
    n_bins: u32,
}

impl Group {
    fn latents(&self) -> Range<usize> {
        self.latents..self.latents + self.n_latents as usize
    }

    fn bins(&self) -> Range<usize> {
        self.bins..self.bins + self.n_bins as usize
    }
}

/// The arena of an open window.
#[derive(Clone, Debug)]
pub struct Visits {
    max_entities: usize,
    keep_repeats: bool,
    entities: AHashMap<u64, u32>,
    masks: Masks,
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
            masks: Masks::default(),
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
            mask: self.masks.number(visit.segments),
            n_records: 1,
            n_dead: u32::from(visit.latents.is_empty()),
            latents,
            bins,
            n_latents: small(self.latents.len() - latents),
            n_bins: u32::from(visit.residual_bin.is_some()),
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
        let mut fold = Fold::new(segments.len(), d_sae, n_families);
        for groups in self.groups.chunk_by(|a, b| a.entity == b.entity) {
            fold.entity(self, groups, segments, families_of);
        }
        fold.finish(segments);
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
            groups.sort_by_key(|group| group.mask);
        }
        let mut latents = Vec::with_capacity(self.latents.len() / 2);
        let mut repeats = Vec::new();
        let mut bins = Vec::with_capacity(self.bins.len());
        let mut groups = Vec::new();
        let (mut repeated, mut distinct) = (Vec::new(), Distinct::default());
        for same in self.groups.chunk_by(|a, b| (a.entity, a.mask) == (b.entity, b.mask)) {
            let (start, bins_start) = (latents.len(), bins.len());
            for group in same {
                bins.extend_from_slice(&self.bins[group.bins()]);
            }
            let visits = same.iter().map(Group::latents);
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
                latents: start,
                bins: bins_start,
                n_latents: small(latents.len() - start),
                n_bins: small(bins.len() - bins_start),
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

/// A length of which the arena holds at most one a record or one a latent of an entity.
#[expect(clippy::cast_possible_truncation, reason = "below the number of latents or of a partition's records in a window")]
fn small(length: usize) -> u32 {
    length as u32
}

/// Combinations of segments by number, in the order in which they are met.
#[derive(Clone, Debug, Default)]
struct Masks {
    all: Vec<SegmentMask>,
    numbers: AHashMap<SegmentMask, u32>,
}

/// Combinations that are looked through one after the other, which takes less than a look into a map.
const FEW: usize = 8;

impl Masks {
    fn number(&mut self, mask: SegmentMask) -> u32 {
        if let Some(at) = self.all.iter().take(FEW).position(|known| *known == mask) {
            return small(at);
        }
        let next = small(self.all.len());
        *self.numbers.entry(mask).or_insert_with(|| {
            self.all.push(mask);
            next
        })
    }

    fn of(&self, group: &Group) -> SegmentMask {
        self.all[group.mask as usize]
    }
}

/// Scratch memory of the closing pass.
///
/// Whether an entity showed a latent before is known by the number of the last entity that did, beside the count: it is
/// compared and written for every latent of every visit, without a branch that nobody could foresee.
struct Fold {
    presence: Vec<Vec<Shown>>,
    by_bucket: Vec<u32>,
    family_presence: Vec<Vec<Shown>>,
    d_sae: usize,
    n_families: usize,
}

/// How many entities showed something, and which of them was the last (numbers from 1).
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    last: u32,
    n: u32,
}

impl Shown {
    /// 1 where the entity shows it for the first time.
    #[inline]
    fn by(&mut self, entity: u32) -> u32 {
        let new = u32::from(self.last != entity);
        self.last = entity;
        self.n += new;
        new
    }
}

impl Fold {
    fn new(n_segments: usize, d_sae: usize, n_families: usize) -> Self {
        let nothing = || vec![Vec::new(); n_segments];
        Self { presence: nothing(), by_bucket: Vec::new(), family_presence: nothing(), d_sae, n_families }
    }

    fn entity(&mut self, visits: &Visits, groups: &[Group], segments: &mut [SegmentCounts], families_of: &[Vec<u32>]) {
        let all = groups.iter().fold(0, |mask, group| mask | visits.masks.of(group));
        let Some(entity) = groups.first().map(|group| group.entity + 1) else { return };
        for segment in bits(all) {
            let of_segment = || groups.iter().filter(|group| visits.masks.of(group) >> segment & 1 == 1);
            let n = of_segment().map(|group| group.n_records).sum::<u32>();
            let counts = &mut segments[segment];
            let weight = kish_weight(n);
            counts.entities[bucket_of(n)] += 1;
            counts.kish_exposure += u64::from(n) * weight;
            for group in of_segment() {
                counts.dead_record += u64::from(group.n_dead) * weight;
                let bins = &visits.bins[group.bins()];
                if !bins.is_empty() {
                    counts.residual.resize(N_RESIDUAL_BINS, 0);
                    bins.iter().for_each(|&bin| counts.residual[usize::from(bin)] += weight);
                }
                if visits.keep_repeats {
                    counts.kish.resize(self.d_sae, 0);
                    for i in group.latents() {
                        counts.kish[visits.latents[i].index()] += u64::from(visits.repeats[i]) * weight;
                    }
                }
                let latents = &visits.latents[group.latents()];
                if latents.is_empty() {
                    continue;
                }
                self.show(entity, latents, segment, bucket_of(n));
                if self.n_families > 0 {
                    self.show_families(entity, latents, segment, families_of);
                }
            }
        }
    }

    fn show(&mut self, entity: u32, latents: &[LatentId], segment: usize, bucket: usize) {
        let shown = &mut self.presence[segment];
        shown.resize(self.d_sae, Shown::default());
        if segment == ALL_AT {
            self.by_bucket.resize(N_BUCKETS * self.d_sae, 0);
            let in_bucket = &mut self.by_bucket[bucket * self.d_sae..][..self.d_sae];
            latents.iter().for_each(|latent| in_bucket[latent.index()] += shown[latent.index()].by(entity));
        } else {
            latents.iter().for_each(|latent| {
                shown[latent.index()].by(entity);
            });
        }
    }

    fn show_families(&mut self, entity: u32, latents: &[LatentId], segment: usize, families_of: &[Vec<u32>]) {
        for latent in latents {
            for &family in families_of.get(latent.index()).map_or(&[][..], Vec::as_slice) {
                let shown = &mut self.family_presence[segment];
                shown.resize(self.n_families, Shown::default());
                shown[family as usize].by(entity);
            }
        }
    }

    fn finish(self, segments: &mut [SegmentCounts]) {
        let counts = |shown: Vec<Shown>| shown.iter().map(|shown| shown.n).collect();
        for (counted, (presence, families)) in segments.iter_mut().zip(self.presence.into_iter().zip(self.family_presence)) {
            (counted.presence, counted.family_presence) = (counts(presence), counts(families));
        }
        if let Some(all) = segments.get_mut(ALL_AT) {
            all.presence_by_bucket = self.by_bucket;
        }
    }
}
