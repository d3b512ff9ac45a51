//! The port to endpoints of disks.

use std::path::PathBuf;

use async_trait::async_trait;
use stillpoint_common::{BackupId, DiskName, LayerFile};
use stillpoint_engine::ports::{Endpoints, ImageError};

use crate::{Call, process::Process};

pub(super) struct SimEndpoints {
    process: Process,
}

impl SimEndpoints {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl Endpoints for SimEndpoints {
    async fn open(&self, backup: BackupId, disk: &DiskName, head: &LayerFile) -> Result<PathBuf, ImageError> {
        let open = |state: &mut crate::state::State| {
            state.endpoints.insert((backup, disk.clone()), head.path.clone());
            Ok(format!("/run/nbd/{backup}-{disk}").into())
        };
        self.process.call(Call::OpenEndpoint, open).await
    }

    async fn close(&self, backup: BackupId) -> Result<(), ImageError> {
        let close = |state: &mut crate::state::State| {
            state.endpoints.retain(|(of, _), _| *of != backup);
            Ok(())
        };
        self.process.call(Call::CloseEndpoints, close).await
    }

    async fn close_all(&self) -> Result<(), ImageError> {
        self.process.act(|state| state.endpoints.clear());
        Ok(())
    }
}
