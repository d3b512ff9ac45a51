//! Advice, hazards, and the services that they come from.

use stillpoint_common::{Failure, Hazard, HazardPolicy, ObservedService, ServiceRole};

use super::known;
use crate::v1 as pb;

/// Reads a choice about hazards; UNSPECIFIED means WARN.
///
/// # Errors
/// The value is not known.
pub fn policy(value: i32, field: &str) -> Result<HazardPolicy, Failure> {
    Ok(match known(value, field)? {
        pb::HazardPolicy::Unspecified | pb::HazardPolicy::Warn => HazardPolicy::Warn,
        pb::HazardPolicy::Refuse => HazardPolicy::Refuse,
    })
}

impl From<HazardPolicy> for pb::HazardPolicy {
    fn from(policy: HazardPolicy) -> Self {
        match policy {
            HazardPolicy::Warn => Self::Warn,
            HazardPolicy::Refuse => Self::Refuse,
        }
    }
}

impl From<ServiceRole> for pb::ServiceRole {
    fn from(role: ServiceRole) -> Self {
        match role {
            ServiceRole::Database => Self::Database,
            ServiceRole::MailServer => Self::MailServer,
            ServiceRole::ClusterMember => Self::ClusterMember,
            ServiceRole::DomainController => Self::DomainController,
        }
    }
}

/// The role that a service told of; `None` if it is none that this version knows.
#[must_use]
pub fn read_role(value: i32) -> Option<ServiceRole> {
    match pb::ServiceRole::try_from(value).ok()? {
        pb::ServiceRole::Unspecified => None,
        pb::ServiceRole::Database => Some(ServiceRole::Database),
        pb::ServiceRole::MailServer => Some(ServiceRole::MailServer),
        pb::ServiceRole::ClusterMember => Some(ServiceRole::ClusterMember),
        pb::ServiceRole::DomainController => Some(ServiceRole::DomainController),
    }
}

/// A service of a guest as it travels.
#[must_use]
pub fn service(service: &ObservedService) -> pb::ObservedService {
    let role = pb::ServiceRole::from(service.role).into();
    pb::ObservedService { service: service.name.clone(), role, evidence: service.evidence.clone() }
}

/// A hazard as it travels.
#[must_use]
pub fn hazard(hazard: &Hazard) -> pb::Hazard {
    let role = pb::ServiceRole::from(hazard.role).into();
    pb::Hazard { service: hazard.service.clone(), role, consequence: hazard.consequence.clone() }
}
