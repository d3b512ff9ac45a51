//! Servers that are found by where they listen: a writer for each, for as long as somebody listens.
//!
//! To a unix socket the agent connects as the user whom the socket belongs to, so that the server knows it by peer credentials
//! and no password has to be kept anywhere. Only the connecting thread takes that user on, and it ends with the
//! connection made: nothing else of the agent ever runs as somebody else.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    future::Future,
    io,
    net::Ipv4Addr,
    os::unix::{fs::MetadataExt as _, net::UnixStream as Blocking},
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
use tracing::debug;

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
    /// Something that changes when another server takes the place; none: nobody can be there.
    fn identity(&self) -> Option<u64> {
        use std::os::unix::fs::FileTypeExt as _;
        let Self::Socket(path) = self else { return Some(0) };
        let facts = std::fs::symlink_metadata(path).ok()?;
        facts.file_type().is_socket().then(|| facts.ino())
    }

    /// A server that was killed leaves its socket behind.
    async fn listens(&self) -> bool {
        let tried = match self {
            Self::Socket(path) => UnixStream::connect(path).await.map(drop),
            Self::Port(port) => TcpStream::connect((LOCAL, *port)).await.map(drop),
        };
        // Too busy to take us, or not for us: somebody is there.
        !tried.is_err_and(|error| matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
    }
}

/// Keeps a writer registered for each server of this kind that answers. Runs for ever.
pub(super) async fn keep<K: Kind>(registry: Registry, kind: K) {
    let mut known: BTreeMap<Place, (u64, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let found: BTreeMap<Place, u64> =
            kind.places().into_iter().filter_map(|place| Some((place.clone(), place.identity()?))).collect();
        let mut gone = Vec::new();
        for (place, (identity, task)) in &known {
            if found.get(place) != Some(identity) || task.is_finished() || !place.listens().await {
                gone.push(place.clone());
            }
        }
        for place in gone {
            known.remove(&place).into_iter().for_each(|(_, task)| task.abort());
        }
        for (place, identity) in found {
            if let Entry::Vacant(vacant) = known.entry(place) {
                match timeout(INTRODUCTION, kind.meet(vacant.key().clone())).await {
                    Ok(Ok((who, writer))) => drop(vacant.insert((identity, local::attach(&registry, who, writer)))),
                    Ok(Err(why)) => debug!(why, place = %vacant.key(), "no writer for what listens here"),
                    Err(_) => debug!(place = %vacant.key(), "a server does not say who it is"),
                }
            }
        }
        tokio::time::sleep(LOOK).await;
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

fn connect_as(user: Uid, group: Gid, path: &Path) -> io::Result<Blocking> {
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let stream = Blocking::connect(path)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
