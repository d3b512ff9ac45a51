//! The state of a VM in words: `Off`, `Running`, `Merging (42%)`, `Creating checkpoint (capture 42%)`.

use stillpoint_common::{Operation, OperationKind, OperationState, PowerState, Progress};

/// What works on the VM, with how far it is; without such, whether the VM runs.
#[must_use]
pub fn status_line(power: PowerState, operation: Option<&Operation>) -> String {
    let at_work = operation.filter(|operation| operation.state == OperationState::Running);
    at_work.map_or_else(|| power_text(power).to_owned(), work_text)
}

const fn power_text(power: PowerState) -> &'static str {
    match power {
        PowerState::Off => "Off",
        PowerState::Running => "Running",
        PowerState::Paused => "Paused",
        PowerState::PausedCritical => "Paused: a disk cannot be written",
        PowerState::Saved => "Saved",
    }
}

fn work_text(operation: &Operation) -> String {
    let label = label(operation);
    let phase = Some(operation.phase.as_str()).filter(|phase| !phase.is_empty() && !says(label, phase));
    match (phase, percent(operation.progress)) {
        (None, None) => label.to_owned(),
        (Some(phase), None) => format!("{label} ({phase})"),
        (None, Some(percent)) => format!("{label} ({percent}%)"),
        (Some(phase), Some(percent)) => format!("{label} ({phase} {percent}%)"),
    }
}

fn label(operation: &Operation) -> &'static str {
    match operation.kind {
        OperationKind::StartVm => "Starting",
        OperationKind::StopVm => "Stopping",
        OperationKind::PauseVm => "Pausing",
        OperationKind::ResumeVm => "Resuming",
        OperationKind::SaveVm => "Saving",
        OperationKind::DiscardSavedState => "Discarding saved state",
        OperationKind::CreateCheckpoint => "Creating checkpoint",
        OperationKind::ApplyCheckpoint => "Applying checkpoint",
        OperationKind::DeleteCheckpoint if operation.phase != MERGE => "Deleting checkpoint",
        OperationKind::DeleteCheckpoint | OperationKind::CollectLayers => "Merging",
        OperationKind::DeleteMemoryState => "Deleting memory state",
        OperationKind::ExportCheckpoint => "Exporting",
        OperationKind::ImportVm => "Importing",
    }
}

const MERGE: &str = "merge";

/// A phase that the label says already is not repeated.
fn says(label: &str, phase: &str) -> bool {
    matches!((label, phase), ("Merging", MERGE) | ("Saving", "save") | ("Exporting", "copy" | "export"))
}

/// How far a phase is, in whole percent; `None` if its size is not known.
fn percent(progress: Progress) -> Option<u64> {
    let done = u128::from(progress.done.min(progress.total)) * 100;
    let percent = done.checked_div(u128::from(progress.total))?;
    u64::try_from(percent).ok()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use stillpoint_common::{OperationId, Outcome};

    use super::*;

    fn line(kind: OperationKind, phase: &str, done: u64, total: u64) -> String {
        let operation = Operation {
            id: OperationId::generate(),
            kind,
            vm: "web".parse().unwrap(),
            checkpoint: None,
            state: OperationState::Running,
            phase: phase.to_owned(),
            progress: Progress { done, total },
            phases: vec![],
            warnings: vec![],
            changes: vec![],
            first_checkpoint: None,
            started: Timestamp::UNIX_EPOCH,
            ended: None,
        };
        let ended = Operation { state: OperationState::Done(Outcome::Gone), ..operation.clone() };
        assert_eq!(status_line(PowerState::Paused, Some(&ended)), "Paused");
        status_line(PowerState::Running, Some(&operation))
    }

    #[test]
    fn the_line_says_what_is_at_work_and_how_far_it_is() {
        assert_eq!(status_line(PowerState::Off, None), "Off");
        assert_eq!(status_line(PowerState::Running, None), "Running");
        assert_eq!(status_line(PowerState::PausedCritical, None), "Paused: a disk cannot be written");
        assert_eq!(line(OperationKind::CreateCheckpoint, "capture", 42, 100), "Creating checkpoint (capture 42%)");
        assert_eq!(line(OperationKind::CreateCheckpoint, "freeze", 0, 0), "Creating checkpoint (freeze)");
        assert_eq!(line(OperationKind::CreateCheckpoint, "", 0, 0), "Creating checkpoint");
        assert_eq!(line(OperationKind::DeleteCheckpoint, "merge", 42, 100), "Merging (42%)");
        assert_eq!(line(OperationKind::DeleteCheckpoint, "mark-gone", 0, 0), "Deleting checkpoint (mark-gone)");
        assert_eq!(line(OperationKind::CollectLayers, "merge", u64::MAX, u64::MAX), "Merging (100%)");
        assert_eq!(line(OperationKind::ExportCheckpoint, "copy", 300, 200), "Exporting (100%)");
        assert_eq!(line(OperationKind::StopVm, "", 0, 0), "Stopping");
    }
}
