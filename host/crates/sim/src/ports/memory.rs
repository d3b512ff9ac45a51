//! The port to memory states.

use std::{os::fd::OwnedFd, path::Path};

use async_trait::async_trait;
use stillpoint_common::MemoryState;
use stillpoint_engine::ports::{MemoryError, MemoryOf, MemoryStates};

use crate::{Call, memory::path_of, process::Process};

pub(super) struct SimMemory {
    process: Process,
}

impl SimMemory {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl MemoryStates for SimMemory {
    async fn begin(&self, location: &Path, of: MemoryOf) -> Result<OwnedFd, MemoryError> {
        let path = path_of(location, of);
        self.process.call(Call::BeginMemory, |state| state.begin_memory(&path)).await
    }

    async fn seal(&self, location: &Path, of: MemoryOf, qemu_version: &str) -> Result<MemoryState, MemoryError> {
        let path = path_of(location, of);
        self.process.call(Call::SealMemory, |state| state.seal_memory(&path, qemu_version)).await
    }

    async fn open(&self, memory: &MemoryState) -> Result<OwnedFd, MemoryError> {
        self.process.call(Call::OpenMemory, |state| state.open_memory(memory)).await
    }

    async fn keep(&self, memory: &MemoryState, location: &Path, of: MemoryOf) -> Result<MemoryState, MemoryError> {
        let path = path_of(location, of);
        self.process.call(Call::KeepMemory, |state| state.keep_memory(memory, &path)).await
    }

    async fn remove(&self, location: &Path, of: MemoryOf) -> Result<(), MemoryError> {
        let path = path_of(location, of);
        self.process
            .call(Call::RemoveMemory, |state| {
                state.memories.remove(&path);
                Ok(())
            })
            .await
    }
}
