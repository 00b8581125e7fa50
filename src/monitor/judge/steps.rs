//! Steps of the workers on their way into the store.

use std::sync::mpsc::Receiver;

use crate::metrics::cpu::Stopwatch;
use crate::metrics::registry::Stage;
use crate::monitor::command::{JudgeCommand, STEPS_WAITING, SentStep, StepAck};
use crate::monitor::error::MonitorError;
use crate::monitor::judge::Judge;
use crate::store::step::{Step, StepOutcome};
use crate::task::Shutdown;

impl Judge {
    /// Serves a command; steps together with those that wait behind them, as one transaction costs one sync of the disk,
    /// however much is in it.
    pub(super) fn serve_with_waiting(
        &mut self,
        first: JudgeCommand,
        waiting: &Receiver<JudgeCommand>,
        shutdown: &Shutdown,
    ) -> Result<(), MonitorError> {
        let (mut steps, mut command) = (Vec::new(), Some(first));
        while let Some(JudgeCommand::Step(of)) = command {
            steps.push(*of);
            command = if steps.len() < STEPS_WAITING { waiting.try_recv().ok() } else { None };
        }
        if !steps.is_empty() {
            self.keep_steps(steps, shutdown)?;
        }
        command.map_or(Ok(()), |command| self.serve(command, shutdown))
    }

    pub(super) fn keep_steps(&mut self, sent: Vec<SentStep>, shutdown: &Shutdown) -> Result<(), MonitorError> {
        let mut cpu = Stopwatch::start();
        let steps: Vec<&Step> = sent.iter().map(|of| &of.step).collect();
        let outcomes = self.keep_trying(shutdown, |store| store.apply_steps(&steps))?;
        for (SentStep { step: Step { partition, position, .. }, sent, reply }, outcome) in sent.into_iter().zip(outcomes) {
            self.shared.metrics.checkpointed(sent.elapsed());
            if outcome == StepOutcome::Applied {
                self.shared.positions.set(&partition, position.clone());
            }
            self.shared.positions.answered(&partition);
            // A worker that has gone needs no answer.
            drop(reply.send(StepAck { partition, position, outcome }));
        }
        self.shared.metrics.spent(Stage::Step, cpu.lap());
        self.go_on(shutdown)
    }
}
