//! What is done to image files by the system alone: naming, syncing, finding out who is who.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags, fstat, open, renameat_with},
    io::Errno,
};
use stillpoint_common::{DiskFormat, FileIdentity, FileStamp, LayerFile, LayerId};
use stillpoint_engine::ports::{ImageError, Seen};

use super::{
    header::{Header, resolve},
    space::space,
    tool::failed,
};

/// There is plenty of room for what takes so small a part of what is free.
const PLENTY: u64 = 4;

pub(super) fn identity(metadata: &fs::Metadata) -> FileIdentity {
    FileIdentity { device: metadata.dev(), inode: metadata.ino() }
}

/// What is seen of an image by its inode and its head.
pub(super) fn glance(file: &LayerFile) -> Result<Seen, ImageError> {
    let path = &file.path;
    let metadata = fs::metadata(path).map_err(|error| io_error(path, "looking at", &error))?;
    let header = match file.format {
        DiskFormat::Qcow2 => Header::read(path).map_err(|error| io_error(path, "reading", &error))?,
        DiskFormat::Raw | DiskFormat::Vhdx | DiskFormat::Vpc => None,
    };
    let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_default();
    Ok(Seen {
        identity: identity(&metadata),
        stamp: FileStamp { bytes: metadata.len(), modified },
        allocated: metadata.blocks() * 512,
        backing_format: header.as_ref().and_then(|header| header.backing_format),
        backing: header.and_then(|header| header.backing).map(|name| resolve(folder(path), &name)),
    })
}

/// Images in a folder that name a backing file.
pub(super) fn images_in(folder: &Path) -> Result<Vec<(PathBuf, Seen)>, ImageError> {
    let entries = fs::read_dir(folder).map_err(|error| io_error(folder, "reading", &error))?;
    let files = entries.flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()));
    let glanced = |path: PathBuf| {
        let file = LayerFile { id: LayerId::generate(), path: path.clone(), format: DiskFormat::Qcow2 };
        // What cannot be read, or goes meanwhile, lies on nothing that we could tell.
        glance(&file).ok().filter(|seen| seen.backing.is_some()).map(|seen| (path, seen))
    };
    Ok(files.filter_map(glanced).collect())
}

/// The image names a backing file, and that is this file.
pub(super) fn lies_on(image: &Path, backing: FileIdentity) -> bool {
    let is_file = image.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    let named = if is_file { Header::read(image).ok().flatten().and_then(|header| header.backing) } else { None };
    let named = named.and_then(|name| fs::metadata(resolve(folder(image), &name)).ok());
    named.is_some_and(|named| identity(&named) == backing)
}

pub(super) fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Where a file is made before it gets its name.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Gives a file its name, unless another one has it.
pub(super) fn place(new: &Path, path: &Path) -> Result<(), ImageError> {
    match renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(ImageError::Exists { path: path.to_owned() }),
        // A file system without this kind of rename: a link does not replace either.
        Err(Errno::INVAL) => match fs::hard_link(new, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ImageError::Exists { path: path.to_owned() })
            }
            linked => linked.map_err(|error| io_error(path, "naming", &error)),
        },
        Err(error) => Err(io_error(path, "naming", &error.into())),
    }
}

/// Makes a file durable, and its name.
pub(super) async fn sync(path: &Path) -> Result<(), ImageError> {
    let path = path.to_owned();
    blocking(move || sync_one(&path).and_then(|()| sync_one(folder(&path)))).await
}

pub(super) fn sync_one(path: &Path) -> Result<(), ImageError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| io_error(path, "syncing", &error))
}

/// Removes a file if it is the one that is meant; durable on return. A file gives back what it takes when the last one
/// who has it open lets it go, and for a large one that takes as long as reading it would. Where there is plenty of room
/// nobody need wait for it: then it is answered still open, to be let go.
pub(super) fn remove(path: &Path, expected: FileIdentity) -> Result<Option<OwnedFd>, ImageError> {
    let opened = match open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(io_error(path, "looking at", &error.into())),
    };
    let found = fstat(&opened).map_err(|error| io_error(path, "looking at", &error.into()))?;
    if (FileIdentity { device: found.st_dev, inode: found.st_ino }) != expected {
        return Err(ImageError::Changed { path: path.to_owned() });
    }
    let takes = u64::try_from(found.st_blocks).unwrap_or(0) * 512;
    let has_plenty = space(path).is_ok_and(|space| space.free / PLENTY >= takes);
    fs::remove_file(path).map_err(|error| io_error(path, "removing", &error))?;
    sync_one(folder(path))?;
    Ok(has_plenty.then_some(opened))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(failed("a task of the service", error.to_string())),
    }
}

pub(super) fn io_error(path: &Path, doing: &str, error: &io::Error) -> ImageError {
    let path = path.to_owned();
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        ImageError::Missing { path }
    } else if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        ImageError::NoSpace { path }
    } else {
        failed(&format!("{doing} {}", path.display()), error.to_string())
    }
}

/// What `path` is now. A link is looked through.
pub(super) fn look(path: &Path) -> Result<FileIdentity, ImageError> {
    fs::metadata(path).map(|metadata| identity(&metadata)).map_err(|error| io_error(path, "looking at", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_that_is_meant_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other, link] = ["one.qcow2", "other.qcow2", "link.qcow2"].map(|name| folder.path().join(name));
        for path in [&path, &other] {
            fs::write(path, [7; 4096]).unwrap();
        }
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let meant = look(&path).unwrap();
        for another in [&other, &link] {
            assert!(matches!(remove(another, meant), Err(ImageError::Changed { .. })), "{another:?}");
            assert!(another.exists());
        }
        assert!(matches!(remove(&link, look(&other).unwrap()), Err(ImageError::Changed { .. })), "a link is no file");
        let last = remove(&path, meant).unwrap().expect("4096 bytes are few");
        assert!(!path.exists());
        assert_eq!(fstat(&last).unwrap().st_nlink, 0, "it is there for us alone");
        assert!(remove(&path, meant).unwrap().is_none(), "gone is gone");
        assert_eq!(fs::read(&other).unwrap(), [7; 4096]);
    }
}
