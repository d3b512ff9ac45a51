//! How it stands with a guest's agent, and with each service that it does for the host.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::GuestService;

/// How it stands with a service of a guest's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ContactState {
    /// The agent answers.
    Ok,
    /// The agent answers, and does not know this service: it is older than the host.
    Degraded,
    /// The agent speaks a protocol that the host does not.
    ProtocolMismatch,
    /// No agent has answered since the VM's process was started.
    NoContact,
    /// An agent has answered, and does not any more.
    LostCommunication,
    /// The VM does not run.
    NotRunning,
    /// The VM is set so that it is not used.
    SwitchedOff,
}

/// One service of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// Which.
    pub service: GuestService,
    /// How it stands with it.
    pub state: ContactState,
    /// Why, where it is not OK.
    pub detail: String,
}

/// How it stands with a guest's agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestContact {
    /// Each service.
    pub services: Vec<ServiceState>,
    /// When the agent was heard last, since the VM's process was started; `None`: never, or its heartbeat is switched off and
    /// nothing was asked.
    pub last_heard: Option<Timestamp>,
    /// How long the guest had been up then.
    pub uptime: Option<Duration>,
}

/// A sign of life of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Time since the guest booted.
    pub uptime: Duration,
    /// A quiesce session holds it.
    pub held: bool,
    /// The state of the host's values that it has; empty: none.
    pub values_revision: String,
}
