//! Something that has happened.

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::{CheckpointId, EventKind, Failure, OperationId, VmId};
use stillpoint_proto::{
    convert::{event, names},
    v1 as pb,
};

use super::{read_checkpoint_id, read_time};

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its place in the log; `stillpoint events --since TOKEN` goes on after it.
    pub token: String,
    /// When.
    pub time: Option<Timestamp>,
    /// What; `null`: something that this version does not know.
    pub kind: Option<EventKind>,
    /// To which VM; `null`: to the host.
    pub vm: Option<VmId>,
    /// Which checkpoint.
    pub checkpoint: Option<CheckpointId>,
    /// The operation that did it.
    pub operation: Option<OperationId>,
    /// Why, if something failed.
    pub reason: Option<String>,
    /// In words.
    pub text: String,
}

impl TryFrom<pb::Event> for Event {
    type Error = Failure;

    fn try_from(message: pb::Event) -> Result<Self, Failure> {
        let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(Self {
            time: read_time(message.time.as_ref()),
            kind: event::read_kind(message.kind),
            vm: said(&message.vm).map(|vm| names::parse_vm(&vm, "event.vm")).transpose()?,
            checkpoint: read_checkpoint_id(&message.checkpoint, "event.checkpoint")?,
            operation: said(&message.operation)
                .map(|operation| names::parse_operation(&operation, "event.operation"))
                .transpose()?,
            reason: said(&message.reason),
            token: message.token,
            text: message.text,
        })
    }
}
