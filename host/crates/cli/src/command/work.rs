//! Waiting for work that was begun.

use std::time::Duration;

use super::Context;
use crate::{
    CliError,
    args::Waiting,
    client::ClientError,
    output::{Answer, follow::Follower, note, text, warn},
    view::{Checkpoint, Operation},
};

/// Waits for the end of what was begun, with progress, and answers with `done` of it; or answers at once, if so wanted.
pub(crate) async fn finish(
    context: &Context,
    begun: Operation,
    waiting: Waiting,
    done: impl FnOnce(&Operation) -> String,
) -> Result<Answer, CliError> {
    if waiting.at_once {
        if !context.output.json {
            note(&format!("watch it with: stillpoint operation watch {}", begun.id));
        }
        return Answer::new(begun.id.to_string(), &begun);
    }
    let ended = follow(context, begun, true).await?;
    Answer::new(done(&ended), &ended)
}

/// Follows an operation until it ends. One that failed is an error. Warnings are printed.
pub(crate) async fn follow(context: &Context, begun: Operation, show: bool) -> Result<Operation, CliError> {
    let mut follower = if show { Follower::new(context.output, &begun) } else { Follower::Silent };
    let ended = tokio::select! {
        ended = context.client.watch(begun.id, |operation| follower.see(operation)) => ended.map_err(CliError::from),
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted { operation: begun.id.to_string() }),
    };
    follower.end(ended.as_ref().ok());
    let ended = ended?;
    warnings(&ended);
    match ended.refusal() {
        Some(refusal) => Err(ClientError::Refused(refusal.clone()).into()),
        None => Ok(ended),
    }
}

/// As [`follow`] without progress, and for a limited time.
pub(crate) async fn wait(context: &Context, begun: Operation, within: Option<Duration>) -> Result<Operation, CliError> {
    let operation = begun.id.to_string();
    let ended = follow(context, begun, false);
    match within {
        None => ended.await,
        Some(within) => tokio::time::timeout(within, ended).await.unwrap_or(Err(CliError::StillAtWork { operation })),
    }
}

fn warnings(operation: &Operation) {
    let made = operation.checkpoint_response();
    if let Some(text) = made.and_then(fallback_text) {
        warn(&text);
    }
    // The service warns of a fallback too, in other words and with the same detail.
    let detail = made.map(|made| made.fallback_detail.as_str()).filter(|detail| !detail.is_empty());
    let told = |warning: &&String| detail.is_some_and(|detail| warning.contains(detail));
    operation.warnings.iter().filter(|warning| !told(warning)).for_each(|warning| warn(warning));
}

/// What was asked, what was made instead, and why; `None` if there was no fallback.
pub(crate) fn fallback_text(checkpoint: &Checkpoint) -> Option<String> {
    let reason = text::word(Some(checkpoint.fallback_reason?));
    let (asked, made) = (text::word(checkpoint.requested_policy), text::word(checkpoint.kind));
    let detail = Some(checkpoint.fallback_detail.as_str()).filter(|detail| !detail.is_empty());
    let why = detail.map_or_else(|| reason.clone(), |detail| format!("{detail} ({reason})"));
    Some(format!("a {asked} checkpoint was asked for and a {made} one was made: {why}"))
}
