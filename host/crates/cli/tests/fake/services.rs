//! The services, answering what the canned world says.

use std::pin::Pin;

use prost_types::Any;
use stillpoint_common::{
    ContactState, Failure, GuestContact, GuestService, KeyValues, OperationKind, OperationState, Outcome, Reason,
    ServiceState, SettingsChange, ToldValues, VmSettings,
};
use stillpoint_proto::{
    convert::{
        self, failure, guest,
        names::{self, parse_operation, parse_vm},
        operation::{any, export, operation},
        request, settings as convert_settings,
    },
    longrunning::{self, operations_server::Operations},
    v1::{
        self as pb, checkpoints_server::Checkpoints, guests_server::Guests, host_service_server::HostService,
        images_server::Images, operations_extra_server::OperationsExtra, virtual_machines_server::VirtualMachines,
    },
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    Asked,
    canned::{self, HANGING, UPGRADE},
};

pub(super) type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) asked: Asked,
    /// What never ended has ended since.
    pub(crate) restarted: bool,
}

pub(super) fn refused(failure: Failure) -> Status {
    failure::status(&failure)
}

/// Operations are told apart by their last digits: what they do, and how they end.
const KINDS: [(&str, OperationKind); 10] = [
    ("019d0000-0000-7000-8000-000000000001", OperationKind::StartVm),
    ("019d0000-0000-7000-8000-000000000002", OperationKind::StopVm),
    ("019d0000-0000-7000-8000-000000000003", OperationKind::CreateCheckpoint),
    ("019d0000-0000-7000-8000-000000000004", OperationKind::ApplyCheckpoint),
    ("019d0000-0000-7000-8000-000000000005", OperationKind::DeleteCheckpoint),
    ("019d0000-0000-7000-8000-000000000006", OperationKind::ExportCheckpoint),
    ("019d0000-0000-7000-8000-000000000007", OperationKind::PauseVm),
    ("019d0000-0000-7000-8000-000000000008", OperationKind::DeleteMemoryState),
    ("019d0000-0000-7000-8000-000000000009", OperationKind::ImportVm),
    (HANGING, OperationKind::ResumeVm),
];
/// The creation that fails.
const FAILING: &str = "019d0000-0000-7000-8000-00000000000e";

pub(super) fn begun(kind: OperationKind) -> longrunning::Operation {
    let (id, _) = KINDS.iter().find(|(_, known)| *known == kind).unwrap();
    operation(&canned::operation(id, kind, OperationState::Running), None)
}

fn ended(id: &str) -> longrunning::Operation {
    if id == FAILING {
        let failure = Failure::new(Reason::QuiesceFailed, "file system /data cannot be frozen: EIO");
        return operation(&canned::operation(id, OperationKind::CreateCheckpoint, canned::failed(failure)), None);
    }
    let kind = KINDS.iter().find(|(known, _)| *known == id).unwrap().1;
    let done = canned::operation(id, kind, OperationState::Done(Outcome::Vm));
    operation(&done, response(kind))
}

fn response(kind: OperationKind) -> Option<Any> {
    match kind {
        OperationKind::DeleteCheckpoint | OperationKind::DeleteMemoryState | OperationKind::CollectLayers => None,
        OperationKind::CreateCheckpoint => {
            let checkpoint = canned::production(UPGRADE, "before the upgrade", None, 0);
            Some(any(&canned::message(&canned::fallback(checkpoint))))
        }
        OperationKind::ExportCheckpoint => {
            let files = [("system.qcow2", 1 << 30), ("manifest.json", 900)];
            Some(any(&export("/exports/one", files.map(|(path, bytes)| (path.into(), bytes, String::new())))))
        }
        _ => Some(any(&canned::vm("web", canned::definition()))),
    }
}

fn vm(name: &str) -> Result<pb::Vm, Status> {
    let id = parse_vm(name, "name").map_err(refused)?;
    match id.as_str() {
        "web" | "db" | "full" => Ok(canned::vm(id.as_str(), canned::definition())),
        _ => Err(refused(Failure::new(Reason::VmNotFound, format!("there is no VM {id}")))),
    }
}

