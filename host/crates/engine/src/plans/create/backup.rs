//! A checkpoint that is made for a backup session.

use stillpoint_common::{Backup, BackupState, Consistency, Failure, InstanceId, Kind, Reason, SessionId};

use super::Create;
use crate::{catalogue::Changes, context::Cx, error::StepError};

impl Create {
    /// The quiesce session that stays open until the backup has ended, so that writers can be told how: of a guest that
    /// has writers.
    pub(super) fn quiesce_of_backup(&self) -> Option<(InstanceId, SessionId)> {
        let checkpoint = &self.facts.checkpoint;
        let asked = checkpoint.kind == Kind::Production && !self.facts.as_it_is && !checkpoint.writers.is_empty();
        let instance = self.facts.instance.filter(|_| asked && checkpoint.remarks.backup.is_some());
        instance.map(|instance| (instance, self.facts.session))
    }

    async fn backup(&self, cx: &Cx) -> Result<Option<Backup>, StepError> {
        match self.facts.checkpoint.remarks.backup {
            Some(id) => Ok(Some(cx.catalogue().backup(&cx.vm, id).await?)),
            None => Ok(None),
        }
    }

    /// Refuses what is less than the backup takes, before it is published.
    pub(super) async fn is_enough_for_backup(&self, cx: &Cx, got: Consistency) -> Result<(), StepError> {
        let Some(backup) = self.backup(cx).await? else { return Ok(()) };
        if backup.asked.is_met_by(got) {
            return Ok(());
        }
        let message =
            format!("the checkpoint would be {got}, and {} is the least that was asked for", backup.asked.least);
        Err(Failure::new(Reason::ConsistencyTooLow, message).into())
    }

    /// The session is open, and its lease begins, with the transaction that publishes the checkpoint.
    pub(super) async fn opened_backup(&self, cx: &Cx) -> Result<Changes, StepError> {
        let Some(backup) = self.backup(cx).await? else { return Ok(Changes::default()) };
        let (checkpoint, quiesce) = (Some(self.facts.checkpoint.id), self.quiesce_of_backup());
        let opened = Backup { checkpoint, quiesce, state: BackupState::Open, ..backup };
        Ok(Changes::default().set_backup(&opened.renewed(cx.ports().clock.now())))
    }
}
