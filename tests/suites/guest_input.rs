//! What cannot be done is refused before anything is changed: with an exit code, a stable reason, the field or file that
//! is wrong, and what to do.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use stillpoint_cli::client::Client;
use stillpoint_common::{CheckpointPolicy, VmId};
use stillpoint_tests::{bare::qemu_img, guest_image::GuestSet, service::Service};
use tokio::process::Command;

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A service with the VM `web`, which is off, and the client program in its hands.
struct Desk {
    set: GuestSet,
    service: Service,
    client: Client,
    web: VmId,
}

impl Desk {
    async fn new() -> Tested<Self> {
        let set = GuestSet::new()?;
        let service = Service::start(set.path()).await?;
        let web = service.define("web", &set).await?;
        let client = service.client().await?;
        Ok(Self { set, service, client, web })
    }

    fn path(&self, name: &str) -> String {
        self.set.path().join(name).display().to_string()
    }

    /// Types `stillpoint …`, which has to be refused for this reason, with a message that has these words in it, and
    /// with nothing changed.
    async fn refused(&self, arguments: &[&str], reason: &str, words: &[&str]) -> Tested {
        let before = self.world().await?;
        let all: Vec<&str> = ["--json"].iter().chain(arguments).copied().collect();
        let (said, also, code) = self.service.stillpoint(&all).await?;
        assert_eq!(code, 1, "{arguments:?}: {said}{also}");
        let error = &serde_json::from_str::<Value>(&said)?["error"];
        assert_eq!(error["reason"], reason, "{arguments:?}: {error}");
        let (message, field) = (error["message"].as_str().unwrap_or(""), error["field"].as_str().unwrap_or(""));
        for word in words {
            assert!(message.contains(word) || field == *word, "{arguments:?}: no {word:?} in {error}");
        }
        assert!(error["advice"].as_str().is_some_and(|advice| advice.len() > 10), "{arguments:?}: {error}");
        assert_eq!(self.world().await?, before, "{arguments:?} has changed something");
        let (_, text, code) = self.service.stillpoint(arguments).await?;
        assert!(code == 1 && text.contains(reason) && text.contains("what to do:"), "{arguments:?}: {text}");
        Ok(())
    }

    /// Types what the program itself refuses: it does not even ask the service.
    async fn typed_wrongly(&self, arguments: &[&str], word: &str) -> Tested {
        let (said, also, code) = self.service.stillpoint(arguments).await?;
        assert!(code == 2 && also.contains(word), "{arguments:?}: {code}: {said}{also}");
        Ok(())
    }

    /// Creates a VM on this disk, which has to be refused.
    async fn no_vm_on(&self, disk: &str, format: &str, reason: &str, words: &[&str]) -> Tested {
        let disk = format!("name=d,path={disk},format={format}");
        let words: Vec<&str> = words.iter().copied().chain(["vm.spec.disks[0].path"]).collect();
        self.refused(&["vm", "create", "other", "--memory", "64M", "--disk", &disk], reason, &words).await
    }

    /// Everything that a refusal must not change: VMs, checkpoints, files.
    async fn world(&self) -> Tested<Vec<String>> {
        let mut world = Vec::new();
        for vm in self.client.list_vms().await? {
            world.push(format!("{vm:?}"));
            let checkpoints = self.client.list_checkpoints(&vm.id).await?;
            world.extend(checkpoints.iter().map(|checkpoint| format!("{checkpoint:?}")));
        }
        let mut files: Vec<PathBuf> = fs::read_dir(self.set.path())?.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|path| path.to_string_lossy().contains(".qcow2")) {
            let found = fs::symlink_metadata(file)?;
            world.push(format!("{} {} {} {}", file.display(), found.ino(), found.len(), found.mtime_nsec()));
        }
        Ok(world)
    }

    /// A checkpoint of `web`, which is off.
    async fn checkpoint(&self, name: &str) -> Tested<String> {
        let made = self.client.wait(&self.client.create_checkpoint(&self.web, name, None).await?.id).await?;
        Ok(made.checkpoint_response().ok_or("no checkpoint")?.id.to_string())
    }
}

