//! Saves memory and devices of one instant while the VM runs on.
//!
//! ```text
//! prepare: background-snapshot on, no bandwidth limit, descriptor given      (VM runs)
//! start:   migrate fd: ─▶ first page sent = every page is write-protected    (VM paused)
//! finish:  pages, then the devices of that instant, go to the descriptor     (VM runs)
//! ```
//! QEMU sends the first page only after it protects all of them, so that is what `start` waits for: whoever takes in the
//! stream tells of it, and QEMU is asked besides. The count of bytes is no such sign: the stream's head is counted before.
//!
//! QEMU before 9.0 needs care ([`Attached::needs_care`]):
//! - A capture that is cancelled or fails leaves pages protected with nobody to answer for them, and the guest hangs on
//!   its next write to one. So it is never cancelled but waited for, and it writes into a pipe that never fails.
//! - It lets the VM run by itself as soon as memory is protected. A VM that stood still before is stopped again at once;
//!   it may have run for some milliseconds, after the instant that is saved.

mod by_page;
mod cancel;
mod load;
mod pause;
mod save;
mod sink;

use std::{
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use stillpoint_common::Progress;
use stillpoint_engine::ports::{Capture, FirstPage, HypervisorError, MemorySink, ProgressSink, RunState};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep, timeout},
};

pub(crate) use by_page::{is_in, load_by_page};
pub(crate) use cancel::cancel;
pub(crate) use load::load;
use pause::stop_again;
pub(crate) use pause::{pause, resume};
pub(crate) use save::save;
use sink::Sink;

use crate::{
    attached::{Attached, refused},
    observe::{capture, run_state},
    qmp::{
        Event,
        commands::{
            GetFd, Migrate, MigrateCancel, MigrateSetCapabilities, MigrateSetParameters, QueryMigrate,
            QueryMigrateParameters, QueryStatus,
        },
    },
};

/// Between two questions while the VM is paused. Asking without pause starves QEMU's main lock and makes it slower.
const QUICK: Duration = Duration::from_millis(2);
/// So often, once memory is about to be protected, without a pause between.
const QUESTIONS_AT_ONCE: u32 = 8;
/// Between two questions while the VM runs.
const EASY: Duration = Duration::from_millis(25);
/// The name QEMU knows the descriptor by.
const SINK: &str = "capture";

/// What was set to load a memory by page, and does not go with saving one.
const OF_LOADING: [&str; 2] = ["postcopy-ram", "return-path"];

/// What we remember of the capture that was last prepared. Lost with the service: its capture is given up then.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    begun: bool,
    /// The VM did not run when the capture was prepared.
    stood_still: bool,
    /// The state that QEMU was in right after it was last told to stop.
    stopped_as: Option<String>,
    sink: Option<Sink>,
    first_page: FirstPage,
}

