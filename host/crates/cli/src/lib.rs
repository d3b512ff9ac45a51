//! The remote client of Stillpoint: the library under the program `stillpoint`.
//!
//! [`client`] talks to the service and answers [`view`]s; `args` is what a user types, `command` what it does, `output`
//! how it looks. Programs of our own use [`client::Client`] as it is.
//!
//! ```no_run
//! # async fn example() -> Result<(), stillpoint_cli::client::ClientError> {
//! use stillpoint_cli::client::Client;
//!
//! let client = Client::connect("/run/stillpoint/api.sock").await?;
//! let vm = "web".parse().expect("a VM's name");
//! let started = client.create_checkpoint(&vm, "before the upgrade", None).await?;
//! let done = client.wait(&started.id).await?;
//! println!("{:?}", done.checkpoint_response().map(|checkpoint| checkpoint.consistency));
//! # Ok(())
//! # }
//! ```

pub mod args;
pub mod client;
mod command;
mod error;
mod output;
mod repository;
pub mod view;

pub use error::CliError;

use args::Cli;
use output::Output;

/// Does what was typed. The answer is the exit code; everything for the user has been printed.
#[must_use]
pub async fn run(cli: Cli) -> u8 {
    let output = Output { json: cli.json };
    let ended = match command::run(&cli).await {
        Ok(answer) => output.answer(&answer).map(|()| answer.code()).map_err(CliError::from),
        Err(error) => Err(error),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}
