//! Real file systems on loop devices, a real agent on a unix socket, and a client that plays the host.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use stillpoint_agent::freezer::kernel;
use stillpoint_proto::guest::v1::{
    self as pb, guest_agent_client::GuestAgentClient, quiesce_request, quiesce_response::Step,
};
use stillpoint_transport::dial;
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Settings of an agent that finds none of this machine's own servers.
pub(crate) const NO_SERVERS: &str =
    "postgresql.sockets = off\nmariadb.sockets = off\nredis.sockets = off\nredis.ports = off\n";

/// An ext4 in a file, mounted; and another one in a file on the first.
pub(crate) struct Disks {
    folder: TempDir,
    mounted: Vec<PathBuf>,
}

impl Disks {
    pub(crate) fn one() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outer = folder.path().join("outer");
        mount_new(&folder.path().join("outer.img"), &outer, 64);
        Self { folder, mounted: vec![outer] }
    }

    pub(crate) fn stacked() -> Self {
        let mut disks = Self::one();
        let inner = disks.folder.path().join("inner");
        mount_new(&disks.outer().join("inner.img"), &inner, 16);
        disks.mounted.push(inner);
        disks
    }

    pub(crate) fn below(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn outer(&self) -> PathBuf {
        self.mounted[0].clone()
    }

    pub(crate) fn inner(&self) -> PathBuf {
        self.mounted[1].clone()
    }

    /// True: it was frozen. It is not any more.
    pub(crate) fn thaw(&self) -> bool {
        let thaws = self.mounted.iter().map(|path| kernel::thaw(fs::File::open(path).unwrap()).unwrap());
        thaws.fold(false, |any, frozen| any | frozen)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.thaw();
        for path in self.mounted.iter().rev() {
            run("umount", &["-l".as_ref(), path.as_os_str()]);
        }
    }
}

fn mount_new(image: &Path, mount_point: &Path, mebibytes: u64) {
    fs::File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), image.as_os_str()]);
    fs::create_dir(mount_point).unwrap();
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), mount_point.as_os_str()]);
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status} (these tests need root and loop devices)");
}

/// Writes and syncs without a pause, and remembers the longest one it was made to take.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    last: Arc<Mutex<std::time::Instant>>,
    thread: Option<JoinHandle<Duration>>,
}

