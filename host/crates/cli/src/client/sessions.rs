//! Backup sessions.

use std::time::Duration;

use stillpoint_common::{BackupId, BackupType, Consistency, VmId};
use stillpoint_proto::{
    convert::{names, time},
    v1::{self as pb, backups_client::BackupsClient},
    writer::v1 as writer,
};
use tonic::{Response, Status};

use super::{Client, ClientError, request_id, resolve::resolve_backup};
use crate::view::Backup;

/// A backup session to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBackup {
    /// What the guest is asked for.
    pub consistency: Consistency,
    /// The least that is taken, if not what the service takes.
    pub least: Option<Consistency>,
    /// What it means for the history of the guest's applications.
    pub backup_type: BackupType,
    /// How long it lasts without a call of its client.
    pub lease: Duration,
    /// The resource name of the reference point that it builds on; empty: none.
    pub from_point: String,
}

impl Client {
    /// Begins a backup session. It is open when its operation has ended well.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn start_backup(&self, vm: &VmId, new: NewBackup) -> Result<Backup, ClientError> {
        let least = new.least.map_or(pb::Consistency::Unspecified, pb::Consistency::from);
        let request = pb::StartBackupRequest {
            vms: vec![names::vm(vm)],
            consistency: pb::Consistency::from(new.consistency).into(),
            least_consistency: least.into(),
            backup_type: writer::BackupType::from(new.backup_type).into(),
            lease: Some(time::duration(new.lease)),
            from_point: new.from_point,
            request_id: request_id(),
        };
        let answer = BackupsClient::new(self.channel.clone()).start_backup(request).await;
        self.backup_of(answer)
    }

    /// One session, by its id.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn backup(&self, vm: &VmId, id: BackupId) -> Result<Backup, ClientError> {
        let request = pb::GetBackupRequest { name: names::backup(vm, id) };
        let answer = BackupsClient::new(self.channel.clone()).get_backup(request).await;
        self.backup_of(answer)
    }

    /// The sessions of a VM, oldest first.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn backups(&self, vm: &VmId) -> Result<Vec<Backup>, ClientError> {
        let request = pb::ListBackupsRequest { parent: names::vm(vm) };
        let answer = BackupsClient::new(self.channel.clone()).list_backups(request).await;
        let backups = self.answered(answer)?.backups.into_iter();
        Ok(backups.map(Backup::try_from).collect::<Result<_, _>>()?)
    }

    /// The one session whose id begins so.
    ///
    /// # Errors
    /// There is none, or more than one; the service refused or cannot be reached.
    pub async fn find_backup(&self, vm: &VmId, called: &str) -> Result<Backup, ClientError> {
        Ok(resolve_backup(vm, called, self.backups(vm).await?)?)
    }

    /// Renews the lease of a session.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn renew_backup(&self, vm: &VmId, id: BackupId) -> Result<Backup, ClientError> {
        let request = pb::RenewBackupRequest { name: names::backup(vm, id) };
        let answer = BackupsClient::new(self.channel.clone()).renew_backup(request).await;
        self.backup_of(answer)
    }

    /// Completes a session; `replace` gives the reference point up that it builds on.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn complete_backup(&self, vm: &VmId, id: BackupId, replace: bool) -> Result<Backup, ClientError> {
        let request = pb::CompleteBackupRequest { name: names::backup(vm, id), replace_from_point: replace };
        let answer = BackupsClient::new(self.channel.clone()).complete_backup(request).await;
        self.backup_of(answer)
    }

    /// Gives a session up.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn abort_backup(&self, vm: &VmId, id: BackupId) -> Result<Backup, ClientError> {
        let request = pb::AbortBackupRequest { name: names::backup(vm, id) };
        let answer = BackupsClient::new(self.channel.clone()).abort_backup(request).await;
        self.backup_of(answer)
    }

    fn backup_of(&self, answer: Result<Response<pb::Backup>, Status>) -> Result<Backup, ClientError> {
        Ok(Backup::try_from(self.answered(answer)?)?)
    }
}
