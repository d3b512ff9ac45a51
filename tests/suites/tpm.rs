//! What a TPM keeps belongs to a VM's checkpoints, of every kind.

use std::path::PathBuf;

use stillpoint_common::{CheckpointPolicy, DiskFormat, Failure, Reason, Tpm, VmDefinition};
use stillpoint_engine::{ApplyRequest, Machine, NewCheckpoint, Request, StopMode, VmChange};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::SimHost;

/// Gives the VM, which is off, a TPM or takes it out.
async fn with(host: &SimHost, tpm: Tpm) -> Result<(), Failure> {
    let known = host.engine.vm(&host.vm()).await?.vm.definition;
    let definition = Some(VmDefinition { tpm, ..known });
    host.engine.update_vm(&host.vm(), VmChange { definition, ..VmChange::default() }).await.map(drop)
}

/// A VM with a TPM, which runs.
async fn host() -> SimHost {
    let host = SimHost::new().await;
    with(&host, Tpm::V2).await.expect("it can be set");
    host.run(Request::Start).await.expect("it starts");
    set(&host, 1);
    host
}

/// The TPM keeps something, and so does the guest on its disks.
fn set(host: &SimHost, value: u64) {
    assert!(host.world.write_tpm(&host.vm(), value), "the VM runs and has a TPM");
    host.write(1, value);
}

fn tpm(host: &SimHost) -> Option<u64> {
    host.world.read_tpm(&host.vm())
}

async fn off(host: &SimHost) {
    host.run(Request::Stop(StopMode::TurnOff)).await.expect("it stops");
}

/// The folder of Now's TPM.
async fn folder(host: &SimHost) -> Option<PathBuf> {
    host.engine.vm(&host.vm()).await.expect("it is there").vm.tpm
}

