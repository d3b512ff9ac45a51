//! The port to memory states.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use stillpoint_common::{MemoryId, MemoryState};
use stillpoint_engine::ports::{MemoryError, MemorySink, MemoryStates, OpenedMemory, Reach};

use crate::{Call, memory::path_of, process::Process, state::State};

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
    async fn begin(
        &self,
        location: &Path,
        id: MemoryId,
        _base: Option<&MemoryState>,
    ) -> Result<MemorySink, MemoryError> {
        let path = path_of(location, id);
        self.process.call(Call::BeginMemory, |state| state.begin_memory(&path)).await.map(Into::into)
    }

    async fn seal(&self, location: &Path, id: MemoryId, qemu_version: &str) -> Result<MemoryState, MemoryError> {
        let path = path_of(location, id);
        self.process.call(Call::SealMemory, |state| state.seal_memory(&path, qemu_version)).await
    }

    async fn open(&self, memory: &MemoryState) -> Result<OpenedMemory, MemoryError> {
        let opened = self.process.call(Call::OpenMemory, |state| state.open_memory(memory)).await;
        opened.map(|stream| OpenedMemory::file(stream, memory.bytes))
    }

    async fn reach(&self, memory: &MemoryState) -> Result<Reach, MemoryError> {
        let reach = |state: &mut State| state.open_memory(memory).map(|_| Reach::AnyPage);
        self.process.call(Call::ReachMemory, reach).await
    }

    async fn keep(&self, memory: &MemoryState, id: MemoryId) -> Result<MemoryState, MemoryError> {
        let path = path_of(memory.path.parent().unwrap_or(&memory.path), id);
        self.process.call(Call::KeepMemory, |state| state.keep_memory(memory, &path)).await
    }

    async fn unneeded(&self, location: &Path) -> Result<Vec<PathBuf>, MemoryError> {
        self.process.call(Call::UnneededMemory, |state| Ok(state.stray_pages(location))).await
    }

    async fn remove(&self, location: &Path, id: MemoryId) -> Result<(), MemoryError> {
        let path = path_of(location, id);
        self.process
            .call(Call::RemoveMemory, |state| {
                state.remove_memory(&path);
                Ok(())
            })
            .await
    }
}
