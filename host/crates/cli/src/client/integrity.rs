//! Calls about the files of VMs and the catalogue.

use std::path::PathBuf;

use stillpoint_proto::v1::{self as pb, host_service_client::HostServiceClient};

use super::{Client, ClientError};
use crate::view;

impl Client {
    /// Takes VMs into the catalogue that are described in these folders and that it does not have.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn rebuild(&self, folders: &[PathBuf]) -> Result<view::Rebuilt, ClientError> {
        let folders = folders.iter().map(|folder| folder.display().to_string()).collect();
        let mut client = HostServiceClient::new(self.channel.clone());
        let answer = client.rebuild_catalogue(pb::RebuildCatalogueRequest { folders }).await;
        Ok(view::Rebuilt::try_from(self.answered(answer)?)?)
    }
}
