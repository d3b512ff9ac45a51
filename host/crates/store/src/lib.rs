//! The catalogue's and journal's store: one file, by redb; and the description files it can be made again from.
//!
//! What is true here: a commit that returned is on disk; a reader sees whole commits only; revisions grow and are never
//! used twice, also over restarts; one process has the file open at a time.
//!
//! ```text
//! commit ──▶ queue ──▶ writing thread: all that waits becomes one redb transaction ──▶ one sync ──▶ answers
//! get, scan ─────────▶ blocking pool: a snapshot of the last commit
//! ```
//!
//! A file system may be full. Beside the file lies a reserve that takes room; when the file finds none it is given the
//! reserve's, so that the journal can be written on a full disk and things can be deleted there.
//!
//! A disk syncs a few hundred times a second at best. While one sync runs, the transactions of other VMs gather, and
//! the next sync takes them all: each still has its own guards, its own revision and its own answer.

mod backend;
mod descriptions;
mod file;
mod reading;
mod reserve;
mod writing;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use redb::Database;
use stillpoint_engine::ports::{Put, Store, StoreError, Stored, Txn};
use tokio::task::spawn_blocking;

pub use crate::{descriptions::FileDescriptions, reserve::ReserveState};
use crate::{reserve::Reserve, writing::Writer};

/// Writes in a transaction, at most.
const MOST_WRITES: usize = 128;
/// Bytes of keys and values in a transaction, at most.
const MOST_BYTES: usize = 3 * 512 * 1024;

/// A store in one file. Dropping the last handle closes the file, when what was queued is written.
#[derive(Debug)]
pub struct RedbStore {
    database: Arc<Database>,
    writer: Writer,
    reserve: Arc<Reserve>,
}

impl RedbStore {
    /// Opens the file, or makes it, readable for its owner alone. An older format is brought up to date first. No room is
    /// held in reserve.
    ///
    /// # Errors
    /// [`StoreError::Newer`] leaves the records as they are. [`StoreError::Failed`] says whether the file is in use, damaged
    /// or out of reach.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_with_reserve(path, 0).await
    }

    /// The same, with a reserve of so many bytes beside the file, if there is room for it.
    ///
    /// # Errors
    /// As for [`RedbStore::open`].
    pub async fn open_with_reserve(path: impl Into<PathBuf>, reserve: u64) -> Result<Self, StoreError> {
        let path = path.into();
        let shown = path.display().to_string();
        // redb may panic over a file that something else has written to.
        let opened = spawn_blocking(move || file::open(&path, reserve)).await;
        let opened = opened.unwrap_or_else(|_| Err(failed(format!("{shown} is damaged and cannot be opened"))))?;
        let (database, reserve) = (Arc::new(opened.0), opened.1);
        Ok(Self { writer: Writer::start(Arc::clone(&database), Arc::clone(&reserve))?, database, reserve })
    }

    /// What is true of the reserve now. One that was given up is taken again if there is room.
    pub async fn reserve(&self) -> ReserveState {
        let reserve = Arc::clone(&self.reserve);
        let looked = spawn_blocking(move || {
            reserve.take_again();
            reserve.state()
        });
        looked.await.unwrap_or_else(|_| self.reserve.state())
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        let result = spawn_blocking(move || read(&database)).await;
        result.map_err(|_| failed("a read broke off: the file is damaged"))?.map_err(broken)
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let key = key.to_owned();
        self.read(move |database| reading::get(database, &key)).await
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Stored)>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.read(move |database| reading::scan(database, &prefix, after.as_deref(), limit)).await
    }

    /// A dropped future leaves the transaction queued: it may be done or not.
    async fn commit(&self, txn: Txn) -> Result<u64, StoreError> {
        let (writes, bytes) = (txn.writes.len(), txn.writes.iter().map(size).sum());
        if writes > MOST_WRITES || bytes > MOST_BYTES {
            return Err(StoreError::TooLarge { writes, bytes });
        }
        self.writer.commit(txn).await
    }
}

fn size(put: &Put) -> usize {
    match put {
        Put::Set(key, value) | Put::Append(key, value) => key.len() + value.len(),
        Put::Delete(key) => key.len(),
    }
}

fn failed(message: impl Into<String>) -> StoreError {
    StoreError::Failed { message: message.into() }
}

fn broken(error: impl Into<redb::Error>) -> StoreError {
    failed(error.into().to_string())
}
