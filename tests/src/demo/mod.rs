//! The demo: five short stories about one VM, told in a user's words. Every sentence marked ✓ was checked, from inside
//! the guest over the tests' channel or from the files; the first that is not so ends the demo.
//!
//! What a user would type is typed: the commands shown are run, with the program `stillpoint`, and their output is shown.

mod error;
mod export;
mod fallback;
mod files;
mod memory;
mod merge;
mod production;
mod stage;
mod teller;

use std::{io, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::{guest_image::GuestSet, service::Service};
use error::DemoError;
use stage::Stage;
use teller::Teller;

/// How long the whole story may take. It takes about a minute.
const LIMIT: Duration = Duration::from_secs(600);

type Told = Result<(), DemoError>;

/// Plays the demo and says how it went. Everything it started has ended when this returns.
pub async fn run() -> ExitCode {
    let mut teller = Teller::new();
    match on_a_fresh_stage(&mut teller).await {
        Ok(()) => {
            teller.all_is_so();
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

async fn on_a_fresh_stage(teller: &mut Teller) -> Told {
    let set = GuestSet::new().inspect_err(|error| eprintln!("{error}"))?;
    let told = tokio::select! {
        told = tokio::time::timeout(LIMIT, play(teller, &set)) => told.unwrap_or(Err(DemoError::TooLong(LIMIT))),
        interrupted = interrupted() => Err(interrupted.map_or_else(DemoError::from, |()| DemoError::Interrupted)),
    };
    if let Err(error) = &told {
        teller.failed(error);
        teller.logs_kept(files::keep_logs(set.path()));
    }
    told
}

/// The service and its VMs end with this, however it ends.
async fn play(teller: &mut Teller, set: &GuestSet) -> Told {
    let service = Service::start(set.path()).await?;
    let mut stage = Stage::new(teller, set, service).await?;
    stage.open().await?;
    memory::play(&mut stage).await?;
    production::play(&mut stage).await?;
    fallback::play(&mut stage).await?;
    merge::play(&mut stage).await?;
    export::play(&mut stage).await?;
    stage.close().await
}

/// Somebody pressed Ctrl-C, ended us, or closed the terminal.
async fn interrupted() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
