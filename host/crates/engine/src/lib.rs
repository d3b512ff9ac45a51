//! The checkpoint engine: everything that decides, and nothing that knows a hypervisor, a file format or a wire.

mod actor;
mod admission;
mod advice;
mod backups;
mod bounded;
mod catalogue;
mod changed;
mod check;
mod config;
mod contact;
mod context;
mod describe;
mod direction;
mod disks;
mod engine;
mod error;
mod events;
mod failing;
mod fallback;
mod forest;
mod hub;
mod image_merge;
mod import;
mod job;
pub mod layout;
mod manifest;
mod media;
mod plans;
mod points;
pub mod ports;
mod preview;
mod rebuild;
mod record;
mod request;
mod restore;
mod saga;
pub mod served;
mod space;
mod speed;
mod tpm;
mod tree;
mod truth;
mod way;

pub use advice::{Advice, AdviceCode, AdviceReason};
pub use catalogue::readable;
pub use changed::{ChangedFrom, ChangedPart, ChangedReader, ChangedRequest};
pub use config::{EngineConfig, PortLimits, SpaceConfig};
pub use context::Ports;
pub use engine::{BackupLease, Engine, GuestValues, ImageProgress, PointView};
pub use events::{EventReader, EventsFrom};
pub use image_merge::ImageMerge;
pub use import::{ImportMode, ImportRequest, Incompatibility, IncompatibilityCode, Inspection};
pub use manifest::{ExportedCheckpoint, ExportedDisk, ExportedMachine, ExportedMemory, ExportedTpm, Manifest};
pub use preview::{DeletePreview, PlannedMerge};
pub use rebuild::{LeftFile, Rebuilt, TakenVm};
pub use request::{
    ApplyRequest, CheckpointChange, CheckpointView, Doomed, ExportedFile, LayerView, Machine, NewBackup, NewCheckpoint,
    NewVm, Now, Reconnect, Reconnected, Request, StopMode, VmChange, VmView,
};
