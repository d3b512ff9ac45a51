//! What is set for a VM.

use std::collections::BTreeSet;

use stillpoint_common::{Failure, GuestService, Label, OnFailure, SettingsChange, UnsupportedDisks, VmSettings};

use super::{advice, inside, known};
use crate::v1 as pb;

/// The most labels of a VM.
const MAX_LABELS: usize = 64;

/// Paths of an update mask that name settings.
pub const PATHS: &[&str] = &[
    "settings",
    "settings.automatic_checkpoints",
    "settings.labels",
    "settings.hazards",
    "settings.unsupported_disks",
    "settings.services_off",
    "settings.on_failure",
];

/// The settings as they travel.
#[must_use]
pub fn message(settings: &VmSettings) -> pb::VmSettings {
    pb::VmSettings {
        automatic_checkpoints: settings.automatic_checkpoints,
        labels: settings.labels.iter().map(ToString::to_string).collect(),
        hazards: pb::HazardPolicy::from(settings.hazards).into(),
        unsupported_disks: pb::UnsupportedDisks::from(settings.unsupported_disks).into(),
        services_off: settings.services_off.iter().map(|service| pb::GuestService::from(*service).into()).collect(),
        on_failure: pb::OnFailure::from(settings.on_failure).into(),
    }
}

/// Reads settings; none means the default.
///
/// # Errors
/// The first field that is wrong.
pub fn settings(message: Option<&pb::VmSettings>, field: &str) -> Result<VmSettings, Failure> {
    let default = pb::VmSettings::default();
    let message = message.unwrap_or(&default);
    Ok(VmSettings {
        automatic_checkpoints: message.automatic_checkpoints,
        labels: labels(&message.labels, &inside(field, "labels"))?,
        hazards: advice::policy(message.hazards, &inside(field, "hazards"))?,
        unsupported_disks: unsupported_disks(message.unsupported_disks, &inside(field, "unsupported_disks"))?,
        services_off: services(&message.services_off, &inside(field, "services_off"))?,
        on_failure: on_failure(message.on_failure, &inside(field, "on_failure"))?,
    })
}

/// Reads those of the settings that the paths of a mask name.
///
/// # Errors
/// The first field that is wrong.
pub fn change(message: Option<&pb::VmSettings>, paths: &[String], field: &str) -> Result<SettingsChange, Failure> {
    let named = |path: &str| {
        let whole = format!("settings.{path}");
        paths.iter().any(|named| named == "settings" || *named == whole)
    };
    let settings = settings(message, field)?;
    Ok(SettingsChange {
        automatic_checkpoints: named("automatic_checkpoints").then_some(settings.automatic_checkpoints),
        labels: named("labels").then_some(settings.labels),
        hazards: named("hazards").then_some(settings.hazards),
        unsupported_disks: named("unsupported_disks").then_some(settings.unsupported_disks),
        services_off: named("services_off").then_some(settings.services_off),
        on_failure: named("on_failure").then_some(settings.on_failure),
    })
}

/// The paths of a mask that names what is changed.
#[must_use]
pub fn paths(change: &SettingsChange) -> Vec<String> {
    let SettingsChange { automatic_checkpoints, labels, hazards, unsupported_disks, services_off, on_failure } = change;
    let named = [
        ("settings.automatic_checkpoints", automatic_checkpoints.is_some()),
        ("settings.labels", labels.is_some()),
        ("settings.hazards", hazards.is_some()),
        ("settings.unsupported_disks", unsupported_disks.is_some()),
        ("settings.services_off", services_off.is_some()),
        ("settings.on_failure", on_failure.is_some()),
    ];
    named.iter().filter(|(_, changes)| *changes).map(|(path, _)| (*path).to_owned()).collect()
}

fn unsupported_disks(value: i32, field: &str) -> Result<UnsupportedDisks, Failure> {
    Ok(match known(value, field)? {
        pb::UnsupportedDisks::Unspecified | pb::UnsupportedDisks::LeaveOut => UnsupportedDisks::LeaveOut,
        pb::UnsupportedDisks::Refuse => UnsupportedDisks::Refuse,
    })
}

impl From<UnsupportedDisks> for pb::UnsupportedDisks {
    fn from(choice: UnsupportedDisks) -> Self {
        match choice {
            UnsupportedDisks::LeaveOut => Self::LeaveOut,
            UnsupportedDisks::Refuse => Self::Refuse,
        }
    }
}

fn on_failure(value: i32, field: &str) -> Result<OnFailure, Failure> {
    Ok(match known(value, field)? {
        pb::OnFailure::Unspecified | pb::OnFailure::Nothing => OnFailure::Nothing,
        pb::OnFailure::Restart => OnFailure::Restart,
        pb::OnFailure::Revert => OnFailure::Revert,
    })
}

impl From<OnFailure> for pb::OnFailure {
    fn from(choice: OnFailure) -> Self {
        match choice {
            OnFailure::Nothing => Self::Nothing,
            OnFailure::Restart => Self::Restart,
            OnFailure::Revert => Self::Revert,
        }
    }
}

fn services(values: &[i32], field: &str) -> Result<BTreeSet<GuestService>, Failure> {
    let service = |(i, value): (usize, &i32)| {
        let field = format!("{field}[{i}]");
        Ok(match known(*value, &field)? {
            pb::GuestService::Unspecified => return Err(Failure::field(field, "names no service")),
            pb::GuestService::Quiesce => GuestService::Quiesce,
            pb::GuestService::Shutdown => GuestService::Shutdown,
            pb::GuestService::TimeSync => GuestService::TimeSync,
            pb::GuestService::Heartbeat => GuestService::Heartbeat,
            pb::GuestService::KeyValues => GuestService::KeyValues,
        })
    };
    values.iter().enumerate().map(service).collect()
}

impl From<GuestService> for pb::GuestService {
    fn from(service: GuestService) -> Self {
        match service {
            GuestService::Quiesce => Self::Quiesce,
            GuestService::Shutdown => Self::Shutdown,
            GuestService::TimeSync => Self::TimeSync,
            GuestService::Heartbeat => Self::Heartbeat,
            GuestService::KeyValues => Self::KeyValues,
        }
    }
}

/// A service that a message names; `None` if it is none that this version knows.
#[must_use]
pub fn read_service(value: i32) -> Option<GuestService> {
    services(&[value], "service").ok()?.pop_first()
}

fn labels(texts: &[String], field: &str) -> Result<BTreeSet<Label>, Failure> {
    if texts.len() > MAX_LABELS {
        return Err(Failure::field(field, format!("at most {MAX_LABELS} labels, not {}", texts.len())));
    }
    let label =
        |(i, text): (usize, &String)| text.parse().map_err(|problem| Failure::field(format!("{field}[{i}]"), problem));
    texts.iter().enumerate().map(label).collect()
}
