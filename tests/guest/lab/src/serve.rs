//! The guest's end of the command channel: shell commands in, their output and exit status out.
//!
//! ```text
//! host → guest   RUN  ID COMMAND\n                  a newline in COMMAND is written \n, a backslash \\
//! guest → host   DONE ID STATUS LENGTH\n BYTES      BYTES: standard output and error, as they came
//! ```
//! Lines of one host can end in the middle when it goes; each request therefore begins with an empty line, and
//! an answer is known by its id, which the host draws at random. Commands run side by side: one that hangs
//! (because it writes to a frozen file system, say) does not hold up the next.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::{Outcome, port};

const LONGEST_OUTPUT: u64 = 1024 * 1024;

/// Serves until the port is gone.
pub(crate) fn serve() -> Outcome {
    let mut port = port::open()?;
    let writer = port.try_clone().map_err(|e| e.to_string())?;
    let writer = Arc::new(Mutex::new(writer)); // held while one answer is written, so that answers do not mix
    let mut pending = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = port.read(&mut buffer).map_err(|e| e.to_string())?;
        if length == 0 {
            thread::sleep(Duration::from_millis(20)); // no host is connected
            continue;
        }
        pending.extend_from_slice(&buffer[..length]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if let Some((id, command)) = parse(&String::from_utf8_lossy(&line)) {
                let writer = Arc::clone(&writer);
                thread::spawn(move || drop(answer(&id, &command, &writer)));
            }
        }
    }
}

fn parse(line: &str) -> Option<(String, String)> {
    let (id, escaped) = line.trim_end().strip_prefix("RUN ")?.split_once(' ')?;
    let mut command = String::new();
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => command.push('\n'),
            ('\\', Some(other)) => command.push(other),
            (c, _) => command.push(c),
        }
    }
    Some((id.to_owned(), command))
}

fn answer(id: &str, command: &str, port: &Mutex<File>) -> std::io::Result<()> {
    let (status, output) = run(id, command).unwrap_or_else(|e| (127, format!("cannot run it: {e}").into_bytes()));
    let mut message = format!("\nDONE {id} {status} {}\n", output.len()).into_bytes();
    message.extend(output);
    match port.lock() {
        Ok(mut port) => port.write_all(&message),
        Err(_) => Ok(()),
    }
}

/// The output goes through a file in memory: a process that the command leaves behind may keep it open without
/// holding up the answer, as it would with a pipe.
fn run(id: &str, command: &str) -> std::io::Result<(i32, Vec<u8>)> {
    let safe: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    std::fs::create_dir_all("/run/lab")?;
    let path = format!("/run/lab/{safe}.out");
    let out = File::create(&path)?;
    let status = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()?;
    let mut output = Vec::new();
    File::open(&path)?.take(LONGEST_OUTPUT).read_to_end(&mut output)?;
    std::fs::remove_file(&path)?;
    Ok((status.code().unwrap_or(128 + status.signal().unwrap_or(0)), output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_several_lines_comes_through_and_rubbish_does_not() {
        let (id, command) = parse("RUN 4f echo a\\necho 'b\\\\n'\n").unwrap();
        assert_eq!((id.as_str(), command.as_str()), ("4f", "echo a\necho 'b\\n'"));
        assert_eq!(parse("o a\n"), None);
        assert_eq!(parse("\n"), None);
        assert_eq!(parse("RUN \n"), None);
    }
}
