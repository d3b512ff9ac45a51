//! The writing thread: all that waits becomes one transaction of the file.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use redb::{Database, ReadableTable, Table};
use stillpoint_engine::ports::{Guard, Put, StoreError, Txn};
use tokio::sync::{mpsc, oneshot};

use crate::{
    failed,
    file::{COUNTERS, RECORDS, REVISION},
    reserve::Reserve,
};

/// Transactions that may wait; who comes later waits to be queued.
const QUEUE: usize = 256;
/// Transactions that share one sync, at most: an answer is not kept waiting for ever under load.
const TOGETHER: usize = 64;

type Answer = Result<u64, StoreError>;
type Records<'txn> = Table<'txn, &'static str, (u64, &'static [u8])>;

struct Waiting {
    txn: Txn,
    answer: oneshot::Sender<Answer>,
}

/// The thread and the way to it. Dropping it waits until what is queued is written.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(database: Arc<Database>, reserve: Arc<Reserve>) -> Result<Self, StoreError> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || write(&database, &reserve, waiting));
        let thread = thread.map_err(|error| failed(format!("no thread to write with: {error}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(crate) async fn commit(&self, txn: Txn) -> Answer {
        let over = || failed("the writing thread has ended: the file is damaged");
        let queue = self.queue.as_ref().ok_or_else(over)?;
        let (answer, answered) = oneshot::channel();
        queue.send(Waiting { txn, answer }).await.map_err(|_| over())?;
        answered.await.map_err(|_| over())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has answered nobody; they know.
            let _ = thread.join();
        }
    }
}

fn write(database: &Database, reserve: &Reserve, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(TOGETHER);
    while waiting.blocking_recv_many(&mut batch, TOGETHER) > 0 {
        let (txns, answers): (Vec<_>, Vec<_>) = batch.drain(..).map(|waiting| (waiting.txn, waiting.answer)).unzip();
        let results = commit_all(database, txns);
        reserve.take_again();
        for (at, answer) in answers.into_iter().enumerate() {
            let result = match &results {
                Ok(results) => results.get(at).cloned().unwrap_or_else(|| Err("not done".to_owned().into())),
                Err(error) => Err(Refusal::Failed(error.to_string())),
            };
            // Whoever asked may have gone.
            let _ = answer.send(result.map_err(StoreError::from));
        }
    }
}

/// Why one transaction of a batch was not done.
#[derive(Debug, Clone)]
enum Refusal {
    Conflict(String),
    Failed(String),
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Conflict(key) => Self::Conflict { key },
            Refusal::Failed(message) => Self::Failed { message },
        }
    }
}

/// Does the transactions in order, each if its guards hold over what those before it wrote; durable on return. An error
/// means that none of them was done.
fn commit_all(database: &Database, txns: Vec<Txn>) -> Result<Vec<Result<u64, Refusal>>, redb::Error> {
    let writing = database.begin_write()?;
    let mut results = Vec::with_capacity(txns.len());
    {
        let mut records = writing.open_table(RECORDS)?;
        let mut counters = writing.open_table(COUNTERS)?;
        let before = counters.get(REVISION)?.map_or(0, |revision| revision.value());
        let mut revision = before;
        for txn in txns {
            results.push(match broken_guard(&records, &txn.guards)? {
                Some(key) => Err(Refusal::Conflict(key)),
                None => {
                    revision += 1;
                    put_all(&mut records, revision, txn.writes)?;
                    Ok(revision)
                }
            });
        }
        if revision == before {
            drop((records, counters));
            writing.abort()?;
            return Ok(results);
        }
        counters.insert(REVISION, revision)?;
    }
    writing.commit()?;
    Ok(results)
}

fn broken_guard(records: &Records<'_>, guards: &[Guard]) -> Result<Option<String>, redb::Error> {
    for guard in guards {
        let (Guard::Absent(key) | Guard::Revision(key, _)) = guard;
        let found = records.get(key.as_str())?.map(|found| found.value().0);
        let holds = match guard {
            Guard::Absent(_) => found.is_none(),
            Guard::Revision(_, revision) => found == Some(*revision),
        };
        if !holds {
            return Ok(Some(key.clone()));
        }
    }
    Ok(None)
}

fn put_all(records: &mut Records<'_>, revision: u64, writes: Vec<Put>) -> Result<(), redb::Error> {
    for (place, put) in writes.into_iter().enumerate() {
        match put {
            Put::Append(prefix, value) => {
                let key = Put::appended(&prefix, revision, place);
                drop(records.insert(key.as_str(), (revision, value.as_slice()))?);
            }
            Put::Set(key, value) => drop(records.insert(key.as_str(), (revision, value.as_slice()))?),
            Put::Delete(key) => drop(records.remove(key.as_str())?),
        }
    }
    Ok(())
}
