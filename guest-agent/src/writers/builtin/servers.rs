//! Servers that are found by the unix sockets on which they listen: a writer for each, for as long as somebody listens.
//!
//! The agent connects as the user whom the socket belongs to, so that the server knows it by peer credentials
//! and no password has to be kept anywhere. Only the connecting thread takes that user on, and it ends with the
//! connection made: nothing else of the agent ever runs as somebody else.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    future::Future,
    io,
    os::unix::{fs::MetadataExt as _, net},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle, time::timeout};
use tracing::debug;

use crate::writers::{local, registration::Registration, registry::Registry, sdk::Writer};

/// How often sockets are looked for, and asked whether somebody still listens.
const LOOK: Duration = Duration::from_secs(5);
/// How long a server may take to say who it is, when nobody waits for it.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// A kind of server.
pub(super) trait Kind: Send + 'static {
    /// What speaks to one server.
    type Writer: Writer + 'static;

    /// Sockets on which there may be a server.
    fn sockets(&self) -> Vec<PathBuf>;

    /// Asks the server on this socket who it is. Dropping the future is fine.
    fn meet(&self, socket: PathBuf) -> impl Future<Output = Result<(Registration, Self::Writer), String>> + Send;
}

/// Keeps a writer registered for each server of this kind that answers. Runs for ever.
pub(super) async fn keep<K: Kind>(registry: Registry, kind: K) {
    let mut known: BTreeMap<PathBuf, (u64, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let found: BTreeMap<PathBuf, u64> =
            kind.sockets().into_iter().filter_map(|path| Some((path.clone(), inode(&path)?))).collect();
        let mut gone = Vec::new();
        for (socket, (inode, task)) in &known {
            if found.get(socket) != Some(inode) || task.is_finished() || !listens(socket).await {
                gone.push(socket.clone());
            }
        }
        for socket in gone {
            known.remove(&socket).into_iter().for_each(|(_, task)| task.abort());
        }
        for (socket, inode) in found {
            if let Entry::Vacant(place) = known.entry(socket) {
                match timeout(INTRODUCTION, kind.meet(place.key().clone())).await {
                    Ok(Ok((who, writer))) => drop(place.insert((inode, local::attach(&registry, who, writer)))),
                    Ok(Err(why)) => debug!(why, socket = %place.key().display(), "no writer for this socket"),
                    Err(_) => debug!(socket = %place.key().display(), "a server does not say who it is"),
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

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::FileTypeExt as _;
    let facts = std::fs::symlink_metadata(path).ok()?;
    facts.file_type().is_socket().then(|| facts.ino())
}

/// A server that was killed leaves its socket behind.
async fn listens(socket: &Path) -> bool {
    match UnixStream::connect(socket).await {
        Ok(_) => true,
        // Too busy to take us, or not for us: somebody is there.
        Err(error) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
    }
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
