//! The calls for memory states.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_common::{MemoryId, MemoryState};

use super::{Bounded, named, within};
use crate::ports::{MemoryError, MemorySink, MemoryStates, OpenedMemory, Reach};

fn late(what: &'static str) -> impl FnOnce(Duration) -> MemoryError {
    move |waited| MemoryError::Io {
        what: format!("{what} the memory state"),
        source: io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {waited:?}")),
    }
}

#[async_trait]
impl MemoryStates for Bounded<dyn MemoryStates> {
    /// Reads where the pages of the base lie.
    async fn begin(
        &self,
        location: &Path,
        id: MemoryId,
        base: Option<&MemoryState>,
    ) -> Result<MemorySink, MemoryError> {
        within(self.limits.act, late("beginning"), named("memory.begin", self.port.begin(location, id, base))).await
    }

    /// Waits for the end of what is being written, and reports nothing meanwhile.
    async fn seal(&self, location: &Path, id: MemoryId, qemu_version: &str) -> Result<MemoryState, MemoryError> {
        within(self.limits.bulk, late("sealing"), named("memory.seal", self.port.seal(location, id, qemu_version)))
            .await
    }

    async fn open(&self, state: &MemoryState) -> Result<OpenedMemory, MemoryError> {
        within(self.limits.look, late("opening"), named("memory.open", self.port.open(state))).await
    }

    async fn reach(&self, state: &MemoryState) -> Result<Reach, MemoryError> {
        within(self.limits.look, late("looking at"), named("memory.reach", self.port.reach(state))).await
    }

    /// May copy all of it where the file system knows no second names.
    async fn keep(&self, state: &MemoryState, id: MemoryId) -> Result<MemoryState, MemoryError> {
        within(self.limits.bulk, late("keeping"), named("memory.keep", self.port.keep(state, id))).await
    }

    async fn unneeded(&self, location: &Path) -> Result<Vec<PathBuf>, MemoryError> {
        within(
            self.limits.act,
            late("looking for what is left of"),
            named("memory.unneeded", self.port.unneeded(location)),
        )
        .await
    }

    /// Looks through all states of the folder for what is not needed any more.
    async fn remove(&self, location: &Path, id: MemoryId) -> Result<(), MemoryError> {
        within(self.limits.act, late("removing"), named("memory.remove", self.port.remove(location, id))).await
    }
}
