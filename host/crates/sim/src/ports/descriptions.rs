//! The port to description files.

use std::path::Path;

use async_trait::async_trait;
use stillpoint_engine::ports::{DescriptionError, Descriptions, FoundDescription};

use crate::{Call, process::Process};

pub(super) struct SimDescriptions {
    process: Process,
}

impl SimDescriptions {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl Descriptions for SimDescriptions {
    async fn write(&self, location: &Path, name: &str, content: &[u8]) -> Result<(), DescriptionError> {
        let path = location.join(name);
        self.process
            .call(Call::WriteDescription, |state| {
                if state.full && state.descriptions.get(&path).is_none_or(|there| there != content) {
                    return Err(DescriptionError::NoSpace { path });
                }
                state.descriptions.insert(path, content.to_owned());
                Ok(())
            })
            .await
    }

    async fn remove(&self, location: &Path, name: &str) -> Result<(), DescriptionError> {
        let path = location.join(name);
        self.process
            .call(Call::RemoveDescription, |state| {
                state.descriptions.remove(&path);
                Ok(())
            })
            .await
    }

    async fn names(&self, folder: &Path) -> Result<Vec<String>, DescriptionError> {
        self.process
            .call(Call::NamesInFolder, |state| {
                let files = state.descriptions.keys().chain(state.memories.keys());
                let inside = files.filter(|path| path.parent() == Some(folder));
                Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
            })
            .await
    }

    async fn find(&self, folder: &Path, ending: &str) -> Result<Vec<FoundDescription>, DescriptionError> {
        self.process
            .call(Call::FindDescriptions, |state| {
                let above = |path: &Path, levels| path.ancestors().nth(levels) == Some(folder);
                let files = state.descriptions.iter().filter(|(path, _)| above(path, 1) || above(path, 2));
                let files = files.filter(|(path, _)| path.to_string_lossy().ends_with(ending));
                let found = |(path, content): (&std::path::PathBuf, &Vec<u8>)| FoundDescription {
                    path: path.clone(),
                    content: Ok(content.clone()),
                };
                Ok(files.map(found).collect())
            })
            .await
    }
}
