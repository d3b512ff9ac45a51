//! File systems of limited size. What lies outside of them has room without end, unless the whole world is full.

use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use stillpoint_engine::ports::Space;

use crate::{
    files::{BLOCK_BYTES, DEVICE},
    memory::Memory,
    state::State,
};

/// Room where nothing is said: so much that nobody misses any.
const PLENTY: u64 = 1 << 60;

impl State {
    /// Room on the file system that a path is on.
    pub(crate) fn space(&self, path: &Path) -> Space {
        let mut volumes = self.volumes.iter().enumerate().filter(|(_, (folder, _))| path.starts_with(folder));
        let (file_system, mounted_on, free) = match volumes.next_back() {
            None => (DEVICE, Path::new("/"), PLENTY),
            Some((at, (folder, capacity))) => {
                (DEVICE + 1 + at as u64, folder.as_path(), capacity.saturating_sub(self.used(folder)))
            }
        };
        Space { file_system, mounted_on: mounted_on.to_owned(), free: if self.full { 0 } else { free } }
    }

    /// Whether there is no room for so many bytes more.
    pub(crate) fn lacks(&self, path: &Path, bytes: u64) -> bool {
        self.space(path).free < bytes
    }

    pub(crate) fn used(&self, folder: &Path) -> u64 {
        let images = self.files.all().filter(|(path, _)| path.starts_with(folder));
        let memories = self.memories.iter().filter(|(path, _)| path.starts_with(folder));
        let images: u64 = images.map(|(_, image)| image.allocated() + BLOCK_BYTES).sum();
        images + memories.map(|(_, memory)| memory.bytes()).sum::<u64>()
    }

    /// The memory state that a hypervisor writes to through this descriptor.
    pub(crate) fn path_of_sink(&self, sink: &std::os::fd::OwnedFd) -> Option<PathBuf> {
        let inode = fstat(sink).ok()?.st_ino;
        let same = |memory: &Memory| match memory {
            Memory::Open(kept) => fstat(kept).is_ok_and(|kept| kept.st_ino == inode),
            Memory::Sealed(_) => false,
        };
        self.memories.iter().find(|(_, memory)| same(memory)).map(|(path, _)| path.clone())
    }
}
