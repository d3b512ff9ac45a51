//! What the agent in a guest does for the host, and whether it can.

use serde::Serialize;
use stillpoint_common::{GuestService, PowerState, VmId};

use super::Context;
use crate::{
    CliError,
    output::{Answer, table::table, text},
    view::Vm,
};

/// Whether a service can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    /// The agent answers.
    Ok,
    /// The VM is set so that it is not used.
    SwitchedOff,
    /// The VM does not run.
    NotRunning,
    /// No agent answers.
    NoContact,
}

#[derive(Debug, Serialize)]
struct Service {
    service: GuestService,
    status: Status,
}

pub(super) async fn list(context: &Context, vm: &VmId) -> Result<Answer, CliError> {
    let vm = context.client.vm(vm).await?;
    let (contact, why) = contact(context, &vm).await;
    let status = |service: &GuestService| match vm.settings.services_off.contains(service) {
        true => Status::SwitchedOff,
        false => contact,
    };
    let services: Vec<Service> =
        GuestService::ALL.iter().map(|service| Service { service: *service, status: status(service) }).collect();
    let rows = services.iter().map(|it| [text::word(Some(it.service)), text::word(Some(it.status))]);
    let said =
        format!("{}{}", table(["service", "status"], rows), why.map(|why| format!("\n{why}\n")).unwrap_or_default());
    Answer::new(said, &services)
}

/// Whether the agent answers; why it does not.
async fn contact(context: &Context, vm: &Vm) -> (Status, Option<String>) {
    if vm.state != Some(PowerState::Running) {
        return (Status::NotRunning, None);
    }
    match context.client.guest(&vm.id).await {
        Ok(_) => (Status::Ok, None),
        Err(error) => (Status::NoContact, Some(error.to_string())),
    }
}
