//! Exports as they are read, and the folders of imported VMs.
//!
//! ```text
//!  claim:      .<name>.<operation>.partial/ with the mark in it, renamed to <name>/; nothing that exists is taken
//!  give back:  <name>/ with this operation's mark is renamed back, then removed
//!  keep:       the mark is removed
//! ```
//! Whoever made an export is not trusted: a link in its place, or anything but a plain file, is damage.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use serde_json::Value;
use stillpoint_common::{OperationId, Progress};
use stillpoint_engine::{
    ExportedFile,
    ports::{Depth, ExportError, ExportSources, FileDamage, ProgressSink},
};

use crate::{
    copy::{hash, pump},
    folder::{FolderExports, MANIFEST, blocking, failed, staging_folder, sync_folder},
};

/// Name of the file that says which operation has made a folder.
const MARK: &str = ".importing";
/// What the manifest is called once the files are those of a VM.
const RETIRED: &str = "manifest.registered.json";
/// The largest manifest that is read: hundreds of thousands of files.
const MANIFEST_LIMIT: u64 = 64 << 20;

#[async_trait]
impl ExportSources for FolderExports {
    async fn manifest(&self, folder: &Path) -> Result<Value, ExportError> {
        let folder = folder.to_owned();
        blocking(move || manifest(&folder)).await
    }

    async fn compare(
        &self,
        folder: &Path,
        files: &[ExportedFile],
        depth: Depth,
        progress: &ProgressSink,
    ) -> Result<Vec<FileDamage>, ExportError> {
        let (folder, files, progress) = (folder.to_owned(), files.to_vec(), progress.clone());
        let stop = StopWhenDropped::default();
        let stopped = stop.0.clone();
        let answer = blocking(move || compare(&folder, &files, depth, &progress, &stopped)).await;
        drop(stop);
        answer
    }

    async fn read(&self, folder: &Path, file: &str, at_most: u64) -> Result<Vec<u8>, ExportError> {
        let path = folder.join(file);
        blocking(move || read(&path, at_most)).await
    }

    async fn send(&self, folder: &Path, file: &str, sink: OwnedFd, progress: &ProgressSink) -> Result<(), ExportError> {
        let (path, progress) = (folder.join(file), progress.clone());
        let stop = StopWhenDropped::default();
        let stopped = stop.0.clone();
        let answer =
            blocking(move || send(&path, sink, &progress, &stopped).map_err(|error| failed("copying", &path, &error)))
                .await;
        drop(stop);
        answer
    }

    async fn claim(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        let target = target.to_owned();
        blocking(move || claim(&target, operation)).await
    }

    async fn give_back(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        let target = target.to_owned();
        blocking(move || give_back(&target, operation).map_err(|error| failed("removing", &target, &error))).await
    }

    async fn keep(&self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        let target = target.to_owned();
        blocking(move || {
            if is_marked(&target, operation) {
                fs::remove_file(target.join(MARK)).map_err(|error| failed("finishing", &target, &error))?;
                sync_folder(&target)?;
            }
            Ok(())
        })
        .await
    }

    async fn retire(&self, folder: &Path) -> Result<(), ExportError> {
        let folder = folder.to_owned();
        blocking(move || match fs::rename(folder.join(MANIFEST), folder.join(RETIRED)) {
            Ok(()) => sync_folder(&folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("putting the manifest aside in", &folder, &error)),
        })
        .await
    }
}

/// Stops the work of another thread when nobody waits for it any more.
#[derive(Default)]
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn manifest(folder: &Path) -> Result<Value, ExportError> {
    let no_export = |message: String| ExportError::NotAnExport { path: folder.to_owned(), message };
    if !folder.is_dir() {
        return Err(no_export("there is no such folder".to_owned()));
    }
    if folder.join(RETIRED).exists() && !folder.join(MANIFEST).exists() {
        return Err(no_export("its files have become those of a VM, which writes to them".to_owned()));
    }
    let bytes = match read(&folder.join(MANIFEST), MANIFEST_LIMIT) {
        Ok(bytes) => bytes,
        Err(ExportError::ExportDamaged { message, .. }) => {
            return Err(no_export(format!("its {MANIFEST}, which is written last, {message}")));
        }
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes).map_err(|error| no_export(format!("its {MANIFEST} is no JSON: {error}")))
}

/// Opens a plain file and says how large it is; what is wrong with it, in words, if it is none.
fn plain(path: &Path) -> io::Result<Result<(File, u64), String>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err("does not exist".to_owned())),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Ok(Err("is a link, not a file".to_owned()));
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    Ok(if metadata.is_file() { Ok((file, metadata.len())) } else { Err("is no plain file".to_owned()) })
}

