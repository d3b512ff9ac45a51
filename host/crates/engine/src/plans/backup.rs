//! The checkpoint of a backup session: at most two attempts, of a quiet guest, and, where that is enough, of its disks as
//! they are. Memory is never kept: a backup is of disks.

use stillpoint_common::{Backup, BackupType, Checkpoint, CheckpointId, Consistency, Failure, PowerState, Reason, Vm};

use super::{
    create,
    execute::{How, attempt, draft, tidy},
    unsupported,
};
use crate::{NewCheckpoint, context::Cx, saga::Journal};

pub(super) async fn create(
    vm: Vm,
    power: PowerState,
    new: NewCheckpoint,
    journal: &mut Journal,
    cx: &Cx,
) -> Result<CheckpointId, Failure> {
    let backup = asked(&new, cx).await?;
    let told = backup.asked.asks_guest() && vm.instance.is_some();
    let backup_type = if told { new.backup_type } else { BackupType::Copy };
    let draft = draft(&vm, power, NewCheckpoint { backup_type, ..new }, cx.ports().clock.now())?;
    let draft = unsupported::note(draft, &vm, cx).await?;
    let id = draft.id;
    cx.reporter.set_checkpoint(id);
    let how = if backup.asked.asks_guest() { How::AsPlanned } else { How::AsItIs };
    let Err(error) = attempt(&draft, how, power, journal, cx).await else { return Ok(id) };
    let made = match create::quiesce_reason(&error) {
        Some(why) if backup.asked.is_met_by(Consistency::Crash) => {
            journal.next_attempt();
            let detail = Failure::from(error).message;
            cx.reporter.warn(format!("the guest was not made quiet, its disks are as after a power cut: {detail}"));
            let (fallback, backup_type) = (Some(why), BackupType::Copy);
            let draft = Checkpoint { fallback, fallback_detail: detail, backup_type, ..draft };
            attempt(&draft, How::AsItIs, power, journal, cx).await.map_err(Failure::from)
        }
        Some(why) => Err(error.blamed_on_quiesce(why)),
        None => Err(error.into()),
    };
    tidy(cx).await;
    made.map(|()| id)
}

async fn asked(new: &NewCheckpoint, cx: &Cx) -> Result<Backup, Failure> {
    let nobody = || Failure::new(Reason::BackupNotFound, "the checkpoint is of no backup session");
    cx.catalogue().backup(&cx.vm, new.remarks.backup.ok_or_else(nobody)?).await
}
