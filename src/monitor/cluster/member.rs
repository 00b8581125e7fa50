//! What an instance is in its cluster: what it has read of the log and not carried out, whether it judges, and what it has
//! asked the log for.

use std::collections::{BTreeMap, VecDeque};

use crate::drift::alert::Alert;
use crate::monitor::cluster::entry::{Entry, Order};
use crate::monitor::cluster::log_writer::LogWriter;
use crate::monitor::deed::{Deed, Reply};
use crate::record::TopicPartition;
use crate::store::StoreError;

/// Heads of the chain that are kept to be compared with those of others: the entries that a judge may be behind its log.
const HEADS: usize = 4096;

/// How long an instance that lost the judgement to another claims nothing: one that was frozen still holds itself to be on
/// duty, until its group tells it that its session has ended.
const HOLD_MS: i64 = 10_000;

/// The instance as a member of its cluster.
pub struct Member {
    writer: LogWriter,
    /// Where the log lies.
    pub log: TopicPartition,
    /// Hash of the settings it judges under.
    pub rules: String,
    replies: BTreeMap<u64, Reply>,
    /// Read, and not carried out yet.
    pub unread: VecDeque<(i64, Entry)>,
    /// Next offset to carry out.
    pub next: i64,
    heads: VecDeque<(i64, String)>,
    /// The judge's epoch.
    pub epoch: i64,
    /// Who judges.
    pub judge: String,
    is_on_duty: bool,
    claims_from_ms: i64,
    /// The order of its own that the log does not have yet: there is one at a time.
    awaited: Option<u64>,
    /// Windows that ended by then are beyond the retention, and why: to be said next.
    pub to_prune: Option<(i64, String)>,
    /// All that the windows topic holds was read.
    pub windows_at_end: bool,
    /// All that the log holds was read.
    pub log_at_end: bool,
    /// Why it carries nothing out any more.
    pub stopped: Option<String>,
}

impl Member {
    /// An instance that has carried out the log up to `next`, with that head of its chain, under that judge.
    #[must_use]
    pub fn new(writer: LogWriter, log: TopicPartition, rules: String, (next, head): (i64, String), (epoch, judge): (i64, String)) -> Self {
        Self {
            writer,
            log,
            rules,
            replies: BTreeMap::new(),
            unread: VecDeque::new(),
            next,
            heads: VecDeque::from([(next, head)]),
            epoch,
            judge,
            is_on_duty: false,
            claims_from_ms: i64::MIN,
            awaited: None,
            to_prune: None,
            windows_at_end: false,
            log_at_end: false,
            stopped: None,
        }
    }

    /// Whether it judges: by the log, and by the group that gave it the duty.
    #[must_use]
    pub fn judges(&self) -> bool {
        self.is_on_duty && self.judge == self.writer.name() && self.stopped.is_none()
    }

    /// Whether it is to judge, and has to claim that first.
    #[must_use]
    pub fn is_to_claim(&self, now_ms: i64) -> bool {
        self.is_on_duty && !self.judges() && self.stopped.is_none() && now_ms >= self.claims_from_ms
    }

    /// The log says who judges from here on.
    pub fn is_judged_by(&mut self, epoch: i64, judge: String, now_ms: i64) {
        let own = self.writer.name();
        if self.judge == own && judge != own {
            tracing::warn!(epoch, judge, "another instance judges from here on");
            self.claims_from_ms = now_ms + HOLD_MS;
        }
        (self.epoch, self.judge) = (epoch, judge);
    }

    /// The group gave it the duty, or took it.
    pub fn put_on_duty(&mut self, is_ours: bool) {
        if is_ours && !self.is_on_duty {
            // The group has looked at it since.
            self.claims_from_ms = i64::MIN;
        }
        self.is_on_duty = is_ours;
    }

    /// Everything that was shared when it was last looked at is carried out here.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.windows_at_end && self.log_at_end && self.unread.is_empty()
    }

    /// Whether an order of its own is on its way.
    #[must_use]
    pub fn awaits(&self) -> bool {
        self.awaited.is_some()
    }

    /// Writes what somebody asked for; answered once it is carried out.
    pub fn ask(&mut self, deed: Deed, reply: Reply, now_ms: i64) {
        if let Some(why) = &self.stopped {
            reply.send(Err(StoreError::Refused(why.clone())));
            return;
        }
        match self.write(Order::Do(Box::new(deed)), now_ms) {
            Ok(number) => drop(self.replies.insert(number, reply)),
            Err(error) => reply.send(Err(error)),
        }
    }

    /// Writes an order of the judge, or the claim to be it.
    ///
    /// # Errors
    /// It cannot be written at all.
    pub fn order(&mut self, order: Order, now_ms: i64) -> Result<(), StoreError> {
        self.awaited = Some(self.write(order, now_ms)?);
        Ok(())
    }

    fn write(&mut self, order: Order, now_ms: i64) -> Result<u64, StoreError> {
        let head = self.heads.back().map(|(_, head)| head.clone()).unwrap_or_default();
        self.writer.write(order, (self.next, head), now_ms)
    }

    /// Hears what became of what was written: an answer to whoever waits for what the broker refused.
    pub fn hear(&mut self) {
        for (number, why) in self.writer.refused() {
            tracing::error!(why, "the judge topic refused an entry");
            if self.awaited == Some(number) {
                self.awaited = None;
            }
            if let Some(reply) = self.replies.remove(&number) {
                reply.send(Err(StoreError::Refused(why)));
            }
        }
    }

    /// The head that another instance had where this one had one too, if they differ: ours.
    #[must_use]
    pub fn differs(&self, entry: &Entry) -> Option<&str> {
        let (_, own) = self.heads.iter().rev().find(|(after, _)| *after == entry.after)?;
        (*own != entry.head).then_some(own)
    }

    /// The entry before `next` is carried out, with that head afterwards.
    pub fn carried_out(&mut self, entry: &Entry, next: i64, head: String, outcome: Result<Option<Alert>, StoreError>) {
        self.next = next;
        self.heads.push_back((next, head));
        if self.heads.len() > HEADS {
            self.heads.pop_front();
        }
        if entry.by == self.writer.name() {
            if self.awaited == Some(entry.number) {
                self.awaited = None;
            }
            if let Some(reply) = self.replies.remove(&entry.number) {
                reply.send(outcome);
            }
        }
    }

    /// Whether the order is one of the judge as the log has it so far.
    #[must_use]
    pub fn is_of_judge(&self, entry: &Entry, epoch: i64) -> bool {
        epoch == self.epoch && entry.by == self.judge
    }
}
