//! VMs are made of exports: as another machine, as the same one, or in place; and whatever goes wrong, there is a whole VM
//! or nothing of it.

use std::{path::PathBuf, time::Duration};

use stillpoint_common::{
    CheckpointPolicy, CriticalSettings, DiskFormat, Failure, Medium, MediumFile, Operation, OperationState, PowerState,
    Reason, VmDefinition, VmId, VmSettings,
};
use stillpoint_engine::{Engine, ImportMode, ImportRequest, NewVm, Request, StopMode, VmView};
use stillpoint_sim::{Call, Fault, FaultPlan, definition};
use stillpoint_tests::sim_host::{SimHost, config, disk};

const EXPORT: &str = "/exports/one";
const TARGET: &str = "/vms/copy";

fn copy() -> VmId {
    "copy".parse().expect("a name")
}

fn asked(mode: ImportMode) -> ImportRequest {
    let target = (mode != ImportMode::Register).then(|| TARGET.into());
    let folder = EXPORT.into();
    ImportRequest { folder, mode, target, definition: None, without_memory: false, accept_host_paths: false }
}

/// A VM whose block 1 and TPM were 1 at the checkpoint that is exported, and are 2 now.
async fn exported(policy: CheckpointPolicy) -> SimHost {
    let host = SimHost::running_with_tpm().await;
    host.world.add_folder("/vms");
    let made = host.create(policy).await.expect("it works");
    let export = Request::Export { checkpoint: made.id, folder: EXPORT.into(), format: DiskFormat::Qcow2 };
    host.run(export).await.expect("it works");
    host.write(1, 2);
    assert!(host.world.write_tpm(&host.vm(), 2));
    host
}

/// Imports it as another VM, to the end.
async fn import(host: &SimHost, asked: ImportRequest) -> Result<VmView, Failure> {
    let begun = host.engine.import_vm(&copy(), asked, None).await?;
    host.end_of(&begun).await?;
    host.engine.idle(&copy()).await?;
    host.engine.vm(&copy()).await
}

async fn start(host: &SimHost) {
    let begun = host.engine.submit(&copy(), Request::Start, None).await.expect("it can start");
    host.end_of(&begun).await.expect("it starts");
}

/// Block 1 of both disks, as the guest of the copy reads them, and what its TPM keeps.
fn seen(host: &SimHost) -> ([Option<u64>; 2], Option<u64>) {
    let block = |name| host.world.guest_content(&copy(), &disk(name)).and_then(|content| content.get(&1).copied());
    ([block("system"), block("data")], host.world.read_tpm(&copy()))
}

async fn original_is_untouched(host: &SimHost) {
    assert_eq!((host.read(1), host.world.read_tpm(&host.vm())), (2, Some(2)));
    host.world.assert_sound();
}

/// There is nothing of the copy.
async fn nothing_is_left(host: &SimHost, what: &str) {
    let absent = host.engine.vm(&copy()).await.map(|_| ()).map_err(|failure| failure.reason);
    assert_eq!(absent, Err(Reason::VmNotFound), "{what}");
    assert!(!host.world.has_folder(TARGET), "{what}: its folder is left");
    assert_eq!(host.world.marked_folders(), [""; 0].map(PathBuf::from), "{what}");
    assert_eq!(host.world.orphans(host.referenced().await), [].into(), "{what}: files are left");
    assert_eq!(host.world.tpm_folders().len(), 1, "{what}: the state of a TPM is left");
}

#[tokio::test(start_paused = true)]
async fn an_exported_machine_goes_on_as_another_vm_beside_the_first() {
    let host = exported(CheckpointPolicy::Standard).await;
    let view = import(&host, asked(ImportMode::Copy)).await.unwrap();
    assert_eq!(view.power, PowerState::Saved);
    let original = host.engine.vm(&host.vm()).await.unwrap().vm;
    assert_ne!((view.vm.uid, view.vm.generation_id), (original.uid, original.generation_id));
    assert!(view.vm.definition.disks.iter().all(|disk| disk.path.starts_with(TARGET)), "{:?}", view.vm.definition);
    assert_eq!(host.world.marked_folders(), [""; 0].map(PathBuf::from));
    start(&host).await;
    assert_eq!(seen(&host), ([Some(1), Some(1)], Some(1)));
    assert_eq!(host.world.restores(&copy()).len(), 1, "its guest is told that it sees its past again");
    original_is_untouched(&host).await;
    assert!(host.world.manifest(EXPORT).is_some(), "the export stays one");
}

