//! The judge in a cluster: keeps what others published, carries out the log entry by entry, and, where it is this instance
//! that judges, says what is judged next. See [`crate::monitor::cluster`].

use crate::drift::alert::Alert;
use crate::fault;
use crate::monitor::cluster::entry::{Entry, Order};
use crate::monitor::cluster::followed::Followed;
use crate::monitor::error::MonitorError;
use crate::monitor::judge::Judge;
use crate::store::StoreError;
use crate::store::reader::UnjudgedWindow;
use crate::store::retention::Actor;
use crate::store::shared_log::NamedPart;
use crate::task::Shutdown;

/// What became of an entry that is next in the log.
enum Next {
    /// Carried out, and what it did.
    Done(Box<Result<Option<Alert>, StoreError>>),
    /// Carried out before.
    IsOld,
    /// It names parts that were not read yet.
    Waits,
    /// Nothing is carried out any more.
    Stops(String),
}

impl Judge {
    /// Keeps what was read of the shared topics, and goes on.
    pub(super) fn follow(&mut self, followed: Followed, shutdown: &Shutdown) -> Result<(), MonitorError> {
        match followed {
            Followed::Windows { news, at_the_end, is_at_end } => {
                let unequal = self.keep_trying(shutdown, |store| store.follow(&news))?;
                fault::point("news-kept");
                for part in unequal {
                    self.shared.metrics.unequal_parts.inc();
                    let (partition, start_ms, is_late) = (part.partition, part.start_ms, part.is_late);
                    tracing::error!(%partition, start_ms, is_late, "a part of a window was counted twice with two results: the first is used");
                }
                let now_ms = self.shared.clock.now_ms();
                for ((partition, position), at_end) in news.positions.into_iter().zip(at_the_end) {
                    self.shared.progress.follow(&partition, (position.watermark_ms, at_end), now_ms);
                    self.shared.positions.follow(&partition, position);
                }
                if let Some(member) = &mut self.member {
                    member.windows_at_end = is_at_end;
                }
            }
            Followed::Log { entries, is_at_end } => {
                if let Some(member) = self.member.as_mut().filter(|member| member.stopped.is_none()) {
                    member.unread.extend(entries);
                    member.log_at_end = is_at_end;
                }
            }
        }
        self.go_on_together(shutdown)
    }

    /// The group gave this instance the duty to judge, or took it.
    pub(super) fn on_duty(&mut self, is_ours: bool, shutdown: &Shutdown) -> Result<(), MonitorError> {
        if let Some(member) = &mut self.member {
            member.put_on_duty(is_ours);
            tracing::info!(is_ours, "duty to judge");
        }
        self.publish()?;
        self.go_on_together(shutdown)
    }

    /// Carries out what the log has, then says what is to be judged, if that is for this instance to say.
    pub(super) fn go_on_together(&mut self, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let mut any = false;
        while let Some((offset, entry)) = self.member.as_mut().and_then(|member| member.unread.pop_front()) {
            match self.carry_out_entry(offset, &entry, shutdown)? {
                Next::Done(outcome) => {
                    any = true;
                    let head = self.store.read().audit_head()?;
                    if let Some(member) = &mut self.member {
                        member.carried_out(&entry, offset + 1, head, *outcome);
                    }
                }
                Next::IsOld => {}
                Next::Waits => {
                    if let Some(member) = &mut self.member {
                        member.unread.push_front((offset, entry));
                    }
                    break;
                }
                Next::Stops(why) => self.stop_carrying_out(why),
            }
        }
        if any {
            self.publish()?;
            self.ask_for_explanations()?;
        }
        if let Some(member) = &mut self.member {
            member.hear();
            if member.is_caught_up() {
                self.shared.together.has_caught_up();
                self.shared.live.set_ready("cluster");
            }
        }
        self.say_what_is_next()
    }

    fn stop_carrying_out(&mut self, why: String) {
        tracing::error!(why, "this instance no longer follows the judge's log");
        self.shared.metrics.diverged.set(1.0);
        self.shared.live.set_not_ready("cluster", why.clone());
        self.shared.together.gives_up_duty();
        if let Some(member) = &mut self.member {
            member.stopped = Some(why);
            member.unread.clear();
        }
    }

    /// One entry, in one transaction with how far the log is carried out.
    fn carry_out_entry(&mut self, offset: i64, entry: &Entry, shutdown: &Shutdown) -> Result<Next, MonitorError> {
        let Some(member) = &self.member else { return Ok(Next::Waits) };
        if let Some(why) = &member.stopped {
            return Ok(Next::Stops(why.clone()));
        }
        if offset < member.next {
            return Ok(Next::IsOld);
        }
        if offset > member.next {
            return Err(MonitorError::Cluster(format!(
                "the judge topic begins at entry {offset} by now, this store has carried out those before {}: give it retention.ms=-1, and this \
                 instance a backup of another one's store",
                member.next
            )));
        }
        if let Some(stop) = self.wait_or_stop(entry)? {
            return Ok(stop);
        }
        let (epoch, judge) = entry.judge_after(member.epoch, &member.judge);
        if epoch != member.epoch {
            tracing::info!(epoch, judge, "who judges from here on");
        }
        let log = member.log.clone();
        self.store.begin_whole()?;
        let done = self.carry_out_order(entry, shutdown).and_then(|outcome| {
            // A refusal is the same everywhere; a disk that is full is here alone, and what it kept from being done is
            // done at the next start.
            if let Err(error @ (StoreError::Database(_) | StoreError::Io { .. } | StoreError::Damaged { .. })) = outcome {
                return Err(error.into());
            }
            self.store.put_applied(&log, offset + 1, epoch, &judge)?;
            fault::point("entry-written");
            self.store.keep_whole()?;
            fault::point("entry-kept");
            Ok(outcome)
        });
        if done.is_err() {
            self.store.undo_whole();
        }
        let outcome = done?;
        let now_ms = self.shared.clock.now_ms();
        if let Some(member) = &mut self.member {
            member.is_judged_by(epoch, judge, now_ms);
        }
        Ok(Next::Done(Box::new(outcome)))
    }

