//! `Checkpoints`

use stillpoint_common::Remarks;
use stillpoint_engine::{ApplyRequest, CheckpointChange, Engine, Machine, NewCheckpoint, Now, Request as Work};
use stillpoint_proto::{
    convert::{names, request},
    longrunning,
    v1::{self as pb, checkpoints_server},
};
use tonic::{Request, Response, Status};

use super::{peer, preview, refuse, respond};

pub(crate) struct Checkpoints {
    engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

impl Checkpoints {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn apply(&self, asked: request::ApplyCheckpoint) -> Answer<longrunning::Operation> {
        let machine = match asked.machine {
            request::Machine::AsCaptured => Machine::AsCaptured,
            request::Machine::Saved => Machine::Saved,
            request::Machine::WithoutMemory => Machine::WithoutMemory,
        };
        let now = match asked.now {
            request::Now::Discard => Now::Discard,
            request::Now::CheckpointFirst => Now::CheckpointFirst,
        };
        let work = Work::Apply(ApplyRequest { checkpoint: asked.checkpoint, now, machine });
        respond::submit(&self.engine, &asked.vm, work, asked.request_id).await
    }
}

#[tonic::async_trait]
impl checkpoints_server::Checkpoints for Checkpoints {
    async fn create_checkpoint(&self, asked: Request<pb::CreateCheckpointRequest>) -> Answer<longrunning::Operation> {
        let creator = peer::uid(&asked);
        let asked = request::create_checkpoint(asked.get_ref()).map_err(refuse)?;
        let remarks = Remarks { creator, ..asked.remarks };
        let (name, policy, with_memory, backup_type) = (asked.name, asked.policy, asked.with_memory, asked.backup_type);
        let work = Work::CreateCheckpoint(NewCheckpoint { name, policy, with_memory, backup_type, remarks });
        respond::submit(&self.engine, &asked.vm, work, asked.request_id).await
    }

    async fn get_checkpoint(&self, asked: Request<pb::GetCheckpointRequest>) -> Answer<pb::Checkpoint> {
        let (vm, id) = names::parse_checkpoint(&asked.get_ref().name, "name").map_err(refuse)?;
        let view = self.engine.checkpoint(&vm, id).await.map_err(refuse)?;
        Ok(Response::new(respond::shown(&view)))
    }

    async fn list_checkpoints(
        &self,
        asked: Request<pb::ListCheckpointsRequest>,
    ) -> Answer<pb::ListCheckpointsResponse> {
        let request::ListCheckpoints { vm, filter, page } =
            request::list_checkpoints(asked.get_ref()).map_err(refuse)?;
        let mut views = self.engine.shown_checkpoints(&vm).await.map_err(refuse)?;
        let now = self.engine.now();
        views.retain(|view| filter.admits(&view.checkpoint, now));
        let key = |view: &stillpoint_engine::CheckpointView| view.checkpoint.id.to_string();
        let (views, next_page_token) = page.cut(views, key, |key, after| key > after);
        let checkpoints = views.iter().map(respond::shown).collect();
        Ok(Response::new(pb::ListCheckpointsResponse { checkpoints, next_page_token }))
    }

    async fn update_checkpoint(&self, asked: Request<pb::UpdateCheckpointRequest>) -> Answer<pb::Checkpoint> {
        let asked = request::update_checkpoint(asked.get_ref()).map_err(refuse)?;
        let change = CheckpointChange { name: asked.name, notes: asked.notes, keep_until: asked.keep_until };
        let view = self.engine.update_checkpoint(&asked.vm, asked.checkpoint, change).await.map_err(refuse)?;
        Ok(Response::new(respond::shown(&view)))
    }

    async fn apply_checkpoint(&self, asked: Request<pb::ApplyCheckpointRequest>) -> Answer<longrunning::Operation> {
        self.apply(request::apply_checkpoint(asked.get_ref()).map_err(refuse)?).await
    }

    async fn revert_vm(&self, asked: Request<pb::RevertVmRequest>) -> Answer<longrunning::Operation> {
        self.apply(request::revert_vm(asked.get_ref()).map_err(refuse)?).await
    }

    async fn delete_checkpoint(&self, asked: Request<pb::DeleteCheckpointRequest>) -> Answer<longrunning::Operation> {
        let asked = request::delete_checkpoint(asked.get_ref()).map_err(refuse)?;
        let work = match asked.subtree {
            true => Work::DeleteSubtree(asked.checkpoint),
            false => Work::DeleteCheckpoint(asked.checkpoint),
        };
        respond::submit(&self.engine, &asked.vm, work, asked.request_id).await
    }

    async fn batch_delete_checkpoints(
        &self,
        asked: Request<pb::BatchDeleteCheckpointsRequest>,
    ) -> Answer<longrunning::Operation> {
        let (vm, ids, request_id) = request::batch_delete_checkpoints(asked.get_ref()).map_err(refuse)?;
        respond::submit(&self.engine, &vm, Work::DeleteCheckpoints(ids), request_id).await
    }

    async fn delete_memory_state(
        &self,
        asked: Request<pb::DeleteMemoryStateRequest>,
    ) -> Answer<longrunning::Operation> {
        let (vm, id, request_id) = request::delete_memory_state(asked.get_ref()).map_err(refuse)?;
        respond::submit(&self.engine, &vm, Work::DeleteMemory(id), request_id).await
    }

    async fn preview_delete(&self, asked: Request<pb::PreviewDeleteRequest>) -> Answer<pb::DeletePreview> {
        let (vm, doomed) = request::preview_delete(asked.get_ref()).map_err(refuse)?;
        let preview = self.engine.preview_delete(&vm, &preview::doomed(doomed)).await.map_err(refuse)?;
        Ok(Response::new(preview::preview(&vm, &preview)))
    }

    async fn export_checkpoint(&self, asked: Request<pb::ExportCheckpointRequest>) -> Answer<longrunning::Operation> {
        let asked = request::export_checkpoint(asked.get_ref()).map_err(refuse)?;
        let work = Work::Export { checkpoint: asked.checkpoint, folder: asked.folder, format: asked.format };
        respond::submit(&self.engine, &asked.vm, work, asked.request_id).await
    }
    async fn advise_checkpoint(&self, asked: Request<pb::AdviseCheckpointRequest>) -> Answer<pb::CheckpointAdvice> {
        let vm = names::parse_vm(&asked.get_ref().name, "name").map_err(refuse)?;
        let advice = self.engine.advise(&vm).await.map_err(refuse)?;
        Ok(Response::new(respond::advice(&advice)))
    }
}