#[tonic::async_trait]
impl VirtualMachines for Service {
    async fn create_vm(&self, request: Request<pb::CreateVmRequest>) -> Answer<pb::Vm> {
        let vm = request::create_vm(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("create {} {:?} {:?}", vm.id, vm.checkpoint_policy, vm.definition));
        Ok(Response::new(canned::vm(vm.id.as_str(), vm.definition)))
    }
    async fn get_vm(&self, request: Request<pb::GetVmRequest>) -> Answer<pb::Vm> {
        vm(&request.get_ref().name).map(Response::new)
    }
    async fn list_vms(&self, request: Request<pb::ListVmsRequest>) -> Answer<pb::ListVmsResponse> {
        // Two pages, so that the program has to ask for the second one.
        let first = request.get_ref().page_token.is_empty();
        let (name, token) = if first { ("db", "db") } else { ("web", "") };
        let vms = vec![canned::vm(name, canned::definition())];
        Ok(Response::new(pb::ListVmsResponse { vms, next_page_token: token.into() }))
    }
    async fn list_layers(&self, _: Request<pb::ListLayersRequest>) -> Answer<pb::ListLayersResponse> {
        Ok(Response::new(pb::ListLayersResponse { layers: canned::layers() }))
    }
    async fn reconnect_layers(
        &self,
        request: Request<pb::ReconnectLayersRequest>,
    ) -> Answer<pb::ReconnectLayersResponse> {
        let asked = request::reconnect_layers(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("reconnect {} {:?} {}", asked.vm, asked.what, asked.path.display()));
        Ok(Response::new(pb::ReconnectLayersResponse { layers: canned::layers() }))
    }
    async fn suspend_merges(&self, request: Request<pb::SuspendMergesRequest>) -> Answer<pb::Vm> {
        let name = &request.get_ref().name;
        self.asked.note(format!("suspend merges {name}"));
        Ok(Response::new(pb::Vm { merges_suspended: true, ..vm(name)? }))
    }
    async fn resume_merges(&self, request: Request<pb::ResumeMergesRequest>) -> Answer<pb::Vm> {
        let name = &request.get_ref().name;
        self.asked.note(format!("resume merges {name}"));
        vm(name).map(Response::new)
    }
    async fn update_vm(&self, request: Request<pb::UpdateVmRequest>) -> Answer<pb::Vm> {
        let change = request::update_vm(request.get_ref()).map_err(refused)?;
        let undo = change.undo_checkpoint;
        if change.settings != SettingsChange::default() || change.checkpoint_location.is_some() || undo.is_some() {
            let (location, settings) = (change.checkpoint_location, change.settings);
            let policy = change.checkpoint_policy;
            self.asked.note(format!("set {} {policy:?} {location:?} {settings:?} undo {undo:?}", change.id));
            if change.id.as_str() == "db" {
                let failure = Failure::new(Reason::VmHasCheckpoints, "VM db has checkpoints");
                return Err(refused(failure));
            }
            let record = VmSettings { automatic_checkpoints: true, ..VmSettings::default() };
            let settings = Some(convert_settings::message(&settings.applied(record)));
            let known = canned::vm(change.id.as_str(), canned::definition());
            let undo_checkpoint = undo.unwrap_or(known.undo_checkpoint);
            return Ok(Response::new(pb::Vm { settings, undo_checkpoint, ..known }));
        }
        let cpus = change.definition.map(|definition| definition.cpus);
        self.asked.note(match change.critical {
            Some(critical) => format!("update {} {:?} {:?}", change.id, critical.action, critical.power_off_after),
            None => format!("update {} policy {:?} cpus {cpus:?}", change.id, change.checkpoint_policy),
        });
        vm(&names::vm(&change.id)).map(Response::new)
    }
    async fn delete_vm(&self, request: Request<pb::DeleteVmRequest>) -> Answer<()> {
        let vm = vm(&request.get_ref().name)?;
        let failure = Failure::new(Reason::VmHasCheckpoints, format!("{} has 4 checkpoints", vm.name));
        if vm.name == "vms/web" { Err(refused(failure)) } else { Ok(Response::new(())) }
    }
    async fn start_vm(&self, request: Request<pb::StartVmRequest>) -> Answer<longrunning::Operation> {
        vm(&request.get_ref().name)?;
        Ok(Response::new(begun(OperationKind::StartVm)))
    }
    async fn stop_vm(&self, request: Request<pb::StopVmRequest>) -> Answer<longrunning::Operation> {
        let (vm, mode, _) = request::stop_vm(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("stop {vm} {mode:?}"));
        Ok(Response::new(begun(OperationKind::StopVm)))
    }
    async fn pause_vm(&self, _: Request<pb::PauseVmRequest>) -> Answer<longrunning::Operation> {
        Err(refused(Failure::new(Reason::VmBusy, "VM web is busy with operation 019d… (CREATE_CHECKPOINT)")))
    }
    async fn resume_vm(&self, _: Request<pb::ResumeVmRequest>) -> Answer<longrunning::Operation> {
        Ok(Response::new(begun(OperationKind::ResumeVm)))
    }
    async fn save_vm(&self, request: Request<pb::SaveVmRequest>) -> Answer<longrunning::Operation> {
        self.asked.note(format!("save {}", request.get_ref().name));
        Ok(Response::new(begun(OperationKind::PauseVm)))
    }
    async fn discard_saved_state(
        &self,
        request: Request<pb::DiscardSavedStateRequest>,
    ) -> Answer<longrunning::Operation> {
        self.asked.note(format!("discard saved {}", request.get_ref().name));
        Ok(Response::new(begun(OperationKind::StopVm)))
    }
}

