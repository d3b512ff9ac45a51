//! Stories told to a running guest: the product's own service, real QEMU, and a second disk of the guest's that holds
//! nothing but blocks.

use std::{collections::BTreeSet, path::Path, time::Duration};

use stillpoint_cli::{
    client::Client,
    view::{Disk, Operation},
};
use stillpoint_common::{CheckpointId, CheckpointPolicy, DiskFormat, Failure, Reason, VmId};
use tokio::process::Command;

use super::{BLOCKS, Blocks, Ground, Model, Step, tell};
use crate::{
    audit::{assert_layers_sound, assert_memory_sound, quiet},
    bare::qemu_img,
    guest_image::GuestSet,
    lab::LabChannel,
    service::{Service, guest_spec},
};

/// Bytes of one block.
const BLOCK: u64 = 64 << 10;
/// The disk with the blocks: second of the guest's.
const DISK: &str = "blocks";
const DEVICE: &str = "/dev/vdb";
/// How long a read of an image may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// One guest, to which one story after the other is told.
pub struct GuestGround {
    set: GuestSet,
    service: Service,
    client: Client,
    vm: VmId,
    lab: LabChannel,
    exports: u32,
}

/// Whatever a client was answered, as the model's failure.
fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::MergeFailed, error.to_string())
}

impl GuestGround {
    /// Boots the guest.
    ///
    /// # Errors
    /// If it does not boot.
    pub async fn boot() -> Result<Self, Box<dyn std::error::Error>> {
        let set = GuestSet::new()?;
        let blocks = set.path().join("blocks.qcow2");
        let made =
            Command::new(qemu_img()).args(["create", "-q", "-f", "qcow2"]).arg(&blocks).arg("1M").status().await?;
        if !made.success() {
            return Err("qemu-img does not make an image".into());
        }
        let service = Service::start(set.path()).await?;
        let mut spec = guest_spec(&set, 256);
        spec.disks.push(Disk { name: DISK.into(), path: blocks.display().to_string(), format: DiskFormat::Qcow2 });
        let (vm, lab) = service.boot_as("web", spec).await?;
        let client = service.client().await?;
        Ok(Self { set, service, client, vm, lab, exports: 0 })
    }

    /// Tells a story from its beginning: a VM that runs, without checkpoints, with empty blocks.
    ///
    /// # Errors
    /// Where it fails, and why.
    pub async fn tell(&mut self, story: &[Step]) -> Result<(), String> {
        let mut model = Model::new(true);
        self.begin_anew().await.map_err(|failure| failure.to_string())?;
        for step in story {
            // One that is off neither writes nor has memory to keep.
            if !model.is_on() {
                tell(&mut model, self, &[Step::Power]).await?;
            }
            tell(&mut model, self, &[*step]).await?;
        }
        model.visit_all(self).await.map_err(|failure| format!("visiting all: {failure}"))
    }

    /// Nothing is left over, nothing is missing, and every file is whole.
    ///
    /// # Errors
    /// If something cannot be asked.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn assert_sound(&self) -> Result<(), Box<dyn std::error::Error>> {
        quiet(&self.client, &self.vm).await?;
        assert_layers_sound(&self.client, &self.vm, self.set.path(), "after a story").await?;
        assert_memory_sound(&self.client, &self.vm, "after a story").await
    }

    async fn begin_anew(&mut self) -> Result<(), Failure> {
        let all: Vec<_> = self.checkpoints().await?.into_iter().map(|(id, _)| id).collect();
        if !all.is_empty() {
            self.done(self.client.delete_checkpoints(&self.vm, &all).await).await?;
        }
        let state = self.client.vm(&self.vm).await.map_err(failed)?.state;
        if state != Some(stillpoint_common::PowerState::Running) {
            self.power(true).await?;
        }
        for block in 0..BLOCKS {
            self.write(block, 0).await?;
        }
        Ok(())
    }

    async fn done<E: std::fmt::Display>(&self, begun: Result<Operation, E>) -> Result<Operation, Failure> {
        self.client.wait(&begun.map_err(failed)?.id).await.map_err(failed)
    }

    /// The VM runs another process, if it runs one.
    async fn greet(&mut self) -> Result<(), Failure> {
        let state = self.client.vm(&self.vm).await.map_err(failed)?.state;
        if state == Some(stillpoint_common::PowerState::Running) {
            self.lab = self.service.lab().await.map_err(failed)?;
        }
        Ok(())
    }
}

/// What an image reads as, through its chain.
async fn read(path: &Path) -> Result<Blocks, Failure> {
    let mut read = Command::new("qemu-io");
    read.args(["-r", "-U", "-f", "qcow2"]);
    for block in 0..BLOCKS {
        // Its first bytes are shown, and all of it is of one value.
        read.args(["-c", &format!("read -v {} 16", block * BLOCK)]);
    }
    let output = tokio::time::timeout(READ_LIMIT, read.arg(path).output()).await.map_err(failed)?.map_err(failed)?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr)));
    }
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(values(shown.lines().filter_map(|line| Some(&line.split_once(":  ")?.1[..2])), 16))
}

