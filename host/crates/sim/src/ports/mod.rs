//! The ports of one process, each a thin handle on the world.

mod descriptions;
mod endpoints;
mod exports;
mod guest;
mod hypervisor;
mod images;
mod memory;
mod sources;
mod store;
mod tpm;

use std::sync::Arc;

use jiff::Timestamp;
use stillpoint_engine::{Ports, ports::Clock};

use crate::{World, process::Process};

/// All ports of one process of the service.
pub(crate) fn ports_of(world: &World, process: u64) -> Ports {
    let process = Process::new(world.clone(), process);
    Ports {
        hypervisor: Arc::new(hypervisor::SimHypervisor::new(process.clone())),
        images: Arc::new(images::SimImages::new(process.clone())),
        memory: Arc::new(memory::SimMemory::new(process.clone())),
        tpm: Arc::new(tpm::SimTpmStates::new(process.clone())),
        descriptions: Arc::new(descriptions::SimDescriptions::new(process.clone())),
        guest: Arc::new(guest::SimGuest::new(process.clone())),
        endpoints: Arc::new(endpoints::SimEndpoints::new(process.clone())),
        exports: Arc::new(exports::SimExports::new(process.clone())),
        sources: Arc::new(sources::SimSources::new(process.clone())),
        store: Arc::new(store::SimStore::new(process)),
        clock: Arc::new(SimClock { world: world.clone() }),
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
