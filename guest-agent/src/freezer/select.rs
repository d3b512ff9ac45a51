//! Which file systems a freeze holds, and in which order. Decided from what was read; nothing here asks the kernel.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_common::{FileSystemOutcome, FileSystemResult};

use super::mount_table::{Device, Mount};

/// A file system that a freeze holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its device.
    pub device: Device,
    /// `ext4`, `xfs`, …
    pub fs_type: String,
    /// What it is mounted from.
    pub source: String,
    /// Every mount of it: number and mount point. Never empty.
    pub mounts: Vec<(u64, PathBuf)>,
}

impl Target {
    /// Where it is mounted first.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        self.mounts.first().map_or(Path::new(""), |(_, path)| path)
    }

    /// What to say of it.
    #[must_use]
    pub fn outcome(&self, result: FileSystemResult, detail: impl Into<String>, took: Duration) -> FileSystemOutcome {
        FileSystemOutcome {
            mount_point: self.mount_point().display().to_string(),
            source: self.source.clone(),
            fs_type: self.fs_type.clone(),
            result,
            detail: detail.into(),
            took,
        }
    }
}

/// What a freeze will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What will be frozen, in this order.
    pub targets: Vec<Target>,
    /// What will not, with the reason.
    pub left_out: Vec<FileSystemOutcome>,
}

impl Plan {
    /// Everything, as a host is told of it before the freeze.
    #[must_use]
    pub fn outcomes(&self) -> Vec<FileSystemOutcome> {
        let selected = |target: &Target| target.outcome(FileSystemResult::Selected, "", Duration::ZERO);
        self.targets.iter().map(selected).chain(self.left_out.iter().cloned()).collect()
    }
}

/// Which file systems are spoken of at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only those mounted at or below this path.
    pub below: Option<PathBuf>,
    /// Mount points to leave out.
    pub exclude: Vec<PathBuf>,
}

/// Selects and orders. `carriers` names the devices whose file systems carry this one, as files under a loop device.
#[must_use]
pub fn plan(mounts: &[Mount], scope: &Scope, carriers: impl Fn(Device) -> Vec<Device>) -> Plan {
    let (mut targets, mut left_out) = (BTreeMap::<Device, Target>::new(), BTreeMap::new());
    for mount in mounts.iter().filter(|mount| is_in(scope, mount)) {
        match judge(mount) {
            Verdict::Freeze => targets.entry(mount.device).or_insert_with(|| target(mount)).mounts.push(place(mount)),
            Verdict::LeaveOut(reason) => {
                left_out.entry(mount.device).or_insert_with(|| left_out_for(mount, reason));
            }
            Verdict::Ignore => {}
        }
    }
    let (excluded, targets): (Vec<_>, Vec<_>) = targets.into_values().partition(|target| is_excluded(scope, target));
    let excluded = excluded
        .iter()
        .map(|target| target.outcome(FileSystemResult::LeftOut, "excluded by a setting", Duration::ZERO));
    Plan { targets: freeze_order(targets, carriers), left_out: left_out.into_values().chain(excluded).collect() }
}

fn is_in(scope: &Scope, mount: &Mount) -> bool {
    scope.below.as_ref().is_none_or(|below| mount.mount_point.starts_with(below))
}

fn is_excluded(scope: &Scope, target: &Target) -> bool {
    target.mounts.iter().any(|(_, path)| scope.exclude.contains(path))
}

fn target(mount: &Mount) -> Target {
    let (fs_type, source) = (mount.fs_type.clone(), mount.source.clone());
    Target { device: mount.device, fs_type, source, mounts: Vec::new() }
}

fn place(mount: &Mount) -> (u64, PathBuf) {
    (mount.id, mount.mount_point.clone())
}

fn left_out_for(mount: &Mount, reason: &str) -> FileSystemOutcome {
    let mut target = target(mount);
    target.mounts.push(place(mount));
    target.outcome(FileSystemResult::LeftOut, reason, Duration::ZERO)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Freeze,
    LeaveOut(&'static str),
    /// No place for data: not spoken of.
    Ignore,
}

fn judge(mount: &Mount) -> Verdict {
    match mount.fs_type.as_str() {
        "proc" | "sysfs" | "devtmpfs" | "devpts" | "cgroup" | "cgroup2" | "cpuset" | "mqueue" | "debugfs"
        | "tracefs" | "securityfs" | "selinuxfs" | "pstore" | "bpf" | "configfs" | "fusectl" | "binfmt_misc"
        | "hugetlbfs" | "autofs" | "efivarfs" | "rpc_pipefs" | "nsfs" | "nfsd" | "rootfs" => Verdict::Ignore,
        "tmpfs" | "ramfs" => Verdict::LeaveOut("lives in memory"),
        "overlay" | "aufs" | "ecryptfs" => Verdict::LeaveOut("lies on other file systems"),
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" | "virtiofs" | "afs" | "glusterfs" | "lustre" => {
            Verdict::LeaveOut("lives on another machine")
        }
        "zfs" => Verdict::LeaveOut("the kernel cannot freeze zfs"),
        other if other == "fuse" || other.starts_with("fuse.") => Verdict::LeaveOut("served by a process"),
        "btrfs" | "bcachefs" if !mount.read_only => Verdict::Freeze,
        _ if mount.read_only => Verdict::LeaveOut("read-only"),
        _ if mount.device.major == 0 => Verdict::LeaveOut("has no block device"),
        _ => Verdict::Freeze,
    }
}

/// Orders file systems for the freeze: each before those that carry it, the deeper mount points first, `/` last.
///
/// Freezing a carrier first would leave the one on top unable to write out what it must.
fn freeze_order(mut targets: Vec<Target>, carriers: impl Fn(Device) -> Vec<Device>) -> Vec<Target> {
    targets.sort_by_cached_key(|target| {
        let height = height(target.device, &carriers, MAX_STACK);
        let depth = target.mount_point().components().count();
        std::cmp::Reverse((height, depth, target.device))
    });
    targets
}

/// File systems on files on file systems on …: no sane guest goes further, and a loop in the answers ends here.
const MAX_STACK: usize = 8;

fn height(device: Device, carriers: &impl Fn(Device) -> Vec<Device>, left: usize) -> usize {
    if left == 0 {
        return 0;
    }
    carriers(device)
        .into_iter()
        .filter(|carrier| *carrier != device)
        .map(|carrier| 1 + height(carrier, carriers, left - 1))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
