//! Progress of an operation: a bar on a terminal, a line for each phase that has ended elsewhere.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Output, note, phases};
use crate::view::Operation;

const SPINNER: &str = "{spinner} {prefix} {msg} {elapsed}";
const BAR: &str = "{spinner} {prefix} {msg} [{bar:20}] {percent}% {bytes}/{total_bytes}, {eta} left";

/// Shows the progress of one operation on standard error.
pub(crate) enum Follower {
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere: phases that have ended, and how many of them were printed.
    Lines(usize),
    /// To a program that wants JSON and nothing else.
    Silent,
}

impl Follower {
    /// Begins to follow an operation.
    pub(crate) fn new(output: Output, operation: &Operation) -> Self {
        if stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_prefix(title(operation));
            bar.enable_steady_tick(Duration::from_millis(120));
            return Self::Bar(bar);
        }
        if output.json { Self::Silent } else { Self::Lines(0) }
    }

    /// Shows a state of the operation.
    pub(crate) fn see(&mut self, operation: &Operation) {
        match self {
            Self::Bar(bar) => draw(bar, operation),
            Self::Lines(printed) => {
                operation.phases.iter().skip(*printed).for_each(|phase| note(&format!("  {}", phases::phase(phase))));
                *printed = operation.phases.len().max(*printed);
            }
            Self::Silent => (),
        }
    }

    /// Takes the bar away; its place is taken by the phases with their durations.
    pub(crate) fn end(self, operation: Option<&Operation>) {
        let Self::Bar(bar) = self else { return };
        bar.finish_and_clear();
        if let Some(operation) = operation.filter(|operation| !operation.phases.is_empty()) {
            note(&phases::line(&operation.phases));
        }
    }
}

fn draw(bar: &ProgressBar, operation: &Operation) {
    let (template, length) = match operation.total_bytes {
        0 => (SPINNER, None),
        total => (BAR, Some(total)),
    };
    if bar.length() != length {
        // The templates are constants; one that is wrong shows as the default bar.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        length.map_or_else(|| bar.unset_length(), |length| bar.set_length(length));
    }
    if bar.message() != operation.phase {
        bar.reset_eta();
    }
    bar.set_position(operation.done_bytes);
    bar.set_message(operation.phase.clone());
}

/// `CREATE_CHECKPOINT` as `create checkpoint`.
fn title(operation: &Operation) -> String {
    operation.kind.to_lowercase().replace('_', " ")
}
