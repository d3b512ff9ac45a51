//! The example in Python, as it stands, against a real agent: any language that has gRPC can register a writer.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Agent, Disks, Host};
use stillpoint_proto::guest::v1 as pb;
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(8);

struct Shop(Child);

impl Shop {
    fn start(agent: &Agent, orders: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let child = Command::new(python())
            .arg(source.join("examples/python/shop_writer.py"))
            .arg("--proto")
            .arg(source.join("../proto"))
            .arg("--socket")
            .arg(&agent.writers)
            .arg("--file")
            .arg(orders)
            .stdin(Stdio::null())
            .stdout(fs::File::create(orders.with_extension("said")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `cargo verify` installs what the example needs; without it this says so.
fn python() -> PathBuf {
    let given = std::env::var_os("STILLPOINT_PYTHON").map(PathBuf::from);
    let beside =
        Path::new(env!("CARGO_BIN_EXE_stillpoint-agent")).ancestors().nth(2).unwrap().join("python/bin/python");
    let python = given.unwrap_or(beside);
    assert!(
        python.exists(),
        "{} is missing: `cargo verify python` installs grpcio and grpcio-tools there, or name a Python that has them \
         in STILLPOINT_PYTHON",
        python.display()
    );
    python
}

async fn registered(host: &mut Host) -> pb::Writer {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(shop) = host.hello().await.writers.into_iter().find(|writer| writer.name == "Shop") {
            return shop;
        }
        assert!(Instant::now() < until, "the shop never registers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn count(orders: &Path) -> usize {
    fs::read_to_string(orders).unwrap_or_default().lines().count()
}

async fn takes_orders(orders: &Path) {
    let (before, until) = (count(orders), Instant::now() + Duration::from_secs(30));
    while count(orders) <= before {
        assert!(Instant::now() < until, "no more orders");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_writer_in_python_is_held_keeps_its_words_and_goes_on_whatever_becomes_of_the_agent() {
    let disks = Disks::one();
    let mut agent = Agent::start(&disks);
    let mut host = agent.host().await;
    // Beside the frozen file system: that it takes no orders is then its own doing.
    let orders = agent.folder().join("orders");
    let _shop = Shop::start(&agent, &orders);
    registered(&mut host).await;
    takes_orders(&orders).await;

    let (mut session, frozen) = host.frozen(LEASE).await;
    assert_eq!(frozen.writers[0].result(), pb::WriterResult::Held);
    let held = count(&orders);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(count(&orders), held);
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    let settled = session.settle().await;
    assert_eq!(settled.writers[0].facts.clone().unwrap().metadata["orders"], held.to_string());
    session.complete().await;
    takes_orders(&orders).await;
    drop(session);

    let writer = pb::RestoredWriter {
        name: "Shop".into(),
        writer_id: settled.writers[0].facts.clone().unwrap().writer_id,
        was_held: true,
        metadata: settled.writers[0].facts.clone().unwrap().metadata,
    };
    host.restored("01a20587-6f24-7373-9962-30e9a370664e", true, vec![writer]).await.unwrap();
    let (wanted, until) = (format!("restored to order {held}"), Instant::now() + Duration::from_secs(30));
    while !fs::read_to_string(orders.with_extension("said")).unwrap().lines().any(|line| line == wanted) {
        assert!(Instant::now() < until, "the shop was never told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let (_session, _) = host.frozen(LEASE).await;
    agent.kill();
    takes_orders(&orders).await;
    agent.start_again(&disks);
    registered(&mut agent.host().await).await;
}
