//! A folder of backups of a VM: a full one, and what has changed since, time and again.
//!
//! ```text
//!  FOLDER/0001/  data.blocks … manifest.json     a full backup: all that is not zero
//!         0002/  data.blocks … manifest.json     what has changed since 0001
//!         .0003.partial/                         what a run that was cut off has left; the next one removes it
//!         .lock                                  held by the run that is at work
//! ```
//! A backup is whole when its folder has its name: its files and then its manifest are written and synced under another
//! name, and the folder is renamed. The manifest names the backup that it builds on by number and hash.

pub(crate) mod blocks;
mod manifest;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

pub(crate) use self::manifest::{BackedUpDisk, Kind, Manifest, Previous, file_of};
use crate::CliError;

const MANIFEST: &str = "manifest.json";
const POINT: &str = "reference-point";
const SESSION: &str = "session";
/// Held by the run that is at work.
const LOCK: &str = ".lock";

/// A folder of backups.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    folder: PathBuf,
}

/// A backup that is being written.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) folder: PathBuf,
    pub(crate) number: u32,
}

pub(crate) fn failed(path: &Path) -> impl Fn(io::Error) -> CliError {
    move |source| CliError::Io { what: path.display().to_string(), source }
}

/// Something in the folder is not as it was written.
pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> CliError {
    let source = io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    CliError::Io { what: format!("{} is damaged", path.display()), source }
}

impl Repository {
    /// The folder, which is made if it is not there.
    pub(crate) fn open_or_make(folder: &Path) -> Result<Self, CliError> {
        fs::create_dir_all(folder).map_err(failed(folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// A folder that is there.
    pub(crate) fn open(folder: &Path) -> Result<Self, CliError> {
        let found = Self { folder: folder.to_owned() };
        if found.numbers()?.is_empty() {
            let advice = "give the folder that `stillpoint backup run VM --to FOLDER` has written";
            return Err(CliError::usage(format!("there is no backup in {}", folder.display()), advice));
        }
        Ok(found)
    }

    /// Keeps other runs out of the folder, until the answer is dropped.
    pub(crate) fn lock(&self) -> Result<File, CliError> {
        let path = self.folder.join(LOCK);
        let file = File::create(&path).map_err(failed(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                let advice = "wait until it has ended, or give another folder";
                Err(CliError::usage(format!("another backup is being written to {}", self.folder.display()), advice))
            }
            Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
        }
    }

    pub(crate) fn backup(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number:04}"))
    }

    /// Numbers of all backups, in order.
    pub(crate) fn numbers(&self) -> Result<Vec<u32>, CliError> {
        let mut numbers: Vec<u32> = self.names()?.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn names(&self) -> Result<Vec<String>, CliError> {
        let entries = fs::read_dir(&self.folder).map_err(failed(&self.folder))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// What runs that were cut off have left, with the session of each.
    pub(crate) fn partial(&self) -> Result<Vec<(PathBuf, Option<String>)>, CliError> {
        let names = self.names()?.into_iter().filter(|name| name.starts_with('.') && name.ends_with(".partial"));
        let with_session = |name| {
            let folder = self.folder.join::<String>(name);
            let session = fs::read_to_string(folder.join(SESSION)).ok();
            (folder, session)
        };
        Ok(names.map(with_session).collect())
    }

    fn partial_folder(&self, number: u32) -> PathBuf {
        self.folder.join(format!(".{number:04}.partial"))
    }

    /// Removes what was written of a backup. Nothing is fine.
    pub(crate) fn remove_partial(&self, number: u32) -> Result<(), CliError> {
        let folder = self.partial_folder(number);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&folder)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn begin(&self, number: u32, session: &str) -> Result<Partial, CliError> {
        let folder = self.partial_folder(number);
        // For the user alone: disks hold what others must not read.
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(failed(&folder))?;
        write_whole(&folder, SESSION, session.as_bytes())?;
        Ok(Partial { folder, number })
    }

    /// Makes a backup whole: durable on return.
    pub(crate) fn seal(&self, partial: &Partial, manifest: &Manifest) -> Result<(), CliError> {
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| damaged(&partial.folder, error))?;
        write_whole(&partial.folder, MANIFEST, &text)?;
        let target = self.backup(partial.number);
        fs::rename(&partial.folder, &target).map_err(failed(&target))?;
        sync_folder(&self.folder)
    }

    pub(crate) fn manifest(&self, number: u32) -> Result<(Manifest, String), CliError> {
        let path = self.backup(number).join(MANIFEST);
        let text = fs::read(&path).map_err(failed(&path))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(&path, error))?;
        manifest.check(number).map_err(|problem| damaged(&path, problem))?;
        Ok((manifest, blake3::hash(&text).to_hex().to_string()))
    }

    /// The backups that one consists of: a full one first, itself last. Each builds on the very one before it.
    pub(crate) fn chain(&self, number: u32) -> Result<Vec<Manifest>, CliError> {
        let (manifest, _) = self.manifest(number)?;
        let mut chain = vec![manifest];
        while let Some(Previous { number, blake3 }) = chain[0].previous.clone() {
            let (manifest, hash) = self.manifest(number)?;
            if hash != blake3 {
                return Err(damaged(&self.backup(number).join(MANIFEST), "another backup builds on it as it was"));
            }
            chain.insert(0, manifest);
        }
        Ok(chain)
    }

    /// Makes sure that a backup can be built upon: all that it consists of is there, and as long as it was.
    pub(crate) fn is_complete(&self, number: u32) -> Result<(), CliError> {
        for manifest in self.chain(number)? {
            for disk in manifest.disks {
                let path = self.backup(manifest.number).join(disk.file);
                if fs::metadata(&path).map_err(failed(&path))?.len() != disk.bytes {
                    return Err(damaged(&path, "it is not as long as it was"));
                }
            }
        }
        Ok(())
    }

    /// The reference point that a backup has left, once it is known.
    pub(crate) fn point(&self, number: u32) -> Option<String> {
        fs::read_to_string(self.backup(number).join(POINT)).ok().filter(|point| !point.is_empty())
    }

    pub(crate) fn set_point(&self, number: u32, point: &str) -> Result<(), CliError> {
        write_whole(&self.backup(number), POINT, point.as_bytes())
    }
}

/// Four digits or more, as a backup is called.
fn number(name: &str) -> Option<u32> {
    let digits = name.len() >= 4 && name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|_| digits)
}

/// Written under another name, synced, renamed: there as a whole, or not at all.
fn write_whole(folder: &Path, name: &str, content: &[u8]) -> Result<(), CliError> {
    let (path, new) = (folder.join(name), folder.join(format!(".{name}.new")));
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(failed(&path))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), CliError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}