#[tokio::test(start_paused = true)]
async fn what_has_no_memory_or_shall_not_have_it_is_off() {
    let host = exported(CheckpointPolicy::ProductionOnly).await;
    assert_eq!(import(&host, asked(ImportMode::Copy)).await.unwrap().power, PowerState::Off);
    start(&host).await;
    assert_eq!(seen(&host), ([Some(1), Some(1)], Some(1)));

    let host = exported(CheckpointPolicy::Standard).await;
    let without = ImportRequest { without_memory: true, ..asked(ImportMode::Copy) };
    let view = import(&host, without).await.unwrap();
    assert_eq!((view.power, view.vm.saved), (PowerState::Off, None));
}

#[tokio::test(start_paused = true)]
async fn the_same_machine_is_there_once() {
    let host = exported(CheckpointPolicy::Production).await;
    let uid = host.engine.vm(&host.vm()).await.unwrap().vm.uid;
    for mode in [ImportMode::Restore, ImportMode::Register] {
        let refused = import(&host, asked(mode)).await.unwrap_err();
        assert_eq!((refused.reason, refused.field.as_deref()), (Reason::ImportIncompatible, Some("mode")), "{refused}");
    }
    host.run(Request::Stop(StopMode::TurnOff)).await.unwrap();
    for view in host.checkpoints().await {
        host.run(Request::DeleteCheckpoint(view.checkpoint.id)).await.unwrap();
    }
    host.engine.delete_vm(&host.vm()).await.unwrap();
    let view = import(&host, asked(ImportMode::Restore)).await.unwrap();
    assert_eq!(view.vm.uid, uid);
}

#[tokio::test(start_paused = true)]
async fn registered_files_stay_where_they_are_and_are_no_export_any_more() {
    let host = exported(CheckpointPolicy::Standard).await;
    host.run(Request::Stop(StopMode::TurnOff)).await.unwrap();
    for view in host.checkpoints().await {
        host.run(Request::DeleteCheckpoint(view.checkpoint.id)).await.unwrap();
    }
    host.engine.delete_vm(&host.vm()).await.unwrap();
    let view = import(&host, asked(ImportMode::Register)).await.unwrap();
    assert!(view.vm.definition.disks.iter().all(|disk| disk.path.starts_with(EXPORT)), "{:?}", view.vm.definition);
    start(&host).await;
    assert_eq!(seen(&host), ([Some(1), Some(1)], Some(1)));
    let again = host.engine.import_vm(&"third".parse().unwrap(), asked(ImportMode::Copy), None).await.unwrap_err();
    assert_eq!(again.reason, Reason::ExportUnusable, "{again}");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_found_before_anything_is_made_of_it() {
    let host = exported(CheckpointPolicy::Production).await;
    let damaged = format!("{EXPORT}/data.qcow2");
    assert!(host.world.overwrite_file(&damaged, 1, 99));
    let refused = import(&host, asked(ImportMode::Copy)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ExportDamaged, "{refused}");
    assert!(refused.message.contains("data.qcow2"), "{refused}");
    nothing_is_left(&host, "damaged").await;
    let manifest = host.engine.read_export(EXPORT.as_ref()).await.unwrap();
    let told: stillpoint_engine::ports::ProgressSink = std::sync::Arc::new(|_| ());
    let found = host.engine.verify_export(EXPORT.as_ref(), &manifest, &told).await.unwrap();
    assert_eq!(found.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["data.qcow2"]);
}

#[tokio::test(start_paused = true)]
async fn a_spec_can_be_given_and_says_what_the_machine_is() {
    let host = exported(CheckpointPolicy::Standard).await;
    let inspection = host.engine.inspect_export(&copy(), &asked(ImportMode::Copy)).await.unwrap();
    let larger = VmDefinition { memory_mib: inspection.definition.memory_mib * 2, ..inspection.definition.clone() };
    let with = ImportRequest { definition: Some(larger.clone()), ..asked(ImportMode::Copy) };
    let refused = import(&host, with.clone()).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("without_memory"), "{refused}");
    nothing_is_left(&host, "another machine than the memory is of").await;
    let view = import(&host, ImportRequest { without_memory: true, ..with }).await.unwrap();
    assert_eq!(view.vm.definition.memory_mib, larger.memory_mib);
}

