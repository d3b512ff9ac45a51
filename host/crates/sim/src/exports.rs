//! Export folders.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use stillpoint_common::{MemoryState, OperationId};
use stillpoint_engine::{
    ExportedFile,
    ports::{Depth, ExportError, FileDamage, MemoryError},
};

use crate::{files::Image, memory::Memory, state::State};

/// Name of the file that makes a folder an export.
const MANIFEST: &str = "manifest.json";
/// How the name of an unfinished export's folder ends.
const STAGING: &str = ".part";

/// What a finished export says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) describe: Value,
    pub(crate) files: Vec<ExportedFile>,
}

pub(crate) fn staging_folder(target: &Path, operation: OperationId) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{operation}{STAGING}"))
}

pub(crate) fn is_staging(folder: &Path) -> bool {
    folder.to_string_lossy().ends_with(STAGING)
}

fn unusable<T>(path: &Path, message: &str) -> Result<T, ExportError> {
    Err(ExportError::TargetUnusable { path: path.to_owned(), message: message.to_owned() })
}

impl State {
    pub(crate) fn stage(&mut self, target: &Path, operation: OperationId) -> Result<PathBuf, ExportError> {
        if self.folders.contains(target) || self.files.inode(target).is_some() {
            return Err(ExportError::TargetExists { path: target.to_owned() });
        }
        if !target.parent().is_some_and(|parent| self.folders.contains(parent)) {
            return unusable(target, "the folder above it does not exist");
        }
        let staged = staging_folder(target, operation);
        self.folders.insert(staged.clone());
        Ok(staged)
    }

    pub(crate) fn copy_memory(&mut self, memory: &MemoryState, to: &Path) -> Result<(), ExportError> {
        if self.lacks(to, memory.bytes.max(1)) {
            return Err(ExportError::NoSpace { path: to.to_owned() });
        }
        if !to.parent().is_some_and(|folder| self.folders.contains(folder)) {
            return unusable(to, "the folder does not exist");
        }
        let damaged =
            |error: MemoryError| ExportError::SourceDamaged { path: memory.path.clone(), message: error.to_string() };
        let bytes = self.sealed_memory(memory).map_err(damaged)?;
        self.memories.insert(to.to_owned(), Memory::Sealed(bytes));
        Ok(())
    }

    pub(crate) fn write_export(&mut self, bytes: &[u8], to: &Path) -> Result<(), ExportError> {
        if self.lacks(to, bytes.len() as u64) {
            return Err(ExportError::NoSpace { path: to.to_owned() });
        }
        self.memories.insert(to.to_owned(), Memory::Sealed(bytes.to_vec()));
        Ok(())
    }

    pub(crate) fn seal_export(
        &mut self,
        staged: &Path,
        target: &Path,
        describe: Value,
    ) -> Result<Vec<ExportedFile>, ExportError> {
        if !self.folders.contains(staged) {
            return self.exported_files(target);
        }
        if self.folders.contains(target) {
            return Err(ExportError::TargetExists { path: target.to_owned() });
        }
        if self.lacks(staged, 1) {
            return Err(ExportError::NoSpace { path: staged.to_owned() });
        }
        let mut files = self.files_below(staged);
        files.push(ExportedFile {
            path: MANIFEST.to_owned(),
            bytes: describe.to_string().len() as u64,
            blake3: String::new(),
        });
        for file in &files {
            let (from, to) = (staged.join(&file.path), target.join(&file.path));
            self.files.rename(&from, to.clone());
            if let Some(memory) = self.memories.remove(&from) {
                self.memories.insert(to, memory);
            }
        }
        self.folders.remove(staged);
        self.folders.insert(target.to_owned());
        self.manifests.insert(target.to_owned(), Manifest { describe, files: files.clone() });
        Ok(files)
    }

