//! The event log.

use stillpoint_common::VmId;
use stillpoint_proto::{
    convert::names,
    v1::{self as pb, events_client::EventsClient, watch_events_request::From as Beginning},
};

use super::{Client, ClientError};
use crate::view::Event;

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsFrom {
    /// With the oldest that is remembered.
    Oldest,
    /// With the next that comes.
    Now,
    /// With the one after this token.
    After(String),
}

/// Events as they come.
pub struct EventStream {
    client: Client,
    stream: tonic::Streaming<pb::Event>,
}

impl Client {
    /// Reads the event log from a place on; with `follow` what comes, too.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn events(&self, from: EventsFrom, vm: Option<&VmId>, follow: bool) -> Result<EventStream, ClientError> {
        let from = match from {
            EventsFrom::Oldest => Some(Beginning::Oldest(true)),
            EventsFrom::Now => None,
            EventsFrom::After(token) => Some(Beginning::After(token)),
        };
        let vm = vm.map(names::vm).unwrap_or_default();
        let request = pb::WatchEventsRequest { vm, from, until_now: !follow };
        let answer = EventsClient::new(self.channel.clone()).watch_events(request).await;
        Ok(EventStream { client: self.clone(), stream: self.answered(answer)? })
    }
}

impl EventStream {
    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// `EVENTS_FORGOTTEN`, or the service cannot be reached any more.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let message = self.stream.message().await;
        let message = message.map_err(|status| ClientError::from_status(&self.client.socket, &status))?;
        Ok(message.map(Event::try_from).transpose()?)
    }
}
