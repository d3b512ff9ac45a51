//! What the service is told when it starts.

use std::path::PathBuf;

use clap::Parser;

/// Checkpoints for QEMU/KVM virtual machines: the host service.
#[derive(Debug, Clone, Parser)]
#[command(name = "stillpointd", version)]
pub struct Options {
    /// Folder of the catalogue and of checkpoints that have no location of their own.
    #[arg(long, env = "STILLPOINT_STATE", default_value = "/var/lib/stillpoint")]
    pub state_folder: PathBuf,
    /// Folder of sockets and runtime files of VMs. Keep it short: a socket's path has 107 bytes at most.
    #[arg(long, env = "STILLPOINT_RUN", default_value = "/run/stillpoint")]
    pub run_folder: PathBuf,
    /// Socket to serve clients on; default: `api.sock` in the run folder. Only its owner may connect.
    #[arg(long, env = "STILLPOINT_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The longest time in seconds that a guest may be held by a production checkpoint.
    #[arg(long, env = "STILLPOINT_LEASE", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub lease_seconds: u64,
    /// MiB that stay free on each file system: what would leave less is refused before it begins.
    #[arg(long, env = "STILLPOINT_KEEP_FREE", default_value_t = 64, value_name = "MIB")]
    pub keep_free: u32,
    /// MiB that there must be for each new layer to grow into.
    #[arg(long, env = "STILLPOINT_LAYER_ROOM", default_value_t = 16, value_name = "MIB")]
    pub layer_room: u32,
    /// The longest time in seconds that writers in a guest may be held by a production checkpoint; the lease is a part
    /// of it.
    #[arg(long, env = "STILLPOINT_WRITER_WINDOW", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub writer_window_seconds: u64,
    /// Make production checkpoints without writers that cannot be held. They are named, and the checkpoint is not called
    /// application-consistent.
    #[arg(long, env = "STILLPOINT_LEAVE_OUT_WRITERS")]
    pub leave_out_writers: bool,
    /// MiB that are held in reserve beside the catalogue, so that it can be written when its file system is full.
    #[arg(long, env = "STILLPOINT_JOURNAL_RESERVE", default_value_t = 16, value_name = "MIB")]
    pub journal_reserve: u32,
    /// Load all of a VM's memory before it runs again, when a checkpoint is applied or a saved VM is started. Otherwise it runs
    /// at once and its memory follows, where the host can do so.
    #[arg(long, env = "STILLPOINT_LOAD_WHOLE")]
    pub load_whole: bool,
}

impl Options {
    /// The socket to serve clients on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_folder.join("api.sock"))
    }
}
