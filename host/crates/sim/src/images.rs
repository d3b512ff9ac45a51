//! Image files that no instance writes to, by the rules of the port.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use stillpoint_common::{DiskFormat, FileIdentity, InstanceId, LayerFile};
use stillpoint_engine::ports::{Extent, FileUser, Flatten, ImageError, ImageFacts, Seen};

use crate::{
    files::{BLOCK_BYTES, DEVICE, Image},
    state::State,
};

type Outcome<T = ()> = Result<T, ImageError>;

fn missing<T>(path: &Path) -> Outcome<T> {
    Err(ImageError::Missing { path: path.to_owned() })
}

fn unusable<T>(path: &Path, message: &str) -> Outcome<T> {
    Err(ImageError::Unusable { path: path.to_owned(), message: message.to_owned() })
}

/// The number of an instance's process.
pub(crate) fn pid_of(instance: InstanceId) -> u32 {
    instance.to_string().bytes().fold(10_000, |pid, byte| (pid * 31 + u32::from(byte)) % 4_000_000)
}

impl State {
    fn image(&self, path: &Path, format: DiskFormat) -> Outcome<&Image> {
        match self.files.named(path) {
            None => missing(path),
            // Any bytes are a raw image.
            Some(image) if format == DiskFormat::Raw => Ok(image),
            Some(image) if image.format != format => unusable(path, &format!("not in {} format", format.driver())),
            Some(image) => Ok(image),
        }
    }

    pub(crate) fn stat(&self, path: &Path, format: DiskFormat) -> Outcome<ImageFacts> {
        let image = self.image(path, format)?;
        Ok(ImageFacts {
            identity: FileIdentity { device: DEVICE, inode: self.files.inode(path).unwrap_or_default() },
            virtual_size: image.virtual_size,
            allocated: image.allocated(),
            backing: image.backing.clone(),
            corrupt: image.corrupt,
            begins_as_qcow2: (format, image.format) == (DiskFormat::Raw, DiskFormat::Qcow2),
        })
    }

    pub(crate) fn look(&self, path: &Path) -> Outcome<Seen> {
        let (Some(inode), Some(image)) = (self.files.inode(path), self.files.named(path)) else { return missing(path) };
        Ok(Seen {
            identity: FileIdentity { device: DEVICE, inode },
            stamp: image.stamp(),
            allocated: image.allocated(),
            backing: image.backing.clone(),
            backing_format: image.backing.as_ref().and_then(|path| self.files.named(path)).map(|below| below.format),
        })
    }

    /// Who could write to these files: instances of VMs, and whoever a test says.
    pub(crate) fn users(&self, paths: &[PathBuf]) -> Vec<FileUser> {
        let mut users = vec![];
        for path in paths {
            let Some(inode) = self.files.inode(path) else { continue };
            let user =
                |pid, program: &str, writes| FileUser { path: path.clone(), pid, program: program.to_owned(), writes };
            let open = self.instances.iter().filter(|(_, instance)| instance.open().any(|open| open.inode == inode));
            users.extend(open.map(|(id, instance)| user(pid_of(*id), "qemu-system-x86", instance.writes_to(inode))));
            users.extend(
                self.strangers.iter().filter(|(open, _)| *open == path).map(|(_, name)| user(4711, name, true)),
            );
        }
        users
    }

    pub(crate) fn create_variables(&mut self, path: &Path) -> Outcome {
        if self.files.named(path).is_none() {
            let image = Image { users_own: true, ..Image::empty(DiskFormat::Qcow2, 528 << 10) };
            self.files.put(path, image);
        }
        Ok(())
    }

    pub(crate) fn create_overlay(&mut self, path: &Path, backing: &LayerFile, size: u64) -> Outcome<FileIdentity> {
        self.image(&backing.path, backing.format)?;
        if path.parent() != backing.path.parent() {
            return unusable(path, "an overlay lies in the folder of its backing file");
        }
        if let Some(there) = self.files.named(path) {
            let ours = there.blocks.is_empty()
                && there.format == DiskFormat::Qcow2
                && there.backing.as_ref() == Some(&backing.path)
                && there.virtual_size == size;
            let identity = FileIdentity { device: DEVICE, inode: self.files.inode(path).unwrap_or_default() };
            return if ours { Ok(identity) } else { Err(ImageError::Exists { path: path.to_owned() }) };
        }
        if self.lacks(path, BLOCK_BYTES) {
            return Err(ImageError::NoSpace { path: path.to_owned() });
        }
        let image = Image { backing: Some(backing.path.clone()), ..Image::empty(DiskFormat::Qcow2, size) };
        Ok(self.files.put(path, image))
    }