impl Memo {
    /// The lock covers reading or writing the fields.
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets everything up that does not need the VM to stand still.
pub(crate) async fn prepare(at: &Attached, sink: MemorySink) -> Result<(), HypervisorError> {
    cancel(at).await?;
    let stood_still = run_state(&at.run(&QueryStatus {}).await?.status) != RunState::Running;
    let set = |capability: &str, state| json!({"capability": capability, "state": state});
    let mut capabilities = vec![set("background-snapshot", true), set("events", true)];
    capabilities.extend(OF_LOADING.map(|capability| set(capability, false)));
    match at.run(&MigrateSetCapabilities { capabilities }).await {
        Err(HypervisorError::Refused { message, .. }) => return Err(impossible(&message)),
        other => other?,
    };
    at.run(&MigrateSetParameters { max_bandwidth: 0 }).await?;
    let limit = at.run(&QueryMigrateParameters {}).await?.max_bandwidth;
    if limit != 0 {
        return Err(HypervisorError::WrongState(format!("QEMU keeps a limit of {limit} bytes a second for captures")));
    }
    let MemorySink { stream: sink, first_page } = sink;
    let (sink, given) = if at.needs_care() { Sink::piped(sink, &at.log) } else { Ok((Sink::Direct, sink)) }
        .map_err(|source| HypervisorError::Io { what: "opening a way for the memory".to_owned(), source })?;
    *at.capture.lock() = Remembered { begun: false, stood_still, stopped_as: None, sink: Some(sink), first_page };
    at.run_with(&GetFd { fdname: SINK }, Some(given), at.deadlines.command).await?;
    Ok(())
}

/// Begins, and returns when every page is write-protected.
pub(crate) async fn start(at: &Attached) -> Result<(), HypervisorError> {
    if at.capture.lock().begun {
        return Ok(());
    }
    // In other states, that of a VM that never ran for one, QEMU aborts.
    let remembered = at.capture.lock().stopped_as.take();
    let status = match remembered {
        Some(status) => status,
        None => at.run(&QueryStatus {}).await?.status,
    };
    if status != "paused" {
        return Err(HypervisorError::WrongState(format!("memory is saved of a paused VM, and this one is {status:?}")));
    }
    let deadline = Instant::now() + at.deadlines.arm;
    let events = at.client.events();
    begin(at, deadline).await?;
    at.capture.lock().begun = true;
    let first_page = at.capture.lock().first_page.clone();
    let armed = tokio::select! {
        () = first_page.has_come() => Ok(()),
        armed = armed(at, events, deadline) => armed,
    };
    if armed.is_err() {
        cancel(at).await?;
    } else if at.needs_care() && at.capture.lock().stood_still {
        stop_again(at, deadline).await?;
    }
    armed
}

/// What an earlier capture left was cleared away before ([`cancel`]). Should QEMU be at it all the same, the refusal
/// leaves it waiting for a capture that never begins: that one is given up, and asked for again.
async fn begin(at: &Attached, deadline: Instant) -> Result<(), HypervisorError> {
    loop {
        match at.drain(&Migrate { uri: &format!("fd:{SINK}") }).await {
            Ok(_) => return Ok(()),
            Err(HypervisorError::Refused { message, .. })
                if message.contains("yank instance") && Instant::now() < deadline =>
            {
                at.run(&MigrateCancel {}).await?;
            }
            Err(HypervisorError::Refused { message, .. }) if tells_of_background(&message) => {
                return Err(impossible(&message));
            }
            Err(error) => return Err(error),
        }
        sleep(QUICK).await;
    }
}

/// Once the stream's head is out, QEMU protects memory under its main lock, and an answer waits for the end of it: the
/// first page is then a moment away, and to ask again at once costs the VM less than to sleep.
async fn armed(
    at: &Attached,
    mut events: Option<broadcast::Receiver<Event>>,
    deadline: Instant,
) -> Result<(), HypervisorError> {
    let mut at_once = QUESTIONS_AT_ONCE;
    loop {
        let migration = at.run(&QueryMigrate {}).await?;
        let pages = migration.ram.normal + migration.ram.duplicate;
        let begun = migration.ram.transferred > 0;
        match capture(migration) {
            Capture::Completed => return Ok(()),
            Capture::Active if pages > 0 => return Ok(()),
            Capture::Active if Instant::now() >= deadline => {
                return Err(HypervisorError::Unanswered { command: "migrate".to_owned(), waited: at.deadlines.arm });
            }
            Capture::Active => {}
            Capture::Failed(message) => return Err(failed(message)),
            Capture::None => return Err(HypervisorError::WrongState("the capture was cancelled".to_owned())),
        }
        match at_once {
            1.. if begun => at_once -= 1,
            _ => moved_on(&mut events).await,
        }
    }
}

/// Returns when QEMU tells of the capture, or after a short while.
async fn moved_on(events: &mut Option<broadcast::Receiver<Event>>) {
    let told = async {
        match events {
            Some(events) => while events.recv().await.is_ok_and(|event| event.name != "MIGRATION") {},
            None => pending().await,
        }
    };
    let _ = timeout(QUICK, told).await;
}

/// Waits for the end. A dropped future leaves the capture at work.
pub(crate) async fn finish(at: &Attached, progress: &ProgressSink) -> Result<(), HypervisorError> {
    loop {
        let migration = at.run(&QueryMigrate {}).await?;
        let ram = migration.ram;
        if ram.total > 0 {
            progress(Progress { done: ram.total.saturating_sub(ram.remaining), total: ram.total });
        }
        match capture(migration) {
            Capture::Completed => break,
            Capture::Active => sleep(EASY).await,
            Capture::Failed(message) => return Err(failed(message)),
            Capture::None => return Err(HypervisorError::WrongState("no capture is at work".to_owned())),
        }
    }
    let sink = at.capture.lock().sink.take();
    match sink {
        Some(sink) => sink.finished(at.deadlines.drain, &at.log).await,
        None => Ok(()),
    }
}

fn tells_of_background(message: &str) -> bool {
    message.to_ascii_lowercase().contains("background-snapshot")
}

fn impossible(message: &str) -> HypervisorError {
    HypervisorError::WrongState(format!(
        "this VM's memory cannot be saved while it runs: QEMU says {message:?} \
         (it needs userfaultfd with write protection: root, or vm.unprivileged_userfaultfd=1)"
    ))
}

fn failed(message: String) -> HypervisorError {
    if tells_of_background(&message) { impossible(&message) } else { refused("migrate", message) }
}
