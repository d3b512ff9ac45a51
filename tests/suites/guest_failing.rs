//! Real guests that fail: QEMU is killed, the kernel panics. What is done about it, also over a dead service.

use std::time::Duration;

use stillpoint_cli::{client::Client, view::Vm};
use stillpoint_common::{PowerState, VmId};
use stillpoint_tests::{guest_image::GuestSet, lab::LabChannel, service::Service};
use tokio::process::Command;

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Kills the only QEMU of this service, as the system does when memory runs out.
async fn kill_qemu(service: &Service) -> Tested {
    let [pid] = service.qemu_pids()[..] else { return Err("not one VM runs".into()) };
    Command::new("kill").args(["-9", &pid.to_string()]).status().await?;
    Ok(())
}

/// Waits until the VM has failed for this reason, so many recoveries have been begun within the hour, and nothing is at
/// work on it.
async fn failed(client: &Client, vm: &VmId, reason: &str, recoveries: u32) -> Tested<Vm> {
    let mut seen = None;
    for _ in 0..1200 {
        let vm = client.vm(vm).await?;
        let failure = vm.failure.clone().ok_or("the service says nothing of failures")?;
        if failure.reason == reason && failure.recoveries == recoveries && !failure.at_work && vm.operation.is_none() {
            return Ok(vm);
        }
        seen = Some((vm.status_line, failure));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("not so: {seen:?}").into())
}

async fn set(service: &Service, arguments: &[&str]) -> Tested {
    let (out, error, code) = service.stillpoint(&[&["vm", "set", "web"], arguments].concat()).await?;
    if code == 0 { Ok(()) } else { Err(format!("{arguments:?}: {out}{error}").into()) }
}

async fn value(lab: &LabChannel) -> Tested<String> {
    Ok(lab.sh("cat /data/value").await?.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_qemu_dies_or_whose_kernel_panics_is_brought_back_as_its_vm_is_set() -> Tested {
    let set_of_files = GuestSet::new()?;
    let mut service = Service::start(set_of_files.path()).await?;
    let (vm, lab) = service.boot("web", &set_of_files).await?;
    let client = service.client().await?;
    lab.sh("echo first > /data/value; sync").await?;
    client.wait(&client.create_checkpoint(&vm, "first", None).await?.id).await?;
    lab.sh("echo second > /data/value; sync").await?;

    // Nothing is done, unless it is set so.
    kill_qemu(&service).await?;
    assert_eq!(failed(&client, &vm, "VM_STOPPED_UNEXPECTEDLY", 0).await?.state, Some(PowerState::Off));

    // Started as it is, although the service was down when QEMU died.
    set(&service, &["--on-failure", "restart"]).await?;
    client.wait(&client.start_vm(&vm).await?.id).await?;
    service.lab().await?;
    service.kill().await?;
    kill_qemu(&service).await?;
    service.start_again().await?;
    let client = service.client().await?;
    assert_eq!(failed(&client, &vm, "VM_STOPPED_UNEXPECTEDLY", 1).await?.state, Some(PowerState::Running));
    let lab = service.lab().await?;
    assert_eq!(value(&lab).await?, "second");

    // Brought back to its checkpoint; what was Now is kept.
    set(&service, &["--on-failure", "revert", "--undo-checkpoint", "on"]).await?;
    kill_qemu(&service).await?;
    assert_eq!(failed(&client, &vm, "VM_STOPPED_UNEXPECTEDLY", 2).await?.state, Some(PowerState::Running));
    let lab = service.lab().await?;
    assert_eq!(value(&lab).await?, "first");
    assert_eq!(client.list_checkpoints(&vm).await?.len(), 2);

    // The kernel panics: QEMU stands still, is ended, and the guest comes back.
    lab.sh("echo third > /data/value; sync; load pvpanic").await?;
    let _ = lab.run_within("echo c > /proc/sysrq-trigger", Duration::from_secs(1)).await;
    assert_eq!(failed(&client, &vm, "GUEST_PANICKED", 3).await?.state, Some(PowerState::Running));
    let lab = service.lab().await?;
    assert_eq!((value(&lab).await?.as_str(), client.list_checkpoints(&vm).await?.len()), ("first", 3));

    // The fourth time within the hour it stands still.
    lab.sh("load pvpanic").await?;
    let _ = lab.run_within("echo c > /proc/sysrq-trigger", Duration::from_secs(1)).await;
    let mut seen = client.vm(&vm).await?;
    for _ in 0..600 {
        if seen.failure.as_ref().is_some_and(|failure| failure.outcome.contains("3 times within the last hour")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        seen = client.vm(&vm).await?;
    }
    assert_eq!(seen.status_line, "Paused: the guest's kernel has panicked");
    let shown = service.stillpoint(&["vm", "show", "web"]).await?.0;
    assert!(shown.contains("GUEST_PANICKED: nothing: it was brought back 3 times within the last hour"), "{shown}");
    let events = service.stillpoint(&["events"]).await?.0;
    for told in ["VM_DIED", "GUEST_PANICKED", "VM_RECOVERY", "time 3 of at most 3 within an hour"] {
        assert!(events.contains(told), "{told} is missing in {events}");
    }
    client.wait(&client.stop_vm(&vm, true).await?.id).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Off), "a stop is no failure");
    Ok(())
}
