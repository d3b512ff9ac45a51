//! What can be said and set about checkpoints and VMs, on the simulator.

use jiff::ToSpan as _;
use stillpoint_common::{CheckpointPolicy, Failure, Reason, Remarks};
use stillpoint_engine::{CheckpointChange, NewCheckpoint, Request, VmChange};
use stillpoint_tests::sim_host::SimHost;

fn called(name: &str) -> Request {
    Request::CreateCheckpoint(NewCheckpoint { name: name.parse().ok(), ..NewCheckpoint::default() })
}

async fn location(host: &SimHost, path: &str) -> Result<String, Failure> {
    let change = VmChange { checkpoint_location: Some(path.into()), ..VmChange::default() };
    let view = host.engine.update_vm(&host.vm(), change).await?;
    Ok(view.vm.checkpoint_location.display().to_string())
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_without_a_name_is_called_after_its_vm_and_time() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!(made.name.as_str(), format!("web - ({})", made.created.strftime("%Y-%m-%d - %H:%M:%S")));
}

#[tokio::test(start_paused = true)]
async fn name_notes_and_time_to_keep_change_and_nothing_else_does() {
    let host = SimHost::running().await;
    let remarks = Remarks { notes: "first".parse().unwrap(), creator: Some(1000), ..Remarks::default() };
    host.run(Request::CreateCheckpoint(NewCheckpoint { remarks, ..NewCheckpoint::default() })).await.unwrap();
    let before = host.checkpoints().await.remove(0);
    let until = before.checkpoint.created + 1.hour();
    let change = CheckpointChange {
        name: "kept".parse().ok(),
        notes: "ask Ann\nbefore Friday".parse().ok(),
        keep_until: Some(Some(until)),
    };
    let files = host.world.files();
    let id = before.checkpoint.id;
    let after = host.engine.update_checkpoint(&host.vm(), id, change.clone()).await.unwrap();
    let mut expected = before.clone();
    expected.checkpoint = change.applied(expected.checkpoint);
    assert_eq!(after, expected);
    assert_eq!((after.checkpoint.remarks.notes.as_str(), after.files), ("ask Ann\nbefore Friday", before.files));
    assert_eq!(host.world.files(), files);
    let change = CheckpointChange { keep_until: Some(None), ..CheckpointChange::default() };
    let after = host.engine.update_checkpoint(&host.vm(), id, change).await.unwrap();
    assert_eq!((after.checkpoint.name.as_str(), after.checkpoint.remarks.keep_until), ("kept", None));
}

#[tokio::test(start_paused = true)]
async fn what_is_said_about_a_checkpoint_outlives_the_service() {
    let mut host = SimHost::running().await;
    host.run(called("one")).await.unwrap();
    let id = host.checkpoints().await[0].checkpoint.id;
    let change = CheckpointChange { notes: "kept".parse().ok(), ..CheckpointChange::default() };
    host.engine.update_checkpoint(&host.vm(), id, change).await.unwrap();
    host.restart().await;
    assert_eq!(host.checkpoint(id).await.checkpoint.remarks.notes.as_str(), "kept");
}

#[tokio::test(start_paused = true)]
async fn the_fifty_first_checkpoint_is_refused_and_the_limit_is_named() {
    let host = SimHost::new().await;
    for number in 1..=50 {
        host.run(called(&format!("number {number}"))).await.unwrap();
    }
    let failure = host.run(called("one too many")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::CheckpointLimit);
    assert!(failure.message.contains("50"), "{failure}");
    assert_eq!(host.checkpoints().await.len(), 50);
    let first = host.checkpoints().await[0].checkpoint.id;
    host.run(Request::DeleteCheckpoint(first)).await.unwrap();
    host.run(called("there is room again")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_goes_to_the_location_and_layers_stay_beside_their_images() {
    let host = SimHost::running().await;
    assert_eq!(location(&host, "/elsewhere").await.unwrap(), "/elsewhere");
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    assert!(made.memory.unwrap().path.starts_with("/elsewhere"));
    let heads = host.engine.vm(&host.vm()).await.unwrap().disks;
    assert!(heads.iter().all(|(_, head, depth)| head.path.starts_with("/vm") && *depth == 2), "{heads:?}");
}

#[tokio::test(start_paused = true)]
async fn the_location_changes_only_without_checkpoints() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    let failure = location(&host, "/elsewhere").await.unwrap_err();
    assert_eq!((failure.reason, failure.field.as_deref()), (Reason::VmHasCheckpoints, Some("vm.checkpoint_location")));
    host.run(Request::DeleteCheckpoint(made.id)).await.unwrap();
    assert_eq!(location(&host, "/elsewhere").await.unwrap(), "/elsewhere");
}

/// The file that takes the writes of a disk.
async fn head(host: &SimHost, disk: usize) -> std::path::PathBuf {
    host.engine.vm(&host.vm()).await.expect("the VM is there").disks[disk].1.path.clone()
}

#[tokio::test(start_paused = true)]
async fn a_disk_with_layers_that_was_resized_from_outside_is_refused_until_it_has_its_size_again() {
    let host = SimHost::new().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    let head = head(&host, 0).await;
    assert!(host.world.resize_file(&head, 2 << 30));
    for request in [Request::Start, called("over it")] {
        let refused = host.run(request).await.unwrap_err();
        assert_eq!(refused.reason, Reason::DiskHasLayers);
        assert!(refused.message.contains("from 1073741824 to 2147483648 bytes"), "{refused}");
    }
    assert_eq!(host.checkpoints().await.len(), 1);
    host.world.resize_file(&head, 1 << 30);
    host.run(Request::Start).await.unwrap();
    host.run(Request::Apply(made.id)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disk_without_layers_may_be_resized_and_its_checkpoints_have_the_new_size() {
    let host = SimHost::new().await;
    assert!(host.world.resize_file(head(&host, 0).await, 2 << 30));
    host.run(called("larger")).await.unwrap();
    host.run(Request::Start).await.unwrap();
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.world.assert_sound();
}
