//! Reasons: every way in which Stillpoint says no, with a stable name, a category and what to do.
//!
//! Each reason has a row in `host/docs/errors.md`; a test holds the two together.

use serde::{Deserialize, Serialize};

/// The family of a reason; becomes the gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// The request is wrong whatever the state: mend it.
    InvalidArgument,
    /// What the request names does not exist.
    NotFound,
    /// What the request makes exists already.
    AlreadyExists,
    /// The state does not allow it now: change the state first.
    FailedPrecondition,
    /// Something else is at work: try again when it has ended.
    Aborted,
    /// Space, memory or a limit is used up.
    ResourceExhausted,
    /// A peer did not answer in time.
    DeadlineExceeded,
    /// The caller gave up.
    Cancelled,
    /// Something the service needs cannot be reached.
    Unavailable,
    /// A defect, here or in what we use; the service's log has more.
    Internal,
    /// Stored data is damaged.
    DataLoss,
}

macro_rules! reasons {
    ($($variant:ident, $code:literal, $category:ident, $advice:literal;)*) => {
        /// Why a request was refused or an operation failed. Stable: a name is never reused for another meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $(#[doc = $advice] #[serde(rename = $code)] $variant,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name: `VM_NOT_FOUND`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Its family.
            #[must_use]
            pub const fn category(self) -> Category {
                match self { $(Self::$variant => Category::$category,)* }
            }

            /// What the caller can do about it.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    FieldInvalid, "FIELD_INVALID", InvalidArgument, "Correct the field that is named.";
    VmNotFound, "VM_NOT_FOUND", NotFound, "List the VMs with `stillpoint vm list`.";
    VmExists, "VM_EXISTS", AlreadyExists, "Choose another name, or delete the VM of that name first.";
    CheckpointNotFound, "CHECKPOINT_NOT_FOUND", NotFound, "List the checkpoints with `stillpoint checkpoint tree VM`.";
    CheckpointAmbiguous, "CHECKPOINT_AMBIGUOUS", InvalidArgument, "Several checkpoints have this name: give the id.";
    CheckpointMissing, "CHECKPOINT_MISSING", FailedPrecondition, "A file of it is missing: put it back, say where it is with `stillpoint vm reconnect`, or delete the checkpoint.";
    CheckpointDeleting, "CHECKPOINT_DELETING", FailedPrecondition, "It is being deleted and cannot be used; choose another checkpoint.";
    CheckpointHasNoMemory, "CHECKPOINT_HAS_NO_MEMORY", FailedPrecondition, "Leave --to-saved out: the VM is off after this checkpoint is applied.";
    OperationNotFound, "OPERATION_NOT_FOUND", NotFound, "List the operations with `stillpoint operation list`.";
    DiskNotFound, "DISK_NOT_FOUND", NotFound, "The VM has no disk of this name; `stillpoint vm show VM` lists them.";
    LayerNotFound, "LAYER_NOT_FOUND", NotFound, "List the layers with `stillpoint vm layers VM`.";
    DiskFileMissing, "DISK_FILE_MISSING", FailedPrecondition, "Put the image file back, or correct the path.";
    DiskFileUnusable, "DISK_FILE_UNUSABLE", FailedPrecondition, "Check the file with `qemu-img info` and `qemu-img check`, and the declared format.";
    DiskInUse, "DISK_IN_USE", FailedPrecondition, "Give each VM its own image: the file belongs to the VM that is named.";
    DiskIsBacking, "DISK_IS_BACKING", FailedPrecondition, "The file is a layer under another one; writing to it would destroy that one. Use the top of the chain, or a copy.";
    ImageOfVm, "IMAGE_OF_VM", FailedPrecondition, "Its layers are merged by deleting checkpoints: `stillpoint checkpoint delete VM CHECKPOINT`.";
    ImageInUse, "IMAGE_IN_USE", FailedPrecondition, "Stop the program that is named, then try again.";
    DiskChanged, "DISK_CHANGED", FailedPrecondition, "The file is not the one that Stillpoint knows. Find out who replaced it before going on.";
    DiskHasLayers, "DISK_HAS_LAYERS", FailedPrecondition, "Delete the VM's checkpoints first, and wait until their layers are merged.";
    MediumMissing, "MEDIUM_MISSING", FailedPrecondition, "Put the file back, or give the VM another one: `stillpoint vm update VM --medium name=NAME,path=FILE`, or `--eject NAME` for an empty drive.";
    FirmwareMissing, "FIRMWARE_MISSING", FailedPrecondition, "Install UEFI for virtual machines on the host (Debian: `apt-get install ovmf`), or name its files in STILLPOINT_UEFI_CODE and STILLPOINT_UEFI_VARS.";
    TpmMissing, "TPM_MISSING", FailedPrecondition, "Install an emulated TPM on the host (Debian: `apt-get install swtpm`), or name its program in STILLPOINT_SWTPM.";
    TpmStateUnusable, "TPM_STATE_UNUSABLE", FailedPrecondition, "Put the folder with the state of the TPM back, or mend what the message says; `stillpoint vm show VM` names it. Applying a checkpoint gives the VM another one.";
    VmBusy, "VM_BUSY", Aborted, "Wait for the operation that is named, or cancel it, then try again.";
    VmNotRunning, "VM_NOT_RUNNING", FailedPrecondition, "Start the VM first.";
    VmRunning, "VM_RUNNING", FailedPrecondition, "Stop the VM first.";
    VmSaved, "VM_SAVED", FailedPrecondition, "Start the VM: it goes on where it was saved. Or give its saved state up: `stillpoint vm discard-saved VM`.";
    VmNotPaused, "VM_NOT_PAUSED", FailedPrecondition, "Only a paused VM can be resumed.";
    VmPausedCritical, "VM_PAUSED_CRITICAL", FailedPrecondition, "Free space on the file system that is named, or mend the disk; then resume the VM, if it does not go on by itself.";
    VmHasCheckpoints, "VM_HAS_CHECKPOINTS", FailedPrecondition, "Delete its checkpoints first.";
    VmStoppedUnexpectedly, "VM_STOPPED_UNEXPECTEDLY", Unavailable, "The VM's process ended; its log says why. Start the VM again.";
    MemoryLost, "MEMORY_LOST", DataLoss, "The VM was stopped: it ran before all of its memory was loaded, and the rest cannot be had, as the event `VM_DIED` says. Apply the checkpoint again; if its memory is damaged, without its memory.";
    GuestPanicked, "GUEST_PANICKED", Unavailable, "The guest's kernel has panicked; its console says why. Start the VM again, or revert it.";
    CheckpointsDisabled, "CHECKPOINTS_DISABLED", FailedPrecondition, "Set the VM's checkpoint policy: `stillpoint vm update VM --policy production`.";
    CheckpointLimit, "CHECKPOINT_LIMIT", ResourceExhausted, "A VM has at most 50 checkpoints: delete some.";
    HazardRefused, "HAZARD_REFUSED", FailedPrecondition, "Take the guest out of its cluster first, or allow it: `stillpoint vm set VM --hazards warn`.";
    UnsupportedDisk, "UNSUPPORTED_DISK", FailedPrecondition, "Detach the disk, or let checkpoints be made without it: `stillpoint vm set VM --unsupported-disks leave-out`.";
    NoCheckpoint, "NO_CHECKPOINT", FailedPrecondition, "The VM has no checkpoint to go back to.";
    NoMemoryState, "NO_MEMORY_STATE", FailedPrecondition, "The checkpoint has no memory to delete; `stillpoint checkpoint list VM` shows which have one.";
    QuiesceFailed, "QUIESCE_FAILED", FailedPrecondition, "Mend what the guest reported, or allow a standard checkpoint: `--policy production`.";
    LaunchFailed, "LAUNCH_FAILED", FailedPrecondition, "QEMU did not start; its own words are in the message. Correct the definition.";
    AcceleratorMissing, "ACCELERATOR_MISSING", FailedPrecondition, "KVM does not work on this host; use accelerator AUTO or TCG.";
    GuestUnreachable, "GUEST_UNREACHABLE", Unavailable, "No agent answers in the guest: install and start stillpoint-agent, or use --turn-off for a stop.";
    GuestTimedOut, "GUEST_TIMED_OUT", DeadlineExceeded, "The guest did not do it in time; look at its console, or use --turn-off for a stop.";
    CaptureFailed, "CAPTURE_FAILED", Internal, "QEMU could not save the memory; its own words are in the message. The VM goes on as before.";
    RestoreFailed, "RESTORE_FAILED", Internal, "QEMU could not load the memory; its own words are in the message. The VM is as it was before.";
    MemoryDamaged, "MEMORY_DAMAGED", DataLoss, "The memory file is missing or damaged; the checkpoint's disks can still be exported.";
    MergeFailed, "MERGE_FAILED", Internal, "Nothing is lost and the VM runs on; the merge is tried again by itself, and at the next delete.";
    NoSpace, "NO_SPACE", ResourceExhausted, "Free some space on the file system that is named, then try again.";
    LocationUnusable, "LOCATION_UNUSABLE", FailedPrecondition, "The VM's checkpoint location must be a folder that the service can write to; the message says what stands against it.";
    ExportTargetExists, "EXPORT_TARGET_EXISTS", AlreadyExists, "Choose a folder that does not exist yet.";
    ExportTargetUnusable, "EXPORT_TARGET_UNUSABLE", FailedPrecondition, "The folder above the target must exist and be writable for the service.";
    ExportFailed, "EXPORT_FAILED", Internal, "Copying failed as the message says; nothing was left behind. Mend the cause and export again.";
    ExportUnusable, "EXPORT_UNUSABLE", FailedPrecondition, "Give the folder of a finished export, with its `manifest.json`; the message says what stands against this one.";
    ExportDamaged, "EXPORT_DAMAGED", DataLoss, "A file of the export is not what was exported: copy the export again from where it came from. `stillpoint export verify FOLDER` lists all such files.";
    ImportIncompatible, "IMPORT_INCOMPATIBLE", FailedPrecondition, "Change the fields of the request that the message names; `stillpoint vm import --dry-run` lists all that stands against it.";
    EventsForgotten, "EVENTS_FORGOTTEN", FailedPrecondition, "Begin again without --since: `stillpoint events` shows what is remembered.";
    ReferencePointNotFound, "REFERENCE_POINT_NOT_FOUND", NotFound, "List the reference points with `stillpoint backup points VM`. Without the one of the last backup, read the whole disk.";
    ReferencePointLimit, "REFERENCE_POINT_LIMIT", ResourceExhausted, "Give those up that no backup needs any more: `stillpoint backup forget-point VM POINT`.";
    VmHasReferencePoints, "VM_HAS_REFERENCE_POINTS", FailedPrecondition, "Give its reference points up first: `stillpoint backup points VM`, `stillpoint backup forget-point VM POINT`.";
    ChangesUnknown, "CHANGES_UNKNOWN", FailedPrecondition, "Read the whole disk: ask for what holds data, without --from.";
    BackupNotFound, "BACKUP_NOT_FOUND", NotFound, "List the backup sessions with `stillpoint backup sessions VM`. Those that ended long ago are forgotten.";
    BackupOpen, "BACKUP_OPEN", FailedPrecondition, "Complete the backup session that is named, or abort it: `stillpoint backup abort VM BACKUP`.";
    BackupEnded, "BACKUP_ENDED", FailedPrecondition, "The session has ended, as the message says: begin another one with `stillpoint backup start VM`.";
    ConsistencyTooLow, "CONSISTENCY_TOO_LOW", FailedPrecondition, "Mend what keeps the guest from more, or take less: `stillpoint backup start VM --least crash`.";
    RequestIdReused, "REQUEST_ID_REUSED", AlreadyExists, "This request_id was used for a different request: choose a new one.";
    OperationCancelled, "OPERATION_CANCELLED", Cancelled, "The operation was cancelled and undone.";
    Interrupted, "INTERRUPTED", Aborted, "The service stopped in the middle; the operation was undone at its next start. Try again.";
    StoreUnavailable, "STORE_UNAVAILABLE", Unavailable, "The catalogue cannot be read or written; the service's log says why.";
    CatalogueDamaged, "CATALOGUE_DAMAGED", DataLoss, "A record of the catalogue cannot be understood; nothing was changed. Restore the store from its copy.";
    HypervisorFailed, "HYPERVISOR_FAILED", Internal, "QEMU refused a command or did not answer; its own words are in the message.";
    Unsupported, "UNSUPPORTED", FailedPrecondition, "This is not possible for the VM as it is; the message says what stands against it.";
}

/// A refusal or failure as it is stored with an operation and sent to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The stable reason.
    pub reason: Reason,
    /// What went wrong, with names and paths, for a person.
    pub message: String,
    /// Path of the wrong field in the request, if one is.
    pub field: Option<String>,
}

impl Failure {
    /// A failure that no field of the request is to blame for.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), field: None }
    }

    /// A field of the request that is wrong.
    #[must_use]
    pub fn field(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let field = field.into();
        Self { reason: Reason::FieldInvalid, message: format!("{field}: {problem}"), field: Some(field) }
    }

    /// The same failure, blamed on a field of the request.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_says_what_to_do() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.advice().ends_with('.') || reason.advice().ends_with('`'), "{}", reason.code());
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{}\"", reason.code()));
        }
    }
}