#[tonic::async_trait]
impl Checkpoints for Service {
    async fn create_checkpoint(&self, request: Request<pb::CreateCheckpointRequest>) -> Answer<longrunning::Operation> {
        let asked = request::create_checkpoint(request.get_ref()).map_err(refused)?;
        assert!(asked.request_id.is_some(), "every change carries a request id");
        self.asked.note(format!("checkpoint {} {:?} {:?}", asked.vm, asked.name, asked.policy));
        let state = OperationState::Running;
        let failing = operation(&canned::operation(FAILING, OperationKind::CreateCheckpoint, state), None);
        let fails = asked.policy == Some(stillpoint_common::CheckpointPolicy::ProductionOnly);
        Ok(Response::new(if fails { failing } else { begun(OperationKind::CreateCheckpoint) }))
    }
    async fn get_checkpoint(&self, _: Request<pb::GetCheckpointRequest>) -> Answer<pb::Checkpoint> {
        Err(Status::unimplemented("not needed"))
    }
    async fn list_checkpoints(
        &self,
        request: Request<pb::ListCheckpointsRequest>,
    ) -> Answer<pb::ListCheckpointsResponse> {
        let vm = vm(&request.get_ref().parent)?;
        if !request.get_ref().filter.is_empty() {
            self.asked.note(format!("list {} where {}", vm.name, request.get_ref().filter));
        }
        let checkpoints = if vm.name == "vms/web" { canned::checkpoints() } else { vec![] };
        Ok(Response::new(pb::ListCheckpointsResponse { checkpoints, next_page_token: String::new() }))
    }
    async fn update_checkpoint(&self, request: Request<pb::UpdateCheckpointRequest>) -> Answer<pb::Checkpoint> {
        let change = request::update_checkpoint(request.get_ref()).map_err(refused)?;
        self.asked
            .note(format!("set {} {:?} {:?} {:?}", change.checkpoint, change.name, change.notes, change.keep_until));
        let name = change.name.as_ref().map_or("before the upgrade", |name| name.as_str());
        let checkpoint = canned::production(&change.checkpoint.to_string(), name, None, 1);
        Ok(Response::new(canned::message(&checkpoint)))
    }
    async fn apply_checkpoint(&self, request: Request<pb::ApplyCheckpointRequest>) -> Answer<longrunning::Operation> {
        let asked = request::apply_checkpoint(request.get_ref()).map_err(refused)?;
        let checkpoint = asked.checkpoint.map(|id| id.to_string()).unwrap_or_default();
        let machine = match asked.machine {
            request::Machine::AsCaptured => "",
            request::Machine::Saved => " to saved",
            request::Machine::WithoutMemory => " without memory",
        };
        let now = match asked.now {
            request::Now::Discard => "",
            request::Now::CheckpointFirst => " checkpoint first",
        };
        self.asked.note(format!("apply {} {checkpoint}{machine}{now}", asked.vm));
        Ok(Response::new(begun(OperationKind::ApplyCheckpoint)))
    }
    async fn revert_vm(&self, request: Request<pb::RevertVmRequest>) -> Answer<longrunning::Operation> {
        let asked = request::revert_vm(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("revert {}", asked.vm));
        Ok(Response::new(begun(OperationKind::ApplyCheckpoint)))
    }
    async fn delete_checkpoint(&self, request: Request<pb::DeleteCheckpointRequest>) -> Answer<longrunning::Operation> {
        let asked = request::delete_checkpoint(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("delete {} {}", asked.vm, asked.checkpoint));
        Ok(Response::new(begun(OperationKind::DeleteCheckpoint)))
    }
    async fn batch_delete_checkpoints(
        &self,
        request: Request<pb::BatchDeleteCheckpointsRequest>,
    ) -> Answer<longrunning::Operation> {
        let (vm, ids, _) = request::batch_delete_checkpoints(request.get_ref()).map_err(refused)?;
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.asked.note(format!("delete {vm} {}", ids.join(" ")));
        Ok(Response::new(begun(OperationKind::DeleteCheckpoint)))
    }
    async fn delete_memory_state(
        &self,
        request: Request<pb::DeleteMemoryStateRequest>,
    ) -> Answer<longrunning::Operation> {
        let (vm, checkpoint, _) = request::delete_memory_state(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("delete memory {vm} {checkpoint}"));
        Ok(Response::new(begun(OperationKind::DeleteMemoryState)))
    }
    async fn preview_delete(&self, request: Request<pb::PreviewDeleteRequest>) -> Answer<pb::DeletePreview> {
        request::preview_delete(request.get_ref()).map_err(refused)?;
        Ok(Response::new(canned::preview(request.into_inner().names)))
    }
    async fn export_checkpoint(&self, request: Request<pb::ExportCheckpointRequest>) -> Answer<longrunning::Operation> {
        let export = request::export_checkpoint(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("export {} {:?}", export.folder.display(), export.format));
        Ok(Response::new(begun(OperationKind::ExportCheckpoint)))
    }
    async fn advise_checkpoint(&self, request: Request<pb::AdviseCheckpointRequest>) -> Answer<pb::CheckpointAdvice> {
        vm(&request.get_ref().name)?;
        Ok(Response::new(canned::advice()))
    }
}

