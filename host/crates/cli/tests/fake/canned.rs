//! The world that the fake service tells of: VM `web` with four checkpoints, VM `db` with none.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use stillpoint_common::{
    Accelerator, AcceleratorChoice, Boot, Checkpoint, CheckpointId, CheckpointPolicy, CheckpointState, Consistency,
    Critical, CriticalSettings, DefinitionChange, DiskDefinition, DiskFormat, Failure, FallbackReason,
    FileSystemOutcome, FileSystemResult, Firmware, GuestDescription, Hazard, KeyValues, Kind, LayerFile, LayerId,
    LeftOut, MemoryState, Operation, OperationId, OperationKind, OperationState, PhaseRecord, PowerState, Progress,
    Reason, Remarks, ServiceRole, Tpm, Vm, VmDefinition, VmFailure, VmFailures, VmSettings, WriterError, WriterEvent,
    WriterFacts, WriterLevel, WriterOutcome, WriterResult, WriterState,
};
use stillpoint_proto::{convert, v1 as pb};
use uuid::Uuid;

pub(crate) const CLEAN: &str = "019a0000-0000-7000-8000-000000000001";
pub(crate) const UPGRADE: &str = "019b1111-0000-7000-8000-000000000002";
pub(crate) const TWIN_A: &str = "019c2222-0000-7000-8000-000000000003";
pub(crate) const TWIN_B: &str = "019c2222-3333-7000-8000-000000000004";
/// The operation that never ends.
pub(crate) const HANGING: &str = "019d0000-0000-7000-8000-00000000000f";

fn id(text: &str) -> CheckpointId {
    text.parse().unwrap()
}

fn ago(hours: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(hours) - SignedDuration::from_secs(30)
}

pub(crate) fn definition() -> VmDefinition {
    VmDefinition {
        cpus: 2,
        memory_mib: 512,
        accelerator: AcceleratorChoice::Auto,
        firmware: Firmware::Bios,
        tpm: Tpm::Absent,
        boot: Boot::Bios,
        disks: vec![DiskDefinition {
            name: "system".parse().unwrap(),
            path: "/vm/web.qcow2".into(),
            format: DiskFormat::Qcow2,
        }],
        pass_through: vec![],
        media: vec![],
        nics: vec![],
        serial_log: None,
        extra_arguments: vec![],
    }
}

pub(crate) fn vm(name: &str, definition: VmDefinition) -> pb::Vm {
    let web = name == "web";
    let path = if web { "/vm/web-b.qcow2" } else { "/vm/db.qcow2" };
    let layer = LayerFile { id: LayerId::generate(), path: path.into(), format: DiskFormat::Qcow2 };
    let record = Vm {
        id: name.parse().unwrap(),
        uid: Uuid::from_u128(7),
        definition,
        checkpoint_policy: CheckpointPolicy::Production,
        checkpoint_location: "/var/lib/stillpoint/checkpoints".into(),
        parent: web.then(|| id(UPGRADE)),
        heads: BTreeMap::new(),
        instance: None,
        host_boot: String::new(),
        saved: None,
        held: None,
        tpm: None,
        undo_checkpoint: false,
        detached: vec![],
        generation_id: Uuid::from_u128(8),
        accelerator: web.then(|| Accelerator::Tcg("no /dev/kvm".into())),
        critical: CriticalSettings::default(),
        merges: Default::default(),
        made_by: None,
        settings: VmSettings { labels: ["site=north".parse().unwrap()].into(), ..VmSettings::default() },
        values: KeyValues::default(),
        created: ago(100),
        updated: ago(1),
    };
    let power = if web { PowerState::Running } else { PowerState::Off };
    let mut vm = convert::vm::vm(&record, power, &[("system".parse().unwrap(), layer, 3)], None);
    convert::vm::set_failure(&mut vm, &failures(web));
    if name == "full" {
        vm.state = pb::VmState::PausedCritical.into();
        convert::vm::set_critical(&mut vm, &critical());
    }
    vm
}

/// VM `web` has failed once.
fn failures(web: bool) -> VmFailures {
    let last = VmFailure {
        time: "2026-01-01T12:00:00Z".parse().unwrap(),
        reason: Reason::GuestPanicked,
        at_work: false,
        outcome: "it was brought back".into(),
    };
    VmFailures { last: web.then_some(last), recoveries: usize::from(web), max_recoveries: 3 }
}

