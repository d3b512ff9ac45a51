//! `stillpoint vm set …`: settings of many VMs at once.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stillpoint_common::{GuestService, HazardPolicy, Label, OnFailure, Pattern, UnsupportedDisks};

use super::PolicyArg;

/// Which VMs: those that one of the patterns stands for and that have every label; all if nothing is given.
#[derive(Debug, Clone, Default, Args)]
pub struct VmChoice {
    /// Names of VMs; `*` and `?` stand for any characters.
    #[arg(value_name = "PATTERN", value_parser = |text: &str| Ok::<_, String>(Pattern::new(text)))]
    pub patterns: Vec<Pattern>,
    /// Only VMs that have this label; may be given several times.
    #[arg(long = "with-label", value_name = "LABEL")]
    pub labels: Vec<Label>,
}

/// `stillpoint vm set`
#[derive(Debug, Args)]
pub struct SetVms {
    /// Which VMs.
    #[command(flatten)]
    pub which: VmChoice,
    /// What a checkpoint of them shall be.
    #[arg(long)]
    pub checkpoint_policy: Option<PolicyArg>,
    /// Folder for configuration and memory of their checkpoints, while they have none; {vm} is replaced by the name.
    #[arg(long, value_name = "FOLDER")]
    pub checkpoint_location: Option<PathBuf>,
    /// Whether an apply that discards Now makes a checkpoint of it first all the same.
    #[arg(long)]
    pub undo_checkpoint: Option<Switch>,
    /// Whether a checkpoint is made at each start if there is none, and deleted at the clean stop.
    #[arg(long)]
    pub automatic_checkpoints: Option<Switch>,
    /// What to do about checkpoints of members of clusters and domain controllers.
    #[arg(long)]
    pub hazards: Option<HazardArg>,
    /// What to do about disks that no checkpoint can hold.
    #[arg(long, value_name = "WHAT")]
    pub unsupported_disks: Option<UnsupportedArg>,
    /// What to do when one of them fails: its process ends by itself, or its guest's kernel panics. At most three times an
    /// hour.
    #[arg(long, value_name = "WHAT")]
    pub on_failure: Option<OnFailureArg>,
    /// Use a service of the guest's agent again; may be given several times.
    #[arg(long, value_name = "SERVICE")]
    pub service_on: Vec<ServiceArg>,
    /// Make no use of a service of the guest's agent; may be given several times.
    #[arg(long, value_name = "SERVICE")]
    pub service_off: Vec<ServiceArg>,
    /// Add a label; may be given several times.
    #[arg(long, value_name = "LABEL")]
    pub add_label: Vec<Label>,
    /// Take a label away; may be given several times.
    #[arg(long, value_name = "LABEL")]
    pub remove_label: Vec<Label>,
}

/// What to do about hazards, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HazardArg {
    /// Tell them.
    Warn,
    /// Refuse to make and to apply checkpoints that have one.
    Refuse,
}

impl From<HazardArg> for HazardPolicy {
    fn from(policy: HazardArg) -> Self {
        match policy {
            HazardArg::Warn => Self::Warn,
            HazardArg::Refuse => Self::Refuse,
        }
    }
}

/// What to do about disks that no checkpoint can hold, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnsupportedArg {
    /// Make checkpoints without them, and name them.
    LeaveOut,
    /// Make none.
    Refuse,
}

impl From<UnsupportedArg> for UnsupportedDisks {
    fn from(choice: UnsupportedArg) -> Self {
        match choice {
            UnsupportedArg::LeaveOut => Self::LeaveOut,
            UnsupportedArg::Refuse => Self::Refuse,
        }
    }
}

/// What to do when a VM fails, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailureArg {
    /// Nothing.
    Nothing,
    /// Start it as it is.
    Restart,
    /// Bring it back to its last checkpoint, and start it. What happened since is lost, unless undo checkpoints are on.
    Revert,
}

impl From<OnFailureArg> for OnFailure {
    fn from(choice: OnFailureArg) -> Self {
        match choice {
            OnFailureArg::Nothing => Self::Nothing,
            OnFailureArg::Restart => Self::Restart,
            OnFailureArg::Revert => Self::Revert,
        }
    }
}

/// A service of the guest's agent, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceArg {
    /// Making the guest quiet for production checkpoints.
    Quiesce,
    /// Shutting the guest down.
    Shutdown,
    /// Setting its clock after an apply.
    TimeSync,
    /// Signs of life.
    Heartbeat,
    /// Keys and values that host and guest tell each other.
    KeyValues,
}

impl From<ServiceArg> for GuestService {
    fn from(service: ServiceArg) -> Self {
        match service {
            ServiceArg::Quiesce => Self::Quiesce,
            ServiceArg::Shutdown => Self::Shutdown,
            ServiceArg::TimeSync => Self::TimeSync,
            ServiceArg::Heartbeat => Self::Heartbeat,
            ServiceArg::KeyValues => Self::KeyValues,
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

impl Switch {
    /// Whether it is on.
    #[must_use]
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}
