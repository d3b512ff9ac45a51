//! Which kind of checkpoint fits a guest, and whether there should be one at all. Pure.
//!
//! | the guest | advice |
//! |---|---|
//! | is off | any: its disks are at rest |
//! | does not answer | standard: a production one would become one |
//! | has writers for every database and mail server that was seen | production |
//! | has a database or mail server without a writer | standard: memory and disks fit together |
//! | has file systems that can be held | production |
//! | has none | standard |
//!
//! Members of clusters and domain controllers are hazards whatever the kind: others remember what they forget.

use stillpoint_common::{
    CheckpointPolicy, FileSystemResult, GuestDescription, Hazard, ObservedService, ServiceRole, WriterOutcome,
    WriterResult,
};

/// An answer to: which kind, and should I at all?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What to ask for.
    pub policy: CheckpointPolicy,
    /// Why.
    pub reasons: Vec<AdviceReason>,
    /// What could happen after an apply.
    pub hazards: Vec<Hazard>,
    /// What was seen in the guest.
    pub services: Vec<ObservedService>,
}

/// A reason of an advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdviceReason {
    /// Stable.
    pub code: AdviceCode,
    /// For a person.
    pub text: String,
}

/// What a reason is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdviceCode {
    /// The VM is off.
    VmOff,
    /// The guest does not say what is in it.
    GuestSilent,
    /// Writers answer for the consistency of their data.
    WritersPresent,
    /// A database or mail server has no writer.
    NoWriter,
    /// File systems can be held through the cut.
    FileSystemsHeld,
    /// Nothing in the guest can be held.
    NothingToFreeze,
}

/// The advice for a VM that is off.
pub(crate) fn for_a_vm_that_is_off() -> Advice {
    let text = "the VM is off: its disks are at rest, and every kind keeps the same";
    advice(CheckpointPolicy::Production, vec![reason(AdviceCode::VmOff, text)], vec![])
}

/// The advice for a guest that does not answer, with why.
pub(crate) fn for_a_silent_guest(why: &str) -> Advice {
    let text = format!("the guest does not say what is in it, and cannot be made quiet ({why})");
    advice(CheckpointPolicy::Standard, vec![reason(AdviceCode::GuestSilent, text)], vec![])
}

/// The advice for a guest that has said what is in it.
pub(crate) fn for_a_guest(guest: &GuestDescription) -> Advice {
    let writers: Vec<_> = guest.writers.iter().filter(|writer| can_be_held(writer)).collect();
    let alone: Vec<_> = guest.services.iter().filter(|service| lacks_a_writer(service, &writers)).collect();
    let mut reasons = Vec::new();
    for service in &alone {
        let what = match service.role {
            ServiceRole::MailServer => "mail server",
            ServiceRole::Database | ServiceRole::ClusterMember | ServiceRole::DomainController => "database",
        };
        let text = format!(
            "{what} {} runs ({}) and has no writer: only with its memory does the checkpoint hold all it has acknowledged",
            service.name, service.evidence
        );
        reasons.push(reason(AdviceCode::NoWriter, text));
    }
    if !writers.is_empty() {
        let names: Vec<_> = writers.iter().map(|writer| writer.name.as_str()).collect();
        let text = format!("writers bring their data to rest: {}", names.join(", "));
        reasons.push(reason(AdviceCode::WritersPresent, text));
    }
    let held = guest.file_systems.iter().filter(|fs| fs.result == FileSystemResult::Selected).count();
    reasons.push(match held {
        0 => reason(AdviceCode::NothingToFreeze, "no file system of the guest can be held through the cut"),
        held => reason(AdviceCode::FileSystemsHeld, format!("file systems that are held through the cut: {held}")),
    });
    let policy = match (alone.is_empty(), held) {
        (true, 1..) => CheckpointPolicy::Production,
        (false, _) | (true, 0) => CheckpointPolicy::Standard,
    };
    Advice { hazards: hazards(&guest.services), ..advice(policy, reasons, guest.services.clone()) }
}

const fn can_be_held(writer: &WriterOutcome) -> bool {
    match writer.result {
        WriterResult::Stable | WriterResult::Held => true,
        WriterResult::Refused | WriterResult::TimedOut | WriterResult::Vanished | WriterResult::LeftOut => false,
    }
}

/// A writer answers for a service whose name is in its own.
fn lacks_a_writer(service: &ObservedService, writers: &[&WriterOutcome]) -> bool {
    let answers = |writer: &&WriterOutcome| writer.name.to_lowercase().contains(&service.name);
    match service.role {
        ServiceRole::Database | ServiceRole::MailServer => !writers.iter().any(answers),
        ServiceRole::ClusterMember | ServiceRole::DomainController => false,
    }
}

fn advice(policy: CheckpointPolicy, reasons: Vec<AdviceReason>, services: Vec<ObservedService>) -> Advice {
    Advice { policy, reasons, hazards: vec![], services }
}

fn reason(code: AdviceCode, text: impl Into<String>) -> AdviceReason {
    AdviceReason { code, text: text.into() }
}

