//! A worker's consumer: batches of borrowed messages, rebalances as values, commits that never stall.
//!
//! One per worker thread, a member of the group of its own. The order of a worker's step is: poll,
//! answer rebalances, count, store, commit. Nothing here decides where to start or what to commit:
//! the log is the state, and the worker knows how far back its open windows reach.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::config::StartAt;
use crate::config::settings::KafkaSettings;
use crate::kafka::commit::Commits;
use crate::kafka::context::Order;
use crate::kafka::error::{KafkaError, classify};
use crate::kafka::member::Member;
use crate::kafka::queue::{self, Fetched, Queue};
use crate::kafka::rebalance::{Position, RebalanceEvent};
use crate::kafka::settings;
use crate::kafka::take_over;
use crate::kafka::topics::{TopicMatcher, topic_partitions};
use crate::record::{Header, RawMessage, TopicPartition};

mod nudge;
mod pausing;
mod restart;

/// How a worker's consumer reads.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// Most messages a poll hands over: the encoder's batch.
    pub batch: usize,
    /// Longest wait for a batch to fill once the poll has begun.
    pub linger: Duration,
    /// Whether to read headers (.3 us a message): what `Decoder::needs_headers` says.
    pub headers: bool,
}

/// What a poll brought besides messages.
#[derive(Debug, Default)]
#[must_use]
pub struct PollOutcome {
    /// Messages handed over: what `recsae_records_consumed_total` counts.
    pub messages: usize,
    /// Orders of the group, to be answered before the next poll.
    pub rebalances: Vec<RebalanceEvent>,
    /// Partitions whose next record is not in the log any more (deleted by retention, or never there): they stand
    /// still until [`WorkerConsumer::restart`].
    pub out_of_range: Vec<TopicPartition>,
    /// Faults reported since the last poll; librdkafka goes on trying unless one is `Fatal`.
    pub faults: Vec<KafkaError>,
}

/// One member of the group.
pub struct WorkerConsumer {
    // Queues before the consumer: fields drop in this order, and a consumer that is dropped while a
    // queue of its messages lives can hang for ever.
    messages: Queue,
    commits: Commits,
    consumer: Member,
    options: ReadOptions,
    settings: KafkaSettings,
    start: StartAt,
    topics: TopicMatcher,
    assigned: Vec<TopicPartition>,
    /// (topic handle, partition) → index into `assigned`, in order of use.
    handles: Vec<(usize, i32, usize)>,
    out_of_range: Vec<TopicPartition>,
    /// Started again, and no message has come since: see `restart`.
    restarted: Vec<TopicPartition>,
}

impl WorkerConsumer {
    /// Joins the group as worker `worker` and subscribes; the first assignment comes by [`Self::poll`].
    ///
    /// # Errors
    /// A setting is refused, or the client cannot be made.
    pub fn new(settings: &KafkaSettings, worker: usize, options: ReadOptions) -> Result<Self, KafkaError> {
        let topics = TopicMatcher::new(&settings.topics)?;
        let start = settings.start_at().map_err(|fault| KafkaError::Setting { key: fault.key, message: fault.message })?;
        let consumer = Member::new(&settings::consumer(settings, worker)?, &settings.brokers)?;
        let native = consumer.client().native_client();
        let no_queue = || KafkaError::Fatal { message: "librdkafka gave no queue".into() };
        let messages = Queue::new(native, options.batch).ok_or_else(no_queue)?;
        let commits = Commits::new(Queue::new(native, 1).ok_or_else(no_queue)?);
        let names: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(|error| KafkaError::request("subscribe", &settings.brokers, &error))?;
        Ok(Self {
            messages,
            commits,
            consumer,
            options,
            settings: settings.clone(),
            start,
            topics,
            assigned: Vec::new(),
            handles: Vec::new(),
            out_of_range: Vec::new(),
            restarted: Vec::new(),
        })
    }

