//! A guest that does as its script says.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use stillpoint_proto::guest::v1::{
    self as pb,
    guest_agent_server::{GuestAgent, GuestAgentServer},
    quiesce_request, quiesce_response,
};
use stillpoint_transport::{AgentLink, SocketPort};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The port is there, and nobody reads it.
    pub(crate) deaf: bool,
    pub(crate) hang_in: &'static str,
    pub(crate) die_in: &'static str,
    pub(crate) protocols: (u32, u32),
    pub(crate) file_systems: Vec<pb::FileSystem>,
    /// What it says of writers from the thaw on.
    pub(crate) writers: Vec<pb::Writer>,
    pub(crate) thaw_instead_of_freeze: bool,
    pub(crate) lapse_first: bool,
    /// It does not know the newer calls.
    pub(crate) older: bool,
    /// What it tells its host.
    pub(crate) values: Vec<pb::Value>,
    /// How much its clock is behind.
    pub(crate) behind: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            deaf: false,
            hang_in: "",
            die_in: "",
            protocols: (1, 1),
            file_systems: vec![file_system()],
            writers: vec![],
            thaw_instead_of_freeze: false,
            lapse_first: false,
            older: false,
            values: vec![],
            behind: Duration::ZERO,
        }
    }
}

pub(crate) fn file_system() -> pb::FileSystem {
    pb::FileSystem {
        mount_point: "/data".into(),
        source: "/dev/vda".into(),
        fs_type: "ext4".into(),
        result: pb::FileSystemResult::Frozen.into(),
        ..Default::default()
    }
}

pub(crate) struct FakeGuest {
    pub(crate) socket: PathBuf,
    shared: Arc<Shared>,
    _folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    die: Notify,
    closed: Notify,
}

impl FakeGuest {
    pub(crate) fn start(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent");
        let mut tasks = JoinSet::new();
        let shared = Arc::new(Shared { script: Mutex::new(script.clone()), ..Shared::default() });
        if script.deaf {
            let port = tokio::net::UnixListener::bind(&socket).unwrap();
            tasks.spawn(async move {
                let mut open = Vec::new();
                while let Ok((host, _)) = port.accept().await {
                    open.push(host);
                }
            });
        } else {
            let link = AgentLink::listen(SocketPort::bind(&socket).unwrap());
            tasks.spawn(serve(link, Arc::clone(&shared)));
        }
        Self { socket, shared, _folder: folder, _tasks: tasks }
    }

    /// From now on it behaves.
    pub(crate) fn mend(&self) {
        *self.shared.script.lock().unwrap() = Script::default();
    }

    pub(crate) async fn stream_closed(&self) {
        self.shared.closed.notified().await;
    }
}

async fn serve(mut link: AgentLink, shared: Arc<Shared>) {
    while let Some(session) = link.accept().await {
        let service = GuestAgentServer::new(Service(Arc::clone(&shared)));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(session.stream), TowerToHyperService::new(service));
        tokio::select! {
            _ = connection => {}
            () = shared.die.notified() => {}
        }
    }
}

struct Service(Arc<Shared>);

