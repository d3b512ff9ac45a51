//! How long a guest may take.

use std::time::Duration;

/// Deadlines of the calls to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To begin a session on the channel: 3 s. No agent is seen after this time.
    pub connect: Duration,
    /// For a call that only asks: 5 s. A connection that has to be begun first may take its time beside that.
    pub ask: Duration,
    /// To prepare: 60 s, two thirds of it for writers, the rest to write dirty data out.
    pub prepare: Duration,
    /// To write out what is left when the freeze is asked for, before the hold begins: 10 s. The freeze itself may take
    /// half of the lease, and writers what their window leaves beside it.
    pub write_out: Duration,
    /// To thaw, file systems and writers: 15 s. What is told later counts as not held.
    pub thaw: Duration,
    /// For writers to clean up after the cut, and to hear that the data is safe, each: 60 s.
    pub settle: Duration,
    /// How often the clock is read before it is set: 5 times; the quickest answer counts.
    pub clock_samples: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            ask: Duration::from_secs(5),
            prepare: Duration::from_secs(60),
            write_out: Duration::from_secs(10),
            thaw: Duration::from_secs(15),
            settle: Duration::from_secs(60),
            clock_samples: 5,
        }
    }
}

impl Limits {
    pub(crate) fn writers_prepare(&self) -> Duration {
        self.prepare / 3 * 2
    }
}