async fn nothing_is_made(host: &SimHost) {
    let absent = host.engine.vm(&copy()).await.map(|_| ()).map_err(|failure| failure.reason);
    assert_eq!(absent, Err(Reason::VmNotFound));
    assert!(!host.world.has_folder(TARGET), "its folder is left");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_medium_is_no_medium_of_an_imported_machine_either() {
    let host = exported(CheckpointPolicy::Production).await;
    let known = host.engine.inspect_export(&copy(), &asked(ImportMode::Copy)).await.unwrap().definition;
    let with = |path: &str, format| {
        let file = Some(MediumFile { path: path.into(), format });
        let medium = Medium { file, ..Medium::cdrom("cd", path) };
        ImportRequest {
            definition: Some(VmDefinition { media: vec![medium], ..known.clone() }),
            ..asked(ImportMode::Copy)
        }
    };
    host.world.add_image("/iso/tools.qcow2", 1 << 20);
    host.world.add_image("/iso/top.qcow2", 1 << 20);
    assert!(host.world.name_backing("/iso/top.qcow2", "/iso/tools.qcow2"));
    for (path, format, says) in [
        ("/vm/data.qcow2", DiskFormat::Qcow2, "is a disk of VM web"),
        ("/iso/tools.qcow2", DiskFormat::Raw, "begins as a qcow2 image"),
        ("/iso/top.qcow2", DiskFormat::Qcow2, "lies on /iso/tools.qcow2"),
    ] {
        let inspection = host.engine.inspect_export(&copy(), &with(path, format)).await.unwrap();
        let codes: Vec<_> = inspection.incompatibilities.iter().map(|found| found.code.code()).collect();
        assert_eq!(codes, ["MEDIUM_UNUSABLE"], "{path}");
        let refused = import(&host, with(path, format)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::ImportIncompatible, "{refused}");
        assert_eq!(refused.field.as_deref(), Some("spec.media[0].path"), "{refused}");
        assert!(refused.message.contains(says), "{refused}");
        nothing_is_made(&host).await;
    }
    for (path, format) in [("/iso/tools.qcow2", DiskFormat::Qcow2), ("/iso/later.iso", DiskFormat::Raw)] {
        let inspection = host.engine.inspect_export(&copy(), &with(path, format)).await.unwrap();
        assert_eq!(inspection.incompatibilities, [], "{path}");
    }
    import(&host, with("/iso/tools.qcow2", DiskFormat::Qcow2)).await.unwrap();
    original_is_untouched(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_medium_that_becomes_a_disk_while_its_machine_is_imported_is_not_taken() {
    let host = exported(CheckpointPolicy::Production).await;
    let known = host.engine.inspect_export(&copy(), &asked(ImportMode::Copy)).await.unwrap().definition;
    host.world.add_image("/iso/tools.qcow2", 1 << 20);
    let file = Some(MediumFile { path: "/iso/tools.qcow2".into(), format: DiskFormat::Qcow2 });
    let media = vec![Medium { file, ..Medium::cdrom("cd", "") }];
    let with = ImportRequest { definition: Some(VmDefinition { media, ..known }), ..asked(ImportMode::Copy) };
    host.world.set_latency(Call::Flatten, Duration::from_secs(60));
    let begun = host.engine.import_vm(&copy(), with, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let other = NewVm {
        id: "third".parse().unwrap(),
        definition: definition(&[("system", "/iso/tools.qcow2")]),
        checkpoint_policy: CheckpointPolicy::Production,
        checkpoint_location: None,
        critical: CriticalSettings::default(),
        settings: VmSettings::default(),
    };
    host.engine.create_vm(other, None).await.unwrap();
    let failed = host.end_of(&begun).await.unwrap_err();
    assert_eq!(failed.reason, Reason::DiskInUse, "{failed}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    nothing_is_made(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_done_once_and_a_name_is_taken_once() {
    let host = exported(CheckpointPolicy::Production).await;
    let id = Some("once".to_owned());
    let first = host.engine.import_vm(&copy(), asked(ImportMode::Copy), id.clone()).await.unwrap();
    let same = host.engine.import_vm(&copy(), asked(ImportMode::Copy), id.clone()).await.unwrap();
    assert_eq!(first.id, same.id);
    host.end_of(&first).await.unwrap();
    assert_eq!(host.engine.import_vm(&copy(), asked(ImportMode::Copy), id).await.unwrap().id, first.id);
    let taken = import(&host, asked(ImportMode::Copy)).await.unwrap_err();
    assert_eq!((taken.reason, taken.field.as_deref()), (Reason::VmExists, Some("vm_id")), "{taken}");
    let web = host.engine.import_vm(&host.vm(), asked(ImportMode::Copy), None).await.unwrap_err();
    assert_eq!(web.reason, Reason::VmExists, "{web}");
    original_is_untouched(&host).await;
}

#[tokio::test(start_paused = true)]
async fn an_import_can_be_cancelled_and_leaves_nothing() {
    let host = exported(CheckpointPolicy::Production).await;
    host.world.set_latency(Call::Flatten, Duration::from_secs(60));
    let begun = host.engine.import_vm(&copy(), asked(ImportMode::Copy), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    host.engine.cancel_operation(begun.id).await.unwrap();
    assert_eq!(host.end_of(&begun).await.unwrap_err().reason, Reason::OperationCancelled);
    tokio::time::sleep(Duration::from_secs(60)).await;
    nothing_is_left(&host, "cancelled").await;
}

/// A world of its own, in which an import has begun; what its client was told, or `None` if the service has died.
async fn begun_under(before: &SimHost, faults: FaultPlan) -> (SimHost, Option<Result<(), Failure>>) {
    let world = before.world.fork();
    let engine = Engine::open(world.restart(), config()).await.expect("the store opens");
    let host = SimHost { world, engine };
    host.quiet().await;
    host.world.set_faults(faults);
    let (engine, world) = (host.engine.clone(), host.world.clone());
    // A task of its own: a planned defect may strike the client's own call.
    let client = tokio::spawn(async move {
        let begun = engine.import_vm(&copy(), asked(ImportMode::Copy), None).await?;
        ended(&engine, &begun).await
    });
    let told = tokio::select! {
        told = client => Some(told.unwrap_or_else(|_| Err(Failure::new(Reason::Interrupted, "a defect")))),
        () = world.crashed() => None,
    };
    (host, told)
}

async fn ended(engine: &Engine, begun: &Operation) -> Result<(), Failure> {
    let mut watch = engine.watch_operation(begun.id).await?;
    let ended = watch.wait_for(|operation| operation.state != OperationState::Running).await;
    match ended.expect("the last state is kept").state.clone() {
        OperationState::Failed(failure) => Err(failure),
        OperationState::Done(_) | OperationState::Running => Ok(()),
    }
}

async fn check(mut host: SimHost, told: Option<Result<(), Failure>>, what: &str) {
    host.world.set_faults(FaultPlan::none());
    if told.is_none() {
        host.restart().await;
    }
    let _ = host.engine.idle(&copy()).await;
    // What a failure has left is undone by the next start at the latest.
    host.restart().await;
    let _ = host.engine.idle(&copy()).await;
    for operation in host.engine.operations().await.expect("they are read") {
        assert!(operation.state != OperationState::Running, "{what}: an operation that never ends: {operation:?}");
    }
    match host.engine.vm(&copy()).await {
        Ok(view) => {
            assert_eq!(view.power, PowerState::Saved, "{what}");
            assert_eq!(host.world.marked_folders(), [""; 0].map(PathBuf::from), "{what}");
            start(&host).await;
            assert_eq!(seen(&host), ([Some(1), Some(1)], Some(1)), "{what}");
        }
        Err(_) => {
            assert!(!matches!(told, Some(Ok(()))), "{what}: the VM was said to be there");
            nothing_is_left(&host, what).await;
        }
    }
    original_is_untouched(&host).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_or_dies_there_is_a_whole_vm_or_nothing() {
    let before = exported(CheckpointPolicy::Standard).await;
    let (host, told) = begun_under(&before, FaultPlan::none()).await;
    told.expect("nobody died").expect("nothing is wrong");
    let calls = host.world.calls();
    let mut cases = 0;
    for (point, call) in (1..).zip(calls) {
        let faults: &[Fault] = match call.changes() {
            true => &[
                Fault::FailBefore,
                Fault::FailAfter,
                Fault::NoSpace,
                Fault::Hang,
                Fault::Panic,
                Fault::CrashBefore,
                Fault::CrashAfter,
            ],
            false => &[Fault::FailBefore],
        };
        for &fault in faults {
            let what = format!("{fault:?} at call {point} ({call})");
            let (host, told) = begun_under(&before, FaultPlan::none().at_point(point, fault)).await;
            check(host, told, &what).await;
            cases += 1;
        }
    }
    println!("{cases} cases");
    assert!(cases >= 80, "only {cases} cases");
}
