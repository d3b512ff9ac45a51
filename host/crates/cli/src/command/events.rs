//! `stillpoint events`

use serde_json::json;

use super::Context;
use crate::{
    CliError,
    args::EventsArgs,
    client::EventsFrom,
    output::{Answer, text},
    view::Event,
};

/// Prints what there is, or each event as it comes: one line for each, which with `--json` is one document.
pub(super) async fn run(context: &Context, asked: &EventsArgs) -> Result<Answer, CliError> {
    let from = match (&asked.since, asked.follow) {
        (Some(token), _) => EventsFrom::After(token.clone()),
        (None, true) => EventsFrom::Now,
        (None, false) => EventsFrom::Oldest,
    };
    let mut stream = context.client.events(from, asked.vm.as_ref(), asked.follow).await?;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await? {
        match asked.follow {
            false => events.push(event),
            true => {
                let printed = context.output.line(&line(&event), &event);
                printed.map_err(|source| CliError::Io { what: "standard output".to_owned(), source })?;
            }
        }
    }
    let lines: Vec<_> = events.iter().map(line).collect();
    match asked.follow {
        false => {
            Answer::new(if lines.is_empty() { "Nothing has happened.".to_owned() } else { lines.join("\n") }, &events)
        }
        true => Answer::new("", &json!({})),
    }
}

/// `2026-01-01 12:00:00  web  CHECKPOINT_CREATED  "before" was made  (12-0)`
fn line(event: &Event) -> String {
    let vm = event.vm.as_ref().map_or_else(|| "host".to_owned(), ToString::to_string);
    let reason = event.reason.as_ref().map(|reason| format!(" {reason}")).unwrap_or_default();
    format!("{}  {vm}  {}{reason}  {}  [{}]", text::time(event.time), text::word(event.kind), event.text, event.token)
}
