//! Room on file systems.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::{fs::statvfs, process::geteuid};
use stillpoint_engine::ports::{ImageError, Space};

use super::files::io_error;

/// Room where `path` lies or would lie.
pub(super) fn space(path: &Path) -> Result<Space, ImageError> {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let failed = |error: &std::io::Error| io_error(there, "looking at the file system of", error);
    let there = fs::canonicalize(there).map_err(|error| failed(&error))?;
    let device = fs::metadata(&there).map_err(|error| failed(&error))?.dev();
    let told = statvfs(&there).map_err(|error| failed(&error.into()))?;
    // What a file system holds back for root is there for us, and for QEMU, if we are root.
    let blocks = if geteuid().is_root() { told.f_bfree } else { told.f_bavail };
    let free = blocks.saturating_mul(told.f_frsize);
    Ok(Space { file_system: device, mounted_on: mounted_on(&there, device).to_owned(), free })
}

/// The highest folder above `path` that is still on its file system.
fn mounted_on(path: &Path, device: u64) -> &Path {
    let same = |folder: &&Path| fs::metadata(folder).is_ok_and(|folder| folder.dev() == device);
    path.ancestors().take_while(same).last().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_yet_lies_where_its_folder_lies() {
        let folder = tempfile::tempdir().unwrap();
        let there = space(folder.path()).unwrap();
        let not_there = space(&folder.path().join("a/b/c.qcow2")).unwrap();
        assert_eq!((there.file_system, &there.mounted_on), (not_there.file_system, &not_there.mounted_on));
        assert!(there.free > 0 && folder.path().canonicalize().unwrap().starts_with(&there.mounted_on), "{there:?}");
    }
}
