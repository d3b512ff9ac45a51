//! Two guests that differ in nothing but who drives them: one is the product's, the other a minimal script's.

use std::{path::PathBuf, time::Duration};

use stillpoint_cli::{
    client::{Client, VmToCreate},
    view::Checkpoint,
};
use stillpoint_common::{CheckpointPolicy, VmId};
use tokio::time::Instant;

use super::{
    Outcome,
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
    /// Last: the others are still at work in its folder.
    _set: GuestSet,
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
        let set = GuestSet::new()?;
        let twin_disk = set.another_disk("twin.qcow2")?;
        let service = Service::start(set.path()).await?;
        let client = service.client().await?;
        let vm = start(&client, &set, memory_mib).await?;
        let instance = service.instances().pop().ok_or("the VM has no runtime folder")?;
        let pid = *service.qemu_pids().first().ok_or("the VM has no QEMU")?;
        let folder = set.path().join("twin");
        std::fs::create_dir(&folder)?;
        let replaced = [
            (instance.clone(), folder.clone()),
            (set.data_disk.clone(), twin_disk),
            (set.path().join("console"), folder.join("console")),
        ];
        let twin = Twin::start(pid, &replaced, folder);
        let (twin, lab) = tokio::join!(twin, service.lab());
        let watch = Qmp::connect(&instance.join("qmp-debug"), GREETING).await?;
        Ok(Self { ours: Ours { lab: lab?, watch, client, vm, _service: service }, twin: twin?, _set: set })
    }

    /// Fills this much of both guests' memory with data that cannot be compressed.
    pub(super) async fn fill_memory(&self, mib: u64) -> Outcome {
        tokio::try_join!(fill(&self.ours.lab, mib), fill(&self.twin.lab, mib)).map(drop)
    }
}

async fn start(client: &Client, set: &GuestSet, memory_mib: u64) -> Outcome<VmId> {
    let mut spec = guest_spec(set, memory_mib);
    let port = format!("virtserialport,bus=lab-serial.0,chardev=script,name={PORT},id=port-script");
    let words = ["-chardev", "socket,id=script,path={runtime}/script,server=on,wait=off", "-device", &port];
    spec.extra_arguments.extend(words.map(str::to_owned));
    let id: VmId = "measured".parse().map_err(|_| "a good name is refused")?;
    let location = Some(set.path().join("checkpoints")).map(|path: PathBuf| path.display().to_string());
    let policy = Some(CheckpointPolicy::Production);
    let vm = VmToCreate { id: id.clone(), spec, checkpoint_policy: policy, checkpoint_location: location };
    client.create_vm(&vm).await?;
    let started = client.start_vm(&id).await?;
    client.wait(&started.id).await?;
    Ok(id)
}

/// A workload that fills memory answers once it is filled; who asks is told after five seconds that it does not.
async fn fill(lab: &LabChannel, mib: u64) -> Outcome {
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

    /// Makes a standard checkpoint and answers how long QEMU says the VM stood still.
    pub(super) async fn standard(&mut self) -> Outcome<Duration> {
        self.watch.events.clear();
        self.checkpoint(CheckpointPolicy::Standard).await?;
        self.watch.execute("query-status", serde_json::json!({})).await?;
        Ok(stood_still(&self.watch.events)?)
    }
}
