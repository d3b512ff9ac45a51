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

fn socket(backup: BackupId, disk: &DiskName) -> PathBuf {
    format!("/run/nbd/{backup}-{disk}").into()
}

#[async_trait]
impl Endpoints for SimEndpoints {
    async fn find(&self, backup: BackupId, disk: &DiskName) -> Result<Option<PathBuf>, ImageError> {
        let served = self.process.act(|state| state.endpoints.contains_key(&(backup, disk.clone())));
        Ok(served.then(|| socket(backup, disk)))
    }

    async fn open(&self, backup: BackupId, disk: &DiskName, head: &LayerFile) -> Result<PathBuf, ImageError> {
        let open = |state: &mut crate::state::State| {
            state.endpoints.insert((backup, disk.clone()), head.path.clone());
            Ok(socket(backup, disk))
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
