//! Contact with the agents of running VMs: signs of life, and the values that each guest is to have.
//!
//! ```text
//!  every 10 s, of each VM that runs ── beat ──▶ noted: heard, older, mismatch, silent
//!                                       └── its values are not those of its record ──▶ given
//! ```
//! A beat says which values the guest has. So they are given to an agent that was started, to a guest that was brought back
//! to its past, and after a change, whoever missed what.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use stillpoint_common::{
    Beat, ContactState, Failure, GuestContact, GuestService, InstanceId, ServiceState, ToldValues, Vm, VmId,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    context::World,
    error::StepError,
    ports::{QuiesceError, RunState},
    restore,
};

/// What is known of the agents of VMs.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    /// By VM, of its present process. Held for a look or a note, never over an await.
    known: Mutex<BTreeMap<VmId, Known>>,
}

/// What is known of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    instance: InstanceId,
    /// When it was heard last, and how long its guest had been up then.
    heard: Option<(Timestamp, Option<Duration>)>,
    last: Last,
}

/// What came of the last beat.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Last {
    Answered,
    Older(String),
    Mismatch(String),
    Silent(String),
}

impl Contacts {
    fn note(&self, vm: &Vm, instance: InstanceId, beat: &Result<Beat, QuiesceError>, now: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = known.get(&vm.id).filter(|earlier| earlier.instance == instance);
        let heard_before = earlier.and_then(|earlier| earlier.heard);
        let (heard, last) = match beat {
            Ok(beat) => (Some((now, Some(beat.uptime))), Last::Answered),
            Err(error @ QuiesceError::Unknown { .. }) => (Some((now, None)), Last::Older(error.to_string())),
            Err(error @ QuiesceError::Incompatible { .. }) => (Some((now, None)), Last::Mismatch(error.to_string())),
            Err(error) => (heard_before, Last::Silent(error.to_string())),
        };
        known.insert(vm.id.clone(), Known { instance, heard, last });
    }

    fn of(&self, vm: &Vm) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&vm.id).filter(|known| Some(known.instance) == vm.instance).cloned()
    }
}

/// How it stands with a service of a VM that runs, and why.
fn state(service: GuestService, known: Option<&Known>) -> (ContactState, String) {
    let Some(known) = known else { return (ContactState::NoContact, "nobody has asked it yet".to_owned()) };
    match &known.last {
        Last::Answered => (ContactState::Ok, String::new()),
        Last::Older(why) => match service {
            GuestService::Heartbeat | GuestService::KeyValues => (ContactState::Degraded, why.clone()),
            GuestService::Quiesce | GuestService::Shutdown | GuestService::TimeSync => {
                (ContactState::Ok, String::new())
            }
        },
        Last::Mismatch(why) => (ContactState::ProtocolMismatch, why.clone()),
        Last::Silent(why) if known.heard.is_some() => (ContactState::LostCommunication, why.clone()),
        Last::Silent(why) => (ContactState::NoContact, why.clone()),
    }
}

fn uses(vm: &Vm, service: GuestService) -> bool {
    !vm.settings.services_off.contains(&service)
}

/// Keeps in contact with the agents of all VMs that run and whose heartbeat is not switched off.
pub(crate) fn keep(world: &Arc<World>) {
    let Some(every) = world.config.heartbeat else { return };
    // Only a look at the world: whoever holds it keeps the store open.
    let world = Arc::downgrade(world);
    tokio::spawn(async move {
        loop {
            sleep(every).await;
            let Some(world) = world.upgrade() else { return };
            beat_all(&world).await;
        }
    });
}

async fn beat_all(world: &Arc<World>) {
    let Ok(vms) = world.catalogue.vms().await else { return };
    let mut beats = JoinSet::new();
    for vm in vms.into_iter().filter(|vm| vm.instance.is_some() && uses(vm, GuestService::Heartbeat)) {
        let world = world.clone();
        beats.spawn(async move { touch(&world, &vm).await });
    }
    while beats.join_next().await.is_some() {}
}

