//! What can be said and set about checkpoints and VMs, on the simulator.

use jiff::ToSpan as _;
use stillpoint_common::{
    CheckpointPolicy, CriticalSettings, Failure, FallbackReason, GuestService, Kind, PassThroughDisk, Reason, Remarks,
    SettingsChange, UnsupportedDisks, VmDefinition, VmSettings,
};
use stillpoint_engine::{CheckpointChange, NewCheckpoint, NewVm, Request, StopMode, VmChange};
use stillpoint_sim::{Call, FaultPlan, definition};
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
    host.run(Request::Apply(made.id.into())).await.unwrap();
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

/// A device of the host called so, that the guest can write to or not.
fn device(name: &str, read_only: bool) -> PassThroughDisk {
    PassThroughDisk { name: name.parse().expect("a disk name"), device: format!("/dev/{name}").into(), read_only }
}

/// Gives the VM, which is off, these devices, and sets what is to be done about them.
async fn pass_through(host: &SimHost, devices: &[PassThroughDisk], choice: UnsupportedDisks) {
    let known = host.engine.vm(&host.vm()).await.expect("the VM is there").vm.definition;
    let definition = Some(VmDefinition { pass_through: devices.to_vec(), ..known });
    let settings = SettingsChange { unsupported_disks: Some(choice), ..SettingsChange::default() };
    let change = VmChange { definition, settings, ..VmChange::default() };
    host.engine.update_vm(&host.vm(), change).await.expect("it can be set");
}

/// The warnings of a checkpoint that is made, and what it leaves out.
async fn made(host: &SimHost) -> (Vec<String>, Vec<String>) {
    let accepted = host.engine.submit(&host.vm(), called("one"), None).await.expect("it is admitted");
    host.end_of(&accepted).await.expect("it is made");
    let warnings = host.engine.operation(accepted.id).await.expect("it is remembered").warnings;
    let left_out = host.checkpoints().await.remove(0).checkpoint.left_out;
    (warnings, left_out.into_iter().map(|left| format!("{}: {}", left.disk, left.why)).collect())
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_no_checkpoint_can_hold_is_left_out_and_named() {
    let host = SimHost::new().await;
    pass_through(&host, &[device("tape", false), device("cd", true)], UnsupportedDisks::LeaveOut).await;
    let (warnings, left_out) = made(&host).await;
    assert_eq!(warnings.len(), 1, "nothing is lost with what cannot be written: {warnings:?}");
    assert!(
        warnings[0].contains("disk tape is not part of the checkpoint: /dev/tape is passed through"),
        "{warnings:?}"
    );
    assert_eq!(left_out[0], "tape: /dev/tape is passed through from the host: it has no layers");
    assert_eq!(left_out[1], "cd: /dev/cd is passed through from the host, and the guest cannot write to it");
}

#[tokio::test(start_paused = true)]
async fn a_vm_can_be_set_to_have_no_checkpoint_without_one_of_its_disks() {
    let host = SimHost::new().await;
    pass_through(&host, &[device("cd", true), device("tape", false)], UnsupportedDisks::Refuse).await;
    let files = host.world.files();
    for policy in [CheckpointPolicy::Production, CheckpointPolicy::Standard] {
        let refused = host.create(policy).await.unwrap_err();
        assert_eq!(refused.reason, Reason::UnsupportedDisk);
        assert!(refused.message.contains("disk tape: /dev/tape"), "{refused}");
    }
    assert_eq!((host.checkpoints().await.len(), host.world.files()), (0, files), "nothing was begun");
    pass_through(&host, &[device("cd", true)], UnsupportedDisks::Refuse).await;
    assert_eq!(made(&host).await.0, [""; 0], "what cannot be written is no reason to refuse");
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_refuses_such_disks_starts_without_an_automatic_checkpoint_and_says_so() {
    let host = SimHost::new().await;
    pass_through(&host, &[device("tape", false)], UnsupportedDisks::Refuse).await;
    let settings = SettingsChange { automatic_checkpoints: Some(true), ..SettingsChange::default() };
    host.engine.update_vm(&host.vm(), VmChange { settings, ..VmChange::default() }).await.unwrap();
    let accepted = host.engine.submit(&host.vm(), Request::Start, None).await.unwrap();
    host.end_of(&accepted).await.unwrap();
    let warnings = host.engine.operation(accepted.id).await.unwrap().warnings;
    assert!(warnings.iter().any(|it| it.contains("no automatic checkpoint") && it.contains("tape")), "{warnings:?}");
    assert_eq!(host.checkpoints().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_several_vms_have_is_said_to_be_shared() {
    let host = SimHost::new().await;
    pass_through(&host, &[device("quorum", false)], UnsupportedDisks::LeaveOut).await;
    host.world.add_image("/vm/db.qcow2", 1 << 30);
    let disks = definition(&[("system", "/vm/db.qcow2")]);
    let new = NewVm {
        id: "db".parse().unwrap(),
        definition: VmDefinition { pass_through: vec![device("quorum", false)], ..disks },
        checkpoint_policy: CheckpointPolicy::Production,
        checkpoint_location: None,
        critical: CriticalSettings::default(),
        settings: VmSettings::default(),
    };
    host.engine.create_vm(new, None).await.unwrap();
    let (_, left_out) = made(&host).await;
    assert_eq!(
        left_out,
        ["quorum: /dev/quorum is passed through from the host and shared with VM db: it has no layers"]
    );
}

/// Makes no use of a service of the guest any more.
async fn switch_off(host: &SimHost, service: GuestService) {
    let settings = SettingsChange { services_off: Some([service].into()), ..SettingsChange::default() };
    host.engine.update_vm(&host.vm(), VmChange { settings, ..VmChange::default() }).await.expect("it can be set");
    // Calls are counted from here on.
    host.world.set_faults(FaultPlan::none());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_not_to_be_made_quiet_is_not_asked_and_the_checkpoint_says_so() {
    let host = SimHost::running().await;
    switch_off(&host, GuestService::Quiesce).await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!((made.kind, made.fallback), (Kind::Standard, Some(FallbackReason::QuiesceSwitchedOff)));
    let refused = host.create(CheckpointPolicy::ProductionOnly).await.unwrap_err();
    assert!(refused.reason == Reason::QuiesceFailed && refused.message.contains("switched off"), "{refused}");
    let calls = host.world.calls();
    assert!(!calls.iter().any(|call| matches!(call, Call::Prepare | Call::Freeze)), "{calls:?}");
    host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
    let off = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    assert_eq!(off.kind, Kind::Production, "a VM that is off has nothing to be asked");
}

#[tokio::test(start_paused = true)]
async fn a_guest_whose_agent_is_not_to_shut_it_down_is_stopped_by_its_power_button() {
    let host = SimHost::running().await;
    switch_off(&host, GuestService::Shutdown).await;
    host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
    let calls = host.world.calls();
    assert!(calls.contains(&Call::PressPowerButton) && !calls.contains(&Call::Power), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_not_to_be_set_stays_behind_after_an_apply_and_this_is_said() {
    let host = SimHost::running().await;
    switch_off(&host, GuestService::TimeSync).await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let accepted = host.engine.submit(&host.vm(), Request::Apply(made.id.into()), None).await.unwrap();
    host.end_of(&accepted).await.unwrap();
    let warnings = host.engine.operation(accepted.id).await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("TIME_SYNC is switched off")), "{warnings:?}");
    assert!(host.world.clock_behind(&host.vm()).unwrap() >= std::time::Duration::from_secs(60));
}
