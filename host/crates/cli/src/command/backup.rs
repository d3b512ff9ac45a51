//! `stillpoint backup …`

use super::Context;
use crate::{
    CliError,
    args::{BackupCommand, Changed},
    output::{Answer, table, text},
    view::{ByteRange, ChangedRanges},
};

pub(super) async fn run(context: &Context, command: &BackupCommand) -> Result<Answer, CliError> {
    match command {
        BackupCommand::Changed(asked) => changed(context, asked).await,
    }
}

async fn changed(context: &Context, asked: &Changed) -> Result<Answer, CliError> {
    let Changed { vm, disk, from, to } = asked;
    let client = &context.client;
    let to = client.find_checkpoint(vm, to).await?.id;
    let from = match from {
        Some(from) => Some(client.find_checkpoint(vm, from).await?.id),
        None => None,
    };
    let changed = client.changed_ranges(vm, disk, from, to).await?;
    Answer::new(changed_text(&changed), &changed)
}

fn changed_text(changed: &ChangedRanges) -> String {
    let row = |range: &ByteRange| [range.offset.to_string(), range.length.to_string()];
    let (bytes, size) = (text::bytes(changed.changed_bytes), text::bytes(changed.to_bytes));
    let total = format!("{bytes} of {size}");
    match changed.ranges.is_empty() {
        true => total,
        false => format!("{}\n{total}", table::table(["offset", "length"], changed.ranges.iter().map(row))),
    }
}
