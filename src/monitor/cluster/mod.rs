//! Several instances of one consumer group that judge as one, over Kafka alone.
//!
//! ```text
//!  instance A                                         instance B ... (each owns some partitions)
//!   workers ─ steps ─> publisher ──────┐                  ┌────── publisher <─ steps ─ workers
//!                                      v                  v
//!                        windows topic (compacted): parts of windows, standings of partitions
//!                                      │                  │        every instance reads all of it into its own store
//!                                      v                  v
//!   store <─ judge ─ orders ─> judge topic (one partition): orders in one order ─> judge ─> store
//! ```
//!
//! **A replicated log of orders.** Every instance, the one that judges too, changes its record only by carrying out what it
//! reads back from the judge topic: claims, judgements that name their parts and their time, and what people did on any
//! instance. Judging is a pure function of the record, the parts and the time, so all stores have the same audit chain. An
//! order says which head its writer had; an instance that had another says so and stops.
//!
//! **Who judges** is the owner of the judge topic's partition in a second group. It claims the next epoch in the log; orders
//! of an older epoch are passed over by everybody, because everybody reads the same order of them. When it dies the group
//! gives the duty to another, which has all alerts, approvals and mutes already.
//!
//! **Steps** go to the windows topic before anything is committed, and into a store only when they are read back, an
//! instance's own too: the first result of counting a part is the same first one everywhere. A member that was frozen and
//! wakes publishes what it had counted: the same bytes under the same name, or an alarm (`recsae_unequal_parts_total`).
//! A partition that moves goes on from its standing, which is published before it is committed.
//!
//! **Segments** are followed from the edge that event time gives (`pace`): no instance counts a record so far ahead of what
//! is judged that the judge may still admit a segment for it. Segments of a named reference are not followed before they
//! are seen, because instances take the reference up at different times.
//!
//! **What stays equal by configuration**: way of counting (founding entry, refused else), settings of judging (hash in each
//! judgement). Changing them takes new topics and new stores, or a backup of another instance's store.
//!
//! **What it costs** beyond what was run on a broker, by `make bench-cluster` (this program's code on counts that are made
//! up; 1,000 partitions, 100 segments, 16,384 latents, a million entities a window; Zen 4): 87 MB a window in the windows
//! topic, 7 ms of CPU to publish a part and 6.8 s on every instance to read and merge all of them, .24 s to judge the 1.6
//! million streams, 770 MiB at most. The judge is not what limits: with hourly windows an instance is busy .2 % of the time
//! with what the others counted. The limits are, in this order:
//! - memory of the owners: counts are dense while a window is open, 16 bytes a latent and segment for each partition (26 MB
//!   here). An instance holds partitions x open windows of that, so 100 partitions with two open windows are 5 GB: more
//!   instances, or fewer segments;
//! - the windows topic, of which every key is another window's: 2 GB a day here. It may be given `retention.ms` beside
//!   compaction; an instance that was away for longer than that needs a backup of another's store;
//! - a first reference: its segments are gathered some at a time, two f64 a latent and window of each, which is one at a time
//!   here (88 MB of 336 hours), and the windows are read again for each of the 100, while nothing is judged. Where that takes
//!   too long `[drift] reference` has to ask for fewer windows.
//!
//! Rejected: entries that carry the judged state instead of orders. They would let settings differ and need no parts of old
//! windows; they cost some MB a window at 24 segments x 2048 latents, and a fault of the judge would be copied unseen, where
//! here every instance computes it again.
//!
//! Reading order: [`wire`] (the windows topic), [`entry`] (the log), [`join`] (how an instance begins), [`publisher`],
//! [`readers`], [`duty`] (its threads), [`member`] (what the judge holds of it), `judge/following.rs` (what it does).

pub mod duty;
pub mod entry;
pub mod followed;
pub mod join;
pub mod log_writer;
pub mod member;
pub mod publisher;
pub mod readers;
pub mod start;
pub mod together;
pub mod wire;
