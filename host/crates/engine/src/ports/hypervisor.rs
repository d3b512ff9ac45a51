//! The port to running VMs.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_common::{
    Accelerator, DiskName, InstanceId, LayerFile, LayerId, MemoryState, OnFailure, Progress, VmDefinition, VmId,
};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{MemorySink, TpmError};

/// Runs VMs. One VM process is an *instance*; a VM may have two for a moment, while an apply replaces one by another.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// What is true of this instance now. An instance that never was, or has ended, is [`RunState::Gone`], no error.
    ///
    /// After a restart of the service this attaches to the process that is still running.
    async fn observe(&self, instance: InstanceId) -> Result<Observed, HypervisorError>;

    /// The system's number of the instance's process, if it lives.
    async fn process(&self, instance: InstanceId) -> Option<u32>;

    /// Starts a process, paused before its first instruction (or, for [`StartMode::Restore`], waiting for its memory).
    ///
    /// Afterwards the instance is observed as [`RunState::Paused`] or [`RunState::AwaitingMemory`]. On failure no
    /// process is left, neither the instance's nor its TPM's. Called for an instance that runs already, it only answers.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launched, HypervisorError>;

    /// Loads memory and devices into an instance that awaits them; it is paused afterwards, and can run.
    ///
    /// From [`MemoryFrom::Pages`] it answers as soon as the devices are loaded: [`Loaded::WhileItRuns`]. Pages follow, those
    /// that the guest waits for first; [`Observed::intake`] tells how far that is. The state must stay until then. A
    /// dropped service changes nothing of it. [`Loaded::NotByPage`]: this instance cannot do so; it still awaits its memory.
    ///
    /// On failure the instance is of no use any more: retire it.
    async fn load_memory(
        &self,
        instance: InstanceId,
        from: MemoryFrom,
        within: Duration,
    ) -> Result<Loaded, HypervisorError>;

    /// Returns when the instance has taken in all of its memory, at once if it has. Reports pages to `progress`.
    async fn memory_is_in(&self, instance: InstanceId, progress: &ProgressSink) -> Result<(), HypervisorError>;

    /// Ends the process at once, as pulling the plug does, and removes its runtime files. Its layers are closed, and its
    /// TPM has ended.
    async fn retire(&self, instance: InstanceId) -> Result<(), HypervisorError>;

    /// Presses the power button. The guest decides what comes of it.
    async fn press_power_button(&self, instance: InstanceId) -> Result<(), HypervisorError>;

    /// Stops the virtual CPUs; all disk writes in flight are done when it returns.
    async fn pause(&self, instance: InstanceId) -> Result<(), HypervisorError>;

    /// Says what becomes of the instance when the kernel of its guest panics, from now on.
    async fn set_on_panic(&self, instance: InstanceId, on_panic: OnPanic) -> Result<(), HypervisorError>;

    /// Lets the virtual CPUs run.
    async fn resume(&self, instance: InstanceId) -> Result<(), HypervisorError>;

    /// Opens overlays beside the running disks, so that the switch itself is quick. The guest sees nothing of it.
    async fn attach_overlays(&self, instance: InstanceId, overlays: &[Overlay]) -> Result<(), HypervisorError>;

    /// Closes overlays that were attached and are not in use by the guest. Unknown ones are passed over.
    async fn detach_overlays(&self, instance: InstanceId, overlays: &[LayerId]) -> Result<(), HypervisorError>;

    /// Makes the attached overlays the heads of their disks, all in one instant or none.
    ///
    /// Guest writes before that instant are in the old head, those after in the overlay. VM running or paused.
    async fn switch_heads(&self, instance: InstanceId, overlays: &[Overlay]) -> Result<(), HypervisorError>;

    /// Version of the program that runs the instance: `10.0.2`.
    async fn version(&self, instance: InstanceId) -> Result<String, HypervisorError>;

    /// Readies the instance to save its memory to `sink` (QEMU writes its stream there). Nothing is saved yet.
    async fn prepare_capture(&self, instance: InstanceId, sink: MemorySink) -> Result<(), HypervisorError>;

    /// Fixes the instant: when it returns, memory is write-tracked and the VM may be resumed; what is saved in the
    /// background is the memory of this moment. The VM must be paused.
    async fn start_capture(&self, instance: InstanceId) -> Result<(), HypervisorError>;

    /// Waits until the memory is saved. Reports bytes to `progress`.
    async fn finish_capture(&self, instance: InstanceId, progress: &ProgressSink) -> Result<(), HypervisorError>;

    /// Saves memory and devices of a paused VM to `sink`, and returns when all is saved; the VM stands still all the time.
    /// Afterwards its process is of use for nothing but to be retired, or to be resumed if the save is not wanted.
    ///
    /// On failure, and if the future is dropped, [`cancel_capture`](Self::cancel_capture) makes the VM one that can be
    /// resumed.
    async fn save_memory(
        &self,
        instance: InstanceId,
        sink: OwnedFd,
        progress: &ProgressSink,
    ) -> Result<(), HypervisorError>;

    /// Gives up a capture, if one runs. The VM goes on as before.
    async fn cancel_capture(&self, instance: InstanceId) -> Result<(), HypervisorError>;

    /// Moves the data of `merge.child` down into `merge.parent` while the VM runs or is paused.
    ///
    /// When it returns and the child was not the head of its disk, the parent has taken the child's place in the chain
    /// and the child's file is closed. If the child is the head, both layers read the same and are kept the same, write
    /// by write, until [`finish_merge`](Self::finish_merge): the guest still writes through the child. Succeeds at once
    /// if the child is not in the chain any more. Dropping the future may leave the merge at work; both layers stay
    /// valid and in place, and the next call goes on or begins again.
    async fn merge(
        &self,
        instance: InstanceId,
        merge: &LiveMerge,
        progress: &ProgressSink,
    ) -> Result<(), HypervisorError>;

    /// Lets the parent take the place of a child that is the head. The engine pauses the VM around it, so that parent
    /// and child still read the same until the engine has written down which of them is the head.
    ///
    /// Afterwards the child is not in the chain and its file is closed. Succeeds at once if that is so already.
    async fn finish_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Result<(), HypervisorError>;

    /// Gives up a merge that is at work; both layers stay valid and in place. None at work is fine.
    async fn cancel_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Result<(), HypervisorError>;

    /// Moves what `stream.child` does not have of its parent's data up into it, while the VM runs or is paused.
    ///
    /// When it returns, the child lies on the layer below the parent, also by what its file says, all of its data is
    /// durable, and the parent's file is closed. Succeeds at once if the parent is not in the chain any more. The child
    /// reads the same at every moment, and may be the head. Dropping the future may leave it at work; the next call goes
    /// on, or begins again and leaves out what had moved.
    async fn stream(
        &self,
        instance: InstanceId,
        stream: &LiveStream,
        progress: &ProgressSink,
    ) -> Result<(), HypervisorError>;

    /// Gives up a stream that is at work; both layers stay in place, what had moved has moved. None at work is fine.
    async fn cancel_stream(&self, instance: InstanceId, stream: &LiveStream) -> Result<(), HypervisorError>;

    /// What happens to instances, as it happens. A receiver that lags observes instead.
    fn events(&self) -> broadcast::Receiver<HypervisorEvent>;
}

