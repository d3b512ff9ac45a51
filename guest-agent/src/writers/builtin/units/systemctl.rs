//! Speaks to systemd through its own program.

use std::{path::PathBuf, time::Duration};

use super::super::{
    folder::understood,
    process::{Call, run},
};
use crate::writers::registration::Failure;

/// The program.
#[derive(Debug, Clone)]
pub(super) struct Systemctl {
    pub(super) program: PathBuf,
}

/// What systemd knows of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its cgroup; none: none of its processes runs.
    pub(super) cgroup: Option<String>,
    /// It runs, and would have to be stopped.
    pub(super) active: bool,
    /// There is a unit of this name.
    pub(super) known: bool,
}

impl Systemctl {
    pub(super) async fn show(&self, unit: &str, limit: Duration) -> Result<Unit, Failure> {
        let told =
            self.call(&["show", "--property=LoadState,ActiveState,ControlGroup", "--", unit], unit, limit).await?;
        Ok(Unit::read(&told))
    }

    /// When this answers, it has stopped.
    pub(super) async fn stop(&self, unit: &str, limit: Duration) -> Result<(), Failure> {
        self.call(&["stop", "--", unit], unit, limit).await.map(drop)
    }

    /// When this answers, it has started.
    pub(super) async fn start(&self, unit: &str, limit: Duration) -> Result<(), Failure> {
        self.call(&["start", "--", unit], unit, limit).await.map(drop)
    }

    async fn call(&self, arguments: &[&str], unit: &str, limit: Duration) -> Result<String, Failure> {
        let call = Call { program: &self.program, arguments, environment: Vec::new(), input: String::new(), limit };
        understood(run(call).await, limit).map_err(|failure| {
            let verb = arguments.first().copied().unwrap_or_default();
            Failure { message: format!("systemctl {verb} {unit}: {}", failure.message), ..failure }
        })
    }
}

impl Unit {
    fn read(told: &str) -> Self {
        let mut unit = Self::default();
        for (key, value) in told.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "LoadState" => unit.known = !matches!(value, "not-found" | ""),
                "ActiveState" => unit.active = matches!(value, "active" | "activating" | "reloading"),
                "ControlGroup" => unit.cgroup = Some(value.to_owned()).filter(|value| !value.is_empty()),
                _ => {}
            }
        }
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_of_a_unit_is_read() {
        let unit = Unit::read("LoadState=loaded\nActiveState=active\nControlGroup=/system.slice/a.service\n");
        assert_eq!(unit, Unit { cgroup: Some("/system.slice/a.service".into()), active: true, known: true });
        assert_eq!(Unit::read("LoadState=not-found\nActiveState=inactive\nControlGroup=\n"), Unit::default());
        assert!(!Unit::read("LoadState=loaded\nActiveState=failed\n").active);
    }
}
