//! Row 1, the order of the two commits: what the group has committed is never ahead of what is stored.
//!
//! The store is slow (a sleep between what is written and its end), so that a commit that does not wait for it is seen.
//! Commits are read before the store, and both only grow: at a right order no look can find a commit ahead.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::kills::stored;
use crate::monitor::Checked;
use crate::process_faults::consumed;
use crate::site::{Site, plan};
use crate::stage::Stage;

/// What was seen.
pub(crate) struct Looks {
    /// Looks at which something was committed, while records came in.
    n: usize,
    /// Different sums of committed offsets among them.
    n_commits: usize,
    /// Records committed and records stored at the first look at which the commits were ahead.
    pub(crate) ahead: Option<(i64, i64)>,
}

/// No commit is ahead of the store, whenever one looks.
pub(crate) fn behind_the_store(stage: &Stage) -> Checked<String> {
    let seen = look(stage, "commit-order", "")?;
    if let Some((committed, stored)) = seen.ahead {
        return Err(format!("{committed} records are committed, and only {stored} are stored"));
    }
    if seen.n < 20 || seen.n_commits < 5 {
        return Err(format!("only {} looks at {} states of the commits: nothing is shown", seen.n, seen.n_commits));
    }
    Ok(format!("{} looks at {} states of the commits, none ahead of a store that takes 300 ms a step", seen.n, seen.n_commits))
}

/// Looks at commits and store while records come in, with these points armed besides.
pub(crate) fn look(stage: &Stage, name: &str, failpoints: &str) -> Checked<Looks> {
    let n_records = 4_000;
    let mut site = Site::new(stage, name, plan(stage, 32, n_records));
    // Steps that wait are stored together: the more often there is one, the more states there are.
    site.settings.store.checkpoint_every = Duration::from_millis(20);
    let mut monitor = site.start(&[], &format!("step-written=sleep(300);{failpoints}"));
    monitor.wait_ready(Duration::from_secs(60))?;
    let kafka = &site.settings.kafka;
    let group: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", &kafka.group)
        .create()
        .map_err(|error| error.to_string())?;
    let mut seen = Looks { n: 0, n_commits: 0, ahead: None };
    let mut last = 0;
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(|| site.produce(0..n_records, Duration::from_millis(200)));
        while !feed.is_finished() && seen.ahead.is_none() {
            let committed = committed(&group, &site)?;
            let stored = stored(&site).unwrap_or(0);
            seen.n += usize::from(committed > 0);
            seen.n_commits += usize::from(committed > last);
            last = committed;
            if committed > stored {
                seen.ahead = Some((committed, stored));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        feed.join().map_err(|_| "the feed panicked".to_owned())?
    })?;
    monitor.wait_for(Duration::from_secs(60), "all records", consumed(n_records as f64))?;
    monitor.end(Duration::from_secs(30))?;
    Ok(seen)
}

/// Sum of the group's committed offsets; a look joins nothing.
fn committed(group: &BaseConsumer, site: &Site) -> Checked<i64> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&site.topic, 0, site.world.plan.n_partitions - 1);
    let found = group.committed_offsets(list, Duration::from_secs(20)).map_err(|error| error.to_string())?;
    let offset = |offset| if let Offset::Offset(n) = offset { n } else { 0 };
    Ok(found.elements().iter().map(|element| offset(element.offset())).sum())
}
