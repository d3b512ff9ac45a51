//! What host and guest tell each other, and how it stands with the agent.

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::{ContactState, GuestService};
use stillpoint_proto::{
    convert::{contact, settings},
    v1 as pb,
};

use super::{read_time, read_took};

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Value {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// What host and guest tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestValues {
    /// What the host tells the guest.
    pub host: Vec<Value>,
    /// What was set in the guest.
    pub guest: Vec<Value>,
    /// What its agent says by itself.
    pub intrinsic: Vec<Value>,
    /// Why the guest cannot be asked; empty: it can.
    pub unreachable: String,
}

/// How it stands with a guest's agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GuestContact {
    /// Each service.
    pub services: Vec<ServiceState>,
    /// When the agent was heard last, since the VM's process was started.
    pub last_heard_time: Option<Timestamp>,
    /// How long the guest had been up then.
    pub uptime_ms: f64,
}

/// How it stands with one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceState {
    /// Which; `null`: one that this version does not know.
    pub service: Option<GuestService>,
    /// `OK`, `DEGRADED`, `PROTOCOL_MISMATCH`, `NO_CONTACT`, `LOST_COMMUNICATION`, `NOT_RUNNING`, `SWITCHED_OFF`.
    pub state: Option<ContactState>,
    /// Why, where it is not OK.
    pub detail: String,
}

pub(crate) fn values(messages: Vec<pb::GuestValue>) -> Vec<Value> {
    messages.into_iter().map(|pb::GuestValue { key, value }| Value { key, value }).collect()
}

impl From<pb::GuestValues> for GuestValues {
    fn from(message: pb::GuestValues) -> Self {
        Self {
            host: values(message.host_values),
            guest: values(message.guest_values),
            intrinsic: values(message.intrinsic_values),
            unreachable: message.unreachable,
        }
    }
}

impl From<pb::GuestContact> for GuestContact {
    fn from(message: pb::GuestContact) -> Self {
        let service = |it: pb::GuestServiceState| ServiceState {
            service: settings::read_service(it.service),
            state: contact::read_state(it.state),
            detail: it.detail,
        };
        Self {
            services: message.services.into_iter().map(service).collect(),
            last_heard_time: read_time(message.last_heard_time.as_ref()),
            uptime_ms: read_took(message.uptime.as_ref()),
        }
    }
}
