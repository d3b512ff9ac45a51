//! `stillpoint memory …`: files of memory states, read where this program runs.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::json;
use stillpoint_memory::state::{SavedMemory, StateError, WriteError};

use crate::{
    CliError,
    args::MemoryCommand,
    output::{Answer, text},
};

const ADVICE: &str = "Name the file `<checkpoint>.memory`; the packs `<checkpoint>.pages` must lie beside it.";

pub(super) fn run(command: &MemoryCommand) -> Result<Answer, CliError> {
    match command {
        MemoryCommand::Inspect { file } => inspect(file),
        MemoryCommand::Verify { file } => verify(file),
        MemoryCommand::ToStream { file, target } => to_stream(file, target),
    }
}

fn open(file: &Path) -> Result<SavedMemory, CliError> {
    SavedMemory::open(file).map_err(unreadable)?.ok_or_else(|| {
        let message = format!("{} is a plain migration stream of an older version", file.display());
        CliError::usage(message, "QEMU loads it as it is; its hash is in the checkpoint's record.")
    })
}

fn inspect(file: &Path) -> Result<Answer, CliError> {
    let saved = open(file)?;
    let manifest = saved.manifest();
    let (pages, size) = (manifest.pages, |pages: u64| text::bytes(pages.saturating_mul(manifest.page_size)));
    let packs: Vec<String> = saved.packs().map(|pack| pack.to_string()).collect();
    let blocks = manifest.blocks.iter().map(|block| format!("{} {}", block.name, text::bytes(block.bytes)));
    let words = [
        format!("checkpoint  {}", manifest.checkpoint),
        format!("machine     {}, saved by QEMU {}", manifest.machine, manifest.qemu_version),
        format!("memory      {}, of which {} are not zeros", size(pages.all), size(pages.kept)),
        format!("stored      {} that no earlier state had, before compression", size(pages.stored)),
        format!("blocks      {}", blocks.collect::<Vec<_>>().join(", ")),
        format!("packs       {}", packs.join(", ")),
    ];
    let document = json!({ "manifest": manifest, "packs": packs });
    Answer::new(words.join("\n"), &document)
}

fn verify(file: &Path) -> Result<Answer, CliError> {
    let mut saved = open(file)?;
    let checked = saved.check().map_err(unreadable)?;
    let words = format!("{} is whole: {} pages and the devices are what was saved", file.display(), checked.pages);
    Answer::new(words, &json!({ "whole": true, "pages": checked.pages, "devices": checked.devices }))
}

/// The target is new, and whole, or it is not there.
fn to_stream(file: &Path, target: &Path) -> Result<Answer, CliError> {
    let mut saved = open(file)?;
    let failed = |source: io::Error| CliError::Io { what: format!("cannot write {}", target.display()), source };
    let made = File::options().write(true).create_new(true).mode(0o600).open(target).map_err(failed)?;
    let mut out = BufWriter::new(made);
    let written = saved.write_stream(&mut out, |_| {}).and_then(|()| {
        out.flush()?;
        Ok(out.get_ref().sync_all()?)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(target);
        return Err(match error {
            WriteError::State(error) => unreadable(error),
            WriteError::Sink(source) => failed(source),
        });
    }
    let bytes = fs::metadata(target).map_err(failed)?.len();
    let words = format!("{} is a stream of {}", target.display(), text::bytes(bytes));
    Answer::new(words, &json!({ "stream": target, "bytes": bytes }))
}

fn unreadable(error: StateError) -> CliError {
    match error {
        StateError::Io { path, doing, source } => CliError::Io { what: format!("{doing} {}", path.display()), source },
        error @ (StateError::Missing { .. } | StateError::Damaged { .. } | StateError::Newer { .. }) => {
            CliError::Memory { message: error.to_string(), advice: ADVICE }
        }
    }
}
