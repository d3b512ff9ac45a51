//! Settings: the page of one VM, and the same change for many.

use serde::Serialize;
use stillpoint_common::{CheckpointPolicy, GuestService, OnFailure, SettingsChange, VmId, VmSettings};

use super::Context;
use crate::{
    CliError,
    args::{SetVms, Switch, VmChoice, parse},
    client::VmChange,
    output::{
        Answer,
        table::{details, table},
        text,
    },
    view::Vm,
};

/// The VMs that are meant, by name.
pub(super) async fn choose(context: &Context, which: &VmChoice) -> Result<Vec<Vm>, CliError> {
    let mut vms = context.client.list_vms().await?;
    let named = |vm: &Vm| which.patterns.is_empty() || which.patterns.iter().any(|it| it.matches(vm.id.as_str()));
    vms.retain(|vm| named(vm) && which.labels.iter().all(|label| vm.settings.labels.contains(label)));
    Ok(vms)
}

/// What is set for a VM's checkpoints, on one page.
pub(super) fn page(vm: &Vm) -> Result<Answer, CliError> {
    let policy = vm.checkpoint_policy.unwrap_or_default();
    let (enabled, kind, fallback) = match policy {
        CheckpointPolicy::Disabled => ("no", "", ""),
        CheckpointPolicy::Standard => ("yes", "standard", ""),
        CheckpointPolicy::Production => ("yes", "production", "a standard one, with the reason"),
        CheckpointPolicy::ProductionOnly => ("yes", "production", "none: it fails"),
    };
    let location = match vm.parent_checkpoint {
        None => vm.checkpoint_location.clone(),
        Some(_) => format!("{} (can be changed when the VM has no checkpoints)", vm.checkpoint_location),
    };
    let page = details([
        ("vm", vm.id.to_string()),
        ("checkpoints", enabled.to_owned()),
        ("kind", kind.to_owned()),
        ("if that is not possible", fallback.to_owned()),
        ("location", location),
        ("layers", "beside their images".to_owned()),
        ("automatic at start", yes(vm.settings.automatic_checkpoints)),
        ("undo checkpoint", yes(vm.undo_checkpoint)),
        ("hazards", text::word(Some(vm.settings.hazards))),
        ("disks it cannot hold", text::word(Some(vm.settings.unsupported_disks))),
        ("when it fails", when_it_fails(vm)),
        ("guest services off", services_off(&vm.settings)),
        ("labels", labels(&vm.settings)),
    ]);
    let document = serde_json::json!({
        "vm": vm.id,
        "checkpoint_policy": vm.checkpoint_policy,
        "checkpoint_location": vm.checkpoint_location,
        "undo_checkpoint": vm.undo_checkpoint,
        "settings": vm.settings,
    });
    Answer::new(page, &document)
}

/// `is started, at most 3 times an hour`
pub(super) fn when_it_fails(vm: &Vm) -> String {
    let what = match vm.settings.on_failure {
        OnFailure::Nothing => return "nothing is done".to_owned(),
        OnFailure::Restart => "it is started",
        OnFailure::Revert if vm.undo_checkpoint => "Now is kept as a checkpoint, it is reverted and started",
        OnFailure::Revert => "it is reverted to its last checkpoint and started; Now is lost",
    };
    let most = vm.failure.as_ref().map(|failure| format!(", at most {} times an hour", failure.max_recoveries));
    format!("{what}{}", most.unwrap_or_default())
}

fn yes(on: bool) -> String {
    if on { "yes".to_owned() } else { "no".to_owned() }
}

