//! Exports, and what importing them would be.

use serde::Serialize;
use stillpoint_common::{Consistency, Kind};
use stillpoint_proto::{
    convert::{policy, time},
    v1 as pb,
};

use super::Spec;

/// What an import would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// What was exported.
    pub export: ExportedVm,
    /// What the VM would be made of.
    pub spec: Option<Spec>,
    /// What stands against it.
    pub incompatibilities: Vec<Incompatibility>,
    /// What does not, and should be known.
    pub warnings: Vec<String>,
}

/// A machine in an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedVm {
    /// The VM it was.
    pub vm: String,
    /// Its identity towards its guest; empty: the export does not say.
    pub uid: String,
    /// The checkpoint that was exported.
    pub checkpoint: String,
    /// When that was made.
    pub checkpoint_time: Option<jiff::Timestamp>,
    /// What it is.
    pub kind: Option<Kind>,
    /// What is proven.
    pub consistency: Option<Consistency>,
    /// It has a memory.
    pub has_memory: bool,
    /// The QEMU that wrote the memory.
    pub memory_qemu_version: String,
    /// Its disks.
    pub disks: Vec<String>,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// Something that stands against an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incompatibility {
    /// Stable.
    pub code: String,
    /// The field of the request that mends it.
    pub field: String,
    /// What it is about, and what to do.
    pub message: String,
}

/// What a check of an export has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExportVerified {
    /// Files that were looked at.
    pub files: u32,
    /// Bytes that they have.
    pub bytes: u64,
    /// Those that are not what was exported.
    pub damaged: Vec<DamagedFile>,
}

/// A file that is not what was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedFile {
    /// Which one.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl From<pb::InspectExportResponse> for Inspection {
    fn from(answer: pb::InspectExportResponse) -> Self {
        let found = answer.incompatibilities.into_iter();
        Self {
            export: answer.export.unwrap_or_default().into(),
            spec: answer.spec.as_ref().and_then(|spec| Spec::try_from(spec).ok()),
            incompatibilities: found
                .map(|pb::ImportIncompatibility { code, field, message }| Incompatibility { code, field, message })
                .collect(),
            warnings: answer.warnings,
        }
    }
}

impl From<pb::ExportedVm> for ExportedVm {
    fn from(export: pb::ExportedVm) -> Self {
        Self {
            vm: export.vm.strip_prefix("vms/").unwrap_or(&export.vm).to_owned(),
            uid: export.uid,
            checkpoint: export.checkpoint,
            checkpoint_time: export.checkpoint_time.as_ref().and_then(time::parse_timestamp),
            kind: policy::read_kind(export.kind),
            consistency: policy::read_consistency(export.consistency),
            has_memory: export.has_memory,
            memory_qemu_version: export.memory_qemu_version,
            disks: export.disks,
            bytes: export.bytes,
        }
    }
}

impl From<pb::ExportVerified> for ExportVerified {
    fn from(pb::ExportVerified { files, bytes, damaged }: pb::ExportVerified) -> Self {
        let damaged = damaged.into_iter().map(|pb::DamagedFile { path, problem }| DamagedFile { path, problem });
        Self { files, bytes, damaged: damaged.collect() }
    }
}
