//! `stillpoint checkpoint …`

use jiff::Timestamp;
use stillpoint_common::{PowerState, VmId};

use super::{Context, confirm, delete, hardware, hazards, select, show, vm::state, work};
use crate::{
    CliError,
    args::{ApplyFlags, CheckpointCommand, CheckpointRef, RemarkFlags, parse},
    client::{ApplyAs, CheckpointChange, CheckpointToCreate, Machine, Now},
    output::{Answer, table, text, tree},
    view::{Checkpoint, Layer, Operation, SpecChange, Vm, usage},
};

/// Finds what was typed wrongly before the service is asked.
pub(super) fn check(command: &CheckpointCommand) -> Result<(), CliError> {
    match command {
        CheckpointCommand::Apply { how, .. } | CheckpointCommand::Revert { how, .. } => {
            if !how.discard_now && !how.checkpoint_first {
                let message = "what happened in the VM since its last checkpoint would be lost";
                let advice = "Add --discard-now to agree, or --checkpoint-first to keep it as a checkpoint.";
                return Err(CliError::usage(message, advice));
            }
            confirm::can_ask(how.consent)
        }
        CheckpointCommand::Delete(asked) => delete::check(asked),
        CheckpointCommand::DeleteMemory { consent, .. } => confirm::can_ask(*consent),
        CheckpointCommand::Create { .. }
        | CheckpointCommand::List { .. }
        | CheckpointCommand::Tree { .. }
        | CheckpointCommand::Show { .. }
        | CheckpointCommand::Diff { .. }
        | CheckpointCommand::Rename { .. }
        | CheckpointCommand::Set { .. }
        | CheckpointCommand::Advise { .. }
        | CheckpointCommand::Export { .. } => Ok(()),
    }
}

pub(super) async fn run(context: &Context, command: &CheckpointCommand) -> Result<Answer, CliError> {
    let client = &context.client;
    match command {
        CheckpointCommand::Create { vm, name, policy, with_memory, backup_type, remarks, waiting } => {
            let new = CheckpointToCreate {
                display_name: name.clone().unwrap_or_default(),
                policy: policy.map(Into::into),
                with_memory: *with_memory,
                backup_type: (*backup_type).into(),
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
        CheckpointCommand::Show { which, config: true } => hardware::answer(&find(context, which).await?.spec),
        CheckpointCommand::Show { which, config: false } => {
            let checkpoint = with_usage(find(context, which).await?, &client.layers(&which.vm).await?);
            Answer::new(show::checkpoint(&checkpoint), &checkpoint)
        }
        CheckpointCommand::Diff { which, with } => {
            hardware::diff(context, &which.vm, &which.checkpoint, with.as_deref()).await
        }
        CheckpointCommand::Apply { which, how } => apply(context, which, *how).await,
        CheckpointCommand::Revert { vm, how } => revert(context, vm, *how).await,
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

async fn apply(context: &Context, which: &CheckpointRef, how: ApplyFlags) -> Result<Answer, CliError> {
    let (vm, checkpoint) = (&which.vm, find(context, which).await?);
    hazards::ask(&checkpoint, how.consent, how.accept_hazards)?;
    confirm::ask(how.consent, &format!("Bring {vm} back to {}? {}", called(&checkpoint), at_stake(how)))?;
    let begun = context.client.apply_checkpoint_as(vm, checkpoint.id, as_asked(how)).await?;
    work::finish(context, begun, how.waiting, |done| back(vm, done)).await
}

async fn revert(context: &Context, vm: &VmId, how: ApplyFlags) -> Result<Answer, CliError> {
    if let Some(parent) = context.client.vm(vm).await?.parent_checkpoint {
        hazards::ask(&context.client.checkpoint(vm, parent).await?, how.consent, how.accept_hazards)?;
    }
    confirm::ask(how.consent, &format!("Bring {vm} back to its last checkpoint? {}", at_stake(how)))?;
    let begun = context.client.revert_vm_as(vm, as_asked(how)).await?;
    work::finish(context, begun, how.waiting, |done| back(vm, done)).await
}

const fn at_stake(how: ApplyFlags) -> &'static str {
    match how.checkpoint_first {
        true => "What happened in it since becomes a checkpoint first.",
        false => "What happened in it since is lost.",
    }
}

const fn as_asked(how: ApplyFlags) -> ApplyAs {
    let now = match how.checkpoint_first {
        true => Now::CheckpointFirst,
        false => Now::Discard,
    };
    ApplyAs { now, machine: machine(how) }
}

const fn machine(how: ApplyFlags) -> Machine {
    match (how.to_saved, how.without_memory) {
        (true, _) => Machine::Saved,
        (false, true) => Machine::WithoutMemory,
        (false, false) => Machine::AsCaptured,
    }
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

/// `brought back web: Running`, what became of Now, and what else has changed.
fn back(vm: &VmId, done: &Operation) -> String {
    let first = done.first_checkpoint.map(|id| format!("\nkept what was as checkpoint {id}")).unwrap_or_default();
    let stands = |vm: &Vm| matches!(vm.state, Some(PowerState::Off | PowerState::Saved));
    let off = done.vm_response().is_some_and(stands);
    let next = if off { format!("\nstart it with: stillpoint vm start {vm}") } else { String::new() };
    format!("brought back {}{first}{}{next}", state(vm, done), spec_changes(&done.spec_changes))
}

/// What went back beside disks and memory, a line for each field.
pub(super) fn spec_changes(changes: &[SpecChange]) -> String {
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let line =
        |change: &SpecChange| format!("\n  {}: {} -> {}", change.field, or_none(&change.from), or_none(&change.to));
    let lines: String = changes.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\nits configuration went back too:{lines}") }
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
            text::word(checkpoint.requested_policy),
            text::word(checkpoint.kind),
            text::word(checkpoint.consistency),
            text::age(checkpoint.create_time, now),
            if checkpoint.memory_bytes == 0 { "-".to_owned() } else { text::bytes(checkpoint.memory_bytes) },
            checkpoint.usage.map_or_else(|| "-".to_owned(), |usage| text::bytes(usage.bytes)),
            checkpoint.usage.map_or_else(|| "-".to_owned(), |usage| usage.depth.to_string()),
            tree::remark(checkpoint),
        ]
    };
    let head = ["id", "name", "asked", "kind", "consistency", "made", "memory", "changes", "depth", ""];
    Answer::new(table::table(head, checkpoints.iter().map(row)), &checkpoints)
}

fn draw(vm: &Vm, checkpoints: &[Checkpoint]) -> Result<Answer, CliError> {
    let text = tree::tree(vm, checkpoints, Timestamp::now());
    Answer::new(text, &serde_json::json!({"vm": vm, "checkpoints": checkpoints}))
}
