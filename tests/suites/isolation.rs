//! What a checkpoint is isolated from: disks that come and go afterwards, network, memory, CPUs, names. An apply gives the
//! old machine back, and nothing of a checkpoint has moved meanwhile. On the simulator.

use std::collections::BTreeMap;

use stillpoint_common::{CheckpointPolicy, DiskDefinition, DiskFormat, Failure, PowerState, Reason};
use stillpoint_engine::{CheckpointView, Request, VmChange, VmView};
use stillpoint_sim::Content;
use stillpoint_tests::sim_host::{SimHost, disk};

const GIB: u64 = 1 << 30;

async fn now(host: &SimHost) -> VmView {
    host.engine.vm(&host.vm()).await.expect("it is there")
}

async fn assert_clean(host: &SimHost) {
    host.world.assert_sound();
    let mut referenced = host.referenced().await;
    // The user's own images stay, whoever uses them.
    referenced.extend(["/vm/system.qcow2", "/vm/data.qcow2", "/vm/extra.qcow2"].map(Into::into));
    assert_eq!(host.world.orphans(&referenced), [].into(), "files nobody refers to");
}

fn image(name: &str) -> DiskDefinition {
    DiskDefinition { name: disk(name), path: format!("/vm/{name}.qcow2").into(), format: DiskFormat::Qcow2 }
}

/// Gives the VM, which is off, these disks.
async fn with_disks(host: &SimHost, names: &[&str]) -> Result<VmView, Failure> {
    let mut definition = now(host).await.vm.definition;
    definition.disks = names.iter().map(|name| image(name)).collect();
    let change = VmChange { definition: Some(definition), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), change).await
}

fn write(host: &SimHost, name: &str, block: u64, value: u64) {
    host.world.guest_write(&host.vm(), &disk(name), block, value).expect("the guest can write");
}

fn read(host: &SimHost, name: &str, block: u64) -> u64 {
    let content: Content = host.world.guest_content(&host.vm(), &disk(name)).expect("the VM runs");
    content.get(&block).copied().unwrap_or_default()
}

/// A checkpoint with everything that must never change of it.
async fn witness(host: &SimHost, view: &CheckpointView) -> (CheckpointView, BTreeMap<String, Content>) {
    let view = host.checkpoint(view.checkpoint.id).await;
    let content = host.content(&view).into_iter().map(|(disk, content)| (disk.to_string(), content)).collect();
    (view, content)
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_stays_what_it_is_while_the_machine_is_rebuilt_and_gives_the_old_one_back() {
    let host = SimHost::running().await;
    host.world.add_image("/vm/extra.qcow2", GIB);
    host.world.set_guest_memory(&host.vm(), 7);
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    let before = witness(&host, &host.checkpoint(made.id).await).await;
    host.write(1, 2);
    host.turn_off().await;

    let mut definition = now(&host).await.vm.definition;
    (definition.cpus, definition.memory_mib) = (definition.cpus + 1, definition.memory_mib * 2);
    definition.nics.clear();
    definition.disks = vec![image("system"), image("extra")];
    let change = VmChange { definition: Some(definition.clone()), ..VmChange::default() };
    let rebuilt = host.engine.update_vm(&host.vm(), change).await.unwrap();
    assert_eq!(rebuilt.vm.detached.iter().map(|detached| detached.disk.clone()).collect::<Vec<_>>(), [image("data")]);
    host.run(Request::Start).await.unwrap();
    assert_eq!((read(&host, "system", 1), read(&host, "extra", 1)), (2, 0));
    write(&host, "system", 1, 3);
    write(&host, "extra", 1, 9);
    host.create(CheckpointPolicy::Standard).await.unwrap();
    write(&host, "extra", 1, 10);
    assert_eq!(witness(&host, &before.0).await, before, "nothing of the checkpoint has moved");

    host.run(Request::Apply(made.id.into())).await.unwrap();
    let back = now(&host).await;
    assert_eq!((back.power, &back.vm.definition), (PowerState::Running, &made.definition));
    assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(7)));
    let fields: Vec<_> =
        host.engine.operations().await.unwrap().remove(0).changes.into_iter().map(|c| c.field).collect();
    let nics = (0..made.definition.nics.len()).map(|at| format!("nics[{at}]"));
    let expected = ["cpus", "memory_mib", "disks.extra", "disks.data"].map(str::to_owned).into_iter().chain(nics);
    assert_eq!(fields.iter().collect::<std::collections::BTreeSet<_>>(), expected.collect::<Vec<_>>().iter().collect());
    assert_eq!(witness(&host, &before.0).await, before);
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_taken_out_and_put_back_reads_as_it_did() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    host.turn_off().await;
    with_disks(&host, &["system"]).await.unwrap();
    host.run(Request::Start).await.unwrap();
    let between = host.create(CheckpointPolicy::Standard).await.unwrap();
    assert_eq!(between.disks.keys().map(ToString::to_string).collect::<Vec<_>>(), ["system"]);
    host.run(Request::DeleteCheckpoint(between.id)).await.unwrap();
    host.turn_off().await;
    assert_clean(&host).await;

    with_disks(&host, &["data", "system"]).await.unwrap();
    assert_eq!(now(&host).await.vm.detached, []);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 2);
    host.run(Request::DeleteCheckpoint(made.id)).await.unwrap();
    assert_eq!((host.read(1), host.world.files().len()), (2, 2));
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_detached_disk_keeps_its_data_when_the_last_checkpoint_goes_and_is_then_anybodys() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    host.turn_off().await;
    with_disks(&host, &["system"]).await.unwrap();
    host.run(Request::DeleteCheckpoint(made.id)).await.unwrap();
    assert_eq!(now(&host).await.vm.detached, [], "its image is whole again and the user's own");
    assert_eq!(host.world.read("/vm/data.qcow2", 1), Some(2));
    let mut definition = now(&host).await.vm.definition;
    definition.disks = vec![image("data")];
    let other = stillpoint_engine::NewVm {
        id: "other".parse().unwrap(),
        definition,
        checkpoint_policy: CheckpointPolicy::Production,
        checkpoint_location: None,
        critical: stillpoint_common::CriticalSettings::default(),
        settings: stillpoint_common::VmSettings::default(),
    };
    host.engine.create_vm(other, None).await.unwrap();
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_disk_that_an_apply_takes_out_is_the_users_again() {
    let host = SimHost::running().await;
    host.world.add_image("/vm/extra.qcow2", GIB);
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.turn_off().await;
    with_disks(&host, &["system", "data", "extra"]).await.unwrap();
    host.run(Request::Start).await.unwrap();
    write(&host, "extra", 1, 9);
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(host.world.read("/vm/extra.qcow2", 1), Some(9), "its own file is not touched");
    host.turn_off().await;
    with_disks(&host, &["system", "data", "extra"]).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(read(&host, "extra", 1), 9);
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_a_checkpoint_needs_is_no_disk_of_its_own_and_disks_change_only_while_off() {
    let host = SimHost::running().await;
    host.create(CheckpointPolicy::Standard).await.unwrap();
    assert_eq!(with_disks(&host, &["system"]).await.unwrap_err().reason, Reason::VmRunning);
    host.turn_off().await;
    let mut definition = now(&host).await.vm.definition;
    let before = definition.clone();
    definition.disks[1] = DiskDefinition { name: disk("again"), ..image("data") };
    let change = VmChange { definition: Some(definition), ..VmChange::default() };
    let refused = host.engine.update_vm(&host.vm(), change).await.unwrap_err();
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::DiskIsBacking, Some("vm.spec.disks[1].path")));
    assert_eq!(now(&host).await.vm.definition, before);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 1);
}
