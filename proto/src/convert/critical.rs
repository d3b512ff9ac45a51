//! VMs that stand still because a disk could not be read or written, and what is to be done about them.

use stillpoint_common::{Critical, CriticalAction, CriticalSettings, Failure};

use super::{known, spec, time};
use crate::v1 as pb;

/// The settings as they travel.
#[must_use]
pub fn settings(settings: &CriticalSettings) -> pb::CriticalSettings {
    let action = match settings.action {
        CriticalAction::ResumeWhenSpace => pb::CriticalAction::ResumeWhenSpace,
        CriticalAction::Wait => pb::CriticalAction::Wait,
    };
    pb::CriticalSettings { action: action.into(), power_off_after: settings.power_off_after.map(time::duration) }
}

/// The settings that came; what is not set has its default.
///
/// # Errors
/// The field that is wrong.
pub fn parse_settings(settings: Option<&pb::CriticalSettings>, field: &str) -> Result<CriticalSettings, Failure> {
    let Some(settings) = settings else { return Ok(CriticalSettings::default()) };
    let action = match known(settings.action, &format!("{field}.action"))? {
        pb::CriticalAction::Unspecified | pb::CriticalAction::ResumeWhenSpace => CriticalAction::ResumeWhenSpace,
        pb::CriticalAction::Wait => CriticalAction::Wait,
    };
    let wrong = || Failure::field(format!("{field}.power_off_after"), "is no duration");
    let after = settings.power_off_after.as_ref();
    let after = after.map(|after| time::parse_duration(after).ok_or_else(wrong)).transpose()?;
    Ok(CriticalSettings { action, power_off_after: after.filter(|after| !after.is_zero()) })
}

/// Why a VM stands still, as it travels.
#[must_use]
pub fn status(critical: &Critical) -> pb::CriticalStatus {
    let path = |path: &Option<std::path::PathBuf>| path.as_deref().map(spec::text).unwrap_or_default();
    pb::CriticalStatus {
        disk: critical.disk.as_ref().map(ToString::to_string).unwrap_or_default(),
        no_space: critical.no_space,
        path: path(&critical.path),
        mounted_on: path(&critical.mounted_on),
        free_bytes: critical.free,
        since_time: critical.since.map(time::timestamp),
    }
}