async fn image(arguments: &[&str]) -> Tested {
    let done = Command::new(qemu_img()).args(arguments).output().await?;
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_a_vms_own_is_refused_and_named() -> Tested {
    let desk = Desk::new().await?;
    let data = desk.path("data.qcow2");
    desk.no_vm_on("/nowhere/at-all.qcow2", "qcow2", "DISK_FILE_MISSING", &["/nowhere/at-all.qcow2"]).await?;
    desk.no_vm_on(&data, "qcow2", "DISK_IN_USE", &["web", &data]).await?;
    fs::hard_link(&data, desk.path("link"))?;
    desk.no_vm_on(&desk.path("link"), "qcow2", "DISK_IN_USE", &["web"]).await?;
    fs::remove_file(desk.path("link"))?;
    fs::write(desk.path("text"), "no image\n".repeat(1000))?;
    desk.no_vm_on(&desk.path("text"), "qcow2", "DISK_FILE_UNUSABLE", &["text"]).await?;
    desk.no_vm_on(&desk.path(""), "raw", "DISK_FILE_UNUSABLE", &[]).await?;

    desk.checkpoint("first").await?;
    let head = desk.client.vm(&desk.web).await?.disks[0].head_path.clone();
    desk.no_vm_on(&data, "qcow2", "DISK_IS_BACKING", &["web", &data]).await?;
    desk.no_vm_on(&head, "qcow2", "DISK_FILE_UNUSABLE", &[&data, "qemu-img convert"]).await?;

    let (base, top) = (desk.path("base.qcow2"), desk.path("top.qcow2"));
    image(&["create", "-q", "-f", "qcow2", &base, "1M"]).await?;
    image(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", &top]).await?;
    desk.no_vm_on(&base, "qcow2", "DISK_IS_BACKING", &["top.qcow2"]).await?;
    desk.no_vm_on(&top, "qcow2", "DISK_FILE_UNUSABLE", &["base.qcow2"]).await?;
    desk.no_vm_on(&top, "raw", "DISK_FILE_UNUSABLE", &[&top, "declare it as qcow2"]).await?;

    let medium = format!("name=cd,path={base}");
    let update = ["vm", "update", "web", "--medium", &medium];
    desk.refused(&update, "DISK_FILE_UNUSABLE", &[&base, "declare it as qcow2", "vm.spec.media[0].path"]).await?;

    let create = |disk: &str| ["vm", "create", "x", "--memory", "64M", "--disk", disk].map(str::to_owned);
    for (disk, word) in [("name=d,path=/a,format=vmdk", "vmdk"), ("name=d,path=/a", "format="), ("path=/a", "name=")] {
        let words = create(disk);
        desk.typed_wrongly(&words.each_ref().map(String::as_str), word).await?;
    }
    let relative = r#"{"id":"x","spec":{"cpus":1,"memory_mib":64,
        "disks":[{"name":"d","path":"base.qcow2","format":"QCOW2"}]}}"#;
    fs::write(desk.path("x.json"), relative)?;
    let from = desk.path("x.json");
    desk.refused(&["vm", "create", "--from", &from], "FIELD_INVALID", &["base.qcow2", "vm.spec.disks[0].path"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_checkpoints_and_targets_that_cannot_be_are_refused_and_named() -> Tested {
    let desk = Desk::new().await?;
    let first = desk.checkpoint("first").await?;
    let (blank, long) = ("  ", "x".repeat(101));
    desk.typed_wrongly(&["checkpoint", "create", "web", "--name", ""], "must not be empty").await?;
    let create = ["checkpoint", "create", "web", "--name"];
    for (name, word) in [(blank, "blank"), (&long, "101 characters")] {
        let words: Vec<&str> = create.iter().copied().chain([name]).collect();
        desk.refused(&words, "FIELD_INVALID", &["display_name", word]).await?;
        let rename = ["checkpoint", "rename", "web", "first", name];
        desk.refused(&rename, "FIELD_INVALID", &["checkpoint.display_name", word]).await?;
    }
    desk.refused(&["checkpoint", "rename", "web", "first", ""], "FIELD_INVALID", &["checkpoint.display_name"]).await?;
    desk.refused(&["checkpoint", "show", "web", "absent"], "CHECKPOINT_NOT_FOUND", &["web", "absent"]).await?;
    desk.refused(&["checkpoint", "create", "gone"], "VM_NOT_FOUND", &["gone"]).await?;

    let export = |folder: &str| ["checkpoint", "export", "web", "first", folder].map(str::to_owned);
    for (folder, reason) in [
        (desk.path(""), "EXPORT_TARGET_EXISTS"),
        (desk.path("no/such/folder"), "EXPORT_TARGET_UNUSABLE"),
        (desk.path("data.qcow2"), "EXPORT_TARGET_EXISTS"),
    ] {
        let words = export(&folder);
        let word = folder.trim_end_matches('/').to_owned();
        desk.refused(&words.each_ref().map(String::as_str), reason, &[&word]).await?;
    }
    let relative = desk.client.export_checkpoint(&desk.web, first.parse()?, "here", None).await.unwrap_err();
    assert_eq!(relative.reason(), Some("FIELD_INVALID"), "{relative}");
    assert!(relative.to_string().contains("target_folder") && relative.to_string().contains("\"here\""), "{relative}");

    desk.refused(&["vm", "delete", "web", "--yes"], "VM_HAS_CHECKPOINTS", &["web"]).await?;
    desk.refused(&["vm", "pause", "web"], "VM_NOT_RUNNING", &["web"]).await?;
    desk.client.wait(&desk.client.delete_checkpoint(&desk.web, first.parse()?).await?.id).await?;
    desk.client.delete_vm(&desk.web).await?;
    desk.refused(&["checkpoint", "create", "web"], "VM_NOT_FOUND", &["web"]).await?;
    assert!(Path::new(&desk.path("data.qcow2")).exists(), "the image of a deleted VM stays");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_does_not_start_on_a_missing_or_swapped_layer_and_starts_when_it_is_back() -> Tested {
    let desk = Desk::new().await?;
    desk.checkpoint("first").await?;
    let head = desk.client.vm(&desk.web).await?.disks[0].head_path.clone();
    for layer in [desk.path("data.qcow2"), head] {
        let aside = format!("{layer}.aside");
        fs::rename(&layer, &aside)?;
        desk.refused(&["vm", "start", "web"], "DISK_FILE_MISSING", &[&layer]).await?;
        fs::copy(&aside, &layer)?;
        desk.refused(&["vm", "start", "web"], "DISK_CHANGED", &[&layer]).await?;
        if layer.ends_with("data.qcow2") {
            let apply = ["checkpoint", "apply", "web", "first", "--discard-now", "--yes"];
            desk.refused(&apply, "DISK_CHANGED", &[&layer]).await?;
        }
        fs::rename(&aside, &layer)?;
    }
    desk.client.wait(&desk.client.start_vm(&desk.web).await?.id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_vm_says_with_what_and_a_checkpoint_under_deletion_is_not_applied() -> Tested {
    let desk = Desk::new().await?;
    desk.client.wait(&desk.client.start_vm(&desk.web).await?.id).await?;
    let lab = desk.service.lab().await?;
    let only = Some(CheckpointPolicy::ProductionOnly);
    let made = desk.client.wait(&desk.client.create_checkpoint(&desk.web, "first", only).await?.id).await?;
    let first = made.checkpoint_response().ok_or("no checkpoint")?.id;
    lab.run_within("stillpoint-lab fill /data/bulk 300 1", Duration::from_secs(60)).await?;
    // A merge makes way for whatever is asked for; an export does not.
    let second = desk.client.wait(&desk.client.create_checkpoint(&desk.web, "second", only).await?.id).await?;
    let second = second.checkpoint_response().ok_or("no checkpoint")?.id;
    let target = desk.set.path().join("export").display().to_string();
    let export = desk.client.export_checkpoint(&desk.web, second, &target, None).await?.id;
    let id = export.to_string();
    for words in [&["checkpoint", "create", "web"][..], &["vm", "stop", "web"], &["vm", "update", "web", "--cpus", "2"]]
    {
        let words: Vec<&str> = ["--json"].iter().chain(words).copied().collect();
        let (said, also, code) = desk.service.stillpoint(&words).await?;
        assert!(!desk.client.operation(export).await?.done, "the export was too quick for the test");
        let error = &serde_json::from_str::<Value>(&said)?["error"];
        assert!(code == 1 && error["reason"] == "VM_BUSY", "{words:?}: {said}{also}");
        let message = error["message"].as_str().unwrap_or("");
        assert!(message.contains(&id) && message.contains("export checkpoint"), "{words:?}: {message}");
    }
    desk.client.cancel_operation(export).await?;
    desk.client.wait(&export).await.unwrap_err();
    desk.client.wait(&desk.client.delete_checkpoint(&desk.web, second).await?.id).await?;
    let deletion = desk.client.delete_checkpoint(&desk.web, first).await?.id;
    // It is refused at once, or when what it waited for has made way.
    let apply = match desk.client.apply_checkpoint(&desk.web, first).await {
        Ok(begun) => desk.client.wait(&begun.id).await.unwrap_err(),
        Err(refused) => refused,
    };
    let reason = apply.reason().unwrap_or_default();
    assert!(["CHECKPOINT_DELETING", "CHECKPOINT_NOT_FOUND"].contains(&reason), "{apply}");
    desk.client.wait(&deletion).await?;
    assert!(desk.client.list_checkpoints(&desk.web).await?.is_empty());
    lab.run_within("stillpoint-lab check /data/bulk 300 1", Duration::from_secs(60)).await?;
    Ok(())
}
