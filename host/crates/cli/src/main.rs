//! The program `stillpoint`.

use std::process::ExitCode;

use stillpoint_cli::args::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    ExitCode::from(stillpoint_cli::run(cli).await)
}
