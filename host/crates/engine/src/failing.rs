//! What is done about a VM that has failed. Pure, but for the record of it.
//!
//! ```text
//!  its process has ended by itself, ──▶ seen ──▶ switched off, if it panicked ──▶ reverted ──▶ started ──▶ over
//!  or its guest has panicked              │                                           ▲
//!                                         │  restart, or there is no checkpoint ──────┘
//!                                         └─ nothing is to be done, or it was done too often ──▶ over
//! ```
//!
//! Each arrow is an operation of its own, written down together with the stage that it leads to; so a service that dies
//! in between goes on where it was. Somebody who stops, starts or brings back the VM in the meantime ends it: the VM is
//! theirs again.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillpoint_common::{Failure, InstanceId, OnFailure, OperationId, OperationState, Reason, VmFailure, VmFailures};

/// The time in which recoveries are counted.
const HOUR: Duration = Duration::from_secs(3600);

/// The last failure of a VM, as the catalogue keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailureRecord {
    /// When it was seen.
    pub(crate) time: Timestamp,
    /// Which.
    pub(crate) reason: Reason,
    /// The process that failed; `None` if somebody has done something about it since: it may fail anew.
    pub(crate) instance: Option<InstanceId>,
    /// How far it is.
    pub(crate) stage: Stage,
    /// When it was brought back lately.
    pub(crate) recoveries: Vec<Timestamp>,
}

/// How far the VM is on its way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Stage {
    /// Nothing has been done about it yet.
    Seen,
    /// This operation switches it off.
    SwitchingOff(OperationId),
    /// This operation brings it back to its checkpoint.
    Reverting(OperationId),
    /// This operation starts it.
    Starting(OperationId),
    /// Nothing more will be done; why, in words.
    Over(String),
}

impl Stage {
    /// The operation that leads to the next one.
    pub(crate) const fn operation(&self) -> Option<OperationId> {
        match self {
            Self::SwitchingOff(id) | Self::Reverting(id) | Self::Starting(id) => Some(*id),
            Self::Seen | Self::Over(_) => None,
        }
    }
}

impl FailureRecord {
    /// A failure that is seen now, of a VM with this setting. What an earlier one says of recoveries stays.
    pub(crate) fn seen(
        earlier: Option<Self>,
        reason: Reason,
        instance: InstanceId,
        setting: OnFailure,
        now: Timestamp,
    ) -> Self {
        let stage = match setting {
            OnFailure::Nothing => Stage::Over("nothing: the VM is set so".to_owned()),
            OnFailure::Restart | OnFailure::Revert => Stage::Seen,
        };
        let recoveries = earlier.map(|earlier| earlier.lately(now)).unwrap_or_default();
        Self { time: now, reason, instance: Some(instance), stage, recoveries }
    }

    /// Whether this is the record of that failure.
    pub(crate) fn is_of(&self, instance: InstanceId, reason: Reason) -> bool {
        (self.instance, self.reason) == (Some(instance), reason)
    }

    /// Recoveries of the last hour.
    pub(crate) fn lately(&self, now: Timestamp) -> Vec<Timestamp> {
        let recent = |time: &Timestamp| Duration::try_from(now.duration_since(*time)).is_ok_and(|age| age < HOUR);
        self.recoveries.iter().copied().filter(recent).collect()
    }

    /// Somebody has taken the VM in hand: nothing more is done about this failure. `None` if nothing changes by it.
    pub(crate) fn taken_in_hand(self) -> Option<Self> {
        let stage = match &self.stage {
            Stage::Over(_) if self.instance.is_none() => return None,
            Stage::Over(why) => Stage::Over(why.clone()),
            Stage::Seen | Stage::SwitchingOff(_) | Stage::Reverting(_) | Stage::Starting(_) => {
                Stage::Over("nothing more: somebody has taken the VM in hand".to_owned())
            }
        };
        Some(Self { stage, instance: None, ..self })
    }
}

