//! One process of the service, as the world sees it: its calls are counted, and end for ever when it dies.

use std::{future::pending, time::Duration};

use stillpoint_engine::ports::{
    DescriptionError, ExportError, HypervisorError, ImageError, MemoryError, QuiesceError, StoreError, TpmError,
};
use tokio::time::{Instant, sleep};

use crate::{Call, Fault, World, state::State};

/// The handle of one process on the world.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    world: World,
    number: u64,
}

/// A call under way.
pub(crate) struct Point<'p> {
    process: &'p Process,
    call: Call,
    fault: Option<Fault>,
    pub(crate) latency: Duration,
}

impl Process {
    pub(crate) fn new(world: World, number: u64) -> Self {
        Self { world, number }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// A whole call: `act` is its effect.
    pub(crate) async fn call<T: Send, E: Injected>(
        &self,
        call: Call,
        act: impl FnOnce(&mut State) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let point = self.enter(call).await?;
        let result = self.act(act);
        point.leave(result).await
    }

    /// An effect on the world; afterwards the world looks whether its rules still hold.
    pub(crate) fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        self.world.with(|state| {
            let result = act(state);
            state.check();
            result
        })
    }

    /// Counts a call; returns when its effect is due, if ever.
    pub(crate) async fn enter<E: Injected>(&self, call: Call) -> Result<Point<'_>, E> {
        tokio::task::yield_now().await;
        self.living().await;
        let (fault, latency) = self.world.with(|state| state.count(call));
        match fault {
            Some(Fault::FailBefore) => return Err(E::injected(call, Injection::Refused)),
            Some(Fault::NoSpace) => return Err(E::injected(call, Injection::NoSpace)),
            Some(Fault::Hang) => pending().await,
            Some(Fault::Panic) => panic!("{call}: a planned defect"),
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::FailAfter | Fault::HangAfter | Fault::CrashAfter) | None => {}
        }
        if !matches!(call, Call::Merge | Call::MergeOffline | Call::Stream | Call::StreamOffline) {
            self.pass(latency).await;
        }
        self.world.with(State::guests_write);
        Ok(Point { process: self, call, fault, latency })
    }

    /// Lets time pass, and never returns if the process died meanwhile.
    pub(crate) async fn pass(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        sleep(time).await;
        self.living().await;
    }

    /// As [`Self::pass`], until an instant.
    pub(crate) async fn pass_until(&self, instant: Instant) {
        self.pass(instant.saturating_duration_since(Instant::now())).await;
    }

    /// Never returns in a process that is dead.
    pub(crate) async fn living(&self) {
        if !self.world.with(|state| state.lives(self.number)) {
            pending::<()>().await;
        }
    }

    async fn die(&self) {
        self.world.crash();
        pending::<()>().await;
    }
}

impl Point<'_> {
    /// Ends a call whose effect was made, with the fault that was planned for after it.
    pub(crate) async fn leave<T, E: Injected>(self, result: Result<T, E>) -> Result<T, E> {
        match self.fault {
            Some(Fault::FailAfter) => result.and(Err(E::injected(self.call, Injection::Refused))),
            Some(Fault::HangAfter) => pending().await,
            Some(Fault::CrashAfter) => {
                drop(result);
                self.process.die().await;
                pending().await
            }
            Some(Fault::FailBefore | Fault::NoSpace | Fault::Hang | Fault::Panic | Fault::CrashBefore) | None => result,
        }
    }
}

/// Which kind of error is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Injection {
    Refused,
    NoSpace,
}

/// An error of a port that a fault plan can put in.
pub(crate) trait Injected: Sized + Send {
    fn injected(call: Call, how: Injection) -> Self;
}

const WORDS: &str = "a planned fault";

impl Injected for HypervisorError {
    fn injected(call: Call, how: Injection) -> Self {
        match how {
            Injection::Refused => Self::Refused { command: call.name().to_owned(), message: WORDS.to_owned() },
            Injection::NoSpace => Self::NoSpace { message: WORDS.to_owned() },
        }
    }
}

impl Injected for ImageError {
    fn injected(call: Call, how: Injection) -> Self {
        match how {
            Injection::Refused => Self::Failed { what: call.name().to_owned(), message: WORDS.to_owned() },
            Injection::NoSpace => Self::NoSpace { path: call.name().into() },
        }
    }
}

impl Injected for ExportError {
    fn injected(call: Call, how: Injection) -> Self {
        match how {
            Injection::Refused => Self::Failed { what: call.name().to_owned(), message: WORDS.to_owned() },
            Injection::NoSpace => Self::NoSpace { path: call.name().into() },
        }
    }
}

impl Injected for MemoryError {
    fn injected(call: Call, how: Injection) -> Self {
        match how {
            Injection::Refused => Self::Io { what: call.name().to_owned(), source: std::io::Error::other(WORDS) },
            Injection::NoSpace => Self::NoSpace { path: call.name().to_owned() },
        }
    }
}

impl Injected for TpmError {
    fn injected(call: Call, how: Injection) -> Self {
        match how {
            Injection::Refused => Self::Io { what: call.name().to_owned(), source: std::io::Error::other(WORDS) },
            Injection::NoSpace => Self::NoSpace { folder: call.name().into() },
        }
    }
}

impl Injected for DescriptionError {
    fn injected(call: Call, how: Injection) -> Self {
        match how {
            Injection::Refused => Self::Io { what: call.name().to_owned(), source: std::io::Error::other(WORDS) },
            Injection::NoSpace => Self::NoSpace { path: call.name().into() },
        }
    }
}

impl Injected for QuiesceError {
    fn injected(call: Call, _: Injection) -> Self {
        Self::Failed { message: format!("{call}: {WORDS}") }
    }
}

impl Injected for StoreError {
    fn injected(call: Call, _: Injection) -> Self {
        Self::Failed { message: format!("{call}: {WORDS}") }
    }
}
