//! Backup sessions as clients see them.

use std::{path::PathBuf, time::Duration};

use stillpoint_common::{Backup, BackupId, BackupState, CheckpointId, DiskName, Failure, OperationState, VmId};

use tokio::time::Instant;

use super::Engine;
use crate::{
    NewBackup,
    actor::{EndBackup, Message},
};

/// How often a lease is renewed within its time, at most.
const RENEWALS: u32 = 4;

/// Keeps a session alive while its checkpoint is read.
#[derive(Clone)]
pub struct BackupLease {
    engine: Engine,
    vm: VmId,
    backup: BackupId,
    /// The time between two renewals.
    every: Duration,
    next: Instant,
}

impl BackupLease {
    /// Renews it.
    ///
    /// # Errors
    /// As of [`renew`](Self::renew).
    pub async fn renew_now(&mut self) -> Result<(), Failure> {
        self.next = Instant::now();
        self.renew().await
    }

    /// Renews it, if it was not renewed just now.
    ///
    /// # Errors
    /// `BACKUP_ENDED`, `BACKUP_NOT_FOUND`: what was read may go at any time.
    pub async fn renew(&mut self) -> Result<(), Failure> {
        if Instant::now() >= self.next {
            self.engine.renew_backup(&self.vm, self.backup).await?;
            self.next = Instant::now() + self.every;
        }
        Ok(())
    }
}

impl Engine {
    /// The lease of the session that a checkpoint belongs to, renewed; `None` if it belongs to none.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `CHECKPOINT_NOT_FOUND`, `BACKUP_ENDED`.
    pub async fn lease_of(&self, vm: &VmId, checkpoint: CheckpointId) -> Result<Option<BackupLease>, Failure> {
        self.world.catalogue.vm(vm).await?;
        let found = self.world.catalogue.checkpoint(vm, checkpoint).await?;
        let Some(backup) = found.remarks.backup else { return Ok(None) };
        Ok(Some(self.lease(vm, backup).await?))
    }

    /// Begins a backup session. Its checkpoint is made by the operation that it names; the session is open when that has
    /// ended well. The same `request_id` again answers the same session.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `VM_BUSY`, `BACKUP_OPEN`, `REFERENCE_POINT_NOT_FOUND`, `REFERENCE_POINT_LIMIT`, `REQUEST_ID_REUSED`.
    pub async fn start_backup(&self, vm: &VmId, new: NewBackup, request_id: Option<String>) -> Result<Backup, Failure> {
        self.ask(vm, |reply| Message::StartBackup { new: Box::new(new), request_id, reply }).await?
    }

    /// One session. Looking at it does not renew it.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `BACKUP_NOT_FOUND`.
    pub async fn backup(&self, vm: &VmId, id: BackupId) -> Result<Backup, Failure> {
        self.world.catalogue.vm(vm).await?;
        self.world.catalogue.backup(vm, id).await
    }

    /// A VM's sessions, oldest first: one that is open, and those that have ended last.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`.
    pub async fn backups(&self, vm: &VmId) -> Result<Vec<Backup>, Failure> {
        self.world.catalogue.vm(vm).await?;
        self.world.catalogue.backups(vm).await
    }

    /// Puts the end of a session's lease off, whatever is at work on its VM.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `BACKUP_NOT_FOUND`, `BACKUP_ENDED`.
    pub async fn renew_backup(&self, vm: &VmId, id: BackupId) -> Result<Backup, Failure> {
        self.ask(vm, |reply| Message::RenewBackup { backup: id, reply }).await?
    }

    /// Serves a disk of a session's checkpoint over NBD, until the session ends or this service does; answers the socket.
    /// Renews the lease. A disk that is served already stays as it is.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `BACKUP_NOT_FOUND`, `BACKUP_ENDED`, `VM_BUSY` while the checkpoint is being made, `DISK_NOT_FOUND`;
    /// `DISK_CHANGED`, `DISK_FILE_MISSING` if a layer is not what it should be.
    pub async fn open_disk(&self, vm: &VmId, id: BackupId, disk: &DiskName) -> Result<PathBuf, Failure> {
        self.ask(vm, |reply| Message::OpenDisk { backup: id, disk: disk.clone(), reply }).await?
    }

    /// The lease of a session, renewed.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `BACKUP_NOT_FOUND`, `BACKUP_ENDED`.
    pub async fn lease(&self, vm: &VmId, id: BackupId) -> Result<BackupLease, Failure> {
        let every = self.backup(vm, id).await?.lease / RENEWALS;
        let mut lease = BackupLease { engine: self.clone(), vm: vm.clone(), backup: id, every, next: Instant::now() };
        lease.renew().await?;
        Ok(lease)
    }

    /// Ends a session whose data is safe: a reference point is left, its checkpoint is gone, and writers are told.
    /// `replace`: the point that it builds on is given up. Done again it changes nothing.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `BACKUP_NOT_FOUND`, `BACKUP_ENDED`, `VM_BUSY`, `REFERENCE_POINT_LIMIT`.
    pub async fn complete_backup(&self, vm: &VmId, id: BackupId, replace: bool) -> Result<Backup, Failure> {
        let end = EndBackup::Complete { replace };
        self.ask(vm, |reply| Message::EndBackup { backup: id, end, reply }).await?
    }

    /// Gives a session up: its checkpoint is gone, and nothing is left of it. Done again it changes nothing.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `BACKUP_NOT_FOUND`, `BACKUP_ENDED` if it was completed, `VM_BUSY`.
    pub async fn abort_backup(&self, vm: &VmId, id: BackupId) -> Result<Backup, Failure> {
        let known = self.backup(vm, id).await?;
        if known.state == BackupState::Starting {
            // What makes its checkpoint is given up, or has just ended.
            self.cancel_operation(known.operation).await?;
            let mut watch = self.watch_operation(known.operation).await?;
            // The last value is the end, also when nobody is left to change it.
            let _ = watch.wait_for(|operation| operation.state != OperationState::Running).await;
        }
        self.ask(vm, |reply| Message::EndBackup { backup: id, end: EndBackup::Abort, reply }).await?
    }
}
