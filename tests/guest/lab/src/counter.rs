//! A writer that must not lose anything: it counts into a file, each count written and made durable, and
//! remembers the longest time between two durable counts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Outcome, ask};

/// What the writer knows about itself; locked only to read or note one durable count, never during I/O.
struct Progress {
    count: u64,
    errors: u64,
    last: Instant,
    longest: Duration,
}

/// Counts on from what `file` holds: `bytes` bytes and an fsync each `period` ms.
///
/// Asked `count` it says the last durable count; asked `gap` it says `COUNT LONGEST_US ERRORS`, the longest
/// time between two durable counts since the last `reset`, the one still running included. `reset` starts anew.
/// Time is the guest's: it does not see the guest standing still, only what holds up its writes.
pub(crate) fn count(name: &str, file: &str, period: u64, bytes: u64) -> Outcome {
    let failed = |e: std::io::Error| format!("{file}: {e}");
    let out = File::options().read(true).write(true).create(true).truncate(false).open(file).map_err(failed)?;
    let start = Progress { count: stored(&out), errors: 0, last: Instant::now(), longest: Duration::ZERO };
    let progress = Arc::new(Mutex::new(start));
    let asked = Arc::clone(&progress);
    ask::answer(name, move |question| match asked.lock() {
        Ok(mut progress) => progress.reply(question),
        Err(_) => "error: the writer failed".into(),
    })?;
    let bytes = usize::try_from(bytes).map_err(|e| e.to_string())?.max(16);
    loop {
        let next = progress.lock().map_err(|e| e.to_string())?.count + 1;
        let done = write(&out, next, bytes);
        progress.lock().map_err(|e| e.to_string())?.note(next, done.is_ok());
        thread::sleep(Duration::from_millis(period));
    }
}

fn stored(file: &File) -> u64 {
    let mut text = [0; 13];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    String::from_utf8_lossy(&text[..length]).trim().parse().unwrap_or(0)
}

fn write(file: &File, count: u64, bytes: usize) -> std::io::Result<()> {
    let mut block = format!("{count:012}\n").into_bytes();
    block.resize(bytes, b'.');
    file.write_all_at(&block, 0)?;
    file.sync_all()
}

impl Progress {
    fn note(&mut self, count: u64, durable: bool) {
        if !durable {
            self.errors += 1;
            return;
        }
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
        self.count = count;
    }

    fn reply(&mut self, question: &str) -> String {
        match question {
            "count" => self.count.to_string(),
            "gap" => {
                format!("{} {} {}", self.count, self.longest.max(self.last.elapsed()).as_micros(), self.errors)
            }
            "reset" => {
                (self.longest, self.errors) = (Duration::ZERO, 0);
                "ok".into()
            }
            _ => format!("error: `{question}`? ask: count | gap | reset"),
        }
    }
}
