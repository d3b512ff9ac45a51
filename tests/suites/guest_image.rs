//! The test guest and its channel do what the other suites rely on.

use std::time::Duration;

use serde_json::json;
use stillpoint_tests::bare::{BareOptions, BareQemu};
use stillpoint_tests::ext4::Ext4State;
use stillpoint_tests::guest_image::GuestSet;
use stillpoint_tests::lab::{LabChannel, LabError};

#[tokio::test]
async fn a_guest_boots_runs_commands_and_powers_off() {
    let set = GuestSet::new().unwrap();
    let mut guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let lab = guest.lab().await.unwrap();

    assert_eq!(lab.sh("echo 'a\\b'\necho c").await.unwrap(), "a\\b\nc");
    assert!(
        matches!(lab.sh("echo no; exit 3").await, Err(LabError::Failed { status: 3, output, .. }) if output == "no")
    );
    assert!(lab.sh("cat /proc/mounts").await.unwrap().contains("/dev/vda /data ext4"));
    let slow = lab.run_within("sleep 20", Duration::from_millis(300)).await;
    assert!(matches!(slow, Err(LabError::Unanswered { .. })), "{slow:?}");
    assert_eq!(lab.sh("echo still here").await.unwrap(), "still here");

    lab.run_within("/sbin/poweroff", Duration::from_secs(20)).await.ok();
    guest.ended(Duration::from_secs(20)).await.unwrap();
    assert!(Ext4State::of_layer(&set.data_disk, "qcow2").await.unwrap().at_rest());
}

#[tokio::test]
async fn the_power_button_shuts_the_guest_down_in_order() {
    let set = GuestSet::new().unwrap();
    let mut guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let lab = guest.lab().await.unwrap();
    lab.sh("echo written > /data/file; until pidof acpid; do usleep 100000; done").await.unwrap();
    lab.start("counter c /data/count 5").await.unwrap();

    guest.qmp().await.unwrap().execute("system_powerdown", json!({})).await.unwrap();
    guest.ended(Duration::from_secs(30)).await.unwrap();
    assert!(guest.console().contains("POWER OFF"));
    assert!(Ext4State::of_layer(&set.data_disk, "qcow2").await.unwrap().at_rest());
}

#[tokio::test]
async fn workloads_keep_and_tell_their_state() {
    let set = GuestSet::new().unwrap();
    let guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let lab = guest.lab().await.unwrap();

    lab.start("value cat Tom").await.unwrap();
    assert_eq!(lab.ask("cat", "get").await.unwrap(), "Tom");
    assert_eq!(lab.ask("cat", "set Felix").await.unwrap(), "Felix");
    lab.start("memory ram 64 7 8").await.unwrap();
    assert_eq!(lab.ask("ram", "size").await.unwrap(), "64");
    assert_eq!(lab.ask("ram", "check").await.unwrap(), "intact");
    lab.sh("stillpoint-lab fill /data/big 32 9").await.unwrap();
    assert_eq!(lab.sh("stillpoint-lab check /data/big 32 9").await.unwrap(), "intact");
    lab.sh("printf x | dd of=/data/big bs=1 seek=5000000 conv=notrunc 2> /dev/null").await.unwrap();
    assert!(lab.sh("stillpoint-lab check /data/big 32 9").await.unwrap_err().to_string().contains("page 1220"));

    let clock = lab.clock().await.unwrap();
    assert!(clock.since_boot > Duration::from_secs(1) && clock.since_boot < Duration::from_secs(200), "{clock:?}");
}

#[tokio::test]
async fn a_counter_tells_how_long_it_was_held_up_also_while_it_is() {
    let set = GuestSet::new().unwrap();
    let guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let lab = guest.lab().await.unwrap();
    lab.start("counter c /data/count 2").await.unwrap();
    let before = lab.gap("c").await.unwrap();
    lab.ask("c", "reset").await.unwrap();

    lab.sh("fsfreeze --freeze /data; sleep 1").await.unwrap();
    let held = lab.gap("c").await.unwrap();
    lab.sh("fsfreeze --unfreeze /data; sleep 1").await.unwrap();
    let after = lab.gap("c").await.unwrap();

    assert!(held.longest >= Duration::from_millis(900) && after.longest >= held.longest, "{held:?} {after:?}");
    assert!(before.count <= held.count && held.count < after.count, "{before:?} {held:?} {after:?}");
    assert_eq!(after.errors, 0);
}

#[tokio::test]
async fn a_layer_cut_while_frozen_is_at_rest_and_one_cut_while_writing_is_not() {
    let set = GuestSet::new().unwrap();
    let guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let lab = guest.lab().await.unwrap();
    let mut qmp = guest.qmp().await.unwrap();
    lab.start("counter c /data/count 2").await.unwrap();
    lab.gap("c").await.unwrap();

    let mut cut = async |name: &str| {
        let snapshot = json!({ "node-name": name_before(name), "snapshot-node-name": name,
            "snapshot-file": set.path().join(format!("{name}.qcow2")), "format": "qcow2" });
        qmp.execute("blockdev-snapshot-sync", snapshot).await.unwrap();
    };
    cut("disk1").await;
    assert!(!Ext4State::of_layer(&set.data_disk, "qcow2").await.unwrap().at_rest());

    lab.sh("fsfreeze --freeze /data").await.unwrap();
    cut("disk2").await;
    lab.sh("fsfreeze --unfreeze /data").await.unwrap();
    let state = Ext4State::of_layer(&set.path().join("disk1.qcow2"), "qcow2").await.unwrap();
    assert!(state.at_rest(), "{state:?}");
}

fn name_before(name: &str) -> &'static str {
    if name == "disk1" { "disk0" } else { "disk1" }
}

#[tokio::test]
async fn a_stacked_disk_carries_a_second_file_system() {
    let set = GuestSet::stacked().unwrap();
    let guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let lab = guest.lab().await.unwrap();
    assert!(lab.sh("cat /proc/mounts").await.unwrap().contains("/dev/loop0 /inner ext4"));
    lab.sh("echo inside > /inner/file && sync /inner/file").await.unwrap();
}

#[tokio::test]
async fn the_channel_comes_back_for_a_new_host_while_an_old_command_runs() {
    let set = GuestSet::new().unwrap();
    let guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let old = guest.lab().await.unwrap();
    old.run_within("sleep 1; yes | head -c 500000", Duration::from_millis(200)).await.unwrap_err();
    drop(old);
    for round in 0..10 {
        let lab = LabChannel::connect(&guest.socket("lab"), Duration::from_secs(20)).await.unwrap();
        assert_eq!(lab.sh(&format!("usleep 200000; echo {round}")).await.unwrap(), round.to_string());
    }
}
