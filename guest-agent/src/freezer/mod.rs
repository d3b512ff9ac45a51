//! Freezing and thawing the guest's file systems.
//!
//! [`mount_table`] and [`devices`] read what is there, [`select`] decides what is frozen in which order, [`kernel`]
//! does it, and the worker does it in order on a thread of its own: a freeze that waits in the kernel blocks nothing
//! else, and no cancelled call can cut it in half.

pub mod devices;
mod hold;
pub mod kernel;
pub mod mount_table;
pub mod select;
mod worker;

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use stillpoint_common::{FileSystemOutcome, Thawed};
use tokio::sync::oneshot;

use crate::guardian::Guardian;
use select::{Plan, Scope};

/// What a freeze is allowed to take.
#[derive(Debug, Clone)]
pub struct FreezeOrder {
    /// Which file systems.
    pub scope: Scope,
    /// The longest hold, from before the first file system is frozen.
    pub lease: Duration,
    /// How long freezing itself may take.
    pub budget: Duration,
    /// Set by whoever no longer wants it: then the freeze stops at the next file system.
    pub cancel: Arc<AtomicBool>,
}

impl FreezeOrder {
    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }
}

/// Everything that was selected is frozen.
#[derive(Debug)]
pub struct FrozenReport {
    /// What became of each file system.
    pub file_systems: Vec<FileSystemOutcome>,
    /// Writing out before the hold began.
    pub sync: Duration,
    /// From the beginning of the hold until all was frozen.
    pub freeze: Duration,
    /// Speaks if the guest is let go before it is thawed.
    pub lapse: oneshot::Receiver<ThawReport>,
}

/// Nothing is frozen.
#[derive(Debug)]
pub struct Refusal {
    /// What stood in the way.
    pub reason: RefusalReason,
    /// The same for a person.
    pub message: String,
    /// What became of each file system.
    pub file_systems: Vec<FileSystemOutcome>,
}

/// What stood in the way of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// A file system could not be frozen.
    FileSystem,
    /// There is none to freeze.
    NothingToFreeze,
    /// Budget or lease ended first.
    TooSlow,
    /// A writer could not be held. Never said by the freezer itself.
    Writer,
    /// It was no longer wanted.
    Cancelled,
    /// The guardian or the agent failed.
    Agent,
}

/// How a hold ended.
#[derive(Debug, Clone)]
pub struct ThawReport {
    /// None: nothing was held.
    pub outcome: Option<Thawed>,
    /// What became of each file system.
    pub file_systems: Vec<FileSystemOutcome>,
    /// How long the guest was held.
    pub held: Duration,
    /// Why it lapsed; else empty.
    pub message: String,
}

impl ThawReport {
    /// There was no hold.
    #[must_use]
    pub const fn nothing_held() -> Self {
        Self { outcome: None, file_systems: Vec::new(), held: Duration::ZERO, message: String::new() }
    }
}

/// The freezer's thread is gone: a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the freezer has failed")]
pub struct FreezerGone;

enum Command {
    WriteOut(Scope, oneshot::Sender<Plan>),
    Freeze(FreezeOrder, oneshot::Sender<Result<FrozenReport, Refusal>>),
    Thaw(oneshot::Sender<ThawReport>),
}

/// Speaks to the worker. It obeys in order; dropping the answer's receiver takes nothing back.
#[derive(Debug, Clone)]
pub struct Freezer {
    worker: mpsc::Sender<Command>,
}

impl Freezer {
    /// Starts the worker's thread. When all handles are gone, it lets go of what it holds and ends.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(guardian: Guardian) -> io::Result<Self> {
        let (worker, commands) = mpsc::channel();
        let thread = std::thread::Builder::new().name("freezer".to_owned()).stack_size(256 * 1024);
        thread.spawn(move || worker::Worker::new(guardian).run(&commands))?;
        Ok(Self { worker })
    }

    /// Writes out what the file systems have in memory, so that a freeze right afterwards has little to do.
    ///
    /// # Errors
    /// If the worker is gone.
    pub async fn write_out(&self, scope: Scope) -> Result<Plan, FreezerGone> {
        self.ask(|answer| Command::WriteOut(scope, answer)).await
    }

    /// Freezes everything selected, or nothing.
    ///
    /// # Errors
    /// If the worker is gone; the inner error says why nothing is frozen.
    pub async fn freeze(&self, order: FreezeOrder) -> Result<Result<FrozenReport, Refusal>, FreezerGone> {
        self.ask(|answer| Command::Freeze(order, answer)).await
    }

    /// Thaws what is frozen. Asked again, it answers the same again.
    ///
    /// # Errors
    /// If the worker is gone.
    pub async fn thaw(&self) -> Result<ThawReport, FreezerGone> {
        self.ask(Command::Thaw).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, FreezerGone> {
        let (answer, answered) = oneshot::channel();
        self.worker.send(command(answer)).map_err(|_| FreezerGone)?;
        answered.await.map_err(|_| FreezerGone)
    }
}

/// Looks at the guest's mounts and plans a freeze of them.
#[must_use]
pub fn plan(scope: &Scope) -> Plan {
    // Without a mount table there is nothing to freeze, and that is what the plan then says.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mount_table::parse(&String::from_utf8_lossy(&table));
    select::plan(&mounts, scope, |device| devices::carriers(device, &mounts))
}

/// Thaws whatever a dead predecessor may have left frozen. Answers the mount points that were.
#[must_use]
pub fn thaw_all(scope: &Scope) -> Vec<String> {
    let plan = plan(scope);
    let frozen = plan.targets.iter().rev().filter(|target| {
        let fd = kernel::open(target);
        fd.is_ok_and(|fd| kernel::thaw(fd) == Ok(true))
    });
    frozen.map(|target| target.mount_point().display().to_string()).collect()
}
