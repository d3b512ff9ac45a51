//! Age, number, size and files of checkpoints, as a plugin for Nagios and its kin.
//!
//! ```text
//! STILLPOINT WARNING - web: its oldest checkpoint is 4 days old | 'web_age'=345600s;259200;1209600;0 'web_count'=…
//! ```
//!
//! What is wrong is decided in [`judge`], of what the service said; nothing is ever deleted.

use std::{cmp::Reverse, fmt::Write as _, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::PowerState;

use super::{Context, settings};
use crate::{
    CliError,
    args::{CheckArgs, Cli},
    client::Client,
    output::{Answer, Output, text},
    view::{Checkpoint, Finding, Growth, Layer, Vm, growth},
};

/// What a plugin answers, with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum State {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

/// One VM, as far as it matters here.
struct Seen {
    vm: Vm,
    checkpoints: Vec<Checkpoint>,
    layers: Vec<Layer>,
    growth: Option<Growth>,
}

/// What is the matter, and the figures.
#[derive(Debug, Serialize)]
struct Verdict {
    state: State,
    problems: Vec<Problem>,
    /// As the plugin's performance data has them.
    figures: Vec<String>,
    vms: usize,
    checkpoints: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Problem {
    state: State,
    what: String,
}

/// A service that does not answer is `UNKNOWN`, on standard output as everything a plugin says.
pub(super) async fn run(cli: &Cli, args: &CheckArgs) -> Result<Answer, CliError> {
    match look(cli, args).await {
        Ok((seen, findings)) => answer(&judge(&seen, &findings, args, Timestamp::now())),
        Err(error) => {
            let document = serde_json::json!({"state": State::Unknown, "error": error.to_string()});
            Ok(Answer::new(format!("STILLPOINT UNKNOWN - {error}"), &document)?.ends_with(State::Unknown as u8))
        }
    }
}

async fn look(cli: &Cli, args: &CheckArgs) -> Result<(Vec<Seen>, Vec<Finding>), CliError> {
    let context = Context { client: Client::connect(&cli.socket).await?, output: Output { json: cli.json } };
    let mut seen = Vec::new();
    for vm in settings::choose(&context, &args.which).await? {
        let checkpoints = context.client.list_checkpoints(&vm.id).await?;
        let layers = context.client.layers(&vm.id).await?;
        let growth = growth(&vm, &layers, Timestamp::now());
        seen.push(Seen { vm, checkpoints, layers, growth });
    }
    let mut findings = Vec::new();
    if !args.no_files {
        let all = args.which.patterns.is_empty() && args.which.labels.is_empty();
        match all {
            true => findings = context.client.check(None).await?,
            false => {
                for seen in &seen {
                    findings.extend(context.client.check(Some(&seen.vm.id)).await?);
                }
            }
        }
    }
    Ok((seen, findings))
}

fn judge(seen: &[Seen], findings: &[Finding], args: &CheckArgs, now: Timestamp) -> Verdict {
    let mut problems: Vec<Problem> = seen.iter().flat_map(|seen| of_vm(seen, args, now)).collect();
    let wrong = findings.iter().filter(|finding| !finding.note);
    problems.extend(wrong.clone().map(|finding| Problem { state: severity(finding), what: finding.message.clone() }));
    let mut figures: Vec<_> = seen.iter().flat_map(|seen| figures(seen, args, now)).collect();
    if !args.no_files {
        let orphans = wrong.clone().filter(|finding| severity(finding) == State::Warning).count();
        figures.push(format!("'orphans'={orphans};1;;0"));
        figures.push(format!("'damage'={};;1;0", wrong.count() - orphans));
    }
    let state = problems.iter().map(|problem| problem.state).max().unwrap_or(State::Ok);
    problems.sort_by_key(|problem| Reverse(problem.state));
    let checkpoints = seen.iter().map(|seen| seen.checkpoints.len()).sum();
    Verdict { state, problems, figures, vms: seen.len(), checkpoints }
}

/// Files that are only left over harm nobody yet.
fn severity(finding: &Finding) -> State {
    match finding.kind.as_str() {
        "UNKNOWN_LAYER" | "UNKNOWN_FILE" | "UNFINISHED_EXPORT" | "DESCRIPTION_DIFFERS" => State::Warning,
        _ => State::Critical,
    }
}

fn of_vm(seen: &Seen, args: &CheckArgs, now: Timestamp) -> Vec<Problem> {
    let (id, mut found) = (&seen.vm.id, Vec::new());
    let age = age(seen, now);
    let days = text::age(now.checked_sub(age).ok(), now);
    match level(age, args.warn_age, args.crit_age) {
        State::Ok | State::Unknown => {}
        state @ (State::Warning | State::Critical) => {
            found.push(Problem { state, what: format!("{id}: its oldest checkpoint is of {days}") })
        }
    }
    let count = seen.checkpoints.len();
    match level(count, args.warn_count, args.crit_count) {
        State::Ok | State::Unknown => {}
        state @ (State::Warning | State::Critical) => {
            found.push(Problem { state, what: format!("{id}: {}", text::count(count, "checkpoint")) })
        }
    }
    for expired in seen.checkpoints.iter().filter(|it| it.keep_until.is_some_and(|until| until <= now)) {
        let what = format!("{id}: {:?} was to be kept until {}", expired.display_name, text::time(expired.keep_until));
        found.push(Problem { state: State::Warning, what });
    }
    if let Some(full) = seen.growth.and_then(|growth| growth.full_in_seconds) {
        // The less is left, the worse.
        let state = level(Reverse(full), Reverse(args.warn_full.as_secs()), Reverse(args.crit_full.as_secs()));
        if matches!(state, State::Warning | State::Critical) {
            let what = format!("{id}: if its disks grow on so, there is no space left in {}", text::span(full));
            found.push(Problem { state, what });
        }
    }
    if seen.vm.state == Some(PowerState::PausedCritical) {
        found.push(Problem { state: State::Critical, what: format!("{id}: {}", seen.vm.status_line) });
    }
    found
}

fn level<T: PartialOrd>(value: T, warn: T, critical: T) -> State {
    if value >= critical {
        return State::Critical;
    }
    if value >= warn { State::Warning } else { State::Ok }
}

/// The age of the oldest checkpoint that somebody made; an automatic one is as old as the VM's run.
fn age(seen: &Seen, now: Timestamp) -> Duration {
    let made = seen.checkpoints.iter().filter(|checkpoint| !checkpoint.automatic);
    let oldest = made.filter_map(|checkpoint| checkpoint.create_time).min();
    oldest.and_then(|oldest| Duration::try_from(now.duration_since(oldest)).ok()).unwrap_or_default()
}

fn figures(seen: &Seen, args: &CheckArgs, now: Timestamp) -> Vec<String> {
    let id = &seen.vm.id;
    let memory = seen.checkpoints.iter().map(|checkpoint| checkpoint.memory_bytes).fold(0, u64::saturating_add);
    let above = seen.layers.iter().filter(|layer| !layer.backing_layer.is_empty());
    let layers = above.map(|layer| layer.allocated_bytes).fold(0, u64::saturating_add);
    let depth = seen.vm.disks.iter().map(|disk| disk.depth).max().unwrap_or_default();
    let mut figures = vec![
        format!("'{id}_age'={}s;{};{};0", age(seen, now).as_secs(), args.warn_age.as_secs(), args.crit_age.as_secs()),
        format!("'{id}_count'={};{};{};0", seen.checkpoints.len(), args.warn_count, args.crit_count),
        format!("'{id}_memory'={memory}B;;;0"),
        format!("'{id}_layers'={layers}B;;;0"),
        format!("'{id}_depth'={depth};;;0"),
    ];
    let growth = seen.growth;
    let rate = growth.and_then(|growth| growth.bytes_per_hour);
    figures.extend(rate.map(|rate| format!("'{id}_growth_per_hour'={rate}B;;;0")));
    let (warn, critical) = (args.warn_full.as_secs(), args.crit_full.as_secs());
    let full = growth.and_then(|growth| growth.full_in_seconds);
    // A range: what is below is the problem.
    figures.extend(full.map(|full| format!("'{id}_full_in'={full}s;{warn}:;{critical}:;0")));
    figures
}

fn answer(verdict: &Verdict) -> Result<Answer, CliError> {
    let word = text::word(Some(verdict.state));
    let first = match verdict.problems.first() {
        Some(problem) if verdict.problems.len() == 1 => problem.what.clone(),
        Some(problem) => format!("{} (and {} more)", problem.what, verdict.problems.len() - 1),
        None => format!("{} on {}", text::count(verdict.checkpoints, "checkpoint"), text::count(verdict.vms, "VM")),
    };
    let mut said = format!("STILLPOINT {word} - {} | {}", plain(&first), verdict.figures.join(" "));
    for problem in verdict.problems.iter().skip(1) {
        // Writing into a String does not fail.
        let _ = write!(said, "\n{}: {}", text::word(Some(problem.state)), plain(&problem.what));
    }
    Ok(Answer::new(said, verdict)?.ends_with(verdict.state as u8))
}

/// The bar begins the performance data: no name or path may hold one.
fn plain(text: &str) -> String {
    text.replace(['|', '\n'], " ")
}
