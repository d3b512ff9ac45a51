//! Cgroups that stand still, and who lets them go if the agent does not: a guardian of their own, as for file systems, for
//! the length of the window. It is told before the first of them is.
//!
//! Everything here waits for the kernel, on a thread that may.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use stillpoint_common::WriterError;

use super::cgroup::Cgroup;
use crate::{
    guardian::{Guardian, GuardianError},
    writers::registration::Failure,
};

/// What stands still, and the guardian. It goes with this, and what it guards then goes on.
#[derive(Debug, Default)]
pub(super) struct Still {
    guardian: Option<Guardian>,
    /// Those that we have told to.
    ours: Vec<Cgroup>,
    /// Those that somebody else had told before: they are not ours to let go.
    others: Vec<Cgroup>,
}

impl Still {
    /// Makes sure that there is a guardian, while nobody waits.
    pub(super) fn prepare(&mut self) -> Result<(), Failure> {
        if self.guardian.is_none() {
            self.guardian = Some(Guardian::start(Path::new("/proc/self/exe"))?);
        }
        Ok(())
    }

    /// Looks who stands still already, and answers those that do not.
    pub(super) fn choose(&mut self, all: Vec<Cgroup>) -> Result<&[Cgroup], Failure> {
        for cgroup in all {
            let stands = cgroup.is_told_to_stand().map_err(failed(&cgroup))?;
            if stands { self.others.push(cgroup) } else { self.ours.push(cgroup) }
        }
        Ok(&self.ours)
    }

    /// Tells those that were chosen to stand still, and waits until all do. On failure all of ours go on.
    pub(super) fn stand(&mut self, patience: Duration, window: Duration) -> Result<(), Failure> {
        self.prepare()?;
        let until = Instant::now() + patience;
        let done = self.try_to(until, window, patience);
        if done.is_err() {
            // What is wrong is known already.
            let _ = self.go_on();
        }
        done
    }

    fn try_to(&mut self, until: Instant, window: Duration, patience: Duration) -> Result<(), Failure> {
        if let Some(guardian) = self.guardian.as_mut().filter(|_| !self.ours.is_empty()) {
            let switches: Vec<_> = self.ours.iter().map(std::os::fd::AsFd::as_fd).collect();
            guardian.arm(&switches, window, None)?;
        }
        for cgroup in &self.ours {
            cgroup.tell(true).map_err(failed(cgroup))?;
        }
        for cgroup in self.ours.iter().chain(&self.others) {
            if !cgroup.stands_by(until).map_err(failed(cgroup))? {
                return Err(Failure::timed_out(format!("{} does not stand still within {patience:?}", cgroup.name)));
            }
        }
        Ok(())
    }

    /// Lets all of ours go on; fine if none stands. An error says that one did not stand still until now, or may not go on.
    pub(super) fn go_on(&mut self) -> Result<(), Failure> {
        let (ours, others) = (std::mem::take(&mut self.ours), std::mem::take(&mut self.others));
        let moved: Vec<_> = ours.iter().chain(&others).filter(|cgroup| !matches!(cgroup.stands(), Ok(true))).collect();
        let moved = moved
            .first()
            .map(|cgroup| Failure::retryable(format!("{} was let go by somebody else while it was held", cgroup.name)));
        let mut done = moved.map_or(Ok(()), Err);
        for cgroup in ours.iter().rev() {
            done = done.and(cgroup.tell(false).map_err(failed(cgroup)));
        }
        if !ours.is_empty() && self.guardian.as_mut().is_some_and(|guardian| !matches!(guardian.disarm(), Ok(false))) {
            done = Err(Failure::timed_out("the window was over before they were let go"));
        }
        done
    }
}

impl From<GuardianError> for Failure {
    fn from(error: GuardianError) -> Self {
        Self { error: WriterError::Retryable, message: error.to_string() }
    }
}

fn failed(cgroup: &Cgroup) -> impl Fn(std::io::Error) -> Failure {
    let name = cgroup.name.clone();
    move |error| Failure::retryable(format!("cgroup {name}: {error}"))
}
