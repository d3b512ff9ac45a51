//! What a backup session may do now. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use stillpoint_common::{
    Backup, BackupId, BackupState, Checkpoint, CheckpointId, CheckpointState, Failure, LayerId, Reason,
};

use crate::forest::Forest;

/// How many sessions that have ended are remembered of a VM.
const REMEMBERED: usize = 16;

/// What completing a session means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Complete {
    /// It is completed now; this is its checkpoint.
    Now(CheckpointId),
    /// It was before.
    Already,
}

/// What aborting a session means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    /// It is aborted now.
    Now,
    /// Its checkpoint is still being made: that has to be given up first.
    GiveUp,
    /// It was before.
    Already,
}

pub(crate) fn may_complete(backup: &Backup, now: Timestamp) -> Result<Complete, Failure> {
    match (&backup.state, backup.checkpoint) {
        (BackupState::Completed { .. }, _) => Ok(Complete::Already),
        (BackupState::Aborted { why }, _) => Err(ended(backup, why)),
        (BackupState::Open, Some(_)) if backup.has_lapsed(now) => Err(ended(backup, LAPSED)),
        (BackupState::Open, Some(checkpoint)) => Ok(Complete::Now(checkpoint)),
        (BackupState::Starting | BackupState::Open, _) => {
            let Backup { id, operation, .. } = backup;
            let message = format!("the checkpoint of backup session {id} is still being made: operation {operation}");
            Err(Failure::new(Reason::VmBusy, message))
        }
    }
}

pub(crate) fn may_abort(backup: &Backup) -> Result<Abort, Failure> {
    match &backup.state {
        BackupState::Starting => Ok(Abort::GiveUp),
        BackupState::Open => Ok(Abort::Now),
        BackupState::Aborted { .. } => Ok(Abort::Already),
        BackupState::Completed { .. } => Err(ended(backup, "it was completed")),
    }
}

/// Why a session ends whose client is silent.
pub(crate) const LAPSED: &str = "its lease has lapsed";

/// The session, renewed, if it can be used.
pub(crate) fn used(backup: Backup, now: Timestamp) -> Result<Backup, Failure> {
    match &backup.state {
        BackupState::Open if backup.has_lapsed(now) => Err(ended(&backup, LAPSED)),
        BackupState::Open if backup.is_due(now) => Ok(backup.renewed(now)),
        BackupState::Open => Ok(backup),
        // Its lease begins when its checkpoint is made.
        BackupState::Starting => Ok(backup),
        BackupState::Aborted { why } => Err(ended(&backup, why)),
        BackupState::Completed { .. } => Err(ended(&backup, "it was completed")),
    }
}

fn ended(Backup { id, .. }: &Backup, why: &str) -> Failure {
    Failure::new(Reason::BackupEnded, format!("backup session {id} has ended: {why}"))
}

/// Sessions that are over while nothing is at work on the VM, and why.
pub(crate) fn over(backups: &[Backup], now: Timestamp) -> Vec<(Backup, &'static str)> {
    let why = |backup: &Backup| match backup.state {
        BackupState::Starting => Some("the service was stopped while its checkpoint was made"),
        BackupState::Open => backup.has_lapsed(now).then_some(LAPSED),
        BackupState::Completed { .. } | BackupState::Aborted { .. } => None,
    };
    backups.iter().filter_map(|backup| Some((backup.clone(), why(backup)?))).collect()
}

/// Checkpoints of sessions that are not among those which are open.
pub(crate) fn superfluous(checkpoints: &[Checkpoint], open: &BTreeSet<BackupId>) -> BTreeSet<CheckpointId> {
    let ready = checkpoints.iter().filter(|checkpoint| checkpoint.state == CheckpointState::Ready);
    let of_none = |of: BackupId| !open.contains(&of);
    ready.filter(|checkpoint| checkpoint.remarks.backup.is_some_and(of_none)).map(|checkpoint| checkpoint.id).collect()
}

