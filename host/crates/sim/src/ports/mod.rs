//! The ports of one process, each a thin handle on the world.

mod exports;
mod guest;
mod hypervisor;
mod images;
mod memory;
mod store;

use std::sync::Arc;

use jiff::Timestamp;
use stillpoint_engine::ports::{Clock, ExportTargets, GuestQuiesce, Hypervisor, Images, MemoryStates, Store};

use crate::{World, process::Process};

/// All ports of one process of the service.
#[derive(Clone)]
pub struct SimPorts {
    /// Instances.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Image files.
    pub images: Arc<dyn Images>,
    /// Memory states.
    pub memory: Arc<dyn MemoryStates>,
    /// Agents in guests.
    pub guest: Arc<dyn GuestQuiesce>,
    /// Folders that exports go to.
    pub exports: Arc<dyn ExportTargets>,
    /// Catalogue and journal.
    pub store: Arc<dyn Store>,
    /// Time of day: runs with tokio's clock.
    pub clock: Arc<dyn Clock>,
}

impl SimPorts {
    pub(crate) fn new(world: &World, process: u64) -> Self {
        let process = Process::new(world.clone(), process);
        Self {
            hypervisor: Arc::new(hypervisor::SimHypervisor::new(process.clone())),
            images: Arc::new(images::SimImages::new(process.clone())),
            memory: Arc::new(memory::SimMemory::new(process.clone())),
            guest: Arc::new(guest::SimGuest::new(process.clone())),
            exports: Arc::new(exports::SimExports::new(process.clone())),
            store: Arc::new(store::SimStore::new(process)),
            clock: Arc::new(SimClock { world: world.clone() }),
        }
    }
}

impl std::fmt::Debug for SimPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimPorts").finish_non_exhaustive()
    }
}

struct SimClock {
    world: World,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.world.now()
    }
}
