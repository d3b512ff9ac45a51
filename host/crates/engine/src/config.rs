//! What the engine can be told.

use std::{path::PathBuf, time::Duration};

use stillpoint_common::WriterRequest;

/// Deadlines, limits and folders. Every wait on a peer has its deadline here or in the adapter that does the waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Below it each VM gets a folder for configuration and memory of its checkpoints, unless it has one of its own.
    pub checkpoints_folder: PathBuf,
    /// The longest time a guest may be held by a production checkpoint (10 s).
    pub lease: Duration,
    /// How long writers in a guest may be held (60 s), and what becomes of a checkpoint when one cannot be.
    pub writers: WriterRequest,
    /// How long the guest may take to say what runs in it when a checkpoint is made (2 s).
    pub observe_guest: Duration,
    /// How often the agents of running VMs are asked for a sign of life (10 s); `None`: never by itself.
    pub heartbeat: Option<Duration>,
    /// How long a guest may take to switch itself off (90 s).
    pub graceful_stop: Duration,
    /// How long loading a memory state may take (10 min).
    pub memory_load: Duration,
    /// Let a VM whose memory is loaded run before all of it is in, where that is possible (true).
    pub load_by_page: bool,
    /// How long who reads a memory state may take to say whether it was whole, once it is loaded (10 s).
    pub memory_told: Duration,
    /// How long to try to set the clock after an apply (20 s).
    pub clock_after_apply: Duration,
    /// How long a QEMU may take to give up a merge for something more urgent (10 s).
    pub make_way: Duration,
    /// How long after a failed merge it is tried again (30 s); each further failure doubles it, up to an hour.
    pub merge_again: Duration,
    /// How often a VM that fails is brought back within an hour at most (3).
    pub recoveries_an_hour: usize,
    /// What tells one boot of the host from another. A process of another boot has not failed: it ended with the host.
    pub host_boot: String,
    /// The most checkpoints a VM may have (50).
    pub max_checkpoints: usize,
    /// The most reference points a VM may have (16).
    pub max_reference_points: usize,
    /// How many operations that have ended are remembered over a restart (1,000).
    pub remembered_operations: usize,
    /// How many events are remembered (10,000), and up to a hundred more.
    pub remembered_events: usize,
    /// What is done so that no file system becomes full.
    pub space: SpaceConfig,
    /// The longest waits on ports.
    pub limits: PortLimits,
    /// How long a client who looks at a VM waits for its process to say how it is (2 s).
    pub view: Duration,
}

/// How much room there has to be before something is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceConfig {
    /// Bytes that stay free on each file system beside what is known to be needed (64 MiB).
    pub keep_free: u64,
    /// Bytes that each new layer has to grow into, and a VM that stood still without space (16 MiB).
    pub layer_room: u64,
    /// How often to look whether there is space again for a VM that stands still without (5 s).
    pub look: Duration,
}

impl Default for SpaceConfig {
    fn default() -> Self {
        Self { keep_free: 64 << 20, layer_room: 16 << 20, look: Duration::from_secs(5) }
    }
}

/// How long to wait for one call of a port, by its kind. Longer than any deadline that an adapter has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortLimits {
    /// For an answer that needs no work: state, identity, a record (60 s).
    pub look: Duration,
    /// For an act that does not grow with the amount of data (5 min).
    pub act: Duration,
    /// For work that reports its progress: how long nothing may move (10 min).
    pub stall: Duration,
    /// For work on all of the data that reports no progress (2 h).
    pub bulk: Duration,
}

impl Default for PortLimits {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self { look: minutes(1), act: minutes(5), stall: minutes(10), bulk: minutes(120) }
    }
}

impl EngineConfig {
    /// The defaults, with checkpoints below this folder.
    #[must_use]
    pub fn new(checkpoints_folder: impl Into<PathBuf>) -> Self {
        Self {
            checkpoints_folder: checkpoints_folder.into(),
            lease: Duration::from_secs(10),
            writers: WriterRequest::default(),
            observe_guest: Duration::from_secs(2),
            heartbeat: Some(Duration::from_secs(10)),
            graceful_stop: Duration::from_secs(90),
            memory_load: Duration::from_secs(600),
            load_by_page: true,
            memory_told: Duration::from_secs(10),
            clock_after_apply: Duration::from_secs(20),
            make_way: Duration::from_secs(10),
            merge_again: Duration::from_secs(30),
            recoveries_an_hour: 3,
            host_boot: String::new(),
            max_checkpoints: 50,
            max_reference_points: 16,
            remembered_operations: 1_000,
            remembered_events: 10_000,
            space: SpaceConfig::default(),
            limits: PortLimits::default(),
            view: Duration::from_secs(2),
        }
    }
}
