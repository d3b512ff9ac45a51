//! Commands in the guest, over a channel of the tests' own: independent of the agent, of the data disks and of the
//! network. The guest's end is `stillpoint-lab serve`; its source says what goes over the wire.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// The name of the virtio-serial port that the guest serves.
pub const PORT_NAME: &str = "org.stillpoint.lab.0";

/// How long an ordinary command may take.
pub const ORDINARY: Duration = Duration::from_secs(30);

/// How long one connection may stay without a first answer before it is dialled again: a guest may still be booting,
/// and QEMU can leave a port deaf after an earlier host died.
const REDIAL_AFTER: Duration = Duration::from_secs(10);

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Nobody answered in time.
    #[error("the guest did not answer `{command}` within {waited:?}")]
    Unanswered {
        /// What was asked.
        command: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection ended: the guest's QEMU is gone, or another host took the channel.
    #[error("the channel to the guest closed")]
    Closed,
    /// The command ran and failed.
    #[error("`{command}` ended with {status}: {output}")]
    Failed {
        /// What was asked.
        command: String,
        /// Its exit status; over 128: the signal.
        status: i32,
        /// What it printed.
        output: String,
    },
    /// The answer of a workload is not of the form that was expected.
    #[error("the guest answered `{0}`")]
    Unexpected(String),
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status; over 128: the signal that ended it.
    pub status: i32,
    /// Standard output and error together, without the last newline.
    pub output: String,
}

/// The host's end of the channel. Commands may run side by side; clones share the connection.
#[derive(Debug, Clone)]
pub struct LabChannel {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    command: String,
    answer: oneshot::Sender<Answer>,
}

impl LabChannel {
    /// Connects to the port's socket and waits until the guest answers, so a guest that is still booting, or whose
    /// QEMU is only about to start, is waited for.
    ///
    /// # Errors
    /// [`LabError::Unanswered`] if that takes longer than `within`.
    pub async fn connect(socket: &Path, within: Duration) -> Result<Self, LabError> {
        let end = Instant::now() + within;
        loop {
            if let Ok(stream) = UnixStream::connect(socket).await {
                let (requests, queue) = mpsc::channel(16);
                tokio::spawn(serve(stream, queue));
                let channel = Self { requests };
                let patience = REDIAL_AFTER.min(end.saturating_duration_since(Instant::now()));
                if channel.run_within("true", patience).await.is_ok() {
                    return Ok(channel);
                }
            }
            if Instant::now() >= end {
                return Err(LabError::Unanswered { command: "true".into(), waited: within });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a shell command, whatever it ends with.
    ///
    /// # Errors
    /// [`LabError::Unanswered`] or [`LabError::Closed`]; the command may then be running still.
    pub async fn run_within(&self, command: &str, limit: Duration) -> Result<Answer, LabError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { command: command.to_owned(), answer };
        let exchange = async {
            self.requests.send(request).await.map_err(|_| LabError::Closed)?;
            answered.await.map_err(|_| LabError::Closed)
        };
        let unanswered = LabError::Unanswered { command: command.to_owned(), waited: limit };
        timeout(limit, exchange).await.map_err(|_| unanswered)?
    }

    /// Runs a shell command that has to succeed, and gives its output.
    ///
    /// # Errors
    /// Also [`LabError::Failed`], if it did not.
    pub async fn sh(&self, command: &str) -> Result<String, LabError> {
        let Answer { status, output } = self.run_within(command, ORDINARY).await?;
        if status == 0 { Ok(output) } else { Err(LabError::Failed { command: command.into(), status, output }) }
    }

    /// Starts a workload of `stillpoint-lab`, such as `value cat Tom` or `counter c /data/count 2`, which goes on.
    ///
    /// # Errors
    /// As for [`LabChannel::sh`]. A workload that fails to start is noticed when it is asked.
    pub async fn start(&self, workload: &str) -> Result<(), LabError> {
        self.sh(&format!("setsid stillpoint-lab {workload} < /dev/null > /dev/console 2>&1 &")).await.map(drop)
    }

    /// Asks a running workload.
    ///
    /// # Errors
    /// As for [`LabChannel::sh`]; a check that found a difference is a failure.
    pub async fn ask(&self, name: &str, question: &str) -> Result<String, LabError> {
        self.sh(&format!("stillpoint-lab ask {name} {question}")).await
    }

    /// How a `counter` workload has fared since it was last told `reset`.
    ///
    /// # Errors
    /// As for [`LabChannel::sh`].
    pub async fn gap(&self, counter: &str) -> Result<Gap, LabError> {
        let text = self.ask(counter, "gap").await?;
        let [count, longest, errors] = numbers(&text)?;
        Ok(Gap { count, longest: Duration::from_micros(longest), errors })
    }

    /// The guest's clocks.
    ///
    /// # Errors
    /// As for [`LabChannel::sh`].
    pub async fn clock(&self) -> Result<GuestClock, LabError> {
        let text = self.sh("stillpoint-lab clock").await?;
        let [wall, boot] = numbers(&text)?;
        Ok(GuestClock { since_1970: Duration::from_nanos(wall), since_boot: Duration::from_nanos(boot) })
    }

    /// How far the guest's clock is from the host's, at least.
    ///
    /// # Errors
    /// As for [`LabChannel::sh`].
    pub async fn clock_off(&self) -> Result<Duration, LabError> {
        let since_1970 = |time: jiff::Timestamp| Duration::from_micros(time.as_microsecond().unsigned_abs());
        let before = since_1970(jiff::Timestamp::now());
        let guest = self.clock().await?.since_1970;
        let after = since_1970(jiff::Timestamp::now());
        Ok(before.saturating_sub(guest).max(guest.saturating_sub(after)))
    }
}

/// What a `counter` workload knows about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last count that is on disk.
    pub count: u64,
    /// The longest time between two durable counts, as the guest's clock saw it.
    pub longest: Duration,
    /// Writes that failed.
    pub errors: u64,
}

/// The guest's clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestClock {
    /// Its wall clock.
    pub since_1970: Duration,
    /// Its clock since boot, which stands still while the guest does.
    pub since_boot: Duration,
}