/// Receives progress of one step.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// What is true of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Whether and how it runs.
    pub run: RunState,
    /// For each disk its layers, from the head down to the user's image.
    pub chains: BTreeMap<DiskName, Vec<LayerId>>,
    /// Overlays that are attached and not in use.
    pub attached: BTreeSet<LayerId>,
    /// The memory capture.
    pub capture: Capture,
    /// How it stands with the memory that it was started with.
    pub intake: Intake,
}

/// Where a memory comes from.
#[derive(Debug)]
pub enum MemoryFrom {
    /// A stream with all of it.
    Stream(OwnedFd),
    /// A sealed state, page by page, while the VM runs.
    Pages(MemoryState),
}

impl From<OwnedFd> for MemoryFrom {
    fn from(stream: OwnedFd) -> Self {
        Self::Stream(stream)
    }
}

/// How far a load has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// All is in.
    Whole,
    /// The VM can run; pages follow.
    WhileItRuns,
    /// Nothing is loaded: this instance can only load a stream, for this reason.
    NotByPage(String),
}

/// How it stands with the memory that an instance was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intake {
    /// It has all of it, or was started without.
    Over,
    /// It takes it in; so many pages.
    Active(Progress),
    /// It was stopped, since the rest of it cannot be had; why, in words. Its process is gone.
    Lost(String),
}

/// Whether and how an instance runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// There is no process.
    Gone,
    /// Started, and waiting for its memory.
    AwaitingMemory,
    /// Virtual CPUs stand still.
    Paused,
    /// Virtual CPUs run.
    Running,
    /// Stopped because a disk could not be read or written. The write that failed is kept, and done when it is resumed.
    Critical(Trouble),
    /// Virtual CPUs stand still because the guest's kernel has panicked: see [`OnPanic::StandStill`]. It can be resumed.
    Panicked,
    /// The guest has switched itself off; the process is still there.
    ShutDown,
}

/// What becomes of an instance when the kernel of its guest panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPanic {
    /// It runs on, and the guest does what its kernel is set to do.
    GoOn,
    /// It is [`RunState::Panicked`].
    StandStill,
}

impl From<OnFailure> for OnPanic {
    fn from(setting: OnFailure) -> Self {
        match setting {
            OnFailure::Nothing => Self::GoOn,
            OnFailure::Restart | OnFailure::Revert => Self::StandStill,
        }
    }
}

