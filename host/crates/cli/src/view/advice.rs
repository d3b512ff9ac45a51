//! Advice and hazards.

use serde::Serialize;
use stillpoint_common::{CheckpointPolicy, ServiceRole};
use stillpoint_proto::{
    convert::{advice, policy},
    v1 as pb,
};

/// Which kind of checkpoint fits a VM as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What to ask for.
    pub policy: Option<CheckpointPolicy>,
    /// Why.
    pub reasons: Vec<AdviceReason>,
    /// What could happen after an apply, whatever the kind.
    pub hazards: Vec<Hazard>,
    /// What was seen in the guest.
    pub services: Vec<ObservedService>,
}

/// A reason of an advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdviceReason {
    /// `WRITERS_PRESENT`, …
    pub code: String,
    /// For a person.
    pub text: String,
}

/// Why it is dangerous to apply a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hazard {
    /// The service in the guest.
    pub service: String,
    /// What it is.
    pub role: Option<ServiceRole>,
    /// What could happen after an apply.
    pub consequence: String,
}

/// A service that the agent has seen in its guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedService {
    /// What it is called.
    pub service: String,
    /// What it is.
    pub role: Option<ServiceRole>,
    /// By what it was seen.
    pub evidence: String,
}

impl From<pb::CheckpointAdvice> for Advice {
    fn from(message: pb::CheckpointAdvice) -> Self {
        let reason = |pb::AdviceReason { code, text }| AdviceReason { code, text };
        Self {
            policy: policy::policy(message.policy, "policy").ok().flatten(),
            reasons: message.reasons.into_iter().map(reason).collect(),
            hazards: message.hazards.into_iter().map(Hazard::from).collect(),
            services: message.services.into_iter().map(ObservedService::from).collect(),
        }
    }
}

impl From<pb::Hazard> for Hazard {
    fn from(pb::Hazard { service, role, consequence }: pb::Hazard) -> Self {
        Self { service, role: advice::read_role(role), consequence }
    }
}

impl From<pb::ObservedService> for ObservedService {
    fn from(pb::ObservedService { service, role, evidence }: pb::ObservedService) -> Self {
        Self { service, role: advice::read_role(role), evidence }
    }
}
