//! Watching over a VM that stands still because a disk could not be read or written.
//!
//! ```text
//!  the hypervisor says so, or ──▶ watched ── it goes on, or is off ──▶ not watched
//!  it is found so at the start     │  ▲
//!                                  │  └── look: no space yet, or it is not to go on by itself
//!                                  ├── space is back ──▶ resume  } operations that the engine gives itself
//!                                  └── its time is over ──▶ off  }
//! ```
//!
//! Since when it stands still is written down, so that its time is the same over a restart of the service. While an
//! operation is at work nobody looks; it is looked at once when that has ended.

use std::time::Duration;

use stillpoint_common::{Critical, CriticalAction, CriticalSettings, Event, EventKind, Failure, InstanceId};
use tokio::time::Instant;

use super::VmActor;
use crate::{
    Request, StopMode,
    catalogue::{Changes, Standstill},
    error::StepError,
    job::Job,
    plans,
};

/// The longest time for which a VM that has gone on several times, each time only to stop again, is left alone.
const SELDOM: Duration = Duration::from_secs(60);

/// When to look at a VM again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    next: Option<Instant>,
    /// When it was last resumed by us, and how long it is left alone from then on.
    resumed: Option<(Instant, Duration)>,
}

/// What to do about a VM that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Look again after this time.
    Wait(Duration),
    Resume,
    PowerOff,
}

/// What is true when one looks.
struct Seen {
    settings: CriticalSettings,
    no_space: bool,
    /// Bytes that are free, if that is known.
    free: Option<u64>,
    /// Bytes that must be free for it to go on.
    enough: u64,
    /// How long it has stood still.
    stood: Duration,
    /// The time between two looks.
    pause: Duration,
}

/// Going on comes before switching off: space that came back in the last moment is in time.
fn decide(seen: &Seen) -> Act {
    let back = seen.no_space && seen.free.is_some_and(|free| free >= seen.enough);
    match (seen.settings.action, seen.settings.power_off_after) {
        (CriticalAction::ResumeWhenSpace, _) if back => Act::Resume,
        (_, Some(limit)) if seen.stood >= limit => Act::PowerOff,
        (_, Some(limit)) => Act::Wait(seen.pause.min(limit.saturating_sub(seen.stood))),
        (CriticalAction::ResumeWhenSpace | CriticalAction::Wait, None) => Act::Wait(seen.pause),
    }
}

impl Watch {
    fn look_after(&mut self, pause: Duration) {
        self.next = Some(Instant::now() + pause);
    }

    /// How long it is to be left alone before we resume it again.
    fn too_soon(&self) -> Option<Duration> {
        let (at, pause) = self.resumed?;
        pause.checked_sub(at.elapsed()).filter(|left| !left.is_zero())
    }

    /// It is resumed now, and looked at when that is done. One that stops again soon is resumed ever more seldom.
    fn note_resume(&mut self, usual: Duration) {
        let soon = self.resumed.filter(|(at, pause)| at.elapsed() < pause.saturating_add(SELDOM));
        let pause = soon.map_or(usual, |(_, pause)| pause.saturating_mul(2).min(SELDOM.max(usual)));
        self.resumed = Some((Instant::now(), pause));
        self.next = Some(Instant::now());
    }
}

impl VmActor {
    /// Something may have stopped this VM: it is looked at as soon as nothing is at work on it.
    pub(super) fn suspect(&mut self) {
        self.critical.next = self.critical.next.or(Some(Instant::now()));
    }

    /// What is to be done about it may have changed: a VM that is watched is looked at anew.
    pub(super) fn suspect_if_watched(&mut self) {
        self.critical.next = self.critical.next.map(|_| Instant::now());
    }

    /// It does not stand still now. If it did when the service was last there, that is over, and will be written down.
    pub(super) async fn suspect_if_it_stood(&mut self) {
        if self.world.catalogue.standstill(&self.vm).await.is_ok_and(|known| known.is_some()) {
            self.suspect();
        }
    }

    /// The hypervisor has stopped an instance.
    pub(super) async fn stopped(&mut self, instance: Option<InstanceId>) {
        let vm = self.world.catalogue.vm(&self.vm).await;
        if vm.is_ok_and(|vm| vm.instance.is_some() && (instance.is_none() || vm.instance == instance)) {
            self.suspect();
        }
    }