/// Why VM `full` stands still.
fn critical() -> Critical {
    Critical {
        disk: Some("system".parse().unwrap()),
        no_space: true,
        path: Some("/vm/web.now.qcow2".into()),
        mounted_on: Some("/vm".into()),
        free: Some(4096),
        since: Some("2026-01-01T12:00:00Z".parse().unwrap()),
    }
}

pub(crate) fn checkpoints() -> Vec<pb::Checkpoint> {
    let clean = Checkpoint {
        left_out: vec![LeftOut { disk: "tape".parse().unwrap(), why: "a pass-through disk".into() }],
        ..production(CLEAN, "clean install", None, 75)
    };
    let larger = VmDefinition { cpus: 4, serial_log: Some("/log/web".into()), ..definition() };
    let upgrade = production(UPGRADE, "before the upgrade", None, 2);
    let upgrade = fallback(Checkpoint { parent: Some(id(CLEAN)), definition: larger, ..upgrade });
    let twins = [TWIN_A, TWIN_B].map(|twin| production(twin, "twin", Some(id(CLEAN)), 1));
    let twins = twins.map(|twin| Checkpoint { remarks: Remarks { hazards: vec![hazard()], ..twin.remarks }, ..twin });
    [clean, upgrade].into_iter().chain(twins).map(|checkpoint| message(&checkpoint)).collect()
}

pub(crate) fn message(checkpoint: &Checkpoint) -> pb::Checkpoint {
    let files = BTreeMap::from([("system".parse().unwrap(), "/vm/web.qcow2".into())]);
    convert::checkpoint::checkpoint(checkpoint, &files)
}

pub(crate) fn production(text: &str, name: &str, parent: Option<CheckpointId>, hours: i64) -> Checkpoint {
    Checkpoint {
        id: id(text),
        vm: "web".parse().unwrap(),
        name: name.parse().unwrap(),
        parent,
        created: ago(hours),
        kind: Kind::Production,
        requested_policy: CheckpointPolicy::Production,
        consistency: Consistency::FileSystem,
        fallback: None,
        fallback_detail: String::new(),
        backup_type: stillpoint_common::BackupType::Copy,
        definition: definition(),
        disks: BTreeMap::new(),
        memory: None,
        tpm: None,
        was_running: true,
        power: Some(stillpoint_common::PowerState::Running),
        file_systems: file_systems(FileSystemResult::Frozen),
        writers: vec![],
        phases: phases(&[("freeze", 38.2), ("cut", 3.1), ("thaw", 0.4)]),
        left_out: vec![],
        state: CheckpointState::Ready,
        remarks: Remarks { creator: Some(1000), ..Remarks::default() },
    }
}

pub(crate) fn fallback(checkpoint: Checkpoint) -> Checkpoint {
    let memory = MemoryState {
        path: "/m".into(),
        bytes: 412 << 20,
        blake3: String::new(),
        qemu_version: "10.0.2".into(),
        format: stillpoint_common::MemoryFormat::Pages,
    };
    Checkpoint {
        kind: Kind::Standard,
        consistency: Consistency::Memory,
        fallback: Some(FallbackReason::AgentUnreachable),
        fallback_detail: "no guest agent answers: the channel is closed".into(),
        memory: Some(memory),
        file_systems: vec![],
        phases: phases(&[("pause", 14.0), ("capture", 1234.0)]),
        ..checkpoint
    }
}

fn file_systems(result: FileSystemResult) -> Vec<FileSystemOutcome> {
    vec![FileSystemOutcome {
        mount_point: "/".into(),
        source: "/dev/vda1".into(),
        fs_type: "ext4".into(),
        result,
        detail: String::new(),
        took: Duration::from_millis(12),
    }]
}

pub(crate) fn phases(phases: &[(&str, f64)]) -> Vec<PhaseRecord> {
    let phase =
        |(name, ms): &(&str, f64)| PhaseRecord { name: (*name).to_owned(), took: Duration::from_secs_f64(ms / 1000.0) };
    phases.iter().map(phase).collect()
}

pub(crate) fn guest() -> GuestDescription {
    let detail = "the log is full".to_owned();
    GuestDescription {
        agent_version: "0.1.0".into(),
        hostname: "web.example".into(),
        kernel: "6.1.0-28-amd64".into(),
        file_systems: file_systems(FileSystemResult::Selected),
        writers: vec![WriterOutcome {
            detail,
            facts: facts(),
            ..WriterOutcome::new("postgresql", WriterResult::Refused)
        }],
        services: vec![],
    }
}

