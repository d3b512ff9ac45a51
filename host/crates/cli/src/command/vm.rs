//! `stillpoint vm …`

use jiff::Timestamp;
use stillpoint_common::{SettingsChange, VmId};

use super::{Context, confirm, hardware, integrity, settings, show, transfer, vm_file, work};
use crate::{
    CliError,
    args::{FirmwareArg, MergesArg, UpdateVm, VmCommand, Waiting, parse},
    client::VmChange,
    output::{Answer, table, text},
    view::{Medium, Operation, Spec, Vm, growth},
};

pub(super) async fn run(context: &Context, command: &VmCommand) -> Result<Answer, CliError> {
    let client = &context.client;
    match command {
        VmCommand::Create(create) => {
            let vm = client.create_vm(&vm_file::to_create(create)?).await?;
            Answer::new(format!("{} is defined, and off", vm.id), &vm)
        }
        VmCommand::Import(asked) => transfer::import(context, asked).await,
        VmCommand::List { which } => list(&settings::choose(context, which).await?),
        VmCommand::Show { vm, config: true } => hardware::answer(&client.vm(vm).await?.spec),
        VmCommand::Show { vm, config: false } => {
            let (vm, layers) = (client.vm(vm).await?, client.layers(vm).await?);
            let vm = Vm { growth: growth(&vm, &layers, Timestamp::now()), ..vm };
            Answer::new(show::vm(&vm), &vm)
        }
        VmCommand::Start { vm, waiting } => finish(context, vm, client.start_vm(vm).await?, *waiting).await,
        VmCommand::Stop { vm, turn_off, waiting } => {
            finish(context, vm, client.stop_vm(vm, *turn_off).await?, *waiting).await
        }
        VmCommand::Pause { vm, waiting } => finish(context, vm, client.pause_vm(vm).await?, *waiting).await,
        VmCommand::Resume { vm, waiting } => finish(context, vm, client.resume_vm(vm).await?, *waiting).await,
        VmCommand::Save { vm, waiting } => finish(context, vm, client.save_vm(vm).await?, *waiting).await,
        VmCommand::DiscardSaved { vm, consent, waiting } => {
            confirm::ask(
                *consent,
                &format!("Give up the saved state of {vm}? Its disks are then as after a power cut."),
            )?;
            finish(context, vm, client.discard_saved_state(vm).await?, *waiting).await
        }
        VmCommand::Update(update) => {
            let vm = client.update_vm(&update.vm, &change(context, update).await?).await?;
            Answer::new(format!("{} is changed", vm.id), &vm)
        }
        VmCommand::Layers { vm } => integrity::layers(context, vm).await,
        VmCommand::Reconnect(reconnect) => integrity::reconnect(context, reconnect).await,
        VmCommand::Merges { what: MergesArg::Suspend, vm } => {
            let vm = client.suspend_merges(vm).await?;
            Answer::new(format!("no layer of {} is merged until merges are resumed", vm.id), &vm)
        }
        VmCommand::Merges { what: MergesArg::Resume, vm } => {
            let vm = client.resume_merges(vm).await?;
            Answer::new(format!("layers of {} are merged as soon as nothing needs them", vm.id), &vm)
        }
        VmCommand::Settings { vm } => settings::page(&client.vm(vm).await?),
        VmCommand::Set(set) => settings::set(context, set).await,
        VmCommand::Delete { vm, consent } => {
            confirm::ask(*consent, &format!("Forget VM {vm}? Its image files stay."))?;
            client.delete_vm(vm).await?;
            Answer::new(format!("{vm} is forgotten; its image files are where they were"), &serde_json::json!({}))
        }
    }
}

async fn finish(context: &Context, vm: &VmId, begun: Operation, waiting: Waiting) -> Result<Answer, CliError> {
    work::finish(context, begun, waiting, |done| state(vm, done)).await
}

/// `web: Running`, after an operation that answers a VM.
pub(super) fn state(vm: &VmId, done: &Operation) -> String {
    let line = done.vm_response().map_or("done", |vm| vm.status_line.as_str());
    format!("{vm}: {line}")
}