#[tonic::async_trait]
impl Operations for Service {
    async fn list_operations(
        &self,
        request: Request<longrunning::ListOperationsRequest>,
    ) -> Answer<longrunning::ListOperationsResponse> {
        let wanted = request::list_operations(request.get_ref()).map_err(refused)?;
        let done = KINDS.iter().rev().skip(1).map(|(id, _)| ended(id)).chain([ended(FAILING)]);
        let operations = [begun(OperationKind::ResumeVm)].into_iter().chain(done);
        let operations = operations.filter(|operation| wanted.filter.done.is_none_or(|done| done == operation.done));
        let operations = operations.take(request.get_ref().page_size.unsigned_abs() as usize).collect();
        Ok(Response::new(longrunning::ListOperationsResponse { operations, next_page_token: String::new() }))
    }
    async fn get_operation(
        &self,
        request: Request<longrunning::GetOperationRequest>,
    ) -> Answer<longrunning::Operation> {
        let id = parse_operation(&request.get_ref().name, "name").map_err(refused)?.to_string();
        Ok(Response::new(if id == HANGING { begun(OperationKind::ResumeVm) } else { ended(&id) }))
    }
    async fn cancel_operation(&self, request: Request<longrunning::CancelOperationRequest>) -> Answer<()> {
        self.asked.note(format!("cancel {}", request.get_ref().name));
        Ok(Response::new(()))
    }
    async fn wait_operation(&self, _: Request<longrunning::WaitOperationRequest>) -> Answer<longrunning::Operation> {
        Err(Status::unimplemented("not needed"))
    }
}

