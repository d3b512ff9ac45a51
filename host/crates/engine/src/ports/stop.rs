//! A request to stop early.

use tokio_util::sync::CancellationToken;

/// Asked from outside to stop at the next safe point. Clones are the same request.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
}

impl Stop {
    /// Nobody has asked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop. For ever: a request to stop is not taken back.
    pub fn ask(&self) {
        self.token.cancel();
    }

    /// Whether somebody has asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns when somebody has asked.
    pub async fn asked(&self) {
        self.token.cancelled().await;
    }
}
