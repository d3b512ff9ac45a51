//! Files are not what the catalogue says, in every way we know: it is found out, said, and acted upon by nobody, on the
//! simulator.

use std::path::PathBuf;

use stillpoint_common::{
    Checkpoint, CheckpointId, CheckpointPolicy, DiskFormat, FindingKind, LayerFile, LayerId, PowerState, Reason,
};
use stillpoint_engine::{
    NewCheckpoint, Reconnect, Reconnected, Request, VmChange,
    ports::{Put, Txn},
};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::{SimHost, disk};

/// A VM that is off, with a chain base ← first ← second ← Now on each disk; the first checkpoint has memory.
struct Chain {
    host: SimHost,
    first: Checkpoint,
    second: Checkpoint,
}

impl Chain {
    async fn new() -> Self {
        let host = SimHost::running().await;
        let first = host.create(CheckpointPolicy::Standard).await.expect("it works");
        host.write(1, 2);
        let second = host.create(CheckpointPolicy::ProductionOnly).await.expect("it works");
        host.write(1, 3);
        host.turn_off().await;
        Self { host, first, second }
    }

    /// The file of a checkpoint's data disk.
    async fn file(&self, id: CheckpointId) -> PathBuf {
        self.host.checkpoint(id).await.files[&disk("data")].clone()
    }

    async fn head(&self) -> PathBuf {
        let view = self.host.engine.vm(&self.host.vm()).await.expect("it is there");
        view.disks.into_iter().find(|(name, ..)| *name == disk("data")).expect("it has one").1.path
    }

    /// What a check finds, after making sure that it has changed nothing.
    async fn found(&self) -> Vec<(FindingKind, Vec<CheckpointId>, bool)> {
        self.host.world.set_faults(FaultPlan::none());
        let findings = self.host.engine.check(Some(&self.host.vm())).await.expect("it can be read");
        assert!(!self.host.world.calls().into_iter().any(Call::changes), "a check changes nothing");
        findings.into_iter().map(|finding| (finding.kind, finding.checkpoints, finding.now)).collect()
    }

    async fn refused(&self, request: Request) -> Reason {
        self.host.run(request).await.expect_err("it is refused").reason
    }

    fn export(&self, checkpoint: CheckpointId) -> Request {
        Request::Export { checkpoint, folder: "/exports/one".into(), format: DiskFormat::Qcow2 }
    }

    async fn layer(&self, path: &PathBuf) -> LayerId {
        let layers = self.host.engine.layers(&self.host.vm()).await.expect("they can be read");
        layers.into_iter().find(|view| view.layer.file.path == *path).expect("it is one").layer.file.id
    }

    async fn reconnect(&self, what: Reconnected, path: &str, accept_changed: bool) -> Result<usize, Reason> {
        let asked = Reconnect { what, path: path.into(), accept_changed };
        let moved = self.host.engine.reconnect(&self.host.vm(), asked).await;
        moved.map(|moved| moved.len()).map_err(|failure| failure.reason)
    }

