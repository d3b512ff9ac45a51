//! Exports: `/exports/one` is whole, `/exports/torn` is damaged, everything else is none.

use std::{path::Path, pin::Pin};

use stillpoint_common::{Failure, OperationKind, Reason};
use stillpoint_proto::{
    convert::{request, spec},
    longrunning,
    v1::{self as pb, transfers_server::Transfers, verify_export_response::Event},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    canned,
    services::{Answer, Service, begun, refused},
};

fn is_export(folder: &Path) -> Result<(), Status> {
    if folder.starts_with("/exports") {
        return Ok(());
    }
    let message = format!("{} is no export: there is no such folder", folder.display());
    Err(refused(Failure::new(Reason::ExportUnusable, message).at("folder")))
}

#[tonic::async_trait]
impl Transfers for Service {
    type VerifyExportStream = Pin<Box<dyn Stream<Item = Result<pb::VerifyExportResponse, Status>> + Send>>;

    async fn inspect_export(&self, asked: Request<pb::InspectExportRequest>) -> Answer<pb::InspectExportResponse> {
        let asked = request::inspect_export(asked.get_ref()).map_err(refused)?;
        is_export(&asked.folder)?;
        let message = "the export's definition takes from this host: /boot/vmlinuz; say that it may";
        let paths = pb::ImportIncompatibility {
            code: "HOST_PATHS".into(),
            field: "accept_host_paths".into(),
            message: message.into(),
        };
        let export = pb::ExportedVm {
            vm: "vms/old".into(),
            checkpoint: "before the upgrade".into(),
            has_memory: true,
            memory_qemu_version: "10.0.2".into(),
            bytes: 3 << 20,
            ..pb::ExportedVm::default()
        };
        Ok(Response::new(pb::InspectExportResponse {
            export: Some(export),
            spec: Some(spec::spec(&asked.definition.unwrap_or_else(canned::definition))),
            incompatibilities: (!asked.accept_host_paths).then_some(paths).into_iter().collect(),
            warnings: vec!["disk scratch is not in the export: it was left out".into()],
        }))
    }

    async fn verify_export(&self, asked: Request<pb::VerifyExportRequest>) -> Answer<Self::VerifyExportStream> {
        let folder = request::verify_export(asked.get_ref()).map_err(refused)?;
        is_export(&folder)?;
        let torn = pb::DamagedFile { path: "data.qcow2".into(), problem: "does not exist".into() };
        let damaged = folder.ends_with("torn").then_some(torn).into_iter().collect();
        let events = [
            Event::Progress(pb::VerifyProgress { done_bytes: 51, total_bytes: 100 }),
            Event::Verified(pb::ExportVerified { files: 2, bytes: 3 << 20, damaged }),
        ];
        let events = events.map(|event| Ok(pb::VerifyExportResponse { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn import_vm(&self, asked: Request<pb::ImportVmRequest>) -> Answer<longrunning::Operation> {
        let asked = request::import_vm(asked.get_ref()).map_err(refused)?;
        is_export(&asked.folder)?;
        let (memory, paths) = (!asked.without_memory, asked.accept_host_paths);
        let what = format!("import {} {:?} to {:?} memory {memory} paths {paths}", asked.vm, asked.mode, asked.target);
        self.asked.note(what);
        Ok(Response::new(begun(OperationKind::ImportVm)))
    }
}
