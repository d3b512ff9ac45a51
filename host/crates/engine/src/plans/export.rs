//! Copying a checkpoint out as a stand-alone machine.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use stillpoint_common::{Checkpoint, DiskFormat, DiskName, OperationId, Outcome, Reason};
use uuid::Uuid;

use super::disks::{chain_files, verify_layers};
use crate::{
    Request,
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::{Facts, Job},
    manifest::{ExportedDisk, ExportedMachine, ExportedMemory, ExportedTpm},
    ports::{ExportError, Flatten, MemorySource},
    saga::{Nature, Plan, Step, up_to},
};

/// One export.
pub(super) struct Export {
    pub(super) checkpoint: Checkpoint,
    pub(super) target: PathBuf,
    pub(super) format: DiskFormat,
    pub(super) staged: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExportStep {
    Stage,
    CopyDisks,
    CopyMemory,
    WriteTpm,
    Seal,
}

use ExportStep as S;

const BURSTS: &[&[S]] = &[&[S::Stage, S::CopyDisks, S::CopyMemory, S::WriteTpm], &[S::Seal]];

/// The memory.
const MEMORY_FILE: &str = "memory";
/// The state of the TPM, by the name that swtpm looks for in its folder.
const TPM_FILE: &str = "tpm2-00.permall";

impl Step for ExportStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::Stage | Self::WriteTpm => None,
            Self::CopyDisks => Some("copy"),
            // Its own, if there is a memory.
            Self::CopyMemory => None,
            Self::Seal => Some("seal"),
        }
    }

    fn nature(self) -> Nature {
        Nature::Plain
    }
}

#[async_trait]
impl Plan for Export {
    type Step = ExportStep;

    fn bursts(&self) -> &'static [&'static [ExportStep]] {
        BURSTS
    }

    fn facts(&self) -> Facts {
        Facts::Export { staged: self.staged.clone() }
    }

    async fn ensure(&mut self, step: ExportStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            S::Stage => {
                let operation = cx.reporter.now().id;
                self.staged = cx.ports().exports.stage(&self.target, operation).await?;
            }
            S::CopyDisks => self.copy_disks(cx).await?,
            S::CopyMemory => {
                if let Some(memory) = &self.checkpoint.memory {
                    let to = self.staged.join(MEMORY_FILE);
                    let phase = cx.reporter.begin("copy-memory");
                    let opened = cx.ports().memory.open(memory).await?;
                    let bytes = opened.bytes;
                    let (stream, outcome) = opened.split();
                    let source = MemorySource { state: memory, stream, bytes };
                    let copied = cx.ports().exports.copy_memory(source, &to, &cx.reporter.progress()).await;
                    outcome.told(cx.world.config.memory_told).await?;
                    copied?;
                    cx.reporter.end(phase);
                }
            }
            S::WriteTpm => {
                if let Some(state) = &self.checkpoint.tpm {
                    cx.ports().exports.write(state.bytes(), &self.staged.join(TPM_FILE)).await?;
                }
            }
            S::Seal => self.seal(cx).await?,
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: ExportStep, cx: &Cx) -> Result<(), StepError> {
        match step {
            S::Stage => cx.ports().exports.discard(&self.staged).await?,
            S::Seal => {
                if cx.ports().exports.is_sealed(&self.target, cx.reporter.now().id).await? {
                    cx.ports().exports.discard(&self.target).await?;
                }
            }
            S::CopyDisks | S::CopyMemory | S::WriteTpm => {}
        }
        Ok(())
    }
}

impl Export {
    async fn copy_disks(&self, cx: &Cx) -> Result<(), StepError> {
        let forest = cx.catalogue().forest(&cx.vm).await?;
        verify_layers(cx.ports(), &forest, &self.checkpoint.disks).await?;
        for (disk, layer) in &self.checkpoint.disks {
            let flatten = Flatten {
                layers: chain_files(&forest, disk, *layer)?,
                target: self.staged.join(file_name(disk, self.format)),
                format: format_of(disk, self.format),
            };
            let copied = cx.ports().images.flatten(&flatten, &cx.reporter.progress()).await;
            copied.map_err(|error| StepError::from(error).blamed_on(Reason::ExportFailed))?;
        }
        Ok(())
    }

