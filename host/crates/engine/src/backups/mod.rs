//! Backup sessions: what they may do, how they end, and that nothing of them stays.
//!
//! ```text
//!  StartBackup ── record STARTING, with the job that makes the checkpoint (one transaction)
//!                    └── the checkpoint is published, and the record OPEN (one transaction)
//!  CompleteBackup ── reference point, the checkpoint gone, the record COMPLETED (one transaction) ── writers are told
//!  AbortBackup, or the lease has lapsed ── the checkpoint gone, the record ABORTED (one transaction) ── writers are let go
//! ```
//! The checkpoint of a session says whose it is. Whenever nothing is at work on a VM, and at the start of the service, a
//! checkpoint whose session is not open goes, and so does a session whose job is over or whose lease has lapsed. Layers
//! are merged afterwards, as of every checkpoint.

mod decide;
mod tell;

pub(crate) use self::{
    decide::{Abort, Complete, may_abort, may_complete, over, read_through, superfluous, to_forget, used},
    tell::tell,
};

use stillpoint_common::{Backup, BackupState, Failure};

use crate::{
    Request,
    catalogue::{Catalogue, Changes},
    job::Job,
};

/// The session of a job that has failed is over: nothing was made.
pub(crate) async fn failed(catalogue: &Catalogue, job: &Job, failure: &Failure) -> Changes {
    let Some(Request::CreateCheckpoint(new)) = &job.request else { return Changes::default() };
    let Some(id) = new.remarks.backup else { return Changes::default() };
    match catalogue.backup(&job.operation.vm, id).await {
        Ok(backup) if backup.state == BackupState::Starting => {
            Changes::default().set_backup(&aborted(backup, failure.to_string()))
        }
        // It is open: the checkpoint was published all the same. Or it cannot be read: then it is looked at later.
        Ok(_) | Err(_) => Changes::default(),
    }
}

/// The same session, given up.
pub(crate) fn aborted(backup: Backup, why: impl Into<String>) -> Backup {
    Backup { state: BackupState::Aborted { why: why.into() }, ..backup }
}