    pub(crate) fn is_sealed(&self, target: &Path, operation: OperationId) -> bool {
        let sealed = self.manifests.get(target);
        sealed.is_some_and(|manifest| manifest.describe["operation"] == operation.to_string())
    }

    fn files_below(&self, folder: &Path) -> Vec<ExportedFile> {
        let images = self.files.all().map(|(path, image)| (path, image_size(image), hash(&image.blocks)));
        let memories = self.memories.iter().map(|(path, memory)| match memory {
            Memory::Open(_) => (path, 0, String::new()),
            Memory::Sealed(bytes) => (path, bytes.len() as u64, hash(bytes)),
        });
        let below = images.chain(memories).filter_map(|(path, bytes, blake3)| {
            let path = path.strip_prefix(folder).ok()?.to_string_lossy().into_owned();
            Some(ExportedFile { path, bytes, blake3 })
        });
        below.collect()
    }

    pub(crate) fn discard_export(&mut self, staged: &Path) {
        for path in self.files.paths().iter().filter(|path| path.starts_with(staged)) {
            self.files.unlink(path);
        }
        self.memories.retain(|path, _| !path.starts_with(staged));
        self.folders.remove(staged);
        self.manifests.remove(staged);
    }

    pub(crate) fn exported_files(&self, target: &Path) -> Result<Vec<ExportedFile>, ExportError> {
        let missing =
            || ExportError::Failed { what: "read the manifest".to_owned(), message: "no such file".to_owned() };
        self.manifests.get(target).map(|manifest| manifest.files.clone()).ok_or_else(missing)
    }
}

impl State {
    /// The manifest, as a file of it would read.
    pub(crate) fn read_manifest(&self, folder: &Path) -> Result<Value, ExportError> {
        let no_export =
            || ExportError::NotAnExport { path: folder.to_owned(), message: "it has no manifest".to_owned() };
        let Manifest { describe, files } = self.manifests.get(folder).ok_or_else(no_export)?;
        let files: Vec<_> = files.iter().filter(|file| file.path != MANIFEST).collect();
        Ok(json!({ "format": 1, "export": describe, "files": files }))
    }

    pub(crate) fn compare_export(&self, folder: &Path, files: &[ExportedFile], depth: Depth) -> Vec<FileDamage> {
        let there = self.files_below(folder);
        let wrong = |file: &ExportedFile| match there.iter().find(|found| found.path == file.path) {
            None => Some("does not exist"),
            Some(found) if found == file => None,
            Some(found) if found.bytes == file.bytes && depth == Depth::Sizes => None,
            Some(_) => Some("has other bytes than when it was exported"),
        };
        let damage =
            |file: &ExportedFile| Some(FileDamage { path: file.path.clone(), problem: wrong(file)?.to_owned() });
        files.iter().filter_map(damage).collect()
    }

    pub(crate) fn exported_bytes(&self, path: &Path) -> Result<Vec<u8>, ExportError> {
        match self.memories.get(path) {
            Some(Memory::Sealed(bytes)) => Ok(bytes.clone()),
            Some(Memory::Open(_)) | None => {
                Err(ExportError::ExportDamaged { path: path.to_owned(), message: "does not exist".to_owned() })
            }
        }
    }

    pub(crate) fn claim(&mut self, target: &Path, operation: OperationId) -> Result<(), ExportError> {
        if self.marks.get(target) == Some(&operation) {
            return Ok(());
        }
        self.stage(target, operation)?;
        self.folders.remove(&staging_folder(target, operation));
        self.folders.insert(target.to_owned());
        self.marks.insert(target.to_owned(), operation);
        Ok(())
    }

    pub(crate) fn give_back(&mut self, target: &Path, operation: OperationId) {
        if self.marks.get(target) == Some(&operation) {
            self.discard_export(target);
            self.marks.remove(target);
        }
    }
}

fn image_size(image: &Image) -> u64 {
    image.allocated().max(1)
}

fn hash(content: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:064x}", hasher.finish())
}
