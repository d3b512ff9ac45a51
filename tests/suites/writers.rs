//! What writers do to checkpoints, on the simulator. The agent's side is shown in `guest-agent/tests/writers.rs`, the
//! whole on real guests in `guest_writers`.

use std::time::Duration;

use stillpoint_common::{
    BackupType, CheckpointPolicy, Consistency, FallbackReason, Kind, Reason, WriterPolicy, WriterRequest, WriterResult,
};
use stillpoint_engine::{ApplyRequest, Machine, NewCheckpoint, Request, StopMode};
use stillpoint_sim::{AgentScript, Call, Fault, FaultPlan, GuestScript, ScriptedWriter, WriterScript};
use stillpoint_tests::sim_host::SimHost;

async fn host_with(writers: &[ScriptedWriter]) -> SimHost {
    let host = SimHost::running().await;
    host.world.script_guest(&host.vm(), |guest| {
        *guest = GuestScript { writers: writers.to_vec(), ..guest.clone() };
    });
    host
}

fn willing(name: &str) -> ScriptedWriter {
    ScriptedWriter::willing(name)
}

fn troubled(step: &str, script: WriterScript) -> ScriptedWriter {
    let mut writer = willing("db");
    match step {
        "prepare" => writer.prepare = script,
        "freeze" => writer.freeze = script,
        _ => writer.settle = script,
    }
    writer
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_with_every_writer_held_is_application_consistent_and_keeps_their_words() {
    let host = host_with(&[willing("web"), willing("db")]).await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!((made.kind, made.consistency), (Kind::Production, Consistency::Application));
    let writers: Vec<_> = made.writers.iter().map(|writer| (writer.name.as_str(), writer.result)).collect();
    assert_eq!(writers, [("web", WriterResult::Held), ("db", WriterResult::Held)]);
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_refuses_or_is_silent_at_any_step_makes_it_a_standard_checkpoint_that_names_it() {
    let troubles =
        [(WriterScript::Refuses, FallbackReason::WriterRefused), (WriterScript::Hangs, FallbackReason::WriterTimedOut)];
    for step in ["prepare", "freeze", "settle"] {
        for (script, reason) in troubles {
            let host = host_with(&[willing("web"), troubled(step, script)]).await;
            let made = host.create(CheckpointPolicy::Production).await.unwrap();
            assert_eq!((made.kind, made.fallback), (Kind::Standard, Some(reason)), "{step} {script:?}");
            assert!(made.fallback_detail.contains("db"), "{}", made.fallback_detail);
            assert!(host.world.never_held_longer_than(Duration::from_secs(10)));
            host.write(2, 2);
            assert_eq!((host.read(1), host.read(2)), (1, 2), "{step} {script:?}");
            host.world.assert_sound();

            let failed = host.create(CheckpointPolicy::ProductionOnly).await.unwrap_err();
            assert_eq!(failed.reason, Reason::QuiesceFailed);
            assert!(failed.message.contains("db"), "{failed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_may_be_left_out_is_named_and_costs_the_label() {
    for step in ["prepare", "freeze", "settle"] {
        let mut host = host_with(&[willing("web"), troubled(step, WriterScript::Hangs)]).await;
        let writers = WriterRequest { policy: WriterPolicy::LeaveOut, ..WriterRequest::default() };
        host.restart_with(|config| config.writers = writers).await;
        let made = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
        assert_eq!((made.kind, made.consistency), (Kind::Production, Consistency::FileSystem), "{step}");
        let writers: Vec<_> = made.writers.iter().map(|writer| (writer.name.as_str(), writer.result)).collect();
        assert_eq!(writers, [("web", WriterResult::Held), ("db", WriterResult::LeftOut)], "{step}");
        assert!(made.writers[1].detail.contains("did not answer"), "{}", made.writers[1].detail);
    }
}

#[tokio::test(start_paused = true)]
async fn the_data_is_called_safe_only_once_the_checkpoint_is_published() {
    let host = host_with(&[willing("db")]).await;
    host.world.set_faults(FaultPlan::none());
    host.create(CheckpointPolicy::Production).await.unwrap();
    let calls = host.world.calls();
    let at = |wanted: Call| calls.iter().rposition(|call| *call == wanted).unwrap();
    let published = calls[..at(Call::Complete)].iter().rposition(|call| *call == Call::Commit).unwrap();
    assert!(at(Call::Thaw) < at(Call::Settle) && at(Call::Settle) < published, "{calls:?}");

    for call in [Call::SwitchHeads, Call::Thaw, Call::Settle] {
        host.world.set_faults(FaultPlan::none().at(call, 1, Fault::FailBefore));
        let made = host.create(CheckpointPolicy::ProductionOnly).await;
        assert!(made.is_err(), "{call:?}");
        let calls = host.world.calls();
        assert!(!calls.contains(&Call::Complete), "{call:?}: writers may cut nothing: {calls:?}");
        assert!(calls.contains(&Call::Finish), "{call:?}: and hear that it is over");
        host.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_cannot_be_told_afterwards_keeps_its_checkpoint() {
    for call in [Call::Complete, Call::Finish] {
        let host = host_with(&[willing("db")]).await;
        host.world.set_faults(FaultPlan::none().at(call, 1, Fault::FailBefore));
        let made = host.create(CheckpointPolicy::Production).await.unwrap();
        assert_eq!(made.consistency, Consistency::Application, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_told_of_its_restore_when_it_goes_on_or_when_it_has_booted_and_once() {
    let mut host = host_with(&[willing("db")]).await;
    host.restart_with(|config| config.heartbeat = Some(Duration::from_secs(10))).await;
    let quiet =
        NewCheckpoint { policy: Some(CheckpointPolicy::ProductionOnly), with_memory: true, ..NewCheckpoint::default() };
    host.run(Request::CreateCheckpoint(quiet)).await.unwrap();
    let made = host.checkpoints().await[0].checkpoint.clone();
    host.run(Request::Apply(made.id.into())).await.unwrap();
    let told = host.world.restores(&host.vm());
    assert_eq!(told.len(), 1, "at once: {told:?}");
    assert_eq!((told[0].checkpoint, told[0].with_memory), (made.id, true));
    let writers: Vec<_> = told[0].writers.iter().map(|writer| (writer.name.as_str(), writer.was_held)).collect();
    assert_eq!(writers, [("db", true)]);

    let without = ApplyRequest { machine: Machine::WithoutMemory, ..made.id.into() };
    host.run(Request::Apply(without)).await.unwrap();
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    host.run(Request::Start).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(host.world.restores(&host.vm()).len(), 1, "there is nobody to tell");
    host.restart_with(|config| config.heartbeat = Some(Duration::from_secs(10))).await;
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Answers);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let told = host.world.restores(&host.vm());
    assert_eq!((told.len(), told[1].with_memory), (2, false));
    host.world.set_faults(FaultPlan::none());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!host.world.calls().contains(&Call::Restored), "it is told once");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_a_copy_to_writers_unless_another_type_is_asked_for() {
    let host = host_with(&[willing("db")]).await;
    let asked = |policy, backup_type| {
        Request::CreateCheckpoint(NewCheckpoint { policy: Some(policy), backup_type, ..NewCheckpoint::default() })
    };
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.run(asked(CheckpointPolicy::ProductionOnly, BackupType::Incremental)).await.unwrap();
    let told = host.world.asked_of_writers(&host.vm()).into_iter().map(|asked| asked.backup_type);
    assert_eq!(told.collect::<Vec<_>>(), [BackupType::Copy, BackupType::Incremental]);
    let kept = host.checkpoints().await.into_iter().map(|made| made.checkpoint.backup_type);
    assert_eq!(kept.collect::<Vec<_>>(), [BackupType::Copy, BackupType::Incremental]);

    // Of the standard one that is made instead no writer hears that it is safe.
    host.world.script_guest(&host.vm(), |guest| guest.writers = vec![troubled("freeze", WriterScript::Refuses)]);
    host.run(asked(CheckpointPolicy::Production, BackupType::Full)).await.unwrap();
    let made = host.checkpoints().await.pop().unwrap().checkpoint;
    assert_eq!((made.kind, made.backup_type), (Kind::Standard, BackupType::Copy));
}

#[tokio::test(start_paused = true)]
async fn only_a_production_checkpoint_of_a_running_vm_is_more_than_a_copy() {
    let host = host_with(&[willing("db")]).await;
    let asked = |policy| {
        Request::CreateCheckpoint(NewCheckpoint {
            policy: Some(policy),
            backup_type: BackupType::Log,
            ..NewCheckpoint::default()
        })
    };
    let refused = host.run(asked(CheckpointPolicy::Standard)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::FieldInvalid);
    assert!(refused.message.contains("backup_type") && refused.message.contains("standard"), "{refused}");
    host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
    let refused = host.run(asked(CheckpointPolicy::ProductionOnly)).await.unwrap_err();
    assert!(refused.message.contains("backup_type") && refused.message.contains("does not run"), "{refused}");
    assert!(host.checkpoints().await.is_empty());
}
