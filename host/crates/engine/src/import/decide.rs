//! What stands against an import. Pure.

use std::path::Path;

use stillpoint_common::{AcceleratorChoice, Boot, DiskFormat, Firmware, Medium, NicBackend, VmDefinition, VmId};

use super::{
    ImportMode, ImportRequest, Incompatibility, IncompatibilityCode as Code,
    look::{HostFacts, host_paths, interface_path},
};
use crate::manifest::Manifest;

/// What stands against it, and what should be known.
pub(super) fn decide(
    manifest: &Manifest,
    asked: &ImportRequest,
    vm: &VmId,
    definition: &VmDefinition,
    facts: &HostFacts,
) -> (Vec<Incompatibility>, Vec<String>) {
    let mut found = Vec::new();
    let mut add = |code, field: &str, message: String| {
        found.push(Incompatibility { code, field: field.to_owned(), message });
    };
    for damage in &facts.damaged {
        add(Code::FileDamaged, "", format!("{} {}", damage.path, damage.problem));
    }
    for failure in &facts.unusable {
        add(Code::DiskUnusable, "", failure.message.clone());
    }
    if facts.vm_exists {
        add(Code::VmExists, "vm_id", format!("there is a VM {vm} already; give another name"));
    }
    if let Some(other) = same_machine(manifest, asked, facts) {
        let message = format!("VM {other} is the same machine towards its guest; import another one: mode COPY");
        add(Code::IdentityTaken, "mode", message);
    }
    if asked.mode == ImportMode::Register {
        for (path, owner) in &facts.owned {
            add(Code::DiskInUse, "mode", format!("{} is a disk of VM {owner}; copy it: mode COPY", path.display()));
        }
    }
    for (code, message) in asked.target.iter().filter_map(|target| against_target(target, facts)) {
        add(code, "target_folder", message);
    }
    found.extend(of_the_host(asked, definition, facts));
    found.extend(of_the_memory(manifest, asked, definition));
    (found, warnings(manifest, definition, facts))
}

fn same_machine<'a>(manifest: &Manifest, asked: &ImportRequest, facts: &'a HostFacts) -> Option<&'a VmId> {
    match asked.mode {
        ImportMode::Copy => None,
        ImportMode::Restore | ImportMode::Register => facts.machines.get(&manifest.machine.uid?),
    }
}

fn against_target(target: &Path, facts: &HostFacts) -> Option<(Code, String)> {
    let parent = target.parent()?;
    if facts.missing.contains(parent) {
        return Some((Code::TargetUnusable, format!("{} does not exist", parent.display())));
    }
    let exists = !facts.missing.contains(target);
    exists.then(|| (Code::TargetExists, format!("{} exists already; name a folder that does not", target.display())))
}

/// What the definition takes from the host: it must be there, and be meant.
fn of_the_host(asked: &ImportRequest, definition: &VmDefinition, facts: &HostFacts) -> Vec<Incompatibility> {
    let mut found = Vec::new();
    let taken = taken_from_host(definition);
    if !taken.is_empty() && asked.definition.is_none() && !asked.accept_host_paths {
        let message = format!(
            "the export's definition takes from this host: {}; say that it may (accept_host_paths), or give a spec",
            taken.join(", ")
        );
        found.push(Incompatibility { code: Code::HostPaths, field: "accept_host_paths".to_owned(), message });
    }
    let media: Vec<_> = definition.media.iter().filter_map(Medium::path).collect();
    for path in host_paths(definition) {
        // A medium may be put in later.
        if facts.missing.contains(&path) && !media.contains(&&path) {
            let message = format!("{} does not exist on this host; give a spec with another one", path.display());
            found.push(Incompatibility { code: Code::FileMissing, field: "spec".to_owned(), message });
        }
    }
    for (index, failure) in &facts.unfit_media {
        let (field, message) = (format!("spec.media[{index}].path"), failure.message.clone());
        found.push(Incompatibility { code: Code::MediumUnusable, field, message });
    }
    for (index, nic) in definition.nics.iter().enumerate() {
        let NicBackend::Tap { interface } = &nic.backend else { continue };
        if facts.missing.contains(&interface_path(interface)) {
            let message = format!("this host has no network interface {interface}; give a spec with another one");
            let field = format!("spec.nics[{index}].tap.interface");
            found.push(Incompatibility { code: Code::NetworkMissing, field, message });
        }
    }
    found
}

