//! The few things that are asked of the kernel: freeze, thaw, write out, and be quick about it.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, StatxFlags},
    io::Errno,
    ioctl::{NoArg, Opcode, opcode},
    time::ClockId,
};

use super::select::Target;

const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);
const RCU_EXPEDITED: &str = "/sys/kernel/rcu_expedited";

/// Freezes the file system that this descriptor is on. Everything it had to write is on its device afterwards.
///
/// # Errors
/// `BUSY`: it is frozen already. `OPNOTSUPP`: its kind cannot be frozen. Else what its kind said.
#[expect(unsafe_code, reason = "an ioctl")]
pub fn freeze(fd: impl AsFd) -> Result<(), Errno> {
    // SAFETY: FIFREEZE ignores its argument and touches no memory of ours.
    unsafe { rustix::ioctl::ioctl(fd, NoArg::<FIFREEZE>::new()) }
}

/// Thaws it. True: it was frozen until now. False: it was not.
///
/// # Errors
/// What its kind said.
#[expect(unsafe_code, reason = "an ioctl")]
pub fn thaw(fd: impl AsFd) -> Result<bool, Errno> {
    // SAFETY: FITHAW ignores its argument and touches no memory of ours.
    match unsafe { rustix::ioctl::ioctl(fd, NoArg::<FITHAW>::new()) } {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes out what the file system has in memory.
///
/// # Errors
/// What its kind said.
pub fn write_out(fd: impl AsFd) -> Result<(), Errno> {
    rustix::fs::syncfs(fd)
}

/// Opens the file system at one of its mount points: the first that is not hidden under another mount.
///
/// # Errors
/// Why, for a person, the last mount point tried could not be used.
pub fn open(target: &Target) -> Result<OwnedFd, String> {
    let mut why = "it is mounted nowhere".to_owned();
    for (id, path) in &target.mounts {
        match open_mount(*id, path, target) {
            Ok(fd) => return Ok(fd),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

fn open_mount(id: u64, path: &Path, target: &Target) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| error.to_string())?;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let seen = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, wanted).map_err(|error| error.to_string())?;
    let found = if StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::MNT_ID) {
        seen.stx_mnt_id == id
    } else {
        // A kernel before 5.8: file systems that span devices show other numbers to `stat`.
        target.device.major == 0
            || (seen.stx_dev_major, seen.stx_dev_minor) == (target.device.major, target.device.minor)
    };
    if found { Ok(fd) } else { Err("it is hidden under another mount".to_owned()) }
}

/// Whether the kernel hurries its grace periods, which a freeze waits for; `None` if it cannot be told to.
#[must_use]
pub fn hurries() -> Option<bool> {
    Some(fs::read_to_string(RCU_EXPEDITED).ok()?.trim() != "0")
}

/// Makes the kernel hurry, or stop to. Only speed depends on it: failure is no error.
pub fn set_hurry(on: bool) {
    let _ = fs::write(RCU_EXPEDITED, if on { "1" } else { "0" });
}

/// Time since boot, including time asleep.
#[must_use]
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
