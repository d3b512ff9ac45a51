//! Trouble on request, for tests. Only there with the feature `fault-injection`.
//!
//! Which trouble stands in the environment (`STILLPOINT_FAULT`), in the file `/run/stillpoint.fault`, which is read
//! anew each time, or on the kernel's command line (`stillpoint.fault=`); the first that is set counts.
//!
//! | fault | what happens |
//! |---|---|
//! | `hang-in-freeze` | the freezer's thread stops for good once the first file system is frozen |
//! | `die-in-freeze` | the agent kills itself once the first file system is frozen |
//! | `slow-freeze` | two seconds pass after each file system |
//! | `hang-in-thaw` | the freezer's thread stops for good before it thaws |

use std::{fs, time::Duration};

fn wanted() -> Option<String> {
    let in_file = || fs::read_to_string("/run/stillpoint.fault").ok();
    let on_command_line = || {
        let line = fs::read_to_string("/proc/cmdline").ok()?;
        line.split_whitespace().find_map(|word| word.strip_prefix("stillpoint.fault=")).map(str::to_owned)
    };
    std::env::var("STILLPOINT_FAULT").ok().or_else(in_file).or_else(on_command_line)
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// A file system has been frozen.
pub fn after_freeze() {
    match wanted().as_deref().map(str::trim) {
        Some("hang-in-freeze") => hang(),
        Some("die-in-freeze") => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            hang()
        }
        Some("slow-freeze") => std::thread::sleep(Duration::from_secs(2)),
        Some(_) | None => {}
    }
}

/// The file systems are about to be thawed.
pub fn before_thaw() {
    if wanted().as_deref().map(str::trim) == Some("hang-in-thaw") {
        hang();
    }
}
