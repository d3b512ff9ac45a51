//! `HostService`

use std::{path::PathBuf, sync::Arc};

use stillpoint_engine::Engine;
use stillpoint_proto::{
    convert,
    v1::{self as pb, host_service_server},
};
use stillpoint_qemu::QemuHypervisor;
use stillpoint_store::RedbStore;
use tonic::{Request, Response, Status};

use super::{integrity, refuse};
use crate::wiring::Wired;

pub(crate) struct HostInfo {
    engine: Engine,
    hypervisor: Arc<QemuHypervisor>,
    state_folder: PathBuf,
    store: Arc<RedbStore>,
}

impl HostInfo {
    pub(crate) fn new(wired: &Wired, state_folder: PathBuf) -> Self {
        let (engine, hypervisor, store) = (wired.engine.clone(), wired.hypervisor.clone(), wired.store.clone());
        Self { engine, hypervisor, state_folder, store }
    }
}

#[tonic::async_trait]
impl host_service_server::HostService for HostInfo {
    async fn get_host(&self, _: Request<pb::GetHostRequest>) -> Result<Response<pb::Host>, Status> {
        let mut problems: Vec<String> = crate::reserve::problem(&self.store.reserve().await).into_iter().collect();
        let qemu_version = self.hypervisor.installed_version().await.unwrap_or_else(|error| {
            problems.push(error.to_string());
            String::new()
        });
        let accelerator = match qemu_version.is_empty() {
            true => String::new(),
            false => convert::vm::accelerator(&self.hypervisor.automatic_accelerator().await),
        };
        Ok(Response::new(pb::Host {
            service_version: env!("CARGO_PKG_VERSION").to_owned(),
            qemu_version,
            accelerator,
            state_folder: self.state_folder.display().to_string(),
            vms: u32::try_from(self.engine.vm_count().await).unwrap_or(u32::MAX),
            problems,
        }))
    }

    async fn rebuild_catalogue(
        &self,
        asked: Request<pb::RebuildCatalogueRequest>,
    ) -> Result<Response<pb::RebuildCatalogueResponse>, Status> {
        let folders = convert::request::rebuild_catalogue(asked.get_ref()).map_err(refuse)?;
        let rebuilt = self.engine.rebuild(&folders).await.map_err(refuse)?;
        Ok(Response::new(integrity::rebuilt(rebuilt)))
    }

    async fn check_host(
        &self,
        asked: Request<pb::CheckHostRequest>,
    ) -> Result<Response<pb::CheckHostResponse>, Status> {
        let vm = convert::request::check_host(asked.get_ref()).map_err(refuse)?;
        let findings = self.engine.check(vm.as_ref()).await.map_err(refuse)?;
        let findings = findings.iter().map(convert::finding::finding).collect();
        Ok(Response::new(pb::CheckHostResponse { findings }))
    }
}
