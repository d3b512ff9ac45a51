//! Memory states in the folders of their checkpoints.

mod keep;
mod running;
mod sealed;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_common::{MemoryFormat, MemoryId, MemoryState};
use stillpoint_engine::ports::{MemoryError, MemorySink, MemoryStates, OpenedMemory, Reach};

use tokio::time::timeout;

use running::Running;
use work::blocking;

use crate::collect::unneeded;

/// What the adapter is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// From the time when QEMU has written all until all of it is on disk. Default: 5 min.
    pub settle: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { settle: Duration::from_secs(300) }
    }
}

/// Keeps memory states in [our format](crate::state), readable for the service alone; reads plain streams, too, which
/// older versions have kept.
///
/// Whoever keeps states in a folder must be one: it knows which packs its captures are building on.
#[derive(Debug, Default)]
pub struct FileMemoryStates {
    config: MemoryConfig,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Captures at work. Held to look, never while anything is done.
    running: Mutex<BTreeMap<MemoryId, Running>>,
    /// Held while a base is chosen and while packs are collected, so that none goes between the two.
    folders: Mutex<()>,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, BTreeMap<MemoryId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folders(&self) -> MutexGuard<'_, ()> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs that captures at work write or build on.
    fn busy(&self) -> BTreeSet<MemoryId> {
        self.running().values().flat_map(|running| &running.packs).copied().collect()
    }
}

impl FileMemoryStates {
    /// With these limits.
    #[must_use]
    pub fn new(config: MemoryConfig) -> Self {
        Self { config, shared: Arc::default() }
    }

    /// Ends a capture, if one is at work, and waits until it lets go of its files.
    async fn give_up(&self, id: MemoryId) {
        let running = self.shared.running().remove(&id);
        if let Some(running) = running {
            running.give_up(self.config.settle).await;
        }
    }
}

#[async_trait]
impl MemoryStates for FileMemoryStates {
    async fn begin(
        &self,
        location: &Path,
        id: MemoryId,
        base: Option<&MemoryState>,
    ) -> Result<MemorySink, MemoryError> {
        self.give_up(id).await;
        let (shared, location, base) = (Arc::clone(&self.shared), location.to_owned(), base.cloned());
        let (sink, may_begin) = blocking(move || {
            work::make_folder(&location)?;
            work::remove_unfinished(&location, id)?;
            let _folders = shared.folders();
            let base = base.and_then(|base| work::open_base(&location, id, &base));
            let (running, sink, may_begin) = Running::begin(&location, id, base)?;
            shared.running().insert(id, running);
            Ok((sink, may_begin))
        })
        .await?;
        // If it has failed already, sealing says why.
        let waited = self.config.settle;
        timeout(waited, may_begin).await.map_or(Err(MemoryError::Unanswered { waited }), |_| Ok(sink))
    }

    async fn seal(&self, location: &Path, id: MemoryId, qemu_version: &str) -> Result<MemoryState, MemoryError> {
        let running = self.shared.running().get_mut(&id).and_then(Running::take_outcome);
        let captured = match running {
            Some(outcome) => Some(Running::outcome(outcome, location, id, self.config.settle).await?),
            None => None,
        };
        let (shared, location, version) = (Arc::clone(&self.shared), location.to_owned(), qemu_version.to_owned());
        blocking(move || {
            if let Some(captured) = captured {
                sealed::seal(&location, id, captured, &version)?;
            }
            let state = sealed::describe(&location, id);
            // From here on the manifest tells which packs are needed.
            shared.running().remove(&id);
            state
        })
        .await
    }

    async fn open(&self, state: &MemoryState) -> Result<OpenedMemory, MemoryError> {
        let state = state.clone();
        blocking(move || match state.format {
            MemoryFormat::Stream => work::open_plain(&state),
            MemoryFormat::Pages => sealed::open(&state),
        })
        .await
    }

    async fn reach(&self, state: &MemoryState) -> Result<Reach, MemoryError> {
        let state = state.clone();
        blocking(move || match state.format {
            MemoryFormat::Stream => {
                work::open_plain(&state)?;
                Ok(Reach::StreamAlone("it is a plain stream, as older versions kept them".to_owned()))
            }
            MemoryFormat::Pages => sealed::whole(&state).map(|saved| sealed::reach(&saved)),
        })
        .await
    }

    async fn keep(&self, state: &MemoryState, id: MemoryId) -> Result<MemoryState, MemoryError> {
        self.give_up(id).await;
        let (shared, state) = (Arc::clone(&self.shared), state.clone());
        blocking(move || {
            // Between looking at the state and its second name none of its packs may go.
            let _folders = shared.folders();
            keep::keep(state, id)
        })
        .await
    }

    async fn unneeded(&self, location: &Path) -> Result<Vec<PathBuf>, MemoryError> {
        let (shared, location) = (Arc::clone(&self.shared), location.to_owned());
        blocking(move || {
            let _folders = shared.folders();
            unneeded(&location, &shared.busy()).map_err(|error| work::described(&location, error.into()))
        })
        .await
    }

    async fn remove(&self, location: &Path, id: MemoryId) -> Result<(), MemoryError> {
        self.give_up(id).await;
        let (shared, location) = (Arc::clone(&self.shared), location.to_owned());
        blocking(move || {
            let _folders = shared.folders();
            work::remove(&location, id, &shared.busy())
        })
        .await
    }
}
