//! The event log, on the simulator. Over gRPC it is in `guest_events`, on a real guest in `guest_space`.

use std::time::Duration;

use stillpoint_common::{CheckpointPolicy, DiskFormat, Event, EventKind, EventToken, Reason};
use stillpoint_engine::{EventReader, EventsFrom, Request, VmChange};
use stillpoint_sim::{AgentScript, Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::SimHost;

use EventKind as K;

async fn reader(host: &SimHost, from: EventsFrom, follow: bool) -> EventReader {
    host.engine.events(from, None, follow).await.expect("the log can be read")
}

/// All that is remembered, oldest first.
async fn all(host: &SimHost) -> Vec<(EventToken, Event)> {
    rest(&mut reader(host, EventsFrom::Oldest, false).await).await
}

async fn rest(reader: &mut EventReader) -> Vec<(EventToken, Event)> {
    let mut found = vec![];
    while let Some(next) = reader.next().await.expect("the log can be read") {
        found.push(next);
    }
    found
}

fn kinds(events: &[(EventToken, Event)]) -> Vec<EventKind> {
    events.iter().map(|(_, event)| event.kind).collect()
}

/// Changes the VM so many times, each of which is an event.
async fn change(host: &SimHost, times: usize) {
    for _ in 0..times {
        let change = VmChange { checkpoint_policy: Some(CheckpointPolicy::Production), ..VmChange::default() };
        host.engine.update_vm(&host.vm(), change).await.expect("it is idle");
    }
}

#[tokio::test(start_paused = true)]
async fn each_thing_that_happens_is_told_once_in_order_with_what_it_is_about() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    let second = host.create(CheckpointPolicy::Production).await.unwrap();
    host.run(Request::Export { checkpoint: first.id, folder: "/exports/one".into(), format: DiskFormat::Raw })
        .await
        .unwrap();
    host.run(Request::Apply(second.id.into())).await.unwrap();
    host.run(Request::DeleteCheckpoint(first.id)).await.unwrap();
    host.run(Request::Pause).await.unwrap();
    host.run(Request::Resume).await.unwrap();
    host.create(CheckpointPolicy::ProductionOnly).await.unwrap_err();
    host.world.kill_instance(host.world.running(&host.vm()).unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;

    let events = all(&host).await;
    let wanted = [
        (K::VmDefined, None),
        (K::VmStarted, None),
        (K::CheckpointCreated, Some(first.id)),
        (K::CheckpointFellBack, Some(second.id)),
        (K::CheckpointExported, Some(first.id)),
        (K::CheckpointApplied, Some(second.id)),
        (K::CheckpointDeleted, Some(first.id)),
        (K::LayersMerged, Some(first.id)),
        (K::VmPaused, None),
        (K::VmResumed, None),
        (K::OperationFailed, None),
        (K::VmDied, None),
    ];
    let told: Vec<_> = events.iter().map(|(_, event)| (event.kind, event.checkpoint)).collect();
    for (at, (kind, checkpoint)) in wanted.iter().enumerate() {
        assert_eq!(told.get(at).map(|told| told.0), Some(*kind), "{at} of {told:?}");
        // A checkpoint that could not be made has an id too.
        assert!(*kind == K::OperationFailed || told[at].1 == *checkpoint, "{at} of {told:?}");
    }
    assert_eq!(events.len(), wanted.len());
    assert!(events.is_sorted_by_key(|(token, _)| *token) && events.iter().all(|(_, e)| e.vm == Some(host.vm())));
    let fell_back = &events[3].1;
    assert!(fell_back.text.contains("is a standard checkpoint") && fell_back.operation.is_some(), "{fell_back:?}");
    assert_eq!(events[10].1.reason, Some(Reason::QuiesceFailed));
}

#[tokio::test(start_paused = true)]
async fn who_comes_again_with_a_token_misses_nothing_and_sees_nothing_twice_also_over_a_restart() {
    let mut host = SimHost::running().await;
    let mut watch = reader(&host, EventsFrom::Now, true).await;
    change(&host, 3).await;
    let mut seen = vec![];
    for _ in 0..2 {
        seen.push(watch.next().await.unwrap().unwrap());
    }
    let last = seen[1].0;
    drop(watch);
    change(&host, 2).await;
    host.world.crash();
    host.restart().await;
    change(&host, 1).await;
    let again = rest(&mut reader(&host, EventsFrom::After(last), false).await).await;
    assert_eq!(kinds(&again), [K::VmChanged; 4]);
    let all = all(&host).await;
    assert_eq!(all[all.len() - 6..], [seen, again].concat());
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_woken_by_what_comes_and_can_be_of_one_vm() {
    let host = SimHost::new().await;
    let engine = host.engine.clone();
    let other = Some("other".parse().unwrap());
    let mut elsewhere = engine.events(EventsFrom::Oldest, other, true).await.unwrap();
    let mut watch = engine.events(EventsFrom::Now, Some(host.vm()), true).await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_secs(3600), watch.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    let next = tokio::spawn(async move { watch.next().await });
    host.run(Request::Start).await.unwrap();
    let (_, event) = next.await.unwrap().unwrap().unwrap();
    assert_eq!(event.kind, K::VmStarted);
    let nothing = tokio::time::timeout(Duration::from_secs(3600), elsewhere.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test(start_paused = true)]
async fn the_log_keeps_the_newest_and_says_so_to_who_asks_for_more_or_is_too_slow() {
    let mut host = SimHost::new().await;
    host.restart_with(|config| config.remembered_events = 300).await;
    let first = all(&host).await[0].0;
    let mut slow = reader(&host, EventsFrom::Oldest, true).await;
    slow.next().await.unwrap();
    change(&host, 1000).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = all(&host).await;
    assert!((300..400).contains(&kept.len()), "{}", kept.len());
    let newest = kept.last().unwrap().0;
    for mut late in [slow, reader(&host, EventsFrom::After(first), true).await] {
        let failure = late.next().await.unwrap_err();
        assert_eq!(failure.reason, Reason::EventsForgotten);
        assert!(failure.message.contains("have been forgotten"), "{failure}");
    }
    let middle = kept[150].0;
    assert_eq!(rest(&mut reader(&host, EventsFrom::After(middle), false).await).await, kept[151..]);
    host.restart_with(|config| config.remembered_events = 300).await;
    assert_eq!(all(&host).await, kept, "what is remembered outlives the service, what is forgotten stays so");
    let from_elsewhere = EventsFrom::After(EventToken { revision: newest.revision + 1, place: 0 });
    let refused = host.engine.events(from_elsewhere, None, true).await.err().unwrap();
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::FieldInvalid, Some("after")));
}

#[tokio::test(start_paused = true)]
async fn watchers_that_do_not_read_hold_up_nobody() {
    let host = SimHost::running().await;
    let mut watchers = vec![];
    for _ in 0..200 {
        watchers.push(reader(&host, EventsFrom::Now, true).await);
    }
    change(&host, 500).await;
    host.create(CheckpointPolicy::Standard).await.unwrap();
    for mut watcher in watchers {
        for _ in 0..500 {
            assert_eq!(watcher.next().await.unwrap().unwrap().1.kind, K::VmChanged);
        }
        assert_eq!(watcher.next().await.unwrap().unwrap().1.kind, K::CheckpointCreated);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_at_any_write_tells_of_each_checkpoint_once() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for write in 1.. {
            let mut host = SimHost::running().await;
            host.world.set_faults(FaultPlan::none().at(Call::Commit, write, fault));
            let made = tokio::select! {
                made = host.create(CheckpointPolicy::Production) => Some(made),
                () = host.world.crashed() => None,
            };
            if made.is_some() {
                assert!(write > 3, "a checkpoint takes several writes");
                break;
            }
            host.restart().await;
            change_when_idle(&host).await;
            let events = all(&host).await;
            let told = events.iter().filter(|(_, event)| event.kind == K::CheckpointCreated).count();
            assert_eq!(told, host.checkpoints().await.len(), "write {write}, {fault:?}: {:?}", kinds(&events));
        }
    }
}

/// Waits until the recovery is over.
async fn change_when_idle(host: &SimHost) {
    while host.engine.update_vm(&host.vm(), VmChange::default()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
