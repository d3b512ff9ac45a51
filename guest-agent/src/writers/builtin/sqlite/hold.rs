//! Holds databases from a thread of its own, so that nothing that happens to the agent's other work makes a hold longer
//! than it may be: the thread lets go when it is told to, when nobody is left to tell it, and at the end of the window.

use std::{
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::database::{DatabaseError, Held, Journal};

/// How often a database that somebody is at is tried again. Writers that commit without a pause leave it alone for some
/// tens of microseconds only: rarer would be never.
const AGAIN: Duration = Duration::from_micros(200);

/// Which databases, and for how long.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) databases: Vec<PathBuf>,
    /// How long they may take to be free, all together.
    pub(super) patience: Duration,
    /// The longest hold, from now on.
    pub(super) window: Duration,
}

/// Why nothing is held.
#[derive(Debug, thiserror::Error)]
pub(super) enum HoldError {
    #[error("{} is busy: somebody had it locked for {waited:?}", path.display())]
    Busy { path: PathBuf, waited: Duration },
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("it is not wanted any more")]
    Cancelled,
    #[error("there is no thread to hold them: {0}")]
    NoThread(std::io::Error),
}

/// How a hold ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Until it was told to.
    Throughout,
    /// The window was over before.
    Lapsed,
    /// Somebody wrote to this one all the same.
    Written(PathBuf),
}

/// What is known of a database that is held.
pub(super) type Described = String;

/// What is held, or why nothing is.
type Answer = Result<Vec<Described>, HoldError>;

/// A hold, or the beginning of one. Dropping it lets go.
#[derive(Debug)]
pub(super) struct Hold {
    let_go: mpsc::Sender<()>,
    ended: oneshot::Receiver<End>,
}

impl Hold {
    /// Begins. What comes first is either what is held, in the order of the orders, or why nothing is.
    pub(super) fn begin(orders: Orders) -> Result<(Self, oneshot::Receiver<Answer>), HoldError> {
        let (let_go, told) = mpsc::channel();
        let (answer, answered) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("sqlite".to_owned()).stack_size(256 * 1024);
        let work = move || match take_all(&orders, &told) {
            Ok((held, since)) => {
                if answer.send(Ok(held.iter().map(describe).collect())).is_ok() {
                    let _ = end.send(keep(held, &told, orders.window.saturating_sub(since.elapsed())));
                }
            }
            Err(error) => drop(answer.send(Err(error))),
        };
        thread.spawn(work).map_err(HoldError::NoThread)?;
        Ok((Self { let_go, ended }, answered))
    }

    /// Lets go. None: it never held.
    pub(super) async fn end(self) -> Option<End> {
        let _ = self.let_go.send(());
        self.ended.await.ok()
    }
}

/// All of them, or none.
fn take_all(orders: &Orders, told: &mpsc::Receiver<()>) -> Result<(Vec<Held>, Instant), HoldError> {
    let since = Instant::now();
    let mut all = Vec::with_capacity(orders.databases.len());
    for path in &orders.databases {
        let held = loop {
            match Held::take(path) {
                Ok(Some(held)) => break Some(held),
                Ok(None) => {}
                Err(error) if error.is_nothing_to_hold() => break None,
                Err(error) => return Err(error.into()),
            }
            if since.elapsed() >= orders.patience {
                return Err(HoldError::Busy { path: path.clone(), waited: orders.patience });
            }
            match told.try_recv() {
                Err(TryRecvError::Empty) => std::thread::sleep(AGAIN),
                Ok(()) | Err(TryRecvError::Disconnected) => return Err(HoldError::Cancelled),
            }
        };
        all.extend(held);
    }
    Ok((all, since))
}

fn keep(held: Vec<Held>, told: &mpsc::Receiver<()>, window: Duration) -> End {
    match told.recv_timeout(window) {
        Err(RecvTimeoutError::Timeout) => End::Lapsed,
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            let written = held.iter().find(|held| !held.is_as_it_was());
            written.map_or(End::Throughout, |held| End::Written(held.path.clone()))
        }
    }
}

fn describe(held: &Held) -> Described {
    let header = held.header;
    let journal = match header.journal {
        Journal::Rollback if held.left_behind => "rollback-left-behind",
        Journal::Rollback => "rollback",
        Journal::Wal => "wal",
    };
    format!(
        "journal={journal} page_size={} pages={} change_counter={} wal_bytes={} file={}",
        header.page_size,
        header.pages,
        header.change_counter,
        held.log_bytes(),
        held.path.display()
    )
}
