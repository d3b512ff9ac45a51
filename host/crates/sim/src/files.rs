//! Image files: names, identities, and what is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use stillpoint_common::{DiskFormat, FileIdentity, FileStamp};

/// What a disk reads as: blocks that are not zero.
pub type Content = BTreeMap<u64, u64>;

/// The device that all simulated files lie on.
pub(crate) const DEVICE: u64 = 1;
/// Bytes that a block takes.
pub(crate) const BLOCK_BYTES: u64 = 65_536;

/// One image file, under whatever name.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) format: DiskFormat,
    pub(crate) virtual_size: u64,
    /// The backing file it names.
    pub(crate) backing: Option<PathBuf>,
    /// Blocks written in this layer; a written zero hides the block below.
    pub(crate) blocks: BTreeMap<u64, u64>,
    /// The user's own, which nobody may unlink.
    pub(crate) users_own: bool,
    pub(crate) corrupt: bool,
    /// Its data is in its parent, and nothing was opened over it since: it is of no use to anybody.
    pub(crate) merged_away: bool,
}

impl Image {
    pub(crate) fn empty(format: DiskFormat, virtual_size: u64) -> Self {
        let (backing, blocks) = (None, BTreeMap::new());
        Self { format, virtual_size, backing, blocks, users_own: false, corrupt: false, merged_away: false }
    }

    /// A clock that only goes on when something is written: what is in the file, as a time.
    pub(crate) fn stamp(&self) -> FileStamp {
        let mut hasher = DefaultHasher::new();
        (&self.blocks, &self.backing).hash(&mut hasher);
        let second = i64::try_from(hasher.finish() >> 34).unwrap_or_default();
        FileStamp { bytes: self.allocated(), modified: Timestamp::from_second(second).unwrap_or_default() }
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES
    }
}

/// A file system with image files. A file lives on without a name while something has it open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    names: BTreeMap<PathBuf, u64>,
    images: BTreeMap<u64, Image>,
    made: u64,
}

impl Files {
    /// Puts a file under a name; one that was there loses the name.
    pub(crate) fn put(&mut self, path: &Path, image: Image) -> FileIdentity {
        self.made += 1;
        self.images.insert(self.made, image);
        self.names.insert(path.to_owned(), self.made);
        FileIdentity { device: DEVICE, inode: self.made }
    }

    pub(crate) fn unlink(&mut self, path: &Path) {
        self.names.remove(path);
    }

    pub(crate) fn inode(&self, path: &Path) -> Option<u64> {
        self.names.get(path).copied()
    }

    /// The name of a file, if it has one.
    pub(crate) fn path_of(&self, inode: u64) -> Option<&PathBuf> {
        self.names.iter().find(|(_, named)| **named == inode).map(|(path, _)| path)
    }

    pub(crate) fn named(&self, path: &Path) -> Option<&Image> {
        self.images.get(self.names.get(path)?)
    }

    pub(crate) fn named_mut(&mut self, path: &Path) -> Option<&mut Image> {
        self.images.get_mut(self.names.get(path)?)
    }

    pub(crate) fn open(&self, inode: u64) -> Option<&Image> {
        self.images.get(&inode)
    }

    pub(crate) fn open_mut(&mut self, inode: u64) -> Option<&mut Image> {
        self.images.get_mut(&inode)
    }

    pub(crate) fn paths(&self) -> BTreeSet<PathBuf> {
        self.names.keys().cloned().collect()
    }

    /// Every file with its name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&PathBuf, &Image)> {
        self.names.iter().filter_map(|(name, inode)| Some((name, self.images.get(inode)?)))
    }

    /// Files that name `path` as their backing file.
    pub(crate) fn children(&self, path: &Path) -> Vec<(&PathBuf, &Image)> {
        self.all().filter(|(_, image)| image.backing.as_deref() == Some(path)).collect()
    }

    /// Gives a file another name.
    pub(crate) fn rename(&mut self, from: &Path, to: PathBuf) {
        if let Some(inode) = self.names.remove(from) {
            self.names.insert(to, inode);
        }
    }

    /// What the file reads as through the backing files that are named in it; `None` if one is missing.
    pub(crate) fn content(&self, path: &Path) -> Option<Content> {
        let (mut stack, mut next) = (vec![], Some(path));
        while let Some(path) = next {
            let inode = self.inode(path)?;
            if stack.contains(&inode) {
                return None;
            }
            stack.push(inode);
            next = self.named(path)?.backing.as_deref();
        }
        Some(self.read(&stack))
    }

    /// What these layers read as, given from the head down.
    pub(crate) fn read(&self, head_down: &[u64]) -> Content {
        let mut content = Content::new();
        for image in head_down.iter().rev().filter_map(|inode| self.images.get(inode)) {
            content.extend(&image.blocks);
        }
        content.retain(|_, value| *value != 0);
        content
    }

    /// What every file reads as, but one, and those whose data has been merged away.
    pub(crate) fn contents_but(&self, left_out: &Path) -> BTreeMap<PathBuf, Option<Content>> {
        let names = self.all().filter(|(name, image)| *name != left_out && !image.merged_away);
        names.map(|(name, _)| (name.clone(), self.content(name))).collect()
    }

    /// Copies the blocks of one layer that the one above it does not have into that one, at most `limit` of them. Answers
    /// how many there were.
    pub(crate) fn copy_up(&mut self, child: u64, parent: u64, limit: usize) -> usize {
        let (Some(from), Some(to)) = (self.images.get(&parent), self.images.get(&child)) else { return 0 };
        let lacks = |(block, _): &(&u64, &u64)| !to.blocks.contains_key(block);
        let moved: Vec<_> = from.blocks.iter().filter(lacks).take(limit).map(|(b, v)| (*b, *v)).collect();
        if let Some(to) = self.images.get_mut(&child) {
            to.blocks.extend(moved.iter().copied());
        }
        moved.len()
    }

    /// Copies the blocks of one layer into the one below it, at most `limit` of them. Answers how many there were.
    pub(crate) fn copy_down(&mut self, child: u64, parent: u64, limit: usize) -> usize {
        let (Some(from), Some(to)) = (self.images.get(&child), self.images.get(&parent)) else { return 0 };
        let differs = |(block, value): &(&u64, &u64)| to.blocks.get(block) != Some(value);
        let moved: Vec<_> = from.blocks.iter().filter(differs).take(limit).map(|(b, v)| (*b, *v)).collect();
        let size = from.virtual_size;
        if let Some(to) = self.images.get_mut(&parent) {
            to.blocks.extend(moved.iter().copied());
            to.virtual_size = to.virtual_size.max(size);
        }
        moved.len()
    }
}