    /// What keeps a judgement from being carried out here.
    fn wait_or_stop(&self, entry: &Entry) -> Result<Option<Next>, MonitorError> {
        let (Some(member), Order::Judge { epoch, start_ms, parts, rules, .. }) = (&self.member, &entry.order) else { return Ok(None) };
        if !member.is_of_judge(entry, *epoch) || self.store.read().is_judged(*start_ms)? {
            return Ok(None);
        }
        if let Some(own) = member.differs(entry) {
            return Ok(Some(Next::Stops(format!(
                "the history here ({own}) is not that of {} ({}), which judges: another program, settings that are not the same, or a store \
                 that was changed by hand; give this instance a backup of another one's store",
                entry.by, entry.head
            ))));
        }
        if *rules != member.rules {
            return Ok(Some(Next::Stops(format!(
                "the window at {start_ms} is judged by {} under other settings ({rules}, here {}): [drift], [window], [segments], [counting] and \
                 the bundles must be the same on all instances; mend them, or give this instance a backup of another one's store",
                entry.by, member.rules
            ))));
        }
        let stored = self.store.read().named_parts(*start_ms)?;
        let missing = parts.iter().filter(|part| !stored.contains(part)).count();
        if missing > 0 && member.windows_at_end {
            let why = format!(
                "{missing} of {} parts of the window at {start_ms} are not in the windows topic (yet): if they do not come, give this instance a \
                 backup of another one's store",
                parts.len()
            );
            self.shared.live.set_not_ready("cluster", why);
        }
        Ok((missing > 0).then_some(Next::Waits))
    }

    fn carry_out_order(&mut self, entry: &Entry, shutdown: &Shutdown) -> Result<Result<Option<Alert>, StoreError>, MonitorError> {
        let is_of_judge = |epoch| self.member.as_ref().is_some_and(|member| member.is_of_judge(entry, epoch));
        match &entry.order {
            Order::Judge { epoch, start_ms, end_ms, parts, .. } if is_of_judge(*epoch) && !self.store.read().is_judged(*start_ms)? => {
                self.judge_named((*start_ms, *end_ms), parts, entry.at_ms, shutdown)?;
            }
            Order::Prune { epoch, before_ms, why } if is_of_judge(*epoch) => {
                self.prune_before(*before_ms, &Actor { who: String::new(), why: why.clone(), at_ms: entry.at_ms }, shutdown)?;
            }
            Order::Do(deed) => return self.carry_out(deed, entry.at_ms, shutdown),
            Order::Found(_) | Order::Claim { .. } | Order::Judge { .. } | Order::Prune { .. } => {}
        }
        Ok(Ok(None))
    }

    fn judge_named(
        &mut self,
        (start_ms, end_ms): (i64, i64),
        named: &[NamedPart],
        now_ms: i64,
        shutdown: &Shutdown,
    ) -> Result<(), MonitorError> {
        self.judge_window(&UnjudgedWindow { start_ms, end_ms }, Some(named), now_ms, shutdown)?;
        if self.judges()
            && let Some((before_ms, actor)) = self.retention.due(end_ms, now_ms)
            && let Some(member) = &mut self.member
        {
            member.to_prune = Some((before_ms, actor.why));
        }
        Ok(())
    }

    /// One order at a time: the next is said when the one before came back from the log.
    fn say_what_is_next(&mut self) -> Result<(), MonitorError> {
        let Some(member) = &mut self.member else { return Ok(()) };
        if !member.is_caught_up() || member.stopped.is_some() {
            return Ok(());
        }
        let rules = &self.shared.rules;
        let edge = self.shared.positions.judge_before(rules.n_partitions, &rules.window);
        let oldest = self.store.read().oldest_unjudged()?;
        self.shared.positions.set_oldest_closed(oldest.as_ref().map(|window| window.start_ms));
        // Behind a window that is closed and not judged nobody counts further, whoever judges.
        self.shared.pace.judged_before(oldest.as_ref().map_or(edge, |window| window.start_ms.min(edge)));
        if member.awaits() {
            return Ok(());
        }
        let now_ms = self.shared.clock.now_ms();
        let order = if member.is_to_claim(now_ms) {
            Some(Order::Claim { epoch: member.epoch + 1 })
        } else if !member.judges() {
            None
        } else if let Some((before_ms, why)) = member.to_prune.take() {
            Some(Order::Prune { epoch: member.epoch, before_ms, why })
        } else if let Some(window) = oldest.filter(|window| window.start_ms < edge) {
            let parts = self.store.read().named_parts(window.start_ms)?;
            Some(Order::Judge { epoch: member.epoch, start_ms: window.start_ms, end_ms: window.end_ms, parts, rules: member.rules.clone() })
        } else {
            None
        };
        order.map_or(Ok(()), |order| member.order(order, now_ms)).map_err(MonitorError::from)
    }
}