fn values<'a>(words: impl Iterator<Item = &'a str>, radix: u32) -> Blocks {
    let values = words.map(|word| u64::from_str_radix(word, radix).expect("a byte"));
    (0..).zip(values).filter(|(_, value)| *value != 0).collect()
}

impl Ground for GuestGround {
    async fn write(&mut self, block: u64, value: u64) -> Result<(), Failure> {
        let write = format!(
            "head -c {BLOCK} /dev/zero | tr '\\000' '\\{value:03o}' | dd of={DEVICE} bs={BLOCK} seek={block} \
             conv=notrunc,fsync 2>/dev/null"
        );
        self.lab.sh(&write).await.map(drop).map_err(failed)
    }

    async fn create(&mut self, memory: bool) -> Result<CheckpointId, Failure> {
        let policy = if memory { CheckpointPolicy::Standard } else { CheckpointPolicy::ProductionOnly };
        let made = self.done(self.client.create_checkpoint(&self.vm, "", Some(policy)).await).await?;
        Ok(made.checkpoint_response().ok_or_else(|| failed("no checkpoint"))?.id)
    }

    async fn apply(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.done(self.client.apply_checkpoint(&self.vm, id).await).await?;
        self.greet().await
    }

    async fn revert(&mut self) -> Result<(), Failure> {
        self.done(self.client.revert_vm(&self.vm).await).await?;
        self.greet().await
    }

    async fn delete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.done(self.client.delete_checkpoint(&self.vm, id).await).await.map(drop)
    }

    async fn delete_all(&mut self, ids: BTreeSet<CheckpointId>) -> Result<(), Failure> {
        let ids: Vec<_> = ids.into_iter().collect();
        self.done(self.client.delete_checkpoints(&self.vm, &ids).await).await.map(drop)
    }

    async fn delete_subtree(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.done(self.client.delete_subtree(&self.vm, id).await).await.map(drop)
    }

    async fn delete_memory(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.done(self.client.delete_memory_state(&self.vm, id).await).await.map(drop)
    }

    async fn export(&mut self, id: CheckpointId) -> Result<Blocks, Failure> {
        self.exports += 1;
        let folder = self.set.path().join(format!("export-{}", self.exports));
        let export = self.client.export_checkpoint(&self.vm, id, &folder.display().to_string(), None).await;
        self.done(export).await?;
        let blocks = read(&folder.join(format!("{DISK}.qcow2"))).await;
        std::fs::remove_dir_all(&folder).map_err(failed)?;
        blocks
    }

    /// Killed, not asked.
    async fn restart(&mut self) -> Result<(), Failure> {
        self.service.kill().await.map_err(failed)?;
        self.service.start_again().await.map_err(failed)?;
        self.client = self.service.client().await.map_err(failed)?;
        quiet(&self.client, &self.vm).await.map_err(failed)
    }

    async fn power(&mut self, on: bool) -> Result<(), Failure> {
        let begun = match on {
            true => self.client.start_vm(&self.vm).await,
            false => self.client.stop_vm(&self.vm, true).await,
        };
        self.done(begun).await?;
        self.greet().await
    }

    async fn checkpoints(&mut self) -> Result<Vec<(CheckpointId, Option<CheckpointId>)>, Failure> {
        let all = self.client.list_checkpoints(&self.vm).await.map_err(failed)?;
        Ok(all.into_iter().map(|checkpoint| (checkpoint.id, checkpoint.parent)).collect())
    }

    async fn read(&mut self, id: CheckpointId) -> Result<Option<Blocks>, Failure> {
        let checkpoint = self.client.checkpoint(&self.vm, id).await.map_err(failed)?;
        let disk = checkpoint.disks.into_iter().find(|disk| disk.disk == DISK).ok_or_else(|| failed("no such disk"))?;
        read(Path::new(&disk.path)).await.map(Some)
    }

    /// As the guest sees it; while it is off, as its layers are.
    async fn now(&mut self) -> Result<Option<Blocks>, Failure> {
        let vm = self.client.vm(&self.vm).await.map_err(failed)?;
        if vm.state != Some(stillpoint_common::PowerState::Running) {
            let disk = vm.disks.into_iter().find(|disk| disk.disk == DISK).ok_or_else(|| failed("no such disk"))?;
            return read(Path::new(&disk.head_path)).await.map(Some);
        }
        let each = format!("dd if={DEVICE} bs={BLOCK} skip=$block count=1 2>/dev/null | head -c 1 | od -An -tu1");
        let show = format!("echo 3 > /proc/sys/vm/drop_caches; for block in $(seq 0 {}); do {each}; done", BLOCKS - 1);
        let shown = self.lab.sh(&show).await.map_err(failed)?;
        Ok(Some(values(shown.split_whitespace(), 10)))
    }
}
