//! Disks of backups over NBD: one `qemu-nbd` for each, read-only, in a folder of its own.
//!
//! The folder has the socket, the log, and who the process is; so that an earlier service's are found again and ended, and no
//! other process ever is.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_common::{BackupId, DiskName, LayerFile};
use stillpoint_engine::ports::{Endpoints, ImageError};
use tokio::{
    io::AsyncReadExt as _,
    net::UnixStream,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::{
    QemuConfig,
    attached::words,
    process::{self, ProcessIdentity},
};

/// Clients that one endpoint serves at a time.
const CLIENTS: &str = "--shared=8";
/// Between two looks at a process that begins.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one waits for the greeting of a server.
const PATIENCE: Duration = Duration::from_secs(1);

/// Endpoints below one folder.
#[derive(Debug)]
pub struct QemuEndpoints {
    program: PathBuf,
    folder: PathBuf,
    start: Duration,
    quit: Duration,
    /// One is opened or closed at a time. Held while a process begins or ends, which has a deadline.
    turn: Mutex<()>,
}

impl QemuEndpoints {
    /// Below this folder, which has nothing else in it: `/run/stillpoint/nbd`, say.
    #[must_use]
    pub fn new(config: &QemuConfig, folder: impl Into<PathBuf>) -> Self {
        let (start, quit) = (config.deadlines.start, config.deadlines.quit);
        Self { program: config.qemu_nbd.clone(), folder: folder.into(), start, quit, turn: Mutex::default() }
    }

    /// The path of a socket may have 107 bytes at most.
    fn folder_of(&self, backup: BackupId, disk: &DiskName) -> PathBuf {
        self.folder.join(format!("{}{disk}", prefix(backup)))
    }

    async fn serve(&self, folder: &Path, head: &LayerFile) -> Result<(), ImageError> {
        make(folder).map_err(|error| failed("making the folder of an endpoint", &error))?;
        let log = File::create(folder.join("log")).map_err(|error| failed("making the log of an endpoint", &error))?;
        let arguments = [
            "--read-only".into(),
            "--persistent".into(),
            CLIENTS.into(),
            format!("--format={}", head.format.driver()).into(),
            "--socket".into(),
            folder.join(SOCKET).into_os_string(),
            head.path.clone().into_os_string(),
        ];
        let child = process::start(folder, &self.program, &arguments, &log);
        let mut child = child.map_err(|error| failed("starting qemu-nbd", &error))?;
        let deadline = Instant::now() + self.start;
        while greeted(&folder.join(SOCKET)).await != Greeting::Given {
            let ended = child.try_wait().map_err(|error| failed("waiting for qemu-nbd", &error))?;
            if ended.is_some() || Instant::now() >= deadline {
                let said = words(&fs::read(folder.join("log")).unwrap_or_default());
                let message = said.unwrap_or_else(|| "it said nothing, and serves nothing".to_owned());
                return Err(ImageError::Failed { what: format!("qemu-nbd, {}", head.path.display()), message });
            }
            sleep(PAUSE).await;
        }
        // It is reaped whenever it ends.
        tokio::spawn(async move { child.wait().await });
        let only_ours = fs::set_permissions(folder.join(SOCKET), fs::Permissions::from_mode(0o600));
        only_ours.map_err(|error| failed("closing an endpoint to others", &error))
    }

    /// Ends the process that was started in a folder, and removes that.
    async fn end(&self, folder: &Path) -> Result<(), ImageError> {
        let found = ProcessIdentity::find(folder).map_err(|error| failed("looking for qemu-nbd", &error))?;
        if let Some(identity) = found {
            identity.kill().map_err(|error| failed("ending qemu-nbd", &error))?;
            if !identity.ended(self.quit).await {
                let message = format!("it did not end within {:?}", self.quit);
                return Err(ImageError::Failed { what: "ending qemu-nbd".to_owned(), message });
            }
        }
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing an endpoint", &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn end_all(&self, which: impl Fn(&str) -> bool) -> Result<(), ImageError> {
        let Ok(all) = fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in all.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&which)) {
            self.end(&entry.path()).await?;
        }
        Ok(())
    }
}

const SOCKET: &str = "nbd";

/// The end of the id, which is random.
fn prefix(backup: BackupId) -> String {
    let id = backup.as_uuid().simple().to_string();
    format!("{}-", &id[16..])
}

/// The socket of this folder, if a process of ours serves it.
async fn serves(folder: &Path) -> Option<PathBuf> {
    let socket = folder.join(SOCKET);
    let alive = ProcessIdentity::read(folder).is_some_and(|identity| identity.is_alive());
    (alive && greeted(&socket).await != Greeting::Refused).then_some(socket)
}

/// What a socket answers to one who comes.
#[derive(PartialEq, Eq)]
enum Greeting {
    /// Somebody serves the disk.
    Given,
    /// Somebody listens and does not answer yet: it has as many clients as it takes, or it begins.
    Awaited,
    Refused,
}

/// Whether somebody serves here. That one can connect proves nothing: qemu-nbd listens before it has opened the disk, and
/// one that is about to die still has a socket.
async fn greeted(socket: &Path) -> Greeting {
    let Ok(mut stream) = UnixStream::connect(socket).await else { return Greeting::Refused };
    let mut magic = [0; 8];
    match timeout(PATIENCE, stream.read_exact(&mut magic)).await {
        Ok(Ok(_)) if &magic == b"NBDMAGIC" => Greeting::Given,
        Ok(_) => Greeting::Refused,
        Err(_) => Greeting::Awaited,
    }
}

/// Whoever may not enter the folder does not reach the socket, from its first moment on.
fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn failed(what: &str, error: &io::Error) -> ImageError {
    ImageError::Failed { what: what.to_owned(), message: error.to_string() }
}

#[async_trait]
impl Endpoints for QemuEndpoints {
    async fn find(&self, backup: BackupId, disk: &DiskName) -> Result<Option<PathBuf>, ImageError> {
        Ok(serves(&self.folder_of(backup, disk)).await)
    }

    async fn open(&self, backup: BackupId, disk: &DiskName, head: &LayerFile) -> Result<PathBuf, ImageError> {
        let _turn = self.turn.lock().await;
        let folder = self.folder_of(backup, disk);
        if let Some(socket) = serves(&folder).await {
            return Ok(socket);
        }
        self.end(&folder).await?;
        let served = self.serve(&folder, head).await;
        if served.is_err() {
            self.end(&folder).await?;
        }
        served.map(|()| folder.join(SOCKET))
    }

    async fn close(&self, backup: BackupId) -> Result<(), ImageError> {
        let _turn = self.turn.lock().await;
        let prefix = prefix(backup);
        self.end_all(|name| name.starts_with(&prefix)).await
    }

    async fn close_all(&self) -> Result<(), ImageError> {
        let _turn = self.turn.lock().await;
        self.end_all(|_| true).await
    }
}
