//! The program `recsae`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let _armed = recsae::fault::arm();
    recsae::cli::run(recsae::cli::Cli::parse())
}
