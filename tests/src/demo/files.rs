//! What is in folders.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Files of more than this are images and memory states, not logs.
const LONGEST_LOG: u64 = 16 * 1024 * 1024;

/// Paths of all files below a folder, relative to it, in order.
pub(super) fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(folder, &mut found)?;
    let mut found: Vec<_> = found.iter().filter_map(|path| path.strip_prefix(folder).ok()).map(PathBuf::from).collect();
    found.sort();
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// `a, b, c`; `nothing`
pub(super) fn listed(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "nothing".to_owned();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Copies the logs below a folder to one that stays.
pub(super) fn keep_logs(folder: &Path) -> io::Result<PathBuf> {
    let kept = tempfile::Builder::new().prefix("stillpoint-demo-").tempdir()?.keep();
    for path in below(folder)? {
        let about = fs::metadata(folder.join(&path))?;
        if is_log(&path) && about.is_file() && about.len() <= LONGEST_LOG {
            fs::copy(folder.join(&path), kept.join(path.display().to_string().replace('/', "-")))?;
        }
    }
    Ok(kept)
}

fn is_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["log", "console", "stderr"].iter().any(|ending| name.ends_with(ending))
}
