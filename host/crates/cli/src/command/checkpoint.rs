//! `stillpoint checkpoint …`

use jiff::Timestamp;
use stillpoint_common::VmId;

use super::{Context, confirm, show, vm::state, work};
use crate::{
    CliError,
    args::{CheckpointCommand, CheckpointRef, parse},
    output::{Answer, table, text, tree},
    view::{Checkpoint, Operation, Vm},
};

/// Finds what was typed wrongly before the service is asked.
pub(super) fn check(command: &CheckpointCommand) -> Result<(), CliError> {
    match command {
        CheckpointCommand::Apply { discard_now, consent, .. }
        | CheckpointCommand::Revert { discard_now, consent, .. } => {
            if !discard_now {
                let message = "what happened in the VM since its last checkpoint would be lost";
                let advice =
                    "Add --discard-now to agree, or make a checkpoint first: `stillpoint checkpoint create VM`.";
                return Err(CliError::usage(message, advice));
            }
            confirm::can_ask(*consent)
        }
        CheckpointCommand::Delete { consent, .. } => confirm::can_ask(*consent),
        CheckpointCommand::Create { .. }
        | CheckpointCommand::List { .. }
        | CheckpointCommand::Tree { .. }
        | CheckpointCommand::Show { .. }
        | CheckpointCommand::Rename { .. }
        | CheckpointCommand::Export { .. } => Ok(()),
    }
}

pub(super) async fn run(context: &Context, command: &CheckpointCommand) -> Result<Answer, CliError> {
    let client = &context.client;
    match command {
        CheckpointCommand::Create { vm, name, policy, waiting } => {
            let begun = client.create_checkpoint(vm, name, policy.map(Into::into)).await?;
            work::finish(context, begun, *waiting, created).await
        }
        CheckpointCommand::List { vm } => list(vm, &client.list_checkpoints(vm).await?),
        CheckpointCommand::Tree { vm } => draw(&client.vm(vm).await?, &client.list_checkpoints(vm).await?),
        CheckpointCommand::Show { which } => {
            let checkpoint = find(context, which).await?;
            Answer::new(show::checkpoint(&checkpoint), &checkpoint)
        }
        CheckpointCommand::Rename { which, new_name } => {
            let checkpoint = find(context, which).await?;
            let renamed = client.rename_checkpoint(&which.vm, checkpoint.id, new_name).await?;
            let text = format!("{:?} is now called {:?}", checkpoint.display_name, renamed.display_name);
            Answer::new(text, &renamed)
        }
        CheckpointCommand::Apply { .. }
        | CheckpointCommand::Revert { .. }
        | CheckpointCommand::Delete { .. }
        | CheckpointCommand::Export { .. } => begin(context, command).await,
    }
}

/// The commands that begin an operation on a checkpoint that is there.
async fn begin(context: &Context, command: &CheckpointCommand) -> Result<Answer, CliError> {
    let client = &context.client;
    match command {
        CheckpointCommand::Apply { which, consent, waiting, .. } => {
            let (vm, checkpoint) = (&which.vm, find(context, which).await?);
            let question = format!("Bring {vm} back to {}? What happened in it since is lost.", called(&checkpoint));
            confirm::ask(*consent, &question)?;
            let begun = client.apply_checkpoint(vm, checkpoint.id).await?;
            work::finish(context, begun, *waiting, |done| back(vm, done)).await
        }
        CheckpointCommand::Revert { vm, consent, waiting, .. } => {
            let question = format!("Bring {vm} back to its last checkpoint? What happened in it since is lost.");
            confirm::ask(*consent, &question)?;
            work::finish(context, client.revert_vm(vm).await?, *waiting, |done| back(vm, done)).await
        }
        CheckpointCommand::Delete { which, consent, waiting } => {
            let checkpoint = find(context, which).await?;
            let question = format!("Delete {}? Now and every other checkpoint stay as they are.", called(&checkpoint));
            confirm::ask(*consent, &question)?;
            let begun = client.delete_checkpoint(&which.vm, checkpoint.id).await?;
            work::finish(context, begun, *waiting, |_| format!("{:?} is deleted", checkpoint.display_name)).await
        }
        CheckpointCommand::Export { which, folder, format, waiting } => {
            let folder = parse::absolute(folder);
            let folder = folder.map_err(|problem| CliError::usage(problem, "Give another folder."))?;
            let checkpoint = find(context, which).await?;
            let begun = client.export_checkpoint(&which.vm, checkpoint.id, &folder, *format).await?;
            work::finish(context, begun, *waiting, exported).await
        }
        CheckpointCommand::Create { .. }
        | CheckpointCommand::List { .. }
        | CheckpointCommand::Tree { .. }
        | CheckpointCommand::Show { .. }
        | CheckpointCommand::Rename { .. } => Box::pin(run(context, command)).await,
    }
}

async fn find(context: &Context, which: &CheckpointRef) -> Result<Checkpoint, CliError> {
    Ok(context.client.find_checkpoint(&which.vm, &which.checkpoint).await?)
}

fn called(checkpoint: &Checkpoint) -> String {
    format!("{:?} ({})", checkpoint.display_name, text::age(checkpoint.create_time, Timestamp::now()))
}

/// `"before the upgrade" is made: PRODUCTION, FILE_SYSTEM`
fn created(done: &Operation) -> String {
    let Some(checkpoint) = done.checkpoint_response() else { return "done".to_owned() };
    let (kind, consistency) = (text::word(checkpoint.kind), text::word(checkpoint.consistency));
    format!("{:?} is made: {kind}, {consistency}\n{}", checkpoint.display_name, checkpoint.id)
}

/// `web is back at its checkpoint: Running`
fn back(vm: &VmId, done: &Operation) -> String {
    format!("brought back {}", state(vm, done))
}

fn exported(done: &Operation) -> String {
    let Some(export) = done.export_response() else { return "done".to_owned() };
    let bytes = export.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    format!("{}: {}, {}", export.folder, text::count(export.files.len(), "file"), text::bytes(bytes))
}

fn list(vm: &VmId, checkpoints: &[Checkpoint]) -> Result<Answer, CliError> {
    if checkpoints.is_empty() {
        return Answer::new(format!("VM {vm} has no checkpoints."), &checkpoints);
    }
    let ids: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.id.to_string()).collect();
    let (width, now) = (text::id_width(&ids), Timestamp::now());
    let row = |checkpoint: &Checkpoint| {
        [
            text::short(&checkpoint.id, width),
            checkpoint.display_name.clone(),
            text::word(checkpoint.kind),
            text::word(checkpoint.consistency),
            text::age(checkpoint.create_time, now),
            if checkpoint.memory_bytes == 0 { "-".to_owned() } else { text::bytes(checkpoint.memory_bytes) },
            tree::remark(checkpoint),
        ]
    };
    let head = ["id", "name", "kind", "consistency", "made", "memory", ""];
    Answer::new(table::table(head, checkpoints.iter().map(row)), &checkpoints)
}

fn draw(vm: &Vm, checkpoints: &[Checkpoint]) -> Result<Answer, CliError> {
    let text = tree::tree(vm, checkpoints, Timestamp::now());
    Answer::new(text, &serde_json::json!({"vm": vm, "checkpoints": checkpoints}))
}
