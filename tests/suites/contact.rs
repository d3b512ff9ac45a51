//! Contact with the agents of guests, and what host and guest tell each other, on the simulator. On real guests in the
//! suite `guest_contact`.

use std::time::Duration;

use stillpoint_common::{CheckpointPolicy, ContactState, GuestService, KeyValues, Reason, SettingsChange};
use stillpoint_engine::{EngineConfig, Request, StopMode, VmChange};
use stillpoint_sim::AgentScript;
use stillpoint_tests::sim_host::SimHost;

use ContactState as C;

const BEAT: Duration = Duration::from_secs(10);

/// A host that asks for signs of life, with a VM that runs.
async fn host() -> SimHost {
    let mut host = SimHost::running().await;
    host.restart_with(beating).await;
    host
}

fn beating(config: &mut EngineConfig) {
    config.heartbeat = Some(BEAT);
}

/// How it stands with each service, and how long ago the agent was heard.
async fn contact(host: &SimHost) -> (Vec<ContactState>, Option<Duration>) {
    let contact = host.engine.guest_contact(&host.vm()).await.expect("it is there");
    let ago = |time| Duration::try_from(host.world.now().duration_since(time)).expect("in the past");
    (contact.services.iter().map(|it| it.state).collect(), contact.last_heard.map(ago))
}

async fn switch_off(host: &SimHost, services: &[GuestService]) {
    let settings =
        SettingsChange { services_off: Some(services.iter().copied().collect()), ..SettingsChange::default() };
    host.engine.update_vm(&host.vm(), VmChange { settings, ..VmChange::default() }).await.expect("it can be set");
}

fn told(host: &SimHost) -> Vec<(String, String)> {
    let told = host.world.told_values(&host.vm()).unwrap_or_default();
    told.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

async fn set(host: &SimHost, key: &str, value: Option<&str>) -> bool {
    let change = vec![(key.to_owned(), value.map(str::to_owned))];
    host.engine.set_guest_values(&host.vm(), change).await.expect("it can be set").1
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[tokio::test(start_paused = true)]
async fn each_service_says_how_it_stands_with_it_and_when_the_agent_was_heard_last() {
    let host = host().await;
    assert_eq!(contact(&host).await, (vec![C::Ok; 5], Some(Duration::ZERO)));
    // It falls silent: it was heard, and is not any more.
    tokio::time::sleep(BEAT * 2).await;
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    tokio::time::sleep(BEAT * 3).await;
    let (states, heard) = contact(&host).await;
    assert_eq!(states, [C::LostCommunication; 5]);
    assert!(heard.is_some_and(|ago| ago >= BEAT * 3 && ago <= BEAT * 5), "{heard:?}");
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Incompatible);
    assert_eq!(contact(&host).await.0, [C::ProtocolMismatch; 5]);
    host.world.script_guest(&host.vm(), |guest| (guest.agent, guest.older) = (AgentScript::Answers, true));
    assert_eq!(contact(&host).await.0, [C::Ok, C::Ok, C::Ok, C::Degraded, C::Degraded]);
    // Another process: nobody was heard in it.
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    host.run(Request::Stop(StopMode::TurnOff)).await.unwrap();
    assert_eq!(contact(&host).await.0, [C::NotRunning; 5]);
    host.run(Request::Start).await.unwrap();
    assert_eq!(contact(&host).await, (vec![C::NoContact; 5], None));
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_is_switched_off_is_not_asked_for() {
    let host = host().await;
    switch_off(&host, &[GuestService::Heartbeat]).await;
    let beats = || host.world.calls().iter().filter(|call| call.name() == "guest.beat").count();
    let before = beats();
    tokio::time::sleep(BEAT * 10).await;
    assert_eq!(beats(), before);
    assert_eq!(contact(&host).await.0[3], C::SwitchedOff);
    switch_off(&host, &[]).await;
    tokio::time::sleep(BEAT * 10).await;
    assert!(beats() >= before + 9, "{} and then {}", before, beats());
}

#[tokio::test(start_paused = true)]
async fn a_guest_has_its_hosts_values_at_once_and_whenever_it_has_missed_them() {
    let mut host = host().await;
    assert!(set(&host, "role", Some("front")).await);
    assert_eq!(told(&host), [pair("role", "front")]);
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    // Not heard, and given when it answers.
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    assert!(!set(&host, "role", Some("back")).await);
    assert!(!set(&host, "site", Some("north")).await);
    assert_eq!(told(&host), [pair("role", "front")]);
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Answers);
    tokio::time::sleep(BEAT * 2).await;
    assert_eq!(told(&host), [pair("role", "back"), pair("site", "north")]);
    // An agent that was started anew has none.
    host.world.reboot_guest(&host.vm());
    assert_eq!(told(&host), []);
    tokio::time::sleep(BEAT * 2).await;
    assert_eq!(told(&host).len(), 2);
    // They are of the host, and not of the past; over a restart of the service and while the VM is off.
    host.run(Request::Apply(made.id.into())).await.unwrap();
    tokio::time::sleep(BEAT * 2).await;
    assert_eq!(told(&host), [pair("role", "back"), pair("site", "north")]);
    host.run(Request::Stop(StopMode::TurnOff)).await.unwrap();
    assert!(!set(&host, "site", None).await);
    host.restart_with(beating).await;
    host.run(Request::Start).await.unwrap();
    tokio::time::sleep(BEAT * 2).await;
    assert_eq!(told(&host), [pair("role", "back")]);
    host.assert_described().await;
    // Nothing is told any more.
    assert!(set(&host, "role", None).await);
    assert_eq!(told(&host), []);
}

#[tokio::test(start_paused = true)]
async fn what_the_guest_tells_is_read_and_what_is_out_of_bounds_changes_nothing() {
    let host = host().await;
    host.world.script_guest(&host.vm(), |guest| guest.values = KeyValues::kept([("state", "ready")]));
    set(&host, "role", Some("front")).await;
    let values = host.engine.guest_values(&host.vm()).await.unwrap();
    let guest = values.guest.unwrap();
    assert_eq!((values.host.get("role"), guest.set.get("state")), (Some("front"), Some("ready")));
    assert_eq!(guest.intrinsic.get("FullyQualifiedDomainName"), Some("web"));

    let many = (0..200).map(|at| (format!("k{at}"), Some("v".to_owned()))).collect();
    let refused = host.engine.set_guest_values(&host.vm(), many).await.unwrap_err();
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::FieldInvalid, Some("set")));
    assert_eq!(told(&host), [pair("role", "front")], "all of it, or nothing");

    switch_off(&host, &[GuestService::KeyValues]).await;
    assert!(!set(&host, "role", Some("back")).await);
    tokio::time::sleep(BEAT * 2).await;
    assert_eq!(told(&host), [pair("role", "front")], "none are given");
    let values = host.engine.guest_values(&host.vm()).await.unwrap();
    assert!(values.guest.unwrap_err().contains("switched off"));
    host.run(Request::Stop(StopMode::TurnOff)).await.unwrap();
    switch_off(&host, &[]).await;
    let values = host.engine.guest_values(&host.vm()).await.unwrap();
    assert_eq!((values.host.get("role"), values.guest.unwrap_err()), (Some("back"), "VM web is off".to_owned()));
}
