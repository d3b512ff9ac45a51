//! A wrong field is refused, and named by its path in the request.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use stillpoint_common::{BackupType, CheckpointPolicy, Failure, Reason};
use stillpoint_proto::{convert::request, longrunning, v1 as pb, writer::v1 as wpb};

fn disk(name: &str, path: &str) -> pb::Disk {
    pb::Disk { name: name.into(), path: path.into(), format: pb::DiskFormat::Qcow2.into() }
}

fn cdrom(path: &str) -> pb::Medium {
    pb::Medium { name: "cd".into(), path: path.into(), format: pb::DiskFormat::Raw.into(), ..pb::Medium::default() }
}

fn good() -> pb::CreateVmRequest {
    let kernel = pb::KernelBoot { kernel: "/boot/vmlinuz".into(), ..pb::KernelBoot::default() };
    let spec = pb::VmSpec {
        cpus: 2,
        memory_mib: 512,
        kernel: Some(kernel),
        disks: vec![disk("system", "/vm/system.qcow2"), disk("data", "/vm/data.qcow2")],
        pass_through: vec![pb::PassThroughDisk { name: "tape".into(), device: "/dev/sdb".into(), read_only: true }],
        uefi: Some(pb::Uefi { variables: "/vm/vars.qcow2".into() }),
        media: vec![cdrom("/iso/debian.iso")],
        nics: vec![pb::Nic::default()],
        ..pb::VmSpec::default()
    };
    let vm = pb::Vm { spec: Some(spec), ..pb::Vm::default() };
    pb::CreateVmRequest { vm_id: "web".into(), vm: Some(vm), request_id: String::new() }
}

fn refused_at<T: std::fmt::Debug>(answer: Result<T, Failure>) -> String {
    let failure = answer.unwrap_err();
    assert_eq!(failure.reason, Reason::FieldInvalid);
    failure.field.unwrap()
}

#[test]
fn what_has_changed_is_asked_of_one_vm_and_a_wrong_name_is_named() {
    use stillpoint_proto::convert::request::CopyOf;
    let id = "01a20587-7064-759c-80ee-b06a565944f5";
    let good = pb::ListChangedRangesRequest {
        to: format!("vms/web/checkpoints/{id}"),
        disk: "data".into(),
        length_bytes: 65_536,
        offset_bytes: 131_072,
        ..pb::ListChangedRangesRequest::default()
    };
    let asked = request::list_changed_ranges(&good).unwrap();
    assert_eq!((asked.from, asked.bytes), (CopyOf::Nothing, 131_072..196_608));
    let from = |from: String| request::list_changed_ranges(&pb::ListChangedRangesRequest { from, ..good.clone() });
    let known = from(format!("vms/web/referencePoints/{id}")).unwrap().from;
    assert_eq!(known, CopyOf::Point(id.parse().unwrap()));
    assert_eq!(from(format!("vms/web/checkpoints/{id}")).unwrap().from, CopyOf::Checkpoint(id.parse().unwrap()));
    for wrong in [format!("vms/db/checkpoints/{id}"), format!("vms/db/referencePoints/{id}"), "vms/web".into()] {
        assert_eq!(refused_at(from(wrong)), "from");
    }
    let to_point = pb::ListChangedRangesRequest { to: format!("vms/web/referencePoints/{id}"), ..good.clone() };
    assert_eq!(refused_at(request::list_changed_ranges(&to_point)), "to");
    assert_eq!(
        refused_at(request::list_changed_ranges(&pb::ListChangedRangesRequest { disk: "é".into(), ..good })),
        "disk"
    );
}

#[test]
fn a_request_that_leaves_everything_open_gets_the_documented_defaults() {
    let request = request::create_vm(&good()).unwrap();
    assert_eq!(request.checkpoint_policy, CheckpointPolicy::Production);
    assert_eq!(request.checkpoint_location, None);
    assert_eq!(request.request_id, None);
    assert_eq!(request.definition.serial_log, None);
}

#[test]
fn a_wrong_field_of_a_new_vm_is_named_by_its_path() {
    type Spoil = fn(&mut pb::CreateVmRequest, &mut pb::Vm, &mut pb::VmSpec);
    let cases: [(Spoil, &str); 20] = [
        (|r, _, _| r.vm_id = "Web".into(), "vm_id"),
        (|r, _, _| r.request_id = "7".into(), "request_id"),
        (|_, vm, _| vm.checkpoint_policy = 99, "vm.checkpoint_policy"),
        (|_, vm, _| vm.checkpoint_location = "here".into(), "vm.checkpoint_location"),
        (|_, _, s| s.cpus = 0, "vm.spec.cpus"),
        (|_, _, s| s.accelerator = -1, "vm.spec.accelerator"),
        (|_, _, s| s.disks[1].path = String::new(), "vm.spec.disks[1].path"),
        (|_, _, s| s.disks[1].name = "system".into(), "vm.spec.disks[1].name"),
        (|_, _, s| s.disks[0].name = "Not a name".into(), "vm.spec.disks[0].name"),
        (|_, _, s| s.disks[0].format = 0, "vm.spec.disks[0].format"),
        (|_, _, s| s.pass_through[0].device = "sdb".into(), "vm.spec.pass_through[0].device"),
        (|_, _, s| s.uefi.as_mut().unwrap().variables = "vars".into(), "vm.spec.uefi.variables"),
        (|_, _, s| s.media[0].path = "debian.iso".into(), "vm.spec.media[0].path"),
        (|_, _, s| s.media[0].format = 0, "vm.spec.media[0].format"),
        (|_, _, s| s.media[0].path = String::new(), "vm.spec.media[0].format"),
        (|_, _, s| s.media[0].drive = 9, "vm.spec.media[0].drive"),
        (|_, _, s| s.media[0].name = "data".into(), "vm.spec.media[0].name"),
        (|_, _, s| s.nics[0].mac = "none".into(), "vm.spec.nics[0].mac"),
        (|_, _, s| s.kernel.as_mut().unwrap().initrd = "initrd".into(), "vm.spec.kernel.initrd"),
        (|_, _, s| s.kernel.as_mut().unwrap().kernel.clear(), "vm.spec.kernel.kernel"),
    ];
    for (spoil, field) in cases {
        let mut request = good();
        let mut vm = request.vm.take().unwrap();
        let mut spec = vm.spec.take().unwrap();
        spoil(&mut request, &mut vm, &mut spec);
        request.vm = Some(pb::Vm { spec: Some(spec), ..vm });
        assert_eq!(refused_at(request::create_vm(&request)), field);
    }
    assert_eq!(refused_at(request::create_vm(&pb::CreateVmRequest { vm: None, ..good() })), "vm");
    let without = pb::CreateVmRequest { vm: Some(pb::Vm::default()), ..good() };
    assert_eq!(refused_at(request::create_vm(&without)), "vm.spec");
}

