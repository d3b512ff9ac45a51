//! Whether files are what the catalogue says, and making the catalogue again from them.

use std::path::PathBuf;

use stillpoint_common::VmId;

use super::Context;
use crate::{
    CliError,
    args::{Reconnect, parse},
    output::{Answer, table, text},
    view::{Finding, Layer, LeftDescription, Rebuilt, RebuiltVm},
};

/// What was found wrong ends the program with a code of its own.
pub(super) async fn check(context: &Context, vm: Option<&VmId>) -> Result<Answer, CliError> {
    let findings = context.client.check(vm).await?;
    let wrong = findings.iter().filter(|finding| !finding.note).count();
    let lines: String = findings.iter().map(finding_text).collect();
    let text = if findings.is_empty() { "Everything is as the catalogue says.".to_owned() } else { lines };
    Ok(Answer::new(text, &findings)?.ends_with(if wrong == 0 { 0 } else { FOUND_WRONG }))
}

const FOUND_WRONG: u8 = 4;

/// ```text
/// LAYER_MISSING web: /vm/web-1.qcow2 (disk system) does not exist
///   keeps from: 019a…, Now
///   what to do: …
/// ```
fn finding_text(finding: &Finding) -> String {
    let vm = finding.vm.as_ref().map(|vm| format!(" {vm}")).unwrap_or_default();
    let mut kept: Vec<String> = finding.checkpoints.iter().map(ToString::to_string).collect();
    kept.extend(finding.now.then(|| "Now".to_owned()));
    let kept = if kept.is_empty() { String::new() } else { format!("  keeps from using: {}\n", kept.join(", ")) };
    format!("{}{vm}: {}\n{kept}  what to do: {}\n", finding.kind, finding.message, finding.advice)
}

pub(super) async fn layers(context: &Context, vm: &VmId) -> Result<Answer, CliError> {
    let layers = context.client.layers(vm).await?;
    Answer::new(layers_text(&layers), &layers)
}

pub(super) async fn reconnect(context: &Context, asked: &Reconnect) -> Result<Answer, CliError> {
    let path = parse::absolute(&asked.path);
    let path = path.map_err(|problem| CliError::usage(problem, "Give a file or folder of the host."))?;
    let layers = context.client.reconnect(&asked.vm, &asked.what, &path, asked.accept_changed).await?;
    Answer::new(layers_text(&layers), &layers)
}

fn layers_text(layers: &[Layer]) -> String {
    let row = |layer: &Layer| {
        let kind = if layer.backing_layer.is_empty() { "BASE" } else { "DIFFERENCING" };
        [
            layer.disk.clone(),
            layer.layer.clone(),
            kind.to_owned(),
            layer.format.clone(),
            text::bytes(layer.virtual_bytes),
            if layer.missing { "-".to_owned() } else { text::bytes(layer.allocated_bytes) },
            needed_by(layer),
            state(layer),
        ]
    };
    let head = ["disk", "layer", "type", "format", "size", "on disk", "read by", "state"];
    let on = |layer: &Layer| match layer.backing_path.as_str() {
        "" => String::new(),
        path => format!(" on {path}"),
    };
    let files: String = layers.iter().map(|layer| format!("\n{}: {}{}", layer.layer, layer.path, on(layer))).collect();
    format!("{}\n{files}", table::table(head, layers.iter().map(row)))
}

fn needed_by(layer: &Layer) -> String {
    let checkpoints = (!layer.checkpoints.is_empty()).then(|| text::count(layer.checkpoints.len(), "checkpoint"));
    let readers: Vec<String> = checkpoints.into_iter().chain(layer.now.then(|| "Now".to_owned())).collect();
    if readers.is_empty() { "nobody".to_owned() } else { readers.join(", ") }
}

fn state(layer: &Layer) -> String {
    match (layer.missing, layer.problems.first()) {
        (true, _) => "MISSING".to_owned(),
        (false, Some(problem)) => problem.clone(),
        (false, None) => "OK".to_owned(),
    }
}

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
