//! Writers in Rust, through the library, against a real agent and real file systems.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Agent, Disks, Host, Session};
use stillpoint_agent::writers::{
    registration::{Ask, Done, Event, Failure, Registration},
    sdk::{Writer, run},
};
use stillpoint_common::{BackupType, WriterEvent, WriterLevel};
use stillpoint_proto::{
    guest::v1::{self as pb, quiesce_response::Step},
    writer::v1 as wpb,
};
use tokio::{task::JoinHandle, time::Instant};

const LEASE: Duration = Duration::from_secs(5);

/// What happened, in order: `db Freeze`, `cut`.
type Log = Arc<Mutex<Vec<String>>>;

/// What a writer does instead of what it is asked.
#[derive(Clone, Copy)]
enum Trick {
    Refuses(WriterEvent),
    Hangs(WriterEvent),
    Vanishes(WriterEvent),
}

struct Scripted {
    name: &'static str,
    log: Log,
    trick: Option<Trick>,
}

impl Writer for Scripted {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        let what = event.ask.event();
        self.log.lock().unwrap().push(format!("{} {what:?}", self.name));
        match self.trick {
            Some(Trick::Refuses(when)) if when == what => return Err(Failure::retryable("not now")),
            Some(Trick::Hangs(when)) if when == what => std::future::pending().await,
            Some(Trick::Vanishes(when)) if when == what => std::panic::resume_unwind(Box::new("no words")),
            Some(Trick::Refuses(_) | Trick::Hangs(_) | Trick::Vanishes(_)) | None => {}
        }
        if let Ask::PreRestore(from) | Ask::PostRestore(from) = &event.ask {
            let kept: Vec<_> = from.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let said = format!("{} {} {} {}", self.name, from.with_memory, from.was_held, kept.join(" "));
            self.log.lock().unwrap().push(said.trim_end().to_owned());
        }
        if let Ask::BackupComplete(backup) = &event.ask {
            return Ok(Done::keeping([("completed as", format!("{backup:?}"))]));
        }
        Ok(if what == WriterEvent::Freeze {
            Done::keeping([("position", "0/16B3748".to_owned())])
        } else {
            Done::default()
        })
    }
}

/// An agent with writers.
struct Lab {
    disks: Disks,
    agent: Agent,
    host: Host,
    log: Log,
    tasks: HashMap<&'static str, JoinHandle<()>>,
}

impl Lab {
    async fn new() -> Self {
        let disks = Disks::one();
        let agent = Agent::start(&disks);
        let host = agent.host().await;
        Self { disks, agent, host, log: Log::default(), tasks: HashMap::new() }
    }

    async fn writer(&mut self, name: &'static str, level: WriterLevel, trick: Option<Trick>) {
        let mut who = Registration::new(name, "5ea1ed00-0001-4000-8000-000000000001", level);
        who.budgets.freeze = Duration::from_millis(400);
        who.budgets.thaw = Duration::from_millis(400);
        who.budgets.finish = Duration::from_millis(400);
        who.backup_types = vec![BackupType::Log];
        let (socket, log) = (self.agent.writers.clone(), Arc::clone(&self.log));
        let task = tokio::spawn(async move { drop(run(&socket, who, Scripted { name, log, trick }).await) });
        self.tasks.insert(name, task);
        self.registered(name, true).await;
    }

