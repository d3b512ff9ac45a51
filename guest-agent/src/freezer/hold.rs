//! File systems on their way into a hold, and out of it.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::io::Errno;
use stillpoint_common::{FileSystemOutcome, FileSystemResult, Thawed};

use super::{
    RefusalReason, ThawReport, kernel,
    select::{Plan, Target},
};

/// One file system of a hold.
#[derive(Debug)]
struct Held {
    target: Target,
    fd: OwnedFd,
    result: FileSystemResult,
    detail: String,
    took: Duration,
}

impl Held {
    fn outcome(&self) -> FileSystemOutcome {
        self.target.outcome(self.result, self.detail.clone(), self.took)
    }
}

/// The file systems of a hold, opened, in the order of freezing.
#[derive(Debug, Default)]
pub(super) struct Hold {
    file_systems: Vec<Held>,
    left_out: Vec<FileSystemOutcome>,
}

impl Hold {
    /// Opens everything that is planned.
    ///
    /// The first one that cannot be opened is the error: who cannot be frozen need not be tried.
    pub(super) fn open(plan: Plan) -> Result<Self, Vec<FileSystemOutcome>> {
        let mut hold = Self { left_out: plan.left_out, ..Self::default() };
        for target in plan.targets {
            match kernel::open(&target) {
                Ok(fd) => hold.file_systems.push(Held {
                    target,
                    fd,
                    result: FileSystemResult::Selected,
                    detail: String::new(),
                    took: Duration::ZERO,
                }),
                Err(why) => {
                    let failed = target.outcome(FileSystemResult::Failed, why, Duration::ZERO);
                    return Err(hold.outcomes().into_iter().chain([failed]).collect());
                }
            }
        }
        Ok(hold)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.file_systems.is_empty()
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.file_systems.iter().map(|held| held.fd.as_fd()).collect()
    }

    pub(super) fn outcomes(&self) -> Vec<FileSystemOutcome> {
        self.file_systems.iter().map(Held::outcome).chain(self.left_out.iter().cloned()).collect()
    }

    /// A file system that cannot be written out will say so again when it is frozen.
    pub(super) fn write_out(&self) {
        for held in &self.file_systems {
            let _ = kernel::write_out(&held.fd);
        }
    }

    /// Freezes one after the other, for as long as `go_on` says nothing.
    pub(super) fn freeze(&mut self, mut go_on: impl FnMut() -> Option<RefusalReason>) -> Result<(), RefusalReason> {
        for held in &mut self.file_systems {
            if let Some(reason) = go_on() {
                return Err(reason);
            }
            let began = kernel::boot_time();
            let done = kernel::freeze(&held.fd);
            held.took = kernel::boot_time().saturating_sub(began);
            (held.result, held.detail) = match done {
                Ok(()) => (FileSystemResult::Frozen, String::new()),
                Err(Errno::OPNOTSUPP) => {
                    let why = format!("the kernel cannot freeze {}: it was written out only", held.target.fs_type);
                    (FileSystemResult::LeftOut, why)
                }
                Err(Errno::BUSY) => (FileSystemResult::Failed, "something else has frozen it".to_owned()),
                Err(error) => (FileSystemResult::Failed, error.to_string()),
            };
            if held.result == FileSystemResult::Failed {
                return Err(RefusalReason::FileSystem);
            }
            #[cfg(feature = "fault-injection")]
            crate::fault::after_freeze();
        }
        match go_on() {
            Some(reason) => Err(reason),
            None if self.frozen().next().is_none() => Err(RefusalReason::NothingToFreeze),
            None => Ok(()),
        }
    }

    fn frozen(&self) -> impl DoubleEndedIterator<Item = &Held> {
        self.file_systems.iter().filter(|held| held.result == FileSystemResult::Frozen)
    }

    /// Thaws in reverse order. Held throughout only if the kernel says of each that it was frozen until now.
    pub(super) fn thaw(mut self, held_since: Duration) -> ThawReport {
        let mut lost = Vec::new();
        for held in self.file_systems.iter_mut().rev().filter(|held| held.result == FileSystemResult::Frozen) {
            match kernel::thaw(&held.fd) {
                Ok(true) => {}
                Ok(false) => {
                    "it was thawed before its time".clone_into(&mut held.detail);
                    lost.push(held.target.mount_point().display().to_string());
                }
                Err(error) => {
                    held.detail = format!("it cannot be thawed: {error}");
                    lost.push(held.target.mount_point().display().to_string());
                }
            }
        }
        let held = kernel::boot_time().saturating_sub(held_since);
        let outcome = if lost.is_empty() { Thawed::HeldThroughout } else { Thawed::Lapsed };
        let message = if lost.is_empty() { String::new() } else { format!("not held: {}", lost.join(", ")) };
        ThawReport { outcome: Some(outcome), file_systems: self.outcomes(), held, message }
    }
}
