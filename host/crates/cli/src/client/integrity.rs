//! Calls about the files of VMs and the catalogue.

use std::path::PathBuf;

use stillpoint_common::{LayerId, VmId};
use stillpoint_proto::{
    convert::names,
    v1::{
        self as pb, host_service_client::HostServiceClient, reconnect_layers_request::What,
        virtual_machines_client::VirtualMachinesClient,
    },
};

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

    /// What is not as the catalogue says, of one VM or of all.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn check(&self, vm: Option<&VmId>) -> Result<Vec<view::Finding>, ClientError> {
        let mut client = HostServiceClient::new(self.channel.clone());
        let answer = client.check_host(pb::CheckHostRequest { vm: vm.map(names::vm).unwrap_or_default() }).await;
        let findings = self.answered(answer)?.findings.into_iter().map(view::Finding::try_from);
        Ok(findings.collect::<Result<_, _>>()?)
    }

    /// The image files of a VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn layers(&self, vm: &VmId) -> Result<Vec<view::Layer>, ClientError> {
        let mut client = VirtualMachinesClient::new(self.channel.clone());
        let answer = client.list_layers(pb::ListLayersRequest { parent: names::vm(vm) }).await;
        let layers = self.answered(answer)?.layers.into_iter().map(view::Layer::try_from);
        Ok(layers.collect::<Result<_, _>>()?)
    }

    /// Says where files are now: of one layer, if `what` is the id of one, or of all layers of the disk of this name.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn reconnect(
        &self,
        vm: &VmId,
        what: &str,
        path: &str,
        accept_changed: bool,
    ) -> Result<Vec<view::Layer>, ClientError> {
        let is_layer = what.parse::<LayerId>().is_ok();
        let what = if is_layer { What::Layer(what.to_owned()) } else { What::Disk(what.to_owned()) };
        let (name, path) = (names::vm(vm), path.to_owned());
        let request = pb::ReconnectLayersRequest { name, what: Some(what), path, accept_changed };
        let mut client = VirtualMachinesClient::new(self.channel.clone());
        let answer = client.reconnect_layers(request).await;
        let layers = self.answered(answer)?.layers.into_iter().map(view::Layer::try_from);
        Ok(layers.collect::<Result<_, _>>()?)
    }
}