    /// Hands over up to one batch. Waits at most `timeout` for the first message and then the linger
    /// time for more. Messages of one partition come in order and mostly in runs.
    ///
    /// # Errors
    /// A partition was assigned and its position could not be asked for: stop, never start at a guess.
    pub fn poll(&mut self, timeout: Duration, mut each: impl FnMut(RawMessage<'_>)) -> Result<PollOutcome, KafkaError> {
        self.forward_restarted();
        let mut outcome = self.poll_events(&mut each)?;
        // An unanswered order comes first: what follows may belong to partitions that are to be released.
        if !outcome.rebalances.is_empty() {
            return Ok(outcome);
        }
        outcome.messages += self.read(self.options.batch, self.options.linger.min(timeout), &mut each);
        if outcome.messages == 0 && timeout > self.options.linger {
            outcome.messages += self.read(1, timeout.saturating_sub(self.options.linger), &mut each);
            if outcome.messages > 0 {
                outcome.messages += self.read(self.options.batch.saturating_sub(1), Duration::ZERO, &mut each);
            }
        }
        outcome.faults.append(&mut self.consumer.context().take_faults());
        outcome.out_of_range.append(&mut self.out_of_range);
        Ok(outcome)
    }

    /// Serves the group without reading: what a worker does while it must wait (a full dead-letter queue, a store that
    /// cannot write). What is fetched meanwhile is bounded by `queued.max.messages.kbytes`; nothing is lost.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub fn keep_alive(&mut self) -> Result<PollOutcome, KafkaError> {
        self.poll_events(&mut |_| ())
    }