#[tonic::async_trait]
impl OperationsExtra for Service {
    type WatchOperationStream = Pin<Box<dyn Stream<Item = Result<longrunning::Operation, Status>> + Send>>;

    async fn watch_operation(&self, request: Request<pb::WatchOperationRequest>) -> Answer<Self::WatchOperationStream> {
        let id = parse_operation(&request.get_ref().name, "name").map_err(refused)?.to_string();
        if id == HANGING && !self.restarted {
            let first = tokio_stream::once(Ok(begun(OperationKind::ResumeVm)));
            return Ok(Response::new(Box::pin(tokio_stream::StreamExt::chain(first, tokio_stream::pending()))));
        }
        let kind =
            KINDS.iter().find(|(known, _)| *known == id).map_or(OperationKind::CreateCheckpoint, |known| known.1);
        let running = operation(&canned::operation(&id, kind, OperationState::Running), None);
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(running), Ok(ended(&id))]))))
    }
}

#[tonic::async_trait]
impl Guests for Service {
    async fn get_guest(&self, request: Request<pb::GetGuestRequest>) -> Answer<pb::Guest> {
        let vm = names::parse_guest(&request.get_ref().name, "name").map_err(refused)?;
        if vm.as_str() != "web" {
            return Err(refused(Failure::new(Reason::VmNotRunning, format!("VM {vm} is off"))));
        }
        Ok(Response::new(guest::guest(&vm, &canned::guest())))
    }

    async fn list_writers(&self, request: Request<pb::ListWritersRequest>) -> Answer<pb::ListWritersResponse> {
        let vm = names::parse_guest(&request.get_ref().parent, "parent").map_err(refused)?;
        Ok(Response::new(pb::ListWritersResponse { writers: guest::guest(&vm, &canned::guest()).writers }))
    }

    async fn get_guest_contact(&self, request: Request<pb::GetGuestContactRequest>) -> Answer<pb::GuestContact> {
        let vm = names::parse_guest(&request.get_ref().name, "name").map_err(refused)?;
        let state = |service: &GuestService| {
            let (state, detail) = match (vm.as_str(), service) {
                ("web", GuestService::Heartbeat) => (ContactState::Degraded, "guest agent 0.0.9 does not know it"),
                ("web", _) => (ContactState::Ok, ""),
                _ => (ContactState::NotRunning, ""),
            };
            ServiceState { service: *service, state, detail: detail.to_owned() }
        };
        let services = GuestService::ALL.iter().map(state).collect();
        let last_heard = (vm.as_str() == "web").then(jiff::Timestamp::now);
        Ok(Response::new(convert::contact::contact(&vm, &GuestContact { services, last_heard, uptime: None })))
    }

    async fn list_guest_values(&self, request: Request<pb::ListGuestValuesRequest>) -> Answer<pb::GuestValues> {
        let vm = names::parse_guest(&request.get_ref().name, "name").map_err(refused)?;
        let told = ToldValues {
            set: KeyValues::kept([("state", "ready")]),
            intrinsic: KeyValues::kept([("OSName", "Debian GNU/Linux")]),
        };
        let guest = if vm.as_str() == "web" { Ok(told) } else { Err(format!("VM {vm} is off")) };
        Ok(Response::new(convert::contact::guest_values(&vm, &KeyValues::kept([("role", "front")]), &guest)))
    }