fn labels(settings: &VmSettings) -> String {
    settings.labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn services_off(settings: &VmSettings) -> String {
    settings.services_off.iter().map(|service| text::word(Some(*service))).collect::<Vec<_>>().join(" ")
}

/// What became of one VM.
#[derive(Debug, Serialize)]
struct Set {
    vm: VmId,
    /// `checkpoint_policy: PRODUCTION -> STANDARD`
    changed: Vec<String>,
    error: Option<String>,
}

/// Sets the same for many VMs. If it fails for one of them, the answer says so and the exit code is 1.
pub(super) async fn set(context: &Context, set: &SetVms) -> Result<Answer, CliError> {
    if set.which.patterns.is_empty() && set.which.labels.is_empty() {
        let advice = "Name them, by name, pattern (quote it: 'web*', or '*' for all) or --with-label.";
        return Err(CliError::usage("it is not said which VMs are meant", advice));
    }
    let chosen = choose(context, &set.which).await?;
    if chosen.is_empty() {
        return Err(CliError::usage("there is no such VM", "List the VMs with `stillpoint vm list`."));
    }
    let mut done = Vec::with_capacity(chosen.len());
    for before in chosen {
        let change = change(set, &before)?;
        if change == VmChange::default() {
            let advice = "Say what: `stillpoint vm set --help` lists it.";
            return Err(CliError::usage("nothing to set", advice));
        }
        done.push(match context.client.update_vm(&before.id, &change).await {
            Ok(after) => Set { vm: before.id.clone(), changed: differences(&before, &after), error: None },
            Err(error) => Set { vm: before.id, changed: vec![], error: Some(error.to_string()) },
        });
    }
    let said = |set: &Set| match (&set.error, set.changed.is_empty()) {
        (Some(error), _) => format!("failed: {error}"),
        (None, true) => "was so already".to_owned(),
        (None, false) => set.changed.join("; "),
    };
    let text = table(["vm", "changed"], done.iter().map(|set| [set.vm.to_string(), said(set)]));
    let failed = done.iter().any(|set| set.error.is_some());
    Ok(Answer::new(text, &done)?.ends_with(u8::from(failed)))
}

fn change(set: &SetVms, vm: &Vm) -> Result<VmChange, CliError> {
    let location =
        set.checkpoint_location.as_ref().map(|folder| folder.to_string_lossy().replace("{vm}", vm.id.as_str()));
    let location = location.map(|folder| parse::absolute(folder.as_ref())).transpose();
    let labels = || {
        let mut labels = vm.settings.labels.clone();
        labels.extend(set.add_label.iter().cloned());
        labels.retain(|label| !set.remove_label.contains(label));
        labels
    };
    let services_off = || {
        let mut off = vm.settings.services_off.clone();
        off.extend(set.service_off.iter().map(|service| GuestService::from(*service)));
        off.retain(|service| !set.service_on.iter().any(|on| GuestService::from(*on) == *service));
        off
    };
    let switched = !set.service_on.is_empty() || !set.service_off.is_empty();
    let relabelled = !set.add_label.is_empty() || !set.remove_label.is_empty();
    Ok(VmChange {
        checkpoint_policy: set.checkpoint_policy.map(Into::into),
        undo_checkpoint: set.undo_checkpoint.map(Switch::is_on),
        checkpoint_location: location.map_err(|problem| CliError::usage(problem, "Give a folder of the host."))?,
        critical: None,
        spec: None,
        settings: SettingsChange {
            automatic_checkpoints: set.automatic_checkpoints.map(Switch::is_on),
            labels: relabelled.then(labels),
            hazards: set.hazards.map(Into::into),
            unsupported_disks: set.unsupported_disks.map(Into::into),
            services_off: switched.then(services_off),
            on_failure: set.on_failure.map(Into::into),
        },
    })
}

fn differences(before: &Vm, after: &Vm) -> Vec<String> {
    let pairs = [
        ("policy", text::word(before.checkpoint_policy), text::word(after.checkpoint_policy)),
        ("location", before.checkpoint_location.clone(), after.checkpoint_location.clone()),
        ("automatic", yes(before.settings.automatic_checkpoints), yes(after.settings.automatic_checkpoints)),
        ("undo checkpoint", yes(before.undo_checkpoint), yes(after.undo_checkpoint)),
        ("hazards", text::word(Some(before.settings.hazards)), text::word(Some(after.settings.hazards))),
        (
            "unsupported disks",
            text::word(Some(before.settings.unsupported_disks)),
            text::word(Some(after.settings.unsupported_disks)),
        ),
        ("on failure", text::word(Some(before.settings.on_failure)), text::word(Some(after.settings.on_failure))),
        (
            "services off",
            format!("[{}]", services_off(&before.settings)),
            format!("[{}]", services_off(&after.settings)),
        ),
        ("labels", format!("[{}]", labels(&before.settings)), format!("[{}]", labels(&after.settings))),
    ];
    let differ = pairs.into_iter().filter(|(_, before, after)| before != after);
    differ.map(|(what, before, after)| format!("{what}: {before} -> {after}")).collect()
}