/// What has stopped an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The disk, if it is known which.
    pub disk: Option<DiskName>,
    /// A file system was full, and nothing worse.
    pub no_space: bool,
}

/// State of an instance's memory capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capture {
    /// None was begun, or the last one was cancelled.
    None,
    /// It runs.
    Active,
    /// All is saved.
    Completed,
    /// It failed, in QEMU's words.
    Failed(String),
}

/// How to start an instance.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// Whose instance.
    pub vm: VmId,
    /// The new instance.
    pub instance: InstanceId,
    /// The VM's identity towards the guest.
    pub uid: Uuid,
    /// The VM's generation id for this run.
    pub generation_id: Uuid,
    /// What it is made of. The paths of its disks are those of `chains`.
    pub definition: VmDefinition,
    /// For each disk of the definition and for its firmware's variables, in the order of
    /// [`VmDefinition::layered`], the layers.
    pub chains: Vec<DiskChain>,
    /// Folder with the state of its TPM, if it has one; it is there, and no other instance runs on it.
    pub tpm: Option<PathBuf>,
    /// Fresh, or from a memory state.
    pub mode: StartMode,
    /// What becomes of it when the kernel of its guest panics.
    pub on_panic: OnPanic,
}

/// The layers of one disk.
#[derive(Debug, Clone)]
pub struct DiskChain {
    /// Which disk.
    pub disk: DiskName,
    /// Its layers, from the user's image up to the head. Never empty.
    pub layers: Vec<LayerFile>,
}

/// From where an instance starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// From its reset.
    Fresh,
    /// From a memory state that [`Hypervisor::load_memory`] will give it.
    Restore,
}

/// A started instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// What it runs on.
    pub accelerator: Accelerator,
    /// Version of the hypervisor: `10.0.2`.
    pub version: String,
}

/// A new layer to lie on the present head of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Which disk.
    pub disk: DiskName,
    /// The present head.
    pub backing: LayerId,
    /// The overlay's file, which exists already.
    pub file: LayerFile,
}

/// A merge of two neighbouring layers of a running VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveMerge {
    /// Which disk.
    pub disk: DiskName,
    /// The layer whose data moves, and which then leaves the chain. May be the head.
    pub child: LayerId,
    /// The layer right below it, which takes the data.
    pub parent: LayerFile,
}

/// A merge of two neighbouring layers of a running VM, upwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveStream {
    /// Which disk.
    pub disk: DiskName,
    /// The layer that takes the data. May be the head.
    pub child: LayerId,
    /// The layer right below it, which leaves the chain. Not the user's image.
    pub parent: LayerId,
    /// The layer right below that one.
    pub base: LayerFile,
}

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypervisorEvent {
    /// To which.
    pub instance: InstanceId,
    /// What.
    pub kind: HypervisorEventKind,
}

/// What can happen to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HypervisorEventKind {
    /// The process has ended.
    Gone,
    /// The guest switched itself off.
    ShutDown,
    /// The guest restarted itself.
    Reset,
    /// The kernel of the guest has panicked.
    Panicked,
    /// A disk could not be read or written and the VM was stopped.
    Critical(Option<DiskName>),
    /// It has taken in all of its memory.
    MemoryIsIn,
    /// The agent opened (true) or closed (false) its channel.
    AgentChannel(bool),
}

/// Why a hypervisor did not do it.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// There is no such process (any more).
    #[error("the VM's process has ended")]
    Gone,
    /// It did not start, in its own words.
    #[error("QEMU did not start: {message}")]
    LaunchFailed {
        /// Its words.
        message: String,
    },
    /// Hardware acceleration was asked for and does not work.
    #[error("KVM does not work on this host: {why}")]
    AcceleratorMissing {
        /// What a trial showed.
        why: String,
    },
    /// The host has no UEFI for its VMs.
    #[error("there is no UEFI for VMs on this host: {} does not exist", path.display())]
    NoFirmware {
        /// The file of it that is missing.
        path: PathBuf,
    },
    /// Its TPM could not be started.
    #[error(transparent)]
    Tpm(TpmError),
    /// It did not answer in time.
    #[error("QEMU did not answer {command} within {waited:?}")]
    Unanswered {
        /// Which command.
        command: String,
        /// How long we waited.
        waited: Duration,
    },
    /// It refused, in its own words.
    #[error("QEMU refused {command}: {message}")]
    Refused {
        /// Which command.
        command: String,
        /// Its words.
        message: String,
    },
    /// Its state is not the one the call needs.
    #[error("{0}")]
    WrongState(String),
    /// A file system is full.
    #[error("no space left: {message}")]
    NoSpace {
        /// Its words.
        message: String,
    },
    /// A file or socket failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}
