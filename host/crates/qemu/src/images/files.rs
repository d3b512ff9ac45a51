//! What is done to image files by the system alone: naming, syncing, finding out who is who.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use stillpoint_common::{DiskFormat, FileIdentity, FileStamp, LayerFile, LayerId};
use stillpoint_engine::ports::{ImageError, Seen};

use super::{
    header::{Header, resolve},
    tool::failed,
};

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
    use rustix::io::Errno;
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
