//! The words of Stillpoint: ids, names, definitions, checkpoints, layers, operations and reasons.
//!
//! Nothing here does I/O. Every record of the catalogue and every answer of a port is made of these words, and the
//! same words stand in the `.proto` files, the command line and the documents.

mod backup;
mod change;
mod checkpoint;
mod contact;
mod critical;
mod definition;
mod event;
mod failing;
mod filter;
mod finding;
mod firmware;
mod ids;
mod layer;
mod medium;
mod names;
mod operation;
mod policy;
mod quiesce;
mod reason;
mod reference;
mod service;
mod settings;
mod tpm;
mod values;
mod vm;
mod writer;

pub use backup::{AskedConsistency, Backup, BackupState, WritersTold};
pub use change::DefinitionChange;
pub use checkpoint::{Checkpoint, CheckpointState, LeftOut, MemoryFormat, MemoryState, Remarks};
pub use contact::{Beat, ContactState, GuestContact, ServiceState};
pub use critical::{Critical, CriticalAction, CriticalSettings};
pub use definition::{
    AcceleratorChoice, Boot, DefinitionError, DiskDefinition, DiskFormat, NicBackend, NicDefinition, PassThroughDisk,
    VmDefinition,
};
pub use event::{Event, EventKind, EventToken, TokenError};
pub use failing::{OnFailure, VmFailure, VmFailures};
pub use filter::{CheckpointFilter, Pattern};
pub use finding::{Finding, FindingKind};
pub use firmware::{Firmware, UEFI_VARIABLES};
pub use ids::{
    BackupId, CheckpointId, IdError, InstanceId, LayerId, MemoryId, OperationId, ReferencePointId, SessionId,
};
pub use layer::{FileIdentity, FileStamp, Layer, LayerFile, MergeDirection};
pub use medium::{Drive, Medium, MediumFile};
pub use names::{CheckpointName, DiskName, Label, NameError, Notes, VmId};
pub use operation::{Operation, OperationKind, OperationState, Outcome, PhaseName, PhaseRecord, Progress};
pub use policy::{CheckpointPolicy, Consistency, FallbackReason, Kind};
pub use quiesce::{
    ClockSet, FileSystemOutcome, FileSystemResult, Frozen, GuestDescription, Prepared, QuiesceRequest, Restore,
    RestoredWriter, Thawed, WriterOutcome, WriterRequest, WriterResult,
};
pub use reason::{Category, Failure, Reason};
pub use reference::ReferencePoint;
pub use service::{Hazard, HazardPolicy, ObservedService, ServiceRole};
pub use settings::{GuestService, SettingsChange, UnsupportedDisks, VmSettings};
pub use tpm::{Tpm, TpmState};
pub use values::{KeyValues, MAX_BYTES, MAX_KEY, MAX_VALUE, MAX_VALUES, ToldValues, ValueError};
pub use vm::{Accelerator, DetachedDisk, HeldMemory, Merges, PowerState, SavedState, Vm};
pub use writer::{
    BackupType, Retry, WriterComponent, WriterError, WriterEvent, WriterFacts, WriterLevel, WriterPolicy, WriterState,
};