    /// When to look at the VM, if it is watched and nothing is at work on it.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let makes_way = |(_, makes_way): (_, bool)| makes_way;
        self.critical.next.filter(|_| self.busy().is_none_or(makes_way))
    }

    /// Looks whether the VM stands still by itself, and does what is to be done about it.
    pub(super) async fn look(&mut self) {
        let pause = self.world.config.space.look;
        match (self.look_at_standstill(pause).await, self.critical.too_soon()) {
            (Ok(None), _) => self.critical.next = None,
            (Ok(Some(Act::Wait(pause))), _) | (Ok(Some(Act::Resume)), Some(pause)) => self.critical.look_after(pause),
            (Ok(Some(Act::Resume)), None) => {
                tracing::info!(vm = %self.vm, "there is space again: the VM goes on");
                self.critical.note_resume(pause);
                self.begin_own(Request::Resume).await;
            }
            (Ok(Some(Act::PowerOff)), _) => {
                tracing::warn!(vm = %self.vm, "the VM has stood still for too long without space: it is switched off");
                self.critical.look_after(pause);
                self.begin_own(Request::Stop(StopMode::TurnOff)).await;
            }
            (Err(failure), _) => {
                tracing::warn!(vm = %self.vm, %failure, "the VM could not be looked at");
                self.critical.look_after(pause);
            }
        }
    }

    async fn look_at_standstill(&self, pause: Duration) -> Result<Option<Act>, Failure> {
        let vm = self.world.catalogue.vm(&self.vm).await?;
        let known = self.world.catalogue.standstill(&self.vm).await?;
        let (Some(critical), Some(instance)) = (plans::find_critical(&self.world, &vm).await?, vm.instance) else {
            if known.is_some() {
                self.write_down(
                    Changes::default()
                        .clear_standstill(&self.vm)
                        .event(&self.event(EventKind::VmCriticalOver, "it stands still no longer")),
                )
                .await?;
            }
            return Ok(None);
        };
        let since = match known.filter(|known| known.instance == instance) {
            Some(known) => known.since,
            None => self.note_standstill(&critical, instance).await?,
        };
        let seen = Seen {
            settings: vm.critical,
            no_space: critical.no_space,
            free: critical.free,
            enough: self.world.config.space.layer_room,
            stood: Duration::try_from(self.now().duration_since(since)).unwrap_or_default(),
            pause,
        };
        Ok(Some(decide(&seen)))
    }

    async fn note_standstill(&self, critical: &Critical, instance: InstanceId) -> Result<jiff::Timestamp, Failure> {
        tracing::warn!(vm = %self.vm, path = ?critical.path, free = ?critical.free, "the VM stands still: {critical}");
        let standstill = Standstill { since: self.now(), instance };
        let event = self.event(EventKind::VmCritical, format!("it stands still: {critical}"));
        self.write_down(Changes::default().set_standstill(&self.vm, &standstill).event(&event)).await?;
        Ok(standstill.since)
    }

    /// Something that has happened to this VM, now.
    pub(super) fn event(&self, kind: EventKind, text: impl Into<String>) -> Event {
        Event::of_vm(self.now(), kind, &self.vm, text)
    }

    async fn write_down(&self, changes: Changes) -> Result<(), Failure> {
        Ok(self.world.catalogue.commit(changes).await.map_err(StepError::from)?)
    }

    /// Begins an operation that nobody asked for.
    async fn begin_own(&mut self, request: Request) {
        let job = Job::new(request.kind(), self.vm.clone(), Some(request), self.now());
        match self.enlist(&job, Changes::default().set_job(&job)).await {
            Ok(()) if self.running.is_some() => self.wait_for_way(job),
            Ok(()) => self.begin(job),
            Err(failure) => tracing::warn!(vm = %self.vm, %failure, "an operation could not be begun"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(action: CriticalAction, power_off_after: Option<u64>, free: Option<u64>, stood: u64) -> Seen {
        let power_off_after = power_off_after.map(Duration::from_secs);
        let settings = CriticalSettings { action, power_off_after };
        Seen { settings, no_space: true, free, enough: 10, stood: Duration::from_secs(stood), pause: 5 * SECOND }
    }

    #[test]
    fn what_is_done_follows_from_settings_space_and_time() {
        use CriticalAction::{ResumeWhenSpace, Wait};
        let cases = [
            (ResumeWhenSpace, None, Some(10), 0, Act::Resume),
            (ResumeWhenSpace, None, Some(9), 9_999, Act::Wait(5 * SECOND)),
            (ResumeWhenSpace, None, None, 9_999, Act::Wait(5 * SECOND)),
            (ResumeWhenSpace, Some(60), Some(9), 60, Act::PowerOff),
            (ResumeWhenSpace, Some(60), Some(10), 60, Act::Resume),
            (ResumeWhenSpace, Some(60), Some(9), 58, Act::Wait(2 * SECOND)),
            (Wait, None, Some(10), 9_999, Act::Wait(5 * SECOND)),
            (Wait, Some(60), Some(10), 59, Act::Wait(SECOND)),
            (Wait, Some(60), Some(10), 61, Act::PowerOff),
        ];
        for (action, limit, free, stood, act) in cases {
            assert_eq!(decide(&seen(action, limit, free, stood)), act, "{action:?} {limit:?} {free:?} {stood}");
        }
        let broken = Seen { no_space: false, ..seen(ResumeWhenSpace, None, Some(10), 0) };
        assert_eq!(decide(&broken), Act::Wait(5 * SECOND), "a broken disk is not mended by space");
    }

    #[tokio::test(start_paused = true)]
    async fn a_vm_that_stops_again_and_again_is_resumed_ever_more_seldom() {
        let mut watch = Watch::default();
        assert_eq!(watch.too_soon(), None);
        let mut pauses = vec![];
        for _ in 0..6 {
            watch.note_resume(5 * SECOND);
            let left = watch.too_soon().unwrap();
            pauses.push(left.as_secs());
            tokio::time::advance(left).await;
            assert_eq!(watch.too_soon(), None);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        tokio::time::advance(SELDOM).await;
        watch.note_resume(5 * SECOND);
        assert_eq!(watch.too_soon(), Some(5 * SECOND), "it has run well for a while");
    }
}
