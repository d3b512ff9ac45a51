//! Whether a request may begin now. Pure.

use stillpoint_common::{Checkpoint, CheckpointId, CheckpointPolicy, CheckpointState, Failure, Operation, Reason, Vm};

use crate::{ApplyRequest, Request, plans::landing};

/// What admission looks at.
pub(crate) struct Situation<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) checkpoints: &'a [Checkpoint],
    /// What is at work on the VM.
    pub(crate) running: Option<&'a Operation>,
    pub(crate) max_checkpoints: usize,
}

impl Situation<'_> {
    /// Says why a request cannot begin, if so. What the request names is looked at before whether the VM is busy, since
    /// waiting would not help against a name that is wrong.
    pub(crate) fn admit(&self, request: &Request) -> Result<(), Failure> {
        match request {
            Request::Start | Request::Save | Request::DiscardSaved => {}
            Request::Stop(_) => self.is_not_saved("it has no guest to stop")?,
            Request::Pause | Request::Resume => self.is_on()?,
            Request::CreateCheckpoint(new) => self.may_create(new.policy.unwrap_or(self.vm.checkpoint_policy))?,
            Request::Apply(apply) => self.may_apply(apply)?,
            Request::DeleteCheckpoint(id) => self.ready(*id).map(drop)?,
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

    /// Says what is at work, if something is.
    pub(crate) fn idle(&self) -> Result<(), Failure> {
        let Some(operation) = self.running else { return Ok(()) };
        let (vm, id, kind) = (&self.vm.id, operation.id, operation.kind);
        let message = format!("VM {vm} is busy with operation {id} ({kind})");
        Err(Failure::new(Reason::VmBusy, message))
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
        let count = self.checkpoints.len();
        if count >= self.max_checkpoints {
            let message = format!("VM {vm} has {count} checkpoints, the most a VM may have");
            return Err(Failure::new(Reason::CheckpointLimit, message));
        }
        Ok(())
    }

    fn may_apply(&self, apply: &ApplyRequest) -> Result<(), Failure> {
        landing(self.ready(self.target(apply.checkpoint)?)?, apply.machine)?;
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

    /// The checkpoint that an apply names, or else the parent of Now.
    fn target(&self, named: Option<CheckpointId>) -> Result<CheckpointId, Failure> {
        let nothing =
            || Failure::new(Reason::NoCheckpoint, format!("VM {} has no checkpoint to go back to", self.vm.id));
        named.or(self.vm.parent).ok_or_else(nothing)
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
