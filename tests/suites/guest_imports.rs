//! A real guest that is exported and becomes a VM again: with its memory, without it, and after a service that was killed
//! in the middle.

use std::{fs, path::Path};

use stillpoint_cli::client::{Client, VmToImport};
use stillpoint_common::{CheckpointId, CheckpointPolicy, PowerState, VmId};
use stillpoint_proto::v1::ImportMode;
use stillpoint_tests::{guest_image::GuestSet, lab::LabChannel, service::Service};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// What lives in the guest's memory only, and what it has put on its disk.
const LOOK: &str = "cat /tmp/value /data/file";
/// How often the guest's kernel was told that it lives through something again.
const FORKS: &str = "dmesg | grep -c 'reseeded due to virtual machine fork' || true";
/// The machine, as the guest sees it.
const MACHINE: &str = "cat /sys/class/dmi/id/product_uuid";

/// A guest with a checkpoint that was exported; it has gone on since.
async fn exported(service: &Service, set: &GuestSet) -> Tested<(VmId, LabChannel, CheckpointId)> {
    let (vm, lab) = service.boot("web", set).await?;
    let client = service.client().await?;
    lab.sh("echo memory > /tmp/value; echo disk > /data/file; stillpoint-lab fill /data/bulk 16 7; sync").await?;
    let made = client.create_checkpoint(&vm, "to export", Some(CheckpointPolicy::Standard)).await?;
    let made = client.wait(&made.id).await?.checkpoint_response().ok_or("no checkpoint")?.id;
    let folder = set.path().join("export").display().to_string();
    client.wait(&client.export_checkpoint(&vm, made, &folder, None).await?.id).await?;
    lab.sh("echo later > /tmp/value; echo later > /data/file; sync").await?;
    Ok((vm, lab, made))
}

fn import(set: &GuestSet, name: &str, mode: ImportMode) -> VmToImport {
    VmToImport {
        id: name.parse().expect("a name"),
        folder: set.path().join("export").display().to_string(),
        mode,
        target: set.path().join(name).display().to_string(),
        spec: None,
        without_memory: false,
        accept_host_paths: true,
    }
}

