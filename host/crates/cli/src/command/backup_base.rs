//! What a run of `stillpoint backup run` begins with: what earlier ones have left, and what it can build on.

use stillpoint_common::VmId;
use stillpoint_proto::convert::names;

use super::Context;
use crate::{
    CliError,
    repository::{Previous, Repository, failed},
    view::BackupState,
};

/// What a backup builds on.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) previous: Previous,
    /// Resource name of the reference point.
    pub(super) point: String,
}

/// Removes what runs that were cut off have left, here and there; and finds out what became of the last whole one.
pub(super) async fn tidy(context: &Context, repository: &Repository, vm: &VmId) -> Result<(), CliError> {
    for (folder, session) in repository.partial()? {
        if let Some((of, id)) = session.and_then(|name| names::parse_backup(&name, "session").ok())
            && of == *vm
        {
            // It has ended, or is none any more.
            let _ = context.client.abort_backup(vm, id).await;
        }
        std::fs::remove_dir_all(&folder).map_err(failed(&folder))?;
    }
    let Some(last) = repository.numbers()?.into_iter().next_back().filter(|last| repository.point(*last).is_none())
    else {
        return Ok(());
    };
    let (manifest, _) = repository.manifest(last)?;
    let Ok((of, id)) = names::parse_backup(&manifest.session, "session") else { return Ok(()) };
    if of == *vm
        && let Ok(known) = context.client.backup(vm, id).await
    {
        let completed = match known.state {
            // Its data is safe, and nobody has said so.
            Some(BackupState::Open) => context.client.complete_backup(vm, id, true).await?,
            Some(BackupState::Starting | BackupState::Completed | BackupState::Aborted) | None => known,
        };
        if !completed.reference_point.is_empty() {
            repository.set_point(last, &completed.reference_point)?;
        }
    }
    Ok(())
}

/// What the next backup builds on; or none, and why.
pub(super) async fn base(
    context: &Context,
    repository: &Repository,
    vm: &VmId,
    last: u32,
) -> Result<(Option<Base>, String), CliError> {
    if let Err(error) = repository.is_complete(last) {
        return Ok((None, format!("backup {last} can not be built upon: {error}")));
    }
    let (_, blake3) = repository.manifest(last)?;
    let Some(point) = repository.point(last) else {
        return Ok((None, format!("backup {last} was not completed, so that it has no reference point")));
    };
    let points = context.client.reference_points(vm).await?;
    let Some(known) = points.into_iter().find(|known| known.name == point) else {
        return Ok((None, format!("the reference point of backup {last} is gone")));
    };
    match known.disks.iter().find(|disk| !disk.lost.is_empty()) {
        Some(disk) => Ok((None, format!("what has changed of disk {} is not known: {}", disk.disk, disk.lost))),
        None => Ok((Some(Base { previous: Previous { number: last, blake3 }, point }), String::new())),
    }
}
