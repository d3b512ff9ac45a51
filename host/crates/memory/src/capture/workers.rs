//! Threads that hash, compress and write what the reader finds.

use std::{
    num::NonZero,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use stillpoint_common::MemoryId;

use super::{
    CaptureError,
    batch::Batch,
    ingest::Source,
    lock,
    sort::{Base, Sorter},
};
use crate::{
    state::{Digest, Draft, PackWriter, SavedMemory, StateError, digest},
    stream::{Devices, PAGE, Prologue},
};

/// More would not be faster than QEMU's one thread.
const MOST: usize = 4;

pub(super) struct Workers {
    checkpoint: MemoryId,
    pack: PackWriter,
    base: Mutex<Option<Base>>,
    /// Held while a batch is sorted, which is much less work than to hash or compress it.
    turns: Mutex<Turns>,
    next: Condvar,
    failed: AtomicBool,
    failure: Mutex<Option<StateError>>,
}

struct Turns {
    /// The number of the batch that is sorted next.
    turn: u64,
    /// There is one as soon as the prologue is read.
    sorter: Option<Sorter>,
}

impl Workers {
    /// Reads the base: better now than when pages are coming.
    pub(super) fn new(pack: PackWriter, checkpoint: MemoryId, base: Option<SavedMemory>) -> Self {
        Self {
            checkpoint,
            pack,
            base: Mutex::new(base.and_then(Base::new)),
            turns: Mutex::new(Turns { turn: 0, sorter: None }),
            next: Condvar::new(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Takes in the whole stream. When this returns, all that was read is written, but for the chunk that is open.
    pub(super) fn run(&self, source: &mut Source) -> Result<(Prologue, Devices), CaptureError> {
        let count = thread::available_parallelism().map_or(1, NonZero::get).clamp(1, MOST);
        let (sender, receiver) = sync_channel(count);
        let receiver = Mutex::new(receiver);
        let read = thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| self.work(&receiver));
            }
            let begun = |prologue: &Prologue| {
                let base = lock(&self.base).take();
                lock(&self.turns).sorter = Some(Sorter::new(prologue, self.checkpoint, base));
            };
            let read = source.ingest(begun, |batch| {
                let gone = self.failed.load(Ordering::Relaxed) || sender.send(batch).is_err();
                if gone { Err(CaptureError::Stopped) } else { Ok(()) }
            });
            // With it, the workers end.
            drop(sender);
            read
        });
        match lock(&self.failure).take() {
            Some(failure) => Err(failure.into()),
            None => read,
        }
    }

    fn work(&self, batches: &Mutex<Receiver<Batch>>) {
        loop {
            let Ok(batch) = lock(batches).recv() else { return };
            let digests: Vec<Digest> = batch.data.chunks(PAGE).map(digest).collect();
            if let Err(error) = self.sort(&batch, &digests) {
                self.failed.store(true, Ordering::Relaxed);
                lock(&self.failure).get_or_insert(error);
            }
        }
    }

    /// Waits for the batch's turn, sorts its pages, lets the next one go on, and writes the chunks that are full.
    fn sort(&self, batch: &Batch, digests: &[Digest]) -> Result<(), StateError> {
        let sorted = {
            let mut turns = lock(&self.turns);
            while turns.turn != batch.number {
                turns = self.next.wait(turns).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            let sorted = turns.sorter.as_mut().map_or(Ok(Vec::new()), |sorter| sorter.sort(batch, digests));
            turns.turn += 1;
            self.next.notify_all();
            sorted
        };
        for (number, chunk) in sorted? {
            self.pack.write(number, &chunk)?;
        }
        Ok(())
    }

    /// Writes the rest.
    pub(super) fn finish(self, prologue: Prologue, devices: Devices) -> Result<Draft, CaptureError> {
        let sorter = self.turns.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).sorter;
        let mut sorter = sorter.ok_or(CaptureError::Stopped)?;
        if let Some((number, chunk)) = sorter.take_open() {
            self.pack.write(number, &chunk)?;
        }
        let packed = self.pack.finish()?;
        let (indexes, mut packs, pages) = sorter.finish(&prologue);
        if let Some(own) = packs.first_mut() {
            own.chunks = packed.chunks;
            own.blake3 = blake3::Hash::from_bytes(packed.table).to_hex().to_string();
        }
        let (checkpoint, qemu_version) = (self.checkpoint, String::new());
        Ok(Draft { checkpoint, qemu_version, prologue, devices, indexes, packs, pages })
    }
}