    /// What is complete under the target's name is there, whatever was said of the way to it.
    async fn seal(&self, cx: &Cx) -> Result<(), StepError> {
        let (exports, operation) = (&cx.ports().exports, cx.reporter.now().id);
        let uid = cx.catalogue().vm(&cx.vm).await?.uid;
        match exports.seal(&self.staged, &self.target, self.describe(operation, uid)?).await {
            Ok(_) => Ok(()),
            Err(error) => match exports.is_sealed(&self.target, operation).await {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(error.into()),
            },
        }
    }

    /// What the manifest says beside the list of files.
    fn describe(&self, operation: OperationId, uid: Uuid) -> Result<serde_json::Value, StepError> {
        let exported = |disk: &DiskName| ExportedDisk {
            disk: disk.clone(),
            file: file_name(disk, self.format),
            format: format_of(disk, self.format),
        };
        let machine = ExportedMachine {
            what: "one checkpoint, flattened: it contains nothing that came after the checkpoint".to_owned(),
            operation: Some(operation),
            checkpoint: (&self.checkpoint).into(),
            uid: Some(uid),
            definition: self.checkpoint.definition.clone(),
            disks: self.checkpoint.disks.keys().map(exported).collect(),
            memory: self.checkpoint.memory.as_ref().map(|memory| ExportedMemory {
                file: MEMORY_FILE.to_owned(),
                format: "QEMU migration stream".to_owned(),
                qemu_version: memory.qemu_version.clone(),
            }),
            tpm: self.checkpoint.tpm.as_ref().map(|_| ExportedTpm {
                file: TPM_FILE.to_owned(),
                format: "permanent state of swtpm, TPM 2.0".to_owned(),
            }),
            left_out: self.checkpoint.left_out.clone(),
        };
        let failed = |error: serde_json::Error| ExportError::Failed {
            what: "describing the export".to_owned(),
            message: error.to_string(),
        };
        Ok(serde_json::to_value(machine).map_err(failed)?)
    }
}

/// An export that is complete under its name is done; of any other nothing stays.
pub(super) async fn recover(job: &Job, staged: PathBuf, cx: &Cx) -> (Result<bool, StepError>, Outcome) {
    let (exports, operation) = (&cx.ports().exports, job.operation.id);
    let Some(Request::Export { folder, .. }) = &job.request else {
        return (discard(&staged, cx).await, Outcome::Gone);
    };
    let outcome = Outcome::Exported(folder.display().to_string());
    let sealed = up_to(3, "looking for a finished export", || exports.is_sealed(folder, operation)).await;
    let recovered = match sealed {
        Ok(true) => Ok(true),
        // The temporary folder was not written down yet, perhaps: its name follows from target and operation.
        Ok(false) if staged.as_os_str().is_empty() => discard(&exports.staging_folder(folder, operation), cx).await,
        Ok(false) => discard(&staged, cx).await,
        Err(error) => Err(error.into()),
    };
    (recovered, outcome)
}

async fn discard(staged: &Path, cx: &Cx) -> Result<bool, StepError> {
    up_to(3, "removing an unfinished export", || cx.ports().exports.discard(staged)).await?;
    Ok(false)
}

/// The variables of a firmware are QEMU's: the formats of others are not for them.
fn format_of(disk: &DiskName, asked: DiskFormat) -> DiskFormat {
    match asked {
        DiskFormat::Vhdx | DiskFormat::Vpc if *disk == DiskName::uefi_variables() => DiskFormat::Qcow2,
        DiskFormat::Raw | DiskFormat::Qcow2 | DiskFormat::Vhdx | DiskFormat::Vpc => asked,
    }
}

/// The file of a disk in an export.
fn file_name(disk: &DiskName, asked: DiskFormat) -> String {
    let extension = match format_of(disk, asked) {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Vhdx => "vhdx",
        DiskFormat::Vpc => "vhd",
    };
    format!("{disk}.{extension}")
}
