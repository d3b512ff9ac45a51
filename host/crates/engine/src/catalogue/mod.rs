//! The catalogue: typed records over the store. Reads see the last commit; writes go through [`Changes`].

mod changes;
mod kept;
mod keys;
mod readable;
mod record;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stillpoint_common::{
    Backup, BackupId, Checkpoint, CheckpointId, Event, EventToken, Failure, FileIdentity, InstanceId, Layer,
    OperationId, Reason, ReferencePoint, ReferencePointId, Restore, Vm, VmId,
};

use tokio::sync::watch;

pub(crate) use self::changes::Changes;
pub use self::readable::readable;
use self::{kept::Kept, record::decode};
use crate::{
    describe::Debt,
    failing::FailureRecord,
    forest::Forest,
    job::Job,
    points::Tracked,
    ports::{Store, StoreError, Stored},
    saga::up_to,
};

/// Since when a VM stands still because a disk could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standstill {
    pub(crate) since: Timestamp,
    /// The process that stands still.
    pub(crate) instance: InstanceId,
}

/// How many records one read of the store asks for.
const PAGE: usize = 256;
/// How often to try to find out what became of a write.
const TRIES: u32 = 4;

/// Typed access to the store.
#[derive(Clone)]
pub(crate) struct Catalogue {
    store: Arc<dyn Store>,
    /// Records of VMs that were read lately.
    kept: Arc<Kept>,
    /// Revision of the newest commit that told something. Wakes those who read events.
    news: watch::Sender<u64>,
}

