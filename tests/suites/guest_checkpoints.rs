//! Checkpoints of a real guest, by the product as a user runs it.

use std::time::Duration;

use stillpoint_cli::view::PassThroughDisk;
use stillpoint_common::{CheckpointPolicy, Consistency, FallbackReason, Kind};
use stillpoint_tests::{
    ext4::Ext4State,
    guest_image::GuestSet,
    service::{Service, guest_spec},
};

type Tested = Result<(), Box<dyn std::error::Error>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_production_checkpoint_is_clean_on_disk_and_a_standard_one_gives_memory_back() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;

    lab.sh("echo saved > /data/file && sync").await?;
    let made = client.wait(&client.create_checkpoint(&vm, "clean", None).await?.id).await?;
    let clean = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((clean.kind, clean.consistency), (Some(Kind::Production), Some(Consistency::FileSystem)));
    assert!(Ext4State::of_layer(&set.data_disk, "qcow2").await?.at_rest(), "needs no journal replay");

    lab.sh("echo unsaved > /tmp/value").await?;
    let asked = client.create_checkpoint(&vm, "with memory", Some(CheckpointPolicy::Standard)).await?;
    let made = client.wait(&asked.id).await?;
    let standard = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((standard.kind, standard.consistency), (Some(Kind::Standard), Some(Consistency::Memory)));

    lab.sh("echo changed > /tmp/value; echo changed > /data/file; sync").await?;
    client.wait(&client.apply_checkpoint(&vm, standard.id).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh("cat /tmp/value /data/file").await?.trim(), "unsaved\nsaved");
    let off = lab.clock_off().await?;
    assert!(off < Duration::from_millis(100), "the clock is off by {off:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_agent_a_guest_gets_a_standard_checkpoint_that_says_why() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.sh("agent stop").await?;
    let made = client.wait(&client.create_checkpoint(&vm, "fallback", None).await?.id).await?;
    let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!((made.kind, made.fallback_reason), (Some(Kind::Standard), Some(FallbackReason::AgentUnreachable)));
    let only = client.create_checkpoint(&vm, "only", Some(CheckpointPolicy::ProductionOnly)).await?;
    let refused = client.wait(&only.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("QUIESCE_FAILED"));
    assert_eq!(client.list_checkpoints(&vm).await?.len(), 1);
    Ok(())
}

/// A block device of the host, for as long as this lives.
struct LoopDevice(String);

impl LoopDevice {
    fn new(folder: &std::path::Path) -> std::io::Result<Self> {
        let file = folder.join("passed.img");
        std::fs::File::create(&file)?.set_len(16 << 20)?;
        let made = std::process::Command::new("losetup").args(["--find", "--show"]).arg(&file).output()?;
        let device = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        if device.is_empty() {
            return Err(std::io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        Ok(Self(device))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_through_disk_is_used_by_the_guest_and_named_as_left_out() -> Tested {
    let set = GuestSet::new()?;
    let device = LoopDevice::new(set.path())?;
    let service = Service::start(set.path()).await?;
    let client = service.client().await?;
    let mut spec = guest_spec(&set, 512);
    spec.pass_through.push(PassThroughDisk { name: "raw".into(), device: device.0.clone(), read_only: false });
    let (id, lab) = service.boot_as("web", spec).await?;
    lab.sh("test -b /dev/vdb && echo passed | dd of=/dev/vdb conv=sync,fsync bs=4096 2>/dev/null").await?;
    let sizes = lab.sh("cat /sys/block/vda/size /sys/block/vdb/size; mount | grep vd").await?;
    let on_host = std::fs::read(&device.0)?;
    assert!(on_host.starts_with(b"passed"), "the guest writes to the device: {sizes}");

    let made = client.wait(&client.create_checkpoint(&id, "one", None).await?.id).await?;
    let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!(made.left_out.iter().map(|left| left.disk.as_str()).collect::<Vec<_>>(), ["raw"]);
    assert!(made.left_out[0].why.contains(&device.0));
    let set = ["vm", "set", "web", "--unsupported-disks", "refuse"];
    let (_, said, code) = service.stillpoint(&set).await?;
    assert_eq!(code, 0, "{said}");
    let (_, said, code) = service.stillpoint(&["checkpoint", "create", "web"]).await?;
    assert!(code == 1 && said.contains("UNSUPPORTED_DISK") && said.contains("its disk raw"), "{said}");
    Ok(())
}