fn taken_from_host(definition: &VmDefinition) -> Vec<String> {
    let mut taken: Vec<String> = host_paths(definition).iter().map(|path| path.display().to_string()).collect();
    taken.extend(definition.serial_log.iter().map(|path| format!("{} (written to)", path.display())));
    taken.extend(definition.extra_arguments.iter().map(|argument| format!("argument {argument:?}")));
    taken
}

/// A memory can only be loaded into the machine that it is of.
fn of_the_memory(manifest: &Manifest, asked: &ImportRequest, definition: &VmDefinition) -> Option<Incompatibility> {
    if manifest.machine.memory.is_none() || asked.without_memory {
        return None;
    }
    let (was, will_be) = (as_the_guest_sees(&manifest.machine.definition), as_the_guest_sees(definition));
    (was != will_be).then(|| {
        let message = "the spec is of another machine than the memory; leave the memory out (without_memory), or give \
                       the spec that the export has, with other paths and interfaces only";
        let message = message.to_owned();
        Incompatibility { code: Code::MemoryUnusable, field: "without_memory".to_owned(), message }
    })
}

/// What is left of a definition without that which the guest cannot tell.
fn as_the_guest_sees(definition: &VmDefinition) -> VmDefinition {
    let mut seen = definition.clone();
    (seen.accelerator, seen.boot, seen.serial_log) = (AcceleratorChoice::Auto, Boot::Bios, None);
    seen.firmware = match &seen.firmware {
        Firmware::Bios => Firmware::Bios,
        Firmware::Uefi { .. } => Firmware::Uefi { variables: None },
    };
    for disk in &mut seen.disks {
        (disk.path, disk.format) = (Default::default(), DiskFormat::Raw);
    }
    seen.pass_through.iter_mut().for_each(|disk| disk.device = Default::default());
    seen.media.iter_mut().for_each(|medium| medium.file = None);
    seen.nics.iter_mut().for_each(|nic| nic.backend = NicBackend::User);
    seen
}

