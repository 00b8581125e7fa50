//! What is done to the record beside judging: by people, and by what explains alerts. The same on every instance of a
//! cluster, which carries it out where the judge's log has it; alone, at once.

use std::sync::mpsc::Sender;

use serde::{Deserialize, Serialize};

use crate::drift::alert::{Alert, AlertAction};
use crate::drift::explanation::Explanation;
use crate::drift::reference::Reference;
use crate::store::StoreError;
use crate::store::references::Approval;

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Deed {
    /// An operator acts on an alert.
    Act {
        /// Number of the alert.
        alert: i64,
        /// What, who, why.
        action: AlertAction,
    },
    /// A fitted reference is kept.
    PutReference {
        /// The reference.
        reference: Box<Reference>,
    },
    /// Somebody approves a reference.
    ApproveReference {
        /// Its name.
        name: String,
        /// Who, why, when.
        approval: Approval,
    },
    /// An alert is explained.
    Explain {
        /// Number of the alert.
        alert: i64,
        /// What explains it.
        explanation: Box<Explanation>,
    },
    /// Somebody sends a test alert: recorded, then shown.
    TestAlert {
        /// Who.
        who: String,
        /// Why.
        why: String,
        /// Until when, ms since 1970 UTC.
        until_ms: i64,
    },
}

/// Where the outcome of a deed goes.
#[derive(Debug)]
pub enum Reply {
    /// To who acted on an alert.
    Alert(Sender<Result<Alert, StoreError>>),
    /// To who did something else.
    Done(Sender<Result<(), StoreError>>),
    /// Nobody waits.
    Nobody,
}

impl Reply {
    /// Answers; who has gone needs no answer.
    pub fn send(self, outcome: Result<Option<Alert>, StoreError>) {
        match self {
            Self::Alert(reply) => {
                let not_changed = || StoreError::Refused("expected an alert that was changed, found none".to_owned());
                drop(reply.send(outcome.and_then(|alert| alert.ok_or_else(not_changed))));
            }
            Self::Done(reply) => drop(reply.send(outcome.map(drop))),
            Self::Nobody => {}
        }
    }
}