/// What clients are told of it.
pub(crate) fn told(record: Option<&FailureRecord>, max_recoveries: usize, now: Timestamp) -> VmFailures {
    let last = record.map(|record| {
        let (at_work, outcome) = match &record.stage {
            Stage::Seen => (true, "it will be brought back".to_owned()),
            Stage::SwitchingOff(_) => (true, "it is switched off first".to_owned()),
            Stage::Reverting(_) => (true, "it is brought back to its last checkpoint".to_owned()),
            Stage::Starting(_) => (true, "it is started".to_owned()),
            Stage::Over(why) => (false, why.clone()),
        };
        VmFailure { time: record.time, reason: record.reason, at_work, outcome }
    });
    VmFailures { last, recoveries: record.map_or(0, |record| record.lately(now).len()), max_recoveries }
}

/// What the VM is when one looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It has no process, and no saved state.
    Off,
    /// It stands still since its guest has panicked.
    Panicked,
    /// It runs, is paused or saved.
    Alive,
}

/// What is true when one looks, while nothing is at work on the VM.
pub(crate) struct Situation<'a> {
    pub(crate) setting: OnFailure,
    pub(crate) stage: &'a Stage,
    /// How the operation of the stage has ended.
    pub(crate) ended: Option<&'a OperationState>,
    pub(crate) found: Found,
    pub(crate) has_parent: bool,
    pub(crate) recoveries: usize,
    pub(crate) max_recoveries: usize,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    SwitchOff,
    Revert,
    Start,
    /// Nothing more, and why.
    End(String),
}

impl Situation<'_> {
    /// What to do next; `None` if nothing has been left to do.
    pub(crate) fn act(&self) -> Option<Act> {
        match (self.stage, self.found) {
            (Stage::Over(_), _) => None,
            (Stage::Seen, Found::Alive) => Some(end("nothing: it was brought back by somebody")),
            (_, Found::Alive) => Some(end("it was brought back")),
            (Stage::Seen, Found::Panicked) => Some(self.first(Act::SwitchOff)),
            (Stage::Seen | Stage::SwitchingOff(_), Found::Off) => Some(self.first(self.way_back())),
            (Stage::SwitchingOff(_), Found::Panicked) => Some(self.after_failure(Act::SwitchOff)),
            (Stage::Reverting(_) | Stage::Starting(_), Found::Panicked) => Some(end("its guest has panicked again")),
            (Stage::Reverting(_), Found::Off) if self.is_done() => Some(Act::Start),
            (Stage::Reverting(_), Found::Off) => Some(self.after_failure(self.way_back())),
            (Stage::Starting(_), Found::Off) if self.is_done() => Some(end("it was started, and is off again")),
            (Stage::Starting(_), Found::Off) => Some(self.after_failure(Act::Start)),
        }
    }

    fn way_back(&self) -> Act {
        match self.setting {
            OnFailure::Revert if self.has_parent => Act::Revert,
            OnFailure::Revert | OnFailure::Restart => Act::Start,
            OnFailure::Nothing => end("nothing: the VM is set so"),
        }
    }

    /// What begins a recovery, if it is to be brought back and was not too often.
    fn first(&self, act: Act) -> Act {
        match self.setting {
            OnFailure::Nothing => end("nothing: the VM is set so"),
            // The switching off that came before is a part of this one, and counted.
            OnFailure::Restart | OnFailure::Revert if matches!(self.stage, Stage::SwitchingOff(_)) => act,
            OnFailure::Restart | OnFailure::Revert if self.recoveries >= self.max_recoveries => {
                end(&format!("nothing: it was brought back {} times within the last hour", self.recoveries))
            }
            OnFailure::Restart | OnFailure::Revert => act,
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.ended, Some(OperationState::Done(_)))
    }

    /// An operation that ended with the service is begun once more, within the limit. Any other failure stands.
    fn after_failure(&self, again: Act) -> Act {
        match self.ended {
            Some(OperationState::Failed(Failure { reason: Reason::Interrupted, .. }))
                if self.recoveries < self.max_recoveries =>
            {
                again
            }
            Some(OperationState::Failed(failure)) => end(&format!("it could not be brought back: {failure}")),
            Some(OperationState::Done(_) | OperationState::Running) | None => end("it could not be brought back"),
        }
    }
}

fn end(why: &str) -> Act {
    Act::End(why.to_owned())
}

#[cfg(test)]
mod tests {
    use stillpoint_common::Outcome;

    use super::*;

    fn operation() -> OperationId {
        OperationId::generate()
    }

    fn failed(reason: Reason) -> OperationState {
        OperationState::Failed(Failure::new(reason, "why"))
    }

