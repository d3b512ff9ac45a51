//! Whatever the domain can say, the wire can carry there and back.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use proptest::{collection::vec, option, prelude::*};
use stillpoint_common::{
    AcceleratorChoice, Boot, CheckpointId, CheckpointName, CheckpointPolicy, CriticalAction, CriticalSettings,
    DiskDefinition, DiskFormat, Drive, Firmware, Medium, MediumFile, NicBackend, NicDefinition, OperationId,
    PassThroughDisk, Tpm, VmDefinition, VmId,
};
use stillpoint_proto::{
    convert::{critical, names, policy, request, spec, time},
    v1 as pb,
};
use uuid::Uuid;

fn path() -> impl Strategy<Value = String> {
    "(/[a-zA-Z0-9 ._é-]{1,12}){1,4}"
}

fn boot() -> impl Strategy<Value = Boot> {
    let kernel = (path(), option::of(path()), ".{0,40}").prop_map(|(kernel, initrd, command_line)| Boot::Kernel {
        kernel: kernel.into(),
        initrd: initrd.map(Into::into),
        command_line,
    });
    prop_oneof![Just(Boot::Bios), kernel]
}

fn nic() -> impl Strategy<Value = NicDefinition> {
    let tap = "[a-z][a-z0-9_.-]{0,14}".prop_map(|interface| NicBackend::Tap { interface });
    let backend = prop_oneof![Just(NicBackend::User), tap];
    (backend, option::of("([0-9a-fA-F]{2}:){5}[0-9a-f]{2}")).prop_map(|(backend, mac)| NicDefinition { backend, mac })
}

fn format() -> impl Strategy<Value = DiskFormat> {
    prop::sample::select(vec![DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Vhdx, DiskFormat::Vpc])
}

/// Disks whose names and paths are told apart by a number, since a definition takes each only once.
fn disks() -> impl Strategy<Value = (Vec<DiskDefinition>, Vec<PassThroughDisk>)> {
    let disks = vec(("[a-z][a-z0-9-]{0,14}", path(), format()), 0..5);
    let passed = vec(("[a-z][a-z0-9-]{0,14}", path(), any::<bool>()), 0..3);
    (disks, passed).prop_map(|(disks, passed)| {
        let disks = disks.into_iter().enumerate().map(|(i, (name, path, format))| DiskDefinition {
            name: format!("{name}-d{i}").parse().unwrap(),
            path: format!("{path}.d{i}").into(),
            format,
        });
        let passed = passed.into_iter().enumerate().map(|(i, (name, device, read_only))| PassThroughDisk {
            name: format!("{name}-p{i}").parse().unwrap(),
            device: format!("{device}.p{i}").into(),
            read_only,
        });
        (disks.collect(), passed.collect())
    })
}

fn media() -> impl Strategy<Value = Vec<Medium>> {
    let file = || (path(), format());
    let medium = ("[a-z][a-z0-9-]{0,14}", any::<bool>(), file(), option::of(file()));
    vec(medium, 0..4).prop_map(|media| {
        let media = media.into_iter().enumerate().map(|(i, (name, cdrom, file, or_empty))| {
            let file = if cdrom { or_empty } else { Some(file) };
            let file = file.map(|(path, format)| MediumFile { path: format!("{path}.m{i}").into(), format });
            let drive = if cdrom { Drive::Cdrom } else { Drive::Disk };
            Medium { name: format!("{name}-m{i}").parse().unwrap(), drive, file }
        });
        media.collect()
    })
}

fn definition() -> impl Strategy<Value = VmDefinition> {
    let accelerator = vec![AcceleratorChoice::Auto, AcceleratorChoice::Kvm, AcceleratorChoice::Tcg];
    let size = (1..=256_u32, 16..=16_777_216_u64, prop::sample::select(accelerator));
    let variables = option::of(path().prop_map(|path| format!("{path}.v").into()));
    let rest = ((variables, boot()), disks(), media(), vec(nic(), 0..3), option::of(path()), vec(".{0,20}", 0..4));
    (size, rest).prop_map(
        |((cpus, memory_mib, accelerator), ((variables, boot), (disks, pass_through), media, nics, log, extra))| {
            VmDefinition {
                cpus,
                memory_mib,
                accelerator,
                tpm: if memory_mib % 2 == 0 { Tpm::Absent } else { Tpm::V2 },
                firmware: if cpus % 2 == 0 { Firmware::Bios } else { Firmware::Uefi { variables } },
                boot,
                disks,
                pass_through,
                media,
                nics,
                serial_log: log.map(Into::into),
                extra_arguments: extra,
            }
        },
    )
}

