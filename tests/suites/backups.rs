//! Backup sessions on the simulated world: what they leave, and that nothing of them stays.

use std::{collections::BTreeSet, time::Duration};

use stillpoint_common::{
    AskedConsistency, Backup, BackupId, BackupState, BackupType, CheckpointId, CheckpointPolicy, CheckpointState,
    Consistency, Failure, FallbackReason, OperationState, Reason, ReferencePointId, WritersTold,
};
use stillpoint_engine::{ChangedFrom, ChangedRequest, CheckpointChange, CheckpointView, NewBackup, Request};
use stillpoint_sim::{AgentScript, Call, Fault, FaultPlan, FreezeScript, WriterScript};
use stillpoint_tests::sim_host::{SimHost, disk};

const BLOCK: u64 = 64 << 10;
const LEASE: Duration = Duration::from_secs(60);

fn asked(wanted: Consistency, least: Consistency) -> NewBackup {
    NewBackup {
        backup_type: BackupType::Full,
        asked: AskedConsistency { wanted, least },
        lease: LEASE,
        from_point: None,
        creator: Some(1000),
    }
}

fn usual() -> NewBackup {
    asked(Consistency::Application, Consistency::FileSystem)
}

/// A VM that runs, whose guest has a writer.
async fn with_writer() -> SimHost {
    let host = SimHost::running().await;
    host.world.script_guest(&host.vm(), |script| *script = script.clone().writer("db", WriterScript::Holds));
    host
}

/// Begins a session, and waits for the end of the operation that makes its checkpoint.
async fn begin(host: &SimHost, new: NewBackup) -> Result<Backup, Failure> {
    let begun = host.engine.start_backup(&host.vm(), new, None).await?;
    assert_eq!((begun.checkpoint, &begun.state), (None, &BackupState::Starting));
    let operation = host.engine.operation(begun.operation).await?;
    let made = host.end_of(&operation).await;
    made?;
    host.engine.backup(&host.vm(), begun.id).await
}

async fn look(host: &SimHost, id: BackupId) -> Backup {
    host.engine.backup(&host.vm(), id).await.expect("it is known")
}

async fn complete(host: &SimHost, id: BackupId) -> Result<Backup, Failure> {
    let ended = host.engine.complete_backup(&host.vm(), id, false).await;
    host.quiet().await;
    ended
}

async fn abort(host: &SimHost, id: BackupId) -> Result<Backup, Failure> {
    let ended = host.engine.abort_backup(&host.vm(), id).await;
    host.quiet().await;
    ended
}

async fn points(host: &SimHost) -> Vec<ReferencePointId> {
    host.engine
        .reference_points(&host.vm())
        .await
        .expect("they are known")
        .into_iter()
        .map(|view| view.point.id)
        .collect()
}

async fn changed(host: &SimHost, from: ReferencePointId, to: CheckpointId) -> BTreeSet<u64> {
    let from = ChangedFrom::Point(from);
    let asked = ChangedRequest { vm: host.vm(), disk: disk("data"), from, to, bytes: 0..u64::MAX };
    let (mut reader, mut blocks) = (host.engine.changed(asked).await.expect("it is told"), BTreeSet::new());
    while let Some(part) = reader.next().await.expect("it is told") {
        blocks.extend(part.ranges.into_iter().flat_map(|range| range.start / BLOCK..range.end / BLOCK));
    }
    blocks
}

/// Nothing is left of any session: no checkpoint, and no layer beside those that a point keeps apart.
async fn nothing_is_left(host: &SimHost) {
    host.quiet().await;
    assert_eq!(host.checkpoints().await.len(), 0, "a checkpoint lingers");
    let layers = host.engine.layer_files(&host.vm()).await.expect("they are known").len();
    let points = points(host).await;
    assert!(layers == if points.is_empty() { 2 } else { 4 }, "{layers} layers with the points {points:?}");
    assert_eq!(host.world.endpoints(), 0, "a disk is still served");
    host.assert_clean().await;
}

