//! Memory states in the folders of their checkpoints.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use stillpoint_common::MemoryState;
use stillpoint_engine::ports::{MemoryError, MemoryOf, MemoryStates};

use crate::whole as stream;

/// Keeps a memory state as `<location>/<checkpoint>.memory` or `<location>/<saved state>.saved`, readable for the service
/// alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileMemoryStates;

#[async_trait]
impl MemoryStates for FileMemoryStates {
    async fn begin(&self, location: &Path, of: MemoryOf) -> Result<OwnedFd, MemoryError> {
        let (location, path) = (location.to_owned(), unfinished(location, of));
        blocking(move || {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&location);
            made.map_err(|error| explained(&location, "making", error))?;
            // A new file, not the old one emptied: an earlier QEMU may still be writing to that.
            remove(&path)?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            file.map(OwnedFd::from).map_err(|error| explained(&path, "creating", error))
        })
        .await
    }

    async fn seal(&self, location: &Path, of: MemoryOf, qemu_version: &str) -> Result<MemoryState, MemoryError> {
        let (part, path) = (unfinished(location, of), finished(location, of));
        let (location, qemu_version) = (location.to_owned(), qemu_version.to_owned());
        blocking(move || {
            // Sealed already: only answer.
            let source = if !part.exists() && path.exists() { &path } else { &part };
            let (bytes, blake3) = examine(source)?;
            if source == &part {
                fs::rename(&part, &path).map_err(|error| explained(&part, "renaming", error))?;
            }
            sync_folder(&location)?;
            Ok(MemoryState { path, bytes, blake3, qemu_version })
        })
        .await
    }

    async fn open(&self, state: &MemoryState) -> Result<OwnedFd, MemoryError> {
        let state = state.clone();
        blocking(move || {
            let path = state.path.clone();
            let mut file = open(&path)?;
            has_its_length(&file, &state)?;
            let read = |error| explained(&path, "reading", error);
            if !stream::has_head(&mut file).map_err(read)? {
                return Err(damaged(&path, "damaged: it does not begin as it should"));
            }
            io::Seek::rewind(&mut file).map_err(read)?;
            Ok(file.into())
        })
        .await
    }

    async fn keep(&self, state: &MemoryState, location: &Path, of: MemoryOf) -> Result<MemoryState, MemoryError> {
        let (part, path) = (unfinished(location, of), finished(location, of));
        let (location, state) = (location.to_owned(), state.clone());
        blocking(move || {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&location);
            made.map_err(|error| explained(&location, "making", error))?;
            has_its_length(&open(&state.path)?, &state)?;
            remove(&part)?;
            share(&state.path, &part)?;
            fs::rename(&part, &path).map_err(|error| explained(&part, "renaming", error))?;
            // Renaming one link of a file over another one does nothing.
            remove(&part)?;
            sync_folder(&location)?;
            Ok(MemoryState { path, ..state })
        })
        .await
    }

    async fn remove(&self, location: &Path, of: MemoryOf) -> Result<(), MemoryError> {
        let paths = [unfinished(location, of), finished(location, of)];
        let location = location.to_owned();
        blocking(move || {
            let mut removed = false;
            for path in paths {
                removed |= remove(&path)?;
            }
            if removed { sync_folder(&location) } else { Ok(()) }
        })
        .await
    }
}

fn finished(location: &Path, of: MemoryOf) -> PathBuf {
    location.join(of.to_string())
}

fn unfinished(location: &Path, of: MemoryOf) -> PathBuf {
    location.join(format!("{of}.part"))
}

fn has_its_length(file: &File, state: &MemoryState) -> Result<(), MemoryError> {
    let length = file.metadata().map_err(|error| explained(&state.path, "looking at", error))?.len();
    if length == state.bytes {
        return Ok(());
    }
    Err(damaged(&state.path, format!("damaged: it has {length} bytes instead of {}", state.bytes)))
}

/// A second name for the same bytes, which nobody will change; a copy where the file system has no such thing.
fn share(from: &Path, to: &Path) -> Result<(), MemoryError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let file =
        |path: &Path, options: &mut OpenOptions| options.open(path).map_err(|error| explained(path, "opening", error));
    let mut source = file(from, OpenOptions::new().read(true))?;
    let mut target = file(to, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
    io::copy(&mut source, &mut target).map_err(|error| explained(to, "copying", error))?;
    target.sync_all().map_err(|error| explained(to, "syncing", error))
}

/// Checks, hashes and syncs a file. Answers its size and hash.
fn examine(path: &Path) -> Result<(u64, String), MemoryError> {
    let mut file = open(path)?;
    let read = |error| explained(path, "reading", error);
    stream::is_whole(&mut file).map_err(read)?.map_err(|problem| damaged(path, problem))?;
    io::Seek::rewind(&mut file).map_err(read)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).map_err(read)?;
    file.sync_all().map_err(|error| explained(path, "syncing", error))?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

fn open(path: &Path) -> Result<File, MemoryError> {
    File::open(path).map_err(|error| match error.kind() == io::ErrorKind::NotFound {
        true => damaged(path, "missing"),
        false => explained(path, "opening", error),
    })
}

/// True if there was one.
fn remove(path: &Path) -> Result<bool, MemoryError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(explained(path, "removing", error)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), MemoryError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| explained(folder, "syncing", error))
}

fn damaged(path: &Path, problem: impl Into<String>) -> MemoryError {
    MemoryError::Damaged { path: path.display().to_string(), problem: problem.into() }
}

fn explained(path: &Path, doing: &str, source: io::Error) -> MemoryError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return MemoryError::NoSpace { path: path.display().to_string() };
    }
    MemoryError::Io { what: format!("{doing} the memory state {}", path.display()), source }
}

