//! Description files in the checkpoint locations of VMs.
//!
//! ```text
//! write ─▶ .<name>.new ─▶ sync ─▶ rename ─▶ <name> ─▶ sync the folder
//! ```
//! A file under its final name is whole. Whatever is called `….new` was never finished.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use stillpoint_engine::ports::{DescriptionError, Descriptions, FoundDescription};
use tokio::task::spawn_blocking;

/// No description is as large.
const MOST_BYTES: u64 = 64 << 20;

/// Keeps descriptions as files, readable for the service alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileDescriptions;

#[async_trait]
impl Descriptions for FileDescriptions {
    async fn write(&self, location: &Path, name: &str, content: &[u8]) -> Result<(), DescriptionError> {
        let (location, path, content) = (location.to_owned(), location.join(name), content.to_owned());
        let new = location.join(format!(".{name}.new"));
        blocking(move || {
            if fs::read(&path).is_ok_and(|there| there == content) {
                return Ok(());
            }
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&location);
            made.map_err(|error| explained(&location, "making", error))?;
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
            let written = file.and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()));
            let named = written.and_then(|()| fs::rename(&new, &path));
            if let Err(error) = named {
                let _ = fs::remove_file(&new);
                return Err(explained(&path, "writing", error));
            }
            sync_folder(&location)
        })
        .await
    }

    async fn remove(&self, location: &Path, name: &str) -> Result<(), DescriptionError> {
        let (location, path) = (location.to_owned(), location.join(name));
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => sync_folder(&location),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(explained(&path, "removing", error)),
        })
        .await
    }

    async fn names(&self, folder: &Path) -> Result<Vec<String>, DescriptionError> {
        let folder = folder.to_owned();
        blocking(move || {
            if !folder.exists() {
                return Ok(Vec::new());
            }
            let files = entries(&folder)?.into_iter().filter(|path| path.is_file());
            Ok(files.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
        })
        .await
    }

    async fn find(&self, folder: &Path, ending: &str) -> Result<Vec<FoundDescription>, DescriptionError> {
        let (folder, ending) = (folder.to_owned(), ending.to_owned());
        blocking(move || {
            let mut paths = Vec::new();
            for entry in entries(&folder)? {
                // A folder below that cannot be read holds nothing that we could take.
                paths.extend(if entry.is_dir() { entries(&entry).unwrap_or_default() } else { vec![entry] });
            }
            let is_one = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.ends_with(&ending) && !name.starts_with('.') && path.is_file()
            };
            paths.retain(is_one);
            paths.sort();
            let read = |path: PathBuf| FoundDescription { content: read(&path).map_err(|e| e.to_string()), path };
            Ok(paths.into_iter().map(read).collect())
        })
        .await
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DescriptionError> {
    let entries = fs::read_dir(folder).map_err(|error| explained(folder, "reading", error))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn sync_folder(folder: &Path) -> Result<(), DescriptionError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| explained(folder, "syncing", error))
}

fn explained(path: &Path, doing: &str, source: io::Error) -> DescriptionError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return DescriptionError::NoSpace { path: path.to_owned() };
    }
    DescriptionError::Io { what: format!("{doing} {}", path.display()), source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DescriptionError> + Send + 'static,
) -> Result<T, DescriptionError> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        let what = "a task of the service ended early".to_owned();
        Err(DescriptionError::Io { what, source: io::Error::other(error) })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn a_description_is_whole_private_and_written_only_if_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("web");
        FileDescriptions.write(&location, "web.vm.json", b"one").await.unwrap();
        let path = location.join("web.vm.json");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), metadata.permissions().mode() & 0o777), (&b"one"[..], 0o600));
        FileDescriptions.write(&location, "web.vm.json", b"one").await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), metadata.ino(), "nothing was written");
        FileDescriptions.write(&location, "web.vm.json", b"two").await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");

        fs::write(location.join(".web.vm.json.new"), b"half").unwrap();
        let found = FileDescriptions.find(folder.path(), ".vm.json").await.unwrap();
        assert_eq!(found, [FoundDescription { path, content: Ok(b"two".to_vec()) }], "from the folder above");
        FileDescriptions.remove(&location, "web.vm.json").await.unwrap();
        FileDescriptions.remove(&location, "web.vm.json").await.unwrap();
        assert_eq!(FileDescriptions.find(&location, ".vm.json").await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"in the way").unwrap();
        let error = FileDescriptions.write(&folder.path().join("file/below"), "x", b"").await.unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
        let error = FileDescriptions.find(&folder.path().join("no"), ".vm.json").await.unwrap_err();
        assert!(error.to_string().contains("no"), "{error}");
    }
}
