//! The calls for endpoints of disks.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use stillpoint_common::{BackupId, DiskName, LayerFile};

use super::{Bounded, named, within};
use crate::ports::{Endpoints, ImageError};

fn late(what: &'static str) -> impl FnOnce(Duration) -> ImageError {
    move |waited| ImageError::Failed { what: what.to_owned(), message: format!("no answer within {waited:?}") }
}

#[async_trait]
impl Endpoints for Bounded<dyn Endpoints> {
    async fn find(&self, backup: BackupId, disk: &DiskName) -> Result<Option<PathBuf>, ImageError> {
        let find = named("endpoints.find", self.port.find(backup, disk));
        within(self.limits.look, late("looking for what serves a disk"), find).await
    }

    async fn open(&self, backup: BackupId, disk: &DiskName, head: &LayerFile) -> Result<PathBuf, ImageError> {
        let open = named("endpoints.open", self.port.open(backup, disk, head));
        within(self.limits.act, late("serving a disk"), open).await
    }

    async fn close(&self, backup: BackupId) -> Result<(), ImageError> {
        let close = named("endpoints.close", self.port.close(backup));
        within(self.limits.act, late("ending what serves a disk"), close).await
    }

    async fn close_all(&self) -> Result<(), ImageError> {
        let close = named("endpoints.close_all", self.port.close_all());
        within(self.limits.act, late("ending what serves disks"), close).await
    }
}
