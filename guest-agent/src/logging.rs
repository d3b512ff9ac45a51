//! Log lines that never wait for a disk.
//!
//! Lines go through a bounded queue to a thread that writes them to standard error, or to the kernel's log if standard
//! error is a file that does not live in memory: its file system may be frozen. A line that finds the queue full is dropped, and
//! the next one that finds room says how many were.

use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
};

use rustix::fs::FileType;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Lines that wait, at most.
const QUEUE: usize = 256;

/// Where the lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Standard error, unless that is a file.
    StandardError,
    /// The kernel's log.
    Kernel,
}

/// Starts the thread and takes all events of this program.
///
/// # Errors
/// If there is no thread to be had, or someone takes the events already.
pub fn start(sink: Sink, level: Level) -> io::Result<()> {
    let (lines, queued) = sync_channel::<String>(QUEUE);
    let mut output = open(sink);
    std::thread::Builder::new().name("log".to_owned()).stack_size(64 * 1024).spawn(move || {
        for line in queued {
            // A line that cannot be written has nowhere else to go.
            let _ = output.write_all(line.as_bytes());
        }
    })?;
    let log = Log { lines, level, dropped: AtomicUsize::new(0) };
    tracing::subscriber::set_global_default(log).map_err(io::Error::other)
}

fn open(sink: Sink) -> Box<dyn Write + Send> {
    if sink == Sink::StandardError && !may_be_frozen() {
        return Box::new(io::stderr());
    }
    match OpenOptions::new().write(true).open("/dev/kmsg") {
        Ok(kernel) => Box::new(KernelLog(kernel)),
        Err(_) => Box::new(io::sink()),
    }
}

/// Standard error is a file on something else than memory.
fn may_be_frozen() -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58F6;
    let stderr = rustix::stdio::stderr();
    let file =
        rustix::fs::fstat(stderr).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    file && !rustix::fs::fstatfs(stderr).is_ok_and(|fs| [TMPFS, RAMFS].contains(&fs.f_type))
}

/// The kernel takes one line a write.
struct KernelLog(File);

impl Write for KernelLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(&line[..line.len().min(900)])?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Log {
    lines: SyncSender<String>,
    level: Level,
    dropped: AtomicUsize,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.level() <= &self.level && metadata.target().starts_with("stillpoint")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("stillpoint-agent: {}:", event.metadata().level()));
        event.record(&mut line);
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            // Writing to a string does not fail.
            let _ = write!(line.0, " ({dropped} lines before this were dropped)");
        }
        line.0.push('\n');
        if self.lines.try_send(line.0).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