impl Writer {
    pub(crate) fn start(folder: &Path) -> Self {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(std::time::Instant::now())));
        let mut file = fs::File::create(folder.join("written")).unwrap();
        let thread = std::thread::spawn({
            let (stop, last) = (Arc::clone(&stop), Arc::clone(&last));
            move || {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    file.write_all(&[7; 512]).unwrap();
                    file.sync_data().unwrap();
                    let mut last = last.lock().unwrap();
                    longest = longest.max(last.elapsed());
                    *last = std::time::Instant::now();
                    drop(last);
                    std::thread::sleep(Duration::from_millis(1));
                }
                longest
            }
        });
        Self { stop, last, thread: Some(thread) }
    }

    /// How long ago the last write was done.
    pub(crate) fn silent_for(&self) -> Duration {
        self.last.lock().unwrap().elapsed()
    }

    pub(crate) async fn is_held(&self) {
        self.wait("is held", |silent| silent > Duration::from_millis(150)).await;
    }

    pub(crate) async fn goes_on(&self) {
        self.wait("goes on", |silent| silent < Duration::from_millis(50)).await;
    }

    async fn wait(&self, what: &str, is: impl Fn(Duration) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !is(self.silent_for()) {
            assert!(Instant::now() < until, "the writer never {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops; answers the longest pause between two writes.
    pub(crate) fn longest_pause(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// The agent's own program, on a socket.
pub(crate) struct Agent {
    process: Child,
    pub(crate) socket: PathBuf,
    /// Where writers register.
    pub(crate) writers: PathBuf,
    config: PathBuf,
    folder: TempDir,
}

impl Agent {
    pub(crate) fn start(disks: &Disks) -> Self {
        Self::start_with(disks, &[])
    }

    pub(crate) fn start_with(disks: &Disks, environment: &[(&str, &str)]) -> Self {
        Self::start_all(disks, None, environment)
    }

    /// With these settings of writers; else with none of the built-in ones.
    pub(crate) fn start_configured(disks: &Disks, config: &Path) -> Self {
        Self::start_all(disks, Some(config), &[])
    }

    fn start_all(disks: &Disks, config: Option<&Path>, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let none = folder.path().join("config");
        fs::write(&none, format!("scripts.folder = off\nhooks.folder = off\n{NO_SERVERS}")).unwrap();
        let config = config.map_or(none, Path::to_owned);
        let (socket, writers) = (folder.path().join("agent"), folder.path().join("writers"));
        let process = spawn(disks, [&socket, &writers, &config], environment);
        Self { process, socket, writers, config, folder }
    }

    /// Another one in its place, after it was killed.
    pub(crate) fn start_again(&mut self, disks: &Disks) {
        self.process = spawn(disks, [&self.socket, &self.writers, &self.config], &[]);
    }

    /// As an init system ends it.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The process ids of its children, of whichever thread: the guardians.
    pub(crate) fn children(&self) -> Vec<u32> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let of_thread = |thread: PathBuf| fs::read_to_string(thread.join("children")).unwrap_or_default();
        let children: Vec<_> = threads.map(|thread| of_thread(thread.unwrap().path())).collect();
        children.iter().flat_map(|some| some.split_whitespace()).map(|child| child.parse().unwrap()).collect()
    }

    /// A host that speaks as to qemu-ga.
    pub(crate) async fn qga(&self) -> tokio::net::UnixStream {
        let (path, until) = (qga_socket(&self.socket), Instant::now() + Duration::from_secs(20));
        loop {
            match tokio::net::UnixStream::connect(&path).await {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn host(&self) -> Host {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { dial(&socket, Instant::now() + Duration::from_secs(10)).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent").connect_with_connector(connect).await.unwrap();
        Host { client: GuestAgentClient::new(channel) }
    }
}

/// Where it answers as qemu-ga does.
fn qga_socket(agent: &Path) -> PathBuf {
    agent.with_file_name("qga")
}

fn spawn(disks: &Disks, paths: [&Path; 3], environment: &[(&str, &str)]) -> Child {
    let [socket, writers, config] = paths;
    let qga = qga_socket(socket);
    for left_behind in [socket, qga.as_path()] {
        let _ = fs::remove_file(left_behind);
    }
    Command::new(env!("CARGO_BIN_EXE_stillpoint-agent"))
        .arg("--listen")
        .arg(socket)
        .arg("--qga-listen")
        .arg(qga)
        .arg("--writers")
        .arg(writers)
        .arg("--config")
        .arg(config)
        .arg("--below")
        .arg(disks.below())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) struct Host {
    pub(crate) client: GuestAgentClient<Channel>,
}

impl Host {
    pub(crate) async fn hello(&mut self) -> pb::HelloResponse {
        self.client.hello(pb::HelloRequest::default()).await.unwrap().into_inner()
    }

    /// Says that the guest was brought back to a checkpoint.
    pub(crate) async fn restored(
        &mut self,
        checkpoint: &str,
        with_memory: bool,
        writers: Vec<pb::RestoredWriter>,
    ) -> Result<(), Status> {
        let (restore_id, checkpoint_id) = (uuid::Uuid::new_v4().to_string(), checkpoint.to_owned());
        let request = pb::RestoredRequest { restore_id, checkpoint_id, with_memory, writers };
        self.client.restored(request).await.map(drop)
    }

    pub(crate) async fn open(&mut self) -> Session {
        let (steps, stream) = mpsc::channel(4);
        let answers = self.client.quiesce(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Session { steps, answers }
    }

    /// A session that is prepared.
    pub(crate) async fn prepared(&mut self, lease: Duration) -> Session {
        let mut session = self.open().await;
        session.start(lease).await;
        assert!(matches!(session.answer().await, Ok(Some(Step::Prepared(_)))));
        session
    }

    /// A session that holds the guest.
    pub(crate) async fn frozen(&mut self, lease: Duration) -> (Session, pb::Frozen) {
        let mut session = self.prepared(lease).await;
        session.freeze().await;
        match session.answer().await {
            Ok(Some(Step::Frozen(frozen))) => (session, frozen),
            other => panic!("not frozen: {other:?}"),
        }
    }
}

pub(crate) struct Session {
    pub(crate) steps: mpsc::Sender<pb::QuiesceRequest>,
    pub(crate) answers: Streaming<pb::QuiesceResponse>,
}

impl Session {
    pub(crate) async fn start(&self, lease: Duration) {
        self.start_with(lease, pb::QuiesceOptions::default()).await;
    }

    pub(crate) async fn start_with(&self, lease: Duration, options: pb::QuiesceOptions) {
        self.send(quiesce_request::Step::Start(pb::Start {
            session_id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            lease: Some(prost_types::Duration::try_from(lease).unwrap()),
            options: Some(options),
            ..Default::default()
        }))
        .await;
    }

    pub(crate) async fn settle(&mut self) -> pb::Settled {
        self.send(quiesce_request::Step::Settle(pb::Settle {})).await;
        match self.answer().await {
            Ok(Some(Step::Settled(settled))) => settled,
            other => panic!("not settled: {other:?}"),
        }
    }

    pub(crate) async fn complete(&mut self) -> pb::Completed {
        self.send(quiesce_request::Step::Complete(pb::Complete {})).await;
        match self.answer().await {
            Ok(Some(Step::Completed(completed))) => completed,
            other => panic!("not completed: {other:?}"),
        }
    }

    pub(crate) async fn freeze(&self) {
        self.send(quiesce_request::Step::Freeze(pb::Freeze {})).await;
    }

    pub(crate) async fn thaw(&mut self) -> pb::Thawed {
        self.send(quiesce_request::Step::Thaw(pb::Thaw {})).await;
        match self.answer().await {
            Ok(Some(Step::Thawed(thawed))) => thawed,
            other => panic!("not thawed: {other:?}"),
        }
    }

    pub(crate) async fn send(&self, step: quiesce_request::Step) {
        self.steps.send(pb::QuiesceRequest { step: Some(step) }).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> Result<Option<Step>, Status> {
        let answer = timeout(Duration::from_secs(20), self.answers.message()).await.expect("an answer in time")?;
        Ok(answer.and_then(|answer| answer.step))
    }
}
