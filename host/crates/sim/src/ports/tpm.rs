//! The port to the state of TPMs.

use std::path::Path;

use async_trait::async_trait;
use stillpoint_common::TpmState;
use stillpoint_engine::ports::{TpmError, TpmStates};

use crate::{Call, process::Process};

pub(super) struct SimTpmStates {
    process: Process,
}

impl SimTpmStates {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl TpmStates for SimTpmStates {
    async fn put(&self, folder: &Path, kept: &TpmState) -> Result<(), TpmError> {
        self.process.call(Call::PutTpm, |state| state.put_tpm(folder, kept)).await
    }

    async fn take(&self, folder: &Path) -> Result<TpmState, TpmError> {
        self.process.call(Call::TakeTpm, |state| state.take_tpm(folder)).await
    }

    async fn remove(&self, folder: &Path) -> Result<(), TpmError> {
        self.process
            .call(Call::RemoveTpm, |state| {
                state.remove_tpm(folder);
                Ok(())
            })
            .await
    }
}