impl Catalogue {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, kept: Arc::default(), news: watch::Sender::new(0) }
    }

    pub(crate) async fn vm(&self, id: &VmId) -> Result<Vm, Failure> {
        self.find_vm(id).await?.ok_or_else(|| Failure::new(Reason::VmNotFound, format!("there is no VM {id}")))
    }

    /// The VM of this name, if there is one.
    pub(crate) async fn find_vm(&self, id: &VmId) -> Result<Option<Vm>, Failure> {
        self.of_vm(keys::vm(id)).await
    }

    /// All VMs, by name.
    pub(crate) async fn vms(&self) -> Result<Vec<Vm>, Failure> {
        self.all(keys::VMS).await
    }

    /// A VM's checkpoints, oldest first.
    pub(crate) async fn checkpoints(&self, vm: &VmId) -> Result<Vec<Checkpoint>, Failure> {
        self.all_of_vm(keys::checkpoints(vm)).await
    }

    pub(crate) async fn checkpoint(&self, vm: &VmId, id: CheckpointId) -> Result<Checkpoint, Failure> {
        let found: Option<Checkpoint> = self.get(&keys::checkpoint(vm, id)).await?;
        let absent = || Failure::new(Reason::CheckpointNotFound, format!("VM {vm} has no checkpoint {id}"));
        found.ok_or_else(absent)
    }

    pub(crate) async fn forest(&self, vm: &VmId) -> Result<Forest, Failure> {
        let key = keys::layers(vm);
        self.kept_or(&key, async { Ok(Forest::new(self.all::<Layer>(&key).await?)) }).await
    }

    /// Layers that were let go and whose files are still to be removed.
    pub(crate) async fn leftovers(&self, vm: &VmId) -> Result<Vec<Layer>, Failure> {
        self.all_of_vm(keys::leftovers(vm)).await
    }

    /// Checkpoints whose memory was let go and is still to be removed.
    pub(crate) async fn leftover_memories(&self, vm: &VmId) -> Result<Vec<CheckpointId>, Failure> {
        self.all_of_vm(keys::leftover_memories(vm)).await
    }

    /// A VM's reference points, oldest first.
    pub(crate) async fn points(&self, vm: &VmId) -> Result<Vec<ReferencePoint>, Failure> {
        self.all_of_vm(keys::points(vm)).await
    }

    pub(crate) async fn point(&self, vm: &VmId, id: ReferencePointId) -> Result<ReferencePoint, Failure> {
        let found: Option<ReferencePoint> = self.get(&keys::point(vm, id)).await?;
        let absent = || Failure::new(Reason::ReferencePointNotFound, format!("VM {vm} has no reference point {id}"));
        found.ok_or_else(absent)
    }

    /// A VM's backup sessions, oldest first: those that are open, and of those that have ended the newest.
    pub(crate) async fn backups(&self, vm: &VmId) -> Result<Vec<Backup>, Failure> {
        self.all_of_vm(keys::backups(vm)).await
    }

    pub(crate) async fn backup(&self, vm: &VmId, id: BackupId) -> Result<Backup, Failure> {
        let found: Option<Backup> = self.get(&keys::backup(vm, id)).await?;
        let absent = || Failure::new(Reason::BackupNotFound, format!("VM {vm} has no backup session {id}"));
        found.ok_or_else(absent)
    }

    /// The disks of all reference points of a VM.
    pub(crate) async fn tracked(&self, vm: &VmId) -> Result<Vec<Tracked>, Failure> {
        self.all_of_vm(keys::all_tracked(vm)).await
    }

    /// Descriptions of a VM that are not in line with the catalogue.
    pub(crate) async fn debts(&self, vm: &VmId) -> Result<Vec<Debt>, Failure> {
        self.all_of_vm(keys::debts(vm)).await
    }

    /// Whose disk a file is.
    pub(crate) async fn owner(&self, file: FileIdentity) -> Result<Option<VmId>, Failure> {
        self.get(&keys::file(file)).await
    }

    /// The process that was paused by us for the end of a merge, if a crash came in between.
    pub(crate) async fn hold(&self, vm: &VmId) -> Result<Option<InstanceId>, Failure> {
        self.of_vm(keys::hold(vm)).await
    }

    /// Since when a VM stands still by itself, if it was seen to.
    pub(crate) async fn standstill(&self, vm: &VmId) -> Result<Option<Standstill>, Failure> {
        self.of_vm(keys::standstill(vm)).await
    }

    /// How a VM has failed last, if it has.
    pub(crate) async fn failure(&self, vm: &VmId) -> Result<Option<FailureRecord>, Failure> {
        self.of_vm(keys::failure(vm)).await
    }

    /// The restore that the guest of a VM is to be told of, and the revision it was noted with.
    pub(crate) async fn restore(&self, vm: &VmId) -> Result<Option<(Restore, u64)>, Failure> {
        let key = keys::restore(vm);
        let found = async {
            let stored = self.store.get(&key).await.map_err(unavailable)?;
            stored.map(|stored| Ok((decode(&key, &stored.value)?, stored.revision))).transpose()
        };
        self.kept_or(&key, found).await
    }

    /// The same of many VMs, in the order of their names, that follow each other: one look beside that at the first.
    /// One whose record cannot be read does not keep the others from being told of.
    pub(crate) async fn failures(
        &self,
        vms: &[VmId],
    ) -> Result<BTreeMap<VmId, Result<FailureRecord, Failure>>, Failure> {
        let Some((first, rest)) = vms.split_first() else { return Ok(BTreeMap::new()) };
        let first_of_all = self.failure(first).await.transpose().map(|record| (first.clone(), record));
        let found = self.store.scan(keys::FAILURES, Some(&keys::failure(first)), rest.len()).await;
        let found: BTreeMap<String, Stored> = found.map_err(unavailable)?.into_iter().collect();
        let of_rest = rest.iter().filter_map(|vm| {
            let key = keys::failure(vm);
            Some((vm.clone(), decode(&key, &found.get(&key)?.value)))
        });
        Ok(first_of_all.into_iter().chain(of_rest).collect())
    }

    pub(crate) async fn job(&self, id: OperationId) -> Result<Job, Failure> {
        let found: Option<Job> = self.get(&keys::job(id)).await?;
        found.ok_or_else(|| Failure::new(Reason::OperationNotFound, format!("there is no operation {id}")))
    }

    /// Operations, oldest first.
    pub(crate) async fn jobs(&self) -> Result<Vec<Job>, Failure> {
        self.all(keys::JOBS).await
    }

    /// Operations that have not ended.
    pub(crate) async fn open_jobs(&self) -> Result<Vec<Job>, Failure> {
        let ids: Vec<OperationId> = self.all(keys::OPEN_JOBS).await?;
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids {
            jobs.push(self.job(id).await?);
        }
        Ok(jobs)
    }

    /// The operation that a request id was used for.
    pub(crate) async fn request(&self, vm: &VmId, request_id: &str) -> Result<Option<OperationId>, Failure> {
        self.get(&keys::request(vm, request_id)).await
    }

    pub(crate) async fn commit(&self, changes: Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let tells = changes.tells();
        let writing = self.kept.writing(changes.keys());
        let answer = self.store.commit(changes.into_txn()).await;
        if matches!(answer, Ok(_) | Err(StoreError::Conflict { .. })) {
            writing.settled();
        }
        let revision = answer?;
        if tells {
            self.tell_news(revision);
        }
        Ok(())
    }

    /// Wakes those who wait for events.
    pub(crate) fn tell_news(&self, revision: u64) {
        self.news.send_if_modified(|newest| {
            let newer = revision > *newest;
            *newest = (*newest).max(revision);
            newer
        });
    }

    /// Revision of the newest commit that told something.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Events after this one, oldest first.
    pub(crate) async fn events(&self, after: EventToken, limit: usize) -> Result<Vec<(EventToken, Event)>, Failure> {
        let found = self.store.scan(keys::EVENTS, Some(&keys::event(after)), limit).await.map_err(unavailable)?;
        let read = |(key, stored): &(String, Stored)| Ok((token_of(key)?, decode(key, &stored.value)?));
        found.iter().map(read).collect()
    }

    /// Their tokens alone.
    pub(crate) async fn event_tokens(&self, after: EventToken, limit: usize) -> Result<Vec<EventToken>, Failure> {
        let found = self.store.scan(keys::EVENTS, Some(&keys::event(after)), limit).await.map_err(unavailable)?;
        found.iter().map(|(key, _)| token_of(key)).collect()
    }

    /// The newest event that was forgotten; before all if none was.
    pub(crate) async fn forgotten_events(&self) -> Result<EventToken, Failure> {
        let key: Option<String> = self.get(keys::FORGOTTEN_EVENTS).await?;
        key.map_or(Ok(EventToken::default()), |key| token_of(&key))
    }

    /// After a write that failed: when this has succeeded, that write has been done or never will be. A store does its
    /// writes in order, so that one which succeeds settles all before it.
    pub(crate) async fn settled(&self) -> Result<(), StoreError> {
        up_to(TRIES, "a write to settle the one before", || self.commit(Changes::default().fence())).await
    }

    /// A job as it is when all writes so far have been done or never will be; `None` if there is no such job.
    pub(crate) async fn settled_job(&self, id: OperationId) -> Result<Option<Job>, Failure> {
        self.settled().await.map_err(unavailable)?;
        self.get(&keys::job(id)).await
    }

    async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        let stored = self.store.get(key).await.map_err(unavailable)?;
        stored.map(|stored| decode(key, &stored.value)).transpose()
    }

    async fn all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, Failure> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.scan(prefix, after.as_deref(), PAGE).await.map_err(unavailable)?;
            for (key, stored) in &page {
                found.push(decode(key, &stored.value)?);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => after = Some(key.clone()),
                Some(_) | None => return Ok(found),
            }
        }
    }

    /// A record of a VM.
    async fn of_vm<T: Record>(&self, key: String) -> Result<Option<T>, Failure> {
        self.kept_or(&key, self.get(&key)).await
    }

    /// All records of a kind that a VM has.
    async fn all_of_vm<T: Record>(&self, prefix: String) -> Result<Vec<T>, Failure> {
        self.kept_or(&prefix, self.all(&prefix)).await
    }

    /// What is known of a VM under this key, or else what the store says.
    async fn kept_or<T: Clone + Send + Sync + 'static>(
        &self,
        key: &str,
        ask: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let asked = match self.kept.find(key) {
            Ok(known) => return Ok(known),
            Err(asked) => asked,
        };
        let value = ask.await?;
        self.kept.keep(key, asked, &value);
        Ok(value)
    }
}

/// What can be read from the store and kept.
trait Record: DeserializeOwned + Clone + Send + Sync + 'static {}

impl<T: DeserializeOwned + Clone + Send + Sync + 'static> Record for T {}

fn token_of(key: &str) -> Result<EventToken, Failure> {
    let damaged = || Failure::new(Reason::CatalogueDamaged, format!("{key} is not the key of an event"));
    keys::token(key).ok_or_else(damaged)
}

fn unavailable(error: StoreError) -> Failure {
    crate::error::StepError::from(error).into()
}