fn warnings(manifest: &Manifest, definition: &VmDefinition, facts: &HostFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    for left in &manifest.machine.left_out {
        warnings.push(format!("disk {} is not in the export: {}", left.disk, left.why));
    }
    let kept = |name| definition.layered().any(|disk| disk.name == name);
    for disk in manifest.machine.disks.iter().filter(|disk| !kept(disk.disk.clone())) {
        warnings.push(format!("disk {} of the export is not taken: the spec does not name it", disk.disk));
    }
    for mac in definition.nics.iter().filter_map(|nic| nic.mac.as_ref()) {
        if let Some(other) = facts.addresses.get(&mac.to_lowercase()) {
            warnings.push(format!("VM {other} has the hardware address {mac} too: do not let both run in one network"));
        }
    }
    for path in definition.media.iter().filter_map(Medium::path).filter(|path| facts.missing.contains(*path)) {
        warnings
            .push(format!("medium {} does not exist: put it there, or eject it, before the VM starts", path.display()));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{import::propose::propose, manifest::tests::content};

    fn asked(mode: ImportMode) -> ImportRequest {
        let target = (mode != ImportMode::Register).then(|| "/vm/new".into());
        let folder = "/backup/web".into();
        ImportRequest { folder, mode, target, definition: None, without_memory: false, accept_host_paths: false }
    }

    fn codes(manifest: &Manifest, asked: &ImportRequest, facts: &HostFacts) -> Vec<&'static str> {
        let vm = "web".parse().unwrap();
        let proposal = propose(manifest, asked, &vm).unwrap();
        let (found, _) = decide(manifest, asked, &vm, &proposal.definition, facts);
        proposal.incompatibilities.iter().chain(&found).map(|found| found.code.code()).collect()
    }

    fn manifest() -> Manifest {
        Manifest::read(content()).unwrap()
    }

    fn free() -> HostFacts {
        HostFacts { missing: [Path::new("/vm/new").to_owned()].into(), ..HostFacts::default() }
    }

    #[test]
    fn nothing_stands_against_an_export_on_its_own() {
        assert!(codes(&manifest(), &asked(ImportMode::Copy), &free()).is_empty());
        assert!(codes(&manifest(), &asked(ImportMode::Register), &free()).is_empty());
    }

    #[test]
    fn a_machine_that_is_there_already_can_only_be_copied() {
        let mut manifest = manifest();
        let uid = Uuid::new_v4();
        manifest.machine.uid = Some(uid);
        let facts = HostFacts { machines: [(uid, "old".parse().unwrap())].into(), ..free() };
        assert!(codes(&manifest, &asked(ImportMode::Copy), &facts).is_empty());
        assert_eq!(codes(&manifest, &asked(ImportMode::Restore), &facts), ["IDENTITY_TAKEN"]);
        let facts = HostFacts { vm_exists: true, ..free() };
        assert_eq!(codes(&manifest, &asked(ImportMode::Copy), &facts), ["VM_EXISTS"]);
    }

    #[test]
    fn a_folder_that_exists_or_has_no_parent_is_not_written_to() {
        let facts = HostFacts::default();
        assert_eq!(codes(&manifest(), &asked(ImportMode::Copy), &facts), ["TARGET_EXISTS"]);
        let facts = HostFacts { missing: ["/vm", "/vm/new"].map(Into::into).into(), ..HostFacts::default() };
        assert_eq!(codes(&manifest(), &asked(ImportMode::Copy), &facts), ["TARGET_UNUSABLE"]);
    }

    #[test]
    fn what_an_export_takes_from_the_host_has_to_be_meant_and_to_be_there() {
        let mut manifest = manifest();
        manifest.machine.definition.extra_arguments.push("-device".to_owned());
        manifest.machine.definition.boot =
            Boot::Kernel { kernel: "/boot/vmlinuz".into(), initrd: None, command_line: String::new() };
        assert_eq!(codes(&manifest, &asked(ImportMode::Copy), &free()), ["HOST_PATHS"]);
        let accepted = ImportRequest { accept_host_paths: true, ..asked(ImportMode::Copy) };
        assert!(codes(&manifest, &accepted, &free()).is_empty());
        let mut facts = free();
        facts.missing.insert("/boot/vmlinuz".into());
        assert_eq!(codes(&manifest, &accepted, &facts), ["FILE_MISSING"]);
        let own = ImportRequest { definition: Some(manifest.machine.definition.clone()), ..asked(ImportMode::Copy) };
        assert!(codes(&manifest, &own, &free()).is_empty(), "who gives a spec means it");
    }

    #[test]
    fn a_memory_goes_with_its_machine_only() {
        let manifest = manifest();
        let mut other = manifest.machine.definition.clone();
        other.disks[0].path = "/elsewhere".into();
        let moved = ImportRequest { definition: Some(other.clone()), ..asked(ImportMode::Copy) };
        assert!(codes(&manifest, &moved, &free()).is_empty(), "paths of disks are not seen by the guest");
        other.memory_mib *= 2;
        let larger = ImportRequest { definition: Some(other), ..asked(ImportMode::Copy) };
        assert_eq!(codes(&manifest, &larger, &free()), ["MEMORY_UNUSABLE"]);
        let without = ImportRequest { without_memory: true, ..larger };
        assert!(codes(&manifest, &without, &free()).is_empty());
    }

    #[test]
    fn a_disk_that_is_not_in_the_export_is_named() {
        let mut manifest = manifest();
        manifest.machine.definition.disks[0].name = "system".parse().unwrap();
        let without = ImportRequest { without_memory: true, ..asked(ImportMode::Copy) };
        assert_eq!(codes(&manifest, &without, &free()), ["DISK_MISSING"]);
    }
}
