//! What lies under a block device, as `/sys` shows it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::mount_table::{Device, Mount, mount_of};

/// Partitions on mappings on loops on …: further than this nobody stacks.
const MAX_DEPTH: usize = 12;

/// The devices whose file systems hold the files that this device is made of.
#[must_use]
pub fn carriers(device: Device, mounts: &[Mount]) -> Vec<Device> {
    let block = if device.major == 0 { block_device_of(device, mounts) } else { Some(device) };
    let mut files = Vec::new();
    if let Some(block) = block {
        backing_files(block, MAX_DEPTH, &mut files);
    }
    files.iter().filter_map(|file| mount_of(file, mounts)).map(|mount| mount.device).collect()
}

/// File systems that span devices have a number of their own: their source names one of the devices.
fn block_device_of(device: Device, mounts: &[Mount]) -> Option<Device> {
    let mount = mounts.iter().find(|mount| mount.device == device && mount.source.starts_with("/dev/"))?;
    let numbers = rustix::fs::stat(Path::new(&mount.source)).ok()?.st_rdev;
    Some(Device { major: rustix::fs::major(numbers), minor: rustix::fs::minor(numbers) })
}

fn backing_files(device: Device, left: usize, found: &mut Vec<PathBuf>) {
    let Ok(node) = fs::canonicalize(format!("/sys/dev/block/{device}")) else { return };
    if left == 0 {
        return;
    }
    if let Ok(file) = fs::read_to_string(node.join("loop/backing_file")) {
        found.push(PathBuf::from(file.trim_end_matches('\n')));
    }
    if node.join("partition").exists()
        && let Some(whole) = node.parent().and_then(number)
    {
        backing_files(whole, left - 1, found);
    }
    for lower in fs::read_dir(node.join("slaves")).into_iter().flatten().flatten() {
        if let Some(lower) = number(&lower.path()) {
            backing_files(lower, left - 1, found);
        }
    }
}

fn number(node: &Path) -> Option<Device> {
    fs::read_to_string(node.join("dev")).ok()?.parse().ok()
}