    /// Answers [`RebalanceEvent::Assigned`]: consumption begins at these offsets. Call once for each
    /// such event, also with an empty list.
    ///
    /// # Errors
    /// librdkafka refuses the assignment.
    pub fn start(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        let brokers = self.consumer.context().brokers().to_owned();
        let refused = |error| KafkaError::request("start partitions", &brokers, &error);
        let eager = !matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (at, offset) in positions {
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(*offset)).map_err(refused)?;
            // Before the assignment: once fetching has begun the messages are on the consumer's queue.
            if !self.messages.forward(self.consumer.client().native_client(), &at.topic, at.partition) {
                return Err(KafkaError::Request { what: format!("forward the queue of {at}"), message: "no such partition".into() });
            }
        }
        if eager { self.consumer.assign(&list) } else { self.consumer.incremental_assign(&list) }.map_err(refused)?;
        self.consumer.context().answered();
        self.handles.clear();
        if eager {
            self.assigned.clear();
        }
        self.assigned.extend(positions.iter().map(|(at, _)| at.clone()));
        // librdkafka keeps a pause beyond the assignment it was made in.
        if positions.is_empty() { Ok(()) } else { self.resume(&positions.iter().map(|(at, _)| at.clone()).collect::<Vec<_>>()) }
    }

    /// Answers [`RebalanceEvent::Revoked`]: the group may give the partitions away. Call once for each
    /// such event, after what was counted is stored and committed (unless they were lost).
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        let released = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(&list_of(partitions)),
            _ => self.consumer.unassign(),
        };
        self.consumer.context().answered();
        self.handles.clear();
        self.assigned.retain(|at| !partitions.contains(at));
        self.restarted.retain(|at| !partitions.contains(at));
        released.map_err(|error| KafkaError::request("release partitions", self.consumer.context().brokers(), &error))
    }

    /// Partitions that were started and not released.
    #[must_use]
    pub fn assigned(&self) -> &[TopicPartition] {
        &self.assigned
    }

    /// Starts a commit and returns at once; false when the last one is not answered yet (nothing was
    /// started). The outcome comes by [`Self::poll_commit`].
    ///
    /// # Errors
    /// librdkafka refuses the request itself.
    pub fn commit(&mut self, positions: &[Position]) -> Result<bool, KafkaError> {
        self.commits.start(self.consumer.client().native_client(), positions)
    }

    /// The outcome of the commit in flight, once it is there; never blocks.
    pub fn poll_commit(&mut self) -> Option<Result<(), KafkaError>> {
        self.commits.poll(Duration::ZERO)
    }

    /// Whether a commit waits for its answer.
    #[must_use]
    pub fn commit_in_flight(&self) -> bool {
        self.commits.in_flight()
    }

    /// Commits and waits for the answer: for a drain or a revocation, where nothing else can go on.
    ///
    /// # Errors
    /// Refused, or not answered by the deadline.
    pub fn commit_and_wait(&mut self, positions: &[Position], deadline: Instant) -> Result<(), KafkaError> {
        // The one in flight holds older positions; its outcome does not matter any more.
        self.commits.wait(deadline).or_else(|error| match error {
            KafkaError::Commit { fenced: true, .. } => Err(error),
            _ => Ok(()),
        })?;
        loop {
            self.commit(positions)?;
            match self.commits.wait(deadline) {
                Err(KafkaError::Commit { retriable: true, .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return outcome,
            }
        }
    }

    /// Records between `next` and the partition's end as of the last fetch reply, without a request;
    /// `None` before the first reply.
    #[must_use]
    pub fn lag(&self, at: &TopicPartition, next: i64) -> Option<u64> {
        let high = queue::cached_high_watermark(self.consumer.client().native_client(), &at.topic, at.partition)?;
        Some(u64::try_from(high.saturating_sub(next)).unwrap_or(0))
    }

    /// First offset the log still has and first it does not have yet: one request.
    ///
    /// # Errors
    /// The partition's leader does not answer within `timeout`.
    pub fn watermarks(&self, at: &TopicPartition, timeout: Duration) -> Result<(i64, i64), KafkaError> {
        take_over::watermarks(&self.consumer, at, timeout)
    }

    /// Offset after the last record handed over of each started partition. Unlike a count of records
    /// it also passes what a consumer never sees: transaction markers, compacted records.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn positions(&self) -> Result<Vec<(TopicPartition, i64)>, KafkaError> {
        let list = self.consumer.position().map_err(|error| KafkaError::request("positions", self.consumer.context().brokers(), &error))?;
        let known = queue::entries_of(&list).into_iter().filter(|entry| entry.offset >= 0 && entry.error.is_none());
        Ok(known.map(|entry| (self.name(&entry.topic, entry.partition), entry.offset)).collect())
    }

    /// Every partition of every topic that is read, by all members: what a window waits for.
    ///
    /// # Errors
    /// No broker answers within `timeout`.
    pub fn topic_partitions(&self, timeout: Duration) -> Result<Vec<TopicPartition>, KafkaError> {
        topic_partitions(self.consumer.client(), &self.topics, self.consumer.context().brokers(), timeout)
    }

    /// Leaves the group. Store and commit before; what was not committed is read again by the next owner.
    pub fn close(self) {
        drop(self);
    }

    fn poll_events(&mut self, each: &mut impl FnMut(RawMessage<'_>)) -> Result<PollOutcome, KafkaError> {
        let mut outcome = PollOutcome::default();
        loop {
            let seen = self.consumer.context().seen();
            match self.consumer.poll(Duration::ZERO) {
                // Everything is forwarded to our queue before it is assigned; should librdkafka ever
                // deliver here all the same, the record is read like any other.
                Some(Ok(message)) => {
                    let at = self.name(message.topic(), message.partition());
                    each(RawMessage {
                        partition: &at,
                        offset: message.offset(),
                        timestamp_ms: message.timestamp().to_millis(),
                        key: message.key(),
                        payload: message.payload(),
                        headers: &[],
                    });
                    outcome.messages += 1;
                }
                Some(Err(rdkafka::error::KafkaError::MessageConsumptionFatal(code))) => {
                    self.consumer.context().fault(KafkaError::Fatal { message: code.to_string() });
                }
                // Its words were kept by the context.
                Some(Err(_)) => {}
                None if self.consumer.context().seen() == seen => break,
                None => {}
            }
        }
        while let Some(order) = self.consumer.context().next_order() {
            outcome.rebalances.push(self.event(order)?);
        }
        outcome.faults = self.consumer.context().take_faults();
        Ok(outcome)
    }

    fn event(&self, order: Order) -> Result<RebalanceEvent, KafkaError> {
        match order {
            Order::Assign(list) => {
                take_over::refuse_dead_letters(&list, &self.settings)?;
                take_over::ask(&self.consumer, list, self.start, |topic, partition| self.name(topic, partition))
                    .map(RebalanceEvent::Assigned)
            }
            Order::Revoke { partitions, lost } => {
                let partitions = queue::entries_of(&partitions).iter().map(|entry| self.name(&entry.topic, entry.partition)).collect();
                Ok(RebalanceEvent::Revoked { partitions, lost })
            }
        }
    }

    fn read(&mut self, max: usize, timeout: Duration, each: &mut impl FnMut(RawMessage<'_>)) -> usize {
        let Self { messages, consumer, assigned, handles, options, out_of_range, restarted, .. } = self;
        let (context, mut stray, mut spare) = (consumer.context(), 0, Vec::<Header<'_>>::new());
        let count = messages.read(max, timeout, |fetched| {
            if let Some((code, words)) = fetched.error() {
                stray += 1;
                if matches!(code, RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) {
                    out_of_range.extend(index_of(&fetched, assigned, handles).map(|index| assigned[index].clone()));
                } else if code != RDKafkaErrorCode::PartitionEOF {
                    context.fault(classify(code, &format!("{}[{}]: {words}", fetched.topic(), fetched.partition()), context.brokers()));
                }
                return;
            }
            // A partition that was released in the meantime: its next owner reads the record.
            let Some(index) = index_of(&fetched, assigned, handles) else {
                stray += 1;
                return;
            };
            if !restarted.is_empty() {
                restarted.retain(|at| *at != assigned[index]);
            }
            let mut headers = reuse(std::mem::take(&mut spare));
            if options.headers {
                fetched.headers(&mut headers);
            }
            each(RawMessage {
                partition: &assigned[index],
                offset: fetched.offset(),
                timestamp_ms: fetched.timestamp_ms(),
                key: fetched.key(),
                payload: fetched.payload(),
                headers: &headers,
            });
            spare = reuse(headers);
        });
        count - stray
    }

    /// The name that is already allocated for a started partition.
    fn name(&self, topic: &str, partition: i32) -> TopicPartition {
        let known = self.assigned.iter().find(|at| at.partition == partition && *at.topic == *topic);
        known.cloned().unwrap_or_else(|| TopicPartition { topic: Arc::from(topic), partition })
    }
}

fn index_of(fetched: &Fetched<'_>, assigned: &[TopicPartition], handles: &mut Vec<(usize, i32, usize)>) -> Option<usize> {
    let (handle, partition) = (fetched.topic_handle(), fetched.partition());
    if let Some(place) = handles.iter().position(|known| known.0 == handle && known.1 == partition) {
        let index = handles[place].2;
        // Messages come in runs: the partition of the last one is found first.
        handles.swap(0, place);
        return Some(index);
    }
    let topic = fetched.topic();
    let index = assigned.iter().position(|at| at.partition == partition && *at.topic == *topic)?;
    handles.push((handle, partition, index));
    Some(index)
}

/// An empty vector with the memory of the last message's headers: no allocation a message.
fn reuse<'b>(mut headers: Vec<Header<'_>>) -> Vec<Header<'b>> {
    headers.clear();
    headers.into_iter().map(|_| ("", None)).collect()
}

fn list_of(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for at in partitions {
        list.add_partition(&at.topic, at.partition);
    }
    list
}
