//! Export folders on a file system of the host.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use stillpoint_common::{MemoryFormat, OperationId};
use stillpoint_engine::{
    ExportedFile,
    ports::{ExportError, ExportTargets, MemorySource, ProgressSink},
};

use crate::copy::{copy_hashed, hash_and_sync};

/// Name of the file that makes a folder an export.
pub(crate) const MANIFEST: &str = "manifest.json";
/// Version of the manifest's format.
const FORMAT: u32 = 1;

/// Exports to folders of the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct FolderExports;

#[async_trait]
impl ExportTargets for FolderExports {
    fn staging_folder(&self, target: &Path, operation: OperationId) -> PathBuf {
        staging_folder(target, operation)
    }

    async fn stage(&self, target: &Path, operation: OperationId) -> Result<PathBuf, ExportError> {
        let (target, staged) = (target.to_owned(), staging_folder(target, operation));
        blocking(move || stage(&target, staged)).await
    }

    async fn copy_memory(
        &self,
        source: MemorySource<'_>,
        to: &Path,
        progress: &ProgressSink,
    ) -> Result<(), ExportError> {
        let MemorySource { state, stream, bytes } = source;
        let (state, to, progress) = (state.clone(), to.to_owned(), progress.clone());
        blocking(move || {
            let hash = copy_hashed(stream.into(), &to, bytes, &progress)
                .map_err(|error| failed("copying memory", &to, &error))?;
            let is_what_was_captured = match state.format {
                MemoryFormat::Stream => hash == state.blake3,
                // What the hash is of is the manifest, and all pages have been checked against that.
                MemoryFormat::Pages => true,
            };
            if is_what_was_captured {
                return Ok(());
            }
            let message = "its content is not what was captured".to_owned();
            Err(ExportError::SourceDamaged { path: state.path, message })
        })
        .await
    }

    async fn write(&self, bytes: &[u8], to: &Path) -> Result<(), ExportError> {
        let (bytes, to) = (bytes.to_vec(), to.to_owned());
        blocking(move || {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&to);
            let written = file.and_then(|mut file| file.write_all(&bytes));
            written.map_err(|error| failed("writing", &to, &error))
        })
        .await
    }

    async fn seal(&self, staged: &Path, target: &Path, describe: Value) -> Result<Vec<ExportedFile>, ExportError> {
        let (staged, target) = (staged.to_owned(), target.to_owned());
        blocking(move || seal(&staged, &target, describe)).await
    }

    async fn is_sealed(&self, target: &Path, operation: OperationId) -> Result<bool, ExportError> {
        let target = target.to_owned();
        blocking(move || is_sealed(&target, operation)).await
    }

    async fn discard(&self, folder: &Path) -> Result<(), ExportError> {
        let folder = folder.to_owned();
        blocking(move || match fs::remove_dir_all(&folder) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("removing", &folder, &error)),
        })
        .await
    }

    async fn files(&self, target: &Path) -> Result<Vec<ExportedFile>, ExportError> {
        let target = target.to_owned();
        blocking(move || read_manifest(&target)).await
    }
}

/// The temporary folder of an operation beside its target.
pub(crate) fn staging_folder(target: &Path, operation: OperationId) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{operation}.partial"))
}

fn stage(target: &Path, staged: PathBuf) -> Result<PathBuf, ExportError> {
    if target.symlink_metadata().is_ok() {
        return Err(ExportError::TargetExists { path: target.to_owned() });
    }
    let unusable = |message: String| ExportError::TargetUnusable { path: target.to_owned(), message };
    if target.file_name().is_none() {
        return Err(unusable("it has no name".to_owned()));
    }
    match fs::create_dir(&staged) {
        Ok(()) => Ok(staged),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(staged),
        Err(error) => Err(unusable(error.to_string())),
    }
}

fn seal(staged: &Path, target: &Path, describe: Value) -> Result<Vec<ExportedFile>, ExportError> {
    if !staged.exists() && target.join(MANIFEST).exists() {
        return read_manifest(target);
    }
    let mut files = Vec::new();
    let entries = fs::read_dir(staged).map_err(|error| failed("reading", staged, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| failed("reading", staged, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == MANIFEST {
            continue;
        }
        let (blake3, bytes) = hash_and_sync(&path).map_err(|error| failed("hashing", &path, &error))?;
        files.push(ExportedFile { path: name, bytes, blake3 });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    write_manifest(staged, &files, describe)?;
    fs::rename(staged, target).map_err(|error| failed("renaming", staged, &error))?;
    sync_folder(target.parent().unwrap_or(target))?;
    read_manifest(target)
}

fn is_sealed(target: &Path, operation: OperationId) -> Result<bool, ExportError> {
    let path = target.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(failed("reading", &path, &error)),
    };
    // A manifest of somebody else is none of ours, whether it makes sense or not.
    let manifest: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let is_ours = manifest["export"]["operation"] == operation.to_string();
    if is_ours {
        sync_folder(target.parent().unwrap_or(target))?;
    }
    Ok(is_ours)
}

fn write_manifest(staged: &Path, files: &[ExportedFile], describe: Value) -> Result<(), ExportError> {
    let manifest = json!({ "format": FORMAT, "export": describe, "files": files });
    let path = staged.join(MANIFEST);
    let failed = |error: &io::Error| failed("writing", &path, error);
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|error| failed(&error.into()))?;
    fs::write(&path, bytes).map_err(|error| failed(&error))?;
    fs::File::open(&path).and_then(|file| file.sync_all()).map_err(|error| failed(&error))?;
    sync_folder(staged)
}

fn read_manifest(target: &Path) -> Result<Vec<ExportedFile>, ExportError> {
    let path = target.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|error| failed("reading", &path, &error))?;
    let damaged = |message: String| ExportError::SourceDamaged { path: path.clone(), message };
    let manifest: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let files = manifest.get("files").cloned().ok_or_else(|| damaged("it lists no files".to_owned()))?;
    let mut files: Vec<ExportedFile> = serde_json::from_value(files).map_err(|error| damaged(error.to_string()))?;
    files.push(ExportedFile { path: MANIFEST.to_owned(), bytes: bytes.len() as u64, blake3: String::new() });
    Ok(files)
}