#[tokio::test(start_paused = true)]
async fn a_tpm_comes_back_with_a_checkpoint_of_every_kind() {
    let host = host().await;
    for (value, policy) in [(2, CheckpointPolicy::ProductionOnly), (3, CheckpointPolicy::Standard)] {
        set(&host, value);
        host.create(policy).await.unwrap();
    }
    set(&host, 4);
    let quiet = NewCheckpoint { with_memory: true, ..NewCheckpoint::default() };
    host.run(Request::CreateCheckpoint(quiet)).await.unwrap();
    set(&host, 5);
    host.run(Request::Save).await.unwrap();
    host.run(Request::CreateCheckpoint(NewCheckpoint::default())).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(tpm(&host), Some(5), "a saved VM goes on with its own");
    set(&host, 6);
    off(&host).await;
    host.run(Request::CreateCheckpoint(NewCheckpoint::default())).await.unwrap();
    let all: Vec<_> = host.checkpoints().await.into_iter().map(|view| view.checkpoint).collect();
    assert_eq!(all.len(), 5);
    for machine in [Machine::AsCaptured, Machine::WithoutMemory] {
        for (checkpoint, value) in all.iter().zip(2..) {
            let request = ApplyRequest { machine, ..checkpoint.id.into() };
            host.run(Request::Apply(request)).await.unwrap();
            if host.world.instances(&host.vm()).is_empty() {
                host.run(Request::Start).await.unwrap();
            }
            assert_eq!((tpm(&host), host.read(1)), (Some(value), value), "{:?}, {machine:?}", checkpoint.kind);
            assert_eq!(host.world.tpm_folders(), [folder(&host).await.unwrap()], "that of the past is gone");
            set(&host, 99);
        }
    }
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_but_a_read_comes_into_the_held_window() {
    let host = host().await;
    host.world.set_faults(FaultPlan::none());
    host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    let held = host.world.changes_while_held();
    assert!(!held.iter().any(|call| matches!(call, Call::PutTpm | Call::RemoveTpm)), "{held:?}");
    let calls = host.world.calls();
    let at = |wanted| calls.iter().position(|call| *call == wanted).expect("it is called");
    assert!(at(Call::Freeze) < at(Call::TakeTpm) && at(Call::TakeTpm) < at(Call::Thaw), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_checkpoint_forgets_its_secrets_and_an_export_has_them() {
    let host = host().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!(made.tpm.as_ref().map(|state| state.bytes().to_vec()), Some(1_u64.to_le_bytes().to_vec()));
    set(&host, 2);
    let export = Request::Export { checkpoint: made.id, folder: "/exports/one".into(), format: DiskFormat::Qcow2 };
    host.run(export).await.unwrap();
    let files = host.engine.export_files("/exports/one".as_ref()).await.unwrap();
    assert!(files.iter().any(|file| file.path == "tpm2-00.permall" && file.bytes == 8), "{files:?}");
    let manifest = host.world.manifest("/exports/one").unwrap();
    assert_eq!((&manifest["tpm"]["file"], &manifest["definition"]["tpm"]), (&"tpm2-00.permall".into(), &"V2".into()));
    let secret = "0100000000000000";
    let holds = |host: &SimHost| host.world.records().values().any(|it| String::from_utf8_lossy(it).contains(secret));
    assert!(holds(&host));
    host.run(Request::DeleteCheckpoint(made.id)).await.unwrap();
    let left = host.world.records();
    let left: Vec<_> = left.iter().filter(|(_, it)| String::from_utf8_lossy(it).contains(secret)).collect();
    assert!(left.iter().all(|(key, _)| !key.starts_with("checkpoint/")), "{left:?}");
    assert_eq!(tpm(&host), Some(2));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_tpm_that_is_taken_out_is_kept_and_goes_with_an_apply() {
    let host = host().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    set(&host, 2);
    off(&host).await;
    with(&host, Tpm::Absent).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(tpm(&host), None);
    let bare = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!(bare.tpm, None);
    off(&host).await;
    with(&host, Tpm::V2).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(tpm(&host), Some(2), "put in again, it is the same");
    host.run(Request::Apply(bare.id.into())).await.unwrap();
    assert_eq!((folder(&host).await, host.world.tpm_folders()), (None, vec![]));
    host.run(Request::Apply(made.id.into())).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(tpm(&host), Some(1));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_forgotten_leaves_what_its_tpm_keeps_and_no_empty_folder() {
    let host = SimHost::new().await;
    with(&host, Tpm::V2).await.unwrap();
    assert_eq!(host.world.tpm_folders().len(), 1);
    host.engine.delete_vm(&host.vm()).await.unwrap();
    assert_eq!(host.world.tpm_folders(), Vec::<PathBuf>::new());
    let host = self::host().await;
    off(&host).await;
    host.engine.delete_vm(&host.vm()).await.unwrap();
    assert_eq!(host.world.tpm_folders().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_gone_is_named_and_an_apply_gives_another() {
    let host = host().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    off(&host).await;
    let lost = folder(&host).await.unwrap();
    host.world.lose_tpm(&lost);
    for request in [Request::Start, Request::CreateCheckpoint(NewCheckpoint::default())] {
        let failure = host.run(request).await.unwrap_err();
        assert_eq!(failure.reason, Reason::TpmStateUnusable, "{failure}");
        assert!(failure.message.contains(&lost.display().to_string()), "{failure}");
    }
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(tpm(&host), Some(1));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_keep_a_tpm_changes_nothing() {
    let host = SimHost::new().await;
    host.world.set_faults(FaultPlan::none().every(Call::PutTpm, Fault::NoSpace));
    assert_eq!(with(&host, Tpm::V2).await.unwrap_err().reason, Reason::NoSpace);
    assert_eq!(folder(&host).await, None);
    host.world.set_faults(FaultPlan::none());
    with(&host, Tpm::V2).await.unwrap();
    host.run(Request::Start).await.unwrap();
    set(&host, 1);
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    set(&host, 2);
    host.world.set_faults(FaultPlan::none().every(Call::PutTpm, Fault::FailBefore));
    host.run(Request::Apply(made.id.into())).await.unwrap_err();
    assert_eq!((tpm(&host), host.read(1)), (Some(2), 2), "it runs as it was");
    host.world.set_faults(FaultPlan::none().at(Call::LoadMemory, 1, Fault::FailBefore));
    host.run(Request::Apply(made.id.into())).await.unwrap_err();
    assert_eq!((tpm(&host), host.world.tpm_folders().len()), (Some(2), 1));
    host.assert_clean().await;
}
