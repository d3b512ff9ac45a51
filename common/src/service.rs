//! What a guest is used for, and what of that makes it dangerous to bring it back to its past.

use serde::{Deserialize, Serialize};

/// What a service of a guest is, as far as checkpoints are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServiceRole {
    /// Keeps data of its own: a database, a directory, a message broker.
    Database,
    /// Takes responsibility for mail that is on its way.
    MailServer,
    /// Agrees with others on a common state.
    ClusterMember,
    /// Answers for accounts and passwords of a domain, together with others.
    DomainController,
}

impl ServiceRole {
    /// Whether others remember what a guest of this role forgets when a checkpoint is applied.
    #[must_use]
    pub const fn is_hazardous(self) -> bool {
        match self {
            Self::Database | Self::MailServer => false,
            Self::ClusterMember | Self::DomainController => true,
        }
    }
}

/// A service that the agent has seen in its guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedService {
    /// What it is called: `postgresql`.
    pub name: String,
    /// What it is.
    pub role: ServiceRole,
    /// By what it was seen: `process postgres`.
    pub evidence: String,
}

/// Why it is dangerous to apply a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hazard {
    /// The service in the guest.
    pub service: String,
    /// What it is.
    pub role: ServiceRole,
    /// What could happen after an apply.
    pub consequence: String,
}

/// What to do about hazards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HazardPolicy {
    /// They are told: when a checkpoint is made, with the checkpoint, and before it is applied.
    #[default]
    Warn,
    /// Checkpoints of a guest with a hazard are refused, and one that has a hazard is not applied.
    Refuse,
}
