//! What is done in a trial.

use std::collections::BTreeSet;

use stillpoint_common::{CheckpointId, CheckpointPolicy, DiskFormat, PowerState};
use stillpoint_engine::{ApplyRequest, Machine, NewCheckpoint, Now, Request, StopMode, VmChange};
use stillpoint_sim::{AgentScript, WriterScript};

use super::{Trial, client::Wish};
use crate::sim_host::SimHost;

macro_rules! acts {
    ($($act:ident $doc:literal;)*) => {
        /// Something that is done to the VM.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Act {
            $(#[doc = $doc] $act,)*
        }

        impl Act {
            /// Each of them.
            pub const ALL: &'static [Self] = &[$(Self::$act,)*];
        }
    };
}

acts! {
    CreateProduction "A production checkpoint.";
    CreateStandard "A standard checkpoint.";
    CreateFallback "A production checkpoint that becomes a standard one, since no agent answers.";
    CreateOffline "A checkpoint of a VM that is off.";
    ApplyStandard "The VM goes back to a checkpoint with memory.";
    ApplyProduction "The VM goes back to a checkpoint without memory.";
    ApplyWhileOff "A VM that is off goes back to a checkpoint with memory.";
    Revert "The VM goes back to the checkpoint it came from.";
    DeleteLeaf "A checkpoint goes that nothing lies on.";
    DeleteMiddle "A checkpoint between two others goes.";
    DeleteParentOfNow "The checkpoint goes that the VM came from.";
    MergeUp "The checkpoint goes that the VM came from, whose layers are smaller than those of Now.";
    DeleteBranchPoint "A checkpoint goes that two branches lie on.";
    DeleteMiddleWhileOff "A checkpoint between two others goes, of a VM that is off.";
    DeleteParentOfNowWhileOff "The checkpoint goes that a VM came from that is off.";
    DeleteSubtree "A checkpoint goes with all that came after it, of a VM that is off; Now stays.";
    DeleteSubtreeWhileRunning "The same of a VM that runs.";
    DeleteMany "Two checkpoints go at once that two branches lie on.";
    DeleteMemory "The memory of a checkpoint goes, which stays.";
    Export "A checkpoint is copied out.";
    Start "The VM is started.";
    TurnOff "Its plug is pulled.";
    ShutDown "Its guest is asked to switch off.";
    Pause "It is made to stand still.";
    Resume "It goes on.";
    Rename "A checkpoint is given another name.";
    Change "The VM's policy is changed.";
    DeleteVm "A VM without checkpoints is forgotten.";
    Save "Its memory is kept, and its process ends.";
    StartSaved "A saved VM goes on.";
    DiscardSaved "A saved state is given up.";
    CreateSaved "A checkpoint of a saved VM.";
    CreateQuiesced "A production checkpoint with memory.";
    ApplyToSaved "The VM goes back to a checkpoint with memory, and is saved.";
    ApplyOverSaved "A saved VM goes back to a checkpoint with memory.";
    ApplyKeepingNow "The VM goes back, and what it was is kept as a checkpoint first.";
}

impl Act {
    pub(super) const fn needs_checkpoints(self) -> bool {
        !matches!(self, Self::DeleteVm)
    }

    pub(super) const fn needs_branch(self) -> bool {
        matches!(
            self,
            Self::DeleteLeaf
                | Self::DeleteBranchPoint
                | Self::DeleteSubtree
                | Self::DeleteSubtreeWhileRunning
                | Self::DeleteMany
        )
    }

    /// Whether the layers below Now are larger than those of Now, so that these are merged down into them.
    pub(super) const fn needs_large_parent(self) -> bool {
        matches!(self, Self::DeleteParentOfNow | Self::DeleteParentOfNowWhileOff)
    }

    pub(super) const fn begins_off(self) -> bool {
        matches!(
            self,
            Self::CreateOffline
                | Self::ApplyWhileOff
                | Self::DeleteMiddleWhileOff
                | Self::DeleteParentOfNowWhileOff
                | Self::DeleteSubtree
                | Self::Start
                | Self::DeleteVm
        )
    }

    pub(super) const fn begins_saved(self) -> bool {
        matches!(self, Self::StartSaved | Self::DiscardSaved | Self::CreateSaved | Self::ApplyOverSaved)
    }

    /// Whether what is Now becomes a checkpoint beside what else is done.
    pub(super) const fn keeps_now(self) -> bool {
        matches!(self, Self::ApplyKeepingNow)
    }

    pub(super) fn script(self, host: &SimHost) {
        if self == Self::CreateProduction {
            host.world.script_guest(&host.vm(), |guest| *guest = guest.clone().writer("db", WriterScript::Holds));
        }
        if self == Self::CreateFallback {
            host.world.script_guest(&host.vm(), |script| script.agent = AgentScript::Absent);
        }
    }

