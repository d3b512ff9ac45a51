//! A small file system of its own, to be filled: ext4 in a file, through a loop device. Needs root.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// A mounted file system, unmounted when it goes.
#[derive(Debug)]
pub struct SmallFs {
    path: PathBuf,
}

impl SmallFs {
    /// Makes a file system of so many MiB, and mounts it on a new folder of this name.
    ///
    /// # Errors
    /// If it cannot be made or mounted: only root may.
    pub fn new(folder: &Path, mib: u64) -> io::Result<Self> {
        let image = folder.with_extension("ext4");
        File::create(&image)?.set_len(mib << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"]).arg(&image))?;
        fs::create_dir(folder)?;
        run(Command::new("mount").args(["-o", "loop"]).args([&image, folder]))?;
        Ok(Self { path: folder.canonicalize()? })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let told = statvfs(&self.path)?;
        Ok(told.f_bfree * told.f_frsize)
    }

    /// Takes all space but so much.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn fill_but(&self, leave: u64) -> io::Result<()> {
        let ballast = File::options().create(true).append(true).open(self.ballast())?;
        let mut step = 1 << 20;
        // The file system needs some blocks for the ballast itself, so that it is taken in steps.
        while step >= 4096 {
            let fits = self.free_bytes()? >= leave + step;
            let length = ballast.metadata()?.len();
            match if fits { fallocate(&ballast, FallocateFlags::empty(), length, step) } else { Ok(()) } {
                Ok(()) if fits => {}
                Ok(()) => step /= 2,
                Err(error) if io::Error::from(error).kind() == ErrorKind::StorageFull => step /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        ballast.sync_all()
    }

    /// Takes all there is, to the last byte that can be had.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn fill(&self) -> io::Result<()> {
        self.fill_but(0)
    }

    /// Gives back what was taken.
    ///
    /// # Errors
    /// If nothing was.
    pub fn give_back(&self) -> io::Result<()> {
        fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        // Lazily: a process may be on its way out still.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    let said = || format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(io::Error::other(said())) }
}
