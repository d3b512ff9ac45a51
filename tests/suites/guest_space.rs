//! A full disk is an ordinary event, on real guests whose disks lie on small file systems.

use std::time::Duration;

use stillpoint_cli::client::{Client, VmChange};
use stillpoint_common::{CheckpointPolicy, CriticalAction, CriticalSettings, PowerState, VmId};
use stillpoint_tests::{
    audit::{assert_layers_sound, quiet},
    guest_image::GuestSet,
    service::Service,
    small_fs::SmallFs,
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const MIB: u64 = 1 << 20;

/// Waits until the service shows the VM in this state.
async fn becomes(client: &Client, vm: &VmId, state: PowerState) -> Tested {
    let reached = async {
        while client.vm(vm).await?.state != Some(state) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.map_err(|_| format!("never {state:?}"))?
}

/// A service that needs little room.
async fn service(set: &GuestSet) -> Tested<Service> {
    let environment = [("STILLPOINT_KEEP_FREE", "2"), ("STILLPOINT_LAYER_ROOM", "4")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(Service::start_with(set.path(), environment.into()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_space_stands_still_loses_no_write_and_goes_on_when_there_is_space() -> Tested {
    let mut set = GuestSet::new()?;
    let small = SmallFs::new(&set.path().join("small"), 128)?;
    let disk = small.path().join("data.qcow2");
    std::fs::copy(&set.data_disk, &disk)?;
    set.data_disk = disk;
    let mut service = service(&set).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    let boot = lab.sh("cat /proc/sys/kernel/random/boot_id").await?;
    lab.sh("stillpoint-lab fill /data/before 8 1").await?;
    let only = Some(CheckpointPolicy::ProductionOnly);
    client.wait(&client.create_checkpoint(&vm, "before", only).await?.id).await?;

    small.fill_but(6 * MIB)?;
    lab.sh("(stillpoint-lab fill /data/big 24 7 > /run/filled 2>&1 < /dev/null; echo $? > /run/ended) &").await?;
    becomes(&client, &vm, PowerState::PausedCritical).await?;
    let seen = client.vm(&vm).await?;
    let critical = seen.critical.ok_or("it says nothing")?;
    println!("{}: {critical:?}", seen.status_line);
    assert_eq!((critical.disk.as_deref(), critical.no_space), (Some("data"), true));
    assert_eq!(critical.mounted_on, small.path().display().to_string());
    assert!(critical.path.starts_with(&critical.mounted_on) && critical.free_bytes < Some(4 * MIB), "{critical:?}");
    let says = format!("Paused: no space for disk data on {}", small.path().display());
    let (shown, _, _) = service.stillpoint(&["vm", "show", "web"]).await?;
    assert!(shown.contains(&says) && shown.contains("stands still:"), "{shown}");
    for policy in [CheckpointPolicy::Production, CheckpointPolicy::Standard] {
        let refused = client.wait(&client.create_checkpoint(&vm, "no", Some(policy)).await?.id).await.unwrap_err();
        assert_eq!(refused.reason(), Some("VM_PAUSED_CRITICAL"), "{refused}");
    }
    let refused = client.wait(&client.resume_vm(&vm).await?.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("NO_SPACE"), "{refused}");

    service.kill().await?;
    service.start_again().await?;
    let client = service.client().await?;
    becomes(&client, &vm, PowerState::PausedCritical).await?;
    let again = client.vm(&vm).await?.critical.ok_or("it says nothing")?;
    assert_eq!(again.since_time, critical.since_time, "a new service knows since when");

    small.give_back()?;
    becomes(&client, &vm, PowerState::Running).await?;
    lab.sh("until [ -e /run/ended ]; do usleep 100000; done").await?;
    assert_eq!(lab.sh("cat /run/ended /run/filled").await?, "0\nfilled 24 MiB");
    lab.sh("echo 3 > /proc/sys/vm/drop_caches").await?;
    assert_eq!(lab.sh("stillpoint-lab check /data/big 24 7").await?, "intact");
    assert_eq!(lab.sh("stillpoint-lab check /data/before 8 1").await?, "intact");
    assert_eq!(lab.sh("cat /proc/sys/kernel/random/boot_id").await?, boot);
    assert_eq!(client.vm(&vm).await?.critical, None);
    quiet(&client, &vm).await?;
    assert_layers_sound(&client, &vm, small.path(), "went on").await?;

    let (told, _, _) = service.stillpoint(&["events", "--vm", "web", "--json"]).await?;
    let told: Vec<serde_json::Value> = serde_json::from_str(&told)?;
    let mut kinds: Vec<_> = told.iter().filter_map(|event| event["kind"].as_str()).collect();
    kinds.retain(|kind| *kind != "OPERATION_FAILED" && *kind != "VM_CHANGED");
    let went = ["VM_DEFINED", "VM_STARTED", "CHECKPOINT_CREATED", "VM_CRITICAL", "VM_RESUMED", "VM_CRITICAL_OVER"];
    let wanted = [went.as_slice(), &["VM_PAUSED", "VM_RESUMED"]].concat(); // while the layers were looked at
    assert_eq!(kinds, wanted);

    let settings = CriticalSettings { action: CriticalAction::Wait, power_off_after: Some(Duration::from_secs(3)) };
    client.update_vm(&vm, &VmChange { critical: Some(settings), ..VmChange::default() }).await?;
    small.fill_but(2 * MIB)?;
    lab.sh("stillpoint-lab fill /data/more 24 9 > /dev/null 2>&1 < /dev/null &").await?;
    becomes(&client, &vm, PowerState::PausedCritical).await?;
    becomes(&client, &vm, PowerState::Off).await?;
    assert!(service.qemu_pids().is_empty());
    small.give_back()?;
    quiet(&client, &vm).await?;
    assert_layers_sound(&client, &vm, small.path(), "switched off").await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_works_on_a_disk_that_is_completely_full_and_nothing_half_made_stays_on_it() -> Tested {
    let mut set = GuestSet::new()?;
    // Catalogue, memory states, images and exports share it; little of it is ever written.
    let small = SmallFs::new(&set.path().join("small"), 900)?;
    let (disk, state) = (small.path().join("data.qcow2"), small.path().join("state"));
    std::fs::copy(&set.data_disk, &disk)?;
    std::fs::create_dir(&state)?;
    std::os::unix::fs::symlink(&state, set.path().join("s"))?;
    set.data_disk = disk;
    let service = service(&set).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.sh("stillpoint-lab fill /data/one 8 1").await?;
    let standard = Some(CheckpointPolicy::Standard);
    let made = client.wait(&client.create_checkpoint(&vm, "memory", standard).await?.id).await?;
    let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
    lab.sh("stillpoint-lab fill /data/two 8 2").await?;
    let memories = state.join("checkpoints/web");
    let names = |folder: &std::path::Path, which: &str| -> std::io::Result<Vec<String>> {
        let all = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        Ok(all.collect::<std::io::Result<Vec<_>>>()?.into_iter().filter(|name| name.contains(which)).collect())
    };
    // Finished or not.
    let memories = || names(&memories, ".pages");
    assert_eq!(memories()?.len(), 1);

    // A capture and an export that find the disk full although there was room when they began.
    let asked = client.create_checkpoint(&vm, "half", standard).await?;
    while memories()?.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    small.fill()?;
    let refused = client.wait(&asked.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("NO_SPACE"), "{refused}");
    assert_eq!((memories()?.len(), client.list_checkpoints(&vm).await?.len()), (1, 1));
    let target = small.path().join("export").display().to_string();
    small.fill()?; // what the capture gave back
    for what in ["create", "apply", "export"] {
        let asked = match what {
            "create" => client.create_checkpoint(&vm, "no", Some(CheckpointPolicy::ProductionOnly)).await?,
            "apply" => client.apply_checkpoint(&vm, made.id).await?,
            _ => client.export_checkpoint(&vm, made.id, &target, None).await?,
        };
        let refused = client.wait(&asked.id).await.unwrap_err();
        let reason = refused.reason().unwrap_or_default();
        assert!(["NO_SPACE", "VM_PAUSED_CRITICAL"].contains(&reason), "{what}: {refused}");
    }
    assert_eq!(names(small.path(), "export")?, [""; 0]);

    small.fill()?;
    // At most what the service held in reserve for its journal.
    assert!(small.free_bytes()? < 17 * MIB, "{}", small.free_bytes()?);
    client.wait(&client.delete_checkpoint(&vm, made.id).await?.id).await?;
    println!("{} MiB are free after deleting on a full disk", small.free_bytes()? / MIB);
    assert_eq!((memories()?.len(), client.list_checkpoints(&vm).await?.len()), (0, 0));
    assert!(small.free_bytes()? > 20 * MIB, "{}", small.free_bytes()?);
    becomes(&client, &vm, PowerState::Running).await?;
    lab.sh("echo 3 > /proc/sys/vm/drop_caches").await?;
    assert_eq!(lab.sh("stillpoint-lab check /data/one 8 1").await?, "intact");
    assert_eq!(lab.sh("stillpoint-lab check /data/two 8 2").await?, "intact");
    small.give_back()?;
    quiet(&client, &vm).await?;
    assert_layers_sound(&client, &vm, small.path(), "deleted on a full disk").await
}
