//! The commands we use. A command is a type, and knows its answer's type.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// A QMP command: its fields are its arguments.
pub trait Command: Serialize + Sync {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What QEMU answers.
    type Ok: DeserializeOwned + Send;
}

/// An answer that says nothing but that it was done.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Done {}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? = $wire:literal -> $ok:ty { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Serialize)]
            #[serde(rename_all = "kebab-case")]
            pub struct $name $(<$life>)? { $($(#[$field_doc])* pub $field: $type,)* }

            impl $(<$life>)? Command for $name $(<$life>)? {
                const NAME: &'static str = $wire;
                type Ok = $ok;
            }
        )*
    };
}

commands! {
    /// Ends the handshake.
    QmpCapabilities = "qmp_capabilities" -> Done {}
    /// Which QEMU it is.
    QueryVersion = "query-version" -> Version {}
    /// Whether hardware acceleration is in use.
    QueryKvm = "query-kvm" -> Kvm {}
    /// Whether and how the VM runs.
    QueryStatus = "query-status" -> Status {}
    /// Stops the virtual CPUs, drains and flushes the disks.
    Stop = "stop" -> Done {}
    /// Lets the virtual CPUs run.
    Cont = "cont" -> Done {}
    /// Closes all images and ends the process.
    Quit = "quit" -> Done {}
    /// Presses the power button.
    SystemPowerdown = "system_powerdown" -> Done {}
    /// What becomes of the VM when its guest's kernel panics.
    SetAction<'a> = "set-action" -> Done {
        /// `none` or `pause`.
        panic: &'a str,
    }
    /// Which character devices are open on the guest's side.
    QueryChardev = "query-chardev" -> Vec<Chardev> {}

    /// Nodes and edges of the block graph. The only query of QEMU 7.2 that tells who is whose backing node by name.
    QueryBlockGraph = "x-debug-query-block-graph" -> BlockGraph {}
    /// The guest's disks, with their error states.
    QueryBlock = "query-block" -> Vec<BlockDevice> {}
    /// Opens a block node.
    BlockdevAdd = "blockdev-add" -> Done {
        /// The node's description.
        #[serde(flatten)] node: Value,
    }
    /// Closes a block node that nothing uses.
    BlockdevDel<'a> = "blockdev-del" -> Done {
        /// Which one.
        node_name: &'a str,
    }
    /// All of it in one instant, or none.
    Transaction = "transaction" -> Done {
        /// What to do.
        actions: Vec<Value>,
    }
    /// Moves data of a layer down the chain.
    BlockCommit<'a> = "block-commit" -> Done {
        /// Id of the job.
        job_id: &'a str,
        /// The head of the chain.
        device: &'a str,
        /// The node whose data moves.
        top_node: &'a str,
        /// The node that takes it.
        base_node: &'a str,
        /// What the layer above shall name as its backing file. Not for the head.
        #[serde(skip_serializing_if = "Option::is_none")] backing_file: Option<&'a str>,
        /// False keeps a finished job until it is dismissed, so that its error can be read.
        auto_dismiss: bool,
    }
    /// Moves data of the layers below a layer up into it.
    BlockStream<'a> = "block-stream" -> Done {
        /// Id of the job.
        job_id: &'a str,
        /// The layer that takes the data.
        device: &'a str,
        /// The layer that it lies on afterwards.
        base_node: &'a str,
        /// What its header then says of its backing file.
        backing_file: &'a str,
        /// False keeps a finished job until it is dismissed, so that its error can be read.
        auto_dismiss: bool,
    }
    /// A command of the monitor for people, for what has no other. Answers what it printed.
    HumanCommand<'a> = "human-monitor-command" -> String {
        /// The line.
        command_line: &'a str,
    }
    /// Limits what the guest writes to a disk; 0 is no limit.
    SetThrottle<'a> = "block_set_io_throttle" -> Done {
        /// Path of the backend of the guest's device.
        id: &'a str,
        /// Limits, QEMU wants each of them.
        #[serde(flatten)] limits: ThrottleLimits,
    }
    /// Limits what a job copies.
    BlockJobSetSpeed<'a> = "block-job-set-speed" -> Done {
        /// Which one.
        device: &'a str,
        /// Bytes a second; 0 is no limit.
        speed: u64,
    }
    /// What the guest has done to its disks since the process began.
    QueryBlockStats = "query-blockstats" -> Vec<DeviceStats> {}
    /// All jobs.
    QueryJobs = "query-jobs" -> Vec<Job> {}
    /// Ends a job that is ready.
    JobComplete<'a> = "job-complete" -> Done {
        /// Which one.
        id: &'a str,
    }
    /// Gives up a job.
    JobCancel<'a> = "job-cancel" -> Done {
        /// Which one.
        id: &'a str,
    }
    /// Forgets a job that has ended.
    JobDismiss<'a> = "job-dismiss" -> Done {
        /// Which one.
        id: &'a str,
    }

    /// Takes the file descriptor that comes with it.
    GetFd<'a> = "getfd" -> Done {
        /// The name it gets.
        fdname: &'a str,
    }
    /// Closes a descriptor that was taken.
    CloseFd<'a> = "closefd" -> Done {
        /// Its name.
        fdname: &'a str,
    }
    /// Sets what a migration can do.
    MigrateSetCapabilities = "migrate-set-capabilities" -> Done {
        /// Each with its name and state.
        capabilities: Vec<Value>,
    }
    /// Sets how a migration is done.
    MigrateSetParameters = "migrate-set-parameters" -> Done {
        /// Bytes a second; 0 is no limit.
        max_bandwidth: u64,
    }
    /// How a migration is done.
    QueryMigrateParameters = "query-migrate-parameters" -> MigrateParameters {}
    /// Begins to save memory and devices.
    Migrate<'a> = "migrate" -> Done {
        /// Where to.
        uri: &'a str,
    }
    /// Gives up saving.
    MigrateCancel = "migrate_cancel" -> Done {}
    /// What could be broken off by force: a migration is among it until QEMU has cleared it away.
    QueryYank = "query-yank" -> Vec<Yankable> {}
    /// How saving or loading goes.
    QueryMigrate = "query-migrate" -> Migration {}
    /// Begins to load memory and devices.
    MigrateIncoming<'a> = "migrate-incoming" -> Done {
        /// Where from.
        uri: &'a str,
    }
}

