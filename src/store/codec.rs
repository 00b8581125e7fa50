//! Bytes of counts and reports: MessagePack inside one zstd frame with a checksum.
//!
//! Counts are kept sparse, because most latents are silent in most segments. MessagePack, not JSON,
//! because it keeps every bit of a float (infinite limits too), which a later re-judgement is compared
//! on; not a schema-less binary layout, because the contract types use tagged and flattened forms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::drift::closed::{ClosedWindow, OffsetRange, PartialWindow, SegmentMap};
use crate::drift::counts::{ContractSums, N_BUCKETS, SegmentCounts};
use crate::record::{RejectReason, TopicPartition};
use crate::store::error::{StoreError, StoreResult};

/// zstd level: 3 takes 0.1 s for the largest window (24 segments x 2048 latents with buckets); higher
/// levels save some per cent and cost ten times that.
const LEVEL: i32 = 3;
/// The same for what is deleted once its window is judged.
const QUICK_LEVEL: i32 = 1;
/// Largest blob that is unpacked: a damaged length must not allocate all memory.
const MAX_BYTES: usize = 1 << 30;

/// sha256 of `bytes`.
pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of a partial window before compression: what its digest is taken of.
pub(super) fn partial_bytes(window: &PartialWindow) -> StoreResult<Vec<u8>> {
    pack(&WirePartial {
        partition: window.partition.clone(),
        start_ms: window.start_ms,
        end_ms: window.end_ms,
        models: window.models.iter().map(|(version, segments)| (version.clone(), to_wire(segments))).collect(),
        rejected: window.rejected.clone(),
        offsets: (window.offsets.start, window.offsets.end),
        seen: window.seen.clone(),
        entity_sketch: window.entity_sketch.clone(),
        incomplete: window.incomplete.clone(),
    })
}

/// A partial window from its bytes.
pub(super) fn read_partial(bytes: &[u8]) -> StoreResult<PartialWindow> {
    let wire: WirePartial = unpack(bytes)?;
    Ok(PartialWindow {
        partition: wire.partition,
        start_ms: wire.start_ms,
        end_ms: wire.end_ms,
        models: wire.models.into_iter().map(|(version, segments)| Ok((version, from_wire(segments)?))).collect::<StoreResult<_>>()?,
        rejected: wire.rejected,
        offsets: wire.offsets.0..wire.offsets.1,
        seen: wire.seen,
        entity_sketch: wire.entity_sketch,
        incomplete: wire.incomplete,
    })
}

/// Bytes of a closed window before compression.
pub(super) fn closed_bytes(window: &ClosedWindow) -> StoreResult<Vec<u8>> {
    pack(&WireClosed {
        start_ms: window.start_ms,
        end_ms: window.end_ms,
        model_version: window.model_version.clone(),
        segments: to_wire(&window.segments),
        rejected: window.rejected.clone(),
        offsets: window.offsets.iter().map(|range| (range.partition.clone(), range.from, range.to)).collect(),
        incomplete: window.incomplete.clone(),
    })
}

/// A closed window from its bytes.
pub(super) fn read_closed(bytes: &[u8]) -> StoreResult<ClosedWindow> {
    let wire: WireClosed = unpack(bytes)?;
    Ok(ClosedWindow {
        start_ms: wire.start_ms,
        end_ms: wire.end_ms,
        model_version: wire.model_version,
        segments: from_wire(wire.segments)?,
        rejected: wire.rejected,
        offsets: wire.offsets.into_iter().map(|(partition, from, to)| OffsetRange { partition, from, to }).collect(),
        incomplete: wire.incomplete,
    })
}

/// Where the records of a closed window lie, and how many of its time were rejected: its bytes without the counts.
pub(super) fn read_sources(bytes: &[u8]) -> StoreResult<(Vec<OffsetRange>, u64)> {
    let wire: WireSources = unpack(bytes)?;
    let offsets = wire.offsets.into_iter().map(|(partition, from, to)| OffsetRange { partition, from, to }).collect();
    Ok((offsets, wire.rejected.values().sum()))
}

/// MessagePack with field names, so that fields can be added.
pub(super) fn pack<T: Serialize>(value: &T) -> StoreResult<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|error| StoreError::damaged("a value to be stored", error))
}

/// The value from [`pack`]'s bytes.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> StoreResult<T> {
    rmp_serde::from_slice(bytes).map_err(|error| StoreError::damaged("a stored value", error))
}

/// One zstd frame with a checksum.
pub(super) fn compress(bytes: &[u8]) -> StoreResult<Vec<u8>> {
    compress_at(LEVEL, bytes)
}

/// The same of what is deleted soon: quicker, and somewhat longer.
pub(super) fn compress_quickly(bytes: &[u8]) -> StoreResult<Vec<u8>> {
    compress_at(QUICK_LEVEL, bytes)
}

fn compress_at(level: i32, bytes: &[u8]) -> StoreResult<Vec<u8>> {
    let work = || {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.include_checksum(true)?;
        compressor.compress(bytes)
    };
    work().map_err(|error| StoreError::damaged("a value to be compressed", error))
}

