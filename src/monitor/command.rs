//! What the judge is asked for, and what it answers.

use std::sync::mpsc::{Sender, SyncSender};
use std::time::Instant;

use crate::drift::alert::{Alert, AlertAction};
use crate::drift::explanation::Explanation;
use crate::drift::partition::PartitionPosition;
use crate::drift::reference::Reference;
use crate::kafka::topic_ids::TopicIds;
use crate::monitor::cluster::followed::Followed;
use crate::record::TopicPartition;
use crate::store::StoreError;
use crate::store::references::Approval;
use crate::store::step::{Step, StepOutcome};

/// Steps that may wait for the store. Full means that workers wait: at a millisecond a step this is
/// a tenth of a second of work, and a few MiB of closed windows.
pub const STEPS_WAITING: usize = 64;

/// Where steps and operator actions go.
pub type Commands = SyncSender<JudgeCommand>;

/// What the judge is asked for.
pub enum JudgeCommand {
    /// Store a step.
    Step(Box<SentStep>),
    /// An operator acts on an alert.
    Act {
        /// Number of the alert.
        alert: i64,
        /// What, who, why.
        action: AlertAction,
        /// Where the outcome goes.
        reply: Sender<Result<Alert, StoreError>>,
    },
    /// A fitted reference is kept.
    PutReference {
        /// The reference.
        reference: Box<Reference>,
        /// Where the outcome goes.
        reply: Sender<Result<(), StoreError>>,
    },
    /// Somebody approves a reference.
    ApproveReference {
        /// Its name.
        name: String,
        /// Who, why, when.
        approval: Approval,
        /// Where the outcome goes.
        reply: Sender<Result<(), StoreError>>,
    },
    /// An alert that was asked about is explained; `None`: not now, the next start asks again.
    Explained {
        /// Number of the alert.
        alert: i64,
        /// What explains it.
        explanation: Option<Box<Explanation>>,
    },
    /// Keep what was read of the topics that instances share.
    Followed(Box<Followed>),
    /// The group gave this instance the duty to judge, or took it.
    Duty(bool),
    /// Keep the ids of topics, by name.
    KnowTopics(TopicIds),
    /// Somebody sends a test alert: recorded, then shown.
    TestAlert {
        /// Who.
        who: String,
        /// Why.
        why: String,
        /// Until when, ms since 1970 UTC.
        until_ms: i64,
        /// Where the outcome goes.
        reply: Sender<Result<(), StoreError>>,
    },
}

/// A step on its way to the store.
pub struct SentStep {
    /// The step.
    pub step: Step,
    /// When it was sent.
    pub sent: Instant,
    /// Where the acknowledgement goes.
    pub reply: Sender<StepAck>,
}

/// A step was stored, or not.
#[derive(Clone, Debug)]
pub struct StepAck {
    /// Its partition.
    pub partition: TopicPartition,
    /// Its position.
    pub position: PartitionPosition,
    /// What became of it.
    pub outcome: StepOutcome,
}
