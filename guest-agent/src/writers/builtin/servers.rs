//! Servers that are found by where they listen: a writer for each, for as long as somebody listens. One that is found in
//! two places is known by its name, and has one writer.
//!
//! To a unix socket the agent connects as the user whom it belongs to, so that the server knows it by peer credentials
//! and no password has to be kept anywhere. Only the connecting thread takes that user on, and it ends with the
//! connection made: nothing else of the agent ever runs as somebody else.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    net::Ipv4Addr,
    os::unix::{fs::MetadataExt as _, net},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tracing::info;

use crate::writers::{local, registration::Registration, registry::Registry, sdk::Writer};

/// How often sockets are looked for, and asked whether somebody still listens.
const LOOK: Duration = Duration::from_secs(5);
/// How long a server may take to say who it is, when nobody waits for it.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Where ports are: a server of another machine is none of ours.
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A kind of server.
pub(super) trait Kind: Send + 'static {
    /// What speaks to one server.
    type Writer: Writer + 'static;

    /// Where there may be a server.
    fn places(&self) -> Vec<Place>;

    /// Asks the server there who it is. Dropping the future is fine.
    fn meet(&self, place: Place) -> impl Future<Output = Result<(Registration, Self::Writer), String>> + Send;
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// On a unix socket.
    Socket(PathBuf),
    /// On a port of this machine.
    Port(u16),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

impl Place {
    /// Something that changes when another server makes a socket here; none: nobody can be here.
    fn identity(&self) -> Option<u64> {
        use std::os::unix::fs::FileTypeExt as _;
        let Self::Socket(path) = self else { return Some(0) };
        let facts = std::fs::symlink_metadata(path).ok()?;
        facts.file_type().is_socket().then(|| facts.ino())
    }

    /// Whether there is somebody. A server that was killed leaves its socket behind.
    async fn listens(&self) -> bool {
        let tried = match self {
            Self::Socket(path) => timeout(INTRODUCTION, UnixStream::connect(path)).await.map(|tried| tried.map(drop)),
            Self::Port(port) => {
                timeout(INTRODUCTION, TcpStream::connect((LOCAL, *port))).await.map(|tried| tried.map(drop))
            }
        };
        // Too busy to take us, or not for us: somebody is there.
        let nobody =
            |error: io::Error| matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
        !tried.is_ok_and(|tried| tried.is_err_and(nobody))
    }
}

/// A server that has a writer.
struct Known {
    identity: u64,
    name: String,
    task: JoinHandle<()>,
}

/// Keeps a writer registered for each server of this kind that answers. Runs for ever.
pub(super) async fn keep<K: Kind>(registry: Registry, kind: K) {
    let mut known: BTreeMap<Place, Known> = BTreeMap::new();
    let mut said: BTreeMap<Place, String> = BTreeMap::new();
    loop {
        let places = kind.places().into_iter().filter_map(|place| Some((place.clone(), place.identity()?)));
        let found: BTreeMap<Place, u64> = places.collect();
        let mut gone = Vec::new();
        for (place, Known { identity, task, .. }) in &known {
            if found.get(place) != Some(identity) || task.is_finished() || !place.listens().await {
                gone.push(place.clone());
            }
        }
        for place in gone {
            known.remove(&place).into_iter().for_each(|known| known.task.abort());
        }
        said.retain(|place, _| found.contains_key(place));
        for (place, identity) in found {
            if known.contains_key(&place) || !place.listens().await {
                continue;
            }
            match meet(&kind, &place, &known).await {
                Ok((who, writer)) => {
                    let name = who.name.clone();
                    let task = local::attach(&registry, who, writer);
                    said.remove(&place);
                    known.insert(place, Known { identity, name, task });
                }
                // Once: it is asked again every few seconds.
                Err(why) if said.get(&place) != Some(&why) => {
                    info!(why, %place, "no writer for what listens here");
                    said.insert(place, why);
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn meet<K: Kind>(
    kind: &K,
    place: &Place,
    known: &BTreeMap<Place, Known>,
) -> Result<(Registration, K::Writer), String> {
    let met = timeout(INTRODUCTION, kind.meet(place.clone())).await;
    let (who, writer) = met.map_err(|_| "it does not say who it is".to_owned())??;
    match known.iter().find(|(_, known)| known.name == who.name) {
        Some((elsewhere, _)) => Err(format!("{} has its writer, through {elsewhere}", who.name)),
        None => Ok((who, writer)),
    }
}

/// Sockets in these folders whose names are as wanted, by path.
pub(super) fn sockets_in(folders: &[PathBuf], wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = folders.iter().flat_map(std::fs::read_dir).flatten().flatten();
    let fits = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted);
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(fits).collect();
    found.sort();
    found
}

/// Connects as the user whom the socket belongs to; an agent that is not root, as itself.
pub(super) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let owner = std::fs::symlink_metadata(socket)?;
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    let as_it_is = user.is_root() || !rustix::process::geteuid().is_root();
    if as_it_is {
        return UnixStream::connect(socket).await;
    }
    let path = socket.to_owned();
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new().name("connect".into()).spawn(move || {
        // Whoever has given up waiting does not want the connection.
        let _ = answer.send(connect_as(user, group, &path));
    })?;
    let stream = answered.await.map_err(|_| io::Error::other("the connecting thread ended"))??;
    UnixStream::from_std(stream)
}

fn connect_as(user: Uid, group: Gid, path: &Path) -> io::Result<net::UnixStream> {
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let stream = net::UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