fn list(vms: &[Vm]) -> Result<Answer, CliError> {
    if vms.is_empty() {
        return Answer::new("There are no such VMs.", &vms);
    }
    let row = |vm: &Vm| {
        [
            vm.id.to_string(),
            vm.status_line.clone(),
            vm.spec.cpus.to_string(),
            text::bytes(vm.spec.memory_mib.saturating_mul(1024 * 1024)),
            text::word(vm.checkpoint_policy),
            vm.accelerator.split(' ').next().unwrap_or_default().to_owned(),
        ]
    };
    Answer::new(table::table(["vm", "state", "cpus", "memory", "checkpoints", "runs on"], vms.iter().map(row)), &vms)
}

async fn change(context: &Context, update: &UpdateVm) -> Result<VmChange, CliError> {
    let location = update.checkpoint_location.as_deref().map(parse::absolute).transpose();
    let location = location.map_err(|problem| CliError::usage(problem, "Give a folder of the host."))?;
    let mut spec = update.from.as_deref().map(vm_file::read).transpose()?.map(|file| file.spec);
    if changes_hardware(update) {
        spec = Some(changed(context.client.vm(&update.vm).await?.spec, update)?);
    }
    let critical = match update.critical.are_typed() {
        true => Some(update.critical.over(context.client.vm(&update.vm).await?.critical_settings.into())),
        false => None,
    };
    let change = VmChange {
        checkpoint_policy: update.policy.map(Into::into),
        undo_checkpoint: update.undo_checkpoint,
        checkpoint_location: location,
        critical,
        spec,
        settings: SettingsChange::default(),
    };
    if change == VmChange::default() {
        let advice = "Add --policy, --undo-checkpoint, --cpus, --memory, --accelerator, --firmware, --tpm, --attach-disk, --detach-disk, \
                      --medium, --eject, --remove-medium, --checkpoint-location, --critical-action, --critical-timeout or --from.";
        return Err(CliError::usage("nothing to change", advice));
    }
    Ok(change)
}

fn changes_hardware(update: &UpdateVm) -> bool {
    let disks = !update.attach_disk.is_empty() || !update.detach_disk.is_empty();
    let media = !update.medium.is_empty() || !update.eject.is_empty() || !update.remove_medium.is_empty();
    update.cpus.is_some()
        || update.memory.is_some()
        || update.accelerator.is_some()
        || update.firmware.is_some()
        || update.tpm.is_some()
        || disks
        || media
}

/// The present spec, with what is named changed.
fn changed(mut spec: Spec, update: &UpdateVm) -> Result<Spec, CliError> {
    spec.cpus = update.cpus.unwrap_or(spec.cpus);
    spec.memory_mib = update.memory.unwrap_or(spec.memory_mib);
    spec.accelerator = update.accelerator.unwrap_or(spec.accelerator);
    match update.firmware {
        Some(FirmwareArg::Uefi) => spec.uefi = Some(spec.uefi.unwrap_or_default()),
        Some(FirmwareArg::Bios) => spec.uefi = None,
        None => {}
    }
    spec.tpm = update.tpm.unwrap_or(spec.tpm);
    for name in &update.detach_disk {
        let Some(at) = spec.disks.iter().position(|disk| disk.name == *name) else {
            let advice = "`stillpoint vm show VM` lists its disks.";
            return Err(CliError::usage(format!("VM {} has no disk {name}", update.vm), advice));
        };
        spec.disks.remove(at);
    }
    spec.disks.extend(update.attach_disk.iter().cloned());
    change_media(&mut spec.media, update)?;
    Ok(spec)
}

/// What is taken out first, then what is put in: into the drive of its name, or into a new one.
fn change_media(media: &mut Vec<Medium>, update: &UpdateVm) -> Result<(), CliError> {
    let find = |media: &[Medium], name: &str| media.iter().position(|medium| medium.name == name);
    let absent = |name: &str| {
        let advice = "`stillpoint vm show VM` lists its media.";
        CliError::usage(format!("VM {} has no medium {name}", update.vm), advice)
    };
    for name in &update.remove_medium {
        let at = find(media, name).ok_or_else(|| absent(name))?;
        media.remove(at);
    }
    for name in &update.eject {
        let at = find(media, name).ok_or_else(|| absent(name))?;
        media[at] = Medium { path: String::new(), format: None, ..media[at].clone() };
    }
    for medium in &update.medium {
        match find(media, &medium.name) {
            Some(at) => media[at] = medium.clone(),
            None => media.push(medium.clone()),
        }
    }
    Ok(())
}
