//! The agent in the test guest: it is there, and the tests can take it away in every way it can be lost.

use std::time::Duration;

use stillpoint_tests::bare::{BareOptions, BareQemu};
use stillpoint_tests::guest_image::GuestSet;
use stillpoint_tests::lab::LabChannel;

/// Waits in the guest until the agent runs under another process id than `before`.
async fn agent_after(lab: &LabChannel, before: &str) -> String {
    let wait = format!(
        "until p=$(agent pid 2> /dev/null) && [ -n \"$p\" ] && [ \"$p\" != '{before}' ]; do usleep 50000; done; echo $p"
    );
    lab.sh(&wait).await.expect("the guest answers")
}

#[tokio::test]
async fn the_agent_runs_comes_back_after_a_crash_and_stays_away_when_stopped() {
    let set = GuestSet::new().unwrap();
    let guest = BareQemu::boot(&set, BareOptions::default()).await.unwrap();
    let lab = guest.lab().await.unwrap();

    let first = agent_after(&lab, "").await;
    lab.sh("agent crash").await.unwrap();
    let second = agent_after(&lab, &first).await;
    for end in ["stop", "kill"] {
        lab.sh(&format!("agent {end}; while pidof stillpoint-agent; do usleep 50000; done")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(lab.sh("pidof stillpoint-agent || echo none").await.unwrap(), "none");
        lab.sh("agent start").await.unwrap();
        agent_after(&lab, &second).await;
    }
}

#[tokio::test]
async fn a_guest_can_be_booted_without_an_agent() {
    let set = GuestSet::new().unwrap();
    let options = BareOptions { append: "lab.agent=off".into(), ..BareOptions::default() };
    let guest = BareQemu::boot(&set, options).await.unwrap();
    let lab = guest.lab().await.unwrap();
    assert_eq!(lab.sh("sleep 1; pidof stillpoint-agent || echo none").await.unwrap(), "none");
}
