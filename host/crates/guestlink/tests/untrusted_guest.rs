//! Guests that behave badly, played over the real transport: every one of them is an error in time, and the next
//! session works.

mod fake;

use std::{sync::Arc, time::Duration};

use fake::{FakeGuest, Script};
use stillpoint_common::{InstanceId, KeyValues, QuiesceRequest, SessionId, Thawed, WriterRequest};
use stillpoint_engine::ports::{GuestQuiesce as _, PowerAction, QuiesceError};
use stillpoint_guestlink::{GuestEvent, GuestLinks, Limits};
use stillpoint_proto::guest::v1 as pb;
use tokio::time::{Instant, timeout};

const QUICK: Limits = Limits {
    connect: Duration::from_millis(600),
    ask: Duration::from_millis(400),
    prepare: Duration::from_millis(400),
    write_out: Duration::from_millis(200),
    thaw: Duration::from_millis(400),
    settle: Duration::from_millis(400),
    clock_samples: 3,
};

struct Bench {
    guest: FakeGuest,
    links: Arc<GuestLinks>,
    instance: InstanceId,
}

impl Bench {
    fn new(script: Script) -> Self {
        let guest = FakeGuest::start(script);
        let socket = guest.socket.clone();
        let links = GuestLinks::new(QUICK, move |_| Some(socket.clone()));
        Self { guest, links, instance: InstanceId::generate() }
    }

    fn request() -> QuiesceRequest {
        let (session, lease) = (SessionId::generate(), Duration::from_secs(2));
        QuiesceRequest { session, lease, writers: WriterRequest { window: lease, ..WriterRequest::default() } }
    }

    /// Prepare, freeze, thaw.
    async fn round(&self) -> Result<Thawed, QuiesceError> {
        let request = Self::request();
        self.links.prepare(self.instance, &request).await?;
        self.links.freeze(self.instance, request.session).await?;
        self.links.thaw(self.instance, request.session).await
    }
}

#[tokio::test]
async fn a_good_guest_is_described_frozen_thawed_and_asked_again() {
    let bench = Bench::new(Script::default());
    let said = bench.links.describe(bench.instance).await.unwrap();
    assert_eq!((said.hostname.as_str(), said.file_systems.len()), ("fake", 1));
    let request = Bench::request();
    let prepared = bench.links.prepare(bench.instance, &request).await.unwrap();
    assert_eq!(prepared.file_systems.len(), 1);
    bench.links.freeze(bench.instance, request.session).await.unwrap();
    for _ in 0..2 {
        assert_eq!(bench.links.thaw(bench.instance, request.session).await.unwrap(), Thawed::HeldThroughout);
    }
    bench.links.finish(bench.instance, request.session).await.unwrap();
    bench.links.finish(bench.instance, request.session).await.unwrap();
    assert_eq!(bench.links.thaw(bench.instance, request.session).await.unwrap(), Thawed::Lapsed);
    bench.links.power(bench.instance, PowerAction::Reboot).await.unwrap();
    bench.links.forget(bench.instance).await;
    bench.round().await.unwrap();
}

#[tokio::test]
async fn a_guest_without_an_agent_is_unreachable_in_time() {
    let bench = Bench::new(Script { deaf: true, ..Script::default() });
    let began = Instant::now();
    let error = bench.links.describe(bench.instance).await.unwrap_err();
    assert!(
        matches!(&error, QuiesceError::Unreachable { why } if why.contains("nothing in the guest answered")),
        "{error}"
    );
    assert!(began.elapsed() < QUICK.connect + QUICK.ask + Duration::from_millis(300));
    let nowhere = GuestLinks::new(QUICK, |_| None);
    assert!(matches!(nowhere.describe(bench.instance).await, Err(QuiesceError::Unreachable { .. })));
    let gone = GuestLinks::new(QUICK, |_| Some("/nonexistent/agent".into()));
    let error = gone.describe(bench.instance).await.unwrap_err();
    assert!(matches!(&error, QuiesceError::Unreachable { why } if why.contains("No such file")), "{error}");
}

