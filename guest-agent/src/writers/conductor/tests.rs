use std::sync::Mutex;

use stillpoint_common::{WriterLevel, WriterPolicy, WriterResult};

use super::*;
use crate::writers::{local, sdk::Writer};

/// Answers after a while, and notes what it was asked.
struct Slow {
    after: Duration,
    asked: Arc<Mutex<Vec<WriterEvent>>>,
}

impl Writer for Slow {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        self.asked.lock().unwrap().push(event.ask.event());
        if event.ask.event() == WriterEvent::Freeze {
            tokio::time::sleep(self.after).await;
        }
        Ok(Done::default())
    }
}

type Asked = Arc<Mutex<Vec<WriterEvent>>>;

fn session(freeze: Duration, policy: WriterPolicy) -> (Writers, Asked) {
    let (registry, asked) = (Registry::default(), Asked::default());
    let mut who = Registration::new("db", "id", WriterLevel::BackEnd);
    who.budgets.freeze = Duration::from_secs(30);
    drop(local::attach(&registry, who, Slow { after: freeze, asked: Arc::clone(&asked) }));
    let request = WriterRequest { window: Duration::from_secs(20), policy, ..WriterRequest::default() };
    let (prepare, lease) = (Duration::from_secs(40), Duration::from_secs(10));
    let orders = Orders { session: SessionId::generate(), request, prepare, lease };
    (Writers::begin(registry, orders), asked)
}

#[tokio::test(start_paused = true)]
async fn writers_have_what_the_window_leaves_beside_the_lease() {
    let (writers, _) = session(Duration::from_secs(9), WriterPolicy::Required);
    assert!(writers.voice.step(Step::Prepare).await.go_on);
    assert!(writers.voice.step(Step::Freeze).await.go_on);

    let (writers, _) = session(Duration::from_secs(11), WriterPolicy::Required);
    assert!(writers.voice.step(Step::Prepare).await.go_on);
    let since = Instant::now();
    let report = writers.voice.step(Step::Freeze).await;
    assert_eq!((report.go_on, report.writers[0].result), (false, WriterResult::TimedOut));
    assert!(since.elapsed() < Duration::from_secs(13));
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_is_given_up_does_not_wait_for_the_writer_and_tells_it_to_undo() {
    let (writers, asked) = session(Duration::from_secs(9), WriterPolicy::Required);
    assert!(writers.voice.step(Step::Prepare).await.go_on);
    let voice = writers.voice.clone();
    let freeze = tokio::spawn(async move { voice.step(Step::Freeze).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let since = Instant::now();
    writers.give_up();
    let report = freeze.await.unwrap();
    assert!(report.given_up && !report.go_on);
    assert!(since.elapsed() < Duration::from_secs(3));
    writers.end().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked[3..], [WriterEvent::Freeze, WriterEvent::Abort, WriterEvent::BackupShutdown]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_left_out_is_told_to_undo_what_it_may_still_do() {
    let (writers, asked) = session(Duration::from_secs(15), WriterPolicy::LeaveOut);
    writers.voice.step(Step::Prepare).await;
    let report = writers.voice.step(Step::Freeze).await;
    assert_eq!((report.go_on, report.writers[0].result), (true, WriterResult::LeftOut));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(asked.lock().unwrap()[3..], [WriterEvent::Freeze, WriterEvent::Abort]);
}
