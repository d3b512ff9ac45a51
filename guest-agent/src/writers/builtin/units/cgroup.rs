//! A cgroup that is made to stand still by the kernel (`cgroup.freeze` of version 2), with everything below it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often it is looked whether everything stands still.
const LOOK: Duration = Duration::from_millis(1);

/// One that is there, opened so that letting it go needs no path.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Its name below the root of all cgroups, which begins with a slash.
    pub(super) name: String,
    /// Told apart from a later one of the same name by this.
    pub(super) inode: u64,
    switch: File,
    events: PathBuf,
}

impl Cgroup {
    /// Opens it. None: there is none of this name, or it cannot be frozen, as the root of all cannot.
    pub(super) fn open(root: &Path, name: &str) -> io::Result<Option<Self>> {
        let folder = root.join(name.trim_start_matches('/'));
        let opened = File::options().read(true).write(true).open(folder.join("cgroup.freeze"));
        let switch = match opened {
            Ok(switch) => switch,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let inode = fs::metadata(&folder)?.ino();
        Ok(Some(Self { name: name.to_owned(), inode, switch, events: folder.join("cgroup.events") }))
    }

    /// Somebody has told it to stand still.
    pub(super) fn is_told_to_stand(&self) -> io::Result<bool> {
        use std::os::unix::fs::FileExt as _;
        let mut first = [0];
        Ok(self.switch.read_at(&mut first, 0)? == 1 && first == *b"1")
    }

    /// Tells it to stand still, or to go on. Twice is fine. One that is gone has nothing that could go on.
    pub(super) fn tell(&self, stand: bool) -> io::Result<()> {
        match (&self.switch).write_all(if stand { b"1" } else { b"0" }) {
            Err(error) if is_gone(&error) => Ok(()),
            told => told,
        }
    }

    /// Everything in it stands still; also if nothing is in it any more.
    pub(super) fn stands(&self) -> io::Result<bool> {
        match fs::read_to_string(&self.events) {
            Ok(events) => Ok(says_frozen(&events)),
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Waits until it stands still. False: it does not, in this time.
    pub(super) fn stands_by(&self, until: Instant) -> io::Result<bool> {
        loop {
            if self.stands()? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.switch.as_fd()
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn says_frozen(events: &str) -> bool {
    events.lines().any(|line| line.trim() == "frozen 1")
}

/// The cgroup of a process, as `/proc/PID/cgroup` has it; none: of version 2 there is none.
pub(super) fn of_process(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The cgroup of this process, or of another one that runs.
pub(super) fn of_pid(pid: u32) -> Option<String> {
    of_process(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?).map(str::to_owned)
}

/// Why everything in this cgroup must not be stopped; none: it may.
pub(super) fn objection(
    name: &str,
    agent: Option<&str>,
    init: Option<&str>,
    writers: &[String],
) -> Option<&'static str> {
    let has = |other: &str| {
        let rest = other.strip_prefix(name.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if agent.is_some_and(has) {
        Some("the agent itself is in it")
    } else if init.is_some_and(has) {
        Some("the first process of the guest is in it")
    } else if writers.iter().any(|writer| has(writer)) {
        Some("a writer that is to be asked is in it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_to_go_on_is_not_stopped() {
        let objection = |name: &str| {
            let writers = ["/system.slice/shop.service".to_owned()];
            objection(name, Some("/system.slice/stillpoint-agent.service"), Some("/init.scope"), &writers)
        };
        for name in ["/", "/system.slice", "/system.slice/stillpoint-agent.service"] {
            assert_eq!(objection(name), Some("the agent itself is in it"), "{name}");
        }
        assert_eq!(objection("/init.scope"), Some("the first process of the guest is in it"));
        assert_eq!(objection("/system.slice/shop.service"), Some("a writer that is to be asked is in it"));
        for name in ["/system.slice/stillpoint", "/system.slice/shop.service/worker", "/user.slice", "/init.scope2"] {
            assert_eq!(objection(name), None, "{name}");
        }
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        assert!(says_frozen("populated 1\nfrozen 1\n") && !says_frozen("populated 1\nfrozen 0\n"));
        assert_eq!(of_process("9:name=systemd:/x\n0::/a/b\n"), Some("/a/b"));
        assert_eq!(of_process("1:cpu:/x\n"), None);
    }
}
