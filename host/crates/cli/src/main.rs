//! The program `stillpoint`.

use std::process::ExitCode;

use clap::Parser as _;
use stillpoint_cli::args::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    ExitCode::from(stillpoint_cli::run(Cli::parse()).await)
}