    fn situation<'a>(setting: OnFailure, stage: &'a Stage, found: Found) -> Situation<'a> {
        Situation { setting, stage, ended: None, found, has_parent: true, recoveries: 0, max_recoveries: 3 }
    }

    #[test]
    fn the_way_back_follows_from_setting_stage_and_what_is_found() {
        use Found::{Alive, Off, Panicked};
        use OnFailure::{Nothing, Restart, Revert};
        let off = Stage::SwitchingOff(operation());
        let cases = [
            (Nothing, Stage::Seen, Off, Some(end("nothing: the VM is set so"))),
            (Restart, Stage::Seen, Off, Some(Act::Start)),
            (Revert, Stage::Seen, Off, Some(Act::Revert)),
            (Restart, Stage::Seen, Panicked, Some(Act::SwitchOff)),
            (Revert, off.clone(), Off, Some(Act::Revert)),
            (Revert, Stage::Seen, Alive, Some(end("nothing: it was brought back by somebody"))),
            (Restart, Stage::Starting(operation()), Alive, Some(end("it was brought back"))),
            (Revert, Stage::Over(String::new()), Off, None),
        ];
        for (setting, stage, found, act) in cases {
            assert_eq!(situation(setting, &stage, found).act(), act, "{setting:?} {stage:?} {found:?}");
        }
        let first = Situation { has_parent: false, ..situation(Revert, &Stage::Seen, Off) };
        assert_eq!(first.act(), Some(Act::Start), "there is nothing to go back to");
    }

    #[test]
    fn it_is_bounded_and_what_is_begun_is_seen_through() {
        let too_often = Situation { recoveries: 3, ..situation(OnFailure::Revert, &Stage::Seen, Found::Off) };
        assert_eq!(too_often.act(), Some(end("nothing: it was brought back 3 times within the last hour")));
        let off = Stage::SwitchingOff(operation());
        let counted = Situation { recoveries: 3, ..situation(OnFailure::Revert, &off, Found::Off) };
        assert_eq!(counted.act(), Some(Act::Revert), "this is the third");
        let (reverting, starting) = (Stage::Reverting(operation()), Stage::Starting(operation()));
        let done = OperationState::Done(Outcome::Vm);
        let next =
            Situation { ended: Some(&done), recoveries: 3, ..situation(OnFailure::Revert, &reverting, Found::Off) };
        assert_eq!(next.act(), Some(Act::Start));
        let (interrupted, refused) = (failed(Reason::Interrupted), failed(Reason::LaunchFailed));
        let again = Situation { ended: Some(&interrupted), ..situation(OnFailure::Restart, &starting, Found::Off) };
        assert_eq!(again.act(), Some(Act::Start));
        let stands = Situation { ended: Some(&refused), ..situation(OnFailure::Restart, &starting, Found::Off) };
        assert_eq!(stands.act(), Some(end("it could not be brought back: why")));
        let last = Situation {
            ended: Some(&interrupted),
            recoveries: 3,
            ..situation(OnFailure::Restart, &starting, Found::Off)
        };
        assert!(matches!(last.act(), Some(Act::End(_))), "not for ever");
    }

    #[test]
    fn recoveries_are_forgotten_after_an_hour_and_a_vm_in_somebodys_hands_is_left_alone() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let first = FailureRecord::seen(None, Reason::GuestPanicked, InstanceId::generate(), OnFailure::Restart, at(0));
        let known = FailureRecord { recoveries: vec![at(0), at(10)], ..first };
        assert_eq!(known.lately(at(3599)).len(), 2);
        assert_eq!(known.lately(at(3605)), [at(10)]);
        let next = InstanceId::generate();
        let second = FailureRecord::seen(Some(known), Reason::VmStoppedUnexpectedly, next, OnFailure::Revert, at(3605));
        assert_eq!((second.recoveries.len(), &second.stage), (1, &Stage::Seen));
        assert!(second.is_of(next, Reason::VmStoppedUnexpectedly) && !second.is_of(next, Reason::GuestPanicked));
        let taken = second.taken_in_hand().unwrap();
        assert!(matches!(taken.stage, Stage::Over(_)) && taken.instance.is_none());
        assert_eq!(taken.taken_in_hand(), None, "nothing to write");
    }
}
