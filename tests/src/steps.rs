//! One real guest whose service can be struck at a named call of a named port, and what must hold afterwards.
//!
//! The points exist in builds with the feature `fail-points` only; `cargo verify` makes one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_cli::client::Client;
use stillpoint_common::{CheckpointId, CheckpointPolicy, OperationId, PowerState, VmId};
use tokio::process::Command;

use crate::{
    audit::{assert_layers_sound, assert_memory_sound, quiet},
    bare::qemu_img,
    guest_image::GuestSet,
    lab::LabChannel,
    service::Service,
};

type Stepped<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// How long the service may take to come to a point.
pub const REACHED: Duration = Duration::from_secs(60);
/// A guest whose file systems were held goes on within the lease, and some time to be slow.
pub const GOES_ON: Duration = Duration::from_secs(12);

/// What is at work when something strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A checkpoint is made.
    Create(CheckpointPolicy),
    /// The youngest checkpoint, which Now came from, is deleted.
    DeleteParentOfNow,
    /// The same, where the layer below that of Now is the smaller one, and moves up.
    MergeUp,
    /// A checkpoint is applied.
    Apply(CheckpointId),
    /// Now goes back to where it came from.
    Revert,
    /// A checkpoint is copied out.
    Export(CheckpointId),
    /// The machine is put to sleep.
    Save,
}

/// What makes a layer larger than those that the guest writes a few values to.
const BULK: &str = "stillpoint-lab fill /data/bulk 16 7";

/// A guest and its service.
pub struct Steps {
    /// Its files.
    pub set: GuestSet,
    /// The service, which may be struck.
    pub service: Service,
    /// A client of it.
    pub client: Client,
    /// The guest.
    pub vm: VmId,
    /// The channel into the guest.
    pub lab: LabChannel,
    fail_point: PathBuf,
}

impl Steps {
    /// Boots a guest of these files, below a service with this environment.
    ///
    /// # Errors
    /// If it does not boot.
    pub async fn new(set: GuestSet, mut environment: Vec<(String, String)>) -> Stepped<Self> {
        let fail_point = set.path().join("fail-point");
        environment.push(("STILLPOINT_FAIL_POINT".to_owned(), fail_point.display().to_string()));
        let service = Service::start_with(set.path(), environment).await?;
        let (vm, lab) = service.boot("web", &set).await?;
        let client = service.client().await?;
        Ok(Self { set, service, client, vm, lab, fail_point })
    }