    async fn set_guest_values(
        &self,
        request: Request<pb::SetGuestValuesRequest>,
    ) -> Answer<pb::SetGuestValuesResponse> {
        let (vm, values) = convert::contact::set_guest_values(request.get_ref()).map_err(refused)?;
        self.asked.note(format!("values {vm} {values:?}"));
        Ok(Response::new(pb::SetGuestValuesResponse { host_values: vec![], given: vm.as_str() == "web" }))
    }
}

#[tonic::async_trait]
impl Images for Service {
    type MergeImageStream = Pin<Box<dyn Stream<Item = Result<pb::MergeImageResponse, Status>> + Send>>;

    async fn merge_image(&self, request: Request<pb::MergeImageRequest>) -> Answer<Self::MergeImageStream> {
        use pb::merge_image_response::Event;
        let asked = request::merge_image(request.get_ref()).map_err(refused)?;
        let images = vec![asked.child.display().to_string(), "/i/between.qcow2".into()];
        if asked.into.ends_with("web.qcow2") {
            return Err(refused(Failure::new(Reason::ImageOfVm, "/vm/web.qcow2 is an image of VM web")));
        }
        let into = asked.into.display().to_string();
        let plan = pb::ImageMergePlan { images: images.clone(), into, move_bytes: 3 << 20, needed_bytes: 1 << 20 };
        let mut events = vec![Event::Plan(plan)];
        if !asked.dry_run {
            self.asked.note(format!("merge {} remove {}", images[0], asked.remove_merged));
            let image = images[0].clone();
            events.push(Event::Progress(pb::ImageMergeProgress { image, done_bytes: 51, total_bytes: 100 }));
            let (removed, left) = if asked.remove_merged { (images, vec![]) } else { (vec![], images) };
            events.push(Event::Merged(pb::ImageMerged { removed, left }));
        }
        let events = events.into_iter().map(|event| Ok(pb::MergeImageResponse { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }
}

#[tonic::async_trait]
impl HostService for Service {
    async fn get_host(&self, _: Request<pb::GetHostRequest>) -> Answer<pb::Host> {
        Ok(Response::new(pb::Host {
            service_version: "0.1.0".into(),
            qemu_version: "10.0.2".into(),
            accelerator: "TCG (no /dev/kvm)".into(),
            state_folder: "/var/lib/stillpoint".into(),
            vms: 2,
            problems: vec![],
        }))
    }

    async fn rebuild_catalogue(
        &self,
        request: Request<pb::RebuildCatalogueRequest>,
    ) -> Answer<pb::RebuildCatalogueResponse> {
        let taken = pb::RebuiltVm {
            vm: "vms/web".into(),
            file: "/checkpoints/web/web.vm.json".into(),
            checkpoints: 2,
            layers: 3,
            running: true,
            notes: vec!["/vm/old.qcow2 does not exist".into()],
        };
        let file = format!("{}/db.vm.json", request.get_ref().folders.concat());
        let left = pb::LeftDescription { file, why: "VM db is in the catalogue already and was not touched".into() };
        Ok(Response::new(pb::RebuildCatalogueResponse { taken: vec![taken], left: vec![left] }))
    }

    async fn check_host(&self, request: Request<pb::CheckHostRequest>) -> Answer<pb::CheckHostResponse> {
        if request.get_ref().vm == "vms/db" {
            return Ok(Response::new(pb::CheckHostResponse { findings: vec![] }));
        }
        let finding = stillpoint_common::Finding {
            kind: stillpoint_common::FindingKind::LayerMissing,
            vm: Some("web".parse().unwrap()),
            path: Some("/vm/web-1.qcow2".into()),
            message: "/vm/web-1.qcow2 (disk system) does not exist".into(),
            checkpoints: vec![UPGRADE.parse().unwrap()],
            now: true,
        };
        let findings = vec![stillpoint_proto::convert::finding::finding(&finding)];
        Ok(Response::new(pb::CheckHostResponse { findings }))
    }
}