fn why(backup: &Backup) -> &str {
    let BackupState::Aborted { why } = &backup.state else { panic!("{backup:?} is not aborted") };
    why
}

#[tokio::test(start_paused = true)]
async fn a_round_of_backups_tells_writers_only_when_the_data_is_safe_and_leaves_nothing_but_a_point() {
    let host = with_writer().await;
    host.world.set_faults(FaultPlan::none());
    let first = begin(&host, usual()).await.unwrap();
    assert_eq!(first.state, BackupState::Open);
    let told = |call| host.world.calls().iter().filter(|made| **made == call).count();
    assert_eq!((told(Call::Settle), told(Call::Complete), told(Call::Finish)), (1, 0, 0), "nobody's data is safe yet");
    let made = host.checkpoint(first.checkpoint.unwrap()).await.checkpoint;
    assert_eq!((made.consistency, made.backup_type), (Consistency::Application, BackupType::Full));
    assert_eq!((made.remarks.backup, made.remarks.creator), (Some(first.id), Some(1000)));
    host.write(5, 1);
    let completed = complete(&host, first.id).await.unwrap();
    let BackupState::Completed { point, writers } = completed.state.clone() else { panic!("{completed:?}") };
    assert_eq!((writers, told(Call::Complete), told(Call::Finish)), (WritersTold::Told, 1, 1));
    assert_eq!(points(&host).await, [point]);
    nothing_is_left(&host).await;
    assert_eq!(complete(&host, first.id).await.unwrap(), completed, "once more, and nothing is done");
    assert_eq!((told(Call::Complete), points(&host).await), (1, vec![point]));
    assert_eq!(abort(&host, first.id).await.unwrap_err().reason, Reason::BackupEnded);
    let second = begin(&host, NewBackup { from_point: Some(point), ..usual() }).await.unwrap();
    assert_eq!(changed(&host, point, second.checkpoint.unwrap()).await, [5].into());
    let replaced = host.engine.complete_backup(&host.vm(), second.id, true).await.unwrap();
    let BackupState::Completed { point: next, .. } = replaced.state else { panic!("{replaced:?}") };
    assert_eq!(points(&host).await, [next], "the old one has gone with it");
    nothing_is_left(&host).await;
    assert_eq!(host.engine.backups(&host.vm()).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_end_whose_write_is_said_to_have_failed_counts_as_what_has_become_of_it() {
    let host = with_writer().await;
    for (fault, done) in [(Fault::FailAfter, true), (Fault::FailBefore, false), (Fault::HangAfter, true)] {
        let backup = begin(&host, usual()).await.unwrap();
        let before = points(&host).await.len();
        host.world.set_faults(FaultPlan::none().at(Call::Commit, 1, fault));
        let ended = complete(&host, backup.id).await;
        host.world.set_faults(FaultPlan::none());
        assert_eq!(ended.is_ok(), done, "{fault:?}: {ended:?}");
        let completed = if done { ended } else { complete(&host, backup.id).await }.unwrap();
        let told = matches!(completed.state, BackupState::Completed { writers: WritersTold::Told, .. });
        assert!(told, "{fault:?}: {completed:?}");
        assert_eq!(points(&host).await.len(), before + 1, "{fault:?}");
        nothing_is_left(&host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn its_checkpoint_is_not_among_those_of_people_who_can_do_what_they_did_before() {
    let host = SimHost::running().await;
    let root = host.create(CheckpointPolicy::Production).await.unwrap().id;
    host.write(2, 1);
    let backup = begin(&host, usual()).await.unwrap();
    let hidden = backup.checkpoint.unwrap();
    host.write(2, 2);
    let after = host.create(CheckpointPolicy::Production).await.unwrap().id;
    let shown = host.engine.shown_checkpoints(&host.vm()).await.unwrap();
    let shown: Vec<_> = shown.iter().map(|view| (view.checkpoint.id, view.checkpoint.parent)).collect();
    assert_eq!(shown, [(root, None), (after, Some(root))]);
    assert_eq!(host.checkpoint(after).await.checkpoint.parent, Some(hidden), "which is where it is");
    for request in [
        Request::Apply(hidden.into()),
        Request::DeleteCheckpoint(hidden),
        Request::DeleteSubtree(hidden),
        Request::DeleteCheckpoints([after, hidden].into()),
    ] {
        assert_eq!(host.run(request.clone()).await.unwrap_err().reason, Reason::BackupOpen, "{request:?}");
    }
    let name = CheckpointChange { name: Some("mine".parse().unwrap()), ..CheckpointChange::default() };
    let renamed = host.engine.update_checkpoint(&host.vm(), hidden, name).await.unwrap_err();
    assert_eq!(renamed.reason, Reason::BackupOpen);
    let second = host.engine.start_backup(&host.vm(), usual(), None).await.unwrap_err();
    assert_eq!(second.reason, Reason::BackupOpen, "{second}");
    host.run(Request::DeleteSubtree(root)).await.unwrap();
    assert_eq!(host.checkpoints().await.iter().map(|view| view.checkpoint.id).collect::<Vec<_>>(), [hidden]);
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().parent, None, "Now is nobody's child, as people are shown");
    let content = host.content(&host.checkpoint(hidden).await);
    assert_eq!(content[&disk("data")].get(&2), Some(&1), "it reads as it was");
    host.turn_off().await;
    let deleted = host.engine.delete_vm(&host.vm()).await.unwrap_err();
    assert_eq!(deleted.reason, Reason::BackupOpen, "{deleted}");
    abort(&host, backup.id).await.unwrap();
    nothing_is_left(&host).await;
    host.engine.delete_vm(&host.vm()).await.unwrap();
    let left: Vec<_> = host.world.records().into_keys().filter(|key| key.starts_with("backup/")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_reverted_while_a_backup_reads_to_the_checkpoint_that_people_know() {
    let host = SimHost::running().await;
    host.write(2, 1);
    let mine = host.create(CheckpointPolicy::Standard).await.unwrap().id;
    host.write(2, 2);
    let backup = begin(&host, usual()).await.unwrap();
    host.write(2, 3);
    host.run(Request::Revert).await.unwrap();
    assert_eq!(host.read(2), 1, "not to the one of the backup");
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().parent, Some(mine));
    let view = host.checkpoint(backup.checkpoint.unwrap()).await;
    assert_eq!(host.content(&view)[&disk("data")].get(&2), Some(&2), "the backup reads what it began with");
    let completed = complete(&host, backup.id).await.unwrap();
    assert!(matches!(completed.state, BackupState::Completed { .. }));
    assert_eq!(host.checkpoints().await.len(), 1);
    host.assert_clean().await;
    // There is nothing to go back to but one of a backup.
    host.run(Request::DeleteCheckpoint(mine)).await.unwrap();
    begin(&host, usual()).await.unwrap();
    assert_eq!(host.run(Request::Revert).await.unwrap_err().reason, Reason::NoCheckpoint);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_for_longer_than_its_lease_has_no_session_any_more() {
    let mut host = with_writer().await;
    let backup = begin(&host, usual()).await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(LEASE * 9 / 10).await;
        host.engine.renew_backup(&host.vm(), backup.id).await.unwrap();
    }
    assert_eq!(look(&host, backup.id).await.state, BackupState::Open, "it is renewed");
    host.world.set_faults(FaultPlan::none());
    tokio::time::sleep(LEASE + LEASE / 8).await;
    assert!(why(&look(&host, backup.id).await).contains("lapsed"));
    let calls = host.world.calls();
    assert!(calls.contains(&Call::Finish) && !calls.contains(&Call::Complete), "writers hear of it: {calls:?}");
    nothing_is_left(&host).await;
    for refused in [host.engine.renew_backup(&host.vm(), backup.id).await, complete(&host, backup.id).await] {
        assert_eq!(refused.unwrap_err().reason, Reason::BackupEnded);
    }
    assert!(points(&host).await.is_empty());
    // The service is not there when the lease ends.
    let backup = begin(&host, usual()).await.unwrap();
    host.world.crash();
    tokio::time::sleep(LEASE * 2).await;
    host.restart().await;
    host.quiet().await;
    assert!(why(&look(&host, backup.id).await).contains("lapsed"));
    nothing_is_left(&host).await;
    // It is back before.
    let backup = begin(&host, usual()).await.unwrap();
    host.world.crash();
    tokio::time::sleep(LEASE / 2).await;
    host.restart().await;
    host.quiet().await;
    assert_eq!(look(&host, backup.id).await.state, BackupState::Open, "its client may go on");
    tokio::time::sleep(LEASE / 2 + LEASE / 8).await;
    assert!(why(&look(&host, backup.id).await).contains("lapsed"));
    nothing_is_left(&host).await;
}

#[tokio::test(start_paused = true)]
async fn less_than_the_least_that_was_asked_for_is_no_backup() {
    use Consistency::{Application, Crash, FileSystem, Offline};
    let host = SimHost::running().await;
    let refused = begin(&host, asked(Application, Application)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ConsistencyTooLow, "there is no writer: {refused}");
    let known = host.engine.backups(&host.vm()).await.unwrap();
    assert!(why(&known[0]).contains("FILE_SYSTEM"), "{known:?}");
    nothing_is_left(&host).await;
    host.world.script_guest(&host.vm(), |script| script.freeze = FreezeScript::Refused);
    let refused = begin(&host, asked(Application, FileSystem)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::QuiesceFailed, "{refused}");
    nothing_is_left(&host).await;
    let backup = begin(&host, asked(Application, Crash)).await.unwrap();
    let made = host.checkpoint(backup.checkpoint.unwrap()).await.checkpoint;
    assert_eq!((made.consistency, made.fallback), (Crash, Some(FallbackReason::FileSystemRefused)));
    assert_eq!((made.memory, made.backup_type), (None, BackupType::Copy), "no memory, and nobody's history is touched");
    abort(&host, backup.id).await.unwrap();
    host.world.set_faults(FaultPlan::none());
    let backup = begin(&host, asked(Crash, Crash)).await.unwrap();
    let made = host.checkpoint(backup.checkpoint.unwrap()).await.checkpoint;
    assert_eq!((made.consistency, made.fallback), (Crash, None));
    assert!(!host.world.calls().contains(&Call::Prepare), "the guest is not asked");
    assert!(!host.world.calls().contains(&Call::Pause), "and not paused");
    let completed = complete(&host, backup.id).await.unwrap();
    assert!(matches!(completed.state, BackupState::Completed { writers: WritersTold::None, .. }), "{completed:?}");
    host.turn_off().await;
    let backup = begin(&host, asked(Application, Application)).await.unwrap();
    let made = host.checkpoint(backup.checkpoint.unwrap()).await.checkpoint;
    assert_eq!(made.consistency, Offline, "nothing is missing on the disks of a VM that is off");
    complete(&host, backup.id).await.unwrap();
    nothing_is_left(&host).await;
}

#[tokio::test(start_paused = true)]
async fn writers_that_cannot_be_told_do_not_keep_a_backup_from_being_completed() {
    let host = with_writer().await;
    let backup = begin(&host, usual()).await.unwrap();
    host.world.script_guest(&host.vm(), |script| script.agent = AgentScript::Absent);
    let completed = complete(&host, backup.id).await.unwrap();
    let BackupState::Completed { writers: WritersTold::NotTold { why }, .. } = &completed.state else {
        panic!("{completed:?}")
    };
    assert!(why.contains("channel"), "{why}");
    assert_eq!(look(&host, backup.id).await, completed, "and this is kept");
    nothing_is_left(&host).await;
    // The service dies after the session is completed, and before the writers are told.
    let host = with_writer().await;
    let backup = begin(&host, usual()).await.unwrap();
    host.world.set_latency(Call::Complete, Duration::from_secs(3600));
    let mut host = host;
    tokio::select! {
        ended = complete(&host, backup.id) => panic!("{ended:?}"),
        () = tokio::time::sleep(Duration::from_secs(30)) => {}
    }
    host.restart().await;
    host.quiet().await;
    let known = look(&host, backup.id).await;
    assert!(
        matches!(&known.state, BackupState::Completed { writers: WritersTold::NotTold { .. }, .. }),
        "it is completed, and says what it does not know: {known:?}"
    );
    nothing_is_left(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_again_begins_one_session_and_a_busy_vm_says_so() {
    let host = SimHost::running().await;
    let once = Some("once".to_owned());
    host.world.set_latency(Call::CreateOverlay, Duration::from_secs(10));
    let begun = host.engine.start_backup(&host.vm(), usual(), once.clone()).await.unwrap();
    assert_eq!(host.engine.start_backup(&host.vm(), usual(), once.clone()).await.unwrap(), begun);
    let other = NewBackup { backup_type: BackupType::Log, ..usual() };
    let reused = host.engine.start_backup(&host.vm(), other, once).await.unwrap_err();
    assert_eq!(reused.reason, Reason::RequestIdReused);
    assert_eq!(complete(&host, begun.id).await.unwrap_err().reason, Reason::VmBusy, "its checkpoint is not made yet");
    assert_eq!(look(&host, begun.id).await.state, BackupState::Open);
    let busy = host.engine.submit(&host.vm(), Request::Pause, None).await.unwrap();
    host.end_of(&busy).await.unwrap();
    host.run(Request::Resume).await.unwrap();
    let create = Request::CreateCheckpoint(stillpoint_engine::NewCheckpoint::default());
    let busy = host.engine.submit(&host.vm(), create, None).await.unwrap();
    let refused = host.engine.complete_backup(&host.vm(), begun.id, false).await.unwrap_err();
    assert_eq!(refused.reason, Reason::VmBusy, "{refused}");
    host.engine.renew_backup(&host.vm(), begun.id).await.expect("a lease is renewed all the same");
    host.end_of(&busy).await.unwrap();
    complete(&host, begun.id).await.unwrap();
    // One that is given up while its checkpoint is made.
    let begun = host.engine.start_backup(&host.vm(), usual(), None).await.unwrap();
    assert_eq!(why(&abort(&host, begun.id).await.unwrap()), "cancelled");
    assert_eq!(why(&abort(&host, begun.id).await.unwrap()), "cancelled", "and once more");
    assert_eq!(host.checkpoints().await.len(), 1);
    host.assert_clean().await;
    let unknown = abort(&host, BackupId::generate()).await.unwrap_err();
    assert_eq!(unknown.reason, Reason::BackupNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_whose_session_nobody_knows_any_more_goes_by_itself() {
    let mut host = SimHost::running().await;
    let backup = begin(&host, usual()).await.unwrap();
    host.write(3, 1);
    host.world.lose_store();
    host.restart().await;
    let rebuilt = host.engine.rebuild(&[]).await.unwrap();
    assert_eq!(rebuilt.taken.len(), 1, "{rebuilt:?}");
    nothing_is_left(&host).await;
    assert_eq!(host.read(3), 1);
    let gone = host.engine.backup(&host.vm(), backup.id).await.unwrap_err();
    assert_eq!(gone.reason, Reason::BackupNotFound);
}

#[tokio::test(start_paused = true)]
async fn what_a_backup_reads_through_stays_as_it_is_and_is_served_no_longer_than_its_session() {
    let host = SimHost::running().await;
    let lower = host.create(CheckpointPolicy::Production).await.unwrap().id;
    host.write(2, 1);
    let backup = begin(&host, usual()).await.unwrap();
    let data = host.engine.open_disk(&host.vm(), backup.id, &disk("data")).await.unwrap();
    assert_eq!(host.engine.open_disk(&host.vm(), backup.id, &disk("data")).await.unwrap(), data);
    host.engine.open_disk(&host.vm(), backup.id, &disk("system")).await.unwrap();
    assert_eq!(host.world.endpoints(), 2);
    let unknown = host.engine.open_disk(&host.vm(), backup.id, &disk("other")).await.unwrap_err();
    assert_eq!((unknown.reason, unknown.field.as_deref()), (Reason::DiskNotFound, Some("disk")));
    let before = host.engine.layer_files(&host.vm()).await.unwrap();
    let doomed = stillpoint_engine::Doomed::These([lower].into());
    let preview = host.engine.preview_delete(&host.vm(), &doomed).await.unwrap();
    assert_eq!(preview.merges, [], "none can be done before the backup has ended");
    host.run(Request::DeleteCheckpoint(lower)).await.unwrap();
    assert_eq!(host.engine.layer_files(&host.vm()).await.unwrap(), before, "nothing moves below a reader");
    host.world.set_faults(FaultPlan::none());
    complete(&host, backup.id).await.unwrap();
    let calls = host.world.calls();
    let at = |call: Call| calls.iter().position(|made| *made == call).unwrap_or_else(|| panic!("{call}: {calls:?}"));
    assert!(at(Call::CloseEndpoints) < at(Call::Commit), "nobody reads any more when layers may change");
    nothing_is_left(&host).await;
    let over = host.engine.open_disk(&host.vm(), backup.id, &disk("data")).await.unwrap_err();
    assert_eq!(over.reason, Reason::BackupEnded);
    // It lapses, although it was read from.
    let backup = begin(&host, usual()).await.unwrap();
    tokio::time::sleep(LEASE * 9 / 10).await;
    host.engine.open_disk(&host.vm(), backup.id, &disk("data")).await.unwrap();
    tokio::time::sleep(LEASE * 9 / 10).await;
    assert_eq!((look(&host, backup.id).await.state, host.world.endpoints()), (BackupState::Open, 1), "it was renewed");
    tokio::time::sleep(LEASE).await;
    assert!(why(&look(&host, backup.id).await).contains("lapsed"));
    nothing_is_left(&host).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Start,
    Complete,
    Abort,
}

/// Does it; answers what the client was told.
async fn act(host: &SimHost, act: Act, id: Option<BackupId>) -> Result<Backup, Failure> {
    match (act, id) {
        (Act::Start, _) | (_, None) => begin(host, usual()).await,
        (Act::Complete, Some(id)) => complete(host, id).await,
        (Act::Abort, Some(id)) => abort(host, id).await,
    }
}

/// What must be true whatever has come in between; then the end of it all.
async fn check(host: &SimHost, act: Act, told: Option<Result<Backup, Failure>>, what: &str) {
    host.quiet().await;
    let known = host.engine.backups(&host.vm()).await.expect("they are known");
    // One that is gone may still have files, if these could not be removed.
    let ready = |view: &CheckpointView| view.checkpoint.state == CheckpointState::Ready;
    let there: Vec<_> = host.checkpoints().await.into_iter().filter(ready).collect();
    for view in &there {
        let of = view.checkpoint.remarks.backup.expect("there is no other");
        let open = known.iter().find(|known| known.id == of).is_some_and(|known| known.state == BackupState::Open);
        assert!(open, "{what}: checkpoint of {of} lingers: {known:?}");
    }
    for backup in &known {
        assert!(backup.state != BackupState::Starting, "{what}: nothing is at work on {backup:?}");
        let is_there = there.iter().any(|view| Some(view.checkpoint.id) == backup.checkpoint);
        assert_eq!(is_there, backup.state == BackupState::Open, "{what}: {backup:?}");
    }
    if let Some(Ok(told)) = told {
        let known = known.iter().find(|known| known.id == told.id).expect("who was told of it finds it");
        let same = std::mem::discriminant(&known.state) == std::mem::discriminant(&told.state);
        assert!(same, "{what}: {told:?} was told, and is {known:?}");
    }
    let completed = known.iter().filter(|known| matches!(known.state, BackupState::Completed { .. })).count();
    assert_eq!(points(host).await.len(), completed, "{what}: a point for each that is completed, and no other");
    host.world.assert_sound();
    if act == Act::Complete && completed == 0 {
        let done = complete(host, known[0].id).await;
        // It has lapsed if a call hung for that long.
        let over = done.as_ref().is_err_and(|failure| failure.reason == Reason::BackupEnded);
        assert!(done.is_ok() || over && what.contains("Hang"), "{what}: {done:?}");
    }
    // What is open lapses.
    tokio::time::sleep(LEASE * 2).await;
    nothing_is_left(host).await;
    assert_eq!(host.read(1), 1, "{what}");
}

/// A world in which that is to be done; a session that is open has just begun.
async fn before(what: Act) -> (SimHost, Option<BackupId>) {
    let host = with_writer().await;
    let id = match what {
        Act::Start => None,
        Act::Complete | Act::Abort => Some(begin(&host, usual()).await.expect("it can begin").id),
    };
    (host, id)
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_at_any_write_leaves_no_checkpoint_without_an_open_session() {
    for what in [Act::Start, Act::Complete, Act::Abort] {
        let mut cases = 0;
        for write in 1.. {
            let (mut host, id) = before(what).await;
            host.world.set_faults(FaultPlan::none().at_write(write, Fault::CrashAfter));
            let told = tokio::select! {
                told = act(&host, what, id) => Some(told),
                () = host.world.crashed() => None,
            };
            let died = told.is_none();
            // The recovery dies too, at every other write of it.
            for again in (1..=write % 3).filter(|_| died) {
                host.world.set_faults(FaultPlan::none().at_write(again, Fault::CrashAfter));
                host.restart().await;
                tokio::select! { () = host.quiet() => {}, () = host.world.crashed() => {} }
            }
            host.world.set_faults(FaultPlan::none());
            host.restart().await;
            check(&host, what, told, &format!("{what:?}, dead at write {write}")).await;
            if !died {
                break;
            }
            cases += 1;
        }
        println!("{what:?}: {cases} cases");
        assert!(cases >= if what == Act::Start { 4 } else { 3 }, "{what:?}: only {cases} cases");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_in_a_session_leaves_no_checkpoint_without_one() {
    for what in [Act::Start, Act::Complete, Act::Abort] {
        let (undisturbed, id) = before(what).await;
        undisturbed.world.set_faults(FaultPlan::none());
        act(&undisturbed, what, id).await.unwrap();
        let calls = undisturbed.world.calls();
        let mut cases = 0;
        for (at, call) in (1..).zip(calls) {
            for fault in [Fault::FailBefore, Fault::FailAfter, Fault::Hang] {
                if fault != Fault::FailBefore && !call.changes() {
                    continue;
                }
                let (host, id) = before(what).await;
                host.world.set_faults(FaultPlan::none().at_point(at, fault));
                let told = act(&host, what, id).await;
                host.world.set_faults(FaultPlan::none());
                check(&host, what, Some(told), &format!("{what:?}, {fault:?} at call {at} ({call})")).await;
                cases += 1;
            }
        }
        println!("{what:?}: {cases} cases");
        assert!(cases >= 10, "{what:?}: only {cases} cases");
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_ended_long_ago_are_forgotten() {
    let host = SimHost::running().await;
    let mut all = Vec::new();
    for _ in 0..18 {
        let backup = begin(&host, usual()).await.unwrap();
        abort(&host, backup.id).await.unwrap();
        all.push(backup.id);
    }
    let known: Vec<_> = host.engine.backups(&host.vm()).await.unwrap().iter().map(|backup| backup.id).collect();
    assert_eq!(known, all[2..]);
    let operations = host.engine.operations().await.unwrap();
    assert!(operations.iter().all(|operation| operation.state != OperationState::Running));
}
