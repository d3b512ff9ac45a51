//! `VirtualMachines`

use stillpoint_common::Merges;
use stillpoint_engine::{Engine, NewVm, Request as Work, StopMode, VmChange};
use stillpoint_proto::{
    convert::{names, request},
    longrunning,
    v1::{self as pb, virtual_machines_server},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{integrity, refuse, respond};

pub(crate) struct VirtualMachines {
    engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

impl VirtualMachines {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn submit(&self, name: &str, work: Work, request_id: Option<Uuid>) -> Answer<longrunning::Operation> {
        let vm = names::parse_vm(name, "name").map_err(refuse)?;
        respond::submit(&self.engine, &vm, work, request_id).await
    }

    async fn set_merges(&self, name: &str, merges: Merges) -> Answer<pb::Vm> {
        let vm = names::parse_vm(name, "name").map_err(refuse)?;
        let view = self.engine.set_merges(&vm, merges).await.map_err(refuse)?;
        Ok(Response::new(respond::vm(&view)))
    }
}

#[tonic::async_trait]
impl virtual_machines_server::VirtualMachines for VirtualMachines {
    async fn create_vm(&self, asked: Request<pb::CreateVmRequest>) -> Answer<pb::Vm> {
        let asked = request::create_vm(asked.get_ref()).map_err(refuse)?;
        let new = NewVm {
            id: asked.id,
            definition: asked.definition,
            checkpoint_policy: asked.checkpoint_policy,
            checkpoint_location: asked.checkpoint_location,
            critical: asked.critical,
            settings: asked.settings,
        };
        let request_id = asked.request_id.map(|id| id.to_string());
        let view = self.engine.create_vm(new, request_id).await.map_err(refuse)?;
        Ok(Response::new(respond::vm(&view)))
    }

    async fn get_vm(&self, asked: Request<pb::GetVmRequest>) -> Answer<pb::Vm> {
        let id = names::parse_vm(&asked.get_ref().name, "name").map_err(refuse)?;
        let view = self.engine.vm(&id).await.map_err(refuse)?;
        Ok(Response::new(respond::vm(&view)))
    }

    async fn list_vms(&self, asked: Request<pb::ListVmsRequest>) -> Answer<pb::ListVmsResponse> {
        let page = request::list_vms(asked.get_ref()).map_err(refuse)?;
        let ids = self.engine.vm_ids().await.map_err(refuse)?;
        let (ids, next_page_token) = page.cut(ids, ToString::to_string, |key, after| key > after);
        // A VM that was deleted since the list was read is not in it any more.
        let vms = self.engine.vms(&ids).await.map_err(refuse)?.iter().map(respond::vm).collect();
        Ok(Response::new(pb::ListVmsResponse { vms, next_page_token }))
    }

    async fn update_vm(&self, asked: Request<pb::UpdateVmRequest>) -> Answer<pb::Vm> {
        let asked = request::update_vm(asked.get_ref()).map_err(refuse)?;
        let change = VmChange {
            checkpoint_policy: asked.checkpoint_policy,
            undo_checkpoint: asked.undo_checkpoint,
            checkpoint_location: asked.checkpoint_location,
            critical: asked.critical,
            definition: asked.definition,
            settings: asked.settings,
            values: Vec::new(),
        };
        let view = self.engine.update_vm(&asked.id, change).await.map_err(refuse)?;
        Ok(Response::new(respond::vm(&view)))
    }

    async fn delete_vm(&self, asked: Request<pb::DeleteVmRequest>) -> Answer<()> {
        let id = names::parse_vm(&asked.get_ref().name, "name").map_err(refuse)?;
        self.engine.delete_vm(&id).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn start_vm(&self, asked: Request<pb::StartVmRequest>) -> Answer<longrunning::Operation> {
        let asked = asked.get_ref();
        let request_id = request::request_id(&asked.request_id).map_err(refuse)?;
        self.submit(&asked.name, Work::Start, request_id).await
    }

    async fn stop_vm(&self, asked: Request<pb::StopVmRequest>) -> Answer<longrunning::Operation> {
        let (_, mode, request_id) = request::stop_vm(asked.get_ref()).map_err(refuse)?;
        let mode = match mode {
            request::StopMode::Graceful => StopMode::Graceful,
            request::StopMode::TurnOff => StopMode::TurnOff,
        };
        self.submit(&asked.get_ref().name, Work::Stop(mode), request_id).await
    }

    async fn pause_vm(&self, asked: Request<pb::PauseVmRequest>) -> Answer<longrunning::Operation> {
        self.submit(&asked.get_ref().name, Work::Pause, None).await
    }

    async fn resume_vm(&self, asked: Request<pb::ResumeVmRequest>) -> Answer<longrunning::Operation> {
        self.submit(&asked.get_ref().name, Work::Resume, None).await
    }

    async fn list_layers(&self, asked: Request<pb::ListLayersRequest>) -> Answer<pb::ListLayersResponse> {
        let vm = names::parse_vm(&asked.get_ref().parent, "parent").map_err(refuse)?;
        let layers = self.engine.layers(&vm).await.map_err(refuse)?;
        Ok(Response::new(pb::ListLayersResponse { layers: integrity::layers(&vm, layers) }))
    }

    async fn reconnect_layers(
        &self,
        asked: Request<pb::ReconnectLayersRequest>,
    ) -> Answer<pb::ReconnectLayersResponse> {
        let asked = request::reconnect_layers(asked.get_ref()).map_err(refuse)?;
        let (vm, asked) = integrity::reconnect(asked);
        let layers = self.engine.reconnect(&vm, asked).await.map_err(refuse)?;
        Ok(Response::new(pb::ReconnectLayersResponse { layers: integrity::layers(&vm, layers) }))
    }

    async fn suspend_merges(&self, asked: Request<pb::SuspendMergesRequest>) -> Answer<pb::Vm> {
        self.set_merges(&asked.get_ref().name, Merges::Suspended).await
    }

    async fn resume_merges(&self, asked: Request<pb::ResumeMergesRequest>) -> Answer<pb::Vm> {
        self.set_merges(&asked.get_ref().name, Merges::Enabled).await
    }

    async fn save_vm(&self, asked: Request<pb::SaveVmRequest>) -> Answer<longrunning::Operation> {
        let request_id = request::request_id(&asked.get_ref().request_id).map_err(refuse)?;
        self.submit(&asked.get_ref().name, Work::Save, request_id).await
    }

    async fn discard_saved_state(
        &self,
        asked: Request<pb::DiscardSavedStateRequest>,
    ) -> Answer<longrunning::Operation> {
        let request_id = request::request_id(&asked.get_ref().request_id).map_err(refuse)?;
        self.submit(&asked.get_ref().name, Work::DiscardSaved, request_id).await
    }
}