/// Asks for a sign of life, and gives the guest its values if it has others. Answers whether it has them now.
pub(crate) async fn touch(world: &World, vm: &Vm) -> bool {
    let Some(instance) = vm.instance else { return false };
    let beat = world.ports.guest.beat(instance).await;
    world.contacts.note(vm, instance, &beat, world.ports.clock.now());
    let Ok(beat) = beat else { return false };
    restore::tell(world, vm).await;
    if !uses(vm, GuestService::KeyValues) {
        return false;
    }
    // One that was never told anything need not be told that there is nothing.
    let nothing = beat.values_revision.is_empty() && vm.values.iter().next().is_none();
    if nothing || beat.values_revision == vm.values.revision() {
        return true;
    }
    let given = world.ports.guest.set_values(instance, &vm.values).await;
    if let Err(error) = &given {
        tracing::warn!(vm = %vm.id, %error, "the guest could not be given its host's values");
    }
    given.is_ok()
}

/// How it stands with each service of a VM's agent, which is asked first.
pub(crate) async fn look(world: &World, vm: &Vm) -> Result<GuestContact, Failure> {
    let runs = runs(world, vm).await?;
    if runs {
        touch(world, vm).await;
    }
    let known = world.contacts.of(vm);
    let service = |service: &GuestService| {
        let (state, detail) = match (uses(vm, *service), runs) {
            (false, _) => (ContactState::SwitchedOff, String::new()),
            (true, false) => (ContactState::NotRunning, String::new()),
            (true, true) => state(*service, known.as_ref()),
        };
        ServiceState { service: *service, state, detail }
    };
    let heard = known.as_ref().and_then(|known| known.heard);
    Ok(GuestContact {
        services: GuestService::ALL.iter().map(service).collect(),
        last_heard: heard.map(|(time, _)| time),
        uptime: heard.and_then(|(_, uptime)| uptime),
    })
}

async fn runs(world: &World, vm: &Vm) -> Result<bool, Failure> {
    let Some(instance) = vm.instance else { return Ok(false) };
    let observed = world.ports.hypervisor.observe(instance).await.map_err(StepError::from)?;
    Ok(observed.run == RunState::Running)
}

/// What a guest tells its host: nothing if the service is switched off, or nobody can be asked; then why.
pub(crate) async fn values(world: &World, vm: &Vm) -> Result<ToldValues, String> {
    if !uses(vm, GuestService::KeyValues) {
        return Err("service KEY_VALUES is switched off for this VM".to_owned());
    }
    let Some(instance) = vm.instance else { return Err(format!("VM {} is off", vm.id)) };
    touch(world, vm).await;
    world.ports.guest.values(instance).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(heard: bool, last: Last) -> Known {
        Known { instance: InstanceId::generate(), heard: heard.then_some((Timestamp::UNIX_EPOCH, None)), last }
    }

    #[test]
    fn the_state_of_each_service_follows_from_what_was_heard() {
        let why = || "why".to_owned();
        let cases = [
            (None, ContactState::NoContact, ContactState::NoContact),
            (Some(known(true, Last::Answered)), ContactState::Ok, ContactState::Ok),
            (Some(known(true, Last::Older(why()))), ContactState::Ok, ContactState::Degraded),
            (Some(known(true, Last::Mismatch(why()))), ContactState::ProtocolMismatch, ContactState::ProtocolMismatch),
            (Some(known(true, Last::Silent(why()))), ContactState::LostCommunication, ContactState::LostCommunication),
            (Some(known(false, Last::Silent(why()))), ContactState::NoContact, ContactState::NoContact),
        ];
        for (known, quiesce, heartbeat) in cases {
            assert_eq!(state(GuestService::Quiesce, known.as_ref()).0, quiesce, "{known:?}");
            let (found, detail) = state(GuestService::Heartbeat, known.as_ref());
            assert_eq!((found, detail.is_empty()), (heartbeat, heartbeat == ContactState::Ok), "{known:?}");
        }
    }
}
