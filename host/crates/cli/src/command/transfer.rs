//! `stillpoint export …` and `stillpoint vm import`

use std::path::Path;

use stillpoint_proto::v1 as pb;

use super::{Context, hardware, vm, vm_file, work};
use crate::{
    CliError,
    args::{ExportCommand, ImportModeArg, ImportVm, parse},
    client::{VerifyEvent, VmToImport},
    output::{Answer, note, text},
    view::{ExportVerified, Inspection},
};

pub(super) async fn export(context: &Context, command: &ExportCommand) -> Result<Answer, CliError> {
    let ExportCommand::Verify { folder } = command;
    let folder = absolute(folder)?;
    let verified = verify(context, &folder).await?;
    let code = u8::from(!verified.damaged.is_empty());
    Ok(Answer::new(verified_text(&folder, &verified), &verified)?.ends_with(code))
}

async fn verify(context: &Context, folder: &str) -> Result<ExportVerified, CliError> {
    let (mut stream, mut told) = (context.client.verify_export(folder).await?, 0);
    let mut verified = ExportVerified::default();
    while let Some(event) = stream.next().await? {
        match event {
            VerifyEvent::Progress(done, total) => {
                let tenth = (done.saturating_mul(10)).checked_div(total).unwrap_or_default();
                if !context.output.json && tenth > told {
                    note(&format!("  read {}%", tenth * 10));
                    told = tenth;
                }
            }
            VerifyEvent::Verified(found) => verified = found,
        }
    }
    Ok(verified)
}

fn verified_text(folder: &str, verified: &ExportVerified) -> String {
    let read = format!("{} files, {}", verified.files, text::bytes(verified.bytes));
    if verified.damaged.is_empty() {
        return format!("{folder} is whole: {read}");
    }
    let damaged = verified.damaged.iter().map(|file| format!("\n  {} {}", file.path, file.problem));
    format!("{folder} is damaged ({read}):{}", damaged.collect::<String>())
}

pub(super) async fn import(context: &Context, asked: &ImportVm) -> Result<Answer, CliError> {
    let wanted = to_import(asked)?;
    if asked.dry_run {
        let inspection = context.client.inspect_export(&wanted).await?;
        let code = u8::from(!inspection.incompatibilities.is_empty());
        return Ok(Answer::new(inspection_text(&wanted, &inspection), &inspection)?.ends_with(code));
    }
    let begun = context.client.import_vm(&wanted).await?;
    work::finish(context, begun, asked.waiting, |done| vm::state(&asked.vm, done)).await
}

fn to_import(asked: &ImportVm) -> Result<VmToImport, CliError> {
    let mode = match asked.mode {
        ImportModeArg::Copy => pb::ImportMode::Copy,
        ImportModeArg::Restore => pb::ImportMode::Restore,
        ImportModeArg::Register => pb::ImportMode::Register,
    };
    let target = match (&asked.to, asked.mode) {
        (Some(_), ImportModeArg::Register) => {
            return Err(CliError::usage("--mode register leaves the files where they are", "Leave --to out."));
        }
        (None, ImportModeArg::Copy | ImportModeArg::Restore) => {
            return Err(CliError::usage(
                "it is not said where the disks of the VM shall be",
                "Add --to FOLDER: the folder is made.",
            ));
        }
        (Some(folder), _) => absolute(folder)?,
        (None, ImportModeArg::Register) => String::new(),
    };
    Ok(VmToImport {
        id: asked.vm.clone(),
        folder: absolute(&asked.folder)?,
        mode,
        target,
        spec: asked.spec.as_deref().map(vm_file::read).transpose()?.map(|file| file.spec),
        without_memory: asked.without_memory,
        accept_host_paths: asked.accept_host_paths,
    })
}

fn absolute(path: &Path) -> Result<String, CliError> {
    parse::absolute(path).map_err(|problem| CliError::usage(problem, "Give another folder."))
}

/// What it would be, what stands against it, and what should be known.
fn inspection_text(wanted: &VmToImport, inspection: &Inspection) -> String {
    let export = &inspection.export;
    let memory =
        if export.has_memory { format!(", memory of QEMU {}", export.memory_qemu_version) } else { String::new() };
    let mut lines = vec![format!(
        "{}: {:?} of VM {}, {}{memory}",
        wanted.folder,
        export.checkpoint,
        export.vm,
        text::bytes(export.bytes)
    )];
    if let Some(spec) = &inspection.spec {
        lines.push(hardware::tables(spec));
    }
    lines.extend(inspection.warnings.iter().map(|warning| format!("note: {warning}")));
    if inspection.incompatibilities.is_empty() {
        lines.push(format!("{} can be imported so", wanted.id));
    } else {
        lines.push(format!("What stands against importing {} so:", wanted.id));
        let found = inspection.incompatibilities.iter();
        lines.extend(found.map(|found| format!("  {} {}", found.code, found.message)));
    }
    lines.join("\n")
}
