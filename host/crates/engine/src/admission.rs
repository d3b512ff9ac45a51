//! Whether a request may begin now. Pure.

use stillpoint_common::{
    BackupType, Checkpoint, CheckpointId, CheckpointPolicy, CheckpointState, Failure, Kind, Operation, Reason, Vm, VmId,
};

use crate::{
    ApplyRequest, Request,
    plans::{kind_of, landing},
    tree::shown,
};

/// What admission looks at.
pub(crate) struct Situation<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) checkpoints: &'a [Checkpoint],
    /// What is at work on the VM.
    pub(crate) running: Option<AtWork<'a>>,
    pub(crate) max_checkpoints: usize,
}

/// What is at work on a VM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AtWork<'a> {
    pub(crate) operation: &'a Operation,
    /// It has kept its promise and only merges layers: it stops for what is more urgent, which everything is.
    pub(crate) makes_way: bool,
}

/// When a request may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Now.
    Now,
    /// As soon as what is at work has made way, which it is asked to.
    AfterMakingWay,
}

impl Situation<'_> {
    /// Says why a request cannot begin, if so. What the request names is looked at before whether the VM is busy, since
    /// waiting would not help against a name that is wrong.
    pub(crate) fn admit(&self, request: &Request) -> Result<Admitted, Failure> {
        match request {
            Request::Import(_) => return Err(exists(&self.vm.id)),
            Request::Start | Request::Save | Request::DiscardSaved => {}
            Request::Stop(_) => self.is_not_saved("it has no guest to stop")?,
            Request::Pause | Request::Resume => self.is_on()?,
            // A backup is not one of the checkpoints that people make; what it needs was seen to when it was asked for.
            Request::CreateCheckpoint(new) if new.remarks.backup.is_some() => {}
            Request::CreateCheckpoint(new) => {
                let policy = new.policy.unwrap_or(self.vm.checkpoint_policy);
                self.may_create(policy)?;
                self.may_tell_writers(new.backup_type, policy)?;
            }
            Request::Apply(apply) => self.may_apply(apply)?,
            Request::DeleteCheckpoint(id) | Request::DeleteSubtree(id) => self.peoples(*id).map(drop)?,
            Request::DeleteCheckpoints(ids) => {
                if ids.is_empty() {
                    return Err(Failure::field("names", "must name at least one checkpoint"));
                }
                ids.iter().try_for_each(|id| self.peoples(*id).map(drop))?;
            }
            Request::DeleteMemory(id) => has_memory(self.peoples(*id)?)?,
            Request::Revert => self.may_apply(&ApplyRequest::revert())?,
            Request::Export { checkpoint, folder, .. } => {
                if !folder.is_absolute() {
                    let problem = format!("must be an absolute path, not {:?}", folder.display().to_string());
                    return Err(Failure::field("target_folder", problem));
                }
                self.ready(*checkpoint)?;
            }
        }
        self.idle()
    }

    /// Says what is at work, if something is that does not make way.
    pub(crate) fn idle(&self) -> Result<Admitted, Failure> {
        match self.running {
            None => Ok(Admitted::Now),
            Some(AtWork { makes_way: true, .. }) => Ok(Admitted::AfterMakingWay),
            Some(AtWork { operation, makes_way: false }) => Err(busy_with(&self.vm.id, operation)),
        }
    }

    /// Says that the VM is saved, if it is, and what follows from it.
    pub(crate) fn is_not_saved(&self, so: &str) -> Result<(), Failure> {
        match &self.vm.saved {
            None => Ok(()),
            Some(_) => Err(Failure::new(Reason::VmSaved, format!("VM {} is saved: {so}", self.vm.id))),
        }
    }

    fn is_on(&self) -> Result<(), Failure> {
        self.is_not_saved("it neither runs nor is paused")?;
        match self.vm.instance {
            Some(_) => Ok(()),
            None => Err(Failure::new(Reason::VmNotRunning, format!("VM {} is off", self.vm.id))),
        }
    }

    fn may_create(&self, policy: CheckpointPolicy) -> Result<(), Failure> {
        let vm = &self.vm.id;
        if policy == CheckpointPolicy::Disabled {
            return Err(Failure::new(Reason::CheckpointsDisabled, format!("checkpoints of VM {vm} are disabled")));
        }
        let count = self.checkpoints.iter().filter(|checkpoint| checkpoint.remarks.backup.is_none()).count();
        if count >= self.max_checkpoints {
            let message = format!("VM {vm} has {count} checkpoints, the most a VM may have");
            return Err(Failure::new(Reason::CheckpointLimit, message));
        }
        Ok(())
    }

    /// What is not a copy is so because writers are told, and one that is told of must be there.
    fn may_tell_writers(&self, backup_type: BackupType, policy: CheckpointPolicy) -> Result<(), Failure> {
        let why = match (backup_type, kind_of(policy), self.vm.instance) {
            (BackupType::Copy, _, _) | (_, Kind::Production, Some(_)) => return Ok(()),
            (_, Kind::Standard, _) => "a standard checkpoint can only be a COPY: no writer is told of it",
            (_, Kind::Production, None) => {
                "a checkpoint of a VM that does not run can only be a COPY: no writer is told of it"
            }
        };
        Err(Failure::field("backup_type", why))
    }

    fn may_apply(&self, apply: &ApplyRequest) -> Result<(), Failure> {
        landing(self.peoples(self.target(apply.checkpoint)?)?, apply.machine)?;
        match apply.now.is_kept(self.vm) {
            true => self.may_create(self.vm.checkpoint_policy),
            false => Ok(()),
        }
    }

    fn ready(&self, id: CheckpointId) -> Result<&Checkpoint, Failure> {
        let vm = &self.vm.id;
        match self.checkpoints.iter().find(|checkpoint| checkpoint.id == id) {
            None => Err(Failure::new(Reason::CheckpointNotFound, format!("VM {vm} has no checkpoint {id}"))),
            Some(found) => ready(found).map(|()| found),
        }
    }

    /// The same of one that is no backup's.
    fn peoples(&self, id: CheckpointId) -> Result<&Checkpoint, Failure> {
        let found = self.ready(id)?;
        of_no_backup(found).map(|()| found)
    }

    /// The checkpoint that an apply names, or else the parent of Now.
    fn target(&self, named: Option<CheckpointId>) -> Result<CheckpointId, Failure> {
        let nothing =
            || Failure::new(Reason::NoCheckpoint, format!("VM {} has no checkpoint to go back to", self.vm.id));
        named.or_else(|| shown(self.checkpoints, self.vm.parent)).ok_or_else(nothing)
    }
}

