//! The variables of a UEFI belong to a VM's checkpoints as its disks do.

use std::path::{Path, PathBuf};

use stillpoint_common::{CheckpointPolicy, DiskFormat, DiskName, Failure, Firmware, Reason, VmDefinition};
use stillpoint_engine::{NewCheckpoint, Request, StopMode, VmChange};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::SimHost;

const VARIABLES: &str = "/vm/web-uefi-vars.qcow2";

/// Gives the VM, which is off, this firmware.
async fn start_through(host: &SimHost, firmware: Firmware) -> Result<(), Failure> {
    let known = host.engine.vm(&host.vm()).await?.vm.definition;
    let definition = Some(VmDefinition { firmware, ..known });
    host.engine.update_vm(&host.vm(), VmChange { definition, ..VmChange::default() }).await.map(drop)
}

/// A VM that starts through UEFI, and runs.
async fn host() -> SimHost {
    let host = SimHost::new().await;
    start_through(&host, Firmware::Uefi { variables: None }).await.expect("it can be set");
    host.run(Request::Start).await.expect("it starts");
    set(&host, 1);
    host
}

/// The firmware puts something down, and so does the guest on its disks.
fn set(host: &SimHost, value: u64) {
    let variables = DiskName::uefi_variables();
    host.world.guest_write(&host.vm(), &variables, 1, value).expect("the VM runs");
    host.write(1, value);
}

fn variable(host: &SimHost) -> u64 {
    let content = host.world.guest_content(&host.vm(), &DiskName::uefi_variables()).expect("it has a process");
    content.get(&1).copied().unwrap_or_default()
}

async fn off(host: &SimHost) {
    host.run(Request::Stop(StopMode::TurnOff)).await.expect("it stops");
}

async fn firmware(host: &SimHost) -> Firmware {
    host.engine.vm(&host.vm()).await.expect("it is there").vm.definition.firmware
}

#[tokio::test(start_paused = true)]
async fn variables_come_back_with_a_checkpoint_of_every_kind() {
    let host = host().await;
    let quiet = NewCheckpoint { with_memory: true, ..NewCheckpoint::default() };
    let mut made = Vec::new();
    for (value, policy) in [(2, CheckpointPolicy::ProductionOnly), (3, CheckpointPolicy::Standard)] {
        set(&host, value);
        made.push((value, host.create(policy).await.unwrap().id));
    }
    set(&host, 4);
    host.run(Request::CreateCheckpoint(quiet)).await.unwrap();
    set(&host, 5);
    host.run(Request::Save).await.unwrap();
    host.run(Request::CreateCheckpoint(NewCheckpoint::default())).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(variable(&host), 5);
    set(&host, 6);
    off(&host).await;
    host.run(Request::CreateCheckpoint(NewCheckpoint::default())).await.unwrap();
    let all: Vec<_> = host.checkpoints().await.into_iter().map(|view| view.checkpoint).collect();
    assert_eq!(all.len(), 5);
    for (checkpoint, value) in all.iter().zip(2..) {
        assert!(checkpoint.disks.contains_key(&DiskName::uefi_variables()), "{checkpoint:?}");
        host.run(Request::Apply(checkpoint.id.into())).await.unwrap();
        if host.world.instances(&host.vm()).is_empty() {
            host.run(Request::Start).await.unwrap();
        }
        assert_eq!((variable(&host), host.read(1)), (value, value), "{:?}", checkpoint.kind);
        set(&host, 99);
    }
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn deleting_checkpoints_merges_the_variables_into_their_own_image() {
    let host = host().await;
    for value in 2..5 {
        host.create(CheckpointPolicy::Production).await.unwrap();
        set(&host, value);
    }
    let shown = host.engine.vm(&host.vm()).await.unwrap().disks;
    let (name, head, depth) = shown.last().expect("it has disks");
    assert_eq!((name.as_str(), *depth), ("uefi-vars", 4));
    assert_eq!(head.path.parent(), Path::new(VARIABLES).parent(), "layers lie beside their image");
    for view in host.checkpoints().await {
        host.run(Request::DeleteCheckpoint(view.checkpoint.id)).await.unwrap();
    }
    let merged = host.engine.vm(&host.vm()).await.unwrap().disks;
    let (_, head, depth) = merged.last().expect("it has disks");
    assert_eq!((head.path.clone(), *depth, variable(&host)), (PathBuf::from(VARIABLES), 1, 4));
    off(&host).await;
    assert_eq!(host.world.read(VARIABLES, 1), Some(4));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_export_has_the_variables_in_a_format_of_qemu() {
    let host = host().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    for (format, file, expected) in [
        (DiskFormat::Raw, "uefi-vars.raw", "raw"),
        (DiskFormat::Vhdx, "uefi-vars.qcow2", "qcow2"),
        (DiskFormat::Vpc, "uefi-vars.qcow2", "qcow2"),
    ] {
        let folder = Path::new("/exports").join(format.driver());
        host.run(Request::Export { checkpoint: made.id, folder: folder.clone(), format }).await.unwrap();
        let manifest = host.world.manifest(&folder).unwrap();
        let variables = manifest["disks"].as_array().unwrap().iter().find(|disk| disk["disk"] == "uefi-vars").unwrap();
        assert_eq!((&variables["file"], &variables["format"]), (&file.into(), &expected.into()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_firmware_changes_under_checkpoints_and_its_variables_are_kept() {
    let host = host().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    set(&host, 2);
    off(&host).await;
    start_through(&host, Firmware::Bios).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert!(host.world.guest_content(&host.vm(), &DiskName::uefi_variables()).is_none(), "the BIOS has none");
    off(&host).await;
    start_through(&host, Firmware::Uefi { variables: Some(VARIABLES.into()) }).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(variable(&host), 2, "put back, they are what they were");
    off(&host).await;
    start_through(&host, Firmware::Bios).await.unwrap();
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(firmware(&host).await, Firmware::Uefi { variables: Some(VARIABLES.into()) });
    host.run(Request::Start).await.unwrap();
    assert_eq!(variable(&host), 1);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn variables_that_are_gone_or_moved_are_what_a_disk_would_be() {
    let host = host().await;
    off(&host).await;
    assert!(host.world.lose_file(VARIABLES));
    assert_eq!(host.run(Request::Start).await.unwrap_err().reason, Reason::DiskFileMissing);
    start_through(&host, Firmware::Bios).await.unwrap();
    host.run(Request::Start).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_host_without_uefi_changes_nothing() {
    let host = SimHost::new().await;
    host.world.set_faults(FaultPlan::none().every(Call::CreateVariables, Fault::FailBefore));
    start_through(&host, Firmware::Uefi { variables: None }).await.unwrap_err();
    assert_eq!(firmware(&host).await, Firmware::Bios);
    host.run(Request::Start).await.unwrap();
    host.assert_clean().await;
}
