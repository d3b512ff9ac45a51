//! Answers hosts that speak as to qemu-ga, on a port of their own: a part of its protocol, with our own hold behind it.
//!
//! ```text
//!   port ──▶ split ──▶ command ──▶ here ──▶ hold ──▶ coordinator, writers, freezer, guardian
//!    ▲                               │
//!    └───────── one line each ───────┘
//! ```
//! What is different from qemu-ga is what a host could wish for: writers are asked, a freeze that not all of them can join
//! is an error, and no freeze outlives its lease. A thaw that comes later answers 0, as qemu-ga does when somebody else has
//! thawed. `guest-fsfreeze-status` tells the truth at every moment. Everything that runs programs, reads or writes files or
//! changes settings is not there.

mod command;
mod hold;
mod split;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use stillpoint_transport::{Port, VirtioPort, find_virtio_port};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use self::{
    command::{Command, Refused, Request, answer},
    hold::Holder,
    split::{Piece, Splitter},
};
use crate::{
    QGA_PORT_NAME,
    clock::{Clocks, Reference},
    coordinator::Coordinator,
    freezer::kernel,
    system::SystemNames,
    writers::builtin::config::{QemuGa, QgaPort},
};

/// How often the port is looked for.
const LOOK: Duration = Duration::from_secs(5);
/// How long a host may take to read an answer. What it does not read it has no use for.
const UNREAD: Duration = Duration::from_secs(2);
/// Where qemu-ga is if it is installed: then the usual port is its own.
const QEMU_GA: [&str; 3] = ["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga", "/usr/local/bin/qemu-ga"];

/// Serves the port that the settings name, for as long as it is polled, and waits for it when it is not there.
pub async fn keep(coordinator: Coordinator, settings: QemuGa) {
    let mut told = false;
    loop {
        let path = match &settings.port {
            QgaPort::Off => return,
            QgaPort::At(path) => Some(path.clone()),
            QgaPort::Usual => usual_port(),
        };
        match path.map(|path| VirtioPort::open(&path)) {
            Some(Ok(port)) => {
                info!("hosts that speak as to qemu-ga are answered");
                told = false;
                let error = serve(&port, coordinator.clone(), settings.lease).await;
                warn!(%error, "the port for hosts that speak as to qemu-ga is lost");
            }
            Some(Err(error)) if !told => {
                warn!(%error, "the port for hosts that speak as to qemu-ga cannot be opened: waiting for it");
                told = true;
            }
            Some(Err(_)) | None => {}
        }
        sleep(LOOK).await;
    }
}

fn usual_port() -> Option<PathBuf> {
    let is_installed = QEMU_GA.iter().any(|program| Path::new(program).exists());
    if is_installed { None } else { find_virtio_port(QGA_PORT_NAME).ok() }
}

/// Serves one port until it is lost. Nothing that was frozen through it is frozen then.
pub async fn serve(port: &impl Port, coordinator: Coordinator, lease: Duration) -> io::Error {
    let mut holder = Holder::new(coordinator, lease);
    let mut splitter = Splitter::default();
    let mut buffer = [0; 4096];
    let error = loop {
        let read = tokio::select! {
            () = holder.is_over() => {
                holder.release().await;
                continue;
            }
            read = port.read(&mut buffer) => read,
        };
        match read {
            // The host is away, or only for a moment: what it has frozen stays frozen until its lease ends.
            Ok(0) => tokio::select! {
                () = holder.is_over() => holder.release().await,
                () = port.host_changed() => {}
            },
            Ok(count) => {
                let mut is_read = true;
                for piece in splitter.feed(&buffer[..count]) {
                    let answer = answer_to(piece, &mut holder).await;
                    is_read = is_read && put(port, &answer).await;
                }
            }
            Err(error) => break error,
        }
    };
    holder.release().await;
    error
}