fn critical_settings() -> impl Strategy<Value = CriticalSettings> {
    let action = prop::sample::select(vec![CriticalAction::ResumeWhenSpace, CriticalAction::Wait]);
    let after = option::of((1..1_000_000_u64).prop_map(std::time::Duration::from_millis));
    (action, after).prop_map(|(action, power_off_after)| CriticalSettings { action, power_off_after })
}

fn policies() -> impl Strategy<Value = CheckpointPolicy> {
    use CheckpointPolicy::{Disabled, Production, ProductionOnly, Standard};
    prop::sample::select(vec![Disabled, Standard, Production, ProductionOnly])
}

fn vm_id() -> impl Strategy<Value = VmId> {
    "[a-z][a-z0-9-]{0,62}".prop_map(|text| text.parse().unwrap())
}

fn over_the_wire<M: prost::Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn settings_for_want_of_space_come_back_as_they_were(settings in critical_settings()) {
        let read = critical::parse_settings(Some(&critical::settings(&settings)), "x");
        prop_assert_eq!(read, Ok(settings));
    }

    #[test]
    fn a_definition_is_the_same_after_its_journey(definition in definition()) {
        prop_assert_eq!(definition.check(), Ok(()));
        let message = over_the_wire(&spec::spec(&definition));
        prop_assert_eq!(spec::definition(Some(&message), "vm.spec"), Ok(definition));
    }

    #[test]
    fn a_request_to_create_a_vm_says_what_was_meant(id in vm_id(), definition in definition(), policy in policies()) {
        let vm = pb::Vm {
            spec: Some(spec::spec(&definition)),
            checkpoint_policy: pb::CheckpointPolicy::from(policy).into(),
            ..pb::Vm::default()
        };
        let message = pb::CreateVmRequest { vm_id: id.to_string(), vm: Some(vm), request_id: String::new() };
        let request = request::create_vm(&over_the_wire(&message)).unwrap();
        prop_assert_eq!((request.id, request.definition, request.checkpoint_policy), (id, definition, policy));
    }

    #[test]
    fn a_policy_is_the_same_after_its_journey(asked in policies()) {
        prop_assert_eq!(policy::policy(pb::CheckpointPolicy::from(asked).into(), "policy"), Ok(Some(asked)));
    }

    #[test]
    fn a_disk_format_is_the_same_after_its_journey(format in format()) {
        prop_assert_eq!(spec::format(pb::DiskFormat::from(format).into(), "format"), Ok(Some(format)));
    }

    #[test]
    fn a_resource_name_is_the_same_after_its_journey(vm in vm_id(), bits in any::<u128>()) {
        let checkpoint = CheckpointId::from_uuid(Uuid::from_u128(bits));
        let operation = OperationId::from_uuid(Uuid::from_u128(bits));
        prop_assert_eq!(names::parse_vm(&names::vm(&vm), "name"), Ok(vm.clone()));
        prop_assert_eq!(names::parse_guest(&names::guest(&vm), "name"), Ok(vm.clone()));
        let name = names::checkpoint(&vm, checkpoint);
        prop_assert_eq!(names::parse_checkpoint(&name, "name"), Ok((vm, checkpoint)));
        prop_assert_eq!(names::parse_operation(&names::operation(operation), "name"), Ok(operation));
    }

    #[test]
    fn a_checkpoint_name_is_the_same_after_its_journey(vm in vm_id(), name in "\\PC{1,100}") {
        let Ok(name) = name.parse::<CheckpointName>() else { return Ok(()) };
        let message = pb::CreateCheckpointRequest {
            parent: names::vm(&vm),
            display_name: name.to_string(),
            ..pb::CreateCheckpointRequest::default()
        };
        let request = request::create_checkpoint(&over_the_wire(&message)).unwrap();
        prop_assert_eq!((request.vm, request.name), (vm, Some(name)));
    }

    #[test]
    fn whatever_a_client_calls_a_resource_is_answered_in_few_words(text in "\\PC*") {
        for failure in [names::parse_vm(&text, "name").err(), names::parse_operation(&text, "name").err()] {
            prop_assert!(failure.is_none_or(|failure| failure.message.starts_with("name: ")));
        }
    }

    #[test]
    fn a_time_is_the_same_after_its_journey(seconds in -62_000_000_000_i64..253_000_000_000, nanos in 0..1_000_000_000_i32) {
        let point = jiff::Timestamp::new(seconds, nanos).unwrap();
        let message = time::timestamp(point);
        prop_assert!((0..1_000_000_000).contains(&message.nanos));
        prop_assert_eq!(time::parse_timestamp(&message), Some(point));
    }

    #[test]
    fn a_duration_is_the_same_after_its_journey(seconds in 0..315_576_000_000_u64, nanos in 0..1_000_000_000_u32) {
        let took = std::time::Duration::new(seconds, nanos);
        prop_assert_eq!(time::parse_duration(&time::duration(took)), Some(took));
    }
}
