//! Events.

use stillpoint_common::{Event, EventKind, EventToken, Failure, VmId};

use super::{names, time};
use crate::v1::{self as pb, watch_events_request::From as Beginning};

/// An event as it travels.
#[must_use]
pub fn event(token: EventToken, event: &Event) -> pb::Event {
    let checkpoint = event.vm.as_ref().zip(event.checkpoint).map(|(vm, id)| names::checkpoint(vm, id));
    pb::Event {
        token: token.to_string(),
        time: Some(time::timestamp(event.time)),
        kind: pb::EventKind::from(event.kind).into(),
        vm: event.vm.as_ref().map(names::vm).unwrap_or_default(),
        checkpoint: checkpoint.unwrap_or_default(),
        operation: event.operation.map(names::operation).unwrap_or_default(),
        reason: event.reason.map(|reason| reason.code().to_owned()).unwrap_or_default(),
        text: event.text.clone(),
    }
}

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        impl From<EventKind> for pb::EventKind {
            fn from(kind: EventKind) -> Self {
                match kind { $(EventKind::$kind => Self::$kind,)* }
            }
        }

        /// The kind of an event that a service told of; `None` if it is none that this version knows.
        #[must_use]
        pub fn read_kind(value: i32) -> Option<EventKind> {
            match pb::EventKind::try_from(value).ok()? {
                pb::EventKind::Unspecified => None,
                $(pb::EventKind::$kind => Some(EventKind::$kind),)*
            }
        }
    };
}

kinds! {
    VmDefined, VmChanged, VmForgotten, VmStarted, VmStopped, VmDied, GuestPanicked, VmRecovery, VmPaused, VmResumed, VmSaved, SavedStateDiscarded,
    VmCritical, VmCriticalOver, CheckpointCreated, CheckpointFellBack, CheckpointApplied, CheckpointRenamed,
    CheckpointDeleted, MemoryStateDeleted, CheckpointExported, BackupCompleted, BackupAborted,
    LayersMerged, OperationFailed, Host,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsFrom {
    /// With the oldest that is remembered.
    Oldest,
    /// With the next that comes.
    Now,
    /// With the one after this.
    After(EventToken),
}

/// What a client wants to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvents {
    /// Only of this VM.
    pub vm: Option<VmId>,
    /// Where to begin.
    pub from: EventsFrom,
    /// Whether to wait for what comes.
    pub follow: bool,
}

/// Reads a `WatchEventsRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn watch_events(request: &pb::WatchEventsRequest) -> Result<WatchEvents, Failure> {
    let vm = Some(request.vm.as_str()).filter(|vm| !vm.is_empty());
    let from = match &request.from {
        None | Some(Beginning::Oldest(false)) => EventsFrom::Now,
        Some(Beginning::Oldest(true)) => EventsFrom::Oldest,
        Some(Beginning::After(token)) => {
            EventsFrom::After(token.parse().map_err(|problem| Failure::field("after", problem))?)
        }
    };
    Ok(WatchEvents { vm: vm.map(|vm| names::parse_vm(vm, "vm")).transpose()?, from, follow: !request.until_now })
}
