//! A real guest that is saved, started again, captured while it is saved or paused, and brought back.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_cli::client::{Client, Machine};
use stillpoint_common::{CheckpointPolicy, Consistency, FallbackReason, Kind, PowerState, VmId};
use stillpoint_tests::{guest_image::GuestSet, service::Service};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

async fn state(client: &Client, vm: &VmId) -> Tested<PowerState> {
    Ok(client.vm(vm).await?.state.ok_or("no state")?)
}

/// What lives in the guest's memory only, and what it has put on its disk.
const LOOK: &str = "cat /tmp/value /data/file";

/// How often the guest's kernel was told that it lives through something again: then it draws new randomness.
const FORKS: &str = "dmesg | grep -c 'reseeded due to virtual machine fork' || true";

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_guest_goes_on_where_it_was_and_its_checkpoint_gives_back_a_saved_one() -> Tested {
    let set = GuestSet::new()?;
    let mut service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.start("counter c /data/count 2").await?;
    lab.sh("echo memory > /tmp/value; echo disk > /data/file; sync").await?;
    let (boot, before) = (lab.sh("cat /proc/sys/kernel/random/boot_id").await?, client.vm(&vm).await?);

    client.wait(&client.save_vm(&vm).await?.id).await?;
    let saved = client.vm(&vm).await?;
    assert_eq!((saved.state, saved.status_line.as_str()), (Some(PowerState::Saved), "Saved"));
    assert!(saved.saved.as_ref().is_some_and(|saved| saved.was_running && saved.bytes > 10 << 20), "{saved:?}");
    assert!(service.qemu_pids().is_empty(), "its process has ended");
    let only = client.create_checkpoint(&vm, "only", Some(CheckpointPolicy::ProductionOnly)).await?;
    assert_eq!(client.wait(&only.id).await.unwrap_err().reason(), Some("QUIESCE_FAILED"));
    let made = client.wait(&client.create_checkpoint(&vm, "as saved", None).await?.id).await?;
    let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((made.kind, made.consistency), (Some(Kind::Standard), Some(Consistency::Memory)));
    assert_eq!((made.vm_state, made.fallback_reason), (Some(PowerState::Saved), Some(FallbackReason::VmNotRunning)));

    service.terminate().await?;
    service.start_again().await?;
    let client = service.client().await?;
    assert_eq!(state(&client, &vm).await?, PowerState::Saved);
    client.wait(&client.start_vm(&vm).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh(LOOK).await?.trim(), "memory\ndisk");
    assert_eq!(lab.sh("cat /proc/sys/kernel/random/boot_id").await?, boot, "the same run of its kernel");
    assert_eq!(client.vm(&vm).await?.generation_id, before.generation_id);
    assert_eq!(lab.sh(FORKS).await?.trim(), "0", "pause, save, start and a restart of the service are no apply");
    let off = lab.clock_off().await?;
    println!("after a start from saved the guest's clock is off by {off:?}");
    assert!(off < Duration::from_millis(100), "the clock is off by {off:?}");
    assert!(lab.ask("c", "count").await?.parse::<u64>()? > 0, "the counter counts on");

    lab.sh("echo changed > /tmp/value; echo changed > /data/file; sync").await?;
    client.wait(&client.apply_checkpoint(&vm, made.id).await?.id).await?;
    assert_eq!(state(&client, &vm).await?, PowerState::Saved, "it was saved");
    assert!(service.qemu_pids().is_empty());
    client.wait(&client.start_vm(&vm).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh(LOOK).await?.trim(), "memory\ndisk");
    assert_eq!(lab.sh(FORKS).await?.trim(), "1", "the guest sees its new generation id");

    client.wait(&client.pause_vm(&vm).await?.id).await?;
    let paused = client.wait(&client.create_checkpoint(&vm, "as paused", None).await?.id).await?;
    let paused = paused.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((paused.vm_state, state(&client, &vm).await?), (Some(PowerState::Paused), PowerState::Paused));
    client.wait(&client.save_vm(&vm).await?.id).await?;
    client.wait(&client.discard_saved_state(&vm).await?.id).await?;
    assert_eq!(state(&client, &vm).await?, PowerState::Off);
    client.wait(&client.apply_checkpoint(&vm, paused.id).await?.id).await?;
    assert_eq!(state(&client, &vm).await?, PowerState::Paused, "it was paused");
    client.wait(&client.apply_checkpoint_as(&vm, paused.id, Machine::WithoutMemory).await?.id).await?;
    assert_eq!(state(&client, &vm).await?, PowerState::Off);
    Ok(())
}

/// A QEMU that leaves the device out by which a guest's panic is seen, as machines were before there was one.
fn older_qemu(folder: &Path) -> Tested<PathBuf> {
    let qemu = std::env::var("STILLPOINT_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned());
    let script = format!(
        "#!/bin/sh\nn=$#\nwhile [ $n -gt 0 ]; do\n\
         case $1,$2 in -device,*pvpanic*) shift 2; n=$((n - 2)); continue ;; esac\n\
         word=$1; shift; set -- \"$@\" \"$word\"; n=$((n - 1))\ndone\nexec {qemu} \"$@\"\n"
    );
    let path = folder.join("older-qemu");
    fs::write(&path, script)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

fn sees_panics(service: &Service) -> Tested<bool> {
    let [pid] = service.qemu_pids()[..] else { return Err("not one VM runs".into()) };
    Ok(String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline"))?).contains("pvpanic"))
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_machines_that_no_panic_was_seen_of_are_loaded_into_those_of_today() -> Tested {
    let set = GuestSet::new()?;
    let older = older_qemu(set.path())?.display().to_string();
    let (vm, standard) = {
        let mut service = Service::start_with(set.path(), vec![("STILLPOINT_QEMU".to_owned(), older)]).await?;
        let (vm, lab) = service.boot("web", &set).await?;
        let client = service.client().await?;
        assert!(!sees_panics(&service)?);
        lab.sh("echo memory > /tmp/value; echo disk > /data/file; sync").await?;
        let made = client.create_checkpoint(&vm, "older", Some(CheckpointPolicy::Standard)).await?;
        let made = client.wait(&made.id).await?.checkpoint_response().ok_or("no checkpoint")?.id;
        lab.sh("echo saved > /tmp/value").await?;
        client.wait(&client.save_vm(&vm).await?.id).await?;
        service.kill().await?;
        (vm, made)
    };
    let service = Service::start(set.path()).await?;
    let client = service.client().await?;
    client.wait(&client.start_vm(&vm).await?.id).await?;
    assert!(sees_panics(&service)?);
    assert_eq!(service.lab().await?.sh(LOOK).await?.trim(), "saved\ndisk");
    client.wait(&client.apply_checkpoint(&vm, standard).await?.id).await?;
    assert_eq!(service.lab().await?.sh(LOOK).await?.trim(), "memory\ndisk");
    let again = client.create_checkpoint(&vm, "of today", Some(CheckpointPolicy::Standard)).await?;
    let again = client.wait(&again.id).await?.checkpoint_response().ok_or("no checkpoint")?.id;
    client.wait(&client.apply_checkpoint(&vm, again).await?.id).await?;
    assert_eq!(service.lab().await?.sh(LOOK).await?.trim(), "memory\ndisk");
    Ok(())
}
