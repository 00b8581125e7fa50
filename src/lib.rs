//! recsae: knowing, live, what a recommender has started to think.
//!
//! # The flow
//! ```text
//!             worker x cores: plain thread, own consumer in the group, own ONNX session, own partitions
//! Kafka ─poll batch→ decode ─→ batch [n, d_in] ─encode→ dense latents ─top-k→ sparse activations ─count→ open windows
//!          └ Reject{reason} → counter + dead letter            │ step {next offset, watermark, closed partial windows}
//!                                                              ↓ (bounded channel: full means slower)
//!                  judge (owns the store): merge partitions → score against Reference → alert states → ONE transaction
//!                                          └→ Snapshot (immutable, swapped) → /metrics, /api, page
//! ```
//! The types make it visible: `RawMessage → Record | Reject → EmbeddingBatch → SparseActivations → PartialWindow →
//! ClosedWindow → DriftReport → Snapshot`.
//!
//! # The layers (`tests/tidy.rs` fails the build when one is crossed)
//! Mathematics ([`sae`], [`drift`]: no I/O, no clock, no logging; same input, same bytes) · what passes between rooms ([`record`],
//! [`snapshot`]) · ground ([`clock`], [`task`], [`telemetry`], [`fault`], [`config`]) · edges, one outside thing each ([`bundle`], [`encode`],
//! [`decode`], [`kafka`], [`store`], [`metrics`]) · the live flow ([`monitor`]) · [`http`] · offline ([`workshop`], [`simulate`]) · [`cli`].
//!
//! # Invariants
//! - `consumed = encoded + rejected{reason}` in every scrape.
//! - Every channel is bounded; full means slower, never dropped. Bad input is a `Reject` with a reason, not an error of ours.
//! - A window is judged once. What was counted is stored in one transaction with the offsets it came from.
//! - The recommender is read, never written: nothing is produced to Kafka but dead letters and, in a cluster, what its instances share.
//! - No label value comes from a payload without passing the bounded `SegmentTable`.
//! - An SAE that does not fit its input is never reported as concept drift.
//! - Every thread and task is started by `TaskGroup`; after a drain none is left.
//!
//! # Words
//! embedding `[n, d_in]` · latent `0..d_sae` · activation (value > 0) · activation rate · concept (a named latent) · L0 (mean active
//! latents) · FVU (fraction of variance unexplained) · window · entity (user or session) · segment · reference / current · evidence ·
//! threshold · ratio · dead letter.

pub mod bundle;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
pub mod drift;
pub mod encode;
pub mod fault;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod monitor;
pub mod record;
pub mod sae;
pub mod simulate;
pub mod snapshot;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod workshop;
