//! The commands: one file each, all with the same outcome and exit codes.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bundle::BundleError;
use crate::kafka::error::KafkaError;
use crate::monitor::MonitorError;
use crate::store::StoreError;

mod alert_words;
pub mod alerts;
pub mod backtest;
pub mod bundle;
pub mod case_args;
pub mod check;
pub mod check_sample;
pub mod concepts;
pub mod config;
pub mod dataset_args;
pub mod dead_letters;
pub mod demo;
mod demo_learn;
pub mod demo_verdict;
pub mod evaluate;
pub mod export;
pub mod help;
pub mod history;
pub mod import;
mod in_cluster;
pub mod label;
pub mod llm_args;
pub mod named_sae_args;
mod plain;
pub mod produce;
pub mod progress;
pub mod record;
pub mod reference;
mod reload;
pub mod report;
pub mod review;
pub mod run;
pub mod serve;
mod setup_cache;
mod startable;
pub mod steer;
pub mod steer_plan;
pub mod steer_run;
pub mod steer_table;
pub mod train;
pub mod verify;

/// What a command that ran to its end says: exit 0 or 1. Errors are 2 (see `is_setup`) or 70.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or the answer is yes.
    Done,
    /// The answer is no: a check failed, drift was found where asked.
    No,
}

/// Wrong usage or set-up: exit 2 instead of 70.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// recsae: knowing, live, what a recommender has started to think.
#[derive(Debug, Parser)]
#[command(name = "recsae", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One variant a command; each command's arguments live in its own file.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See the whole chain on this machine, with nothing installed and a drift that is known
    Demo(demo::Args),
    /// Monitor a topic
    Run(run::Args),
    /// Build, list, show, approve and compare references
    Reference(reference::Args),
    /// See alerts and act on them
    Alerts(alerts::Args),
    /// Write the audit report of a span of time: one HTML file, and JSON
    Report(report::Args),
    /// Check the record of what was counted, judged and done
    History(history::Args),
    /// Check configuration, bundle, broker, topics, state and keys: every fault as one line
    Check(check::Args),
    /// Print the documented default configuration, or its JSON Schema
    Config(config::Args),
    /// Build, inspect and verify bundles: an SAE with its names and golden rows
    Bundle(bundle::Args),
    /// Record the live topic to Parquet
    Record(record::Args),
    /// Steer recommendations by edits of latents: plan, measure, stream
    Steer(steer::Args),
    /// Train SAEs on recorded embeddings
    Train(train::Args),
    /// Measure what an SAE keeps of the vectors and of the recommendations
    Evaluate(evaluate::Args),
    /// Write recorded embeddings into Kafka, in event order
    Produce(produce::Args),
    /// List the records that were not counted, or send them to their topic again
    DeadLetters(dead_letters::Args),
    /// Propose names for latents from the tags of the items they go with
    Label(label::Args),
    /// Test labels on users and items they were not made from
    Verify(verify::Args),
    /// Accept, edit or reject labels, alone or in two; carry labels over to a new SAE
    Review(review::Args),
    /// Find concepts by words, and group them into families
    Concepts(concepts::Args),
    /// Read a checkpoint of another program
    Import(import::Args),
    /// Write an SAE for other programs
    Export(export::Args),
    /// Judge recorded windows again: which alarms, when, for which concept, under other settings
    Backtest(backtest::Args),
}

/// Runs the command and turns its outcome into the program's exit code.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Reference(args) => reference::run(&args),
        Command::Alerts(args) => alerts::run(&args),
        Command::Report(args) => report::run(&args),
        Command::History(args) => history::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Bundle(args) => bundle::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Steer(args) => steer::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Produce(args) => produce::run(&args),
        Command::DeadLetters(args) => dead_letters::run(&args),
        Command::Label(args) => label::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Concepts(args) => concepts::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Review(args) => review::run(&args),
        Command::Backtest(args) => backtest::run(&args),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        // Who read the output has seen enough (`recsae … | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("recsae: {error:#}");
            ExitCode::from(if is_setup(&error) { 2 } else { 70 })
        }
    }
}

/// Whether usage or set-up must be mended (exit 2), rather than a fault of ours or one that a new start mends (exit 70).
fn is_setup(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind as Io;
    let known = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<UsageError>()
            || cause
                .downcast_ref::<KafkaError>()
                .is_some_and(|error| error.needs_human() || matches!(error, KafkaError::Unreachable { .. }))
            || cause.is::<BundleError>()
            || cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_setup)
            || cause.downcast_ref::<MonitorError>().is_some_and(MonitorError::is_setup)
            || cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
                matches!(
                    error.kind(),
                    Io::NotFound | Io::PermissionDenied | Io::AlreadyExists | Io::IsADirectory | Io::NotADirectory | Io::ReadOnlyFilesystem
                )
            })
    };
    // A usage error may also be the context of another.
    error.downcast_ref::<UsageError>().is_some() || error.chain().any(known)
}

/// What is asked for is not there, or does not fit what is: to be mended by whoever asks, but for a fault of the store.
fn asked_wrong(error: anyhow::Error) -> anyhow::Error {
    if error.chain().any(|cause| cause.is::<StoreError>()) { error } else { UsageError(format!("{error:#}")).into() }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(broken))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn what_must_be_mended_by_hand_is_told_from_a_fault_of_ours() {
        let missing = std::fs::File::create("/no/such/folder/out.parquet").map(drop);
        assert!(is_setup(&missing.context("cannot write /no/such/folder/out.parquet").unwrap_err()));
        assert!(is_setup(&anyhow::Error::new(StoreError::Missing { path: "/no/such.db".into() }).context("reading")));
        assert!(is_setup(&anyhow::anyhow!("cause").context(UsageError("no column".into()))));
        assert!(is_setup(&KafkaError::Delivery { topic: "t".into(), message: "unknown".into() }.into()));
        assert!(!is_setup(&KafkaError::Fatal { message: "made anew".into() }.into()), "a new start mends it");
        assert!(!is_setup(&anyhow::Error::new(MonitorError::JudgeGone).context("judging")));
        assert!(!is_setup(&anyhow::Error::new(StoreError::NoLineage)));
        assert!(!is_setup(&anyhow::anyhow!("broken invariant")));
    }
}