fn numbers<const N: usize>(text: &str) -> Result<[u64; N], LabError> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| LabError::Unexpected(text.to_owned()))
}

/// Owns the connection: sends each request under an id of its own, and hands each answer to who waits for it.
async fn serve(mut stream: UnixStream, mut requests: mpsc::Receiver<Request>) {
    let mut waiting = HashMap::new();
    let mut received = Vec::new();
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(Request { command, answer }) = request else { return };
                let id = uuid::Uuid::new_v4().simple().to_string();
                let escaped = command.replace('\\', "\\\\").replace('\n', "\\n");
                waiting.insert(id.clone(), answer);
                if stream.write_all(format!("\nRUN {id} {escaped}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
            read = stream.read_buf(&mut received) => {
                if !read.is_ok_and(|length| length > 0) {
                    return;
                }
                while let Some((id, answer)) = take_answer(&mut received) {
                    // one that nobody waits for was meant for an earlier host, or came too late
                    waiting.remove(&id).map(|waiting: oneshot::Sender<Answer>| waiting.send(answer));
                }
            }
        }
    }
}

/// Takes the first complete answer from what was received, and drops what comes before it.
fn take_answer(received: &mut Vec<u8>) -> Option<(String, Answer)> {
    let mut start = 0;
    while let Some(length) = received[start..].iter().position(|byte| *byte == b'\n') {
        let body = start + length + 1;
        if let Some((id, status, size)) = header(&received[start..body]) {
            let output = received.get(body..body + size)?;
            let output = String::from_utf8_lossy(output).trim_end_matches('\n').to_owned();
            received.drain(..body + size);
            return Some((id, Answer { status, output }));
        }
        start = body;
    }
    received.drain(..start);
    None
}

fn header(line: &[u8]) -> Option<(String, i32, usize)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    let (word, id, status, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
    (word == "DONE").then_some((id.to_owned(), status.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_behind_what_an_earlier_host_left_and_only_when_complete() {
        let mut received = b"rest of an old answer\n\nDONE a 3 6\nfai".to_vec();
        assert_eq!(take_answer(&mut received), None);
        received.extend(b"led\nDONE b 0 0\n");
        let failed = Answer { status: 3, output: "failed".into() };
        assert_eq!(take_answer(&mut received), Some(("a".into(), failed)));
        assert_eq!(take_answer(&mut received).map(|(id, _)| id).as_deref(), Some("b"));
        assert!(received.is_empty());
    }
}
