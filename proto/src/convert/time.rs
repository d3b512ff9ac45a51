//! Points in time and durations.

use jiff::Timestamp;

/// A point in time as it travels.
#[must_use]
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // The wire wants nanoseconds that count forward, jiff gives both parts the same sign.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// A point in time that came; `None` if it is outside of what can be a date.
#[must_use]
pub fn parse_timestamp(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// A duration as it travels; one of more than 10,000 years is cut to that.
#[must_use]
pub fn duration(took: std::time::Duration) -> prost_types::Duration {
    const LONGEST: i64 = 315_576_000_000;
    let nanos = i32::try_from(took.subsec_nanos()).unwrap_or_default();
    match i64::try_from(took.as_secs()) {
        Ok(seconds) if seconds < LONGEST => prost_types::Duration { seconds, nanos },
        Ok(_) | Err(_) => prost_types::Duration { seconds: LONGEST, nanos: 0 },
    }
}

/// A duration that came; `None` if it is negative or not well formed.
#[must_use]
pub fn parse_duration(took: &prost_types::Duration) -> Option<std::time::Duration> {
    let nanos = u32::try_from(took.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(std::time::Duration::new(u64::try_from(took.seconds).ok()?, nanos))
}
