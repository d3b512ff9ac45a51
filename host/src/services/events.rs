//! `Events`

use std::pin::Pin;

use futures_util::{Stream, stream};
use stillpoint_engine::{Engine, EventReader, EventsFrom};
use stillpoint_proto::{
    convert::event::{self, EventsFrom as Asked},
    v1::{self as pb, events_server},
};
use tonic::{Request, Response, Status};

use super::refuse;

pub(crate) struct Events {
    engine: Engine,
}

impl Events {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<pb::Event, Status>> + Send>>;

#[tonic::async_trait]
impl events_server::Events for Events {
    type WatchEventsStream = EventStream;

    async fn watch_events(&self, asked: Request<pb::WatchEventsRequest>) -> Result<Response<EventStream>, Status> {
        let asked = event::watch_events(asked.get_ref()).map_err(refuse)?;
        let from = match asked.from {
            Asked::Oldest => EventsFrom::Oldest,
            Asked::Now => EventsFrom::Now,
            Asked::After(token) => EventsFrom::After(token),
        };
        let reader = self.engine.events(from, asked.vm, asked.follow).await.map_err(refuse)?;
        // Events are read as the client takes them: nothing is kept for one that does not.
        Ok(Response::new(Box::pin(stream::unfold(Some(reader), next))))
    }
}

async fn next(reader: Option<EventReader>) -> Option<(Result<pb::Event, Status>, Option<EventReader>)> {
    let mut reader = reader?;
    match reader.next().await {
        Ok(Some((token, found))) => Some((Ok(event::event(token, &found)), Some(reader))),
        Ok(None) => None,
        Err(failure) => Some((Err(refuse(failure)), None)),
    }
}
