//! One thing with all its details.

use jiff::Timestamp;
use stillpoint_common::{CriticalAction, Kind};

use super::{settings, work::fallback_text};
use crate::{
    output::{
        phases,
        table::{details, section},
        text,
    },
    view::{
        Checkpoint, Critical, FileSystem, Growth, Guest, Host, Medium, Operation, SavedState, Spec, Usage, Vm,
        VmFailure, Writer,
    },
};

pub(super) fn vm(vm: &Vm) -> String {
    let head = details([
        ("vm", vm.id.to_string()),
        ("state", vm.status_line.clone()),
        ("saved", vm.saved.as_ref().map(saved).unwrap_or_default()),
        ("cpus", vm.spec.cpus.to_string()),
        ("memory", memory(&vm.spec)),
        (
            "runs on",
            if vm.accelerator.is_empty() { text::word(Some(vm.spec.accelerator)) } else { vm.accelerator.clone() },
        ),
        ("firmware", if vm.spec.uefi.is_some() { "UEFI".to_owned() } else { "BIOS".to_owned() }),
        ("boots", vm.spec.kernel.as_ref().map_or_else(|| "from its disks".to_owned(), |boot| boot.kernel.clone())),
        ("checkpoint policy", text::word(vm.checkpoint_policy)),
        ("undo checkpoint", if vm.undo_checkpoint { "made before every apply".to_owned() } else { String::new() }),
        ("checkpoint location", vm.checkpoint_location.clone()),
        ("without space", without_space(vm)),
        ("when it fails", settings::when_it_fails(vm)),
        ("failed", vm.failure.as_ref().map(failed).unwrap_or_default()),
        ("growth", vm.growth.as_ref().map(growth).unwrap_or_default()),
        ("stands still", vm.critical.as_ref().map(standstill).unwrap_or_default()),
        ("automatic", if vm.settings.automatic_checkpoints { "at each start".to_owned() } else { String::new() }),
        ("labels", vm.settings.labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        ("after checkpoint", vm.parent_checkpoint.map(|id| id.to_string()).unwrap_or_default()),
        ("operation", vm.operation.map(|id| id.to_string()).unwrap_or_default()),
        ("tpm", if vm.spec.tpm { format!("2.0, in {}", vm.tpm_state) } else { String::new() }),
        ("merges", if vm.merges_suspended { "suspended".to_owned() } else { String::new() }),
        ("serial log", vm.spec.serial_log.clone()),
        ("uid", vm.uid.clone()),
        ("generation id", vm.generation_id.clone()),
        ("defined", text::time(vm.create_time)),
    ]);
    let disks = vm.disks.iter().map(|disk| [disk.disk.clone(), disk.head_path.clone(), disk.depth.to_string()]);
    let passed = vm.spec.pass_through.iter();
    let passed = passed.map(|disk| [disk.name.clone(), disk.device.clone(), "not part of checkpoints".to_owned()]);
    let disks = section("Disks", ["disk", "writes to", "layers"], disks);
    let detached = vm.detached_disks.iter().map(|disk| [disk.name.clone(), disk.path.clone()]);
    let disks = format!("{disks}{}", section("Detached disks", ["disk", "image"], detached));
    let media = vm.spec.media.iter().map(medium);
    let media = section("Read-only media", ["medium", "in", "file"], media);
    format!("{head}{disks}{}{media}", section("Pass-through disks", ["disk", "device", ""], passed))
}

fn medium(medium: &Medium) -> [String; 3] {
    let file = if medium.path.is_empty() { "empty".to_owned() } else { medium.path.clone() };
    [medium.name.clone(), medium.drive_text().to_owned(), file]
}

/// `2026-11-24T15:00:00Z, GUEST_PANICKED: it was brought back (1 of 3 times within the last hour)`
fn failed(failure: &VmFailure) -> String {
    if failure.reason.is_empty() {
        return String::new();
    }
    let (time, VmFailure { reason, outcome, recoveries, max_recoveries, .. }) =
        (text::time(failure.fail_time), failure);
    format!("{time}, {reason}: {outcome} ({recoveries} of {max_recoveries} times within the last hour)")
}

/// `4 GiB since the last checkpoint, 2 GiB an hour: full in 5 h`
fn growth(growth: &Growth) -> String {
    let full = growth.full_in_seconds.map(|seconds| format!(": full in {}", text::span(seconds)));
    format!(
        "{} since the last checkpoint{}{}",
        text::bytes(growth.bytes),
        rate(growth.bytes_per_hour),
        full.unwrap_or_default()
    )
}

/// `3 layers, 4 GiB of its own, 2 GiB an hour`
fn usage(usage: &Usage) -> String {
    let layers = text::count(usage.depth, "layer");
    format!("{layers}, {} of its own{}", text::bytes(usage.bytes), rate(usage.bytes_per_hour))
}

fn rate(per_hour: Option<u64>) -> String {
    per_hour.map(|bytes| format!(", {} an hour", text::bytes(bytes))).unwrap_or_default()
}

/// What is done when it stands still for want of space.
fn without_space(vm: &Vm) -> String {
    let action = match vm.critical_settings.action {
        CriticalAction::ResumeWhenSpace => "goes on when there is space",
        CriticalAction::Wait => "waits to be resumed",
    };
    match vm.critical_settings.power_off_after_ms {
        None => action.to_owned(),
        Some(after) => format!("{action}, is switched off after {} s", after / 1000),
    }
}

/// `disk data, since 12:00: /mnt has 0 B free`
fn standstill(critical: &Critical) -> String {
    let disk = critical.disk.as_ref().map_or_else(|| "a disk".to_owned(), |disk| format!("disk {disk}"));
    let why = if critical.no_space { "had no space" } else { "failed" };
    let free = critical.free_bytes.map(|free| format!("; {} has {} free", critical.mounted_on, text::bytes(free)));
    let since = critical.since_time.map(|since| format!(", since {}", text::time(Some(since))));
    format!("{disk} ({}) {why}{}{}", critical.path, since.unwrap_or_default(), free.unwrap_or_default())
}

pub(super) fn checkpoint(checkpoint: &Checkpoint) -> String {
    let head = details([
        ("checkpoint", checkpoint.display_name.clone()),
        ("id", checkpoint.id.to_string()),
        ("vm", checkpoint.vm.to_string()),
        ("after", checkpoint.parent.map(|id| id.to_string()).unwrap_or_default()),
        ("made", made(checkpoint)),
        ("kind", text::word(checkpoint.kind)),
        ("consistency", text::word(checkpoint.consistency)),
        ("asked", text::word(checkpoint.requested_policy)),
        ("fallback", fallback_text(checkpoint).unwrap_or_default()),
        ("backup type", backup_type(checkpoint)),
        ("memory", if checkpoint.memory_bytes == 0 { "none".into() } else { text::bytes(checkpoint.memory_bytes) }),
        (
            "tpm",
            if checkpoint.spec.tpm { format!("2.0, {}", text::bytes(checkpoint.tpm_bytes)) } else { String::new() },
        ),
        ("on disk", checkpoint.usage.as_ref().map(usage).unwrap_or_default()),
        ("vm was", text::word(checkpoint.vm_state).to_lowercase()),
        ("hardware", format!("{} CPUs, {}", checkpoint.spec.cpus, memory(&checkpoint.spec))),
        ("phases", phases::line(&checkpoint.phases)),
        ("notes", checkpoint.notes.replace('\n', "\n  ")),
        ("keep until", text::time(checkpoint.keep_until)),
        ("made by", made_by(checkpoint)),
        ("state", if checkpoint.deleting { "being deleted".to_owned() } else { String::new() }),
        ("MISSING", checkpoint.missing_files.join(", ")),
    ]);
    let disks = checkpoint.disks.iter().map(|disk| [disk.disk.clone(), disk.path.clone()]);
    let left_out = checkpoint.left_out.iter().map(|disk| [disk.disk.clone(), disk.why.clone()]);
    let disks = section("Disks", ["disk", "layer"], disks);
    let left_out = section("Disks left out", ["disk", "why"], left_out);
    let left_out = format!("{left_out}{}", super::hazards::hazards(&checkpoint.hazards));
    format!("{head}{disks}{left_out}{}", parts(&checkpoint.file_systems, &checkpoint.writers))
}

pub(super) fn operation(operation: &Operation) -> String {
    details([
        ("operation", operation.id.to_string()),
        ("kind", operation.kind.clone()),
        ("vm", operation.vm.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("checkpoint", operation.checkpoint.map(|id| id.to_string()).unwrap_or_default()),
        ("state", operation_state(operation)),
        ("error", operation.ended.error.as_ref().map(|error| error.message.clone()).unwrap_or_default()),
        ("what to do", operation.ended.error.as_ref().and_then(|error| error.advice.clone()).unwrap_or_default()),
        ("phases", phases::line(&operation.phases)),
        ("warnings", operation.warnings.join("\n")),
        ("kept first as", operation.first_checkpoint.map(|id| id.to_string()).unwrap_or_default()),
        ("changed", super::checkpoint::spec_changes(&operation.spec_changes).trim_start().to_owned()),
        ("begun", text::time(operation.start_time)),
        ("ended", text::time(operation.end_time)),
    ])
}

/// `at work: capture 42%`, `done`, `failed: NO_SPACE`
pub(super) fn operation_state(operation: &Operation) -> String {
    if let Some(error) = &operation.ended.error {
        return format!("failed: {}", error.reason);
    }
    if operation.done {
        return "done".to_owned();
    }
    let percent = (u128::from(operation.done_bytes) * 100).checked_div(u128::from(operation.total_bytes));
    let percent = percent.map(|percent| format!(" {}%", percent.min(100))).unwrap_or_default();
    if operation.phase.is_empty() { "at work".to_owned() } else { format!("at work: {}{percent}", operation.phase) }
}

pub(super) fn guest(guest: &Guest) -> String {
    let head = details([
        ("agent", guest.agent_version.clone()),
        ("host name", guest.hostname.clone()),
        ("kernel", guest.kernel.clone()),
        ("writers", if guest.writers.is_empty() { "none".to_owned() } else { String::new() }),
    ]);
    let services = guest.services.iter();
    let services = services.map(|it| [it.service.clone(), text::word(it.role), it.evidence.clone()]);
    let services = section("Services", ["service", "role", "by"], services);
    format!("{head}{}{services}", parts(&guest.file_systems, &guest.writers))
}

/// As `vssadmin list writers` has it.
pub(super) fn writer(writer: &Writer) -> String {
    let error = writer.last_error.map_or_else(|| "No error".to_owned(), |error| error.to_string());
    let level = text::word(Some(writer.level));
    let mut lines = vec![
        format!("Writer name: '{}'", writer.writer),
        format!("   Writer Id: {{{}}}", writer.id),
        format!("   Writer Instance Id: {{{}}}", writer.instance),
        format!("   Level: {level}"),
        format!("   State: [{}] {}", writer.state_number, writer.state),
        format!("   Last error: {error}"),
    ];
    lines.extend(writer.retry.as_ref().map(|retry| format!("   What to do: {retry}")));
    lines.extend(writer.components.iter().map(|component| {
        format!("   Component: {} {}", component.name, component.files.join(" ")).trim_end().to_owned()
    }));
    lines.join("\n")
}

pub(super) fn host(host: &Host) -> String {
    details([
        ("service", host.service_version.clone()),
        ("qemu", if host.qemu_version.is_empty() { "cannot be run".into() } else { host.qemu_version.clone() }),
        ("auto runs on", host.accelerator.clone()),
        ("state folder", host.state_folder.clone()),
        ("vms", host.vms.to_string()),
        ("problems", if host.problems.is_empty() { "none".to_owned() } else { host.problems.join("\n") }),
    ])
}

fn parts(file_systems: &[FileSystem], writers: &[Writer]) -> String {
    let row = |fs: &FileSystem| {
        let took = if fs.took_ms > 0.0 { text::took(fs.took_ms) } else { String::new() };
        [fs.mount_point.clone(), fs.source.clone(), fs.fs_type.clone(), text::word(fs.result), took, fs.detail.clone()]
    };
    let head = ["mounted on", "source", "type", "result", "froze in", "detail"];
    let writer = |writer: &Writer| {
        let kept: Vec<_> = writer.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let took = if writer.took_ms > 0.0 { text::took(writer.took_ms) } else { String::new() };
        let level = text::word(Some(writer.level));
        [writer.writer.clone(), level, text::word(writer.result), took, writer.detail.clone(), kept.join("\n")]
    };
    let file_systems = section("File systems", head, file_systems.iter().map(row));
    format!(
        "{file_systems}{}",
        section("Writers", ["writer", "level", "result", "froze in", "detail", "kept"], writers.iter().map(writer))
    )
}

/// Writers are told of production checkpoints only.
fn backup_type(checkpoint: &Checkpoint) -> String {
    if checkpoint.kind == Some(Kind::Production) { text::word(checkpoint.backup_type) } else { String::new() }
}

fn made_by(checkpoint: &Checkpoint) -> String {
    if checkpoint.automatic { "the service, at the start of the VM".to_owned() } else { checkpoint.creator.clone() }
}

fn made(checkpoint: &Checkpoint) -> String {
    let (time, age) = (text::time(checkpoint.create_time), text::age(checkpoint.create_time, Timestamp::now()));
    format!("{time} ({age})")
}

/// `2026-11-24T15:00:00Z, 512 MiB, will be running`
fn saved(saved: &SavedState) -> String {
    let (time, bytes) = (text::time(saved.save_time), text::bytes(saved.bytes));
    format!("{time}, {bytes}, will be {}", if saved.was_running { "running" } else { "paused" })
}

fn memory(spec: &Spec) -> String {
    text::bytes(spec.memory_mib.saturating_mul(1024 * 1024))
}
