//! Read-only media of a real guest.

use std::{fs, path::Path};

use stillpoint_cli::view::Medium;
use stillpoint_common::{CheckpointPolicy, DiskFormat, Drive};
use stillpoint_tests::{
    guest_image::GuestSet,
    lab::LabChannel,
    service::{Service, guest_spec},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A file of whole CD-ROM sectors that begins with this word.
fn iso(folder: &Path, name: &str) -> Tested<String> {
    let path = folder.join(name);
    let mut content = name.as_bytes().to_vec();
    content.resize(64 << 10, b'.');
    fs::write(&path, content)?;
    Ok(path.display().to_string())
}

fn cdrom(path: &str) -> Medium {
    Medium { name: "cd".into(), drive: Drive::Cdrom, path: path.into(), format: Some(DiskFormat::Raw) }
}

/// The command line's answer, and that it ended with this code.
async fn says(service: &Service, expected: i32, arguments: &[&str]) -> Tested<String> {
    let (out, error, code) = service.stillpoint(arguments).await?;
    if code != expected {
        return Err(format!("{arguments:?} ended with {code}, not {expected}: {out}{error}").into());
    }
    Ok(format!("{out}{error}"))
}

/// The word at the beginning of what is in the drive.
async fn inserted(lab: &LabChannel) -> Tested<String> {
    lab.sh("load ahci cdrom; for i in $(seq 100); do [ -b /dev/sr0 ] && break; usleep 50000; done").await?;
    let read = lab.run_within("head -c 9 /dev/sr0", std::time::Duration::from_secs(30)).await?;
    Ok(read.output.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_its_media_and_each_checkpoint_says_that_it_does_not_hold_them() -> Tested {
    let set = GuestSet::new()?;
    let (first, second) = (iso(set.path(), "first.iso")?, iso(set.path(), "other.iso")?);
    let tools = iso(set.path(), "tools.img")?;
    let service = Service::start(set.path()).await?;
    let client = service.client().await?;
    let mut spec = guest_spec(&set, 512);
    spec.media = vec![
        cdrom(&first),
        Medium { name: "tools".into(), drive: Drive::Disk, path: tools.clone(), format: Some(DiskFormat::Raw) },
    ];
    let (vm, lab) = service.boot_as("web", spec).await?;
    assert_eq!(inserted(&lab).await?, "first.iso");
    assert_eq!(lab.sh("head -c 9 /dev/vdb; cat /sys/block/vdb/ro").await?.trim(), "tools.img1");

    let asked = client.create_checkpoint(&vm, "with memory", Some(CheckpointPolicy::Standard)).await?;
    let made = client.wait(&asked.id).await?;
    let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    assert_eq!(made.left_out.iter().map(|left| left.disk.as_str()).collect::<Vec<_>>(), ["cd", "tools"]);
    assert_eq!(made.disks.len(), 1, "a medium has no layer");

    // Another one, under the checkpoint.
    says(&service, 0, &["vm", "stop", "web", "--turn-off"]).await?;
    let put_in = format!("name=cd,path={second}");
    says(&service, 0, &["vm", "update", "web", "--medium", &put_in, "--remove-medium", "tools"]).await?;
    client.wait(&client.start_vm(&vm).await?.id).await?;
    assert_eq!(inserted(&service.lab().await?).await?, "other.iso");

    // Back: the machine goes on with the medium that was in.
    let applied = client.wait(&client.apply_checkpoint(&vm, made.id).await?.id).await?;
    assert!(applied.spec_changes.iter().any(|change| change.field == "media.cd"), "{:?}", applied.spec_changes);
    let lab = service.lab().await?;
    lab.sh("echo 3 > /proc/sys/vm/drop_caches").await?;
    assert_eq!(inserted(&lab).await?, "first.iso");
    for file in [&first, &second, &tools] {
        assert_eq!(fs::read(file)?.len(), 64 << 10, "nothing was written");
    }
    missing(&service, &first).await
}

/// A medium that is gone: the start says so and what to do, a machine that goes on finds its drive empty.
async fn missing(service: &Service, first: &str) -> Tested {
    fs::rename(first, format!("{first}.away"))?;
    let said = says(service, 0, &["checkpoint", "apply", "web", "with memory", "--discard-now", "--yes"]).await?;
    assert!(said.contains("medium cd is not in its drive"), "{said}");
    let lab = service.lab().await?;
    lab.sh("echo 3 > /proc/sys/vm/drop_caches").await?;
    assert!(!inserted(&lab).await?.lines().next().unwrap_or_default().contains("first"));

    says(service, 0, &["vm", "stop", "web", "--turn-off"]).await?;
    let said = says(service, 1, &["vm", "start", "web"]).await?;
    assert!(said.contains("MEDIUM_MISSING") && said.contains(first) && said.contains("--eject NAME"), "{said}");
    says(service, 0, &["checkpoint", "create", "web", "--name", "all the same"]).await?;
    says(service, 0, &["vm", "update", "web", "--eject", "cd"]).await?;
    says(service, 0, &["vm", "start", "web"]).await?;
    let shown = says(service, 0, &["vm", "show", "web"]).await?;
    assert!(shown.contains("Read-only media") && shown.contains("empty"), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_guests_read_the_same_medium_at_the_same_time() -> Tested {
    let set = GuestSet::new()?;
    let shared = iso(set.path(), "first.iso")?;
    let service = Service::start(set.path()).await?;
    let mut spec = guest_spec(&set, 256);
    spec.media.push(cdrom(&shared));
    let (vm, lab) = service.boot_as("web", spec.clone()).await?;
    assert_eq!(inserted(&lab).await?, "first.iso");
    spec.disks[0].path = set.another_disk("second.qcow2")?.display().to_string();
    let client = service.client().await?;
    service.define_as("db", spec).await?;
    client.wait(&client.start_vm(&"db".parse()?).await?.id).await?;
    assert_eq!(inserted(&lab).await?, "first.iso");
    let running = service.qemu_pids().len();
    assert_eq!(running, 2, "both run");
    client.wait(&client.create_checkpoint(&vm, "one", None).await?.id).await?;
    Ok(())
}
