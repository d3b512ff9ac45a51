//! Loads memory and devices into an instance that awaits them.

use std::{os::fd::OwnedFd, time::Duration};

use stillpoint_engine::ports::{Capture, HypervisorError, RunState};
use tokio::time::{Instant, sleep};

use super::QUICK;
use crate::{
    attached::{Attached, last_words, refused},
    observe::{capture, run_state},
    qmp::commands::{GetFd, MigrateIncoming, QueryMigrate, QueryStatus},
};

const SOURCE: &str = "memory";

/// Loads an instance that awaits its memory. A stream that does not fit ends QEMU: its last words are the error.
pub(crate) async fn load(at: &Attached, source: OwnedFd, within: Duration) -> Result<(), HypervisorError> {
    let deadline = Instant::now() + within;
    match loading(at, source, deadline, within).await {
        Err(HypervisorError::Gone) => {
            let message = last_words(&at.log).unwrap_or_else(|| "QEMU ended without a word".to_owned());
            Err(refused("migrate-incoming", message))
        }
        other => other,
    }
}

async fn loading(at: &Attached, source: OwnedFd, deadline: Instant, within: Duration) -> Result<(), HypervisorError> {
    at.run_with(&GetFd { fdname: SOURCE }, Some(source), at.deadlines.command).await?;
    at.run_with(&MigrateIncoming { uri: &format!("fd:{SOURCE}") }, None, within).await?;
    while run_state(&at.run(&QueryStatus {}).await?.status) == RunState::AwaitingMemory {
        let migration = at.run(&QueryMigrate {}).await?;
        if let Capture::Failed(message) = capture(migration) {
            let message = last_words(&at.log).map_or_else(|| message.clone(), |words| format!("{message}: {words}"));
            return Err(refused("migrate-incoming", message));
        }
        if Instant::now() >= deadline {
            return Err(HypervisorError::Unanswered { command: "migrate-incoming".to_owned(), waited: within });
        }
        sleep(QUICK).await;
    }
    Ok(())
}
