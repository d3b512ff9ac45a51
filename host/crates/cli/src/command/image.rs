//! `stillpoint image …`

use std::path::Path;

use super::{Context, confirm};
use crate::{
    CliError,
    args::{ImageCommand, MergeImage, parse},
    client::ImageMergeEvent,
    output::{Answer, note, text},
    view::{ImageMergePlan, ImageMerged},
};

pub(super) async fn run(context: &Context, command: &ImageCommand) -> Result<Answer, CliError> {
    let ImageCommand::Merge(asked) = command;
    let (child, into) = (path(&asked.child)?, path(&asked.into)?);
    let plan = plan(context, &child, &into).await?;
    if asked.dry_run {
        return Answer::new(plan_text(&plan), &plan);
    }
    let gone = if asked.remove_merged { "They are removed afterwards." } else { "They are kept." };
    confirm::ask(asked.consent, &format!("{}\n{gone} Merge them?", plan_text(&plan)))?;
    let merged = merge(context, &child, &into, asked).await?;
    Answer::new(merged_text(&into, &merged), &merged)
}

fn path(path: &Path) -> Result<String, CliError> {
    parse::absolute(path).map_err(|problem| CliError::usage(problem, "Give another path."))
}

async fn plan(context: &Context, child: &str, into: &str) -> Result<ImageMergePlan, CliError> {
    let mut stream = context.client.merge_image(child, into, true, false).await?;
    let mut plan = ImageMergePlan::default();
    while let Some(event) = stream.next().await? {
        if let ImageMergeEvent::Plan(told) = event {
            plan = told;
        }
    }
    Ok(plan)
}

async fn merge(context: &Context, child: &str, into: &str, asked: &MergeImage) -> Result<ImageMerged, CliError> {
    let mut stream = context.client.merge_image(child, into, false, asked.remove_merged).await?;
    let (mut merged, mut told) = (ImageMerged::default(), (String::new(), 0));
    while let Some(event) = stream.next().await? {
        match event {
            ImageMergeEvent::Plan(_) => {}
            ImageMergeEvent::Progress(progress) => {
                let tenth = (progress.done_bytes * 10).checked_div(progress.total_bytes).unwrap_or_default();
                let next = (progress.image, tenth);
                if !context.output.json && next != told {
                    note(&format!("  {}: {}%", next.0, next.1 * 10));
                    told = next;
                }
            }
            ImageMergeEvent::Merged(done) => merged = done,
        }
    }
    Ok(merged)
}

/// What is merged into what, and what that takes.
fn plan_text(plan: &ImageMergePlan) -> String {
    let mut lines: Vec<String> = plan.images.iter().map(|image| format!("  {image}")).collect();
    lines.insert(0, format!("Into {} are merged, the first one first:", plan.into));
    let (moves, needs) = (text::bytes(plan.move_bytes), text::bytes(plan.needed_bytes));
    lines.push(format!("At most {moves} are moved, and {needs} more are taken on disk meanwhile."));
    lines.join("\n")
}

fn merged_text(into: &str, merged: &ImageMerged) -> String {
    let mut lines = vec![format!("{into} has all of it")];
    lines.extend(merged.removed.iter().map(|image| format!("removed {image}")));
    lines.extend(merged.left.iter().map(|image| format!("not needed any more: {image}")));
    lines.join("\n")
}