fn read(path: &Path, at_most: u64) -> Result<Vec<u8>, ExportError> {
    let damaged = |message: String| ExportError::ExportDamaged { path: path.to_owned(), message };
    let opened = plain(path).map_err(|error| failed("reading", path, &error))?;
    let (file, bytes) = opened.map_err(damaged)?;
    if bytes > at_most {
        return Err(damaged(format!("has {bytes} bytes, and {at_most} are the most it can have")));
    }
    let mut content = Vec::new();
    file.take(at_most).read_to_end(&mut content).map_err(|error| failed("reading", path, &error))?;
    Ok(content)
}

fn compare(
    folder: &Path,
    files: &[ExportedFile],
    depth: Depth,
    progress: &ProgressSink,
    stopped: &AtomicBool,
) -> Result<Vec<FileDamage>, ExportError> {
    let total = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
    let (mut damaged, mut done) = (Vec::new(), 0);
    for file in files {
        let path = folder.join(&file.path);
        let before = done;
        let mut read = |bytes: u64| {
            done += bytes;
            progress(Progress { done: done.min(total), total });
            !stopped.load(Ordering::Relaxed)
        };
        let wrong = differs(&path, file, depth, &mut read).map_err(|error| failed("reading", &path, &error))?;
        damaged.extend(wrong.map(|problem| FileDamage { path: file.path.clone(), problem }));
        done = before.saturating_add(file.bytes);
    }
    Ok(damaged)
}

/// What is wrong with a file, in words. `read` is told of all that is read, and says whether to go on.
fn differs(
    path: &Path,
    file: &ExportedFile,
    depth: Depth,
    read: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Option<String>> {
    let (mut opened, bytes) = match plain(path)? {
        Ok(opened) => opened,
        Err(wrong) => return Ok(Some(wrong)),
    };
    if bytes != file.bytes {
        return Ok(Some(format!("has {bytes} bytes, and had {} when it was exported", file.bytes)));
    }
    if depth == Depth::Sizes {
        return Ok(None);
    }
    let go_on = |bytes| if read(bytes) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) };
    let (blake3, _) = hash(&mut opened, go_on)?;
    Ok((blake3 != file.blake3).then(|| "has other bytes than when it was exported".to_owned()))
}

fn send(path: &Path, sink: OwnedFd, progress: &ProgressSink, stopped: &AtomicBool) -> io::Result<()> {
    let (mut source, total) = plain(path)?.map_err(io::Error::other)?;
    let (mut sink, mut done) = (File::from(sink), 0);
    pump(&mut source, |chunk| {
        if stopped.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        sink.write_all(chunk)?;
        done += chunk.len() as u64;
        progress(Progress { done: done.min(total), total });
        Ok(())
    })?;
    Ok(())
}

fn claim(target: &Path, operation: OperationId) -> Result<(), ExportError> {
    let unusable = |message: String| ExportError::TargetUnusable { path: target.to_owned(), message };
    if target.file_name().is_none() {
        return Err(unusable("it has no name".to_owned()));
    }
    if is_marked(target, operation) {
        return Ok(());
    }
    if target.symlink_metadata().is_ok() {
        return Err(ExportError::TargetExists { path: target.to_owned() });
    }
    let staged = staging_folder(target, operation);
    match fs::DirBuilder::new().mode(0o700).create(&staged) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unusable(error.to_string())),
    }
    mark(&staged, operation).map_err(|error| failed("making", target, &error))?;
    match renameat_with(CWD, &staged, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => sync_folder(target.parent().unwrap_or(target)),
        Err(error) => {
            let _ = fs::remove_dir_all(&staged);
            Err(match error {
                rustix::io::Errno::EXIST => ExportError::TargetExists { path: target.to_owned() },
                error => failed("making", target, &error.into()),
            })
        }
    }
}

fn mark(folder: &Path, operation: OperationId) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(folder.join(MARK))?;
    file.write_all(operation.to_string().as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

fn is_marked(target: &Path, operation: OperationId) -> bool {
    read(&target.join(MARK), 100).is_ok_and(|mark| mark == operation.to_string().as_bytes())
}

/// Renamed first: what is left if removing is interrupted does not stand under the target's name without its mark.
fn give_back(target: &Path, operation: OperationId) -> io::Result<()> {
    let staged: PathBuf = staging_folder(target, operation);
    if is_marked(target, operation) {
        fs::rename(target, &staged)?;
    }
    match fs::remove_dir_all(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
