//! A member that passes by, so that a group distributes its partitions anew.
//!
//! A rebalance of cooperative-sticky takes two rounds: what one member gives up in the first, another gets in the
//! second, which a member begins that gave something up. If the members are killed between the rounds and come back
//! under their static names, the broker hands each what it had, and nobody begins the second round: the partitions that
//! lay between stay unread, for ever and without a word. A dynamic member that joins and leaves makes the group begin a
//! round each time.

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
