//! What a deed needs, how it is done, and what must hold after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use stillpoint_cli::{
    client::{ClientError, Machine},
    view::{Checkpoint, Disk, Operation, Spec},
};
use stillpoint_common::{AcceleratorChoice, CheckpointId, CheckpointPolicy, DiskFormat, PowerState};
use tokio::process::Command;

use super::{Before, Deed, Sweep, Swept};
use crate::{
    audit::{assert_layers_sound, assert_memory_sound, quiet},
    bare::qemu_img,
    steps::hash,
};

/// Writes to an image that nobody has open.
async fn write(image: &str, value: u8, place: &str) -> Swept {
    let write = format!("write -P {value} {place}");
    let written = Command::new("qemu-io").args(["-f", "qcow2", "-c", &write, image]).output().await?;
    match written.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&written.stderr).into_owned().into()),
    }
}

impl Sweep {
    /// A VM of its own, as the deed needs it.
    pub(super) async fn prepare(&mut self, deed: Deed) -> Swept<Before> {
        self.vms += 1;
        let folder = self.folder.join(format!("v{}", self.vms));
        fs::create_dir(&folder)?;
        let image = folder.join("data.qcow2").display().to_string();
        let made = Command::new(qemu_img()).args(["create", "-q", "-f", "qcow2", &image, "64M"]).status().await?;
        if !made.success() {
            return Err("no image".into());
        }
        let vm = self.service.define_as(&format!("vm-{}", self.vms), spec(&image)).await?;
        let (contents, now, operations) = (BTreeMap::new(), String::new(), BTreeSet::new());
        let mut before = Before { vm, folder, checkpoints: Vec::new(), contents, now, operations };
        self.write(&before, 1, "0 1M").await?;
        self.shape(deed, &mut before).await?;
        quiet(&self.client, &before.vm).await?;
        before.contents = self.contents(&before).await?;
        before.now = self.now(&before).await?;
        let known = self.client.list_operations(Some(&before.vm), false, 100).await?;
        before.operations = known.into_iter().map(|operation| operation.id).collect();
        Ok(before)
    }