async fn is_absent(client: &Client, set: &GuestSet, name: &str) -> Tested {
    let vm: VmId = name.parse()?;
    let absent = client.vm(&vm).await.map(|vm| vm.id).map_err(|error| error.reason().map(str::to_owned));
    assert_eq!(absent, Err(Some("VM_NOT_FOUND".to_owned())));
    assert!(!set.path().join(name).exists(), "its folder is left");
    let left: Vec<_> = fs::read_dir(set.path())?.flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|file| file.to_string_lossy().ends_with(".partial")), "{left:?}");
    Ok(())
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) -> Tested {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(path, bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_guest_goes_on_as_another_vm_at_the_instant_of_its_checkpoint() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (web, lab, _) = exported(&service, &set).await?;
    let client = service.client().await?;
    let boot = lab.sh("cat /proc/sys/kernel/random/boot_id").await?;

    let wary = VmToImport { accept_host_paths: false, ..import(&set, "copy", ImportMode::Copy) };
    let found = client.inspect_export(&wary).await?.incompatibilities;
    assert_eq!(found.iter().map(|found| found.code.as_str()).collect::<Vec<_>>(), ["HOST_PATHS"], "{found:?}");
    assert_eq!(client.import_vm(&wary).await.unwrap_err().reason(), Some("IMPORT_INCOMPATIBLE"));
    is_absent(&client, &set, "copy").await?;
    let taken = client.import_vm(&import(&set, "other", ImportMode::Restore)).await.unwrap_err();
    assert_eq!(taken.reason(), Some("IMPORT_INCOMPATIBLE"), "the same machine is there already");

    client.wait(&client.import_vm(&import(&set, "copy", ImportMode::Copy)).await?.id).await?;
    let (copy, original) = (client.vm(&"copy".parse()?).await?, client.vm(&web).await?);
    assert_eq!((copy.state, original.state), (Some(PowerState::Saved), Some(PowerState::Running)));
    assert!(copy.uid != original.uid && copy.generation_id != original.generation_id);
    assert_eq!(lab.sh(LOOK).await?.trim(), "later\nlater", "the original goes on");
    client.wait(&client.stop_vm(&web, true).await?.id).await?;

    client.wait(&client.start_vm(&copy.id).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh(LOOK).await?.trim(), "memory\ndisk");
    assert_eq!(lab.sh("cat /proc/sys/kernel/random/boot_id").await?, boot, "the same run of its kernel");
    assert_eq!(lab.sh(FORKS).await?.trim(), "1", "the guest sees its new generation id");
    assert_eq!(lab.sh("stillpoint-lab check /data/bulk 16 7").await?.trim(), "intact");
    lab.sh("echo new > /data/file; sync").await?;

    let (said, _, code) = service.stillpoint(&["export", "verify", &wary.folder]).await?;
    assert!(code == 0 && said.contains("is whole"), "{said}");
    flip(&set.path().join("export/data.qcow2"))?;
    let third = client.import_vm(&import(&set, "third", ImportMode::Copy)).await?;
    assert_eq!(client.wait(&third.id).await.unwrap_err().reason(), Some("EXPORT_DAMAGED"));
    is_absent(&client, &set, "third").await?;
    let (said, _, code) = service.stillpoint(&["export", "verify", &wary.folder]).await?;
    assert!(code == 1 && said.contains("data.qcow2 has other bytes"), "{said}");
    assert!(service.stillpoint(&["host", "check"]).await?.2 == 0, "nothing is left over");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_the_service_dies_in_leaves_nothing_and_can_be_done_again() -> Tested {
    let set = GuestSet::new()?;
    let fail_point = set.path().join("fail-point");
    let environment = vec![("STILLPOINT_FAIL_POINT".to_owned(), fail_point.display().to_string())];
    let mut service = Service::start_with(set.path(), environment).await?;
    let (web, lab, made) = exported(&service, &set).await?;
    let machine = lab.sh(MACHINE).await?;
    let client = service.client().await?;
    client.wait(&client.stop_vm(&web, true).await?.id).await?;
    client.wait(&client.delete_checkpoint(&web, made).await?.id).await?;
    let generation = client.vm(&web).await?.generation_id;
    client.delete_vm(&web).await?;

    for point in ["sources.claim 1 after", "flatten 1 after", "sources.send 1 after"] {
        fs::write(&fail_point, point)?;
        let client = service.client().await?;
        // It may die before it has answered.
        let asked = client.import_vm(&import(&set, "web", ImportMode::Restore)).await;
        let ended = service.ended(std::time::Duration::from_secs(60)).await;
        ended.map_err(|_| format!("{point}: the service goes on; {asked:?}"))?;
        fs::remove_file(&fail_point)?;
        service.start_again().await?;
        let client = service.client().await?;
        let operation = client.list_operations(Some(&web), false, 1).await?.remove(0);
        assert_eq!(client.wait(&operation.id).await.unwrap_err().reason(), Some("INTERRUPTED"), "{point}");
        is_absent(&client, &set, "web").await?;
    }

    let client = service.client().await?;
    let booted = VmToImport { without_memory: true, ..import(&set, "web", ImportMode::Restore) };
    client.wait(&client.import_vm(&booted).await?.id).await?;
    let restored = client.vm(&web).await?;
    assert_eq!(restored.state, Some(PowerState::Off));
    assert_ne!(restored.generation_id, generation, "the guest sees its past again");
    client.wait(&client.start_vm(&web).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!(lab.sh("cat /data/file").await?.trim(), "disk");
    assert_eq!(lab.sh(MACHINE).await?, machine, "the same machine towards its guest");
    Ok(())
}
