//! A full disk is an ordinary event, on the simulator: refused where it can be foreseen, harmless where it cannot. The
//! same on real file systems is in `guest_space` and `real_qemu_space`.

use stillpoint_common::{CheckpointPolicy, DiskFormat, Reason};
use stillpoint_engine::{NewCheckpoint, Request};
use stillpoint_tests::sim_host::{SimHost, disk};

const MIB: u64 = 1 << 20;
/// Room for two layers and what stays free, and nothing more.
const TWO_LAYERS: u64 = (2 * 16 + 64) * MIB;

async fn assert_clean(host: &SimHost) {
    host.world.assert_sound();
    let referenced = host.referenced().await;
    assert_eq!(host.world.orphans(&referenced), [].into(), "files nobody refers to");
    assert_eq!(host.world.missing(&referenced), [].into(), "files that are referred to and missing");
}

/// Leaves so many bytes free on the file system of the images.
fn leave(host: &SimHost, free: u64) {
    host.world.set_capacity("/vm", host.world.used("/vm") + free);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_without_room_for_its_layers_is_refused_before_anything_is_begun() {
    let host = SimHost::running().await;
    leave(&host, TWO_LAYERS - 1);
    for policy in [CheckpointPolicy::Production, CheckpointPolicy::ProductionOnly, CheckpointPolicy::Standard] {
        let failure = host.create(policy).await.unwrap_err();
        assert_eq!(failure.reason, Reason::NoSpace, "{failure}");
        for says in
            ["/vm/", "the file system on /vm has 96.0 MiB free", "layer of disk system", "64.0 MiB that stay free"]
        {
            assert!(failure.message.contains(says), "{says} is not in {failure}");
        }
        assert_eq!((host.world.files().len(), host.checkpoints().await.len()), (2, 0));
    }
    assert!(host.world.holds(&host.vm()).is_empty(), "the guest was not even asked");
    leave(&host, TWO_LAYERS);
    host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_standard_checkpoint_needs_room_for_the_memory_where_its_checkpoints_are_kept() {
    let host = SimHost::running().await;
    host.world.set_capacity("/state", 256 * MIB);
    let failure = host.create(CheckpointPolicy::Standard).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace);
    assert!(failure.message.contains("the file system on /state has 256.0 MiB free, and 320.0 MiB"), "{failure}");
    host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.world.set_capacity("/state", (256 + 64) * MIB);
    host.create(CheckpointPolicy::Standard).await.unwrap();
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_fallback_without_room_for_the_memory_says_that_and_leaves_nothing() {
    let host = SimHost::running().await;
    host.world.script_guest(&host.vm(), |guest| guest.agent = stillpoint_sim::AgentScript::Absent);
    host.world.set_capacity("/state", 256 * MIB);
    let failure = host.create(CheckpointPolicy::Production).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace, "{failure}");
    assert_eq!((host.world.files().len(), host.checkpoints().await.len(), host.read(1)), (2, 0, 1));
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn an_apply_without_room_for_its_layers_is_refused_and_the_vm_goes_on() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    let instance = host.world.running(&host.vm());
    leave(&host, TWO_LAYERS - 1);
    for request in [Request::Apply(made.id), Request::Revert] {
        assert_eq!(host.run(request).await.unwrap_err().reason, Reason::NoSpace);
        assert_eq!((host.world.running(&host.vm()), host.read(1)), (instance, 2));
    }
    leave(&host, TWO_LAYERS);
    host.run(Request::Apply(made.id)).await.unwrap();
    assert_eq!(host.read(1), 1);
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn an_export_without_room_at_its_target_is_refused_before_a_folder_is_made() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    let export = || Request::Export { checkpoint: made.id, folder: "/exports/one".into(), format: DiskFormat::Qcow2 };
    // One block and the overhead of each of two disks, and what stays free.
    let needed = 2 * (MIB + 65_536) + 64 * MIB;
    host.world.set_capacity("/exports", needed - 1);
    let failure = host.run(export()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace);
    assert!(failure.message.contains("the file system on /exports has"), "{failure}");
    assert!(failure.message.contains("a copy of disk data"), "{failure}");
    assert_clean(&host).await;
    host.world.set_capacity("/exports", needed);
    host.run(export()).await.unwrap();
    assert_clean(&host).await;
}

#[tokio::test(start_paused = true)]
async fn what_fills_the_disk_behind_the_forecast_undoes_the_operation_and_leaves_nothing() {
    let host = SimHost::running().await;
    host.world.set_capture_time(std::time::Duration::from_secs(10));
    let request = Request::CreateCheckpoint(NewCheckpoint {
        policy: Some(CheckpointPolicy::Standard),
        ..NewCheckpoint::default()
    });
    let operation = host.engine.submit(&host.vm(), request, None).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    host.world.set_capacity("/state", MIB);
    let failure = host.end_of(&operation).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace, "{failure}");
    assert_eq!((host.checkpoints().await.len(), host.world.files().len(), host.read(1)), (0, 2, 1));
    assert!(host.world.guest_write(&host.vm(), &disk("system"), 2, 2).is_ok(), "the guest goes on");
    host.world.guest_write(&host.vm(), &disk("data"), 2, 2).unwrap();
    assert_clean(&host).await;
}
