//! The processes of the guest.

use std::fs;

/// The most processes that are looked at, and the most bytes of each command line.
const MOST: usize = 10_000;
const LONGEST: usize = 4_096;

/// A process, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The name of its program, without its folder; what it calls itself, where it has written over its command line.
    pub program: String,
    /// Its arguments, by spaces.
    pub command_line: String,
}

impl Process {
    /// The process that has this command line.
    #[must_use]
    pub fn of_command_line(line: &str) -> Self {
        let first = line.split_whitespace().next().unwrap_or_default();
        let program = first.rsplit('/').next().unwrap_or_default().trim_end_matches(':');
        Self { program: program.to_owned(), command_line: line.chars().take(LONGEST).collect() }
    }

    /// What is said of it. Arguments may hold passwords, so that they stay in the guest.
    pub(super) fn shown(&self) -> String {
        format!("process {}", self.program)
    }
}

/// The processes that run now; threads of the kernel have no command line and are not among them.
#[must_use]
pub fn running() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let folders = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_process)).map(|entry| entry.path());
    let lines = folders.take(MOST).filter_map(|folder| fs::read(folder.join("cmdline")).ok());
    lines.filter(|line| !line.is_empty()).map(|line| process(&line)).collect()
}

/// Arguments end with a zero byte each.
fn process(line: &[u8]) -> Process {
    let text: String = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]).into_owned();
    Process::of_command_line(text.replace('\0', " ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_those_that_run() {
        let here = std::env::current_exe().unwrap();
        let name = here.file_name().unwrap().to_string_lossy().into_owned();
        assert!(running().iter().any(|process| process.program == name), "{name}");
    }

    #[test]
    fn a_command_line_reads_by_its_arguments_or_by_what_the_process_calls_itself() {
        assert_eq!(process(b"/usr/bin/java\0kafka.Kafka\0"), Process::of_command_line("/usr/bin/java kafka.Kafka"));
        assert_eq!(process(b"postgres: walsender x\0").program, "postgres");
    }
}