#[tokio::test]
async fn a_guest_that_hangs_is_an_error_that_names_the_call() {
    for (call, wanted) in [("start", "prepare"), ("freeze", "freeze"), ("thaw", "thaw")] {
        let bench = Bench::new(Script { hang_in: call, ..Script::default() });
        let began = Instant::now();
        let error = bench.round().await.unwrap_err();
        assert!(matches!(error, QuiesceError::Unanswered { call, .. } if call == wanted), "{call}: {error}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn an_agent_that_is_greeted_in_vain_is_unreachable_and_letting_go_of_it_takes_no_time() {
    let bench = Bench::new(Script { hang_in: "hello", ..Script::default() });
    let request = Bench::request();
    let error = bench.links.prepare(bench.instance, &request).await.unwrap_err();
    assert!(matches!(&error, QuiesceError::Unreachable { why } if why.contains("said nothing")), "{error}");
    let began = Instant::now();
    bench.links.finish(bench.instance, request.session).await.unwrap();
    assert_eq!(bench.links.thaw(bench.instance, request.session).await.unwrap(), Thawed::Lapsed);
    assert!(began.elapsed() < QUICK.ask / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_guest_that_dies_in_the_middle_is_a_lapse_and_the_next_session_works() {
    for call in ["freeze", "thaw"] {
        let bench = Bench::new(Script { die_in: call, ..Script::default() });
        let error = bench.round().await.unwrap_err();
        assert!(matches!(error, QuiesceError::Lapsed { .. }), "{call}: {error}");
        bench.guest.mend();
        assert_eq!(bench.round().await.unwrap(), Thawed::HeldThroughout);
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_anything_is_held_is_made_anew() {
    let bench = Bench::new(Script { die_in: "hello", ..Script::default() });
    assert_eq!(bench.round().await.unwrap(), Thawed::HeldThroughout);
}

#[tokio::test]
async fn a_call_dropped_in_the_middle_closes_the_stream() {
    let bench = Bench::new(Script { hang_in: "freeze", ..Script::default() });
    let request = Bench::request();
    bench.links.prepare(bench.instance, &request).await.unwrap();
    let dropped = timeout(Duration::from_millis(100), bench.links.freeze(bench.instance, request.session)).await;
    assert!(dropped.is_err());
    timeout(Duration::from_secs(2), bench.guest.stream_closed()).await.expect("the guest sees the end");
    let thaw = bench.links.thaw(bench.instance, request.session).await.unwrap();
    assert_eq!(thaw, Thawed::Lapsed);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_failures() {
    let frozen_nothing = Script { file_systems: Vec::new(), ..Script::default() };
    assert!(matches!(Bench::new(frozen_nothing).round().await, Err(QuiesceError::NothingToFreeze)));

    let old = Script { protocols: (0, 0), ..Script::default() };
    assert!(matches!(Bench::new(old).round().await, Err(QuiesceError::Incompatible { .. })));
    let new = Script { protocols: (2, 7), ..Script::default() };
    assert!(matches!(Bench::new(new).round().await, Err(QuiesceError::Incompatible { .. })));

    let many = vec![pb::FileSystem { detail: "x".repeat(4000), ..fake::file_system() }; 1000];
    let flood = Script { file_systems: many, ..Script::default() };
    let error = Bench::new(flood).round().await.unwrap_err();
    assert!(matches!(error, QuiesceError::Failed { .. } | QuiesceError::Unreachable { .. }), "{error}");

    let out_of_turn = Script { thaw_instead_of_freeze: true, ..Script::default() };
    let error = Bench::new(out_of_turn).round().await.unwrap_err();
    assert!(matches!(error, QuiesceError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn a_lapse_told_before_the_thaw_is_believed_whatever_the_thaw_says() {
    let bench = Bench::new(Script { lapse_first: true, ..Script::default() });
    assert_eq!(bench.round().await.unwrap(), Thawed::Lapsed);
}

#[tokio::test]
async fn the_clock_is_set_by_the_quickest_reading() {
    let bench = Bench::new(Script { behind: Duration::from_secs(64), ..Script::default() });
    let set = bench.links.set_clock(bench.instance).await.unwrap();
    assert!((set.was_off_by_ms + 64_000).abs() < 500, "{set:?}");
    assert!(set.uncertainty < Duration::from_millis(500));
}

#[tokio::test]
async fn the_watch_tells_beats_and_ends_with_the_guest() {
    let bench = Bench::new(Script::default());
    let mut watch = bench.links.link(bench.instance).unwrap().watch(Duration::from_millis(100)).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), GuestEvent::Inventory { .. }));
    assert!(matches!(watch.next().await.unwrap(), GuestEvent::Heartbeat { held: false, .. }));
    assert!(watch.next().await.is_err(), "beats that are missing are seen");
}

#[tokio::test]
async fn an_agent_that_is_older_is_told_from_one_that_speaks_another_protocol() {
    let beat = async |script: Script| {
        let bench = Bench::new(script);
        bench.links.beat(bench.instance).await
    };
    assert_eq!(beat(Script::default()).await.unwrap().values_revision, "[2J1-a", "nothing reaches a terminal");
    let older = beat(Script { older: true, ..Script::default() }).await.unwrap_err();
    assert!(matches!(older, QuiesceError::Unknown { .. }), "{older}");
    let other = beat(Script { protocols: (2, 3), ..Script::default() }).await.unwrap_err();
    assert!(matches!(other, QuiesceError::Incompatible { .. }), "{other}");
    let bench = Bench::new(Script { older: true, ..Script::default() });
    let unset = bench.links.set_values(bench.instance, &KeyValues::default()).await.unwrap_err();
    assert!(matches!(unset, QuiesceError::Unknown { .. }), "{unset}");
}

#[tokio::test]
async fn values_of_a_guest_that_keep_to_no_bounds_are_left_out() {
    let value = |key: &str, value: &str| pb::Value { key: key.into(), value: value.into() };
    let mut values =
        vec![value("state", "ready"), value("", "x"), value("bell\u{7}", "x"), value("long", &"v".repeat(4000))];
    values.extend((0..5000).map(|at| value(&format!("k{at}"), "v")));
    let bench = Bench::new(Script { values, ..Script::default() });
    let told = bench.links.values(bench.instance).await.unwrap();
    assert_eq!((told.set.get("state"), told.set.get("long")), (Some("ready"), None));
    assert!(told.set.iter().count() <= 128 && told.intrinsic.iter().count() <= 128);
}
