//! A member that passes by, so that a group distributes its partitions anew.
//!
//! A rebalance of cooperative-sticky takes two rounds: what one member gives up in the first, another gets in the
//! second, which a member begins that gave something up. If the members are killed between the rounds and come back
//! under their static names, the broker hands each what it had, and nobody begins the second round: the partitions that
//! lay between stay unread, for ever and without a word. A dynamic member that joins and leaves makes the group begin a
//! round each time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use crate::config::settings::KafkaSettings;
use crate::kafka::consumer::WorkerConsumer;
use crate::kafka::error::KafkaError;
use crate::kafka::member::Member;
use crate::kafka::settings;

/// Longest stay of a member that passes by: the group lets it in once the others have let go of what they hold.
const NUDGE_WITHIN: Duration = Duration::from_secs(30);

impl WorkerConsumer {
    /// Whether the member has a name that outlives it (`kafka.instance_id`).
    #[must_use]
    pub fn is_static(&self) -> bool {
        !self.settings.instance_id.is_empty()
    }

    /// How many partitions the group has given to its members, as the broker tells; `None` while it distributes, and where
    /// the broker assigns (`kafka.protocol = "consumer"`).
    ///
    /// # Errors
    /// No answer within `timeout`.
    pub fn n_given(&self, timeout: Duration) -> Result<Option<usize>, KafkaError> {
        let brokers = self.consumer.context().brokers();
        let told = self.consumer.fetch_group_list(Some(&self.settings.group), timeout);
        let told = told.map_err(|error| KafkaError::request("members of the group", brokers, &error))?;
        let Some(group) = told.groups().first().filter(|group| group.state() == "Stable") else { return Ok(None) };
        let given: Option<Vec<_>> = group.members().iter().map(|member| given(member.assignment().unwrap_or_default())).collect();
        Ok(given.map(|given| given.into_iter().flatten().collect::<BTreeSet<_>>().len()))
    }

    /// Makes the group distribute its partitions anew, by a member that passes by; returns at once.
    pub fn nudge_group(&self) {
        let settings = self.settings.clone();
        let pass_by = move || {
            if let Err(error) = pass_by(&settings, NUDGE_WITHIN) {
                tracing::warn!(%error, "the group was not made to distribute anew");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("kafka-nudge".into()).spawn(pass_by) {
            tracing::warn!(%error, "the group was not made to distribute anew");
        }
    }
}

/// Joins the group of these settings under no name of its own, and leaves again. Reads nothing and commits nothing.
/// Ends without an error also where the group did not let it in `within` that time: its request alone begins a round.
///
/// # Errors
/// A setting is refused.
fn pass_by(settings: &KafkaSettings, within: Duration) -> Result<(), KafkaError> {
    let settings = KafkaSettings { instance_id: String::new(), ..settings.clone() };
    let member = Member::new(&settings::consumer(&settings, 0)?, &settings.brokers)?;
    let topics: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
    member.subscribe(&topics).map_err(|error| KafkaError::request("subscribe", &settings.brokers, &error))?;
    let deadline = Instant::now() + within;
    // Its own order is answered as it leaves.
    while Instant::now() < deadline && member.context().next_order().is_none() {
        drop(member.poll(Duration::from_millis(100)));
    }
    Ok(())
}

/// Topics and partitions of a member's assignment, in the classic protocol's bytes: a version, then topics with numbers;
/// empty for one that has none yet. `None` for other bytes.
fn given(assignment: &[u8]) -> Option<Vec<(&[u8], i32)>> {
    if assignment.is_empty() {
        return Some(Vec::new());
    }
    let (_version, mut rest) = assignment.split_at_checked(2)?;
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at_checked(n)?;
        rest = left;
        Some(taken)
    };
    let number = |bytes: &[u8]| bytes.try_into().ok().map(i32::from_be_bytes);
    let mut found = Vec::new();
    for _ in 0..number(take(4)?)? {
        let length = u16::from_be_bytes(take(2)?.try_into().ok()?);
        let topic = take(usize::from(length))?;
        for _ in 0..number(take(4)?)? {
            found.push((topic, number(take(4)?)?));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_assignment_names_its_partitions() {
        let bytes = [&[0, 1][..], &[0, 0, 0, 2], &[0, 1, b'a'], &[0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 9], &[0, 2, b'b', b'c'], &[0; 4]];
        let bytes = [bytes.concat(), vec![0xff; 4]].concat();
        assert_eq!(given(&bytes), Some(vec![(&b"a"[..], 7), (&b"a"[..], 9)]));
        assert_eq!((given(&[]), given(&bytes[..14])), (Some(Vec::new()), None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let n = given(&bytes).map_or(0, |given| given.len());
            prop_assert!(n <= bytes.len() / 4);
        }
    }
}