    async fn shape(&self, deed: Deed, before: &mut Before) -> Swept {
        let policy = CheckpointPolicy::Standard;
        match deed {
            Deed::Create | Deed::Start => {}
            Deed::Apply | Deed::DeleteLeaf | Deed::DeleteMiddle | Deed::DeleteSubtree | Deed::DeleteMany => {
                for value in 2..4 {
                    self.checkpoint(before, policy).await?;
                    self.write(before, value, "512k 1M").await?;
                }
                if matches!(deed, Deed::DeleteLeaf | Deed::DeleteSubtree) {
                    self.apply(before, 0).await?;
                }
            }
            Deed::MergeDown | Deed::Export => {
                self.write(before, 7, "8M 16M").await?;
                self.checkpoint(before, policy).await?;
                self.write(before, 2, "512k 1M").await?;
            }
            Deed::MergeUp => {
                self.checkpoint(before, policy).await?;
                self.write(before, 2, "512k 1M").await?;
                self.checkpoint(before, policy).await?;
                self.write(before, 7, "8M 16M").await?;
            }
            Deed::Stop | Deed::CreateFallback | Deed::Save => self.start(before).await?,
            Deed::ApplyStandard | Deed::DeleteMemory => {
                self.start(before).await?;
                self.checkpoint(before, policy).await?;
            }
            Deed::Wake | Deed::Discard => {
                self.start(before).await?;
                self.done(&self.client.save_vm(&before.vm).await?).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn begin(&self, deed: Deed, before: &Before) -> Result<Operation, ClientError> {
        let (client, vm, all) = (&self.client, &before.vm, &before.checkpoints);
        match deed {
            Deed::Create | Deed::CreateFallback => {
                client.create_checkpoint(vm, "new", Some(CheckpointPolicy::Production)).await
            }
            Deed::Apply => client.apply_checkpoint_as(vm, all[0], Machine::AsCaptured).await,
            Deed::ApplyStandard => client.apply_checkpoint(vm, all[0]).await,
            Deed::DeleteLeaf | Deed::MergeUp => client.delete_checkpoint(vm, all[1]).await,
            Deed::DeleteMiddle | Deed::MergeDown => client.delete_checkpoint(vm, all[0]).await,
            Deed::DeleteSubtree => client.delete_subtree(vm, all[0]).await,
            Deed::DeleteMany => client.delete_checkpoints(vm, all).await,
            Deed::DeleteMemory => client.delete_memory_state(vm, all[0]).await,
            Deed::Export => {
                let folder = before.folder.join("export").display().to_string();
                client.export_checkpoint(vm, all[0], &folder, None).await
            }
            Deed::Start | Deed::Wake => client.start_vm(vm).await,
            Deed::Stop => client.stop_vm(vm, true).await,
            Deed::Save => client.save_vm(vm).await,
            Deed::Discard => client.discard_saved_state(vm).await,
        }
    }

    /// What must hold, done or undone.
    pub(super) async fn check(&self, deed: Deed, before: &Before, done: bool, point: &str) -> Swept {
        let what = format!("{deed:?}, {point}, {}", if done { "done" } else { "undone" });
        println!("{what}");
        let machine = self.client.vm(&before.vm).await?;
        let (was, becomes) = deed.power();
        assert_eq!(machine.state, Some(if done { becomes } else { was }), "{what}");
        assert_layers_sound(&self.client, &before.vm, &before.folder, &what).await?;
        assert_memory_sound(&self.client, &before.vm, &what).await?;
        let (contents, now) = (self.contents(before).await?, self.now(before).await?);
        for (id, content) in &contents {
            assert!(before.contents.get(id).is_none_or(|known| known == content), "{what}: {id} holds something else");
        }
        let goes = deed.takes(&before.checkpoints);
        let gone = before.contents.keys().filter(|id| !contents.contains_key(id));
        assert!(gone.clone().all(|id| goes.contains(id)), "{what}: a checkpoint is lost");
        assert_eq!(gone.count(), if done { goes.len() } else { 0 }, "{what}");
        let new = contents.keys().filter(|id| !before.contents.contains_key(id)).count();
        let makes = matches!(deed, Deed::Create | Deed::CreateFallback);
        assert_eq!(new, usize::from(done && makes), "{what}");
        let applied =
            matches!(deed, Deed::Apply | Deed::ApplyStandard).then(|| &before.contents[&before.checkpoints[0]]);
        assert_eq!(&now, applied.filter(|_| done).unwrap_or(&before.now), "{what}: what Now reads as");
        assert_eq!(before.folder.join("export").exists(), done && deed == Deed::Export, "{what}");
        if deed == Deed::DeleteMemory {
            let checkpoint = self.client.checkpoint(&before.vm, before.checkpoints[0]).await?;
            assert_eq!(checkpoint.memory_bytes == 0, done, "{what}");
        }
        Ok(())
    }

    /// The VM goes, with all that it had.
    pub(super) async fn forget(&self, before: &Before) -> Swept {
        let vm = &before.vm;
        match self.client.vm(vm).await?.state {
            Some(PowerState::Saved) => self.done(&self.client.discard_saved_state(vm).await?).await?,
            Some(PowerState::Off) | None => {}
            Some(_) => self.done(&self.client.stop_vm(vm, true).await?).await?,
        }
        let all: Vec<_> = self.contents(before).await?.into_keys().collect();
        if !all.is_empty() {
            self.done(&self.client.delete_checkpoints(vm, &all).await?).await?;
        }
        quiet(&self.client, vm).await?;
        self.client.delete_vm(vm).await?;
        Ok(fs::remove_dir_all(&before.folder)?)
    }

    async fn write(&self, before: &Before, value: u8, place: &str) -> Swept {
        let machine = self.client.vm(&before.vm).await?;
        write(&machine.disks.first().ok_or("no disk")?.head_path, value, place).await
    }

    async fn checkpoint(&self, before: &mut Before, policy: CheckpointPolicy) -> Swept {
        let asked = self.client.create_checkpoint(&before.vm, "one", Some(policy)).await?;
        let made = self.client.wait(&asked.id).await?;
        before.checkpoints.push(made.checkpoint_response().ok_or("no checkpoint")?.id);
        Ok(())
    }

    async fn apply(&self, before: &Before, which: usize) -> Swept {
        self.done(&self.client.apply_checkpoint(&before.vm, before.checkpoints[which]).await?).await
    }

    async fn start(&self, before: &Before) -> Swept {
        self.done(&self.client.start_vm(&before.vm).await?).await
    }

    async fn done(&self, operation: &Operation) -> Swept {
        Ok(self.client.wait(&operation.id).await.map(drop)?)
    }

    async fn contents(&self, before: &Before) -> Swept<BTreeMap<CheckpointId, String>> {
        let mut contents = BTreeMap::new();
        for Checkpoint { id, disks, .. } in self.client.list_checkpoints(&before.vm).await? {
            let disk = disks.first().ok_or("no disk")?;
            contents.insert(id, self.hash(&disk.path).await?);
        }
        Ok(contents)
    }

    async fn now(&self, before: &Before) -> Swept<String> {
        let machine = self.client.vm(&before.vm).await?;
        self.hash(&machine.disks.first().ok_or("no disk")?.head_path).await
    }

    async fn hash(&self, path: &str) -> Swept<String> {
        hash(Path::new(path), &self.folder.join("flat")).await
    }
}

/// A machine that finds nothing to boot from, and then does nothing.
fn spec(image: &str) -> Spec {
    Spec {
        cpus: 1,
        memory_mib: 64,
        accelerator: AcceleratorChoice::Tcg,
        uefi: None,
        tpm: false,
        kernel: None,
        disks: vec![Disk { name: "data".into(), path: image.to_owned(), format: DiskFormat::Qcow2 }],
        pass_through: vec![],
        media: vec![],
        nics: vec![],
        serial_log: String::new(),
        extra_arguments: vec![],
    }
}