/// Files of hundreds of megabytes are not read on the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MemoryError> + Send + 'static,
) -> Result<T, MemoryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let what = "a task of the service ended early".to_owned();
        Err(MemoryError::Io { what, source: io::Error::other(error) })
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::fs::PermissionsExt,
    };

    use stillpoint_common::{CheckpointId, SavedStateId};

    use super::*;

    fn write(fd: OwnedFd, bytes: &[u8]) {
        File::from(fd).write_all(bytes).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn what_was_written_is_sealed_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = CheckpointId::generate();
        let bytes = stream::example(300);
        let abandoned = FileMemoryStates.begin(folder.path(), checkpoint.into()).await.unwrap();
        write(FileMemoryStates.begin(folder.path(), checkpoint.into()).await.unwrap(), &bytes);
        write(abandoned, b"late words of an earlier attempt");
        assert_eq!(names(folder.path()), [format!("{checkpoint}.memory.part")]);

        let state = FileMemoryStates.seal(folder.path(), checkpoint.into(), "7.2.22").await.unwrap();
        assert_eq!(names(folder.path()), [format!("{checkpoint}.memory")]);
        assert_eq!(state.bytes, bytes.len() as u64);
        assert_eq!(state.blake3, blake3::hash(&bytes).to_hex().as_str());
        assert_eq!(state.qemu_version, "7.2.22");
        let mode = fs::metadata(&state.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "memory holds secrets");
        let again = FileMemoryStates.seal(folder.path(), checkpoint.into(), "7.2.22").await.unwrap();
        assert_eq!(again, state);

        let mut read = Vec::new();
        File::from(FileMemoryStates.open(&state).await.unwrap()).read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        FileMemoryStates.remove(folder.path(), checkpoint.into()).await.unwrap();
        FileMemoryStates.remove(folder.path(), checkpoint.into()).await.unwrap();
        assert!(names(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn nothing_and_half_of_it_are_not_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = CheckpointId::generate();
        let seal = || FileMemoryStates.seal(folder.path(), checkpoint.into(), "7.2.22");
        let missing = seal().await.unwrap_err();
        assert!(matches!(&missing, MemoryError::Damaged { problem, .. } if problem == "missing"), "{missing}");
        let bytes = stream::example(2);
        for part in [&bytes[..0], &bytes[..bytes.len() - 1]] {
            write(FileMemoryStates.begin(folder.path(), checkpoint.into()).await.unwrap(), part);
            assert!(matches!(seal().await, Err(MemoryError::Damaged { .. })));
        }
        assert_eq!(names(folder.path()), [format!("{checkpoint}.memory.part")]);
        FileMemoryStates.remove(folder.path(), checkpoint.into()).await.unwrap();
        assert!(names(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn damage_that_can_be_seen_at_once_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = CheckpointId::generate();
        write(FileMemoryStates.begin(folder.path(), checkpoint.into()).await.unwrap(), &stream::example(1));
        let state = FileMemoryStates.seal(folder.path(), checkpoint.into(), "7.2.22").await.unwrap();
        let problem = || async {
            match FileMemoryStates.open(&state).await {
                Err(MemoryError::Damaged { problem, .. }) => problem,
                other => panic!("{other:?}"),
            }
        };
        let mut bytes = fs::read(&state.path).unwrap();
        bytes[0] = 0;
        fs::write(&state.path, &bytes).unwrap();
        assert!(problem().await.contains("begin"));
        fs::write(&state.path, &bytes[1..]).unwrap();
        assert!(problem().await.contains("bytes"));
        fs::remove_file(&state.path).unwrap();
        assert_eq!(problem().await, "missing");
    }

    #[tokio::test]
    async fn a_folder_is_made_where_it_is_missing_and_one_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("not/there/yet");
        FileMemoryStates.begin(&location, CheckpointId::generate().into()).await.unwrap();
        assert_eq!(fs::metadata(&location).unwrap().permissions().mode() & 0o777, 0o700);

        let file = folder.path().join("file");
        fs::write(&file, b"in the way").unwrap();
        let error = FileMemoryStates.begin(&file.join("below"), CheckpointId::generate().into()).await.unwrap_err();
        assert!(matches!(&error, MemoryError::Io { what, .. } if what.contains("file/below")), "{error}");
    }

    #[tokio::test]
    async fn a_state_that_is_kept_twice_is_removed_once_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (saved, checkpoint) = (SavedStateId::generate(), CheckpointId::generate());
        let bytes = stream::example(20);
        write(FileMemoryStates.begin(folder.path(), saved.into()).await.unwrap(), &bytes);
        let state = FileMemoryStates.seal(folder.path(), saved.into(), "7.2.22").await.unwrap();
        assert_eq!(names(folder.path()), [format!("{saved}.saved")]);

        let other = folder.path().join("elsewhere");
        for _ in 0..2 {
            let kept = FileMemoryStates.keep(&state, &other, checkpoint.into()).await.unwrap();
            assert_eq!((kept.bytes, &kept.blake3), (state.bytes, &state.blake3));
            assert_eq!(names(&other), [format!("{checkpoint}.memory")]);
        }
        FileMemoryStates.remove(folder.path(), saved.into()).await.unwrap();
        assert!(fs::read(other.join(format!("{checkpoint}.memory"))).unwrap() == bytes);
        let gone = FileMemoryStates.keep(&state, &other, saved.into()).await.unwrap_err();
        assert!(matches!(&gone, MemoryError::Damaged { problem, .. } if problem == "missing"), "{gone}");
    }
}
