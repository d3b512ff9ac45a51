//! A real guest that starts through UEFI: its variables go back with its checkpoints.

use std::{fs, path::Path};

use stillpoint_cli::{
    client::Client,
    view::{Checkpoint, Uefi},
};
use stillpoint_common::{CheckpointPolicy, PowerState, VmId};
use stillpoint_tests::{
    guest_image::GuestSet,
    lab::LabChannel,
    service::{Service, guest_spec},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A variable that the guest's kernel lets be written again and again.
const VARIABLE: &str = "/sys/firmware/efi/efivars/Stillpoint-cfc8fc79-be2e-4ddc-97f0-9f98bfe298a0";

/// Makes the firmware keep a word: four bytes of attributes (non-volatile, at boot and at run time), then the word.
async fn set(lab: &LabChannel, word: &str) -> Tested {
    lab.sh(&format!("{MOUNT}; printf '\\007\\000\\000\\000{word}' > {VARIABLE}")).await?;
    Ok(())
}

/// The word that the firmware keeps.
async fn kept(lab: &LabChannel) -> Tested<String> {
    Ok(lab.sh(&format!("{MOUNT}; tail -c +5 {VARIABLE}")).await?.trim().to_owned())
}

const MOUNT: &str = "load efivarfs; cd /sys/firmware/efi/efivars && [ \"$(ls | wc -l)\" -gt 0 ] || \
                     mount -t efivarfs efivarfs /sys/firmware/efi/efivars; cd /";

async fn checkpoint(client: &Client, vm: &VmId, name: &str, policy: CheckpointPolicy) -> Tested<Checkpoint> {
    let made = client.wait(&client.create_checkpoint(vm, name, Some(policy)).await?.id).await?;
    Ok(made.checkpoint_response().ok_or("no checkpoint")?.clone())
}

/// The command line's answer, and that it ended with this code.
async fn says(service: &Service, expected: i32, arguments: &[&str]) -> Tested<String> {
    let (out, error, code) = service.stillpoint(arguments).await?;
    if code != expected {
        return Err(format!("{arguments:?} ended with {code}, not {expected}: {out}{error}").into());
    }
    Ok(format!("{out}{error}"))
}

/// Pulls the plug and starts it anew: what the firmware reads from its flash, not from memory.
async fn booted_anew(service: &Service, client: &Client, vm: &VmId) -> Tested<LabChannel> {
    if client.vm(vm).await?.state != Some(PowerState::Off) {
        says(service, 0, &["vm", "stop", "web", "--turn-off"]).await?;
    }
    client.wait(&client.start_vm(vm).await?.id).await?;
    Ok(service.lab().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_of_uefi_go_back_with_each_kind_of_checkpoint_and_merge_while_the_guest_runs() -> Tested {
    let set_of_files = GuestSet::new()?;
    let service = Service::start(set_of_files.path()).await?;
    let client = service.client().await?;
    let mut spec = guest_spec(&set_of_files, 512);
    spec.uefi = Some(Uefi::default());
    let (vm, lab) = service.boot_as("web", spec).await?;
    let image = set_of_files.path().join("web-uefi-vars.qcow2");
    assert_eq!(client.vm(&vm).await?.spec.uefi.map(|uefi| uefi.variables), Some(image.display().to_string()));

    set(&lab, "first").await?;
    let production = checkpoint(&client, &vm, "production", CheckpointPolicy::ProductionOnly).await?;
    assert!(production.disks.iter().any(|disk| disk.disk == "uefi-vars"), "{:?}", production.disks);
    set(&lab, "second").await?;
    lab.sh("echo memory > /tmp/value").await?;
    let standard = checkpoint(&client, &vm, "standard", CheckpointPolicy::Standard).await?;
    set(&lab, "third").await?;

    client.wait(&client.apply_checkpoint(&vm, standard.id).await?.id).await?;
    let lab = service.lab().await?;
    assert_eq!((lab.sh("cat /tmp/value").await?.trim(), kept(&lab).await?.as_str()), ("memory", "second"));
    let lab = booted_anew(&service, &client, &vm).await?;
    assert_eq!(kept(&lab).await?, "second", "it is in the flash, too");
    set(&lab, "fourth").await?;

    client.wait(&client.save_vm(&vm).await?.id).await?;
    client.wait(&client.start_vm(&vm).await?.id).await?;
    assert_eq!(kept(&service.lab().await?).await?, "fourth");

    client.wait(&client.apply_checkpoint(&vm, production.id).await?.id).await?;
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Off));
    let lab = booted_anew(&service, &client, &vm).await?;
    assert_eq!(kept(&lab).await?, "first");

    set(&lab, "fifth").await?;
    exported(&service, set_of_files.path()).await?;
    says(&service, 0, &["checkpoint", "delete", "web", "--subtree", "production", "--yes"]).await?;
    merged(&client, &vm, &image).await?;
    assert_eq!(kept(&lab).await?, "fifth");
    let lab = booted_anew(&service, &client, &vm).await?;
    assert_eq!(kept(&lab).await?, "fifth", "everything was merged into the image itself");
    Ok(())
}

/// An export has the variables as a disk of its own.
async fn exported(service: &Service, folder: &Path) -> Tested {
    let target = folder.join("export");
    says(service, 0, &["checkpoint", "export", "web", "standard", &target.display().to_string()]).await?;
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(target.join("manifest.json"))?)?;
    let disks = manifest["export"]["disks"].as_array().ok_or("no disks")?;
    assert!(disks.iter().any(|disk| disk["disk"] == "uefi-vars"), "{manifest}");
    let variables = fs::read_dir(&target)?.flatten().find(|entry| entry.file_name().to_string_lossy().contains("uefi"));
    let path = variables.ok_or("no file")?.path();
    let raw = folder.join("vars.raw");
    let format = if path.extension().is_some_and(|end| end == "raw") { "raw" } else { "qcow2" };
    let converted = std::process::Command::new(stillpoint_tests::bare::qemu_img())
        .args(["convert", "-f", format, "-O", "raw"])
        .args([&path, &raw])
        .status()?;
    assert!(converted.success());
    let flash = fs::read(&raw)?;
    let holds = |word: &str| flash.windows(word.len()).any(|window| window == word.as_bytes());
    assert!(
        holds("second") && !holds("third") && !holds("fifth"),
        "the variables of the checkpoint, and no later ones"
    );
    Ok(())
}

