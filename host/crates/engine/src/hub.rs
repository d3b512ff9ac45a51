//! Operations that run now, for those who watch them.

use std::{collections::HashMap, sync::Mutex};

use stillpoint_common::{Operation, OperationId, VmId};
use tokio::sync::watch;

use crate::context::Reporter;

/// Running operations of all VMs.
#[derive(Default)]
pub(crate) struct Hub {
    /// Which operations run. Held for a look-up or an insertion, never across an await.
    running: Mutex<HashMap<OperationId, Reporter>>,
}

impl Hub {
    pub(crate) fn enter(&self, reporter: &Reporter) {
        let id = reporter.now().id;
        self.lock().insert(id, reporter.clone());
    }

    pub(crate) fn leave(&self, id: OperationId) {
        self.lock().remove(&id);
    }

    pub(crate) fn find(&self, id: OperationId) -> Option<Operation> {
        self.lock().get(&id).map(Reporter::now)
    }

    /// What works on a VM now.
    pub(crate) fn of_vm(&self, vm: &VmId) -> Option<Operation> {
        self.lock().values().map(Reporter::now).find(|operation| operation.vm == *vm)
    }

    pub(crate) fn watch(&self, id: OperationId) -> Option<watch::Receiver<Operation>> {
        self.lock().get(&id).map(Reporter::watch)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OperationId, Reporter>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