/// The bytes inside a frame; a flipped bit anywhere is an error.
pub(super) fn decompress(frame: &[u8]) -> StoreResult<Vec<u8>> {
    let limit = zstd::bulk::Decompressor::upper_bound(frame).filter(|&bytes| bytes <= MAX_BYTES);
    let limit = limit.ok_or_else(|| StoreError::damaged("a stored value", "no zstd frame of a possible size"))?;
    zstd::bulk::decompress(frame, limit).map_err(|error| StoreError::damaged("a stored value", error))
}

#[derive(Serialize, Deserialize)]
struct WirePartial {
    partition: TopicPartition,
    start_ms: i64,
    end_ms: i64,
    models: BTreeMap<String, BTreeMap<String, WireCounts>>,
    rejected: BTreeMap<RejectReason, u64>,
    offsets: (i64, i64),
    seen: BTreeMap<String, u64>,
    entity_sketch: Vec<u64>,
    incomplete: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WireClosed {
    start_ms: i64,
    end_ms: i64,
    model_version: String,
    segments: BTreeMap<String, WireCounts>,
    rejected: BTreeMap<RejectReason, u64>,
    offsets: Vec<(TopicPartition, i64, i64)>,
    incomplete: Option<String>,
}

/// The part of a [`WireClosed`] that stands in columns too.
#[derive(Deserialize)]
struct WireSources {
    rejected: BTreeMap<RejectReason, u64>,
    offsets: Vec<(TopicPartition, i64, i64)>,
}

#[derive(Serialize, Deserialize)]
struct WireCounts {
    records: u64,
    fired: Sparse<u32>,
    magnitude: Sparse<f64>,
    entities: [u64; N_BUCKETS],
    presence: Sparse<u32>,
    presence_by_bucket: Sparse<u32>,
    family_presence: Sparse<u32>,
    kish: Sparse<u64>,
    kish_exposure: u64,
    dead_record: u64,
    residual: Sparse<u64>,
    contract: ContractSums,
}

/// A dense vector by its length, the gaps between its entries that are not zero, and those entries.
#[derive(Serialize, Deserialize)]
struct Sparse<T>(u32, Vec<u32>, Vec<T>);

/// Longest vector that is unpacked: 12 buckets of 2^20 latents.
const MAX_DENSE: u32 = 12 << 20;

impl<T: Copy + Default + PartialEq> Sparse<T> {
    #[expect(clippy::cast_possible_truncation, reason = "vectors are at most 12 d_sae long")]
    fn of(dense: &[T]) -> Self {
        let mut sparse = Self(dense.len() as u32, Vec::new(), Vec::new());
        let mut next = 0;
        for (idx, &value) in dense.iter().enumerate().filter(|(_, value)| **value != T::default()) {
            sparse.1.push(idx as u32 - next);
            sparse.2.push(value);
            next = idx as u32 + 1;
        }
        sparse
    }

    fn dense(self) -> StoreResult<Vec<T>> {
        let Self(length, gaps, values) = self;
        let damaged = || StoreError::damaged("stored counts", "positions beyond their vector");
        if length > MAX_DENSE || gaps.len() != values.len() {
            return Err(damaged());
        }
        let mut dense = vec![T::default(); length as usize];
        let mut next = 0_usize;
        for (gap, value) in gaps.into_iter().zip(values) {
            let idx = next + gap as usize;
            *dense.get_mut(idx).ok_or_else(damaged)? = value;
            next = idx + 1;
        }
        Ok(dense)
    }
}

fn to_wire(segments: &SegmentMap) -> BTreeMap<String, WireCounts> {
    let wire = |counts: &SegmentCounts| WireCounts {
        records: counts.records,
        fired: Sparse::of(&counts.fired),
        magnitude: Sparse::of(&counts.magnitude),
        entities: counts.entities,
        presence: Sparse::of(&counts.presence),
        presence_by_bucket: Sparse::of(&counts.presence_by_bucket),
        family_presence: Sparse::of(&counts.family_presence),
        kish: Sparse::of(&counts.kish),
        kish_exposure: counts.kish_exposure,
        dead_record: counts.dead_record,
        residual: Sparse::of(&counts.residual),
        contract: counts.contract.clone(),
    };
    segments.iter().map(|(name, counts)| (name.clone(), wire(counts))).collect()
}

fn from_wire(segments: BTreeMap<String, WireCounts>) -> StoreResult<SegmentMap> {
    let counts = |wire: WireCounts| -> StoreResult<SegmentCounts> {
        Ok(SegmentCounts {
            records: wire.records,
            fired: wire.fired.dense()?,
            magnitude: wire.magnitude.dense()?,
            entities: wire.entities,
            presence: wire.presence.dense()?,
            presence_by_bucket: wire.presence_by_bucket.dense()?,
            family_presence: wire.family_presence.dense()?,
            kish: wire.kish.dense()?,
            kish_exposure: wire.kish_exposure,
            dead_record: wire.dead_record,
            residual: wire.residual.dense()?,
            contract: wire.contract,
        })
    };
    segments.into_iter().map(|(name, wire)| Ok((name, counts(wire)?))).collect()
}