    async fn registered(&mut self, name: &str, wanted: bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.host.hello().await.writers.iter().any(|writer| writer.name == name) != wanted {
            assert!(Instant::now() < until, "{name} is never registered = {wanted}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn start(&mut self, options: pb::QuiesceOptions) -> (Session, Step) {
        let mut session = self.host.open().await;
        session.start_with(LEASE, options).await;
        let answer = session.answer().await.unwrap().unwrap();
        (session, answer)
    }

    /// Starts and freezes; answers what came of it.
    async fn freeze(&mut self, options: pb::QuiesceOptions) -> (Session, Step) {
        let (mut session, prepared) = self.start(options).await;
        assert!(matches!(prepared, Step::Prepared(_)), "{prepared:?}");
        session.freeze().await;
        let answer = session.answer().await.unwrap().unwrap();
        (session, answer)
    }

    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(what.to_owned());
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Waits until this has happened.
    async fn happens(&self, what: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.log.lock().unwrap().iter().any(|line| line == what) {
            assert!(Instant::now() < until, "never: {what}; but {:?}", self.log.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn state_of(&mut self, name: &str) -> (wpb::WriterState, wpb::WriterError) {
        let writers = self.host.hello().await.writers;
        let facts = writers.into_iter().find(|writer| writer.name == name).unwrap().facts.unwrap();
        (facts.state(), facts.last_error())
    }
}

fn result_of(writers: &[pb::Writer], name: &str) -> pb::WriterResult {
    writers.iter().find(|writer| writer.name == name).unwrap().result()
}

#[tokio::test]
async fn writers_are_frozen_front_to_back_and_thawed_in_reverse_and_their_words_are_kept() {
    let mut lab = Lab::new().await;
    lab.writer("web", WriterLevel::FrontEnd, None).await;
    lab.writer("disk", WriterLevel::System, None).await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    let (mut session, frozen) = lab.freeze(pb::QuiesceOptions::default()).await;
    let Step::Frozen(frozen) = frozen else { panic!("{frozen:?}") };
    assert_eq!(result_of(&frozen.writers, "db"), pb::WriterResult::Held);
    assert_eq!(lab.state_of("db").await.0, wpb::WriterState::WaitingForThaw);
    lab.note("cut");
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
    let held: Vec<_> =
        lab.take_log().into_iter().filter(|line| !line.contains("Prepare") && !line.contains("Ident")).collect();
    assert_eq!(held, ["web Freeze", "db Freeze", "disk Freeze", "cut", "disk Thaw", "db Thaw", "web Thaw"]);

    let settled = session.settle().await;
    let kept = settled.writers.iter().map(|writer| writer.facts.clone().unwrap().metadata["position"].clone());
    assert_eq!(kept.collect::<Vec<_>>(), ["0/16B3748"; 3]);
    let completed = session.complete().await;
    assert_eq!(completed.writers[0].facts.clone().unwrap().metadata["completed as"], "Copy", "unless it is asked");
    drop(session);
    for name in ["web", "db", "disk"] {
        lab.happens(&format!("{name} BackupShutdown")).await;
    }
    assert!(!lab.take_log().iter().any(|line| line.contains("Abort")));
    assert_eq!(lab.state_of("db").await.0, wpb::WriterState::Stable);
}

#[tokio::test]
async fn a_type_of_backup_reaches_those_who_know_it() {
    let mut lab = Lab::new().await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    for (asked, understood) in [(wpb::BackupType::Log, "Log"), (wpb::BackupType::Incremental, "Full")] {
        let options = pb::QuiesceOptions { backup_type: asked.into(), ..Default::default() };
        let (mut session, _) = lab.freeze(options).await;
        session.thaw().await;
        session.settle().await;
        let completed = session.complete().await;
        assert_eq!(completed.writers[0].facts.clone().unwrap().metadata["completed as"], understood);
    }
}

#[tokio::test]
async fn a_writer_that_refuses_hangs_or_vanishes_fails_the_freeze_and_nobody_stays_held() {
    let cases = [
        (Trick::Refuses(WriterEvent::Freeze), pb::WriterResult::Refused),
        (Trick::Hangs(WriterEvent::Freeze), pb::WriterResult::TimedOut),
        (Trick::Vanishes(WriterEvent::Freeze), pb::WriterResult::Vanished),
    ];
    for (trick, wanted) in cases {
        let mut lab = Lab::new().await;
        lab.writer("web", WriterLevel::FrontEnd, None).await;
        lab.writer("db", WriterLevel::BackEnd, Some(trick)).await;
        lab.writer("disk", WriterLevel::System, None).await;
        let (session, answer) = lab.freeze(pb::QuiesceOptions::default()).await;
        let Step::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!(refused.reason(), pb::RefusedReason::Writer);
        assert!(refused.message.contains("db"), "{}", refused.message);
        assert_eq!(result_of(&refused.writers, "db"), wanted);
        assert!(!lab.disks.thaw(), "no file system was frozen");
        lab.happens("web Abort").await;
        let log = lab.take_log();
        assert!(!log.iter().any(|line| line == "disk Freeze"), "who comes later was not even asked: {log:?}");
        if wanted == pb::WriterResult::Refused {
            let failed = (wpb::WriterState::FailedAtFreeze, wpb::WriterError::Retryable);
            assert_eq!(lab.state_of("db").await, failed, "until a session goes well");
        }
        drop(session);
    }
}

#[tokio::test]
async fn a_writer_that_may_be_left_out_is_named_and_the_others_are_held() {
    let mut lab = Lab::new().await;
    lab.writer("web", WriterLevel::FrontEnd, Some(Trick::Hangs(WriterEvent::Freeze))).await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    let options = pb::QuiesceOptions { writer_policy: wpb::WriterPolicy::LeaveOut.into(), ..Default::default() };
    let (mut session, answer) = lab.freeze(options).await;
    let Step::Frozen(frozen) = answer else { panic!("{answer:?}") };
    assert_eq!(result_of(&frozen.writers, "web"), pb::WriterResult::LeftOut);
    assert_eq!(result_of(&frozen.writers, "db"), pb::WriterResult::Held);
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
}

#[tokio::test]
async fn a_writer_that_vanishes_while_it_is_held_flips_the_label() {
    let mut lab = Lab::new().await;
    lab.writer("web", WriterLevel::FrontEnd, None).await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    let (mut session, answer) = lab.freeze(pb::QuiesceOptions::default()).await;
    assert!(matches!(answer, Step::Frozen(_)), "{answer:?}");
    lab.tasks["db"].abort();
    lab.registered("db", false).await;
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::Lapsed);
    assert!(thawed.message.contains("db"), "{}", thawed.message);
    assert_eq!(result_of(&thawed.writers, "db"), pb::WriterResult::Vanished);
    assert_eq!(lab.take_log().last().map(String::as_str), Some("web Thaw"), "the other one goes on");
}

#[tokio::test]
async fn a_host_that_is_gone_or_silent_aborts_writers_that_are_held() {
    let mut lab = Lab::new().await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    let (session, _) = lab.freeze(pb::QuiesceOptions::default()).await;
    drop(session);
    lab.happens("db Abort").await;
    lab.happens("db BackupShutdown").await;
    lab.take_log();

    let mut session = lab.host.open().await;
    session.start(Duration::from_millis(300)).await;
    session.answer().await.unwrap();
    session.freeze().await;
    assert!(matches!(session.answer().await, Ok(Some(Step::Frozen(_)))));
    assert!(matches!(session.answer().await, Ok(Some(Step::Lapsed(_)))));
    lab.happens("db Abort").await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::Lapsed);
    assert_eq!(lab.state_of("db").await.0, wpb::WriterState::Stable);
}

#[tokio::test]
async fn a_writer_whose_agent_is_killed_lets_go_by_itself() {
    let mut lab = Lab::new().await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    let (_session, answer) = lab.freeze(pb::QuiesceOptions::default()).await;
    assert!(matches!(answer, Step::Frozen(_)), "{answer:?}");
    lab.agent.kill();
    lab.happens("db Abort").await;
    lab.agent.start_again(&lab.disks);
    lab.host = lab.agent.host().await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    let (mut session, _) = lab.freeze(pb::QuiesceOptions::default()).await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
}

#[tokio::test]
async fn a_thaw_refused_means_that_it_was_not_held_and_a_refused_settling_is_told() {
    let mut lab = Lab::new().await;
    lab.writer("db", WriterLevel::BackEnd, Some(Trick::Refuses(WriterEvent::Thaw))).await;
    let (mut session, _) = lab.freeze(pb::QuiesceOptions::default()).await;
    let thawed = session.thaw().await;
    assert_eq!(
        (thawed.outcome(), result_of(&thawed.writers, "db")),
        (pb::ThawOutcome::Lapsed, pb::WriterResult::Refused)
    );
    drop(session);

    let mut lab = Lab::new().await;
    lab.writer("db", WriterLevel::BackEnd, Some(Trick::Refuses(WriterEvent::PostSnapshot))).await;
    let (mut session, _) = lab.freeze(pb::QuiesceOptions::default()).await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    let settled = session.settle().await;
    assert_eq!(result_of(&settled.writers, "db"), pb::WriterResult::Refused);
    session.complete().await;
    assert!(!lab.take_log().iter().any(|line| line == "db BackupComplete"), "its data is not safe");
}

#[tokio::test]
async fn a_writer_that_refuses_to_prepare_ends_it_before_anything_is_held() {
    let mut lab = Lab::new().await;
    lab.writer("db", WriterLevel::BackEnd, Some(Trick::Refuses(WriterEvent::PrepareSnapshot))).await;
    let (_session, answer) = lab.start(pb::QuiesceOptions::default()).await;
    let Step::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.reason(), pb::RefusedReason::Writer);
}

const KIND: &str = "5ea1ed00-0001-4000-8000-000000000001";
const CHECKPOINT: &str = "01a20587-6f24-7373-9962-30e9a370664e";

fn was(name: &str, position: &str) -> pb::RestoredWriter {
    let metadata = [("position".to_owned(), position.to_owned())].into();
    pb::RestoredWriter { name: name.into(), writer_id: KIND.into(), was_held: true, metadata }
}

#[tokio::test]
async fn after_a_restore_every_writer_is_told_in_order_and_given_back_what_it_kept() {
    let mut lab = Lab::new().await;
    lab.writer("web", WriterLevel::FrontEnd, None).await;
    lab.writer("db", WriterLevel::BackEnd, None).await;
    lab.host.restored(CHECKPOINT, true, vec![was("db", "7"), was("late", "9")]).await.unwrap();
    lab.happens("web PostRestore").await;
    lab.happens("web true false").await;
    let told = lab.take_log();
    let order: Vec<_> = told.iter().filter(|line| line.ends_with("Restore")).collect();
    assert_eq!(order, ["web PreRestore", "db PreRestore", "db PostRestore", "web PostRestore"]);
    assert!(told.contains(&"db true true position=7".to_owned()), "{told:?}");
    lab.writer("late", WriterLevel::FrontEnd, None).await;
    lab.happens("late PostRestore").await;
    lab.happens("late true true position=9").await;
    lab.writer("new", WriterLevel::FrontEnd, None).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!lab.take_log().iter().any(|line| line.starts_with("new ")), "it knows of no past");
    assert_eq!(lab.state_of("db").await.0, wpb::WriterState::Stable);
}

#[tokio::test]
async fn a_writer_that_fails_at_a_restore_says_so_and_keeps_no_other_from_it() {
    let mut lab = Lab::new().await;
    lab.writer("web", WriterLevel::FrontEnd, Some(Trick::Refuses(WriterEvent::PreRestore))).await;
    lab.writer("db", WriterLevel::BackEnd, Some(Trick::Hangs(WriterEvent::PostRestore))).await;
    lab.writer("disk", WriterLevel::System, None).await;
    lab.host.restored(CHECKPOINT, false, Vec::new()).await.unwrap();
    lab.happens("disk PostRestore").await;
    let until = Instant::now() + Duration::from_secs(10);
    while lab.state_of("db").await.0 != wpb::WriterState::FailedAtPostRestore {
        assert!(Instant::now() < until, "{:?}", lab.state_of("db").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (failed, error) = lab.state_of("web").await;
    assert_eq!((failed, error), (wpb::WriterState::FailedAtPreRestore, wpb::WriterError::Retryable));
    assert!(!lab.take_log().iter().any(|line| line == "web PostRestore"));
    assert_eq!(lab.state_of("disk").await.0, wpb::WriterState::Stable);
    let many = (0..65).map(|at| was(&at.to_string(), "0")).collect();
    let refused = lab.host.restored(CHECKPOINT, false, many).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}
