//! Every wait of the engine on a port ends.
//!
//! Adapters have deadlines of their own, which know what QEMU, a tool or a guest is at. The limits here are longer, and
//! end the wait on an adapter that keeps none: a call that hangs becomes an error like any other, and the plan goes on
//! from there. What grows with the amount of data is not limited as a whole, but by how long nothing moves.
//!
//! A call whose wait was ended may still have its effect later. Plans live with that, since they look before they act;
//! the one place where it matters more is the store: see `Catalogue::settled`.

mod descriptions;
mod endpoints;
mod exports;
#[cfg(feature = "fail-points")]
mod fail_point;
mod guest;
mod hypervisor;
mod images;
mod memory;
mod sources;
mod store;
mod tpm;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use stillpoint_common::Progress;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{Ports, config::PortLimits, ports::ProgressSink};

/// A port whose every call ends.
struct Bounded<P: ?Sized> {
    port: Arc<P>,
    limits: PortLimits,
}

impl<P: ?Sized> Bounded<P> {
    fn new(port: Arc<P>, limits: PortLimits) -> Arc<Self> {
        Arc::new(Self { port, limits })
    }
}

/// The same ports, with a limit for each wait on them.
pub(crate) fn bounded(ports: Ports, limits: PortLimits) -> Ports {
    Ports {
        hypervisor: Bounded::new(ports.hypervisor, limits),
        images: Bounded::new(ports.images, limits),
        memory: Bounded::new(ports.memory, limits),
        tpm: Bounded::new(ports.tpm, limits),
        descriptions: Bounded::new(ports.descriptions, limits),
        guest: Bounded::new(ports.guest, limits),
        endpoints: Bounded::new(ports.endpoints, limits),
        exports: Bounded::new(ports.exports, limits),
        sources: Bounded::new(ports.sources, limits),
        store: Bounded::new(ports.store, limits),
        clock: ports.clock,
    }
}

/// The answer, or the error of a call that did not end in time.
async fn within<T, E>(
    limit: Duration,
    late: impl FnOnce(Duration) -> E,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(late(limit)),
    }
}

/// The call of this name, as it is. With the feature `fail-points` tests may end the process before it or after it, or
/// have it wait there.
async fn named<T>(_name: &str, call: impl Future<Output = T>) -> T {
    #[cfg(feature = "fail-points")]
    fail_point::reach(_name, fail_point::Moment::Before).await;
    let answer = call.await;
    #[cfg(feature = "fail-points")]
    fail_point::reach(_name, fail_point::Moment::After).await;
    answer
}

/// Watches the progress that a call reports, on its way to who wants to know it.
struct Moving {
    sink: ProgressSink,
    seen: watch::Receiver<Progress>,
}

impl Moving {
    fn new(to: &ProgressSink) -> Self {
        let (report, seen) = watch::channel(Progress::default());
        let to = to.clone();
        let sink = Arc::new(move |progress: Progress| {
            report.send_if_modified(|known| std::mem::replace(known, progress) != progress);
            to(progress);
        });
        Self { sink, seen }
    }

    /// The answer, or the error of a call that reported nothing new for so long.
    async fn within<T, E>(
        mut seen: watch::Receiver<Progress>,
        stall: Duration,
        late: impl FnOnce(Duration) -> E,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut call = pin!(call);
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return answer,
                Ok(()) = seen.changed() => {}
                () = sleep(stall) => return Err(late(stall)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_ends_and_one_that_answers_in_time_is_left_alone() {
        let late = |limit| format!("late after {limit:?}");
        assert_eq!(within(MINUTE, late, async { Ok(7) }).await, Ok(7));
        assert_eq!(within::<(), _>(MINUTE, late, pending()).await, Err("late after 60s".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_call_may_go_on_as_long_as_something_moves() {
        let nobody: ProgressSink = Arc::new(|_| ());
        let moving = Moving::new(&nobody);
        let sink = moving.sink.clone();
        let call = async {
            for done in 1..=100 {
                sleep(MINUTE / 2).await;
                sink(Progress { done, total: 100 });
            }
            Ok::<_, ()>("done")
        };
        assert_eq!(Moving::within(moving.seen, MINUTE, |_| (), call).await, Ok("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_reports_the_same_again_and_again_does_not_move() {
        let nobody: ProgressSink = Arc::new(|_| ());
        let moving = Moving::new(&nobody);
        let (sink, since) = (moving.sink.clone(), Instant::now());
        let call = async {
            loop {
                sleep(MINUTE / 2).await;
                sink(Progress { done: 1, total: 100 });
            }
        };
        assert_eq!(Moving::within::<(), _>(moving.seen, MINUTE, |_| (), call).await, Err(()));
        assert_eq!(since.elapsed(), MINUTE + MINUTE / 2);
    }
}
