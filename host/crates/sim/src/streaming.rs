//! Moving data upwards, from a layer into the one that lies on it.

use std::path::Path;

use stillpoint_common::{DiskName, InstanceId, LayerFile};
use stillpoint_engine::ports::{HypervisorError, ImageError, LiveStream, OfflineMerge, RunState};

use crate::{files::BLOCK_BYTES, machines::refused, merging::Merged, state::State};

/// Blocks moved between two looks of the world.
const STEP: usize = 8;

/// A stream that an instance is at.
#[derive(Debug, Clone)]
pub(crate) struct StreamJob {
    pub(crate) child: u64,
    parent: u64,
    base: LayerFile,
}

impl State {
    /// Begins a stream, or goes on with one; false if the parent is not in the chain any more.
    pub(crate) fn begin_stream(&mut self, id: InstanceId, stream: &LiveStream) -> Result<bool, HypervisorError> {
        let instance = self.instance(id)?;
        if !matches!(instance.run, RunState::Running | RunState::Paused | RunState::Critical(_)) {
            return Err(HypervisorError::WrongState("disks are merged in a VM that runs or is paused".to_owned()));
        }
        let Some(layers) = instance.disks.get(&stream.disk) else {
            return refused("block-stream", format!("no disk {}", stream.disk));
        };
        let at = |layer| layers.iter().position(|open| open.id == layer);
        let Some(parent) = at(stream.parent) else { return Ok(false) };
        if at(stream.child).map(|child| child + 1) != Some(parent) || at(stream.base.id) != Some(parent + 1) {
            return refused("block-stream", "the layers do not lie on each other");
        }
        let (child, parent) = (layers[parent - 1].inode, layers[parent].inode);
        if self.merges.contains_key(&(id, stream.disk.clone())) {
            return refused("block-stream", "another job is at work on this disk");
        }
        let job = StreamJob { child, parent, base: stream.base.clone() };
        if self.streams.entry((id, stream.disk.clone())).or_insert(job).child != child {
            return refused("block-stream", "another job is at work on this disk");
        }
        Ok(true)
    }

    /// Moves some blocks. When none are left, the child lies on the base in the same instant.
    pub(crate) fn stream_some(&mut self, id: InstanceId, disk: &DiskName) -> Result<Merged, HypervisorError> {
        self.instance(id)?;
        let job = self.streams.get(&(id, disk.clone())).cloned();
        let Some(job) = job else { return Err(HypervisorError::WrongState("the stream was given up".to_owned())) };
        if self.lacks_space_above(job.child, job.parent) {
            return Err(HypervisorError::NoSpace { message: "No space left on device".to_owned() });
        }
        match self.move_up(job.child, job.parent) {
            0 => {}
            moved => return Ok(Merged::Part(moved)),
        }
        self.streams.remove(&(id, disk.clone()));
        if let Some(layers) = self.instance(id)?.disks.get_mut(disk) {
            layers.retain(|layer| layer.inode != job.parent);
        }
        self.lie_on(job.child, &job.base);
        Ok(Merged::Whole)
    }

    /// Blocks that a stream at work moves in all, at most.
    pub(crate) fn blocks_to_stream(&self, id: InstanceId, disk: &DiskName) -> u64 {
        let parent = self.streams.get(&(id, disk.clone())).and_then(|job| self.files.open(job.parent));
        parent.map_or(0, |parent| parent.blocks.len() as u64)
    }

    pub(crate) fn cancel_stream(&mut self, id: InstanceId, disk: &DiskName) {
        self.streams.remove(&(id, disk.clone()));
    }

    /// Jobs whose service has died go on in QEMU to their end.
    pub(crate) fn finish_orphaned_streams(&mut self) {
        let jobs: Vec<_> = self.streams.keys().cloned().collect();
        for (id, disk) in jobs {
            while let Ok(Merged::Part(_)) = self.stream_some(id, &disk) {}
        }
    }

    /// Moves some blocks between files that nobody has open.
    pub(crate) fn stream_some_offline(&mut self, merge: &OfflineMerge) -> Result<Merged, ImageError> {
        let missing = |file: &LayerFile| ImageError::Missing { path: file.path.clone() };
        let child = self.files.inode(&merge.child.path).ok_or_else(|| missing(&merge.child))?;
        let parent = self.files.inode(&merge.parent.path).ok_or_else(|| missing(&merge.parent))?;
        let base = merge.below.first().ok_or_else(|| ImageError::Failed {
            what: "stream".to_owned(),
            message: "nothing lies below the parent".to_owned(),
        })?;
        if self.lacks_space_above(child, parent) {
            return Err(ImageError::NoSpace { path: merge.child.path.clone() });
        }
        Ok(match self.move_up(child, parent) {
            0 => {
                self.lie_on(child, base);
                Merged::Whole
            }
            moved => Merged::Part(moved),
        })
    }

    fn lacks_space_above(&self, child: u64, parent: u64) -> bool {
        let Some(path) = self.files.path_of(child) else { return false };
        let (Some(child), Some(parent)) = (self.files.open(child), self.files.open(parent)) else { return false };
        let new = parent.blocks.keys().filter(|block| !child.blocks.contains_key(block)).take(STEP).count();
        self.lacks(path, BLOCK_BYTES * new as u64)
    }

    /// The child names the base as its backing file, and must read as before.
    fn lie_on(&mut self, child: u64, base: &LayerFile) {
        self.changing_nothing(|state| {
            state.files.open_mut(child).into_iter().for_each(|child| child.backing = Some(base.path.clone()));
        });
    }

    fn move_up(&mut self, child: u64, parent: u64) -> u64 {
        self.changing_nothing(|state| state.files.copy_up(child, parent, STEP) as u64)
    }

    /// Notes every file that reads otherwise afterwards.
    fn changing_nothing<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.files.contents_but(Path::new(""));
        let result = act(self);
        let after = self.files.contents_but(Path::new(""));
        for (path, _) in before.iter().filter(|(path, content)| after.get(*path) != Some(*content)) {
            self.violations.push(format!("a stream changed what {} reads as", path.display()));
        }
        result
    }
}
