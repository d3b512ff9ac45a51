//! The writer's end of the socket.

use std::{path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use stillpoint_common::WriterEvent;
use stillpoint_proto::writer::v1::{
    self as pb, attach_request, attach_response, writer_registry_client::WriterRegistryClient,
};
use tokio::{net::UnixStream, sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Endpoint, Uri},
};

use super::Writer;
use crate::writers::{
    registration::{Ask, Done, Event, Failure, Registration},
    wire,
};

/// Why a writer is not registered, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no agent on this socket.
    #[error("no agent answers on the socket")]
    NoAgent(#[source] tonic::transport::Error),
    /// The agent refused, or ended.
    #[error("the agent ended the registration: {}", .0.message())]
    Ended(Box<Status>),
}

/// Registers a writer and lets it answer, until the agent ends. Call it again then: the agent may have been
/// restarted. Dropping the future ends the registration.
///
/// A writer that is held when the connection ends, or when its window does, is told Abort: nobody stays quiet for an
/// agent that is gone.
///
/// # Errors
/// Always, and why it ended.
pub async fn run(
    socket: &Path,
    registration: Registration,
    writer: impl Writer,
) -> Result<std::convert::Infallible, AttachError> {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent").connect_with_connector(connect).await;
    let mut client = WriterRegistryClient::new(channel.map_err(AttachError::NoAgent)?);
    let (send, requests) = mpsc::channel(8);
    let first = attach_request::Message::Registration(wire::registration_on_wire(&registration));
    let _ = send.try_send(pb::AttachRequest { message: Some(first) });
    let ended = |status| AttachError::Ended(Box::new(status));
    let events = client.attach(ReceiverStream::new(requests)).await.map_err(ended)?.into_inner();
    Err(ended(Session { writer, send, held_until: None, let_go: false }.run(events).await))
}

struct Session<W> {
    writer: W,
    send: mpsc::Sender<pb::AttachRequest>,
    held_until: Option<Instant>,
    /// The window ended before the thaw came.
    let_go: bool,
}

impl<W: Writer> Session<W> {
    async fn run(mut self, mut events: Streaming<pb::AttachResponse>) -> Status {
        loop {
            let message = tokio::select! {
                message = events.message() => message,
                () = sleep_until(self.held_until) => {
                    self.abort().await;
                    self.let_go = true;
                    continue;
                }
            };
            let status = match message {
                Ok(Some(pb::AttachResponse { message: Some(attach_response::Message::Event(event)) })) => {
                    match self.answer(&event).await {
                        Ok(()) => continue,
                        Err(status) => status,
                    }
                }
                Ok(Some(_)) => continue,
                Ok(None) => Status::unavailable("the agent has ended"),
                Err(status) => status,
            };
            if self.held_until.is_some() {
                self.abort().await;
            }
            return status;
        }
    }

    async fn abort(&mut self) {
        self.held_until = None;
        let event = Event { session: None, budget: Duration::from_secs(3), ask: Ask::Abort };
        // Nobody is left to be told.
        let _ = self.writer.on(&event).await;
    }

    async fn answer(&mut self, told: &pb::Event) -> Result<(), Status> {
        let Some(event) = wire::read_event(told) else {
            return Err(Status::unimplemented("the agent asks what this writer does not know"));
        };
        let result = self.writer.on(&event).await;
        let result = self.account(&event, result);
        let answer = pb::Answer { sequence: told.sequence, result: Some(wire::on_wire(result)) };
        let message = pb::AttachRequest { message: Some(attach_request::Message::Answer(answer)) };
        self.send.send(message).await.map_err(|_| Status::unavailable("the agent has ended"))
    }

    /// Keeps count of the hold, and does not let a thaw go well that came too late.
    fn account(&mut self, event: &Event, result: Result<Done, Failure>) -> Result<Done, Failure> {
        match (&event.ask, &result) {
            (Ask::Freeze { window }, Ok(_)) => self.held_until = Some(Instant::now() + *window),
            (Ask::Thaw | Ask::Abort, _) => self.held_until = None,
            (
                Ask::Freeze { .. }
                | Ask::Identify
                | Ask::PrepareBackup(_)
                | Ask::PrepareSnapshot
                | Ask::PostSnapshot
                | Ask::BackupComplete(_)
                | Ask::BackupShutdown
                | Ask::PreRestore(_)
                | Ask::PostRestore(_),
                _,
            ) => {}
        }
        let late = event.ask.event() == WriterEvent::Thaw && std::mem::take(&mut self.let_go);
        if late { Err(Failure::timed_out("the window had ended before the thaw came")) } else { result }
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
