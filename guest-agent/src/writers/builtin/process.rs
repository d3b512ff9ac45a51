//! Runs one program of a built-in writer, for no longer than it may take.

use std::{io, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

/// What a program prints beyond this is not read.
const MAX_OUTPUT: u64 = 64 * 1024;
/// How long output is waited for once the program has ended: a child that it left behind may keep the pipe open.
const REST: Duration = Duration::from_millis(200);

/// A program that is to be run.
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [&'a str],
    pub(super) environment: Vec<(String, String)>,
    pub(super) input: String,
    pub(super) limit: Duration,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It ended by itself with this status; over 128: a signal.
    With { status: i32, output: String, complaint: String },
    /// It did not end in its time and was killed, with all that it had started.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// Dropping the future kills the program.
pub(super) async fn run(call: Call<'_>) -> Ended {
    let mut command = Command::new(call.program);
    command.args(call.arguments).envs(call.environment).current_dir("/").kill_on_drop(true).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(error.to_string()),
    };
    let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    let (output, complaint) = (read(child.stdout.take()), read(child.stderr.take()));
    if let Some(mut input) = child.stdin.take() {
        // A program that does not read what it is given is free not to; the pipe holds it all.
        let _ = timeout(REST, input.write_all(call.input.as_bytes())).await;
    }
    let ended = timeout(call.limit, child.wait()).await;
    if let Some(group) = group.filter(|_| !matches!(ended, Ok(Ok(_)))) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    match ended {
        Ok(Ok(status)) => {
            use std::os::unix::process::ExitStatusExt as _;
            let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            let complaint = rest(complaint).await;
            let complaint = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
            Ended::With { status, output: rest(output).await, complaint }
        }
        Ok(Err(error)) => Ended::NotStarted(error.to_string()),
        Err(_) => Ended::TimedOut,
    }
}

fn read(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<io::Result<Vec<u8>>> {
    tokio::spawn(async move {
        let mut text = Vec::new();
        if let Some(stream) = stream {
            stream.take(MAX_OUTPUT).read_to_end(&mut text).await?;
        }
        Ok(text)
    })
}

async fn rest(mut reading: JoinHandle<io::Result<Vec<u8>>>) -> String {
    let text = match timeout(REST, &mut reading).await {
        Ok(Ok(Ok(text))) => text,
        Ok(Ok(Err(_)) | Err(_)) => Vec::new(),
        Err(_) => {
            reading.abort();
            Vec::new()
        }
    };
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, limit: Duration) -> Ended {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        // Copied, not written: another thread's fork could keep a file open for writing, and it could not be run.
        std::fs::write(folder.path().join("text"), script).unwrap();
        let _ =
            std::process::Command::new("install").arg("-m755").arg(folder.path().join("text")).arg(&program).status();
        let environment = vec![("NAME".to_owned(), "value".to_owned())];
        run(Call { program: &program, arguments: &["freeze"], environment, input: "given\n".into(), limit }).await
    }

    #[tokio::test]
    async fn a_program_is_told_its_event_and_heard() {
        let script = "#!/bin/sh\nread line; echo \"$1 $NAME $line\"; echo first >&2; echo last >&2; exit 75";
        let ended = shell(script, Duration::from_secs(20)).await;
        let wanted = Ended::With { status: 75, output: "freeze value given\n".into(), complaint: "last".into() };
        assert_eq!(ended, wanted);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children_and_one_left_behind_is_not_waited_for() {
        let since = std::time::Instant::now();
        assert_eq!(shell("#!/bin/sh\nsleep 100 & sleep 100", Duration::from_millis(100)).await, Ended::TimedOut);
        let ended = shell("#!/bin/sh\nsleep 100 & exit 0", Duration::from_secs(20)).await;
        assert!(matches!(ended, Ended::With { status: 0, .. }), "{ended:?}");
        assert!(since.elapsed() < Duration::from_secs(60));
    }
}