pub(crate) fn sync_folder(folder: &Path) -> Result<(), ExportError> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("syncing", folder, &error))
}

pub(crate) fn failed(what: &str, path: &Path, error: &io::Error) -> ExportError {
    if error.kind() == io::ErrorKind::StorageFull {
        return ExportError::NoSpace { path: path.to_owned() };
    }
    ExportError::Failed { what: format!("{what} {}", path.display()), message: error.to_string() }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    let ended =
        |error: tokio::task::JoinError| ExportError::Failed { what: "export".to_owned(), message: error.to_string() };
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stillpoint_common::MemoryState;

    use super::*;

    #[tokio::test]
    async fn nothing_stands_under_the_targets_name_before_everything_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (target, operation) = (dir.path().join("export"), OperationId::generate());
        let staged = FolderExports.stage(&target, operation).await.unwrap();
        assert_eq!(FolderExports.stage(&target, operation).await.unwrap(), staged);
        fs::write(staged.join("disk.raw"), b"data").unwrap();
        assert!(!target.exists());
        let files = FolderExports.seal(&staged, &target, json!({ "vm": "web" })).await.unwrap();
        assert_eq!(files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["disk.raw", MANIFEST]);
        assert_eq!((files[0].bytes, &files[0].blake3), (4, &blake3::hash(b"data").to_hex().to_string()));
        assert!(!staged.exists());
        assert_eq!(FolderExports.seal(&staged, &target, json!({})).await.unwrap(), files);
        assert_eq!(FolderExports.files(&target).await.unwrap(), files);
    }

    #[tokio::test]
    async fn a_finished_export_is_known_by_the_operation_that_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let (target, operation) = (dir.path().join("export"), OperationId::generate());
        assert!(!FolderExports.is_sealed(&target, operation).await.unwrap());
        let staged = FolderExports.stage(&target, operation).await.unwrap();
        assert!(!FolderExports.is_sealed(&target, operation).await.unwrap());
        FolderExports.seal(&staged, &target, json!({ "operation": operation })).await.unwrap();
        assert!(FolderExports.is_sealed(&target, operation).await.unwrap());
        assert!(!FolderExports.is_sealed(&target, OperationId::generate()).await.unwrap());
        fs::write(target.join(MANIFEST), "something else").unwrap();
        assert!(!FolderExports.is_sealed(&target, operation).await.unwrap());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(!FolderExports.is_sealed(&dir.path().join("file"), operation).await.unwrap());
    }

    #[tokio::test]
    async fn a_target_that_exists_or_has_no_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let operation = OperationId::generate();
        let exists = FolderExports.stage(dir.path(), operation).await.unwrap_err();
        assert!(matches!(exists, ExportError::TargetExists { .. }), "{exists}");
        let unusable = FolderExports.stage(&dir.path().join("no/such"), operation).await.unwrap_err();
        assert!(matches!(unusable, ExportError::TargetUnusable { .. }), "{unusable}");
    }

    #[tokio::test]
    async fn discarding_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let staged = FolderExports.stage(&dir.path().join("export"), OperationId::generate()).await.unwrap();
        FolderExports.discard(&staged).await.unwrap();
        FolderExports.discard(&staged).await.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn memory_that_is_not_what_was_captured_is_not_exported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        fs::write(&path, b"changed").unwrap();
        let blake3 = blake3::hash(b"captured").to_hex().to_string();
        let stream = fs::File::open(&path).unwrap().into();
        let qemu_version = String::new();
        let state = MemoryState { path, bytes: 7, blake3, qemu_version, format: MemoryFormat::Stream };
        let progress: ProgressSink = Arc::new(|_| {});
        let source = MemorySource { state: &state, stream, bytes: 7 };
        let error = FolderExports.copy_memory(source, &dir.path().join("copy"), &progress).await.unwrap_err();
        assert!(matches!(error, ExportError::SourceDamaged { .. }), "{error}");
    }
}
