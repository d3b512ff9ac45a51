//! `stillpoint checkpoint …`

use jiff::Timestamp;
use stillpoint_common::{PowerState, VmId};

use super::{Context, confirm, delete, hazards, select, show, vm::state, work};
use crate::{
    CliError,
    args::{CheckpointCommand, CheckpointRef, Consent, RemarkFlags, Waiting, parse},
    client::{CheckpointChange, CheckpointToCreate},
    output::{Answer, table, text, tree},
    view::{Checkpoint, Layer, Operation, Vm, usage},
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
        CheckpointCommand::Delete(asked) => delete::check(asked),
        CheckpointCommand::DeleteMemory { consent, .. } => confirm::can_ask(*consent),
        CheckpointCommand::Create { .. }
        | CheckpointCommand::List { .. }
        | CheckpointCommand::Tree { .. }
        | CheckpointCommand::Show { .. }
        | CheckpointCommand::Rename { .. }
        | CheckpointCommand::Set { .. }
        | CheckpointCommand::Advise { .. }
        | CheckpointCommand::Export { .. } => Ok(()),
    }
}

pub(super) async fn run(context: &Context, command: &CheckpointCommand) -> Result<Answer, CliError> {
    let client = &context.client;
    match command {
        CheckpointCommand::Create { vm, name, policy, remarks, waiting } => {
            let new = CheckpointToCreate {
                display_name: name.clone(),
                policy: policy.map(Into::into),
                notes: remarks.notes.clone().unwrap_or_default(),
                keep_until: remarks.keep,
            };
            let begun = client.create_checkpoint_with(vm, &new).await?;
            work::finish(context, begun, *waiting, created).await
        }
        CheckpointCommand::Advise { vm } => {
            let advice = client.advise_checkpoint(vm).await?;
            Answer::new(hazards::advice(&advice), &advice)
        }
        CheckpointCommand::List { vm, filter } => {
            let layers = client.layers(vm).await?;
            let found = select::checkpoints(context, vm, filter).await?;
            list(vm, &found.into_iter().map(|checkpoint| with_usage(checkpoint, &layers)).collect::<Vec<_>>())
        }
        CheckpointCommand::Tree { vm } => draw(&client.vm(vm).await?, &client.list_checkpoints(vm).await?),
        CheckpointCommand::Show { which } => {
            let checkpoint = with_usage(find(context, which).await?, &client.layers(&which.vm).await?);
            Answer::new(show::checkpoint(&checkpoint), &checkpoint)
        }
        CheckpointCommand::Apply { which, consent, accept_hazards, waiting, .. } => {
            hazards::ask(&find(context, which).await?, *consent, *accept_hazards)?;
            apply(context, which, *consent, *waiting).await
        }
        CheckpointCommand::Revert { vm, consent, accept_hazards, waiting, .. } => {
            // Of a VM without checkpoints the service says so.
            if let Some(parent) = client.vm(vm).await?.parent_checkpoint {
                hazards::ask(&client.checkpoint(vm, parent).await?, *consent, *accept_hazards)?;
            }
            revert(context, vm, *consent, *waiting).await
        }
        CheckpointCommand::Rename { which, new_name } => rename(context, which, new_name).await,
        CheckpointCommand::Set { which, remarks, keep_for_ever } => set(context, which, remarks, *keep_for_ever).await,
        CheckpointCommand::Delete(asked) => delete::run(context, asked).await,
        CheckpointCommand::DeleteMemory { which, consent, waiting } => {
            delete::memory(context, which, *consent, *waiting).await
        }
        CheckpointCommand::Export { which, folder, format, waiting } => {
            let folder = parse::absolute(folder);
            let folder = folder.map_err(|problem| CliError::usage(problem, "Give another folder."))?;
            let checkpoint = find(context, which).await?;
            let begun = client.export_checkpoint(&which.vm, checkpoint.id, &folder, *format).await?;
            work::finish(context, begun, *waiting, exported).await
        }
    }
}

async fn apply(
    context: &Context,
    which: &CheckpointRef,
    consent: Consent,
    waiting: Waiting,
) -> Result<Answer, CliError> {
    let (vm, checkpoint) = (&which.vm, find(context, which).await?);
    let question = format!("Bring {vm} back to {}? What happened in it since is lost.", called(&checkpoint));
    confirm::ask(consent, &question)?;
    let begun = context.client.apply_checkpoint(vm, checkpoint.id).await?;
    work::finish(context, begun, waiting, |done| back(vm, done)).await
}

async fn revert(context: &Context, vm: &VmId, consent: Consent, waiting: Waiting) -> Result<Answer, CliError> {
    confirm::ask(consent, &format!("Bring {vm} back to its last checkpoint? What happened in it since is lost."))?;
    let begun = context.client.revert_vm(vm).await?;
    work::finish(context, begun, waiting, |done| back(vm, done)).await
}

async fn rename(context: &Context, which: &CheckpointRef, new_name: &str) -> Result<Answer, CliError> {
    let checkpoint = find(context, which).await?;
    let change = CheckpointChange { display_name: Some(new_name.to_owned()), ..CheckpointChange::default() };
    let renamed = context.client.update_checkpoint(&which.vm, checkpoint.id, &change).await?;
    Answer::new(format!("{:?} is now called {:?}", checkpoint.display_name, renamed.display_name), &renamed)
}

async fn set(
    context: &Context,
    which: &CheckpointRef,
    remarks: &RemarkFlags,
    keep_for_ever: bool,
) -> Result<Answer, CliError> {
    let keep_until = if keep_for_ever { Some(None) } else { remarks.keep.map(Some) };
    let change = CheckpointChange { display_name: None, notes: remarks.notes.clone(), keep_until };
    if change == CheckpointChange::default() {
        return Err(CliError::usage("nothing to change", "Add --notes, --keep or --keep-for-ever."));
    }
    let checkpoint = find(context, which).await?;
    let changed = context.client.update_checkpoint(&which.vm, checkpoint.id, &change).await?;
    Answer::new(format!("{:?} is changed", changed.display_name), &changed)
}

async fn find(context: &Context, which: &CheckpointRef) -> Result<Checkpoint, CliError> {
    Ok(context.client.find_checkpoint(&which.vm, &which.checkpoint).await?)
}

fn with_usage(checkpoint: Checkpoint, layers: &[Layer]) -> Checkpoint {
    Checkpoint { usage: usage(&checkpoint, layers), ..checkpoint }
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

/// `brought back web: Running`
fn back(vm: &VmId, done: &Operation) -> String {
    let off = done.vm_response().is_some_and(|vm| vm.state == Some(PowerState::Off));
    let next = if off { format!("\nstart it with: stillpoint vm start {vm}") } else { String::new() };
    format!("brought back {}{next}", state(vm, done))
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
            checkpoint.usage.map_or_else(|| "-".to_owned(), |usage| text::bytes(usage.bytes)),
            checkpoint.usage.map_or_else(|| "-".to_owned(), |usage| usage.depth.to_string()),
            tree::remark(checkpoint),
        ]
    };
    let head = ["id", "name", "kind", "consistency", "made", "memory", "changes", "depth", ""];
    Answer::new(table::table(head, checkpoints.iter().map(row)), &checkpoints)
}

fn draw(vm: &Vm, checkpoints: &[Checkpoint]) -> Result<Answer, CliError> {
    let text = tree::tree(vm, checkpoints, Timestamp::now());
    Answer::new(text, &serde_json::json!({"vm": vm, "checkpoints": checkpoints}))
}