/// Waits until the guest writes to the image itself.
async fn merged(client: &Client, vm: &VmId, image: &Path) -> Tested {
    for _ in 0..600 {
        let disks = client.vm(vm).await?.disks;
        let variables = disks.iter().find(|disk| disk.disk == "uefi-vars").ok_or("no variables")?;
        if variables.depth == 1 && Path::new(&variables.head_path) == image {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(format!("not merged: {:?}", client.vm(vm).await?.disks).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_uefi_says_what_to_install() -> Tested {
    let set = GuestSet::new()?;
    let missing = set.path().join("no-such-firmware").display().to_string();
    let environment = |name: &str| vec![(name.to_owned(), missing.clone())];
    let memory = ["--memory", "256M", "--firmware", "uefi"];
    let disk = format!("name=data,path={},format=qcow2", set.data_disk.display());
    let create = [&["vm", "create", "web", "--disk", &disk][..], &memory].concat();
    {
        let service = Service::start_with(set.path(), environment("STILLPOINT_UEFI_VARS")).await?;
        let said = says(&service, 1, &create).await?;
        assert!(said.contains("FIRMWARE_MISSING") && said.contains("apt-get install ovmf"), "{said}");
        assert!(said.contains(&missing), "{said}");
    }
    let service = Service::start_with(set.path(), environment("STILLPOINT_UEFI_CODE")).await?;
    says(&service, 0, &create).await?;
    let said = says(&service, 1, &["vm", "start", "web"]).await?;
    assert!(said.contains("FIRMWARE_MISSING") && said.contains("apt-get install ovmf"), "{said}");
    says(&service, 0, &["vm", "update", "web", "--firmware", "bios"]).await?;
    says(&service, 0, &["vm", "start", "web"]).await?;
    Ok(())
}