fn facts() -> WriterFacts {
    WriterFacts {
        id: "5ea1ed00-0001-4000-8000-000000000001".into(),
        instance: "0b1c".into(),
        level: WriterLevel::BackEnd,
        state: WriterState::FailedAt(WriterEvent::Freeze),
        last_error: Some(WriterError::Retryable),
        metadata: [("lsn".to_owned(), "0/16B3748".to_owned())].into(),
        ..WriterFacts::default()
    }
}

fn hazard() -> Hazard {
    let consequence = "it forgets what it voted for".to_owned();
    Hazard { service: "etcd".into(), role: ServiceRole::ClusterMember, consequence }
}

pub(crate) fn advice() -> pb::CheckpointAdvice {
    let (code, text) = ("NO_WRITER".to_owned(), "database postgresql has no writer".to_owned());
    pb::CheckpointAdvice {
        policy: pb::CheckpointPolicy::Standard.into(),
        reasons: vec![pb::AdviceReason { code, text }],
        hazards: vec![convert::advice::hazard(&hazard())],
        services: vec![],
    }
}

/// An operation on `web` in a state, its kind by the last digit of its id.
pub(crate) fn operation(text: &str, kind: OperationKind, state: OperationState) -> Operation {
    let ended = (state != OperationState::Running).then(Timestamp::now);
    Operation {
        id: text.parse::<OperationId>().unwrap(),
        kind,
        vm: "web".parse().unwrap(),
        checkpoint: None,
        phase: if ended.is_none() { "capture".into() } else { String::new() },
        progress: if ended.is_none() { Progress { done: 42, total: 100 } } else { Progress::default() },
        phases: if ended.is_none() {
            phases(&[("pause", 14.0)])
        } else {
            phases(&[("pause", 14.0), ("capture", 1234.0)])
        },
        warnings: warnings(kind, &state),
        changes: if kind == OperationKind::ApplyCheckpoint { changes() } else { vec![] },
        first_checkpoint: None,
        state,
        started: ago(0),
        ended,
    }
}

/// What the service says beside the checkpoint's own words about its fallback.
fn changes() -> Vec<DefinitionChange> {
    let change =
        |field: &str, from: &str, to: &str| DefinitionChange { field: field.into(), from: from.into(), to: to.into() };
    vec![change("cpus", "4", "2"), change("nics[0]", "user", "")]
}

fn warnings(kind: OperationKind, state: &OperationState) -> Vec<String> {
    let fell_back = kind == OperationKind::CreateCheckpoint && !matches!(state, OperationState::Failed(_));
    let said = "a standard checkpoint was made instead: no guest agent answers: the channel is closed";
    if fell_back { vec![said.to_owned()] } else { vec![] }
}

pub(crate) fn failed(failure: Failure) -> OperationState {
    OperationState::Failed(failure)
}

pub(crate) fn layers() -> Vec<pb::Layer> {
    let base = pb::Layer {
        layer: "a".repeat(24),
        disk: "system".into(),
        path: "/vm/web.qcow2".into(),
        format: "qcow2".into(),
        virtual_bytes: 1 << 30,
        allocated_bytes: 512 << 20,
        checkpoints: vec![format!("vms/web/checkpoints/{CLEAN}")],
        now: true,
        frozen: true,
        ..pb::Layer::default()
    };
    let head = pb::Layer {
        layer: "b".repeat(24),
        path: "/vm/web-b.qcow2".into(),
        backing_layer: base.layer.clone(),
        backing_path: base.path.clone(),
        checkpoints: vec![],
        frozen: false,
        missing: true,
        problems: vec!["does not exist".into()],
        allocated_bytes: (4 << 20) + (64 << 10),
        create_time: Some(convert::time::timestamp(ago(4))),
        file_system: "/vm".into(),
        free_bytes: Some(49 << 20),
        ..base.clone()
    };
    vec![base, head]
}

/// One merge of 512 MiB, of which it is known how long it takes.
pub(crate) fn preview(checkpoints: Vec<String>) -> pb::DeletePreview {
    let merge = pb::MergePreview {
        disk: "system".into(),
        from: "/vm/web-b.qcow2".into(),
        into: "/vm/web.qcow2".into(),
        bytes: 512 << 20,
        grows_bytes: 100 << 20,
        direction: pb::MergeDirection::Down.into(),
    };
    pb::DeletePreview {
        checkpoints,
        merges: vec![merge],
        removed_files: vec!["/vm/web-c.qcow2".into()],
        kept_files: vec![],
        move_bytes: 512 << 20,
        needed_bytes: 100 << 20,
        freed_bytes: 412 << 20,
        memory_bytes: 0,
        estimated_time: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
    }
}
