//! Saves memory and devices of one instant while the VM runs on, and loads them again.
//!
//! ```text
//! prepare: background-snapshot on, no bandwidth limit, descriptor given      (VM runs)
//! start:   migrate fd: ─▶ first page sent = every page is write-protected    (VM paused)
//! finish:  pages, then the devices of that instant, go to the descriptor     (VM runs)
//! ```
//! QEMU sends the first page only after it protects all of them, so that is what `start` waits for. The count of bytes
//! is no such sign: the stream's head is counted before.

use std::{os::fd::OwnedFd, sync::atomic::Ordering, time::Duration};

use serde_json::json;
use stillpoint_common::Progress;
use stillpoint_engine::ports::{Capture, HypervisorError, ProgressSink, RunState};
use tokio::time::{Instant, sleep};

use crate::{
    attached::{Attached, last_words, refused, tells_of_no_space},
    observe::{capture, run_state},
    qmp::commands::{
        CloseFd, GetFd, Migrate, MigrateCancel, MigrateIncoming, MigrateSetCapabilities, MigrateSetParameters,
        Migration, QueryMigrate, QueryMigrateParameters, QueryStatus,
    },
};

/// Between two questions while the VM is paused. Asking without pause starves QEMU's main lock and makes it slower.
const QUICK: Duration = Duration::from_millis(2);
/// Between two questions while the VM runs.
const EASY: Duration = Duration::from_millis(25);
const SINK: &str = "capture";
const SOURCE: &str = "memory";

/// Sets everything up that does not need the VM to stand still.
pub(crate) async fn prepare(at: &Attached, sink: OwnedFd) -> Result<(), HypervisorError> {
    cancel(at).await?;
    at.capture_begun.store(false, Ordering::Relaxed);
    let capabilities = vec![json!({"capability": "background-snapshot", "state": true})];
    match at.run(&MigrateSetCapabilities { capabilities }).await {
        Err(HypervisorError::Refused { message, .. }) => return Err(impossible(&message)),
        other => other?,
    };
    at.run(&MigrateSetParameters { max_bandwidth: 0 }).await?;
    let limit = at.run(&QueryMigrateParameters {}).await?.max_bandwidth;
    if limit != 0 {
        return Err(HypervisorError::WrongState(format!("QEMU keeps a limit of {limit} bytes a second for captures")));
    }
    at.run_with(&GetFd { fdname: SINK }, Some(sink), at.deadlines.command).await?;
    Ok(())
}

/// Begins, and returns when every page is write-protected. On failure nothing runs.
pub(crate) async fn start(at: &Attached) -> Result<(), HypervisorError> {
    if at.capture_begun.load(Ordering::Relaxed) {
        return Ok(());
    }
    let deadline = Instant::now() + at.deadlines.arm;
    begin(at, deadline).await?;
    match armed(at, deadline).await {
        Ok(()) => {
            at.capture_begun.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => {
            cancel(at).await?;
            Err(error)
        }
    }
}

/// Right after an earlier capture has ended, QEMU may still be clearing it away.
async fn begin(at: &Attached, deadline: Instant) -> Result<(), HypervisorError> {
    loop {
        match at.drain(&Migrate { uri: &format!("fd:{SINK}") }).await {
            Ok(_) => return Ok(()),
            Err(HypervisorError::Refused { message, .. })
                if message.contains("yank instance") && Instant::now() < deadline => {}
            Err(HypervisorError::Refused { message, .. }) if message.contains("ackground-snapshot") => {
                return Err(impossible(&message));
            }
            Err(error) => return Err(error),
        }
        sleep(QUICK).await;
    }
}

async fn armed(at: &Attached, deadline: Instant) -> Result<(), HypervisorError> {
    loop {
        let migration = at.run(&QueryMigrate {}).await?;
        let pages = migration.ram.normal + migration.ram.duplicate;
        match capture(migration) {
            Capture::Completed => return Ok(()),
            Capture::Active if pages > 0 => return Ok(()),
            Capture::Active if Instant::now() >= deadline => {
                return Err(HypervisorError::Unanswered { command: "migrate".to_owned(), waited: at.deadlines.arm });
            }
            Capture::Active => {}
            Capture::Failed(message) => return Err(failed(at, message)),
            Capture::None => return Err(HypervisorError::WrongState("the capture was cancelled".to_owned())),
        }
        sleep(QUICK).await;
    }
}

/// Waits for the end. A dropped future leaves the capture at work.
pub(crate) async fn finish(at: &Attached, progress: &ProgressSink) -> Result<(), HypervisorError> {
    loop {
        let migration = at.run(&QueryMigrate {}).await?;
        let Migration { ram, .. } = migration;
        if ram.total > 0 {
            progress(Progress { done: ram.total.saturating_sub(ram.remaining), total: ram.total });
        }
        match capture(migration) {
            Capture::Completed => return Ok(()),
            Capture::Active => sleep(EASY).await,
            Capture::Failed(message) => return Err(failed(at, message)),
            Capture::None => return Err(HypervisorError::WrongState("no capture is at work".to_owned())),
        }
    }
}

/// Gives up a capture, and returns when QEMU has cleared it away. None at work is fine.
pub(crate) async fn cancel(at: &Attached) -> Result<(), HypervisorError> {
    let deadline = Instant::now() + at.deadlines.drain;
    let mut asked = false;
    while capture(at.run(&QueryMigrate {}).await?) == Capture::Active {
        if !asked {
            at.run(&MigrateCancel {}).await?;
            asked = true;
        }
        if Instant::now() >= deadline {
            let waited = at.deadlines.drain;
            return Err(HypervisorError::Unanswered { command: "migrate_cancel".to_owned(), waited });
        }
        sleep(QUICK).await;
    }
    // A descriptor that was given and not used would keep a removed file on the disk. Mostly there is none.
    match at.run(&CloseFd { fdname: SINK }).await {
        Ok(_) | Err(HypervisorError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

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

fn impossible(message: &str) -> HypervisorError {
    HypervisorError::WrongState(format!(
        "this VM's memory cannot be saved while it runs: QEMU says {message:?} \
         (it needs userfaultfd with write protection: root, or vm.unprivileged_userfaultfd=1)"
    ))
}

/// QEMU's error says little; what it printed may say that the disk is full.
fn failed(at: &Attached, message: String) -> HypervisorError {
    match last_words(&at.log) {
        Some(words) if tells_of_no_space(&words) && !tells_of_no_space(&message) => {
            HypervisorError::NoSpace { message: format!("{message}: {words}") }
        }
        Some(_) | None => refused("migrate", message),
    }
}
