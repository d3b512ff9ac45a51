//! Copying a checkpoint out as a stand-alone machine.

use std::path::PathBuf;

use async_trait::async_trait;
use serde_json::json;
use stillpoint_common::{Checkpoint, DiskFormat, DiskName, Reason};

use super::disks::{chain_files, verify_layers};
use crate::{
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::Facts,
    ports::{Flatten, MemorySource},
    saga::{Nature, Plan, Step},
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
                    let to = self.staged.join("memory");
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
            S::Seal => {
                cx.ports().exports.seal(&self.staged, &self.target, self.describe()).await?;
            }
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: ExportStep, cx: &Cx) -> Result<(), StepError> {
        match step {
            S::Stage => Ok(cx.ports().exports.discard(&self.staged).await?),
            S::CopyDisks | S::CopyMemory | S::WriteTpm | S::Seal => Ok(()),
        }
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

    /// What the manifest says beside the list of files.
    fn describe(&self) -> serde_json::Value {
        let disks = self.checkpoint.disks.keys().map(|disk| {
            let format = format_of(disk, self.format).driver();
            json!({ "disk": disk, "file": file_name(disk, self.format), "format": format })
        });
        json!({
            "what": "one checkpoint, flattened: it contains nothing that came after the checkpoint",
            "checkpoint": {
                "id": self.checkpoint.id,
                "name": self.checkpoint.name,
                "vm": self.checkpoint.vm,
                "created": self.checkpoint.created,
                "kind": self.checkpoint.kind,
                "consistency": self.checkpoint.consistency,
                "was_running": self.checkpoint.was_running,
            },
            "definition": self.checkpoint.definition,
            "disks": disks.collect::<Vec<_>>(),
            "memory": self.checkpoint.memory.as_ref().map(|memory| json!({
                "file": "memory",
                "format": "QEMU migration stream",
                "qemu_version": memory.qemu_version,
            })),
            "tpm": self.checkpoint.tpm.as_ref().map(|_| json!({
                "file": TPM_FILE,
                "format": "permanent state of swtpm, TPM 2.0",
            })),
            "left_out": self.checkpoint.left_out,
        })
    }
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
