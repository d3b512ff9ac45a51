//! The guest's clocks, for tests that compare them with the host's.

use crate::Outcome;

/// `WALL_NS BOOT_NS`: nanoseconds since 1970 and since the guest was booted.
#[expect(clippy::disallowed_types, reason = "showing the guest's wall clock is what this command is for")]
pub(crate) fn now() -> Outcome {
    let wall = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_err(|_| "the clock stands before 1970".to_owned())?;
    let uptime = std::fs::read_to_string("/proc/uptime").map_err(|e| e.to_string())?;
    let hundredths: String = uptime.split(' ').next().unwrap_or("0").chars().filter(char::is_ascii_digit).collect();
    Ok(format!("{} {hundredths}0000000", wall.as_nanos()))
}
