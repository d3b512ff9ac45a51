//! Runs qemu-img: its progress, its deadlines, its errors in the port's words.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use stillpoint_common::Progress;
use stillpoint_engine::ports::{ImageError, Moved, ProgressSink, Stop};
use tokio::{
    io::AsyncReadExt,
    process::{ChildStderr, ChildStdout, Command},
};

use crate::attached::{tells_of_no_space, words};

/// One call of the tool. It ends with its future.
pub(super) struct Tool<'a> {
    pub(super) program: &'a Path,
    /// The file that an error is about.
    pub(super) subject: &'a Path,
}

impl Tool<'_> {
    /// Runs to the end within this time; answers what it printed.
    pub(super) async fn quick(&self, within: Duration, arguments: Vec<OsString>) -> Result<Vec<u8>, ImageError> {
        let what = self.name(&arguments);
        let mut command = self.command(arguments);
        let output = tokio::time::timeout(within, command.output()).await;
        let output = output.map_err(|_| failed(&what, format!("it did not end within {within:?}")))?;
        let output = output.map_err(|error| failed(&what, error.to_string()))?;
        self.check(&what, &output)?;
        Ok(output.stdout)
    }

    /// Runs to the end, however long it takes. `total` is what 100 % of its progress stands for.
    pub(super) async fn long(
        &self,
        total: u64,
        progress: &ProgressSink,
        arguments: Vec<OsString>,
    ) -> Result<(), ImageError> {
        self.until(&Stop::new(), total, progress, arguments).await.map(drop)
    }

    /// The same, until it is asked to stop: then it is killed, and has ended when this returns.
    pub(super) async fn until(
        &self,
        stop: &Stop,
        total: u64,
        progress: &ProgressSink,
        arguments: Vec<OsString>,
    ) -> Result<Moved, ImageError> {
        let what = self.name(&arguments);
        let gone = |error: std::io::Error| failed(&what, error.to_string());
        let mut child = self.command(arguments).spawn().map_err(gone)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let told = async { tokio::join!(report(stdout, total, progress), read(stderr)).1 };
        let (stderr, status) = tokio::select! {
            biased;
            ended = async { tokio::join!(told, child.wait()) } => ended,
            () = stop.asked() => {
                child.kill().await.map_err(gone)?;
                return Ok(Moved::Stopped);
            }
        };
        let (stdout, status) = (Vec::new(), status.map_err(gone)?);
        self.check(&what, &Output { status, stdout, stderr })?;
        progress(Progress { done: total, total });
        Ok(Moved::Whole)
    }

    fn name(&self, arguments: &[OsString]) -> String {
        let verb = arguments.first().map(|verb| verb.to_string_lossy().into_owned()).unwrap_or_default();
        format!("{} {verb}", self.program.display())
    }

    fn command(&self, arguments: Vec<OsString>) -> Command {
        let mut command = Command::new(self.program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its messages are compared with.
        command.env("LC_ALL", "C").kill_on_drop(true);
        command
    }

    fn check(&self, what: &str, output: &Output) -> Result<(), ImageError> {
        if output.status.success() {
            return Ok(());
        }
        let message = words(&output.stderr).unwrap_or_else(|| output.status.to_string());
        Err(classified(what, self.subject, message))
    }
}

/// What the tool's words mean.
fn classified(what: &str, subject: &Path, message: String) -> ImageError {
    const DAMAGED: [&str; 8] = [
        "not in qcow2 format",
        "signature",
        "Unsupported qcow2 version",
        "Unsupported",
        "corrupt",
        "Invalid argument",
        "invalid",
        "Could not read",
    ];
    let path = PathBuf::from(subject);
    let says = |text: &str| message.contains(text);
    if tells_of_no_space(&message) {
        ImageError::NoSpace { path }
    } else if says("Failed to get") && says("lock") || says("already in use") {
        ImageError::InUse { path, message }
    } else if says("No such file or directory") && !subject.exists() {
        ImageError::Missing { path }
    } else if DAMAGED.iter().any(|text| says(text)) {
        ImageError::Unusable { path, message }
    } else if says(&path.to_string_lossy()) {
        failed(what, message)
    } else {
        failed(&format!("{what}, {}", path.display()), message)
    }
}

pub(super) fn failed(what: &str, message: String) -> ImageError {
    ImageError::Failed { what: what.to_owned(), message }
}

/// Reads `    (12.34/100%)\r` until the end.
async fn report(stdout: Option<ChildStdout>, total: u64, progress: &ProgressSink) {
    let Some(mut stdout) = stdout else { return };
    let mut bytes = [0; 256];
    while let Ok(count) = stdout.read(&mut bytes).await {
        if count == 0 {
            return;
        }
        if let Some(done) = share(&String::from_utf8_lossy(&bytes[..count]), total) {
            progress(Progress { done, total });
        }
    }
}

/// What it complains of.
async fn read(stderr: Option<ChildStderr>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stderr) = stderr {
        // What cannot be read is not quoted.
        let _ = stderr.read_to_end(&mut bytes).await;
    }
    bytes
}

/// The last percentage in the text, as a share of the total.
fn share(text: &str, total: u64) -> Option<u64> {
    let (before, _) = text.rsplit_once("/100%)")?;
    let (_, percent) = before.rsplit_once('(')?;
    let (whole, hundredths) = percent.split_once('.')?;
    let parts = whole.trim().parse::<u64>().ok()?.checked_mul(100)? + hundredths.get(..2)?.parse::<u64>().ok()?;
    u64::try_from(u128::from(total) * u128::from(parts.min(10_000)) / 10_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_what_is_printed() {
        assert_eq!(share("    (50.00/100%)\r", 1000), Some(500));
        assert_eq!(share("    (1.00/100%)\r    (12.34/100%)\r    (13.", 10_000), Some(1234));
        assert_eq!(share("    (100.00/100%)\n", 7), Some(7));
        for odd in ["", "(/100%)", "(x.yy/100%)", "12/100%)", "(1.é/100%)"] {
            assert_eq!(share(odd, 1000), None, "{odd}");
        }
    }

    #[test]
    fn errors_are_told_apart() {
        let missing = Path::new("/no/such/file");
        let said = |text: &str| classified("qemu-img info", missing, text.to_owned());
        assert!(matches!(said("Could not open 'x': No such file or directory"), ImageError::Missing { .. }));
        assert!(matches!(said("Failed to get \"write\" lock"), ImageError::InUse { .. }));
        assert!(matches!(said("error while writing: No space left on device"), ImageError::NoSpace { .. }));
        assert!(matches!(said("Image is not in qcow2 format"), ImageError::Unusable { .. }));
        assert!(matches!(said("Permission denied"), ImageError::Failed { .. }));
        let named = said("Error while writing to COW image: Input/output error").to_string();
        assert!(named.contains("/no/such/file"), "the tool names no file: {named}");
    }
}
