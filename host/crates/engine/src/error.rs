//! What can go wrong in a step, and the reason that a client is told.

use std::error::Error;

use stillpoint_common::{DefinitionError, Failure, FallbackReason, Reason};

use crate::ports::{
    DescriptionError, ExportError, HypervisorError, ImageError, MemoryError, QuiesceError, StoreError, TpmError,
};

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Quiesce(#[from] QuiesceError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Tpm(#[from] TpmError),
    #[error(transparent)]
    Description(#[from] DescriptionError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("cancelled")]
    Cancelled,
}

/// Which field of a VM's definition is wrong, as a client is told.
pub(crate) fn wrong_definition(error: DefinitionError) -> Failure {
    Failure::field(format!("vm.spec.{}", error.field), error.problem)
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        let reason = match &error {
            StepError::Refused(failure) => return failure.clone(),
            StepError::Hypervisor(error) => hypervisor_reason(error),
            StepError::Image(error) => image_reason(error),
            StepError::Quiesce(error) => quiesce_reason(error),
            StepError::Memory(error) => memory_reason(error),
            StepError::Tpm(error) => tpm_reason(error),
            StepError::Description(error) => description_reason(error),
            StepError::Export(error) => export_reason(error),
            StepError::Store(error) => store_reason(error),
            StepError::Cancelled => Reason::OperationCancelled,
        };
        Self::new(reason, with_causes(&error))
    }
}

/// The message of an error and of its causes, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

const fn hypervisor_reason(error: &HypervisorError) -> Reason {
    match error {
        HypervisorError::Gone => Reason::VmStoppedUnexpectedly,
        HypervisorError::LaunchFailed { .. } => Reason::LaunchFailed,
        HypervisorError::AcceleratorMissing { .. } => Reason::AcceleratorMissing,
        HypervisorError::NoFirmware { .. } => Reason::FirmwareMissing,
        HypervisorError::Tpm(error) => tpm_reason(error),
        HypervisorError::NoSpace { .. } => Reason::NoSpace,
        HypervisorError::Unanswered { .. }
        | HypervisorError::Refused { .. }
        | HypervisorError::WrongState(_)
        | HypervisorError::Io { .. } => Reason::HypervisorFailed,
    }
}

const fn image_reason(error: &ImageError) -> Reason {
    match error {
        ImageError::Missing { .. } => Reason::DiskFileMissing,
        ImageError::Changed { .. } | ImageError::Exists { .. } => Reason::DiskChanged,
        ImageError::InUse { .. } => Reason::DiskInUse,
        ImageError::Unusable { .. } | ImageError::Failed { .. } => Reason::DiskFileUnusable,
        ImageError::NoFirmware { .. } => Reason::FirmwareMissing,
        ImageError::NoSpace { .. } => Reason::NoSpace,
    }
}

const fn quiesce_reason(error: &QuiesceError) -> Reason {
    match error {
        QuiesceError::Unreachable { .. } | QuiesceError::Incompatible { .. } | QuiesceError::Unknown { .. } => {
            Reason::GuestUnreachable
        }
        QuiesceError::Unanswered { .. } => Reason::GuestTimedOut,
        QuiesceError::WriterRefused { .. }
        | QuiesceError::WriterTimedOut { .. }
        | QuiesceError::FileSystemRefused { .. }
        | QuiesceError::NothingToFreeze
        | QuiesceError::SwitchedOff
        | QuiesceError::Paused { .. }
        | QuiesceError::Lapsed { .. }
        | QuiesceError::Failed { .. } => Reason::QuiesceFailed,
    }
}

const fn memory_reason(error: &MemoryError) -> Reason {
    match error {
        MemoryError::Damaged { .. } => Reason::MemoryDamaged,
        MemoryError::NoSpace { .. } => Reason::NoSpace,
        MemoryError::Unusable { .. } | MemoryError::Unanswered { .. } | MemoryError::Io { .. } => Reason::CaptureFailed,
    }
}

const fn tpm_reason(error: &TpmError) -> Reason {
    match error {
        TpmError::NoEmulator { .. } => Reason::TpmMissing,
        TpmError::Unusable { .. } => Reason::TpmStateUnusable,
        TpmError::NoSpace { .. } => Reason::NoSpace,
        TpmError::Io { .. } => Reason::LocationUnusable,
    }
}

const fn description_reason(error: &DescriptionError) -> Reason {
    match error {
        DescriptionError::NoSpace { .. } => Reason::NoSpace,
        DescriptionError::Io { .. } => Reason::LocationUnusable,
    }
}

const fn export_reason(error: &ExportError) -> Reason {
    match error {
        ExportError::TargetExists { .. } => Reason::ExportTargetExists,
        ExportError::TargetUnusable { .. } => Reason::ExportTargetUnusable,
        ExportError::NoSpace { .. } => Reason::NoSpace,
        ExportError::SourceDamaged { .. } => Reason::MemoryDamaged,
        ExportError::NotAnExport { .. } => Reason::ExportUnusable,
        ExportError::ExportDamaged { .. } => Reason::ExportDamaged,
        ExportError::Failed { .. } => Reason::ExportFailed,
    }
}

const fn store_reason(error: &StoreError) -> Reason {
    match error {
        StoreError::Conflict { .. } | StoreError::TooLarge { .. } | StoreError::Failed { .. } => {
            Reason::StoreUnavailable
        }
        StoreError::Newer { .. } => Reason::CatalogueDamaged,
    }
}

impl StepError {
    /// The failure of a production checkpoint whose guest could not be made quiet; says why in the words that a
    /// fallback would be explained with.
    pub(crate) fn blamed_on_quiesce(self, why: FallbackReason) -> Failure {
        let message = format!("no production checkpoint was possible ({why}): {}", Failure::from(self).message);
        Failure::new(Reason::QuiesceFailed, message)
    }

    /// The failure of a whole phase: keeps reasons that say more than the phase would, blames the phase otherwise.
    pub(crate) fn blamed_on(self, reason: Reason) -> Failure {
        let mut failure = Failure::from(self);
        if matches!(failure.reason, Reason::HypervisorFailed) {
            failure.reason = reason;
        }
        failure
    }
}
