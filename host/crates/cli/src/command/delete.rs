//! `stillpoint checkpoint delete …`

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Context, confirm, select, work};
use crate::{
    CliError,
    args::{CheckpointRef, Consent, DeleteCheckpoints, FilterFlags, Waiting},
    output::{Answer, table, text},
    view::{Checkpoint, DeletePreview, MergePreview},
};

/// Finds what was typed wrongly before the service is asked.
pub(super) fn check(asked: &DeleteCheckpoints) -> Result<(), CliError> {
    match (&asked.checkpoint, asked.filter == FilterFlags::default()) {
        (None, true) => {
            let advice = "Name a checkpoint, or say which with --older-than, --name, --kind and the like.";
            Err(CliError::usage("it is not said which checkpoints", advice))
        }
        (Some(_), false) => {
            let advice = "Leave out the name, or --older-than, --name and the like.";
            Err(CliError::usage("either one checkpoint is named, or many are described", advice))
        }
        (Some(_), true) | (None, false) if asked.preview => Ok(()),
        (Some(_), true) | (None, false) => confirm::can_ask(asked.consent),
    }
}

pub(super) async fn run(context: &Context, asked: &DeleteCheckpoints) -> Result<Answer, CliError> {
    let going = going(context, asked).await?;
    let ids: Vec<_> = going.iter().map(|checkpoint| checkpoint.id).collect();
    if going.is_empty() {
        return Answer::new("No checkpoint is so.", &serde_json::json!([]));
    }
    if asked.preview {
        let preview = context.client.preview_delete(&asked.vm, &ids).await?;
        return Answer::new(preview_text(&preview), &preview);
    }
    confirm::ask(asked.consent, &question(&going))?;
    let (begun, what) = match going.as_slice() {
        [one] => (context.client.delete_checkpoint(&asked.vm, one.id).await?, format!("{:?} is", one.display_name)),
        many => {
            let what = format!("{} are", text::count(many.len(), "checkpoint"));
            (context.client.delete_checkpoints(&asked.vm, &ids).await?, what)
        }
    };
    work::finish(context, begun, asked.waiting, |_| format!("{what} deleted")).await
}

/// `stillpoint checkpoint delete-memory …`
pub(super) async fn memory(
    context: &Context,
    which: &CheckpointRef,
    consent: Consent,
    waiting: Waiting,
) -> Result<Answer, CliError> {
    let checkpoint = context.client.find_checkpoint(&which.vm, &which.checkpoint).await?;
    let question = format!("Delete the memory of {}? Applied, it leaves the VM off then.", called(&checkpoint));
    confirm::ask(consent, &question)?;
    let begun = context.client.delete_memory_state(&which.vm, checkpoint.id).await?;
    let done = format!("the memory of {:?} is deleted; its disks stay", checkpoint.display_name);
    work::finish(context, begun, waiting, |_| done).await
}

/// The checkpoints that go, oldest first. What came after them is found here, so that exactly those go that were shown.
async fn going(context: &Context, asked: &DeleteCheckpoints) -> Result<Vec<Checkpoint>, CliError> {
    let named = match &asked.checkpoint {
        Some(called) => vec![context.client.find_checkpoint(&asked.vm, called).await?],
        None => select::checkpoints(context, &asked.vm, &asked.filter).await?,
    };
    let named = named.into_iter().filter(|checkpoint| !checkpoint.deleting);
    if !asked.subtree {
        return Ok(named.collect());
    }
    let mut going: BTreeSet<_> = named.map(|checkpoint| checkpoint.id).collect();
    let mut all = context.client.list_checkpoints(&asked.vm).await?;
    all.retain(|checkpoint| !checkpoint.deleting);
    // Parents are older than their children.
    for checkpoint in &all {
        if checkpoint.parent.is_some_and(|parent| going.contains(&parent)) {
            going.insert(checkpoint.id);
        }
    }
    all.retain(|checkpoint| going.contains(&checkpoint.id));
    Ok(all)
}

fn question(going: &[Checkpoint]) -> String {
    match going {
        [one] => format!("Delete {}? Now and every other checkpoint stay as they are.", called(one)),
        many => {
            let names: String = many.iter().map(|checkpoint| format!("  {}\n", called(checkpoint))).collect();
            let count = text::count(many.len(), "checkpoint");
            format!("{names}Delete these {count}? Now and every other checkpoint stay as they are.")
        }
    }
}

fn called(checkpoint: &Checkpoint) -> String {
    format!("{:?} ({})", checkpoint.display_name, text::age(checkpoint.create_time, Timestamp::now()))
}

fn preview_text(preview: &DeletePreview) -> String {
    let row =
        |merge: &MergePreview| [merge.disk.clone(), text::bytes(merge.bytes), merge.from.clone(), merge.into.clone()];
    let merges = match preview.merges.as_slice() {
        [] => "Nothing is merged.\n".to_owned(),
        merges => table::table(["disk", "moves", "from", "into"], merges.iter().map(row)) + "\n",
    };
    let removed = preview.removed_files.iter().map(|file| format!("removed: {file}\n"));
    let kept = preview.kept_files.iter().map(|file| format!("kept until one layer lies on it: {file}\n"));
    let files: String = removed.chain(kept).collect();
    let time = preview.estimated_time_ms.map_or_else(|| "not known before the first merge".to_owned(), text::took);
    let rows = [
        ("checkpoints that go", preview.checkpoints.len().to_string()),
        ("to move", text::bytes(preview.move_bytes)),
        ("space needed, at most", text::bytes(preview.needed_bytes)),
        ("free again, at least", text::bytes(preview.freed_bytes)),
        ("memory that goes", text::bytes(preview.memory_bytes)),
        ("time, about", time),
    ];
    let summary: String = rows.iter().map(|(what, value)| format!("{what}: {value}\n")).collect();
    format!("{merges}{files}{summary}")
}
