//! `Transfers`

use std::{path::PathBuf, pin::Pin, sync::Arc};

use futures_util::Stream;
use stillpoint_common::Progress;
use stillpoint_engine::{Engine, ImportMode, ImportRequest, Inspection, Manifest, ports::ProgressSink};
use stillpoint_proto::{
    convert::{names, request, spec, time},
    longrunning,
    v1::{self as pb, transfers_server, verify_export_response::Event},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{refuse, respond};

/// Answers that wait for the client to take them, at most. Progress that finds no room is not sent.
const UNREAD: usize = 16;

pub(crate) struct Transfers {
    engine: Engine,
}

impl Transfers {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::VerifyExportResponse, Status>> + Send>>;
type Answer = mpsc::Sender<Result<pb::VerifyExportResponse, Status>>;

#[tonic::async_trait]
impl transfers_server::Transfers for Transfers {
    type VerifyExportStream = Answers;

    async fn inspect_export(
        &self,
        asked: Request<pb::InspectExportRequest>,
    ) -> Result<Response<pb::InspectExportResponse>, Status> {
        let asked = request::inspect_export(asked.get_ref()).map_err(refuse)?;
        let vm = asked.vm.clone();
        let inspection = self.engine.inspect_export(&vm, &wanted(asked)).await.map_err(refuse)?;
        Ok(Response::new(inspected(&inspection)))
    }

    async fn verify_export(&self, asked: Request<pb::VerifyExportRequest>) -> Result<Response<Answers>, Status> {
        let folder = request::verify_export(asked.get_ref()).map_err(refuse)?;
        let manifest = self.engine.read_export(&folder).await.map_err(refuse)?;
        let (answer, answers) = mpsc::channel(UNREAD);
        tokio::spawn(verify(self.engine.clone(), folder, manifest, answer));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn import_vm(&self, asked: Request<pb::ImportVmRequest>) -> Result<Response<longrunning::Operation>, Status> {
        let asked = request::import_vm(asked.get_ref()).map_err(refuse)?;
        let (vm, request_id) = (asked.vm.clone(), asked.request_id.map(|id| id.to_string()));
        let begun = self.engine.import_vm(&vm, wanted(asked), request_id).await.map_err(refuse)?;
        Ok(Response::new(respond::operation(&self.engine, &begun).await))
    }
}

fn wanted(asked: request::ImportVm) -> ImportRequest {
    let request::ImportVm { folder, target, definition, without_memory, accept_host_paths, .. } = asked;
    let mode = match asked.mode {
        request::ImportMode::Copy => ImportMode::Copy,
        request::ImportMode::Restore => ImportMode::Restore,
        request::ImportMode::Register => ImportMode::Register,
    };
    ImportRequest { folder, mode, target, definition, without_memory, accept_host_paths }
}

/// Reads until it is done or the client has hung up.
async fn verify(engine: Engine, folder: PathBuf, manifest: Manifest, answer: Answer) {
    let progress = progress(&answer);
    let found = tokio::select! {
        found = engine.verify_export(&folder, &manifest, &progress) => found,
        () = answer.closed() => return,
    };
    let _ = answer.send(found.map(|damaged| verified(&manifest, damaged)).map_err(refuse)).await;
}

fn verified(manifest: &Manifest, damaged: Vec<stillpoint_engine::ports::FileDamage>) -> pb::VerifyExportResponse {
    let damaged = damaged.into_iter().map(|file| pb::DamagedFile { path: file.path, problem: file.problem });
    let files = u32::try_from(manifest.files.len()).unwrap_or(u32::MAX);
    let verified = pb::ExportVerified { files, bytes: manifest.bytes(), damaged: damaged.collect() };
    pb::VerifyExportResponse { event: Some(Event::Verified(verified)) }
}

fn progress(answer: &Answer) -> ProgressSink {
    let answer = answer.clone();
    Arc::new(move |Progress { done, total }| {
        let event = Some(Event::Progress(pb::VerifyProgress { done_bytes: done, total_bytes: total }));
        let _ = answer.try_send(Ok(pb::VerifyExportResponse { event }));
    })
}

fn inspected(inspection: &Inspection) -> pb::InspectExportResponse {
    let found = inspection.incompatibilities.iter().map(|found| pb::ImportIncompatibility {
        code: found.code.code().to_owned(),
        field: found.field.clone(),
        message: found.message.clone(),
    });
    pb::InspectExportResponse {
        export: Some(exported(&inspection.manifest)),
        spec: Some(spec::spec(&inspection.definition)),
        incompatibilities: found.collect(),
        warnings: inspection.warnings.clone(),
    }
}

fn exported(manifest: &Manifest) -> pb::ExportedVm {
    let machine = &manifest.machine;
    let checkpoint = &machine.checkpoint;
    let memory = machine.memory.as_ref();
    pb::ExportedVm {
        vm: names::vm(&checkpoint.vm),
        uid: machine.uid.map(|uid| uid.to_string()).unwrap_or_default(),
        checkpoint: checkpoint.name.to_string(),
        checkpoint_time: Some(time::timestamp(checkpoint.created)),
        kind: pb::CheckpointKind::from(checkpoint.kind).into(),
        consistency: pb::Consistency::from(checkpoint.consistency).into(),
        has_memory: memory.is_some(),
        memory_qemu_version: memory.map(|memory| memory.qemu_version.clone()).unwrap_or_default(),
        disks: machine.disks.iter().map(|disk| disk.disk.to_string()).collect(),
        bytes: manifest.bytes(),
    }
}