/// What could happen after a guest with these services has been brought back.
pub(crate) fn hazards(services: &[ObservedService]) -> Vec<Hazard> {
    let hazardous = services.iter().filter(|service| service.role.is_hazardous());
    let hazard = |service: &ObservedService| Hazard {
        service: service.name.clone(),
        role: service.role,
        consequence: consequence(service).to_owned(),
    };
    hazardous.map(hazard).collect()
}

fn consequence(service: &ObservedService) -> &'static str {
    match (service.role, service.name.as_str()) {
        (ServiceRole::DomainController, _) => {
            "the other controllers have seen changes that this one would know nothing of: its later changes are not \
             replicated, and passwords of machines may not fit any more. Use the backup of the domain itself"
        }
        (_, "etcd" | "consul" | "zookeeper" | "tikv" | "cockroachdb") => {
            "a member that has forgotten what it voted for can break the agreement of the whole cluster. Take it out of \
             the cluster before an apply and let it join anew"
        }
        (_, "postgresql replication" | "mongodb replica set" | "galera" | "redis cluster") => {
            "its partners are ahead of it: it may refuse to follow, or bring them back to its own past and lose what \
             they acknowledged. Build it anew from a partner after an apply"
        }
        (_, "kubernetes node") => {
            "the control plane has moved pods and volumes since: a pod may run twice, and write to a volume that another \
             node holds. Drain the node before an apply"
        }
        (_, "corosync" | "pacemaker") => {
            "the node would act on an old view of who holds which resource, until the others fence it. Put it in standby \
             before an apply"
        }
        (_, _) => {
            "the other members go on while this one goes back: it may repeat ids and offsets that were given, serve old \
             data, or be refused. Take it out of the cluster before an apply"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stillpoint_common::FileSystemOutcome;

    use super::*;

    fn service(name: &str, role: ServiceRole) -> ObservedService {
        ObservedService { name: name.into(), role, evidence: format!("process {name}") }
    }

    fn guest(services: Vec<ObservedService>, writers: &[(&str, WriterResult)], held: bool) -> GuestDescription {
        let writer = |(name, result): &(&str, WriterResult)| WriterOutcome::new(*name, *result);
        GuestDescription {
            agent_version: String::new(),
            hostname: String::new(),
            kernel: String::new(),
            file_systems: vec![FileSystemOutcome {
                mount_point: "/".into(),
                source: "/dev/vda".into(),
                fs_type: "ext4".into(),
                result: if held { FileSystemResult::Selected } else { FileSystemResult::LeftOut },
                detail: String::new(),
                took: Duration::ZERO,
            }],
            writers: writers.iter().map(writer).collect(),
            services,
        }
    }

    fn codes(advice: &Advice) -> Vec<AdviceCode> {
        advice.reasons.iter().map(|reason| reason.code).collect()
    }

    #[test]
    fn the_kind_follows_from_who_answers_for_the_data() {
        use AdviceCode::{FileSystemsHeld, NoWriter, NothingToFreeze, WritersPresent};
        use CheckpointPolicy::{Production, Standard};
        let postgres = || service("postgresql", ServiceRole::Database);
        let postfix = || service("postfix", ServiceRole::MailServer);
        let stable = ("PostgreSQL 15", WriterResult::Stable);
        let refused = ("postgresql", WriterResult::Refused);
        let cases = [
            (guest(vec![], &[], true), Production, vec![FileSystemsHeld]),
            (guest(vec![], &[], false), Standard, vec![NothingToFreeze]),
            (guest(vec![postgres()], &[], true), Standard, vec![NoWriter, FileSystemsHeld]),
            (guest(vec![postgres()], &[stable], true), Production, vec![WritersPresent, FileSystemsHeld]),
            (guest(vec![postgres()], &[refused], true), Standard, vec![NoWriter, FileSystemsHeld]),
            (
                guest(vec![postgres(), postfix()], &[stable], true),
                Standard,
                vec![NoWriter, WritersPresent, FileSystemsHeld],
            ),
            (guest(vec![service("etcd", ServiceRole::ClusterMember)], &[], true), Production, vec![FileSystemsHeld]),
        ];
        for (guest, policy, expected) in cases {
            let advice = for_a_guest(&guest);
            assert_eq!((advice.policy, codes(&advice)), (policy, expected), "{:?}", guest.services);
        }
    }

    #[test]
    fn members_of_clusters_and_domain_controllers_are_hazards_and_databases_are_not() {
        let services = [
            service("etcd", ServiceRole::ClusterMember),
            service("postgresql", ServiceRole::Database),
            service("samba active directory", ServiceRole::DomainController),
            service("something new", ServiceRole::ClusterMember),
        ];
        let found = hazards(&services);
        assert_eq!(
            found.iter().map(|hazard| hazard.service.as_str()).collect::<Vec<_>>(),
            ["etcd", "samba active directory", "something new"]
        );
        assert!(found[0].consequence.contains("voted"), "{found:?}");
    }

    #[test]
    fn a_guest_that_is_off_or_silent_gets_an_advice_too() {
        assert_eq!(codes(&for_a_vm_that_is_off()), [AdviceCode::VmOff]);
        let silent = for_a_silent_guest("no agent");
        assert_eq!(silent.policy, CheckpointPolicy::Standard);
        assert!(silent.reasons[0].text.contains("no agent"));
    }
}