impl Service {
    fn script(&self) -> Script {
        self.0.script.lock().unwrap().clone()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl GuestAgent for Service {
    type WatchStream = Answers<pb::WatchResponse>;
    type QuiesceStream = Answers<pb::QuiesceResponse>;

    async fn hello(&self, _: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let script = self.script();
        if script.hang_in == "hello" {
            std::future::pending::<()>().await;
        }
        if script.die_in == "hello" {
            // Once: the agent that comes after it behaves.
            *self.0.script.lock().unwrap() = Script::default();
            self.0.die.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(Response::new(pb::HelloResponse {
            hostname: "fake".into(),
            oldest_protocol_version: script.protocols.0,
            protocol_version: script.protocols.1,
            file_systems: vec![file_system()],
            ..Default::default()
        }))
    }

    async fn restored(&self, _: Request<pb::RestoredRequest>) -> Result<Response<pb::RestoredResponse>, Status> {
        Ok(Response::new(pb::RestoredResponse {}))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (send, events) = mpsc::channel(4);
        for event in [
            pb::watch_response::Event::Inventory(pb::Inventory::default()),
            pb::watch_response::Event::Heartbeat(pb::Heartbeat::default()),
        ] {
            send.try_send(Ok(pb::WatchResponse { event: Some(event) })).unwrap();
        }
        tokio::spawn(async move { send.closed().await });
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn quiesce(
        &self,
        request: Request<Streaming<pb::QuiesceRequest>>,
    ) -> Result<Response<Self::QuiesceStream>, Status> {
        let (send, answers) = mpsc::channel(4);
        tokio::spawn(play(self.script(), Arc::clone(&self.0), request.into_inner(), send));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn set_clock(&self, request: Request<pb::SetClockRequest>) -> Result<Response<pb::SetClockResponse>, Status> {
        let behind = self.script().behind;
        let now = jiff::Timestamp::now() - behind;
        let now = prost_types::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() };
        let off =
            request.get_ref().reference.as_ref().and_then(|reference| reference.time).map(|time| {
                prost_types::Duration { seconds: now.seconds - time.seconds, nanos: now.nanos - time.nanos }
            });
        Ok(Response::new(pb::SetClockResponse {
            boot_time: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
            time: Some(now),
            was_off_by: off,
            changed: off.is_some(),
        }))
    }

    async fn shutdown(&self, _: Request<pb::ShutdownRequest>) -> Result<Response<pb::ShutdownResponse>, Status> {
        Ok(Response::new(pb::ShutdownResponse {}))
    }

    async fn beat(&self, _: Request<pb::BeatRequest>) -> Result<Response<pb::BeatResponse>, Status> {
        let script = self.script();
        if script.older || script.protocols.0 > 1 {
            return Err(Status::unimplemented("beat"));
        }
        Ok(Response::new(pb::BeatResponse { values_revision: "\u{1b}[2J1-a".into(), ..Default::default() }))
    }

    async fn set_values(&self, _: Request<pb::SetValuesRequest>) -> Result<Response<pb::SetValuesResponse>, Status> {
        match self.script().older {
            true => Err(Status::unimplemented("set_values")),
            false => Ok(Response::new(pb::SetValuesResponse {})),
        }
    }

    async fn get_values(&self, _: Request<pb::GetValuesRequest>) -> Result<Response<pb::GetValuesResponse>, Status> {
        let values = self.script().values;
        Ok(Response::new(pb::GetValuesResponse { intrinsic: values.clone(), values }))
    }
}

async fn play(
    script: Script,
    shared: Arc<Shared>,
    mut steps: Streaming<pb::QuiesceRequest>,
    send: mpsc::Sender<Result<pb::QuiesceResponse, Status>>,
) {
    use quiesce_response::Step;
    while let Ok(Some(request)) = steps.message().await {
        let thawed = Step::Thawed(pb::Thawed {
            outcome: pb::ThawOutcome::HeldThroughout.into(),
            writers: script.writers.clone(),
            ..Default::default()
        });
        let (name, answer) = match request.step.unwrap() {
            quiesce_request::Step::Start(_) => {
                ("start", Step::Prepared(pb::Prepared { file_systems: vec![file_system()], writers: Vec::new() }))
            }
            quiesce_request::Step::Freeze(_) if script.thaw_instead_of_freeze => ("freeze", thawed),
            quiesce_request::Step::Freeze(_) => {
                ("freeze", Step::Frozen(pb::Frozen { file_systems: script.file_systems.clone(), ..Default::default() }))
            }
            quiesce_request::Step::Thaw(_) => ("thaw", thawed),
            quiesce_request::Step::Settle(_) => {
                ("settle", Step::Settled(pb::Settled { writers: script.writers.clone() }))
            }
            quiesce_request::Step::Complete(_) => {
                ("complete", Step::Completed(pb::Completed { writers: script.writers.clone() }))
            }
        };
        if script.die_in == name {
            shared.die.notify_one();
        }
        if script.hang_in == name || script.die_in == name {
            send.closed().await;
            break;
        }
        if name == "thaw" && script.lapse_first {
            let lapsed = Step::Lapsed(pb::Lapsed { message: "the lease ended".into() });
            let _ = send.send(Ok(pb::QuiesceResponse { step: Some(lapsed) })).await;
        }
        let _ = send.send(Ok(pb::QuiesceResponse { step: Some(answer) })).await;
    }
    shared.closed.notify_one();
}
