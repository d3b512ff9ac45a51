//! Keeps quiesce sessions apart: one at a time, and none that outlives its host.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    freezer::{
        Freezer, plan,
        select::{Plan, Scope},
    },
    values::Values,
    writers::{registry::Registry, restore::Restores},
};

/// How long a new host waits for what the old one held. Then it is served all the same, and can at least ask.
const HANDOVER: Duration = Duration::from_secs(2);

/// Shared by all connections.
#[derive(Debug, Clone)]
pub struct Coordinator {
    freezer: Freezer,
    /// Writers that are registered.
    pub writers: Registry,
    /// Tells them that the guest was brought back to a checkpoint.
    pub restores: Restores,
    below: Option<PathBuf>,
    /// What this guest and its host tell each other.
    pub values: Values,
    /// One permit: the session that is open has it.
    slot: Arc<Semaphore>,
    /// Counts hosts: a session belongs to one of them.
    hosts: watch::Sender<u64>,
}

/// The right to hold the guest. Dropping it gives the right to the next session.
#[derive(Debug)]
pub struct Turn {
    /// Freezes and thaws.
    pub freezer: Freezer,
    host: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Waits until another host has come: then this session is over.
    pub async fn host_replaced(&mut self) {
        // The sender lives as long as the service that opened this session.
        let _ = self.host.changed().await;
    }
}

impl Coordinator {
    /// Coordinates sessions on this freezer with these writers. `below` limits them to file systems mounted there.
    #[must_use]
    pub fn new(freezer: Freezer, writers: Registry, below: Option<PathBuf>, values: Values) -> Self {
        let restores = Restores::default();
        Self {
            freezer,
            writers,
            restores,
            below,
            values,
            slot: Arc::new(Semaphore::new(1)),
            hosts: watch::Sender::new(0),
        }
    }

    /// A new host has come: ends the session of the old one, and waits until its hold is gone.
    pub async fn new_host(&self) {
        self.hosts.send_modify(|count| *count += 1);
        if self.is_busy() {
            info!("a new host ends the session of the old one");
        }
        if timeout(HANDOVER, self.slot.acquire()).await.is_err() {
            warn!("the session of the old host does not end");
        }
    }

    /// Opens a session. One that is just ending is waited for.
    pub async fn begin(&self) -> Option<Turn> {
        let permit = timeout(HANDOVER, Arc::clone(&self.slot).acquire_owned()).await.ok()?.ok()?;
        let mut host = self.hosts.subscribe();
        host.mark_unchanged();
        Some(Turn { freezer: self.freezer.clone(), host, _permit: permit })
    }

    /// A session is open.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.slot.available_permits() == 0
    }

    /// What a freeze of these would deal with.
    #[must_use]
    pub fn scope(&self, exclude: Vec<PathBuf>) -> Scope {
        Scope { below: self.below.clone(), exclude }
    }

    /// What a freeze would deal with now.
    #[must_use]
    pub fn plan(&self) -> Plan {
        plan(&self.scope(Vec::new()))
    }
}
