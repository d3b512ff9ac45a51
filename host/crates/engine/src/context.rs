//! What every piece of work carries with it.

use std::sync::Arc;

use stillpoint_common::{CheckpointId, DefinitionChange, Operation, PhaseRecord, VmId};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    catalogue::Catalogue,
    config::EngineConfig,
    contact::Contacts,
    ports::{
        Clock, Descriptions, Endpoints, ExportSources, ExportTargets, GuestQuiesce, Hypervisor, Images, MemoryStates,
        ProgressSink, Store, TpmStates,
    },
    speed::Speed,
    way::Way,
};

/// The world, as the engine is given it.
#[derive(Clone)]
pub struct Ports {
    /// Running VMs.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Image files.
    pub images: Arc<dyn Images>,
    /// Memory states.
    pub memory: Arc<dyn MemoryStates>,
    /// What TPMs keep.
    pub tpm: Arc<dyn TpmStates>,
    /// Description files.
    pub descriptions: Arc<dyn Descriptions>,
    /// Agents in guests.
    pub guest: Arc<dyn GuestQuiesce>,
    /// Disks of backups, for other programs.
    pub endpoints: Arc<dyn Endpoints>,
    /// Export folders.
    pub exports: Arc<dyn ExportTargets>,
    /// Folders that VMs are imported from and to.
    pub sources: Arc<dyn ExportSources>,
    /// Catalogue and journal.
    pub store: Arc<dyn Store>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
}

/// What is shared by all VMs.
pub(crate) struct World {
    pub(crate) ports: Ports,
    pub(crate) catalogue: Catalogue,
    pub(crate) config: EngineConfig,
    /// How fast layers were merged so far.
    pub(crate) merge_speed: Speed,
    /// What is known of the agents in guests.
    pub(crate) contacts: Contacts,
}

/// What one operation on one VM works with.
#[derive(Clone)]
pub(crate) struct Cx {
    pub(crate) world: Arc<World>,
    pub(crate) vm: VmId,
    pub(crate) reporter: Reporter,
    pub(crate) cancel: CancellationToken,
    pub(crate) way: Way,
}

impl Cx {
    pub(crate) fn ports(&self) -> &Ports {
        &self.world.ports
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.world.catalogue
    }
}

/// Tells watchers how an operation goes. The operation's phases, progress and warnings live here while it runs.
#[derive(Clone)]
pub(crate) struct Reporter {
    operation: watch::Sender<Operation>,
}

impl Reporter {
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation: watch::Sender::new(operation) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Operation> {
        self.operation.subscribe()
    }

    pub(crate) fn now(&self) -> Operation {
        self.operation.borrow().clone()
    }

    pub(crate) fn publish(&self, operation: Operation) {
        self.operation.send_replace(operation);
    }

    /// Begins a phase; it ends, with its duration, when the answer is given to [`Reporter::end`].
    pub(crate) fn begin(&self, phase: &'static str) -> (&'static str, Instant) {
        self.operation.send_modify(|operation| {
            phase.clone_into(&mut operation.phase);
            operation.progress = stillpoint_common::Progress::default();
        });
        (phase, Instant::now())
    }

    pub(crate) fn end(&self, (phase, since): (&'static str, Instant)) {
        self.record(phase, since);
        self.operation.send_modify(|operation| operation.phase.clear());
    }

    /// Notes a span of time that is not a step of its own.
    pub(crate) fn record(&self, phase: &str, since: Instant) {
        let record = PhaseRecord { name: phase.to_owned(), took: since.elapsed() };
        self.operation.send_modify(|operation| operation.phases.push(record));
    }

    /// Names the checkpoint that the operation makes.
    pub(crate) fn set_checkpoint(&self, id: CheckpointId) {
        self.operation.send_modify(|operation| operation.checkpoint = Some(id));
    }

    /// Tells what an apply changes in the VM's definition.
    pub(crate) fn set_changes(&self, changes: Vec<DefinitionChange>) {
        self.operation.send_modify(|operation| operation.changes = changes);
    }

    /// Names the checkpoint of Now that an apply has made first.
    pub(crate) fn set_first_checkpoint(&self, id: CheckpointId) {
        self.operation.send_modify(|operation| operation.first_checkpoint = Some(id));
    }

    pub(crate) fn warn(&self, warning: impl Into<String>) {
        let warning = warning.into();
        tracing::warn!(operation = %self.operation.borrow().id, warning);
        self.operation.send_modify(|operation| operation.warnings.push(warning));
    }

    /// Where a step puts its progress.
    pub(crate) fn progress(&self) -> ProgressSink {
        let operation = self.operation.clone();
        Arc::new(move |progress| operation.send_modify(|operation| operation.progress = progress))
    }
}
