//! Two guests that differ in nothing but who drives them: one is the product's, the other a minimal script's.

use std::{path::PathBuf, time::Duration};

use stillpoint_cli::{
    client::{Client, VmToCreate},
    view::{Checkpoint, Disk},
};
use stillpoint_common::{CheckpointPolicy, CriticalSettings, DiskFormat, VmId, VmSettings};
use tokio::time::Instant;

use super::{
    Outcome,
    files::Files,
    script::PORT,
    twin::{Twin, stood_still},
};
use crate::{
    guest_image::GuestSet,
    lab::LabChannel,
    qmp::Qmp,
    service::{Service, guest_spec},
};

/// How long QEMU may take to greet.
const GREETING: Duration = Duration::from_secs(20);
/// How long the memory of both guests may take to be filled.
const FILLING: Duration = Duration::from_secs(180);

/// Both guests, booted. Dropping it ends them and removes their files.
pub(super) struct Pair {
    pub(super) ours: Ours,
    pub(super) twin: Twin,
    files: Files,
    /// Last: the others are still at work in its folder.
    _set: GuestSet,
}

/// What both guests are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) memory_mib: u64,
    pub(super) disks: usize,
    /// A checkpoint lies below the running disk, and a layer with this much data on it.
    pub(super) layer_mib: Option<u64>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { memory_mib: 512, disks: 1, layer_mib: None }
    }
}

/// The product's guest.
pub(super) struct Ours {
    pub(super) lab: LabChannel,
    /// QEMU's second monitor, which the product leaves to others: it tells of every stop and resume.
    watch: Qmp,
    client: Client,
    vm: VmId,
    _service: Service,
}

impl Pair {
    /// Boots both with this much memory.
    pub(super) async fn boot(memory_mib: u64) -> Outcome<Self> {
        Self::boot_as(Shape { memory_mib, ..Shape::default() }).await
    }

    /// Boots both in this shape.
    pub(super) async fn boot_as(shape: Shape) -> Outcome<Self> {
        let set = GuestSet::new()?;
        let mut files = Files::new(&set, &shape).await?;
        let service = Service::start(set.path()).await?;
        let client = service.client().await?;
        let vm = define(&client, &set, shape.memory_mib, &files).await?;
        if let Some(mib) = shape.layer_mib {
            files.add_layer(&client, &vm, mib).await?;
        }
        client.wait(&client.start_vm(&vm).await?.id).await?;
        let instance = service.instances().pop().ok_or("the VM has no runtime folder")?;
        let pid = *service.qemu_pids().first().ok_or("the VM has no QEMU")?;
        let folder = set.path().join("twin");
        std::fs::create_dir(&folder)?;
        let mut replaced =
            vec![(instance.clone(), folder.clone()), (set.path().join("console"), folder.join("console"))];
        replaced.extend(files.pairs.iter().cloned());
        let twin = Twin::start(pid, &replaced, folder);
        let (twin, lab) = tokio::join!(twin, service.lab());
        let watch = Qmp::connect(&instance.join("qmp-debug"), GREETING).await?;
        Ok(Self { ours: Ours { lab: lab?, watch, client, vm, _service: service }, twin: twin?, files, _set: set })
    }

    /// The twin's layer that [`Shape::layer_mib`] asked for, and what it lies on.
    pub(super) fn twin_layer(&self) -> (PathBuf, PathBuf) {
        let (top, base) = self.files.twin_layer();
        (top.to_owned(), base.to_owned())
    }

    /// Fills this much of both guests' memory with data that cannot be compressed.
    pub(super) async fn fill_memory(&self, mib: u64) -> Outcome {
        tokio::try_join!(fill(&self.ours.lab, mib), fill(&self.twin.lab, mib)).map(drop)
    }
}

/// The VM as it is measured; it is off.
async fn define(client: &Client, set: &GuestSet, memory_mib: u64, files: &Files) -> Outcome<VmId> {
    let mut spec = guest_spec(set, memory_mib);
    for (number, (path, _)) in files.pairs.iter().enumerate().skip(1) {
        let (name, path) = (format!("extra{number}"), path.display().to_string());
        spec.disks.push(Disk { name, path, format: DiskFormat::Qcow2 });
    }
    let port = format!("virtserialport,bus=lab-serial.0,chardev=script,name={PORT},id=port-script");
    let words = ["-chardev", "socket,id=script,path={runtime}/script,server=on,wait=off", "-device", &port];
    spec.extra_arguments.extend(words.map(str::to_owned));
    let id: VmId = "measured".parse().map_err(|_| "a good name is refused")?;
    let location = Some(set.path().join("checkpoints")).map(|path: PathBuf| path.display().to_string());
    let policy = Some(CheckpointPolicy::Production);
    let vm = VmToCreate {
        id: id.clone(),
        spec,
        checkpoint_policy: policy,
        checkpoint_location: location,
        critical: CriticalSettings::default(),
        settings: VmSettings::default(),
    };
    client.create_vm(&vm).await?;
    Ok(id)
}

/// A workload that fills memory answers once it is filled; who asks is told after five seconds that it does not.
pub(super) async fn fill(lab: &LabChannel, mib: u64) -> Outcome {
    lab.start(&format!("memory filling {mib} 7")).await?;
    let end = Instant::now() + FILLING;
    loop {
        match lab.ask("filling", "size").await {
            Ok(size) if size == mib.to_string() => return Ok(()),
            Ok(size) => return Err(format!("{size} MiB were filled, and not {mib}").into()),
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => {}
        }
    }
}

impl Ours {
    /// Makes a checkpoint, which has to become what was asked for, and answers it.
    pub(super) async fn checkpoint(&self, policy: CheckpointPolicy) -> Outcome<Checkpoint> {
        let asked = self.client.create_checkpoint(&self.vm, "", Some(policy)).await?;
        let ended = self.client.wait(&asked.id).await?;
        Ok(ended.checkpoint_response().ok_or("the operation made no checkpoint")?.clone())
    }

    /// Deletes the oldest checkpoint and answers how long it took until its layer was merged.
    pub(super) async fn merge_oldest(&self) -> Outcome<Duration> {
        let all = self.client.list_checkpoints(&self.vm).await?;
        let oldest = all.first().ok_or("there is no checkpoint")?.id;
        let begun = Instant::now();
        let ended = self.client.wait(&self.client.delete_checkpoint(&self.vm, oldest).await?.id).await?;
        if let Some(warning) = ended.warnings.first() {
            return Err(format!("the merge went otherwise than it should: {warning}").into());
        }
        let took = begun.elapsed();
        let phases: Vec<String> =
            ended.phases.iter().map(|phase| format!("{} {:.0} ms", phase.name, phase.took_ms)).collect();
        eprintln!("  merged in {took:.1?}: {}", phases.join(", "));
        Ok(took)
    }

    /// Makes a standard checkpoint and answers how long QEMU says the VM stood still.
    pub(super) async fn standard(&mut self) -> Outcome<Duration> {
        self.watch.events.clear();
        self.checkpoint(CheckpointPolicy::Standard).await?;
        self.watch.execute("query-status", serde_json::json!({})).await?;
        Ok(stood_still(&self.watch.events)?)
    }
}
