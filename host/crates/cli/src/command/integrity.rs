//! Whether files are what the catalogue says, and making the catalogue again from them.

use std::path::PathBuf;

use super::Context;
use crate::{
    CliError,
    output::{Answer, text},
    view::{LeftDescription, Rebuilt, RebuiltVm},
};

pub(super) async fn rebuild(context: &Context, folders: &[PathBuf]) -> Result<Answer, CliError> {
    let rebuilt = context.client.rebuild(folders).await?;
    Answer::new(rebuilt_text(&rebuilt), &rebuilt)
}

fn rebuilt_text(rebuilt: &Rebuilt) -> String {
    let taken = rebuilt.taken.iter().map(taken_text);
    let left = |LeftDescription { file, why }: &LeftDescription| format!("left {file}\n  {why}\n");
    let lines: String = taken.chain(rebuilt.left.iter().map(left)).collect();
    if lines.is_empty() { "There are no descriptions in these folders.".to_owned() } else { lines }
}

fn taken_text(taken: &RebuiltVm) -> String {
    let (checkpoints, layers) = (taken.checkpoints as usize, taken.layers as usize);
    let runs = if taken.running { ", running" } else { "" };
    let (checkpoints, layers) = (text::count(checkpoints, "checkpoint"), text::count(layers, "layer"));
    let notes: String = taken.notes.iter().map(|note| format!("  {note}\n")).collect();
    format!("taken {}: {checkpoints}, {layers}{runs}\n{notes}", taken.id)
}
