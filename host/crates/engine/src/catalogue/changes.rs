//! Writes to the catalogue that become visible together.
//!
//! Whatever changes what the description files of a VM have to say notes in the same transaction that they are owed: see
//! [`describe`](crate::describe).

use stillpoint_common::{
    Backup, BackupId, Checkpoint, CheckpointId, Event, EventToken, FileIdentity, InstanceId, Layer, ReferencePoint,
    Restore, Vm, VmId,
};

use super::{Standstill, keys, record::encode};
use crate::{
    describe::Debt,
    failing::FailureRecord,
    job::Job,
    points::Tracked,
    ports::{Guard, Put, Txn},
};

/// So many debts of one VM in one transaction are all of them.
const MANY_DEBTS: usize = 16;

/// A set of writes. Later writes of the same record win.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    txn: Txn,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.txn.writes.is_empty()
    }

    pub(super) fn into_txn(self) -> Txn {
        self.txn
    }

    /// Which records are written. Those that are appended belong to no VM.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.txn.writes.iter().filter_map(key_of)
    }

    /// These writes after the present ones.
    pub(crate) fn and(mut self, later: Self) -> Self {
        self.txn.guards.extend(later.txn.guards);
        later.txn.writes.into_iter().for_each(|put| self.put(put));
        self
    }

    pub(crate) fn set_vm(mut self, vm: &Vm) -> Self {
        self.put(Put::Set(keys::vm(&vm.id), encode(vm)));
        self.owe(&vm.id, Debt::Own)
    }

    /// Only if there is no VM of this name.
    pub(crate) fn new_vm(mut self, vm: &Vm) -> Self {
        self.txn.guards.push(Guard::Absent(keys::vm(&vm.id)));
        self.set_vm(vm)
    }

    /// Forgets a VM, whose description is removed already.
    pub(crate) fn delete_vm(mut self, vm: &VmId) -> Self {
        self.put(Put::Delete(keys::vm(vm)));
        self.put(Put::Delete(keys::failure(vm)));
        self.put(Put::Delete(keys::restore(vm)));
        self.settle(vm, &[Debt::All, Debt::Own])
    }

    pub(crate) fn set_checkpoint(mut self, checkpoint: &Checkpoint) -> Self {
        self.put(Put::Set(keys::checkpoint(&checkpoint.vm, checkpoint.id), encode(checkpoint)));
        self.owe(&checkpoint.vm, Debt::Checkpoint(checkpoint.id))
    }

    pub(crate) fn delete_checkpoint(mut self, vm: &VmId, id: CheckpointId) -> Self {
        self.put(Put::Delete(keys::checkpoint(vm, id)));
        self.put(Put::Delete(keys::leftover_memory(vm, id)));
        self.owe(vm, Debt::Checkpoint(id))
    }

    /// Keeps a layer and notes whose disk its file is.
    pub(crate) fn set_layer(self, vm: &VmId, layer: &Layer) -> Self {
        self.keep_layer(vm, layer).owe(vm, Debt::Layer(layer.file.id))
    }

    /// The same of a layer that nothing reads through yet, only if the file is nobody's yet.
    pub(crate) fn new_layer(mut self, vm: &VmId, layer: &Layer) -> Self {
        self.txn.guards.push(Guard::Absent(keys::file(layer.identity)));
        self.keep_layer(vm, layer).owe(vm, Debt::Own)
    }

    fn keep_layer(mut self, vm: &VmId, layer: &Layer) -> Self {
        self.put(Put::Set(keys::layer(vm, layer.file.id), encode(layer)));
        self.put(Put::Set(keys::file(layer.identity), encode(vm)));
        self
    }

    pub(crate) fn delete_layer(mut self, vm: &VmId, layer: &Layer) -> Self {
        self.put(Put::Delete(keys::layer(vm, layer.file.id)));
        self.free_file(layer.identity).owe(vm, Debt::Own)
    }

    /// Lets go of a layer and notes that its file is still there, to be removed.
    pub(crate) fn retire_layer(mut self, vm: &VmId, layer: &Layer) -> Self {
        self.put(Put::Set(keys::leftover(vm, layer.file.id), encode(layer)));
        self.delete_layer(vm, layer)
    }

    /// The file of a layer that was let go is gone.
    pub(crate) fn forget_leftover(mut self, vm: &VmId, layer: &Layer) -> Self {
        self.put(Put::Delete(keys::leftover(vm, layer.file.id)));
        self
    }

    /// Notes that the memory of a checkpoint was let go and its file is still there, to be removed.
    pub(crate) fn retire_memory(mut self, vm: &VmId, id: CheckpointId) -> Self {
        self.put(Put::Set(keys::leftover_memory(vm, id), encode(&id)));
        self
    }

    /// The file of a memory that was let go is gone.
    pub(crate) fn forget_memory(mut self, vm: &VmId, id: CheckpointId) -> Self {
        self.put(Put::Delete(keys::leftover_memory(vm, id)));
        self
    }

    /// Keeps a reference point. Its disks are kept apart.
    pub(crate) fn set_point(mut self, point: &ReferencePoint) -> Self {
        self.put(Put::Set(keys::point(&point.vm, point.id), encode(point)));
        self
    }

    /// Keeps what is known of a disk of a reference point.
    pub(crate) fn set_tracked(mut self, vm: &VmId, tracked: &Tracked) -> Self {
        self.put(Put::Set(keys::tracked(vm, tracked.point, &tracked.disk), encode(tracked)));
        self
    }

    /// Keeps a backup session.
    pub(crate) fn set_backup(mut self, backup: &Backup) -> Self {
        self.put(Put::Set(keys::backup(&backup.vm, backup.id), encode(backup)));
        self
    }

    /// Forgets a backup session that has ended.
    pub(crate) fn forget_backup(mut self, vm: &VmId, id: BackupId) -> Self {
        self.put(Put::Delete(keys::backup(vm, id)));
        self
    }

    /// Forgets a reference point with its disks.
    pub(crate) fn delete_point(mut self, point: &ReferencePoint) -> Self {
        self.put(Put::Delete(keys::point(&point.vm, point.id)));
        for disk in point.disks.keys() {
            self.put(Put::Delete(keys::tracked(&point.vm, point.id, disk)));
        }
        self
    }

    fn free_file(mut self, identity: FileIdentity) -> Self {
        self.put(Put::Delete(keys::file(identity)));
        self
    }

    /// Notes that description files of the VM have to be brought in line with the catalogue. With many of them it is no
    /// use to tell them apart, and a transaction may only have so many writes.
    pub(crate) fn owe(mut self, vm: &VmId, debt: Debt) -> Self {
        let owed = keys::debts(vm);
        let count =
            self.txn.writes.iter().filter(|put| matches!(put, Put::Set(key, _) if key.starts_with(&owed))).count();
        let debt = if count < MANY_DEBTS || debt == Debt::Own { debt } else { Debt::All };
        self.put(Put::Set(keys::debt(vm, debt), encode(&debt)));
        self
    }

    /// These descriptions say what the catalogue says.
    pub(crate) fn settle(mut self, vm: &VmId, debts: &[Debt]) -> Self {
        debts.iter().for_each(|debt| self.put(Put::Delete(keys::debt(vm, *debt))));
        self
    }

    /// Keeps a job, and marks it as open or as ended.
    pub(crate) fn set_job(mut self, job: &Job) -> Self {
        let id = job.operation.id;
        self.put(Put::Set(keys::job(id), encode(job)));
        self.put(match job.is_open() {
            true => Put::Set(keys::open_job(id), encode(&id)),
            false => Put::Delete(keys::open_job(id)),
        });
        self
    }

    /// Notes which operation the job's request id stands for, only if it stands for none yet.
    pub(crate) fn new_request(mut self, job: &Job) -> Self {
        if let Some(request_id) = &job.request_id {
            let key = keys::request(&job.operation.vm, request_id);
            self.txn.guards.push(Guard::Absent(key.clone()));
            self.put(Put::Set(key, encode(&job.operation.id)));
        }
        self
    }

    /// Forgets a job that has ended, and its request id.
    pub(crate) fn forget_job(mut self, job: &Job) -> Self {
        self.put(Put::Delete(keys::job(job.operation.id)));
        if let Some(request_id) = &job.request_id {
            self.put(Put::Delete(keys::request(&job.operation.vm, request_id)));
        }
        self
    }

    /// Notes that this process is about to be paused by us, outside a plan, for a moment.
    pub(crate) fn set_hold(mut self, vm: &VmId, instance: InstanceId) -> Self {
        self.put(Put::Set(keys::hold(vm), encode(&instance)));
        self
    }

    pub(crate) fn clear_hold(mut self, vm: &VmId) -> Self {
        self.put(Put::Delete(keys::hold(vm)));
        self
    }

    /// Notes since when a VM stands still by itself.
    pub(crate) fn set_standstill(mut self, vm: &VmId, standstill: &Standstill) -> Self {
        self.put(Put::Set(keys::standstill(vm), encode(standstill)));
        self
    }

    pub(crate) fn clear_standstill(mut self, vm: &VmId) -> Self {
        self.put(Put::Delete(keys::standstill(vm)));
        self
    }

    /// Notes that the guest is to be told that it was brought back to a checkpoint.
    pub(crate) fn set_restore(mut self, vm: &VmId, restore: &Restore) -> Self {
        self.put(Put::Set(keys::restore(vm), encode(restore)));
        self
    }

    /// The guest was told of the restore that was noted with this revision; a later one stays.
    pub(crate) fn clear_restore(mut self, vm: &VmId, revision: u64) -> Self {
        self.txn.guards.push(Guard::Revision(keys::restore(vm), revision));
        self.put(Put::Delete(keys::restore(vm)));
        self
    }

    /// Keeps how a VM has failed last, and how far it is on its way back.
    pub(crate) fn set_failure(mut self, vm: &VmId, failure: &FailureRecord) -> Self {
        self.put(Put::Set(keys::failure(vm), encode(failure)));
        self
    }

    /// Tells what has happened, in the same transaction.
    pub(crate) fn event(mut self, event: &Event) -> Self {
        self.txn.writes.push(Put::Append(keys::EVENTS.to_owned(), encode(event)));
        self
    }

    /// Whether it tells something.
    pub(super) fn tells(&self) -> bool {
        self.txn.writes.iter().any(|put| matches!(put, Put::Append(..)))
    }

    /// Forgets an event, and with it every older one.
    pub(crate) fn forget_event(mut self, token: EventToken) -> Self {
        self.put(Put::Delete(keys::event(token)));
        self.put(Put::Set(keys::FORGOTTEN_EVENTS.to_owned(), encode(&keys::event(token))));
        self
    }

    /// Changes nothing that is read: a write that tells that all writes before it have been done or never will be.
    pub(super) fn fence(mut self) -> Self {
        self.put(Put::Delete(keys::FENCE.to_owned()));
        self
    }

    fn put(&mut self, put: Put) {
        let new = key_of(&put);
        self.txn.writes.retain(|old| new.is_none() || key_of(old) != new);
        self.txn.writes.push(put);
    }
}

/// The key that is written to, if it is known before.
fn key_of(put: &Put) -> Option<&str> {
    match put {
        Put::Set(key, _) | Put::Delete(key) => Some(key),
        Put::Append(..) => None,
    }
}
