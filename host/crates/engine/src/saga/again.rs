//! Trying again.

use std::{fmt::Display, future::Future, time::Duration};

use tokio::time::sleep;

/// The wait after the first failure; each later one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(30);

/// The wait after so many failures.
pub(crate) fn wait_after(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST)
}

/// Tries at most so often. Answers the last error if none succeeded.
pub(crate) async fn up_to<T, E: Display, F: Future<Output = Result<T, E>>>(
    tries: u32,
    what: &str,
    mut act: impl FnMut() -> F,
) -> Result<T, E> {
    let mut failures = 0;
    loop {
        match act().await {
            Ok(done) => return Ok(done),
            Err(error) => {
                failures += 1;
                if failures >= tries {
                    return Err(error);
                }
                tracing::warn!(what, %error, failures, "will be tried again");
                sleep(wait_after(failures)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_half_a_minute() {
        let waits: Vec<_> = [1, 2, 3, 9, 10, 1000].map(wait_after).iter().map(Duration::as_millis).collect();
        assert_eq!(waits, [100, 200, 400, 25_600, 30_000, 30_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_as_often_as_is_said_and_no_more() {
        let mut tried = 0;
        let mut act = || {
            tried += 1;
            std::future::ready(if tried == 3 { Ok(tried) } else { Err("no") })
        };
        assert_eq!(up_to(2, "it", &mut act).await, Err("no"));
        assert_eq!(up_to(2, "it", &mut act).await, Ok(3));
    }
}
