//! The catalogue is lost and made again from description files and layers, on the simulator.

use std::path::PathBuf;

use stillpoint_common::{CheckpointId, CheckpointPolicy, DiskFormat, LayerFile, LayerId, PowerState, Reason};
use stillpoint_engine::{CheckpointChange, Rebuilt, Request, VmChange};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::SimHost;

const LOCATION: &str = "/state/web";

fn called(name: &str) -> CheckpointChange {
    CheckpointChange { name: Some(name.parse().expect("a name")), ..CheckpointChange::default() }
}

/// A VM that runs and has a branch: first ← second ← (nothing), first ← Now.
struct Lost {
    host: SimHost,
    first: CheckpointId,
    second: CheckpointId,
}

impl Lost {
    async fn new() -> Self {
        let host = SimHost::running().await;
        host.world.set_guest_memory(&host.vm(), 7);
        let first = host.create(CheckpointPolicy::Standard).await.expect("it works").id;
        host.write(1, 2);
        let second = host.create(CheckpointPolicy::ProductionOnly).await.expect("it works").id;
        host.write(1, 3);
        host.run(Request::Apply(first.into())).await.expect("it works");
        host.write(1, 4);
        Self { host, first, second }
    }

    /// The store is deleted while the service is stopped.
    async fn lose(&mut self) {
        self.host.world.lose_store();
        self.host.restart().await;
        assert_eq!(self.host.engine.vm_count().await, 0);
    }

    async fn rebuild(&self) -> Rebuilt {
        self.host.engine.rebuild(&[]).await.expect("the folders can be read")
    }

