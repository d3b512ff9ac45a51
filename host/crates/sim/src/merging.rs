//! Moving data between layers.

use stillpoint_common::{DiskName, InstanceId, LayerFile};
use stillpoint_engine::ports::{HypervisorError, ImageError, LiveMerge, OfflineMerge, RunState};

use crate::{files::BLOCK_BYTES, machines::refused, state::State};

/// Blocks moved between two looks of the world.
const STEP: usize = 8;

/// A merge that an instance is at.
#[derive(Debug, Clone)]
pub(crate) struct LiveJob {
    child: u64,
    parent: u64,
    parent_file: LayerFile,
    /// The child is the head, and both read the same; what the guest writes goes to both.
    pub(crate) mirroring: bool,
}

/// Whether a merge has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    Part(u64),
    Whole,
}

impl State {
    /// Begins a merge, or goes on with one; false if there is nothing to merge any more.
    pub(crate) fn begin_merge(&mut self, id: InstanceId, merge: &LiveMerge) -> Result<bool, HypervisorError> {
        let instance = self.instance(id)?;
        if !matches!(instance.run, RunState::Running | RunState::Paused | RunState::Critical(_)) {
            return Err(HypervisorError::WrongState("disks are merged in a VM that runs or is paused".to_owned()));
        }
        let Some(layers) = instance.disks.get(&merge.disk) else {
            return refused("block-commit", format!("no disk {}", merge.disk));
        };
        let Some(at) = layers.iter().position(|layer| layer.id == merge.child) else { return Ok(false) };
        let child = layers[at].inode;
        let Some(below) = layers.get(at + 1).filter(|below| below.id == merge.parent.id) else {
            return refused("block-commit", "the parent is not the layer right below");
        };
        let parent = below.inode;
        let others = self.instances.iter().filter(|(other, _)| **other != id);
        if others.flat_map(|(_, other)| other.open()).any(|open| open.inode == parent) {
            return refused("block-commit", "Failed to get \"write\" lock");
        }
        let job = LiveJob { child, parent, parent_file: merge.parent.clone(), mirroring: false };
        let other = self.streams.contains_key(&(id, merge.disk.clone()));
        if other || self.merges.entry((id, merge.disk.clone())).or_insert(job).child != child {
            return refused("block-commit", "another job is at work on this disk");
        }
        Ok(true)
    }

    /// Moves some blocks. When none are left, a head is kept the same as its parent from here on; any other child
    /// leaves the chain in the same instant.
    pub(crate) fn merge_some(&mut self, id: InstanceId, disk: &DiskName) -> Result<Merged, HypervisorError> {
        self.instance(id)?;
        let job = self.merges.get(&(id, disk.clone())).cloned();
        let Some(job) = job else { return Err(HypervisorError::WrongState("the merge was given up".to_owned())) };
        if self.lacks_space(job.child, job.parent) {
            return Err(HypervisorError::NoSpace { message: "No space left on device".to_owned() });
        }
        match self.move_down(job.child, job.parent, &job.parent_file) {
            0 => {}
            moved => return Ok(Merged::Part(moved)),
        }
        if self.instance(id)?.writes_to(job.child) {
            let job = self.merges.get_mut(&(id, disk.clone()));
            job.into_iter().for_each(|job| job.mirroring = true);
        } else {
            self.take_out(id, disk, &job)?;
        }
        Ok(Merged::Whole)
    }

    /// Blocks that a merge at work moves in all.
    pub(crate) fn blocks_to_merge(&self, id: InstanceId, disk: &DiskName) -> u64 {
        let child = self.merges.get(&(id, disk.clone())).and_then(|job| self.files.open(job.child));
        child.map_or(0, |child| child.blocks.len() as u64)
    }

    /// The parent takes the place of a head that it has kept up with.
    pub(crate) fn finish_merge(&mut self, id: InstanceId, merge: &LiveMerge) -> Result<(), HypervisorError> {
        let instance = self.instance(id)?;
        let layers = instance.disks.get(&merge.disk).map(Vec::as_slice).unwrap_or_default();
        if !layers.iter().any(|layer| layer.id == merge.child) {
            return Ok(());
        }
        let running = instance.run == RunState::Running;
        let head = layers.first().map(|head| head.inode);
        let job = self.merges.get(&(id, merge.disk.clone())).cloned();
        let Some(job) = job.filter(|job| job.mirroring && Some(job.child) == head) else {
            return refused("job-complete", "the job is not ready");
        };
        if running {
            let disk = &merge.disk;
            self.violations
                .push(format!("the head of {disk} was merged away in a running VM, before that was recorded"));
        }
        self.take_out(id, &merge.disk, &job)
    }

