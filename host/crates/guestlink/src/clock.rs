//! Setting the guest's clock.
//!
//! The clocks are read a few times; the quickest answer tells best what the time was at one reading of the guest's boot
//! clock. That pair is sent back, and the guest sets its clock by it: how long that last call takes does not matter.

use std::time::Duration;

use jiff::Timestamp;
use stillpoint_common::ClockSet;
use stillpoint_engine::ports::QuiesceError;
use stillpoint_proto::guest::v1::{ClockReference, SetClockRequest, guest_agent_client::GuestAgentClient};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{Limits, failure};

/// What one reading tells.
struct Sample {
    boot_time: prost_types::Duration,
    /// The host's time half-way between question and answer.
    time: Timestamp,
    half_round_trip: Duration,
}

pub(crate) async fn set(mut client: GuestAgentClient<Channel>, limits: &Limits) -> Result<ClockSet, QuiesceError> {
    let mut best = sample(&mut client, limits).await?;
    for _ in 1..limits.clock_samples {
        let other = sample(&mut client, limits).await?;
        if other.half_round_trip < best.half_round_trip {
            best = other;
        }
    }
    let reference = ClockReference {
        boot_time: Some(best.boot_time),
        time: Some(prost_types::Timestamp { seconds: best.time.as_second(), nanos: best.time.subsec_nanosecond() }),
        uncertainty: prost_types::Duration::try_from(best.half_round_trip).ok(),
    };
    let request = SetClockRequest { reference: Some(reference) };
    let answer = failure::within("set the clock", limits.ask, client.set_clock(request)).await?.into_inner();
    let was_off_by = answer.was_off_by.ok_or_else(nothing_said)?;
    let was_off_by_ms = was_off_by.seconds.saturating_mul(1000).saturating_add(i64::from(was_off_by.nanos) / 1_000_000);
    Ok(ClockSet { was_off_by_ms, uncertainty: best.half_round_trip })
}

async fn sample(client: &mut GuestAgentClient<Channel>, limits: &Limits) -> Result<Sample, QuiesceError> {
    let (asked, asked_at) = (Instant::now(), Timestamp::now());
    let read = client.set_clock(SetClockRequest { reference: None });
    let answer = failure::within("read the clock", limits.ask, read).await?.into_inner();
    let half_round_trip = asked.elapsed() / 2;
    let time = asked_at.checked_add(half_round_trip).unwrap_or(asked_at);
    Ok(Sample { boot_time: answer.boot_time.ok_or_else(nothing_said)?, time, half_round_trip })
}

fn nothing_said() -> QuiesceError {
    QuiesceError::Failed { message: "it does not say what its clocks show".to_owned() }
}