    pub(super) fn wish(self, trial: &Trial) -> Wish {
        let create = |policy| {
            let new = NewCheckpoint { policy: Some(policy), ..NewCheckpoint::default() };
            Wish::Operation(Request::CreateCheckpoint(new))
        };
        let delete = |id| Wish::Operation(Request::DeleteCheckpoint(id));
        match self {
            Self::CreateProduction => create(CheckpointPolicy::ProductionOnly),
            Self::CreateStandard | Self::CreateOffline | Self::CreateSaved => create(CheckpointPolicy::Standard),
            Self::CreateQuiesced => Wish::Operation(Request::CreateCheckpoint(NewCheckpoint {
                policy: Some(CheckpointPolicy::ProductionOnly),
                with_memory: true,
                ..NewCheckpoint::default()
            })),
            Self::CreateFallback => create(CheckpointPolicy::Production),
            Self::ApplyStandard | Self::ApplyWhileOff | Self::ApplyOverSaved => {
                Wish::Operation(Request::Apply(trial.standard().into()))
            }
            Self::ApplyToSaved => {
                Wish::Operation(Request::Apply(ApplyRequest { machine: Machine::Saved, ..trial.standard().into() }))
            }
            Self::ApplyKeepingNow => {
                let keeping = ApplyRequest { now: Now::CheckpointFirst, ..trial.standard().into() };
                Wish::Operation(Request::Apply(keeping))
            }
            Self::ApplyProduction => Wish::Operation(Request::Apply(trial.production().into())),
            Self::Save => Wish::Operation(Request::Save),
            Self::DiscardSaved => Wish::Operation(Request::DiscardSaved),
            Self::Revert => Wish::Operation(Request::Revert),
            Self::DeleteLeaf => delete(trial.leaf.expect("there is a leaf")),
            Self::DeleteMiddle | Self::DeleteMiddleWhileOff => delete(trial.production()),
            Self::DeleteParentOfNow | Self::MergeUp | Self::DeleteBranchPoint | Self::DeleteParentOfNowWhileOff => {
                delete(trial.standard())
            }
            Self::DeleteSubtree | Self::DeleteSubtreeWhileRunning => {
                Wish::Operation(Request::DeleteSubtree(trial.standard()))
            }
            Self::DeleteMany => {
                Wish::Operation(Request::DeleteCheckpoints([trial.production(), trial.standard()].into()))
            }
            Self::DeleteMemory => Wish::Operation(Request::DeleteMemory(trial.standard())),
            Self::Export => Wish::Operation(Request::Export {
                checkpoint: trial.standard(),
                folder: "/exports/one".into(),
                format: DiskFormat::Qcow2,
            }),
            Self::Start | Self::StartSaved => Wish::Operation(Request::Start),
            Self::TurnOff => Wish::Operation(Request::Stop(StopMode::TurnOff)),
            Self::ShutDown => Wish::Operation(Request::Stop(StopMode::Graceful)),
            Self::Pause => Wish::Operation(Request::Pause),
            Self::Resume => Wish::Operation(Request::Resume),
            Self::Rename => Wish::Rename(trial.production()),
            Self::Change => {
                let change = VmChange { checkpoint_policy: Some(CheckpointPolicy::Standard), ..VmChange::default() };
                Wish::Change(Box::new(change))
            }
            Self::DeleteVm => Wish::DeleteVm,
        }
    }

    /// The checkpoints that go.
    pub(super) fn deletes(self, trial: &Trial) -> BTreeSet<CheckpointId> {
        match self.wish(trial) {
            Wish::Operation(Request::DeleteCheckpoint(id)) => [id].into(),
            Wish::Operation(Request::DeleteCheckpoints(ids)) => ids,
            Wish::Operation(Request::DeleteSubtree(id)) => trial.leaf.into_iter().chain([id]).collect(),
            Wish::Operation(_) | Wish::Change(_) | Wish::Rename(_) | Wish::DeleteVm => BTreeSet::new(),
        }
    }

    /// Whether it makes a checkpoint.
    pub(super) const fn creates(self) -> bool {
        matches!(
            self,
            Self::CreateProduction
                | Self::CreateStandard
                | Self::CreateFallback
                | Self::CreateOffline
                | Self::CreateSaved
                | Self::CreateQuiesced
        )
    }

    /// What the VM may be afterwards, besides running.
    pub(super) fn may_leave_it(self, power: PowerState, done: bool) -> bool {
        let off = match (self.begins_off(), matches!(self, Self::ApplyWhileOff | Self::Start)) {
            (true, goes_on) => !(goes_on && done),
            (false, _) => matches!(self, Self::ApplyProduction | Self::TurnOff | Self::ShutDown | Self::DiscardSaved),
        };
        let paused = self == Self::Pause || (matches!(self, Self::Resume | Self::Start) && !done);
        let stays_saved = self.begins_saved() && (self == Self::CreateSaved || !done);
        let saved = stays_saved || matches!(self, Self::Save | Self::ApplyToSaved);
        let paused = paused || (matches!(self, Self::StartSaved | Self::ApplyOverSaved) && !done);
        match power {
            PowerState::Off => off,
            PowerState::Paused => paused,
            PowerState::Saved => saved,
            PowerState::Running | PowerState::PausedCritical => false,
        }
    }

    /// What blocks 1 and 2 of Now read as when it is done, if it moves Now.
    pub(super) fn applied(self) -> Option<(u64, u64)> {
        if self == Self::ApplyProduction {
            return Some((1, 0));
        }
        let back = matches!(
            self,
            Self::ApplyStandard
                | Self::ApplyWhileOff
                | Self::Revert
                | Self::ApplyToSaved
                | Self::ApplyOverSaved
                | Self::ApplyKeepingNow
        );
        back.then_some((2, 0))
    }
}