    /// Everything is well, and everything can be used.
    async fn assert_whole(&self) {
        assert_eq!(self.found().await, []);
        self.host.run(Request::Start).await.expect("it works");
        assert_eq!(self.host.read(1), 3);
        for (checkpoint, value) in [(&self.second, 2), (&self.first, 1)] {
            self.host.run(Request::Apply(checkpoint.id.into())).await.expect("it works");
            if self.host.engine.vm(&self.host.vm()).await.expect("it is there").power == PowerState::Off {
                self.host.run(Request::Start).await.expect("it works");
            }
            assert_eq!(self.host.read(1), value);
        }
        self.host.assert_described().await;
        self.host.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_found_where_all_is_well_whether_the_vm_runs_or_not() {
    let chain = Chain::new().await;
    assert_eq!(chain.found().await, []);
    chain.host.run(Request::Start).await.unwrap();
    assert_eq!(chain.found().await, []);
    assert_eq!(chain.host.engine.check(None).await.unwrap(), []);
    chain.assert_whole().await;
}

/// Something that goes wrong with a layer.
type Harm = fn(&SimHost, &PathBuf, &PathBuf, &PathBuf);

#[tokio::test(start_paused = true)]
async fn each_harm_to_a_layer_is_found_with_what_it_keeps_from_and_no_act_goes_over_it() {
    let harms: [(FindingKind, Harm); 6] = [
        (FindingKind::LayerReplaced, |host, layer, _, _| assert!(host.world.replace_file(layer))),
        (FindingKind::LayerRewritten, |host, layer, _, _| assert!(host.world.overwrite_file(layer, 5, 5))),
        (FindingKind::BackingDiffers, |host, layer, _, _| assert!(host.world.name_backing(layer, "/vm/other"))),
        (FindingKind::BackingIsItself, |host, layer, _, _| assert!(host.world.name_backing(layer, layer))),
        (FindingKind::BackingCycle, |host, layer, _, head| assert!(host.world.name_backing(layer, head))),
        (FindingKind::BackingDiffers, |host, layer, base, _| {
            assert!(host.world.name_backing(base, "/vm/below"));
            let _ = layer;
        }),
    ];
    for (kind, harm) in harms {
        let chain = Chain::new().await;
        let (layer, base) = (chain.file(chain.second.id).await, chain.file(chain.first.id).await);
        harm(&chain.host, &layer, &base, &chain.head().await);
        let found = chain.found().await;
        assert!(
            found
                .iter()
                .any(|(found, checkpoints, now)| { *found == kind && *now && checkpoints.contains(&chain.second.id) }),
            "{kind:?}: {found:?}"
        );
        let vm_before = chain.host.world.records();
        assert_eq!(chain.refused(Request::Start).await, Reason::DiskChanged, "{kind:?}");
        assert_eq!(chain.refused(Request::Apply(chain.second.id.into())).await, Reason::DiskChanged, "{kind:?}");
        assert_eq!(chain.refused(chain.export(chain.second.id)).await, Reason::DiskChanged, "{kind:?}");
        let create = Request::CreateCheckpoint(NewCheckpoint::default());
        assert_eq!(chain.refused(create).await, Reason::DiskChanged, "{kind:?}");
        let layers = |records: &std::collections::BTreeMap<String, Vec<u8>>| {
            records
                .iter()
                .filter(|(key, _)| key.starts_with("layer/"))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(layers(&chain.host.world.records()), layers(&vm_before), "{kind:?}: the records are as they were");
        // Deleting is possible, and merges nothing that is not what it was.
        let _ = chain.host.run(Request::DeleteCheckpoint(chain.second.id)).await;
        assert!(chain.host.world.files().contains(&layer) && chain.host.world.files().contains(&base), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_whose_file_is_missing_is_said_to_be_missing_and_blocks_nothing_else() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    let lost = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 3);
    host.run(Request::Apply(first.id.into())).await.unwrap();
    let file = host.checkpoint(lost.id).await.files[&disk("data")].clone();
    host.world.move_file(&file, "/elsewhere");

    let view = host.checkpoint(lost.id).await;
    assert_eq!(view.missing.as_slice(), std::slice::from_ref(&file));
    assert!(host.checkpoint(first.id).await.missing.is_empty());
    let findings = host.engine.check(Some(&host.vm())).await.unwrap();
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!((finding.kind, &finding.checkpoints, finding.now), (FindingKind::LayerMissing, &vec![lost.id], false));
    let export = Request::Export { checkpoint: lost.id, folder: "/exports/x".into(), format: DiskFormat::Raw };
    for request in [Request::Apply(lost.id.into()), export] {
        let failure = host.run(request).await.unwrap_err();
        assert_eq!(failure.reason, Reason::CheckpointMissing);
        assert!(failure.message.contains("MISSING"), "{failure}");
    }
    host.write(1, 4);
    let third = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.run(Request::Apply(first.id.into())).await.unwrap();
    host.run(Request::DeleteCheckpoint(third.id)).await.unwrap();

    host.world.move_file("/elsewhere", &file);
    assert!(host.checkpoint(lost.id).await.missing.is_empty(), "it is back");
    host.world.lose_file(&file);
    host.run(Request::DeleteCheckpoint(lost.id)).await.unwrap();
    assert_eq!(host.checkpoints().await.len(), 1);
    assert_eq!(host.engine.check(Some(&host.vm())).await.unwrap(), []);
    host.assert_described().await;
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_missing_layer_in_the_middle_of_a_chain_keeps_only_what_reads_through_it() {
    let chain = Chain::new().await;
    let file = chain.file(chain.second.id).await;
    chain.host.world.move_file(&file, "/elsewhere");
    assert_eq!(chain.found().await, [(FindingKind::LayerMissing, vec![chain.second.id], true)]);
    assert_eq!(chain.refused(Request::Start).await, Reason::DiskFileMissing);
    chain.host.run(Request::DeleteCheckpoint(chain.second.id)).await.unwrap();
    assert_eq!(chain.host.checkpoints().await.len(), 1, "it is gone; its layer waits, since Now reads through it");
    chain.host.run(Request::Apply(chain.first.id.into())).await.unwrap();
    assert_eq!(chain.host.read(1), 1, "what does not read through it can be used");
    chain.host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_is_gone_makes_its_checkpoint_missing() {
    let chain = Chain::new().await;
    let memory = chain.first.memory.clone().unwrap().path;
    assert!(chain.host.world.lose_file(&memory));
    assert_eq!(chain.found().await, [(FindingKind::MemoryMissing, vec![chain.first.id], false)]);
    assert_eq!(chain.refused(Request::Apply(chain.first.id.into())).await, Reason::CheckpointMissing);
    chain.host.run(Request::DeleteCheckpoint(chain.first.id)).await.unwrap();
    assert_eq!(chain.found().await, []);
}

#[tokio::test(start_paused = true)]
async fn strangers_and_leftovers_are_found_and_left_alone() {
    let chain = Chain::new().await;
    let (world, vm) = (&chain.host.world, chain.host.vm());
    let base = LayerFile { id: LayerId::generate(), path: "/vm/data.qcow2".into(), format: DiskFormat::Qcow2 };
    world.ports().images.create_overlay("/vm/stray.qcow2".as_ref(), &base, 1 << 30).await.unwrap();
    world.put_description(format!("/state/web/{}.checkpoint.json", CheckpointId::generate()), "{}");
    world.put_description(format!("/state/web/{}.pages", CheckpointId::generate()), "pages of nobody's");
    world.put_description("/state/web/notes.txt", "the administrator's");
    world.put_description("/state/web/web.vm.json", "{}");
    world.open_elsewhere(chain.head().await, "qemu-nbd");
    world.set_faults(
        FaultPlan::none().every(Call::SealExport, Fault::FailBefore).every(Call::DiscardExport, Fault::FailBefore),
    );
    chain.host.run(chain.export(chain.first.id)).await.unwrap_err();
    let mut kinds: Vec<_> = chain.found().await.into_iter().map(|(kind, ..)| kind).collect();
    kinds.sort();
    use FindingKind as K;
    let expected =
        [K::ForeignUser, K::UnknownLayer, K::UnknownFile, K::UnknownFile, K::UnfinishedExport, K::DescriptionDiffers];
    assert_eq!(kinds, expected);

    let txn = Txn { guards: vec![], writes: vec![Put::Set("vm/broken".into(), b"{".to_vec())] };
    world.ports().store.commit(txn).await.unwrap();
    let findings = chain.host.engine.check(None).await.unwrap();
    assert_eq!(findings[0].kind, K::RecordUnreadable);
    assert!(findings[0].message.contains("vm/broken"), "{findings:?}");
    chain.host.engine.update_vm(&vm, VmChange::default()).await.unwrap();
    assert!(!chain.found().await.iter().any(|(kind, ..)| *kind == K::DescriptionDiffers), "written again");
}

#[tokio::test(start_paused = true)]
async fn while_something_is_at_work_leftovers_are_not_looked_for() {
    let host = SimHost::running().await;
    host.world.set_latency(Call::SwitchHeads, std::time::Duration::from_secs(5));
    let begun =
        host.engine.submit(&host.vm(), Request::CreateCheckpoint(NewCheckpoint::default()), None).await.unwrap();
    let findings = host.engine.check(Some(&host.vm())).await.unwrap();
    assert_eq!(findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::Busy]);
    host.end_of(&begun).await.unwrap();
    assert_eq!(host.engine.check(Some(&host.vm())).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_was_renamed_is_reconnected_and_what_lies_on_it_follows() {
    for which in ["base", "middle", "head"] {
        let chain = Chain::new().await;
        let path = match which {
            "base" => chain.file(chain.first.id).await,
            "middle" => chain.file(chain.second.id).await,
            _ => chain.head().await,
        };
        let layer = chain.layer(&path).await;
        chain.host.world.move_file(&path, "/vm/renamed.qcow2");
        assert_eq!(chain.refused(Request::Start).await, Reason::DiskFileMissing);
        assert_eq!(chain.reconnect(Reconnected::Layer(layer), "/vm/renamed.qcow2", false).await, Ok(1), "{which}");
        assert_eq!(chain.reconnect(Reconnected::Layer(layer), "/vm/renamed.qcow2", false).await, Ok(1), "again");
        chain.assert_whole().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_was_moved_is_reconnected_with_all_its_layers() {
    let chain = Chain::new().await;
    let layers = chain.host.engine.layers(&chain.host.vm()).await.unwrap();
    let of_disk = layers.iter().filter(|view| view.layer.disk == disk("data"));
    let files: Vec<PathBuf> = of_disk.map(|view| view.layer.file.path.clone()).collect();
    assert_eq!(files.len(), 3);
    for file in &files {
        chain.host.world.move_file(file, PathBuf::from("/big").join(file.file_name().unwrap()));
    }
    assert_eq!(chain.reconnect(Reconnected::Disk(disk("data")), "/big", false).await, Ok(3));
    let vm = chain.host.engine.vm(&chain.host.vm()).await.unwrap().vm;
    let path = &vm.definition.disks.iter().find(|found| found.name == disk("data")).unwrap().path;
    assert_eq!(path, &PathBuf::from("/big/data.qcow2"));
    chain.assert_whole().await;
}

#[tokio::test(start_paused = true)]
async fn more_layers_than_a_transaction_holds_are_reconnected_and_a_crash_between_is_finished_by_the_same_request() {
    let mut host = SimHost::running().await;
    for _ in 0..50 {
        host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    }
    host.write(1, 3);
    host.turn_off().await;
    for view in host.engine.layers(&host.vm()).await.unwrap() {
        let path = view.layer.file.path;
        if view.layer.disk == disk("data") {
            host.world.move_file(&path, PathBuf::from("/big").join(path.file_name().unwrap()));
        }
    }
    let asked = || Reconnect { what: Reconnected::Disk(disk("data")), path: "/big".into(), accept_changed: false };
    // Each child is noted to be written to before its file names its parent's new place; then come the records.
    host.world.set_faults(FaultPlan::none());
    let mut died = 0;
    for nth in 48..60 {
        host.world.set_faults(FaultPlan::none().at_write(nth, Fault::CrashAfter));
        let vm = host.vm();
        let done = tokio::select! {
            done = host.engine.reconnect(&vm, asked()) => Some(done.map(|moved| moved.len())),
            () = host.world.crashed() => None,
        };
        died += usize::from(done.is_none());
        host.restart().await;
        host.world.set_faults(FaultPlan::none());
    }
    assert!(died > 0, "it dies at least once");
    assert_eq!(host.engine.reconnect(&host.vm(), asked()).await.unwrap().len(), 51);
    assert_eq!(host.engine.check(Some(&host.vm())).await.unwrap(), []);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 3);
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_that_dies_in_the_middle_is_finished_by_the_same_request() {
    for nth in 1..20 {
        let mut chain = Chain::new().await;
        let path = chain.file(chain.first.id).await;
        let layer = chain.layer(&path).await;
        chain.host.world.move_file(&path, "/vm/renamed.qcow2");
        chain.host.world.set_faults(FaultPlan::none().at_write(nth, Fault::CrashAfter).at(
            Call::Repoint,
            nth,
            Fault::CrashAfter,
        ));
        let died = tokio::select! {
            _ = chain.reconnect(Reconnected::Layer(layer), "/vm/renamed.qcow2", false) => false,
            () = chain.host.world.crashed() => true,
        };
        chain.host.restart().await;
        assert_eq!(chain.reconnect(Reconnected::Layer(layer), "/vm/renamed.qcow2", false).await, Ok(1), "{nth}");
        chain.assert_whole().await;
        if !died {
            return;
        }
    }
    panic!("a reconnect has fewer writes");
}

#[tokio::test(start_paused = true)]
async fn another_file_is_only_taken_if_somebody_says_so() {
    let chain = Chain::new().await;
    let (path, other) = (chain.file(chain.second.id).await, chain.file(chain.first.id).await);
    let layer = chain.layer(&path).await;
    let there = path.display().to_string();
    chain.host.world.overwrite_file(&path, 1, 9);
    let what = || Reconnected::Layer(layer);
    assert_eq!(chain.reconnect(what(), &there, false).await, Err(Reason::DiskChanged));
    assert_eq!(chain.reconnect(what(), &other.display().to_string(), true).await, Err(Reason::DiskInUse));
    assert_eq!(chain.reconnect(what(), "/vm/nothing.qcow2", true).await, Err(Reason::DiskFileMissing));
    assert_eq!(chain.reconnect(what(), "/far/away.qcow2", true).await, Err(Reason::FieldInvalid));
    chain.host.world.add_image("/vm/small.qcow2", 1 << 20);
    assert_eq!(chain.reconnect(what(), "/vm/small.qcow2", true).await, Err(Reason::DiskFileUnusable));
    let unknown = Reconnected::Layer(LayerId::generate());
    assert_eq!(chain.reconnect(unknown, &there, true).await, Err(Reason::LayerNotFound));
    assert_eq!(chain.reconnect(Reconnected::Disk(disk("tape")), "/vm", true).await, Err(Reason::DiskNotFound));
    assert_eq!(chain.reconnect(what(), &there, true).await, Ok(1), "as it is, at the caller's risk");
    assert_eq!(chain.found().await, []);
    chain.host.run(Request::Start).await.unwrap();
    assert_eq!(chain.reconnect(what(), &there, true).await, Err(Reason::VmRunning));
}

#[tokio::test(start_paused = true)]
async fn layers_say_what_they_lie_on_how_large_they_are_and_who_reads_them() {
    let chain = Chain::new().await;
    let layers = chain.host.engine.layers(&chain.host.vm()).await.unwrap();
    let [base, middle, head] = &layers[..3] else { panic!("{layers:?}") };
    assert_eq!(base.backing, None);
    assert_eq!(middle.backing.as_ref(), Some(&base.layer.file));
    assert_eq!(head.backing.as_ref(), Some(&middle.layer.file));
    assert_eq!(base.checkpoints, [chain.first.id, chain.second.id]);
    assert_eq!((middle.checkpoints.as_slice(), middle.now), (&[chain.second.id][..], true));
    assert_eq!((head.checkpoints.len(), head.now, head.layer.frozen), (0, true, None));
    assert!(base.layer.frozen.is_some() && base.allocated > Some(0));
    assert!(layers.iter().all(|layer| layer.wrong.is_empty() && !layer.missing));
}

/// Where the record of the user's own image is lost, nobody can tell what the layers over it read.
#[tokio::test(start_paused = true)]
async fn layers_over_one_that_the_catalogue_has_lost_are_neither_merged_nor_removed() {
    let mut chain = Chain::new().await;
    let (vm, base) = (chain.host.vm(), chain.file(chain.first.id).await);
    let (second, now) = (chain.file(chain.second.id).await, chain.head().await);
    let lost = format!("layer/{vm}/{}", chain.layer(&base).await);
    let txn = Txn { guards: vec![], writes: vec![Put::Delete(lost)] };
    chain.host.world.ports().store.commit(txn).await.unwrap();
    chain.host.restart().await;
    let content = [&base, &second, &now].map(|path| chain.host.world.content(path));
    assert!(content.iter().all(Option::is_some));
    chain.host.world.set_faults(FaultPlan::none());
    let ended = chain.host.run(Request::DeleteCheckpoint(chain.second.id)).await;
    chain.host.engine.idle(&vm).await.unwrap();
    let moved = [Call::MergeOffline, Call::StreamOffline, Call::RemoveFile, Call::Repoint];
    let touched: Vec<_> = chain.host.world.calls().into_iter().filter(|call| moved.contains(call)).collect();
    println!("{ended:?}, {touched:?}");
    assert_eq!([&base, &second, &now].map(|path| chain.host.world.content(path)), content, "{ended:?}");
    chain.host.world.assert_sound();
}
