//! The kernel's list of mounts, as `/proc/self/mountinfo` prints it.

use std::path::{Path, PathBuf};

/// Number of the device that a file system lives on. The major number is 0 for those that live on none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl std::str::FromStr for Device {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.trim_end().split_once(':').ok_or(())?;
        Ok(Self { major: major.parse().map_err(drop)?, minor: minor.parse().map_err(drop)? })
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number in the kernel.
    pub id: u64,
    /// The device of its file system.
    pub device: Device,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// `ext4`, `xfs`, …
    pub fs_type: String,
    /// What it is mounted from.
    pub source: String,
    /// The file system itself, not only this mount of it, takes no writes.
    pub read_only: bool,
}

/// Reads the table. Lines that are not understood are left out: they are none that a freeze could use.
#[must_use]
pub fn parse(table: &str) -> Vec<Mount> {
    table.lines().filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let id = mount.next()?.parse().ok()?;
    let device = mount.nth(1)?.parse().ok()?;
    let mount_point = PathBuf::from(unescape(mount.nth(1)?));
    let mut file_system = file_system.split(' ');
    let fs_type = unescape(file_system.next()?);
    let source = unescape(file_system.next()?);
    let read_only = file_system.next()?.split(',').any(|option| option == "ro");
    Some(Mount { id, device, mount_point, fs_type, source, read_only })
}

/// The kernel writes blanks and backslashes as `\040` and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let octal = others.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[3..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The mount that a file lies on: the last one made of those whose mount point is nearest above it.
#[must_use]
pub fn mount_of<'a>(path: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.mount_point));
    above.max_by_key(|mount| mount.mount_point.components().count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
22 27 0:21 / /proc rw,nosuid shared:5 - proc proc rw
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 27 254:16 / /srv/my\\040data rw,relatime shared:2 master:1 - xfs /dev/vdb rw,attr2
31 27 254:16 /sub /mnt ro,relatime - xfs /dev/vdb rw,attr2
32 27 11:0 / /cdrom ro - iso9660 /dev/sr0 ro
nonsense
33 27 x:y / /bad rw - ext4 /dev/x rw
";

    #[test]
    fn the_table_is_read_as_the_kernel_writes_it() {
        let mounts = parse(TABLE);
        let points: Vec<_> = mounts.iter().map(|mount| mount.mount_point.to_str().unwrap()).collect();
        assert_eq!(points, ["/proc", "/", "/srv/my data", "/mnt", "/cdrom"]);
        assert_eq!(mounts[2].device, Device { major: 254, minor: 16 });
        assert_eq!((mounts[2].fs_type.as_str(), mounts[2].source.as_str()), ("xfs", "/dev/vdb"));
        assert!(!mounts[3].read_only, "a read-only mount of a file system that takes writes elsewhere");
        assert!(mounts[4].read_only);
    }

    #[test]
    fn a_file_lies_on_the_nearest_mount_and_on_the_last_one_there() {
        let mut mounts = parse(TABLE);
        assert_eq!(mount_of(Path::new("/srv/my data/disk.img"), &mounts).unwrap().id, 30);
        assert_eq!(mount_of(Path::new("/srv/my database"), &mounts).unwrap().id, 27);
        mounts.push(Mount { id: 40, ..mounts[2].clone() });
        assert_eq!(mount_of(Path::new("/srv/my data/disk.img"), &mounts).unwrap().id, 40);
    }

    #[test]
    fn this_machine_has_a_root() {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = parse(&table);
        assert_eq!(mounts.len(), table.lines().count());
        assert!(mounts.iter().any(|mount| mount.mount_point == Path::new("/")));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}", octal in "[\\\\0-9 ]{0,40}") {
            prop_assert!(parse(&text).len() <= text.lines().count());
            let line = format!("1 2 3:4 / {octal} rw - ext4 {octal} rw");
            prop_assert!(parse(&line).len() <= 1);
        }
    }
}
