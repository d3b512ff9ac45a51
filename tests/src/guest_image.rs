//! The guest's files, and a set of them that one test may use up.

use std::path::{Path, PathBuf};
use std::{env, io};

use tempfile::TempDir;

/// The environment variable that names the folder of the guest's files; without it, it is looked for in the
/// target folder of the running program.
pub const FOLDER_VARIABLE: &str = "STILLPOINT_GUEST_DIR";

/// What `cargo verify guest` (or `cargo run -p stillpoint-runner -- guest`) has made. Never written to by tests.
#[derive(Debug, Clone)]
pub struct GuestFiles {
    /// For QEMU's `-kernel`.
    pub kernel: PathBuf,
    /// For QEMU's `-initrd`: the guest's whole root, with the agent in it.
    pub initrd: PathBuf,
    /// The same root with an agent that makes trouble on request.
    pub initrd_with_faults: PathBuf,
    /// Template of a data disk: qcow2, an empty ext4 that the guest mounts at `/data`.
    pub data_disk: PathBuf,
    /// The same, with an ext4 in a file on it that the guest mounts at `/inner` through a loop device.
    pub stacked_disk: PathBuf,
    /// Real database servers, which the guest mounts read-only at `/servers`.
    pub servers_disk: PathBuf,
}

impl GuestFiles {
    /// Finds the files.
    ///
    /// # Errors
    /// If they were not made; the message names the command that makes them.
    pub fn find() -> io::Result<Self> {
        let folder = match env::var_os(FOLDER_VARIABLE) {
            Some(folder) => PathBuf::from(folder),
            None => beside_this_program()?,
        };
        let files = Self {
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
            initrd_with_faults: folder.join("initrd-faults"),
            data_disk: folder.join("data.qcow2"),
            stacked_disk: folder.join("stacked.qcow2"),
            servers_disk: folder.join("servers.qcow2"),
        };
        let roots = [&files.initrd, &files.initrd_with_faults];
        let all = [&files.kernel, &files.data_disk, &files.stacked_disk].into_iter().chain(roots);
        if let Some(path) = all.into_iter().find(|path| !path.is_file()) {
            return Err(not_made(path));
        }
        Ok(files)
    }
}

fn beside_this_program() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let folders = program.ancestors().map(|folder| folder.join("guest-image"));
    folders.into_iter().find(|folder| folder.is_dir()).ok_or_else(|| not_made(&program.with_file_name("guest-image")))
}

fn not_made(path: &Path) -> io::Error {
    let text = format!("{} is missing: run `cargo run -p stillpoint-runner -- guest` first", path.display());
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// What the guest's kernel is told when nothing else is wanted: its console is the first serial port.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// Files for one guest, in a folder of its own that goes when this goes, except after a failed test or with
/// `STILLPOINT_KEEP=1` in the environment.
#[derive(Debug)]
pub struct GuestSet {
    folder: Option<TempDir>,
    path: PathBuf,
    /// The files of which this is a set.
    pub files: GuestFiles,
    /// A data disk of this guest's own.
    pub data_disk: PathBuf,
}

impl GuestSet {
    /// A fresh set with an ordinary data disk.
    ///
    /// # Errors
    /// If the guest's files were not made, or cannot be copied.
    pub fn new() -> io::Result<Self> {
        let files = GuestFiles::find()?;
        let template = files.data_disk.clone();
        Self::with_disk(files, &template)
    }

    /// A fresh set whose data disk carries a second, loop-mounted file system.
    ///
    /// # Errors
    /// As for [`GuestSet::new`].
    pub fn stacked() -> io::Result<Self> {
        let files = GuestFiles::find()?;
        let template = files.stacked_disk.clone();
        Self::with_disk(files, &template)
    }

    /// A fresh set with an ordinary data disk, whose agent makes trouble when `/run/stillpoint.fault` in the guest says
    /// so.
    ///
    /// # Errors
    /// As for [`GuestSet::new`].
    pub fn with_faults() -> io::Result<Self> {
        let mut set = Self::new()?;
        set.files.initrd = set.files.initrd_with_faults.clone();
        Ok(set)
    }

    fn with_disk(files: GuestFiles, template: &Path) -> io::Result<Self> {
        let folder = short_folder()?;
        let path = folder.path().to_owned();
        let data_disk = path.join("data.qcow2");
        std::fs::copy(template, &data_disk)?;
        Ok(Self { folder: Some(folder), path, files, data_disk })
    }

    /// Another data disk with the content of the template, in the same folder.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn another_disk(&self, name: &str) -> io::Result<PathBuf> {
        let disk = self.path.join(name);
        std::fs::copy(&self.files.data_disk, &disk)?;
        Ok(disk)
    }

    /// A disk with database servers, in the same folder; for a VM's second disk.
    ///
    /// # Errors
    /// If it was not made, or cannot be copied.
    pub fn servers_disk(&self) -> io::Result<PathBuf> {
        if !self.files.servers_disk.is_file() {
            return Err(not_made(&self.files.servers_disk));
        }
        let disk = self.path.join("servers.qcow2");
        std::fs::copy(&self.files.servers_disk, &disk)?;
        Ok(disk)
    }

    /// The set's folder. Its path is short: sockets below it stay within the 108 bytes a unix socket's path may have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A folder with a short name; not in a long `TMPDIR`.
fn short_folder() -> io::Result<TempDir> {
    let usual = env::temp_dir();
    let parent = if usual.as_os_str().len() <= 30 { usual } else { PathBuf::from("/tmp") };
    tempfile::Builder::new().prefix("sp-").rand_bytes(5).tempdir_in(parent)
}

impl Drop for GuestSet {
    fn drop(&mut self) {
        let keep = std::thread::panicking() || env::var_os("STILLPOINT_KEEP").is_some_and(|value| value == "1");
        if let (true, Some(folder)) = (keep, self.folder.take()) {
            eprintln!("the guest's files are kept in {}", folder.keep().display());
        }
    }
}
