//! What the service answers, as this program shows it and as `--json` prints it.
//!
//! The keys of the JSON documents are the names of the fields here, which are the words of the `.proto` files. They are
//! stable: a key is never renamed or given another meaning; new ones may come. Times are RFC 3339 in UTC, durations are
//! milliseconds (`took_ms`), sizes are bytes. What is not there is `null`, not left out.

mod advice;
mod backup;
mod checkpoint;
mod critical;
mod event;
mod failure;
mod growth;
mod guest;
mod image;
mod integrity;
mod medium;
mod operation;
mod preview;
mod session;
mod spec;
mod transfer;
mod values;
mod vm;

pub use advice::{Advice, AdviceReason, Hazard, ObservedService};
pub use backup::{ByteRange, ChangedRanges, ReferencePoint, ReferencePointDisk};
pub use checkpoint::{Checkpoint, CheckpointDisk, LeftOutDisk};
pub use critical::{Critical, CriticalSettings};
pub use event::Event;
pub use failure::VmFailure;
pub use growth::{Growth, Usage, growth, usage};
pub use guest::{FileSystem, Guest, Host, Writer};
pub use image::{ImageMergePlan, ImageMergeProgress, ImageMerged};
pub use integrity::{Finding, Layer, LeftDescription, Rebuilt, RebuiltVm};
pub use medium::Medium;
pub use operation::{Ended, Export, ExportFile, Operation, OperationError, Phase, Response, SpecChange};
pub use preview::{DeletePreview, MergePreview};
pub use session::{Backup, BackupState, WritersTold};
pub use spec::{Disk, KernelBoot, Nic, PassThroughDisk, Spec, TapNetwork, Uefi, UserNetwork};
pub use transfer::{DamagedFile, ExportVerified, ExportedVm, Incompatibility, Inspection};
pub(crate) use values::values;
pub use values::{GuestContact, GuestValues, ServiceState, Value};
pub use vm::{DiskStatus, SavedState, Vm};

use jiff::Timestamp;
use stillpoint_common::{CheckpointId, Failure};
use stillpoint_proto::convert::{names, time};

/// A time that came; `None` if none came or it is no date.
fn read_time(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(time::parse_timestamp)
}

/// A duration that came, in milliseconds; 0 if none came.
fn read_took(took: Option<&prost_types::Duration>) -> f64 {
    took.and_then(time::parse_duration).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
}

/// The id in the name of a checkpoint; `None` if the name is empty.
fn read_checkpoint_id(name: &str, field: &str) -> Result<Option<CheckpointId>, Failure> {
    if name.is_empty() {
        return Ok(None);
    }
    names::parse_checkpoint(name, field).map(|(_, id)| Some(id))
}
