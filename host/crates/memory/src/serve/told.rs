//! Tells how far it is and how it has ended. No guest waits for that, and no VM ends for want of it.

use std::{io, path::Path, thread::sleep, time::Duration};

use stillpoint_engine::served::{Served, ServedEnd};
use tokio::time::Instant;

/// How often it is told how far it is.
const TELL: Duration = Duration::from_millis(100);
/// How often the last word is tried, and the time between: a file system that is full has room again, or has none.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Telling<'a> {
    folder: &'a Path,
    told: Served,
    last: Option<Instant>,
    /// It could not be told the last time.
    in_vain: bool,
}

impl<'a> Telling<'a> {
    pub(super) fn new(folder: &'a Path) -> Self {
        Self { folder, told: Served::default(), last: None, in_vain: false }
    }

    /// That so many of all pages have gone, if it is time to tell it again. What cannot be told now is told later.
    pub(super) fn far(&mut self, sent: u64, pages: u64) {
        (self.told.sent, self.told.pages) = (sent, pages);
        if self.last.is_some_and(|last| last.elapsed() < TELL) {
            return;
        }
        self.last = Some(Instant::now());
        let told = self.told.tell(self.folder);
        if let (Err(error), false) = (&told, self.in_vain) {
            tracing::warn!(folder = %self.folder.display(), %error, "it cannot be told how far it is; it goes on");
        }
        self.in_vain = told.is_err();
    }

    /// How it has ended: the last word.
    pub(super) fn end(&mut self, end: ServedEnd) -> io::Result<()> {
        self.told.end = Some(end);
        for _ in 1..TRIES {
            match self.told.tell(self.folder) {
                Ok(()) => return Ok(()),
                Err(_) => sleep(AGAIN),
            }
        }
        self.told.tell(self.folder)
    }
}