    /// Why the VM was left.
    async fn left(&self) -> String {
        let rebuilt = self.rebuild().await;
        assert_eq!(rebuilt.taken, []);
        assert_eq!(self.host.engine.vm_count().await, 0, "it was left, so it is not there");
        let [left] = rebuilt.left.as_slice() else { panic!("{rebuilt:?}") };
        left.why.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_catalogue_comes_back_with_every_checkpoint_and_the_running_vm() {
    let mut lost = Lost::new().await;
    let (vm, checkpoints) = (lost.host.engine.vm(&lost.host.vm()).await.unwrap(), lost.host.checkpoints().await);
    lost.lose().await;
    let rebuilt = lost.rebuild().await;
    assert_eq!(rebuilt.left, []);
    let [taken] = rebuilt.taken.as_slice() else { panic!("{rebuilt:?}") };
    assert_eq!((taken.checkpoints, taken.running, taken.notes.len()), (2, true, 0));
    assert_eq!(taken.file, PathBuf::from(LOCATION).join("web.vm.json"));

    assert_eq!(lost.host.engine.vm(&lost.host.vm()).await.unwrap(), vm);
    assert_eq!(lost.host.checkpoints().await, checkpoints);
    lost.host.assert_described().await;
    assert_eq!(lost.host.read(1), 4);
    for (checkpoint, value) in [(lost.second, 2), (lost.first, 1)] {
        lost.host.run(Request::Apply(checkpoint.into())).await.unwrap();
        if lost.host.engine.vm(&lost.host.vm()).await.unwrap().power == PowerState::Off {
            lost.host.run(Request::Start).await.unwrap();
        }
        assert_eq!(lost.host.read(1), value);
    }
    assert_eq!(lost.host.world.guest_memory(&lost.host.vm()), Some(7));
    for checkpoint in [lost.first, lost.second] {
        lost.host.run(Request::DeleteCheckpoint(checkpoint)).await.unwrap();
    }
    assert_eq!(lost.host.world.files().len(), 2, "merged into the user's own images");
    lost.host.assert_described().await;
    lost.host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_there_is_not_touched() {
    let lost = Lost::new().await;
    let before = lost.host.world.records();
    let rebuilt = lost.rebuild().await;
    assert_eq!(rebuilt.taken, []);
    assert!(rebuilt.left[0].why.contains("is in the catalogue already"), "{rebuilt:?}");
    assert_eq!(lost.host.world.records(), before);
}

#[tokio::test(start_paused = true)]
async fn folders_can_be_named_and_one_that_is_named_twice_counts_once() {
    let mut lost = Lost::new().await;
    let elsewhere = VmChange { checkpoint_location: Some("/mnt/far/away".into()), ..VmChange::default() };
    for checkpoint in [lost.second, lost.first] {
        lost.host.run(Request::DeleteCheckpoint(checkpoint)).await.unwrap();
    }
    lost.host.engine.update_vm(&lost.host.vm(), elsewhere).await.unwrap();
    let names: Vec<_> = lost.host.world.descriptions().into_keys().collect();
    assert_eq!(names, [PathBuf::from("/mnt/far/away/web.vm.json")], "the description moves with the location");
    lost.lose().await;
    assert_eq!(lost.rebuild().await, Rebuilt::default());
    let folders = ["/mnt/far".into(), "/mnt/far/away".into()];
    let rebuilt = lost.host.engine.rebuild(&folders).await.unwrap();
    assert_eq!((rebuilt.taken.len(), rebuilt.left.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_process_has_ended_comes_back_off() {
    let mut lost = Lost::new().await;
    lost.host.world.kill_instance(lost.host.world.running(&lost.host.vm()).unwrap());
    lost.lose().await;
    let rebuilt = lost.rebuild().await;
    assert!(!rebuilt.taken[0].running, "{rebuilt:?}");
    assert_eq!(lost.host.engine.vm(&lost.host.vm()).await.unwrap().power, PowerState::Off);
    lost.host.run(Request::Start).await.unwrap();
    assert_eq!(lost.host.read(1), 4);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_nobody_described_keeps_its_vm_out_of_the_catalogue() {
    let mut lost = Lost::new().await;
    lost.host.turn_off().await;
    let described = lost.host.world.descriptions();
    lost.host.run(Request::Start).await.unwrap();
    lost.lose().await;
    // As if the service had died before it could describe the start.
    for (path, content) in described {
        lost.host.world.put_description(path, content);
    }
    let why = lost.left().await;
    assert!(why.contains("is open in process") && why.contains("qemu"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn what_lies_on_a_head_and_is_not_described_is_never_written_under() {
    let mut lost = Lost::new().await;
    lost.host.turn_off().await;
    let described = lost.host.world.descriptions();
    lost.host.create(CheckpointPolicy::Production).await.unwrap();
    lost.lose().await;
    for (path, content) in described {
        lost.host.world.put_description(path, content);
    }
    let why = lost.left().await;
    assert!(why.contains("lies on what the VM writes to"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_another_vm_and_a_description_that_makes_no_sense_are_left_with_the_reason() {
    let mut lost = Lost::new().await;
    lost.host.turn_off().await;
    lost.lose().await;
    let path = PathBuf::from(LOCATION).join("web.vm.json");
    let content = String::from_utf8(lost.host.world.descriptions()[&path].clone()).unwrap();
    let says = async |content: &str| {
        lost.host.world.put_description(&path, content);
        lost.left().await
    };
    assert!(says(&content.replace("\"format\": 1", "\"format\": 2")).await.contains("format 2"));
    assert!(says(&content.replace("\"cpus\": 1", "\"cpus\": 0")).await.contains("cpus"));
    for checkpoint in [lost.first, lost.second] {
        assert!(lost.host.world.lose_file(format!("/state/web/{checkpoint}.checkpoint.json")));
    }
    assert!(says("{").await.contains("no description"));
    assert!(says(&content.replace("\"layers\"", "\"strata\"")).await.contains("layers"));

    lost.host.world.put_description("/state/web/copy.vm.json", content.replace("\"web\"", "\"copy\""));
    lost.host.world.put_description(&path, content);
    let rebuilt = lost.rebuild().await;
    assert_eq!((rebuilt.taken.len(), rebuilt.left.len()), (1, 1), "{rebuilt:?}");
    assert!(rebuilt.left[0].why.contains("is a layer of VM"), "{rebuilt:?}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_wrong_is_named_and_stays_refused_after_a_rebuild() {
    let mut lost = Lost::new().await;
    lost.host.turn_off().await;
    let layer = lost.host.checkpoint(lost.second).await.files[&"data".parse().unwrap()].clone();
    lost.host.world.replace_file(&layer);
    lost.lose().await;
    let rebuilt = lost.rebuild().await;
    let [note] = rebuilt.taken[0].notes.as_slice() else { panic!("{rebuilt:?}") };
    assert!(note.contains(&layer.display().to_string()) && note.contains("not the file it was"), "{note}");
    let failure = lost.host.run(Request::Apply(lost.second.into())).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DiskChanged);
    lost.host.run(Request::Start).await.unwrap();
    assert_eq!(lost.host.read(1), 4, "Now does not read through it");
}

/// The catalogue is lost, and the VM's own description too.
async fn with_checkpoints_alone() -> Lost {
    let mut lost = Lost::new().await;
    lost.host.turn_off().await;
    assert!(lost.host.world.lose_file("/state/web/web.vm.json"));
    lost.lose().await;
    lost
}

#[tokio::test(start_paused = true)]
async fn the_descriptions_of_checkpoints_alone_bring_a_vm_back() {
    for damaged in [false, true] {
        let mut lost = Lost::new().await;
        lost.host.turn_off().await;
        let (vm, checkpoints) = (lost.host.engine.vm(&lost.host.vm()).await.unwrap(), lost.host.checkpoints().await);
        match damaged {
            true => lost.host.world.put_description("/state/web/web.vm.json", "{"),
            false => assert!(lost.host.world.lose_file("/state/web/web.vm.json")),
        }
        lost.lose().await;
        let rebuilt = lost.rebuild().await;
        assert_eq!(rebuilt.left.len(), usize::from(damaged), "{rebuilt:?}");
        let [taken] = rebuilt.taken.as_slice() else { panic!("{rebuilt:?}") };
        assert_eq!((taken.checkpoints, taken.running), (2, false));
        let [note] = taken.notes.as_slice() else { panic!("{rebuilt:?}") };
        assert!(note.contains("web.vm.json is lost"), "{note}");
        let again = lost.host.engine.vm(&lost.host.vm()).await.unwrap();
        assert_eq!((again.vm.uid, &again.vm.heads, again.vm.parent), (vm.vm.uid, &vm.vm.heads, vm.vm.parent));
        assert_eq!(lost.host.checkpoints().await, checkpoints);
        lost.host.assert_described().await;
        lost.host.run(Request::Start).await.unwrap();
        assert_eq!(lost.host.read(1), 4);
        for (checkpoint, value) in [(lost.second, 2), (lost.first, 1)] {
            lost.host.run(Request::Apply(checkpoint.into())).await.unwrap();
            if lost.host.engine.vm(&lost.host.vm()).await.unwrap().power == PowerState::Off {
                lost.host.run(Request::Start).await.unwrap();
            }
            assert_eq!(lost.host.read(1), value);
        }
        assert!(lost.rebuild().await.left[0].why.contains("in the catalogue already"));
        lost.host.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn what_now_writes_to_is_never_guessed() {
    let mut lost = with_checkpoints_alone().await;
    let data = |path: &PathBuf| path.to_string_lossy().contains("data-");
    let known: Vec<_> =
        lost.host.world.descriptions().into_values().map(|text| String::from_utf8(text).unwrap()).collect();
    let unknown = |path: &PathBuf| !known.iter().any(|text| text.contains(&*path.to_string_lossy()));
    let head = lost.host.world.files().into_iter().find(|path| data(path) && unknown(path)).expect("Now's");
    lost.host.world.move_file(&head, "/vm/elsewhere.qcow2");
    let why = lost.left().await;
    assert!(why.contains("disk data writes to is not beside the others"), "{why}");
    lost.host.world.move_file("/vm/elsewhere.qcow2", &head);

    // Somebody's overlay, under the name of a layer.
    let copy = format!("/vm/data-{}.qcow2", LayerId::generate());
    let base = LayerFile { id: LayerId::generate(), path: "/vm/data.qcow2".into(), format: DiskFormat::Qcow2 };
    lost.host.world.restart().images.create_overlay(copy.as_ref(), &base, 1 << 30).await.unwrap();
    lost.host.restart().await;
    let why = lost.left().await;
    assert!(why.contains("may write to any of") && why.contains(&copy), "{why}");
    assert!(lost.host.world.lose_file(&copy));
    assert_eq!(lost.rebuild().await.taken.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_runs_is_not_taken_by_its_checkpoints_alone() {
    let mut lost = Lost::new().await;
    assert!(lost.host.world.lose_file("/state/web/web.vm.json"));
    lost.lose().await;
    let why = lost.left().await;
    assert!(why.contains("is open in process") && why.contains("qemu"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_dies_anywhere_is_begun_again() {
    for nth in 1..100 {
        let mut lost = Lost::new().await;
        let checkpoints = lost.host.checkpoints().await;
        lost.lose().await;
        lost.host.world.set_faults(FaultPlan::none().at(Call::Commit, nth, Fault::CrashAfter));
        let died = tokio::select! {
            _ = lost.host.engine.rebuild(&[]) => false,
            () = lost.host.world.crashed() => true,
        };
        lost.host.restart().await;
        lost.rebuild().await;
        assert_eq!(lost.host.checkpoints().await, checkpoints, "dead at commit {nth}");
        assert_eq!(lost.host.read(1), 4);
        lost.host.world.assert_sound();
        if !died {
            return;
        }
    }
    panic!("a rebuild has fewer commits");
}

#[tokio::test(start_paused = true)]
async fn descriptions_follow_names_and_go_with_the_vm() {
    let lost = Lost::new().await;
    let vm = lost.host.vm();
    lost.host.engine.update_checkpoint(&vm, lost.first, called("before")).await.unwrap();
    lost.host.assert_described().await;
    for checkpoint in [lost.second, lost.first] {
        lost.host.run(Request::DeleteCheckpoint(checkpoint)).await.unwrap();
        lost.host.assert_described().await;
    }
    lost.host.turn_off().await;
    lost.host.engine.delete_vm(&vm).await.unwrap();
    assert_eq!(lost.host.world.descriptions(), [].into());
    assert!(!lost.host.world.records().keys().any(|key| key.contains("describe/")));
}

#[tokio::test(start_paused = true)]
async fn a_location_that_cannot_be_written_fails_the_checkpoint_and_nothing_else() {
    let host = SimHost::running().await;
    host.world.set_faults(FaultPlan::none().every(Call::WriteDescription, Fault::FailBefore));
    let failure = host.create(CheckpointPolicy::ProductionOnly).await.unwrap_err();
    assert_eq!(failure.reason, Reason::LocationUnusable);
    assert_eq!(host.checkpoints().await, []);
    host.run(Request::Pause).await.unwrap();
    host.run(Request::Resume).await.unwrap();
    host.world.set_faults(FaultPlan::none());
    host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.assert_described().await;
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_description_that_is_owed_is_written_by_the_next_start_of_the_service() {
    let mut host = SimHost::running().await;
    let id = host.create(CheckpointPolicy::Standard).await.unwrap().id;
    host.world.set_faults(FaultPlan::none().every(Call::WriteDescription, Fault::FailBefore));
    let vm = host.vm();
    host.engine.update_checkpoint(&vm, id, called("renamed")).await.unwrap();
    host.world.set_faults(FaultPlan::none());
    host.restart().await;
    host.engine.update_vm(&vm, VmChange::default()).await.unwrap();
    host.assert_described().await;
}
