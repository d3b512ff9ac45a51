//! The disks of both guests: what the product's is made of, and the twin's counterpart of each file.

use std::path::{Path, PathBuf};

use stillpoint_cli::client::Client;
use stillpoint_common::{CheckpointPolicy, VmId};
use tokio::process::Command;

use super::{Outcome, pair::Shape};
use crate::{bare::qemu_img, guest_image::GuestSet};

/// Where a layer's data lies: behind the guest's file system.
const OFFSET_MIB: u64 = 1024;

/// The files, each beside its counterpart. The first pair is the disk that the guest boots from.
pub(super) struct Files {
    pub(super) pairs: Vec<(PathBuf, PathBuf)>,
}

impl Files {
    /// The disks of a shape.
    pub(super) async fn new(set: &GuestSet, shape: &Shape) -> Outcome<Self> {
        let mut pairs = vec![(set.data_disk.clone(), set.another_disk("twin.qcow2")?)];
        for number in 1..shape.disks {
            let (ours, twin) =
                (set.path().join(format!("extra{number}.qcow2")), set.path().join(format!("twin{number}.qcow2")));
            for file in [&ours, &twin] {
                run(Command::new(qemu_img()).args(["create", "-q", "-f", "qcow2"]).arg(file).arg("64M")).await?;
            }
            pairs.push((ours, twin));
        }
        if let Some(mib) = shape.layer_mib {
            for file in [&pairs[0].0, &pairs[0].1] {
                let size = format!("{}M", OFFSET_MIB + mib);
                run(Command::new(qemu_img()).args(["resize", "-q", "-f", "qcow2"]).arg(file).arg(size)).await?;
            }
        }
        Ok(Self { pairs })
    }

    /// A checkpoint, and so many MiB of data in the layer above it, on both sides. The VM is off.
    pub(super) async fn add_layer(&mut self, client: &Client, vm: &VmId, mib: u64) -> Outcome {
        let made = client.create_checkpoint(vm, "below", Some(CheckpointPolicy::Production)).await?;
        client.wait(&made.id).await?;
        let ours = PathBuf::from(client.vm(vm).await?.disks[0].head_path.clone());
        let twin = self.pairs[0].1.with_file_name("twin-layer.qcow2");
        overlay(&twin, &self.pairs[0].1, &format!("{}M", OFFSET_MIB + mib)).await?;
        for file in [&ours, &twin] {
            let write = format!("write -P 90 {OFFSET_MIB}M {mib}M");
            run(Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(file)).await?;
        }
        self.pairs.insert(0, (ours, twin));
        Ok(())
    }

    /// The twin's layer, and what it lies on.
    pub(super) fn twin_layer(&self) -> (&Path, &Path) {
        (&self.pairs[0].1, &self.pairs[1].1)
    }
}

/// Makes an overlay, without a look at what it lies on.
pub(super) async fn overlay(overlay: &Path, backing: &Path, size: &str) -> Outcome {
    let mut create = Command::new(qemu_img());
    create.args(["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(backing).arg(overlay).arg(size);
    run(&mut create).await
}

async fn run(command: &mut Command) -> Outcome {
    let ended = command.output().await?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&ended.stderr)).into())
}
