//! Who has the partitions: what a worker looks at in its group, says, and does about partitions that nobody reads.

use std::time::Duration;

use crate::monitor::shared::Shared;
use crate::monitor::worker::Worker;

/// Partitions that are in other hands for longer stop the judge: nothing is admitted then, and nobody waits for it. A
/// start, or a member that comes or goes, is over by then.
const SCATTERED_MS: i64 = 10_000;
/// How often one worker of an instance in a cluster asks the broker whom the group has given its partitions; members of no
/// name of their own need not.
const ASK_GROUP_MS: i64 = 4_000;
/// Longest wait for the answer; it takes milliseconds.
const ASK_PATIENCE: Duration = Duration::from_millis(500);

impl Worker {
    /// Alone, one instance has to have them all; in a cluster, each has to be somebody's.
    pub(super) fn look_at_group(&mut self, now_ms: i64) {
        if self.shared.together.is_cluster() {
            self.look_for_nobodys(now_ms);
        } else {
            self.look_for_scattered(now_ms);
        }
    }

    fn look_for_nobodys(&mut self, now_ms: i64) {
        let Shared { progress, rules, live, .. } = &*self.shared;
        if !self.consumer.is_static() || self.broker_asked.is_some() || !progress.is_to_ask(ASK_GROUP_MS, now_ms) {
            return;
        }
        // While the group distributes nothing is known.
        let Ok(Some(n_given)) = self.consumer.n_given(ASK_PATIENCE) else { return };
        let n = rules.n_partitions;
        let (for_ms, before_ms) = progress.are_nobodys(n_given < n, now_ms);
        if for_ms > SCATTERED_MS {
            let why = format!("{} of {n} partitions are read by no instance of the group {:?}", n.saturating_sub(n_given), rules.group);
            live.set_not_ready("group", why.clone());
            if progress.is_first_to_mend() {
                tracing::warn!(why, "a passing member makes the group distribute its partitions anew: see kafka.instance_id");
                self.consumer.nudge_group();
            }
        } else if before_ms > SCATTERED_MS {
            live.set_ready("group");
        }
    }

    fn look_for_scattered(&mut self, now_ms: i64) {
        let Shared { progress, rules, .. } = &*self.shared;
        let is_scattered = progress.scattered_for_ms(rules.n_partitions, now_ms) > SCATTERED_MS;
        if is_scattered != std::mem::replace(&mut self.is_scattered, is_scattered) {
            if is_scattered {
                let (n, here) = (rules.n_partitions, progress.n_partitions());
                let why = format!(
                    "{} of {n} partitions are not read here: a window is judged where one instance reads them all; stop the other \
                     members of the group {:?}, or wait until the group gives their partitions to this one",
                    n - here.min(n),
                    rules.group
                );
                tracing::warn!(why, "no window can be judged");
                self.shared.live.set_not_ready("group", why);
                if self.consumer.is_static() && progress.is_first_to_mend() {
                    tracing::warn!("a passing member makes the group distribute its partitions anew: see kafka.instance_id");
                    self.consumer.nudge_group();
                }
            } else {
                self.shared.live.set_ready("group");
            }
        }
    }
}
