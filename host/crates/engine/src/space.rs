//! Whether there is room for what is about to be done. Pure.
//!
//! Several files may lie on one file system: what they need is added up, and each file system keeps a part free beside
//! that, for guests that write meanwhile. What cannot be foreseen is the business of those who write: see
//! `critical` of the actor.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use stillpoint_common::{Failure, Reason};

use crate::{job::PlannedOverlay, ports::Space};

/// Something that is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// In words: `the memory of the VM`.
    pub(crate) what: String,
    /// The file that will be written, or a folder it will lie in.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

impl Need {
    pub(crate) fn new(what: impl Into<String>, path: impl Into<PathBuf>, bytes: u64) -> Self {
        Self { what: what.into(), path: path.into(), bytes }
    }
}

/// A new layer is small; the guest will write to it, though, so that there is to be room for it to grow.
pub(crate) fn of_overlays<'a>(
    overlays: impl IntoIterator<Item = (&'a stillpoint_common::DiskName, &'a PlannedOverlay)>,
    room: u64,
) -> Vec<Need> {
    let need = |(disk, overlay): (_, &PlannedOverlay)| {
        Need::new(format!("the new layer of disk {disk}"), overlay.file.path.clone(), room)
    };
    overlays.into_iter().map(need).collect()
}

/// All of a VM's memory may have been touched, and cannot be told to be smaller beforehand.
pub(crate) fn of_memory(location: &Path, memory_mib: u64) -> Need {
    Need::new("the memory of the VM", location, memory_mib.saturating_mul(1 << 20))
}

/// What is needed on one file system.
struct Sum<'a> {
    needs: Vec<&'a Need>,
    space: &'a Space,
}

/// Says what lacks room, if something does: of all file systems the one that lacks most.
pub(crate) fn room_for(needs: &[(Need, Space)], keep_free: u64) -> Result<(), Failure> {
    let mut sums: BTreeMap<u64, Sum<'_>> = BTreeMap::new();
    for (need, space) in needs {
        sums.entry(space.file_system).or_insert_with(|| Sum { needs: Vec::new(), space }).needs.push(need);
    }
    let lacking = sums.values().map(|sum| (sum.lacks(keep_free), sum)).max_by_key(|(lacks, _)| *lacks);
    match lacking {
        Some((lacks, sum)) if lacks > 0 => Err(sum.refusal(keep_free)),
        Some(_) | None => Ok(()),
    }
}

impl Sum<'_> {
    fn needed(&self, keep_free: u64) -> u64 {
        self.needs.iter().fold(keep_free, |sum, need| sum.saturating_add(need.bytes))
    }

    fn lacks(&self, keep_free: u64) -> u64 {
        self.needed(keep_free).saturating_sub(self.space.free)
    }

    fn refusal(&self, keep_free: u64) -> Failure {
        let parts = self.needs.iter().map(|need| format!("{} for {}", mib(need.bytes), need.what));
        let kept = (keep_free > 0).then(|| format!("{} that stay free", mib(keep_free)));
        let parts: Vec<String> = parts.chain(kept).collect();
        let path = self.needs.first().map(|need| need.path.display().to_string()).unwrap_or_default();
        let message = format!(
            "not enough space for {path}: the file system on {} has {} free, and {} are needed ({})",
            self.space.mounted_on.display(),
            mib(self.space.free),
            mib(self.needed(keep_free)),
            parts.join(", "),
        );
        Failure::new(Reason::NoSpace, message)
    }
}

/// `12.5 MiB`; what is needed is rounded up, so that freeing what is said is enough.
pub(crate) fn mib(bytes: u64) -> String {
    let tenths = u128::from(bytes).saturating_mul(10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn need(path: &str, mib: u64, file_system: u64, free: u64) -> (Need, Space) {
        let mounted_on = format!("/mnt/{file_system}").into();
        (Need::new(format!("the file {path}"), path, mib * MIB), Space { file_system, mounted_on, free: free * MIB })
    }

    #[test]
    fn files_of_one_file_system_are_added_up() {
        let needs = |free| [need("/a", 10, 1, free), need("/b", 10, 1, free)];
        assert_eq!(room_for(&needs(25), 5 * MIB), Ok(()));
        let failure = room_for(&needs(24), 5 * MIB).unwrap_err();
        assert_eq!(failure.reason, Reason::NoSpace);
        let says = "not enough space for /a: the file system on /mnt/1 has 24.0 MiB free, and 25.0 MiB are needed \
                    (10.0 MiB for the file /a, 10.0 MiB for the file /b, 5.0 MiB that stay free)";
        assert_eq!(failure.message, says);
    }

    #[test]
    fn file_systems_are_looked_at_each_for_itself_and_the_one_that_lacks_most_is_named() {
        assert_eq!(room_for(&[need("/a", 10, 1, 10), need("/b", 20, 2, 20)], 0), Ok(()));
        let failure = room_for(&[need("/a", 10, 1, 9), need("/b", 20, 2, 5), need("/c", 1, 3, 9)], 0).unwrap_err();
        assert!(failure.message.contains("/mnt/2 has 5.0 MiB free"), "{failure}");
        assert_eq!(room_for(&[], 1), Ok(()));
    }

    #[test]
    fn what_is_needed_is_rounded_up() {
        assert_eq!(
            (mib(0), mib(1), mib(MIB), mib(MIB + 1)),
            ("0.0 MiB".into(), "0.1 MiB".into(), "1.0 MiB".into(), "1.1 MiB".into())
        );
        assert_eq!(mib(u64::MAX), "17592186044416.0 MiB");
    }
}
