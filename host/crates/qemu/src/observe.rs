//! What is true of an instance, asked of QEMU.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_common::DiskName;
use stillpoint_engine::ports::{Capture, HypervisorError, Intake, Observed, RunState, Trouble};

use crate::{
    attached::Attached,
    nodes::disk_of,
    qmp::commands::{BlockDevice, Migration, QueryBlock, QueryMigrate, QueryStatus},
};

/// There is no process.
pub(crate) const fn gone(intake: Intake) -> Observed {
    Observed { run: RunState::Gone, chains: BTreeMap::new(), attached: BTreeSet::new(), capture: Capture::None, intake }
}

pub(crate) async fn observe(at: &Attached, intake: Intake) -> Result<Observed, HypervisorError> {
    let status = at.run(&QueryStatus {}).await?.status;
    let layers = at.layers().await?;
    let capture = capture(at.run(&QueryMigrate {}).await?);
    let run = match run_state(&status) {
        RunState::Critical(_) => RunState::Critical(trouble(&at.run(&QueryBlock {}).await?)),
        run @ (RunState::Gone
        | RunState::AwaitingMemory
        | RunState::Paused
        | RunState::Running
        | RunState::Panicked
        | RunState::ShutDown) => run,
    };
    // While an instance loads its memory, the same answer speaks of loading.
    let capture = if run == RunState::AwaitingMemory { Capture::None } else { capture };
    Ok(Observed { run, chains: layers.chains, attached: layers.attached, capture, intake })
}

/// QEMU's names of run states. A name we do not know is a VM that does not run.
pub(crate) fn run_state(status: &str) -> RunState {
    match status {
        "running" | "suspended" => RunState::Running,
        "inmigrate" => RunState::AwaitingMemory,
        "io-error" | "internal-error" => RunState::Critical(Trouble { disk: None, no_space: false }),
        "shutdown" => RunState::ShutDown,
        "guest-panicked" => RunState::Panicked,
        _ => RunState::Paused,
    }
}

/// The first disk in trouble. One that has failed for another reason than want of space comes before those.
pub(crate) fn trouble(devices: &[BlockDevice]) -> Trouble {
    let status = |device: &BlockDevice| device.io_status.clone().filter(|status| status != "ok");
    let mut failed: Vec<_> =
        devices.iter().filter_map(|device| Some((status(device)?, disk_of(&device.qdev)))).collect();
    failed.sort_by_key(|(status, _)| status == "nospace");
    match failed.into_iter().next() {
        Some((status, disk)) => Trouble { disk, no_space: status == "nospace" },
        None => Trouble { disk: None, no_space: false },
    }
}

/// Its disk.
pub(crate) fn failed_disk(devices: &[BlockDevice]) -> Option<DiskName> {
    trouble(devices).disk
}

/// Pages are still to come in: QEMU loads its memory while its guest runs. It tells this in the words that it has for a
/// migration the other way, but those are never told of a capture.
pub(crate) fn takes_in(migration: &Migration) -> bool {
    migration.status.as_deref().is_some_and(|status| status.starts_with("postcopy"))
}

/// How a capture stands.
pub(crate) fn capture(migration: Migration) -> Capture {
    if takes_in(&migration) {
        return Capture::None;
    }
    match migration.status.as_deref() {
        None | Some("none" | "cancelled") => Capture::None,
        Some("completed") => Capture::Completed,
        Some("failed") => Capture::Failed(migration.error_desc.unwrap_or_else(|| "QEMU does not say why".to_owned())),
        Some(_) => Capture::Active,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn run_states_of_later_versions_are_standing_still() {
        assert_eq!(run_state("prelaunch"), RunState::Paused);
        assert_eq!(run_state("some-new-state"), RunState::Paused);
        assert_eq!(run_state("guest-panicked"), RunState::Panicked);
        assert_eq!(run_state("inmigrate"), RunState::AwaitingMemory);
        assert_eq!(run_state("io-error"), RunState::Critical(Trouble { disk: None, no_space: false }));
    }

    #[test]
    fn the_disk_that_failed_is_named() {
        let devices = serde_json::from_value::<Vec<BlockDevice>>(json!([
            {"qdev": "/machine/peripheral/disk-system/virtio-backend", "io-status": "ok"},
            {"qdev": "/machine/peripheral/disk-data/virtio-backend", "io-status": "nospace"},
            {"device": "cd0"},
        ]));
        let devices = devices.unwrap();
        assert_eq!(failed_disk(&devices), Some("data".parse().unwrap()));
        assert!(trouble(&devices).no_space);
        let failed = |status: &str| BlockDevice { io_status: Some(status.to_owned()), ..devices[0].clone() };
        let both = [devices[1].clone(), failed("failed")];
        assert_eq!(trouble(&both), Trouble { disk: Some("system".parse().unwrap()), no_space: false });
        assert_eq!(trouble(&[failed("ok")]), Trouble { disk: None, no_space: false });
    }

    #[test]
    fn a_capture_is_told_from_its_state() {
        let migration = |value| capture(serde_json::from_value::<Migration>(value).unwrap());
        assert_eq!(migration(json!({})), Capture::None);
        assert_eq!(migration(json!({"status": "cancelled"})), Capture::None);
        assert_eq!(migration(json!({"status": "setup"})), Capture::Active);
        assert_eq!(migration(json!({"status": "postcopy-active"})), Capture::None);
        assert_eq!(migration(json!({"status": "postcopy-paused"})), Capture::None);
        assert_eq!(migration(json!({"status": "completed", "ram": {"total": 1}})), Capture::Completed);
        assert!(matches!(migration(json!({"status": "failed"})), Capture::Failed(_)));
    }
}