/// Says what is at work on a VM.
pub(crate) fn busy_with(vm: &VmId, Operation { id, kind, .. }: &Operation) -> Failure {
    Failure::new(Reason::VmBusy, format!("VM {vm} is busy with operation {id} ({kind})"))
}

/// Says that there is a VM of this name.
pub(crate) fn exists(vm: &VmId) -> Failure {
    Failure::new(Reason::VmExists, format!("there is a VM {vm} already")).at("vm_id")
}

/// Says that a checkpoint has no memory, if so.
pub(crate) fn has_memory(checkpoint: &Checkpoint) -> Result<(), Failure> {
    match checkpoint.memory {
        Some(_) => Ok(()),
        None => {
            let Checkpoint { id, name, .. } = checkpoint;
            let message = format!("checkpoint {:?} ({id}) has no memory", name.as_str());
            Err(Failure::new(Reason::NoMemoryState, message))
        }
    }
}

/// Says that a checkpoint is going, if so.
pub(crate) fn ready(checkpoint: &Checkpoint) -> Result<(), Failure> {
    match checkpoint.state {
        CheckpointState::Ready => Ok(()),
        CheckpointState::Deleting => {
            let Checkpoint { id, name, vm, .. } = checkpoint;
            let message = format!("checkpoint {:?} ({id}) of VM {vm} is being deleted", name.as_str());
            Err(Failure::new(Reason::CheckpointDeleting, message))
        }
    }
}

/// Says that a checkpoint belongs to a backup session, if so: it is there to be read, and goes with its session.
pub(crate) fn of_no_backup(checkpoint: &Checkpoint) -> Result<(), Failure> {
    let Checkpoint { id, vm, remarks, .. } = checkpoint;
    let message = |backup| format!("checkpoint {id} of VM {vm} belongs to backup session {backup}, and goes with it");
    remarks.backup.map_or(Ok(()), |backup| Err(Failure::new(Reason::BackupOpen, message(backup))))
}

#[cfg(test)]
mod tests {
    use stillpoint_common::OperationKind;

    use super::*;
    use crate::{StopMode, job::Job};

    fn vm() -> Vm {
        let json = serde_json::json!({
            "id": "web", "uid": uuid::Uuid::nil(), "checkpoint_policy": "PRODUCTION", "checkpoint_location": "/c",
            "parent": null, "heads": {}, "instance": null, "generation_id": uuid::Uuid::nil(), "accelerator": null,
            "created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z",
            "definition": {
                "cpus": 1, "memory_mib": 16, "accelerator": "AUTO", "boot": "BIOS", "disks": [], "pass_through": [],
                "nics": [], "serial_log": null, "extra_arguments": [],
            },
        });
        serde_json::from_value(json).unwrap()
    }

    /// What becomes of a request while an operation is at work.
    fn while_at_work(kind: OperationKind, makes_way: bool, request: &Request) -> Result<Admitted, Reason> {
        let vm = vm();
        let operation = Job::new(kind, vm.id.clone(), None, jiff::Timestamp::UNIX_EPOCH).operation;
        let running = Some(AtWork { operation: &operation, makes_way });
        let admitted = Situation { vm: &vm, checkpoints: &[], running, max_checkpoints: 50 }.admit(request);
        admitted.map_err(|failure| failure.reason)
    }

    #[test]
    fn everything_that_is_asked_for_is_more_urgent_than_merging_and_waits_for_all_else() {
        let create = Request::CreateCheckpoint(crate::NewCheckpoint::default());
        for request in [Request::Start, Request::Stop(StopMode::Graceful), create] {
            assert_eq!(
                while_at_work(OperationKind::CollectLayers, true, &request),
                Ok(Admitted::AfterMakingWay),
                "{request:?}"
            );
            assert_eq!(
                while_at_work(OperationKind::ApplyCheckpoint, false, &request),
                Err(Reason::VmBusy),
                "{request:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_refused_before_a_merge_is_asked_to_make_way() {
        let unknown = Request::Apply(CheckpointId::generate().into());
        let refused = while_at_work(OperationKind::CollectLayers, true, &unknown);
        assert_eq!(refused, Err(Reason::CheckpointNotFound));
        let off = while_at_work(OperationKind::CollectLayers, true, &Request::Pause);
        assert_eq!(off, Err(Reason::VmNotRunning));
    }
}