/// What the host does not take in time is dropped: false.
async fn put(port: &impl Port, mut bytes: &[u8]) -> bool {
    let sent = timeout(UNREAD, async {
        while !bytes.is_empty() {
            let count = port.write(bytes).await?;
            bytes = &bytes[count..];
        }
        io::Result::Ok(())
    });
    let is_read = matches!(sent.await, Ok(Ok(())));
    if !is_read {
        debug!("an answer was not read");
    }
    is_read
}

async fn answer_to(piece: Piece, holder: &mut Holder) -> Vec<u8> {
    let refused = |why: String| answer(None, None, Err(Refused::because(why)));
    let bytes = match piece {
        Piece::Request(bytes) => bytes,
        Piece::Garbage => {
            return refused("no request: it does not begin with an object, or is nested too deeply".to_owned());
        }
        Piece::TooLong => return refused(format!("a request has at most {} bytes", split::LONGEST)),
    };
    match command::read(&bytes, holder.is_frozen()) {
        Ok(request) => {
            let result = act(&request, holder).await;
            answer(Some(request.command), request.id, result)
        }
        Err((refused, id)) => answer(None, id, Err(refused)),
    }
}

async fn act(request: &Request, holder: &mut Holder) -> Result<Value, Refused> {
    match request.command {
        Command::Sync | Command::SyncDelimited => {
            let id = request.number("id")?.ok_or_else(|| Refused::because("`id` is missing"))?;
            Ok(json!(id))
        }
        Command::Ping => Ok(json!({})),
        Command::Info => Ok(command::info(holder.is_frozen())),
        Command::FreezeStatus => Ok(json!(if holder.is_frozen() { "frozen" } else { "thawed" })),
        Command::Freeze => Ok(json!(holder.freeze(None).await?)),
        Command::FreezeList => {
            let only = request.texts("mountpoints")?;
            let only = only.map(|paths| paths.into_iter().map(PathBuf::from).collect());
            Ok(json!(holder.freeze(only).await?))
        }
        Command::Thaw => Ok(json!(holder.thaw().await?)),
        Command::GetTime => {
            let nanos = Clocks::read().time.as_nanos();
            Ok(json!(i64::try_from(nanos).unwrap_or(i64::MAX)))
        }
        Command::SetTime => set_time(request.number("time")?).map(|()| json!({})),
        Command::HostName => Ok(json!({ "host-name": SystemNames::read().hostname })),
        Command::OsInfo => Ok(os_info()),
    }
}

/// The time of day in nanoseconds since 1970; none: the one of the machine's own clock.
fn set_time(nanos: Option<i64>) -> Result<(), Refused> {
    const YEAR_2200: u64 = 7_258_118_400;
    let time = match nanos {
        Some(nanos) => u64::try_from(nanos).ok().map(Duration::from_nanos),
        None => machine_time(),
    };
    let time =
        time.filter(|time| time.as_secs() < YEAR_2200).ok_or_else(|| Refused::because("there is no such time"))?;
    let reference = Reference { boot: kernel::boot_time(), time, uncertainty: Duration::ZERO };
    reference.set().map_err(|error| Refused::because(format!("the clock cannot be set: {error}")))?;
    info!("clock set");
    Ok(())
}

fn machine_time() -> Option<Duration> {
    let told = std::fs::read_to_string("/sys/class/rtc/rtc0/since_epoch").ok()?;
    told.trim().parse().ok().map(Duration::from_secs)
}

fn os_info() -> Value {
    let uname = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let mut told = json!({
        "kernel-release": text(uname.release()),
        "kernel-version": text(uname.version()),
        "machine": text(uname.machine()),
    });
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    for (key, name) in [
        ("ID", "id"),
        ("NAME", "name"),
        ("PRETTY_NAME", "pretty-name"),
        ("VERSION", "version"),
        ("VERSION_ID", "version-id"),
        ("VARIANT", "variant"),
        ("VARIANT_ID", "variant-id"),
    ] {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        if let Some(value) = line {
            told[name] = json!(value.trim().trim_matches(['"', '\'']));
        }
    }
    told
}
