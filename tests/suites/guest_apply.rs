//! What an apply gives back of a real guest: one that was quiet, with its memory and without it; its configuration; its
//! generation id and its clock.

use std::time::Duration;

use stillpoint_cli::client::{ApplyAs, CheckpointToCreate, Machine, Now};
use stillpoint_common::{CheckpointPolicy, Consistency, Kind, PowerState};
use stillpoint_tests::{ext4::Ext4State, guest_image::GuestSet, service::Service};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// What lives in the guest's memory only, and what it has put on its disk.
const LOOK: &str = "cat /tmp/value /data/file";

/// How often the guest's kernel was told that it lives through something again: then it draws new randomness.
const FORKS: &str = "dmesg | grep -c 'reseeded due to virtual machine fork' || true";

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_guest_comes_back_with_its_memory_and_goes_on_or_boots_clean_without_it() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.start("counter c /data/count 2").await?;
    lab.sh("echo memory > /tmp/value; echo disk > /data/file; sync").await?;
    let boot = lab.sh("cat /proc/sys/kernel/random/boot_id").await?;
    let new = CheckpointToCreate {
        display_name: "quiet".into(),
        policy: Some(CheckpointPolicy::ProductionOnly),
        with_memory: true,
        ..CheckpointToCreate::default()
    };
    let made = client.wait(&client.create_checkpoint_with(&vm, &new).await?.id).await?;
    println!("held for {:?} ms, paused for {:?} ms", made.phase_took_ms("held"), made.phase_took_ms("pause"));
    let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((made.kind, made.consistency), (Some(Kind::Production), Some(Consistency::FileSystem)));
    assert!(made.memory_bytes > 10 << 20, "{} bytes of memory", made.memory_bytes);
    assert!(Ext4State::of_layer(&set.data_disk, "qcow2").await?.at_rest(), "the disk needs no repair");
    let before = client.vm(&vm).await?.generation_id;

    lab.sh("echo changed > /tmp/value; echo changed > /data/file; sync").await?;
    let how = ApplyAs { now: Now::CheckpointFirst, machine: Machine::AsCaptured };
    let applied = client.wait(&client.apply_checkpoint_as(&vm, made.id, how).await?.id).await?;
    assert!(applied.warnings.is_empty(), "{:?}", applied.warnings);
    let lab = service.lab().await?;
    // In its memory the guest is frozen; this would wait for the lease, 10 s, if nobody had let it go.
    let written = lab.run_within("echo again > /data/again && sync && echo written", Duration::from_secs(5)).await?;
    assert_eq!(written.output.trim(), "written");
    assert_eq!(lab.sh(LOOK).await?.trim(), "memory\ndisk");
    assert_eq!(lab.sh("cat /proc/sys/kernel/random/boot_id").await?, boot, "the same run of its kernel");
    let off = lab.clock_off().await?;
    println!("after the apply the guest's clock is off by {off:?}");
    assert!(off < Duration::from_millis(100), "the clock is off by {off:?}");
    assert_ne!(client.vm(&vm).await?.generation_id, before);
    assert_eq!(lab.sh(FORKS).await?.trim(), "1", "the guest sees its new generation id");
    let kept = applied.first_checkpoint.ok_or("Now was not kept")?;
    let kept = client.checkpoint(&vm, kept).await?;
    assert_eq!((kept.kind, kept.parent), (Some(Kind::Production), Some(made.id)));

    client.wait(&client.apply_checkpoint_as(&vm, made.id, Machine::WithoutMemory).await?.id).await?;
    let view = client.vm(&vm).await?;
    assert_eq!(view.state, Some(PowerState::Off));
    client.wait(&client.start_vm(&vm).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(
        lab.sh("cat /data/file; test ! -e /data/again; dmesg | grep -c 'recovery complete' || true").await?.trim(),
        "disk\n0"
    );
    assert_ne!(lab.sh("cat /proc/sys/kernel/random/boot_id").await?, boot, "it has booted");
    Ok(())
}
