//! The program `recsae`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    recsae::cli::run(recsae::cli::Cli::parse())
}
