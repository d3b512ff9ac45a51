//! Reading disks of backups, for clients that do not speak NBD.

use std::{ops::Range, time::Duration};

use stillpoint_common::{Failure, Reason};
use stillpoint_engine::{BackupLease, Engine};
use stillpoint_proto::{convert::request::ReadDisk, v1 as pb};
use stillpoint_transfer::{NbdDisk, NbdError};
use tokio::sync::mpsc;
use tonic::Status;

use super::refuse;

/// Answers that wait for the client to take them, at most: no more is read until it does.
const UNREAD: usize = 2;
/// Bytes in one answer, at most.
const PART: u64 = 1 << 20;
/// How long one read may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) type Answer = Result<pb::ReadDiskResponse, Status>;

/// Begins to read.
pub(super) async fn begin(engine: &Engine, asked: ReadDisk) -> Result<mpsc::Receiver<Answer>, Failure> {
    let ReadDisk { vm, backup, disk, bytes } = asked;
    let socket = engine.open_disk(&vm, backup, &disk).await?;
    let lease = engine.lease(&vm, backup).await?;
    let disk = NbdDisk::connect(&socket, LIMIT).await.map_err(|error| unread(&error))?;
    let size = disk.size();
    if bytes.start > size {
        return Err(Failure::field("offset_bytes", format!("must be at most the size of the disk, which is {size}")));
    }
    let (answer, answers) = mpsc::channel(UNREAD);
    let reader = Reader { disk, lease, answer };
    tokio::spawn(reader.run(bytes.start..bytes.end.min(size)));
    Ok(answers)
}

struct Reader {
    disk: NbdDisk,
    lease: BackupLease,
    answer: mpsc::Sender<Answer>,
}

/// The client takes no more.
struct HungUp;

impl Reader {
    async fn run(mut self, bytes: Range<u64>) {
        let read = match self.tell(bytes.start, Vec::new(), 0).await {
            Ok(()) => self.read(bytes).await,
            Err(HungUp) => return,
        };
        if let Err(failure) = read {
            // Who has hung up does not mind.
            let _ = self.answer.send(Err(refuse(failure))).await;
        }
        self.disk.close().await;
    }

    /// Reads until all is told, or the client has hung up.
    async fn read(&mut self, bytes: Range<u64>) -> Result<(), Failure> {
        let mut at = bytes.start;
        while at < bytes.end {
            self.lease.renew().await?;
            let alike = self.disk.alike(at..bytes.end).await;
            let (length, data) = match self.or_ended(alike).await? {
                (length, true) => (length, Vec::new()),
                (length, false) => {
                    let part = length.min(PART);
                    let data = self.disk.read(at, u32::try_from(part).unwrap_or(u32::MAX)).await;
                    (part, self.or_ended(data).await?)
                }
            };
            let zeros = if data.is_empty() { length } else { 0 };
            if let Err(HungUp) = self.tell(at, data, zeros).await {
                return Ok(());
            }
            at += length;
        }
        Ok(())
    }

    /// What was read; or why not: a session that has ended closes its disks.
    async fn or_ended<T>(&mut self, read: Result<T, NbdError>) -> Result<T, Failure> {
        match read {
            Ok(read) => Ok(read),
            Err(error) => Err(self.lease.renew_now().await.err().unwrap_or_else(|| unread(&error))),
        }
    }

    async fn tell(&self, offset_bytes: u64, data: Vec<u8>, zero_bytes: u64) -> Result<(), HungUp> {
        let disk_size_bytes = self.disk.size();
        let told = pb::ReadDiskResponse { disk_size_bytes, offset_bytes, data, zero_bytes };
        self.answer.send(Ok(told)).await.map_err(|_| HungUp)
    }
}

fn unread(error: &NbdError) -> Failure {
    Failure::new(Reason::HypervisorFailed, error.to_string())
}
