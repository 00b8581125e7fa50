//! Entries of the judge's log: orders that every instance carries out in the log's order, and in no other way.
//!
//! `MessagePack` inside one zstd frame, because a fitted reference must come back bit for bit. An entry says which head of
//! the audit chain its writer had after which entry: who had another one there has not carried out the same.

use serde::{Deserialize, Serialize};

use crate::monitor::deed::Deed;
use crate::record::TopicPartition;
use crate::store::StoreError;
use crate::store::shared_log::{NamedPart, digest_of};

/// What a log begins with: what all instances must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Hash of everything that changes counts.
    pub counting_hash: String,
    /// Salt of entity hashes: parts would not be the same under two.
    pub salt: [u8; 16],
    /// Head of the audit chain that every store begins with; empty for new stores.
    pub head: String,
    /// When, ms since 1970 UTC: that of the first entry of the chain.
    pub at_ms: i64,
}

impl Founding {
    /// What a store keeps of it.
    #[must_use]
    pub fn digest(&self) -> String {
        digest_of(format!("{}|{:?}|{}|{}", self.counting_hash, self.salt, self.head, self.at_ms).as_bytes())
    }
}

/// An order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// The log begins.
    Found(Founding),
    /// The instance judges from here on, if the epoch is the next one.
    Claim {
        /// Its epoch.
        epoch: i64,
    },
    /// A window is judged from these parts, if the epoch is that of the judge.
    Judge {
        /// Epoch of who says so.
        epoch: i64,
        /// Start of the window.
        start_ms: i64,
        /// Its end.
        end_ms: i64,
        /// Its parts.
        parts: Vec<NamedPart>,
        /// Hash of the settings it is judged under.
        rules: String,
    },
    /// Windows beyond the retention go, if the epoch is that of the judge.
    Prune {
        /// Epoch of who says so.
        epoch: i64,
        /// Windows that ended by then.
        before_ms: i64,
        /// Why.
        why: String,
    },
    /// What somebody did by hand, on any instance; explanations, which the judge's instance makes.
    Do(Box<Deed>),
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Who wrote it: a name no other process has.
    pub by: String,
    /// Its number among the writer's.
    pub number: u64,
    /// Next offset of the log as far as the writer had carried it out.
    pub after: i64,
    /// Head of the writer's audit chain there.
    pub head: String,
    /// The writer's clock, ms since 1970 UTC: the time of what the order does.
    pub at_ms: i64,
    /// The order.
    pub order: Order,
}

impl Entry {
    /// Who judges in which epoch after this entry, given who did before it: the claim of the next epoch wins, and it wins
    /// once.
    #[must_use]
    pub fn judge_after(&self, epoch: i64, judge: &str) -> (i64, String) {
        match self.order {
            Order::Claim { epoch: claimed } if claimed == epoch + 1 => (claimed, self.by.clone()),
            _ => (epoch, judge.to_owned()),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Never in practice: it always serialises.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        let packed = rmp_serde::to_vec_named(self).map_err(|error| StoreError::damaged("an entry of the judge's log", error))?;
        zstd::bulk::compress(&packed, 3).map_err(|error| StoreError::damaged("an entry of the judge's log", error))
    }

    /// The entry from its bytes.
    ///
    /// # Errors
    /// They are no entry that this program knows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let found = |error: &dyn std::fmt::Display| StoreError::damaged("an entry of the judge's log", error.to_string());
        let most = zstd::bulk::Decompressor::upper_bound(bytes).filter(|&most| most <= 1 << 30);
        let packed = zstd::bulk::decompress(bytes, most.ok_or_else(|| found(&"no zstd frame"))?).map_err(|error| found(&error))?;
        rmp_serde::from_slice(&packed).map_err(|error| found(&error))
    }
}

/// The one partition of the log.
#[must_use]
pub fn log_partition(judge_topic: &str) -> TopicPartition {
    TopicPartition { topic: judge_topic.into(), partition: 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::drift::alert::{ActionKind, AlertAction};

    fn entry(order: Order) -> Entry {
        Entry { by: "pod-1".into(), number: 7, after: 41, head: "ab".into(), at_ms: 9, order }
    }

    #[test]
    fn every_order_comes_back() {
        let founding = Founding { counting_hash: "c".into(), salt: [7; 16], head: String::new(), at_ms: 5 };
        let action = AlertAction { action: ActionKind::Mute, who: "ann".into(), why: "known".into(), at_ms: 4, until_ms: Some(9) };
        let part = (TopicPartition { topic: "t".into(), partition: 2 }, "ab12".to_owned());
        for order in [
            Order::Found(founding.clone()),
            Order::Claim { epoch: 3 },
            Order::Judge { epoch: 3, start_ms: 0, end_ms: 100, parts: vec![part], rules: "r".into() },
            Order::Prune { epoch: 3, before_ms: 5, why: "old".into() },
            Order::Do(Box::new(Deed::Act { alert: 2, action })),
        ] {
            let entry = entry(order);
            assert_eq!(Entry::from_bytes(&entry.to_bytes().unwrap()).unwrap(), entry);
        }
        assert_ne!(founding.digest(), Founding { salt: [8; 16], ..founding }.digest());
    }

    #[test]
    fn of_two_claims_of_one_epoch_the_first_in_the_log_wins() {
        let claims = [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 4), ("a", 1), ("a", 3)];
        let mut judge = (0, String::new());
        let mut after = Vec::new();
        for (by, epoch) in claims {
            judge = Entry { by: by.into(), ..entry(Order::Claim { epoch }) }.judge_after(judge.0, &judge.1);
            after.push((judge.1.clone(), judge.0));
        }
        let expected = [("a", 1), ("a", 1), ("b", 2), ("b", 2), ("b", 2), ("b", 2), ("a", 3)];
        assert_eq!(after, expected.map(|(by, epoch)| (by.to_owned(), epoch)));
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error_and_never_a_panic(at in 0_usize..60, flip in 1_u8..255, cut in 0_usize..60) {
            let whole = entry(Order::Claim { epoch: 3 }).to_bytes().unwrap();
            let mut flipped = whole.clone();
            let at = at % flipped.len();
            flipped[at] ^= flip;
            let _an_entry_or_an_error = Entry::from_bytes(&flipped);
            prop_assert!(Entry::from_bytes(&whole[..cut % whole.len()]).is_err());
        }
    }
}
