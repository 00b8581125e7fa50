//! Who judges: the owner of the judge topic's one partition in a second group, `<group>-judge`. The group gives it to one
//! live instance, and to another when that one is gone: after its session, some seconds.
//!
//! The duty alone changes nothing: the instance claims the next epoch in the log, and judges once it has read its claim
//! back. Two that both hold themselves to be on duty are told apart by the log's order.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::config::settings::KafkaSettings;
use crate::kafka::consumer::{ReadOptions, WorkerConsumer};
use crate::kafka::error::KafkaError;
use crate::kafka::rebalance::RebalanceEvent;
use crate::monitor::cluster::together::Together;
use crate::monitor::command::JudgeCommand;
use crate::monitor::error::MonitorError;
use crate::task::Shutdown;

/// Longest wait for an order of the group; also how soon a shutdown is noticed.
const POLL: Duration = Duration::from_millis(100);

/// The second group's settings.
#[must_use]
pub fn duty_settings(kafka: &KafkaSettings, judge_topic: &str) -> KafkaSettings {
    KafkaSettings {
        group: format!("{}-judge", kafka.group),
        topics: vec![judge_topic.to_owned()],
        start: "latest".to_owned(),
        // A static member that leaves keeps its partition until its session ends: nobody would judge so long.
        instance_id: String::new(),
        ..kafka.clone()
    }
}

/// Tells the judge when it is on duty, until the shutdown, or until this instance can judge no more.
///
/// # Errors
/// The broker needs a human.
pub fn stand_by(
    settings: &KafkaSettings,
    together: &Together,
    commands: &SyncSender<JudgeCommand>,
    shutdown: &Shutdown,
) -> Result<(), MonitorError> {
    if !together.wait_until_caught_up(shutdown) {
        return Ok(());
    }
    let options = ReadOptions { batch: 1, linger: Duration::from_millis(1), headers: false };
    let mut consumer = WorkerConsumer::new(settings, 0, options)?;
    while !shutdown.is_triggered() && !together.gave_up_duty() {
        let outcome = consumer.poll(POLL, |_| ())?;
        for fault in outcome.faults {
            if fault.needs_human() || matches!(fault, KafkaError::Fatal { .. }) {
                return Err(fault.into());
            }
        }
        for event in outcome.rebalances {
            match event {
                RebalanceEvent::Assigned(assigned) => {
                    // What the log holds is read elsewhere.
                    consumer.start(&assigned.iter().map(|at| (at.partition.clone(), at.high)).collect::<Vec<_>>())?;
                }
                RebalanceEvent::Revoked { partitions, .. } => consumer.release(&partitions)?,
            }
            if commands.send(JudgeCommand::Duty(!consumer.assigned().is_empty())).is_err() {
                return Ok(());
            }
        }
    }
    consumer.close();
    if together.gave_up_duty() {
        // Whoever waits for the judge's queue has the judge gone.
        drop(commands.send(JudgeCommand::Duty(false)));
    }
    Ok(())
}