    /// Begins it.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn begin(&self, act: Act) -> Stepped<OperationId> {
        let (client, vm) = (&self.client, &self.vm);
        Ok(match act {
            Act::Create(policy) => client.create_checkpoint(vm, "new", Some(policy)).await?.id,
            Act::Apply(id) => client.apply_checkpoint(vm, id).await?.id,
            Act::Revert => client.revert_vm(vm).await?.id,
            Act::Save => client.save_vm(vm).await?.id,
            Act::Export(id) => {
                let folder = self.export_folder().display().to_string();
                client.export_checkpoint(vm, id, &folder, None).await?.id
            }
            Act::DeleteParentOfNow | Act::MergeUp => {
                let all = client.list_checkpoints(vm).await?;
                client.delete_checkpoint(vm, all.last().ok_or("there is none")?.id).await?.id
            }
        })
    }

    /// Makes what an act needs: for a merge a checkpoint whose layer is larger, or smaller, than what comes after it.
    ///
    /// # Errors
    /// If the guest does not write, or a checkpoint is not made.
    pub async fn prepare(&self, act: Act) -> Stepped {
        match act {
            Act::DeleteParentOfNow => {
                self.lab.sh(BULK).await?;
                self.checkpoint().await?;
            }
            Act::MergeUp => {
                self.checkpoint().await?;
                self.checkpoint().await?;
                self.lab.sh(BULK).await?;
            }
            Act::Export(_) if self.export_folder().exists() => fs::remove_dir_all(self.export_folder())?,
            Act::Create(_) | Act::Apply(_) | Act::Revert | Act::Export(_) | Act::Save => {}
        }
        Ok(())
    }

    /// Where an export goes to: beside the VM's disk.
    #[must_use]
    pub fn export_folder(&self) -> PathBuf {
        self.set.data_disk.with_file_name("exported")
    }

    /// The end of an operation: whether it was done, or else the reason.
    ///
    /// # Errors
    /// If the service cannot be asked.
    pub async fn end_of(&self, operation: OperationId) -> Stepped<Result<(), String>> {
        let ended = self.client.watch(operation, |_| ()).await?;
        Ok(ended.refusal().map_or(Ok(()), |refusal| Err(refusal.reason.clone())))
    }

    /// Makes a standard checkpoint.
    ///
    /// # Errors
    /// If it is not made.
    pub async fn checkpoint(&self) -> Stepped<CheckpointId> {
        let asked = self.begin(Act::Create(CheckpointPolicy::Standard)).await?;
        let made = self.client.wait(&asked).await?;
        Ok(made.checkpoint_response().ok_or("no checkpoint")?.id)
    }

    /// The guest writes a value to memory and, durably, to disk.
    ///
    /// # Errors
    /// If it does not.
    pub async fn write(&self, value: u32) -> Stepped {
        self.lab.sh(&format!("echo {value} > /tmp/value; echo {value} > /data/value; sync")).await?;
        Ok(())
    }

    /// The values in memory and on disk.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub async fn value(&self) -> Stepped<String> {
        Ok(self.lab.sh("cat /tmp/value /data/value").await?.replace('\n', " "))
    }

    /// The guest can write.
    ///
    /// # Errors
    /// If it cannot, for longer than a lease.
    pub async fn writes(&self, what: &str) -> Stepped {
        let wrote = self.lab.run_within("touch /data/goes-on && sync", GOES_ON).await;
        wrote.map(drop).map_err(|error| format!("{what}: the guest is held: {error}").into())
    }

    /// The checkpoints that are there.
    ///
    /// # Errors
    /// If the service cannot be asked.
    pub async fn names(&self) -> Stepped<BTreeSet<CheckpointId>> {
        Ok(self.client.list_checkpoints(&self.vm).await?.into_iter().map(|checkpoint| checkpoint.id).collect())
    }

    /// What each checkpoint's disks hold, as a hash of all that can be read.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn contents(&self) -> Stepped<BTreeMap<CheckpointId, String>> {
        let mut contents = BTreeMap::new();
        for checkpoint in self.client.list_checkpoints(&self.vm).await? {
            let mut hashes = Vec::new();
            for disk in checkpoint.disks {
                hashes.push(hash(Path::new(&disk.path), &self.set.path().join("flat")).await?);
            }
            contents.insert(checkpoint.id, hashes.join(" "));
        }
        Ok(contents)
    }

    /// From now on the service ends itself at this point.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn dies_at(&self, point: &str) -> Stepped {
        Ok(fs::write(&self.fail_point, point)?)
    }

    /// From now on the service waits at this point.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn waits_at(&self, point: &str) -> Stepped {
        Ok(fs::write(&self.fail_point, format!("{point} wait"))?)
    }

    /// Waits until the service waits.
    ///
    /// # Errors
    /// If it does not come to the point.
    pub async fn waits(&self) -> Stepped {
        let reached = self.fail_point.with_extension("reached");
        let come = async {
            while !reached.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        Ok(tokio::time::timeout(REACHED, come).await.map_err(|_| "the service does not come to the point")?)
    }

    /// The service is not struck any more; one that waits goes on.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn goes_on(&self) -> Stepped {
        Ok(fs::remove_file(&self.fail_point)?)
    }

    /// When nothing is at work any more: the layers in `folder` and the memory states are those that are needed, all are
    /// whole, and what the checkpoints hold is what it was before.
    ///
    /// # Errors
    /// If something cannot be asked.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn is_sound(&self, folder: &Path, before: &BTreeMap<CheckpointId, String>, what: &str) -> Stepped {
        quiet(&self.client, &self.vm).await?;
        assert_layers_sound(&self.client, &self.vm, folder, what).await?;
        assert_memory_sound(&self.client, &self.vm, what).await?;
        for (id, content) in self.contents().await? {
            assert!(before.get(&id).is_none_or(|known| *known == content), "{what}: {id} holds something else");
        }
        Ok(())
    }

    /// Starts the VM and finds its guest again.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(&mut self) -> Stepped {
        self.client.wait(&self.client.start_vm(&self.vm).await?.id).await?;
        self.lab = self.service.lab().await?;
        Ok(())
    }

    /// Waits until the VM is in this state.
    ///
    /// # Errors
    /// If it never is.
    pub async fn becomes(&self, state: PowerState) -> Stepped {
        let reached = async {
            while self.client.vm(&self.vm).await?.state != Some(state) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(REACHED, reached).await.map_err(|_| format!("never {state:?}"))?
    }
}

/// A hash of all that can be read of an image; `flat` is a path for a copy.
///
/// # Errors
/// If it cannot be read.
pub async fn hash(layer: &Path, flat: &Path) -> Stepped<String> {
    let mut convert = Command::new(qemu_img());
    convert.args(["convert", "-U", "-f", "qcow2", "-O", "raw"]).args([layer, flat]);
    let converted = convert.output().await?;
    if !converted.status.success() {
        return Err(String::from_utf8_lossy(&converted.stderr).into_owned().into());
    }
    // Holes are many: tar passes them over.
    let sum = "tar --sparse --mtime=@0 --owner=0 --group=0 --transform='s,.*,flat,' -Pcf - \"$0\" | sha256sum";
    let sum = Command::new("sh").args(["-c", sum]).arg(flat).output().await?;
    fs::remove_file(flat)?;
    let words = String::from_utf8_lossy(&sum.stdout).into_owned();
    Ok(words.split_whitespace().next().ok_or("sha256sum says nothing")?.to_owned())
}