    fn take_out(&mut self, id: InstanceId, disk: &DiskName, job: &LiveJob) -> Result<(), HypervisorError> {
        self.cancel_merge(id, disk);
        let instance = self.instance(id)?;
        let layers = instance.disks.entry(disk.clone()).or_default();
        let Some(at) = layers.iter().position(|layer| layer.inode == job.child) else { return Ok(()) };
        layers.remove(at);
        let above = at.checked_sub(1).map(|above| layers[above].inode);
        if let Some(above) = above.and_then(|above| self.files.open_mut(above)) {
            above.backing = Some(job.parent_file.path.clone());
        }
        self.files.open_mut(job.child).into_iter().for_each(|child| child.merged_away = true);
        Ok(())
    }

    /// The layer that takes a copy of each write of the guest to this disk.
    pub(crate) fn mirror(&self, id: InstanceId, disk: &DiskName) -> Option<u64> {
        self.merges.get(&(id, disk.clone())).filter(|job| job.mirroring).map(|job| job.parent)
    }

    /// Whether a job is at work on the head of a disk, which cannot be switched then.
    pub(crate) fn is_head_busy(&self, id: InstanceId, disk: &DiskName) -> bool {
        let key = (id, disk.clone());
        let children = self.merges.get(&key).map(|job| job.child).into_iter();
        let mut children = children.chain(self.streams.get(&key).map(|job| job.child));
        children.any(|child| self.instances.get(&id).is_some_and(|instance| instance.writes_to(child)))
    }

    pub(crate) fn cancel_merge(&mut self, id: InstanceId, disk: &DiskName) {
        self.merges.remove(&(id, disk.clone()));
    }

    /// Jobs whose service has died go on in QEMU as far as they come.
    pub(crate) fn finish_orphaned_merges(&mut self) {
        let jobs: Vec<_> = self.merges.keys().cloned().collect();
        for (id, disk) in jobs {
            while let Ok(Merged::Part(_)) = self.merge_some(id, &disk) {}
        }
    }

    pub(crate) fn begin_merge_offline(&self, merge: &OfflineMerge) -> Result<(), ImageError> {
        let mut chain = vec![&merge.child, &merge.parent];
        chain.extend(&merge.below);
        for file in [&merge.child, &merge.parent] {
            self.unused(file)?;
        }
        self.is_chain(&chain)
    }

    pub(crate) fn merge_some_offline(&mut self, merge: &OfflineMerge) -> Result<Merged, ImageError> {
        let missing = |file: &LayerFile| ImageError::Missing { path: file.path.clone() };
        let child = self.files.inode(&merge.child.path).ok_or_else(|| missing(&merge.child))?;
        let parent = self.files.inode(&merge.parent.path).ok_or_else(|| missing(&merge.parent))?;
        if self.lacks_space(child, parent) {
            return Err(ImageError::NoSpace { path: merge.parent.path.clone() });
        }
        Ok(match self.move_down(child, parent, &merge.parent) {
            0 => {
                self.files.open_mut(child).into_iter().for_each(|child| child.merged_away = true);
                Merged::Whole
            }
            moved => Merged::Part(moved),
        })
    }

    /// Bytes that the parent grows by.
    pub(crate) fn merge_growth(&self, child: &LayerFile, parent: &LayerFile) -> u64 {
        let (Some(child), Some(parent)) = (self.files.named(&child.path), self.files.named(&parent.path)) else {
            return 0;
        };
        let new = child.blocks.keys().filter(|block| !parent.blocks.contains_key(block)).count();
        BLOCK_BYTES * new as u64
    }

    fn lacks_space(&self, child: u64, parent: u64) -> bool {
        let Some(path) = self.files.path_of(parent) else { return false };
        let (Some(child), Some(parent)) = (self.files.open(child), self.files.open(parent)) else { return false };
        let new = child.blocks.keys().filter(|block| !parent.blocks.contains_key(block)).take(STEP).count();
        self.lacks(path, BLOCK_BYTES * new as u64)
    }

    /// Moves some blocks, and notes every file that reads otherwise because of it. Only the parent may, and layers whose
    /// data has been merged away.
    fn move_down(&mut self, child: u64, parent: u64, parent_file: &LayerFile) -> u64 {
        let before = self.files.contents_but(&parent_file.path);
        let moved = self.files.copy_down(child, parent, STEP);
        let after = self.files.contents_but(&parent_file.path);
        for (path, _) in before.iter().filter(|(path, content)| after.get(*path) != Some(*content)) {
            let (path, parent) = (path.display(), parent_file.path.display());
            self.violations.push(format!("a merge into {parent} changed what {path} reads as"));
        }
        moved as u64
    }
}