/// The layers that other programs read for a backup, through a process that does not know of merges: nothing below them
/// moves until its session has ended.
pub(crate) fn read_through<'a>(
    checkpoints: &'a [Checkpoint],
    forest: &'a Forest,
) -> impl Iterator<Item = LayerId> + 'a {
    let of_backups = checkpoints.iter().filter(|checkpoint| checkpoint.remarks.backup.is_some());
    let ready = of_backups.filter(|checkpoint| checkpoint.state == CheckpointState::Ready);
    ready.flat_map(|checkpoint| checkpoint.disks.values()).flat_map(|head| forest.read_through(*head))
}

/// Sessions that ended so long ago that they make room for another one. They are given oldest first.
pub(crate) fn to_forget(backups: &[Backup]) -> Vec<BackupId> {
    let ended: Vec<&Backup> = backups.iter().filter(|backup| !backup.is_open()).collect();
    let old = (ended.len() + 1).saturating_sub(REMEMBERED);
    ended[..old].iter().map(|backup| backup.id).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stillpoint_common::{AskedConsistency, Consistency, OperationId, ReferencePointId, WritersTold};

    use super::*;

    fn backup(state: BackupState) -> Backup {
        Backup {
            id: BackupId::generate(),
            vm: "web".parse().unwrap(),
            created: Timestamp::UNIX_EPOCH,
            backup_type: stillpoint_common::BackupType::Full,
            asked: AskedConsistency { wanted: Consistency::Application, least: Consistency::Crash },
            from_point: None,
            lease: Duration::from_secs(60),
            deadline: Timestamp::from_second(60).unwrap(),
            operation: OperationId::generate(),
            checkpoint: Some(CheckpointId::generate()),
            quiesce: None,
            state,
            request_id: None,
        }
    }

    fn completed() -> BackupState {
        BackupState::Completed { point: ReferencePointId::generate(), writers: WritersTold::None }
    }

    #[test]
    fn what_each_state_allows() {
        let (early, late) = (Timestamp::from_second(59).unwrap(), Timestamp::from_second(60).unwrap());
        let aborted = || BackupState::Aborted { why: "so".to_owned() };
        let reason = |failure: Failure| failure.reason;
        let open = backup(BackupState::Open);
        assert_eq!(may_complete(&open, early), Ok(Complete::Now(open.checkpoint.unwrap())));
        assert_eq!(may_complete(&open, late).map_err(reason), Err(Reason::BackupEnded), "it has lapsed");
        assert_eq!(may_complete(&backup(completed()), late), Ok(Complete::Already));
        assert_eq!(may_complete(&backup(aborted()), early).map_err(reason), Err(Reason::BackupEnded));
        let starting = Backup { checkpoint: None, ..backup(BackupState::Starting) };
        assert_eq!(may_complete(&starting, early).map_err(reason), Err(Reason::VmBusy));
        assert_eq!(may_abort(&starting), Ok(Abort::GiveUp));
        assert_eq!(may_abort(&open), Ok(Abort::Now));
        assert_eq!(may_abort(&backup(aborted())), Ok(Abort::Already));
        assert_eq!(may_abort(&backup(completed())).map_err(reason), Err(Reason::BackupEnded));
        let renewed = used(open.clone(), early).unwrap();
        assert_eq!(renewed.deadline, Timestamp::from_millisecond(122_750).unwrap());
        let soon = Timestamp::from_second(62).unwrap();
        assert_eq!(used(renewed.clone(), soon).unwrap(), renewed, "all of the lease is left");
        for over in [open, backup(aborted()), backup(completed())] {
            assert_eq!(used(over, late).map_err(reason), Err(Reason::BackupEnded));
        }
    }

    #[test]
    fn the_oldest_of_those_that_have_ended_are_forgotten() {
        let mut backups: Vec<_> = (0..20).map(|_| backup(completed())).collect();
        backups[1].state = BackupState::Open;
        let forgotten = to_forget(&backups);
        let wanted: Vec<_> = [0, 2, 3, 4].map(|n: usize| backups[n].id).into();
        assert_eq!(forgotten, wanted, "15 of 19 stay, and there is room for one");
        assert_eq!(to_forget(&backups[..16]), []);
    }
}
