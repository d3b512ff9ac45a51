//! How long a guest may take.

use std::time::Duration;

/// Deadlines of the calls to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To begin a session on the channel: 3 s. No agent is seen after this time.
    pub connect: Duration,
    /// For a call that only asks: 5 s. A connection that has to be begun first may take its time beside that.
    pub ask: Duration,
    /// To prepare, which writes dirty data out: 60 s.
    pub prepare: Duration,
    /// To write out what is left when the freeze is asked for, before the hold begins: 10 s. The freeze itself may take
    /// half of the lease.
    pub write_out: Duration,
    /// To thaw: 5 s.
    pub thaw: Duration,
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
            thaw: Duration::from_secs(5),
            clock_samples: 5,
        }
    }
}
