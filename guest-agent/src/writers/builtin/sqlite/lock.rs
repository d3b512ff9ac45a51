//! Locks on bytes of a file, as programs of one machine see them of each other.
//!
//! They belong to the open file and not to the process, so that they go with the descriptor: a process that dies holds
//! none, and another descriptor of the same file that is closed takes none away. SQLite's own, which belong to
//! processes, keep to these and these to them.

use std::{fs::File, io, os::fd::AsRawFd as _};

/// Bytes of a file, which need not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) from: i64,
    pub(super) count: i64,
}

impl Bytes {
    pub(super) const fn one(at: i64) -> Self {
        Self { from: at, count: 1 }
    }

    /// From the beginning to wherever the end will be.
    const ALL: Self = Self { from: 0, count: 0 };
}

/// Locks them beside others that read. False: somebody has them for himself.
pub(super) fn share(file: &File, bytes: Bytes) -> io::Result<bool> {
    granted(set(file, libc::F_RDLCK, bytes))
}

/// Locks them for us alone; a lock of ours on them becomes this one. False: somebody else has them.
pub(super) fn take(file: &File, bytes: Bytes) -> io::Result<bool> {
    granted(set(file, libc::F_WRLCK, bytes))
}

/// Lets go of them.
pub(super) fn release(file: &File, bytes: Bytes) -> io::Result<()> {
    set(file, libc::F_UNLCK, bytes)
}

/// Lets go of everything. A child that was just forked may still have the descriptor: closing it is not enough.
pub(super) fn release_all(file: &File) {
    // There is nothing in which letting go could fail, on a file that could be locked.
    let _ = release(file, Bytes::ALL);
}

/// Somebody else has one of them, in whichever way.
pub(super) fn is_taken(file: &File, bytes: Bytes) -> io::Result<bool> {
    let mut lock = description(libc::F_WRLCK, bytes);
    call(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn granted(locked: io::Result<()>) -> io::Result<bool> {
    match locked {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn set(file: &File, kind: i32, bytes: Bytes) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, &mut description(kind, bytes))
}

fn description(kind: i32, bytes: Bytes) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: bytes.from,
        l_len: bytes.count,
        l_pid: 0,
    }
}

#[expect(unsafe_code, reason = "a system call for which there is no function")]
fn call(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: both commands take a pointer to one `flock`, which outlives the call, and touch nothing else of ours.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_the_other_cannot_have_until_it_is_let_go() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(place.path()).unwrap();
        let (one, other) = (open(), open());
        let far = Bytes { from: 1 << 30, count: 5 };
        assert!(share(&one, far).unwrap() && share(&other, far).unwrap());
        assert!(!take(&one, far).unwrap() && is_taken(&one, far).unwrap());
        release(&other, far).unwrap();
        assert!(take(&one, far).unwrap() && !is_taken(&one, far).unwrap());
        assert!(!share(&other, Bytes::one((1 << 30) + 4)).unwrap() && take(&other, Bytes::one(7)).unwrap());
        release_all(&one);
        assert!(take(&other, far).unwrap());
        assert_eq!(place.path().metadata().unwrap().len(), 0, "a lock makes no file longer");
    }
}