    /// What a layer itself holds. To ask this of a head would miss what its process has not written down yet.
    pub(crate) fn extents(&mut self, layer: &LayerFile, part: &Range<u64>) -> Outcome<Vec<Extent>> {
        let image = self.image(&layer.path, layer.format)?;
        let size = image.virtual_size;
        let piece = |(block, value): (&u64, &u64)| {
            let start = (block * BLOCK_BYTES).max(part.start);
            let end = ((block + 1) * BLOCK_BYTES).min(part.end).min(size);
            (start < end).then_some(Extent { bytes: start..end, zero: *value == 0 })
        };
        let found = image.blocks.iter().filter_map(piece).collect();
        let inode = self.files.inode(&layer.path).unwrap_or_default();
        if self.instances.values().any(|instance| instance.writes_to(inode)) {
            self.violations
                .push(format!("{} was asked for what it holds while it is written to", layer.path.display()));
        }
        Ok(found)
    }

    /// Refuses a file that an instance has open.
    pub(crate) fn unused(&self, file: &LayerFile) -> Outcome {
        self.image(&file.path, file.format)?;
        let inode = self.files.inode(&file.path).unwrap_or_default();
        match self.instances.iter().find(|(_, instance)| instance.open().any(|open| open.inode == inode)) {
            None => Ok(()),
            Some((id, _)) => {
                Err(ImageError::InUse { path: file.path.clone(), message: format!("instance {id} has it open") })
            }
        }
    }

    /// Refuses layers, given from the head down, that do not lie on each other.
    pub(crate) fn is_chain(&self, head_down: &[&LayerFile]) -> Outcome {
        for (at, file) in head_down.iter().enumerate() {
            let below = head_down.get(at + 1).map(|below| &below.path);
            if self.image(&file.path, file.format)?.backing.as_ref() != below {
                return unusable(&file.path, "it names another backing file");
            }
        }
        Ok(())
    }

    pub(crate) fn repoint(&mut self, overlay: &LayerFile, backing: &LayerFile) -> Outcome {
        self.image(&backing.path, backing.format)?;
        self.unused(overlay)?;
        if overlay.path.parent() != backing.path.parent() || overlay.path == backing.path {
            return unusable(&overlay.path, "an overlay lies beside its backing file");
        }
        let before = self.files.content(&overlay.path);
        if let Some(image) = self.files.named_mut(&overlay.path) {
            image.backing = Some(backing.path.clone());
        }
        if before.is_some() && self.files.content(&overlay.path) != before {
            let path = overlay.path.display();
            self.violations.push(format!("{path} reads otherwise since its backing file was changed"));
        }
        Ok(())
    }

    pub(crate) fn flatten(&mut self, flatten: &Flatten) -> Outcome {
        let head_down: Vec<_> = flatten.layers.iter().rev().collect();
        self.is_chain(&head_down)?;
        let inodes: Vec<_> = head_down.iter().filter_map(|file| self.files.inode(&file.path)).collect();
        let target = &flatten.target;
        if let Some(inode) = inodes.iter().find(|inode| self.instances.values().any(|i| i.writes_to(**inode))) {
            let path = target.clone();
            return Err(ImageError::InUse { path, message: format!("file {inode} is open for writing") });
        }
        if self.files.inode(target).is_some_and(|inode| inodes.contains(&inode)) {
            return unusable(target, "the target is one of the layers");
        }
        if !target.parent().is_some_and(|folder| self.folders.contains(folder)) {
            return Err(ImageError::Failed {
                what: "open the target".to_owned(),
                message: "no such folder".to_owned(),
            });
        }
        let size = head_down.first().and_then(|head| self.files.named(&head.path)).map_or(0, |head| head.virtual_size);
        let blocks: BTreeMap<_, _> = self.files.read(&inodes);
        if self.lacks(target, BLOCK_BYTES * (1 + blocks.len() as u64)) {
            return Err(ImageError::NoSpace { path: target.clone() });
        }
        self.files.put(target, Image { blocks, ..Image::empty(flatten.format, size) });
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path, identity: FileIdentity) -> Outcome {
        let Some(inode) = self.files.inode(path) else { return Ok(()) };
        if identity != (FileIdentity { device: DEVICE, inode }) {
            return Err(ImageError::Changed { path: path.to_owned() });
        }
        let shown = path.display();
        let open = self.instances.values().any(|instance| instance.open().any(|open| open.inode == inode));
        let users_own = self.files.open(inode).is_some_and(|image| image.users_own);
        let children = self.files.children(path);
        let children = children.iter().filter(|(_, child)| !child.merged_away);
        let mut wrongs: Vec<_> =
            children.map(|(child, _)| format!("{shown} was removed under {}", child.display())).collect();
        wrongs.extend(open.then(|| format!("{shown} was removed while an instance has it open")));
        wrongs.extend(users_own.then(|| format!("{shown} was removed, and is the user's own")));
        self.violations.extend(wrongs);
        self.files.unlink(path);
        Ok(())
    }
}
