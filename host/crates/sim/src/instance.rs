//! Instances: one simulated hypervisor process each.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use stillpoint_common::{DiskName, KeyValues, LayerId, Progress};
use stillpoint_engine::ports::{Capture, Intake, LaunchSpec, Observed, RunState};
use tokio::time::Instant;

use crate::{files::Content, memory::MemoryImage};

/// A layer that an instance has open, whatever becomes of its name.
#[derive(Debug, Clone)]
pub(crate) struct OpenLayer {
    pub(crate) id: LayerId,
    pub(crate) path: PathBuf,
    pub(crate) inode: u64,
}

/// A memory capture.
#[derive(Debug, Clone)]
pub(crate) enum Saving {
    None,
    Prepared(Arc<OwnedFd>),
    Active { sink: Arc<OwnedFd>, image: MemoryImage, done_at: Instant },
    Completed,
    Failed(String),
}

/// A process that runs. When it ends it leaves the world's table.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) spec: LaunchSpec,
    pub(crate) run: RunState,
    /// Layers of each disk, from the head down.
    pub(crate) disks: BTreeMap<DiskName, Vec<OpenLayer>>,
    pub(crate) attached: BTreeMap<LayerId, OpenLayer>,
    pub(crate) memory: u64,
    pub(crate) saving: Saving,
    /// Pages that it still takes in are served from here.
    pub(crate) taking_in: Option<PathBuf>,
    /// What the guest has reason to believe of its disks. If it is not so, something went wrong below it.
    pub(crate) believed: BTreeMap<DiskName, Content>,
    pub(crate) clock_behind: Duration,
    pub(crate) agent_started: bool,
    /// What the host has told the guest, since its agent was started.
    pub(crate) values: Option<KeyValues>,
}

impl Instance {
    pub(crate) fn observed(&self) -> Observed {
        let ids = |layers: &Vec<OpenLayer>| layers.iter().map(|layer| layer.id).collect();
        Observed {
            run: self.run.clone(),
            chains: self.disks.iter().map(|(disk, layers)| (disk.clone(), ids(layers))).collect(),
            attached: self.attached.keys().copied().collect(),
            capture: match &self.saving {
                Saving::None | Saving::Prepared(_) => Capture::None,
                Saving::Active { .. } => Capture::Active,
                Saving::Completed => Capture::Completed,
                Saving::Failed(message) => Capture::Failed(message.clone()),
            },
            intake: match &self.taking_in {
                None => Intake::Over,
                Some(_) => Intake::Active(Progress { done: 1, total: 2 }),
            },
        }
    }

    /// Every file it has open.
    pub(crate) fn open(&self) -> impl Iterator<Item = &OpenLayer> {
        self.disks.values().flatten().chain(self.attached.values())
    }

    /// Whether it may write to this file.
    pub(crate) fn writes_to(&self, inode: u64) -> bool {
        self.disks.values().filter_map(|layers| layers.first()).any(|head| head.inode == inode)
    }

    /// Inodes of a disk's layers, from the head down.
    pub(crate) fn stack(&self, disk: &DiskName) -> Vec<u64> {
        self.disks.get(disk).map(|layers| layers.iter().map(|layer| layer.inode).collect()).unwrap_or_default()
    }
}

/// Why a write of the guest was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotWritten {
    /// No instance of the VM runs.
    NotRunning,
    /// The guest is held by a quiesce session: the write waits.
    Held,
    /// The guest has no such disk.
    NoSuchDisk,
    /// No space was left; the VM stands still.
    NoSpace,
}
