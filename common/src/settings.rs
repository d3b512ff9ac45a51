//! What an administrator can set for a VM, beside what it is made of.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{HazardPolicy, Label, OnFailure};

/// Settings of a VM. The default is what a new VM has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VmSettings {
    /// A checkpoint is made at each start if the VM has none, and deleted at the clean stop.
    pub automatic_checkpoints: bool,
    /// Words to choose VMs by.
    pub labels: BTreeSet<Label>,
    /// What to do about checkpoints of a guest that is a member of a cluster or a domain controller.
    pub hazards: HazardPolicy,
    /// What to do about disks that no checkpoint can hold.
    pub unsupported_disks: UnsupportedDisks,
    /// Services of the guest's agent that the host makes no use of.
    pub services_off: BTreeSet<GuestService>,
    /// What is done when it fails.
    pub on_failure: OnFailure,
}

/// A service that an agent does for the host, which an administrator can switch off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GuestService {
    /// Making applications and file systems quiet: without it there are no production checkpoints of a running VM.
    Quiesce,
    /// Shutting the guest down: without it a graceful stop presses the power button.
    Shutdown,
    /// Setting the guest's clock after an apply: without it the clock goes on from the time of the checkpoint.
    TimeSync,
    /// Signs of life: without it the agent is only asked when somebody wants to know.
    Heartbeat,
    /// Keys and values that host and guest tell each other: without it none are given, and none are asked for.
    KeyValues,
}

impl GuestService {
    /// Each of them.
    pub const ALL: &'static [Self] = &[Self::Quiesce, Self::Shutdown, Self::TimeSync, Self::Heartbeat, Self::KeyValues];
}

/// What to do about disks that no checkpoint can hold: devices that are passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnsupportedDisks {
    /// Checkpoints are made without them, and name them.
    #[default]
    LeaveOut,
    /// No checkpoint is made while the VM has one that its guest can write to.
    Refuse,
}

/// Changes of a VM's settings; `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsChange {
    /// New choice of automatic checkpoints.
    pub automatic_checkpoints: Option<bool>,
    /// New labels, in place of the present ones.
    pub labels: Option<BTreeSet<Label>>,
    /// New choice about hazards.
    pub hazards: Option<HazardPolicy>,
    /// New choice about disks that no checkpoint can hold.
    pub unsupported_disks: Option<UnsupportedDisks>,
    /// New services that are not used, in place of the present ones.
    pub services_off: Option<BTreeSet<GuestService>>,
    /// New choice about failures.
    pub on_failure: Option<OnFailure>,
}

impl SettingsChange {
    /// The settings with what is changed.
    #[must_use]
    pub fn applied(self, settings: VmSettings) -> VmSettings {
        VmSettings {
            automatic_checkpoints: self.automatic_checkpoints.unwrap_or(settings.automatic_checkpoints),
            labels: self.labels.unwrap_or(settings.labels),
            hazards: self.hazards.unwrap_or(settings.hazards),
            unsupported_disks: self.unsupported_disks.unwrap_or(settings.unsupported_disks),
            services_off: self.services_off.unwrap_or(settings.services_off),
            on_failure: self.on_failure.unwrap_or(settings.on_failure),
        }
    }
}
