//! Which file system is on a disk, and its label: the guest's busybox cannot tell.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Outcome;

/// `TYPE LABEL` of an ext4 or XFS file system that has a label.
pub(crate) fn read(device: &str) -> Outcome {
    let mut head = [0; 2048];
    let file = File::open(device).map_err(|e| format!("{device}: {e}"))?;
    file.read_exact_at(&mut head, 0).map_err(|e| format!("{device}: {e}"))?;
    let (kind, label) = if head.starts_with(b"XFSB") {
        ("xfs", &head[0x6C..0x78])
    } else if head[0x438..0x43A] == [0x53, 0xEF] {
        ("ext4", &head[0x478..0x488])
    } else {
        return Err(format!("{device} has neither ext4 nor XFS"));
    };
    let label = String::from_utf8_lossy(label);
    match label.trim_end_matches('\0') {
        "" => Err(format!("{device} has no label")),
        label => Ok(format!("{kind} {label}")),
    }
}