#[test]
fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let vm = pb::Vm { name: "vms/web".into(), checkpoint_location: "/cp".into(), ..good().vm.unwrap() };
    let update = |paths: &[&str]| {
        let mask = prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() };
        request::update_vm(&pb::UpdateVmRequest { vm: Some(vm.clone()), update_mask: Some(mask) })
    };
    let location = update(&["checkpoint_location"]).unwrap();
    assert_eq!(location.checkpoint_location.as_deref(), Some("/cp".as_ref()));
    assert_eq!((location.checkpoint_policy, location.definition), (None, None));
    assert_eq!(update(&["checkpoint_policy", "spec"]).unwrap().checkpoint_policy, Some(CheckpointPolicy::Production));
    assert_eq!(refused_at(update(&[])), "update_mask");
    assert_eq!(refused_at(update(&["uid"])), "update_mask");
}

#[test]
fn losing_the_present_state_must_be_said() {
    let revert = pb::RevertVmRequest { name: "vms/web".into(), ..pb::RevertVmRequest::default() };
    assert_eq!(refused_at(request::revert_vm(&revert)), "now");
    let now = pb::NowDisposition::Discard.into();
    assert!(request::revert_vm(&pb::RevertVmRequest { now, ..revert }).is_ok());
    let apply = pb::ApplyCheckpointRequest { name: "vms/web".into(), now, ..pb::ApplyCheckpointRequest::default() };
    assert_eq!(refused_at(request::apply_checkpoint(&apply)), "name");
}

#[test]
fn a_wrong_field_of_a_checkpoint_request_is_named() {
    let create = |display_name: &str, policy: i32| {
        let (parent, display_name) = ("vms/web".to_owned(), display_name.to_owned());
        request::create_checkpoint(&pb::CreateCheckpointRequest { parent, display_name, policy, ..Default::default() })
    };
    assert_eq!(create("", 0).unwrap().name, None);
    assert_eq!(refused_at(create(" ", 0)), "display_name");
    assert_eq!(refused_at(create(&"x".repeat(101), 0)), "display_name");
    assert_eq!(refused_at(create("", pb::CheckpointPolicy::Disabled.into())), "policy");
    let typed = |backup_type| {
        let parent = "vms/web".to_owned();
        request::create_checkpoint(&pb::CreateCheckpointRequest { parent, backup_type, ..Default::default() })
    };
    assert_eq!(typed(0).unwrap().backup_type, BackupType::Copy);
    assert_eq!(typed(wpb::BackupType::Differential.into()).unwrap().backup_type, BackupType::Differential);
    assert_eq!(refused_at(typed(99)), "backup_type");
    let export = |folder: &str| {
        let name = "vms/web/checkpoints/01890000-0000-7000-8000-000000000000".to_owned();
        request::export_checkpoint(&pb::ExportCheckpointRequest {
            name,
            target_folder: folder.to_owned(),
            ..Default::default()
        })
    };
    assert!(export("/exports/one").is_ok());
    assert_eq!(refused_at(export("one")), "target_folder");
}

#[test]
fn operations_are_filtered_by_vm_and_state() {
    let filter = request::filter(" vm = \"web\" AND done=false ").unwrap();
    assert_eq!((filter.vm.unwrap().as_str(), filter.done), ("web", Some(false)));
    assert_eq!(request::filter(" ").unwrap(), request::OperationFilter::default());
    for wrong in ["vm", "vm = \"Web\"", "done = maybe", "done = true AND done = false", "kind = X", "vm = web OR x"] {
        assert_eq!(refused_at(request::filter(wrong)), "filter", "{wrong}");
    }
    let list = longrunning::ListOperationsRequest { name: "vms".into(), ..Default::default() };
    assert_eq!(refused_at(request::list_operations(&list)), "name");
    let timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let name = "operations/01890000-0000-7000-8000-000000000000".to_owned();
    assert_eq!(refused_at(request::wait_operation(&longrunning::WaitOperationRequest { name, timeout })), "timeout");
}
