//! Telling the writers of a guest how a backup has ended.

use std::sync::Arc;

use stillpoint_common::{Backup, BackupState, WriterOutcome, WriterResult, WritersTold};

use crate::{catalogue::Changes, context::World};

/// Tells writers, if some were asked for this backup, and writes down whether they were. A guest that cannot be reached
/// changes nothing: its writers keep their logs. Answers the session as it is then.
pub(crate) async fn tell(world: Arc<World>, backup: Backup) -> Backup {
    let Some((instance, session)) = backup.quiesce else { return backup };
    let guest = &world.ports.guest;
    let state = match &backup.state {
        BackupState::Completed { point, .. } => {
            let writers = match guest.complete(instance, session).await {
                Ok(outcomes) => heard(&outcomes),
                Err(error) => WritersTold::NotTold { why: error.to_string() },
            };
            BackupState::Completed { point: *point, writers }
        }
        other @ (BackupState::Starting | BackupState::Open | BackupState::Aborted { .. }) => other.clone(),
    };
    // Writers that hear of the end, and did not hear that their data is safe, know that it is not.
    if let Err(error) = guest.finish(instance, session).await {
        tracing::info!(vm = %backup.vm, backup = %backup.id, %error, "the guest could not be told that the backup is over");
    }
    let told = Backup { state, quiesce: None, ..backup };
    if let Err(error) = world.catalogue.commit(Changes::default().set_backup(&told)).await {
        tracing::warn!(vm = %told.vm, backup = %told.id, %error, "what writers were told could not be written down");
    }
    told
}

/// A writer that has not done what it was told keeps its logs.
fn heard(outcomes: &[WriterOutcome]) -> WritersTold {
    let deaf = |outcome: &&WriterOutcome| match outcome.result {
        WriterResult::Refused | WriterResult::TimedOut | WriterResult::Vanished => true,
        WriterResult::Stable | WriterResult::Held | WriterResult::LeftOut => false,
    };
    match outcomes.iter().find(deaf) {
        None => WritersTold::Told,
        Some(WriterOutcome { name, detail, .. }) => WritersTold::NotTold { why: format!("writer {name}: {detail}") },
    }
}
