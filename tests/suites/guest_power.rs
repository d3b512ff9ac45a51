//! Starting, stopping and pausing a real guest, and the service going away in between.

use std::time::Duration;

use stillpoint_cli::client::Client;
use stillpoint_common::{CheckpointPolicy, PowerState, VmId};
use stillpoint_tests::{ext4::Ext4State, guest_image::GuestSet, service::Service};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// Waits until the service shows the VM in this state.
async fn becomes(client: &Client, vm: &VmId, state: PowerState) -> Tested {
    let reached = async {
        while client.vm(vm).await?.state != Some(state) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await?
}

/// Its data disk was unmounted in order.
async fn shut_down_in_order(set: &GuestSet) -> Tested {
    assert!(Ext4State::of_layer(&set.data_disk, "qcow2").await?.at_rest());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_pauses_resumes_survives_the_service_reboots_and_stops_through_its_agent() -> Tested {
    let set = GuestSet::new()?;
    let mut service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.start("counter c /data/count 2").await?;

    client.wait(&client.pause_vm(&vm).await?.id).await?;
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Paused));
    let asked = lab.run_within("true", Duration::from_millis(500)).await;
    assert!(asked.is_err(), "a paused guest answers nothing: {asked:?}");
    client.wait(&client.resume_vm(&vm).await?.id).await?;
    lab.sh("true").await?;

    let (boot, before, pids) = (lab.sh(BOOT_ID).await?, client.vm(&vm).await?, service.qemu_pids());
    service.terminate().await?;
    lab.sh("true").await?; // it goes on without the service
    service.start_again().await?;
    let client = service.client().await?;
    let after = client.vm(&vm).await?;
    assert_eq!((after.state, &after.generation_id), (Some(PowerState::Running), &before.generation_id));
    assert_eq!((lab.sh(BOOT_ID).await?, service.qemu_pids()), (boot.clone(), pids.clone()));
    let only = Some(CheckpointPolicy::ProductionOnly);
    client.wait(&client.create_checkpoint(&vm, "attached again", only).await?.id).await?;

    lab.sh("(disks umount; reboot -f) < /dev/null > /dev/null 2>&1 &").await?;
    let other = format!("until b=$({BOOT_ID}) && [ $b != {boot} ]; do sleep 1; done; agent pid");
    let rebooted = async { while lab.run_within(&other, Duration::from_secs(1)).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(60), rebooted).await?;
    assert_eq!(service.qemu_pids(), pids, "a reboot keeps the process");
    let rebooted = client.vm(&vm).await?;
    assert_eq!((rebooted.state, rebooted.generation_id), (Some(PowerState::Running), before.generation_id));
    client.wait(&client.create_checkpoint(&vm, "after the reboot", only).await?.id).await?;

    client.wait(&client.stop_vm(&vm, false).await?.id).await?;
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Off));
    assert!(service.qemu_pids().is_empty());
    let head = client.vm(&vm).await?.disks[0].head_path.clone();
    assert!(Ext4State::of_layer(head.as_ref(), "qcow2").await?.at_rest());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_power_button_stops_a_guest_and_one_that_switches_itself_off_is_shown_off() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.sh("agent stop; while pidof stillpoint-agent; do usleep 50000; done").await?;
    client.wait(&client.stop_vm(&vm, false).await?.id).await?;
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Off));
    shut_down_in_order(&set).await?;
    drop(lab);

    client.wait(&client.start_vm(&vm).await?.id).await?;
    let lab = service.lab().await?;
    lab.sh("/sbin/poweroff < /dev/null > /dev/null 2>&1 &").await?;
    becomes(&client, &vm, PowerState::Off).await?;
    shut_down_in_order(&set).await?;
    client.wait(&client.start_vm(&vm).await?.id).await?;
    service.lab().await?;
    Ok(())
}
