//! The calls for memory states.

use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use async_trait::async_trait;
use stillpoint_common::MemoryState;

use super::{Bounded, within};
use crate::ports::{MemoryError, MemoryOf, MemoryStates};

fn late(what: &'static str) -> impl FnOnce(Duration) -> MemoryError {
    move |waited| MemoryError::Io {
        what: format!("{what} the memory state"),
        source: io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {waited:?}")),
    }
}

#[async_trait]
impl MemoryStates for Bounded<dyn MemoryStates> {
    async fn begin(&self, location: &Path, of: MemoryOf) -> Result<OwnedFd, MemoryError> {
        within(self.limits.act, late("beginning"), self.port.begin(location, of)).await
    }

    /// Reads all that was written, and reports nothing meanwhile.
    async fn seal(&self, location: &Path, of: MemoryOf, qemu_version: &str) -> Result<MemoryState, MemoryError> {
        within(self.limits.bulk, late("sealing"), self.port.seal(location, of, qemu_version)).await
    }

    async fn open(&self, state: &MemoryState) -> Result<OwnedFd, MemoryError> {
        within(self.limits.look, late("opening"), self.port.open(state)).await
    }

    /// May copy all of it where the file system cannot share.
    async fn keep(&self, state: &MemoryState, location: &Path, of: MemoryOf) -> Result<MemoryState, MemoryError> {
        within(self.limits.bulk, late("keeping"), self.port.keep(state, location, of)).await
    }

    async fn remove(&self, location: &Path, of: MemoryOf) -> Result<(), MemoryError> {
        within(self.limits.act, late("removing"), self.port.remove(location, of)).await
    }
}
