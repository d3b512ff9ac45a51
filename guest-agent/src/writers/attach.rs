//! Serves writers of other processes: `stillpoint.writer.v1.WriterRegistry` on a unix socket.
//!
//! A connection is known by its peer's credentials, which the kernel vouches for. Root may register, the agent's own
//! user may, and users that were named; nobody else is heard: a writer can keep production checkpoints from being made.

use std::{collections::VecDeque, fs, io, os::unix::fs::PermissionsExt as _, path::Path, pin::Pin, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use stillpoint_proto::writer::v1::{
    self as pb, attach_request, attach_response,
    writer_registry_server::{WriterRegistry, WriterRegistryServer},
};
use tokio::{
    net::{UnixListener, unix::UCred},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use super::{
    registration::{Done, Failure},
    registry::{Attachment, Question, Registry},
    wire,
};

const MAX_MESSAGE: usize = 512 * 1024;
/// Connections at once, at most.
const MAX_CONNECTIONS: usize = 128;
/// How long a peer may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// Questions on their way to one writer, at most.
const UNREAD: usize = 8;

/// Who may register beside root and the agent's own user.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// User ids.
    pub users: Vec<u32>,
}

impl Allowed {
    fn may_register(&self, peer: &UCred) -> bool {
        peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() || self.users.contains(&peer.uid())
    }
}

/// Opens the socket. A stale one is replaced.
///
/// # Errors
/// If its folder cannot be made or the socket cannot be bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Everybody may connect: who is heard is decided by credentials.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves writers for as long as it is polled.
pub async fn serve(listener: UnixListener, registry: Registry, allowed: Allowed) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a writer could not connect");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            warn!("too many connections of writers");
            continue;
        }
        let peer = stream.peer_cred().ok().filter(|peer| allowed.may_register(peer));
        let process = peer.as_ref().and_then(UCred::pid).and_then(|pid| u32::try_from(pid).ok());
        let service = Service { registry: registry.clone(), allowed: peer.is_some(), process };
        let service = WriterRegistryServer::new(service);
        let service = TowerToHyperService::new(service.max_decoding_message_size(MAX_MESSAGE));
        connections.spawn(async move {
            let end = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(16)
                .max_header_list_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            debug!(?end, "a writer's connection ended");
        });
    }
}

struct Service {
    registry: Registry,
    allowed: bool,
    /// Who connected.
    process: Option<u32>,
}

#[tonic::async_trait]
impl WriterRegistry for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<pb::AttachResponse, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        if !self.allowed {
            return Err(Status::permission_denied("this user may not register writers"));
        }
        let mut messages = request.into_inner();
        let first = timeout(INTRODUCTION, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no registration came"))??;
        let Some(attach_request::Message::Registration(told)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message must be a registration"));
        };
        let mut registration = wire::registration(told).map_err(Status::invalid_argument)?;
        registration.process = self.process;
        let attachment =
            self.registry.attach(registration).map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let (send, events) = mpsc::channel(UNREAD);
        let registered = pb::Registered {
            instance_id: attachment.instance.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let _ = send.try_send(Ok(response(attach_response::Message::Registered(registered))));
        tokio::spawn(Conversation { attachment, send, sequence: 0, pending: VecDeque::new() }.run(messages));
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }
}

fn response(message: attach_response::Message) -> pb::AttachResponse {
    pb::AttachResponse { message: Some(message) }
}

/// With one writer. Its end, in any way, ends the registration.
struct Conversation {
    attachment: Attachment,
    send: mpsc::Sender<Result<pb::AttachResponse, Status>>,
    sequence: u64,
    /// Questions without an answer yet, in order.
    pending: VecDeque<(u64, oneshot::Sender<Result<Done, Failure>>)>,
}

impl Conversation {
    async fn run(mut self, mut messages: Streaming<pb::AttachRequest>) {
        loop {
            let going = tokio::select! {
                () = self.send.closed() => return,
                question = self.attachment.questions.recv() => self.put(question),
                message = messages.message() => self.take(message),
            };
            if let Err(status) = going {
                debug!(%status, "a writer is not listened to any more");
                let _ = self.send.try_send(Err(status));
                return;
            }
        }
    }

    fn put(&mut self, question: Option<Question>) -> Result<(), Status> {
        let Some(Question { event, answer }) = question else { return Err(Status::unavailable("the agent ends")) };
        self.sequence += 1;
        self.pending.push_back((self.sequence, answer));
        let event = wire::event(self.sequence, &event);
        let sent = self.send.try_send(Ok(response(attach_response::Message::Event(event))));
        sent.map_err(|_| Status::aborted("events are not read"))
    }

    fn take(&mut self, message: Result<Option<pb::AttachRequest>, Status>) -> Result<(), Status> {
        let message = message?.ok_or_else(|| Status::ok("the writer left"))?;
        let Some(attach_request::Message::Answer(told)) = message.message else {
            return Err(Status::invalid_argument("only answers may follow the registration"));
        };
        let nobody_asked = || Status::aborted(format!("nobody asked {}", told.sequence));
        let at = self.pending.iter().position(|(sequence, _)| *sequence == told.sequence).ok_or_else(nobody_asked)?;
        let result = wire::answer(told.result).map_err(Status::invalid_argument)?;
        if let Some((_, answer)) = self.pending.remove(at) {
            // Whoever has given up waiting has gone on without the answer.
            let _ = answer.send(result);
        }
        Ok(())
    }
}
