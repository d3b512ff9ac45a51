//! Starting, stopping, pausing and resuming a VM.

use async_trait::async_trait;
use stillpoint_common::{Accelerator, Failure, GuestService, InstanceId, Reason};
use tokio::time::{Duration, Instant, sleep};

use super::{automatic::at_clean_stop, disks::verify_layers, machine::launch};
use crate::{
    StopMode,
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::Facts,
    ports::{HypervisorError, PowerAction, RunState, StartMode},
    saga::{Nature, Plan, Step},
};

/// How often to look whether a guest has switched itself off.
const LOOK: Duration = Duration::from_millis(100);

/// What to do about a VM's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    Start(InstanceId),
    Stop(InstanceId, StopMode),
    Pause(InstanceId),
    Resume(InstanceId),
}

/// The plan of one change of power.
pub(super) struct PowerPlan {
    power: Power,
    accelerator: Option<Accelerator>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PowerStep {
    Launch,
    MarkStarted,
    Run,
    AskGuest,
    AwaitOff,
    Retire,
    MarkOff,
    StandStill,
}

use PowerStep as S;

const START: &[&[S]] = &[&[S::Launch], &[S::MarkStarted], &[S::Run]];
const STOP_GRACEFUL: &[&[S]] = &[&[S::AskGuest, S::AwaitOff, S::Retire], &[S::MarkOff]];
const TURN_OFF: &[&[S]] = &[&[S::Retire], &[S::MarkOff]];
const PAUSE: &[&[S]] = &[&[S::StandStill]];
const RESUME: &[&[S]] = &[&[S::Run]];

impl Step for PowerStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::Launch => Some("launch"),
            Self::AwaitOff => Some("shutdown"),
            Self::MarkStarted | Self::Run | Self::AskGuest | Self::Retire | Self::MarkOff | Self::StandStill => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::MarkStarted | Self::MarkOff => Nature::Commit,
            // A process that nobody knows of would keep the disks.
            Self::Launch => Nature::Vital,
            Self::Run | Self::AskGuest | Self::AwaitOff | Self::Retire | Self::StandStill => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for PowerPlan {
    type Step = PowerStep;

    fn bursts(&self) -> &'static [&'static [PowerStep]] {
        match self.power {
            Power::Start(_) => START,
            Power::Stop(_, StopMode::Graceful) => STOP_GRACEFUL,
            Power::Stop(_, StopMode::TurnOff) => TURN_OFF,
            Power::Pause(_) => PAUSE,
            Power::Resume(_) => RESUME,
        }
    }

    fn facts(&self) -> Facts {
        match self.power {
            Power::Start(instance) => Facts::Start { instance },
            Power::Stop(..) | Power::Pause(_) | Power::Resume(_) => Facts::None,
        }
    }

    async fn ensure(&mut self, step: PowerStep, cx: &Cx) -> Result<Changes, StepError> {
        let instance = self.instance();
        match step {
            S::Launch => self.launch(cx).await?,
            S::MarkStarted => return self.mark(cx, Some(instance)).await,
            S::Run => cx.ports().hypervisor.resume(instance).await?,
            S::AskGuest => ask_guest(cx, instance).await?,
            S::AwaitOff => await_off(cx, instance).await?,
            S::Retire => {
                cx.ports().guest.forget(instance).await;
                cx.ports().hypervisor.retire(instance).await?;
            }
            S::MarkOff => return self.mark(cx, None).await,
            S::StandStill => cx.ports().hypervisor.pause(instance).await?,
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: PowerStep, cx: &Cx) -> Result<(), StepError> {
        match step {
            S::Launch => Ok(cx.ports().hypervisor.retire(self.instance()).await?),
            S::MarkStarted | S::Run | S::AskGuest | S::AwaitOff | S::Retire | S::MarkOff | S::StandStill => Ok(()),
        }
    }
}

impl PowerPlan {
    pub(super) const fn new(power: Power) -> Self {
        Self { power, accelerator: None }
    }

    const fn instance(&self) -> InstanceId {
        match self.power {
            Power::Start(instance) | Power::Stop(instance, _) | Power::Pause(instance) | Power::Resume(instance) => {
                instance
            }
        }
    }

    async fn launch(&mut self, cx: &Cx) -> Result<(), StepError> {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let forest = cx.catalogue().forest(&cx.vm).await?;
        verify_layers(cx.ports(), &forest, &vm.heads).await?;
        let launched = launch(cx, vm, &forest, self.instance(), StartMode::Fresh).await?;
        self.accelerator = Some(launched.accelerator);
        Ok(())
    }

    async fn mark(&self, cx: &Cx, instance: Option<InstanceId>) -> Result<Changes, StepError> {
        let mut vm = cx.catalogue().vm(&cx.vm).await?;
        vm.instance = instance;
        if instance.is_some() {
            vm.host_boot.clone_from(&cx.world.config.host_boot);
        }
        vm.accelerator = self.accelerator.clone().or(vm.accelerator);
        vm.updated = cx.ports().clock.now();
        let changes = match self.power {
            Power::Stop(_, StopMode::Graceful) => at_clean_stop(cx, &mut vm).await?,
            Power::Stop(_, StopMode::TurnOff) | Power::Start(_) | Power::Pause(_) | Power::Resume(_) => {
                Changes::default()
            }
        };
        Ok(changes.set_vm(&vm))
    }
}

/// Through the agent; through the power button where no agent answers, or is to be asked.
async fn ask_guest(cx: &Cx, instance: InstanceId) -> Result<(), StepError> {
    if cx.catalogue().vm(&cx.vm).await?.settings.services_off.contains(&GuestService::Shutdown) {
        return Ok(cx.ports().hypervisor.press_power_button(instance).await?);
    }
    if let Err(error) = cx.ports().guest.power(instance, PowerAction::PowerOff).await {
        tracing::info!(vm = %cx.vm, %error, "no agent to ask for a shutdown, pressing the power button");
        cx.ports().hypervisor.press_power_button(instance).await?;
    }
    Ok(())
}

async fn await_off(cx: &Cx, instance: InstanceId) -> Result<(), StepError> {
    let limit = cx.world.config.graceful_stop;
    let until = Instant::now() + limit;
    while Instant::now() < until {
        match cx.ports().hypervisor.observe(instance).await {
            Ok(observed) => match observed.run {
                RunState::Gone | RunState::ShutDown => return Ok(()),
                RunState::AwaitingMemory
                | RunState::Paused
                | RunState::Running
                | RunState::Panicked
                | RunState::Critical(_) => {}
            },
            // A process on its way out may not answer any more.
            Err(HypervisorError::Gone | HypervisorError::Unanswered { .. } | HypervisorError::Io { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        sleep(LOOK).await;
    }
    let message = format!("the guest did not switch itself off within {} s", limit.as_secs());
    Err(Failure::new(Reason::GuestTimedOut, message).into())
}