/// Answer of `query-version`.
#[derive(Debug, Clone, Deserialize)]
pub struct Version {
    /// QEMU's own version.
    pub qemu: VersionNumber,
}

/// A version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct VersionNumber {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

impl std::fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Answer of `query-kvm`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Kvm {
    /// The VM runs on it.
    pub enabled: bool,
}

/// Answer of `query-status`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The run state's name: `paused`.
    pub status: String,
}

/// One of `query-chardev`.
#[derive(Debug, Clone, Deserialize)]
pub struct Chardev {
    /// Its id.
    pub label: String,
    /// The guest has it open.
    #[serde(default, rename = "frontend-open")]
    pub frontend_open: bool,
}

/// Answer of the block graph's query.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BlockGraph {
    /// Nodes, block backends and jobs.
    pub nodes: Vec<GraphNode>,
    /// Who uses whom.
    pub edges: Vec<GraphEdge>,
}

/// One node of the block graph.
#[derive(Debug, Clone, Deserialize)]
pub struct GraphNode {
    /// Number, valid in this answer.
    pub id: u64,
    /// Node name, or path of the device that a block backend belongs to.
    #[serde(default)]
    pub name: String,
    /// `block-driver`, `block-backend`, `block-job`.
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// One edge of the block graph.
#[derive(Debug, Clone, Deserialize)]
pub struct GraphEdge {
    /// Who uses.
    pub parent: u64,
    /// Who is used.
    pub child: u64,
    /// As what: `root`, `file`, `backing`.
    #[serde(default)]
    pub name: String,
}

/// One of `query-block`.
#[derive(Debug, Clone, Deserialize)]
pub struct BlockDevice {
    /// Path of the guest's device.
    #[serde(default)]
    pub qdev: String,
    /// `ok`, `failed` or `nospace`.
    #[serde(default, rename = "io-status")]
    pub io_status: Option<String>,
}

/// One of `query-blockstats`.
#[derive(Debug, Clone, Deserialize)]
pub struct DeviceStats {
    /// Path of the guest's device.
    #[serde(default)]
    pub qdev: String,
    /// What it has done.
    pub stats: IoStats,
}

/// What a device has done since its process began.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct IoStats {
    /// Reads that have ended.
    pub rd_operations: u64,
    /// How long they took together.
    pub rd_total_time_ns: u64,
    /// Writes that have ended.
    pub wr_operations: u64,
    /// How long they took together.
    pub wr_total_time_ns: u64,
    /// Flushes that have ended.
    pub flush_operations: u64,
    /// How long they took together.
    pub flush_total_time_ns: u64,
}

/// Limits of a disk; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ThrottleLimits {
    /// Bytes a second.
    pub bps: u64,
    /// Bytes read a second.
    pub bps_rd: u64,
    /// Bytes written a second.
    pub bps_wr: u64,
    /// Requests a second.
    pub iops: u64,
    /// Reads a second.
    pub iops_rd: u64,
    /// Writes a second.
    pub iops_wr: u64,
}

/// One of `query-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// Its id.
    pub id: String,
    /// `running`, `ready`, `concluded`, and more.
    pub status: String,
    /// Done so far.
    #[serde(default)]
    pub current_progress: u64,
    /// To do in all.
    #[serde(default)]
    pub total_progress: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// One of `query-yank`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Yankable {
    /// `migration`, `chardev`, `block-node`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Answer of `query-migrate-parameters`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrateParameters {
    /// Bytes a second; 0 is no limit.
    #[serde(default)]
    pub max_bandwidth: u64,
}

/// Answer of `query-migrate`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Migration {
    /// Absent if there was none.
    #[serde(default)]
    pub status: Option<String>,
    /// Why it failed.
    #[serde(default)]
    pub error_desc: Option<String>,
    /// Pages, while it runs and after.
    #[serde(default)]
    pub ram: RamProgress,
}

/// Pages of a migration.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct RamProgress {
    /// Bytes still to send.
    pub remaining: u64,
    /// Bytes in all.
    pub total: u64,
    /// Pages sent with their content.
    pub normal: u64,
    /// Bytes sent, the head of the stream among them.
    #[serde(default)]
    pub transferred: u64,
    /// Pages sent as zero.
    pub duplicate: u64,
}
