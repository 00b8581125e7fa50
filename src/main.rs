//! The program `recsae`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let _armed = recsae::fault::arm();
    recsae::cli::run(recsae::cli::help::parse())
}
