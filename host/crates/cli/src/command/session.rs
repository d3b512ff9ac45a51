//! `stillpoint backup start|show|sessions|renew|complete|abort`

use stillpoint_common::{BackupId, VmId};

use super::{Context, work};
use crate::{
    CliError,
    args::{BackupRef, StartBackup},
    client::NewBackup,
    output::{Answer, table, text, warn},
    view::{Backup, BackupState, WritersTold},
};

/// Begins a session, and waits until its checkpoint can be read.
pub(super) async fn start(context: &Context, asked: &StartBackup) -> Result<Answer, CliError> {
    let from_point = match &asked.from_point {
        Some(point) => context.client.find_reference_point(&asked.vm, point).await?.name,
        None => String::new(),
    };
    let new = NewBackup {
        consistency: asked.consistency.into(),
        least: asked.least.map(Into::into),
        backup_type: asked.backup_type.into(),
        lease: asked.lease,
        from_point,
    };
    let opened = open(context, &asked.vm, new).await?;
    Answer::new(opened.id.to_string(), &opened)
}

/// The session, when its checkpoint is made.
pub(super) async fn open(context: &Context, vm: &VmId, new: NewBackup) -> Result<Backup, CliError> {
    let begun = context.client.start_backup(vm, new).await?;
    let operation = context.client.operation(begun.operation).await?;
    work::follow(context, operation, true).await?;
    Ok(context.client.backup(vm, begun.id).await?)
}

/// Which session is meant.
pub(super) async fn id(context: &Context, BackupRef { vm, backup }: &BackupRef) -> Result<BackupId, CliError> {
    match backup.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(context.client.find_backup(vm, backup).await?.id),
    }
}

pub(super) async fn show(context: &Context, asked: &BackupRef) -> Result<Answer, CliError> {
    let backup = context.client.backup(&asked.vm, id(context, asked).await?).await?;
    Answer::new(table_of(std::slice::from_ref(&backup)), &backup)
}

pub(super) async fn sessions(context: &Context, vm: &VmId) -> Result<Answer, CliError> {
    let backups = context.client.backups(vm).await?;
    let text = match &backups[..] {
        [] => "There are no backup sessions.".to_owned(),
        backups => table_of(backups),
    };
    Answer::new(text, &backups)
}

pub(super) async fn renew(context: &Context, asked: &BackupRef) -> Result<Answer, CliError> {
    let renewed = context.client.renew_backup(&asked.vm, id(context, asked).await?).await?;
    let until = renewed.expire_time.map(|time| format!("{time:.0}")).unwrap_or_default();
    Answer::new(format!("backup session {} lasts until {until}", renewed.id), &renewed)
}

pub(super) async fn complete(context: &Context, asked: &BackupRef, replace: bool) -> Result<Answer, CliError> {
    let completed = context.client.complete_backup(&asked.vm, id(context, asked).await?, replace).await?;
    warn_of_writers(&completed);
    let point = point_of(&completed);
    Answer::new(format!("backup session {} is completed; reference point {point}", completed.id), &completed)
}

/// The id of the reference point that a session has left.
pub(super) fn point_of(completed: &Backup) -> &str {
    completed.reference_point.rsplit('/').next().unwrap_or_default()
}

/// Says that writers were not told, if so.
pub(super) fn warn_of_writers(completed: &Backup) {
    if completed.writers_told == Some(WritersTold::NotTold) {
        warn(&format!(
            "writers of the guest were not told that the data is safe, and keep their logs: {}",
            completed.detail
        ));
    }
}

pub(super) async fn abort(context: &Context, asked: &BackupRef) -> Result<Answer, CliError> {
    let aborted = context.client.abort_backup(&asked.vm, id(context, asked).await?).await?;
    Answer::new(format!("backup session {} is over, and nothing is left of it", aborted.id), &aborted)
}

fn table_of(backups: &[Backup]) -> String {
    let time = |time: Option<jiff::Timestamp>| time.map(|time| format!("{time:.0}")).unwrap_or_default();
    let row = |backup: &Backup| {
        [
            backup.id.to_string(),
            text::word(backup.state),
            text::word(backup.backup_type),
            time(backup.create_time),
            // One that has ended has no lease any more.
            time(backup.expire_time.filter(|_| backup.state == Some(BackupState::Open))),
            backup.detail.clone(),
        ]
    };
    table::table(["id", "state", "type", "begun", "lasts until", "why"], backups.iter().map(row))
}
