//! Advice and hazards, on the simulator.

use stillpoint_common::{
    CheckpointPolicy, Failure, HazardPolicy, Kind, ObservedService, OperationState, Reason, ServiceRole, SettingsChange,
};
use stillpoint_engine::{AdviceCode, Request, StopMode, VmChange};
use stillpoint_sim::{AgentScript, Call};
use stillpoint_tests::sim_host::SimHost;

/// A running VM in whose guest these services run.
async fn running(services: &[(&str, ServiceRole)]) -> SimHost {
    let host = SimHost::running().await;
    let service = |(name, role): &(&str, ServiceRole)| ObservedService {
        name: (*name).to_owned(),
        role: *role,
        evidence: format!("process {name}"),
    };
    host.world.script_guest(&host.vm(), |guest| guest.services = services.iter().map(service).collect());
    host
}

async fn set(host: &SimHost, hazards: HazardPolicy) {
    let settings = SettingsChange { hazards: Some(hazards), ..SettingsChange::default() };
    host.engine.update_vm(&host.vm(), VmChange { settings, ..VmChange::default() }).await.expect("it can be set");
}

/// The warnings of a request that ends well.
async fn warnings(host: &SimHost, request: Request) -> Result<Vec<String>, Failure> {
    let accepted = host.engine.submit(&host.vm(), request, None).await?;
    host.end_of(&accepted).await?;
    let ended = host.engine.operation(accepted.id).await?;
    assert_ne!(ended.state, OperationState::Running);
    Ok(ended.warnings)
}

#[tokio::test(start_paused = true)]
async fn a_database_without_a_writer_is_better_kept_with_its_memory() {
    let host = running(&[("postgresql", ServiceRole::Database)]).await;
    let advice = host.engine.advise(&host.vm()).await.unwrap();
    assert_eq!((advice.policy, advice.reasons[0].code), (CheckpointPolicy::Standard, AdviceCode::NoWriter));
    assert_eq!(advice.hazards, []);
    host.world.script_guest(&host.vm(), |guest| {
        *guest = guest.clone().writer("postgresql", stillpoint_sim::WriterScript::Holds);
    });
    let advice = host.engine.advise(&host.vm()).await.unwrap();
    assert_eq!((advice.policy, advice.reasons[0].code), (CheckpointPolicy::Production, AdviceCode::WritersPresent));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_silent_or_off_gets_an_advice_too() {
    let host = running(&[]).await;
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    let advice = host.engine.advise(&host.vm()).await.unwrap();
    assert_eq!((advice.policy, advice.reasons[0].code), (CheckpointPolicy::Standard, AdviceCode::GuestSilent));
    host.turn_off().await;
    let advice = host.engine.advise(&host.vm()).await.unwrap();
    assert_eq!(advice.reasons[0].code, AdviceCode::VmOff);
    let absent = host.engine.advise(&"mail".parse().unwrap()).await.unwrap_err();
    assert_eq!(absent.reason, Reason::VmNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_hazard_is_told_when_the_checkpoint_is_made_kept_with_it_and_told_again_before_it_is_applied() {
    for policy in [CheckpointPolicy::ProductionOnly, CheckpointPolicy::Standard] {
        let mut host = running(&[("etcd", ServiceRole::ClusterMember), ("postgresql", ServiceRole::Database)]).await;
        let made = host.create(policy).await.unwrap();
        assert_eq!(made.remarks.hazards.len(), 1);
        assert_eq!(made.remarks.hazards[0].service, "etcd");
        host.world.script_guest(&host.vm(), |guest| guest.services.clear());
        host.restart().await;
        let told = warnings(&host, Request::Apply(made.id.into())).await.unwrap();
        assert!(told.iter().any(|it| it.contains("etcd") && it.contains("voted for")), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_can_be_set_to_refuse_and_then_nothing_is_touched() {
    let host = running(&[("samba active directory", ServiceRole::DomainController)]).await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    set(&host, HazardPolicy::Refuse).await;
    let (files, running) = (host.world.files(), host.world.running(&host.vm()));
    let refused = host.create(CheckpointPolicy::Production).await.unwrap_err();
    assert_eq!(refused.reason, Reason::HazardRefused);
    assert!(refused.message.contains("samba active directory"), "{refused}");
    assert_eq!(host.run(Request::Apply(made.id.into())).await.unwrap_err().reason, Reason::HazardRefused);
    assert_eq!((host.world.files(), host.world.running(&host.vm())), (files, running));
    set(&host, HazardPolicy::Warn).await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_say_what_runs_in_its_guest_holds_nothing_up() {
    let host = running(&[("etcd", ServiceRole::ClusterMember)]).await;
    host.world.set_faults(stillpoint_sim::FaultPlan::none().every(Call::Describe, stillpoint_sim::Fault::Hang));
    let since = tokio::time::Instant::now();
    let made = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    assert_eq!((made.kind, made.remarks.hazards), (Kind::Production, vec![]));
    assert!(since.elapsed() < std::time::Duration::from_secs(4), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_off_shows_no_hazards() {
    let host = running(&[("etcd", ServiceRole::ClusterMember)]).await;
    host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
    assert_eq!(host.create(CheckpointPolicy::Production).await.unwrap().remarks.hazards, []);
}
