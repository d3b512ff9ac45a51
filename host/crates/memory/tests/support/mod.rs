//! Streams for tests: of real QEMUs, and made up.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;

use stillpoint_memory::stream::{Content, Devices, Event, PAGE, Prologue, StreamError, StreamReader, StreamWriter};

/// Streams of QEMU 10.0.2 and 7.2.22: a `pc-q35-7.2` of 16 MiB whose firmware, sixty bytes of code, fills the 64 KiB
/// from 0x10000 with a pattern and those from 0x20000 with the same.
pub const GOLDEN: [(&str, &[u8]); 3] = [
    ("10.0.2, while it runs", include_bytes!("../golden/qemu-10.0-background.stream.zst")),
    ("7.2.22, while it runs", include_bytes!("../golden/qemu-7.2-background.stream.zst")),
    ("7.2.22, stopped", include_bytes!("../golden/qemu-7.2-stopped.stream.zst")),
];

pub fn golden(which: usize) -> Vec<u8> {
    zstd::decode_all(GOLDEN[which].1).unwrap()
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub prologue: Prologue,
    /// By block and page; zero pages are not there.
    pub pages: BTreeMap<(usize, u64), Vec<u8>>,
    pub devices: Devices,
}

/// Reads a stream that comes in pieces of this size.
pub fn read_in_pieces(stream: &[u8], piece: usize) -> Result<Machine, StreamError> {
    let (mut reader, mut seen, mut pages, mut devices) = (StreamReader::new(), 0, BTreeMap::new(), Vec::new());
    let mut shown = piece.min(stream.len());
    loop {
        let parsed = reader.read(&stream[seen..shown])?;
        seen += parsed.consumed;
        match parsed.event {
            None if parsed.consumed == 0 && shown == stream.len() => break,
            None if parsed.consumed == 0 => shown = (shown + piece).min(stream.len()),
            None | Some(Event::Prologue) => {}
            Some(Event::Page { block, page, content: Content::Zero }) => {
                pages.remove(&(block, page));
            }
            Some(Event::Page { block, page, content: Content::Data(bytes) }) => {
                pages.insert((block, page), bytes.to_vec());
            }
            Some(Event::Devices(piece)) => devices.extend(piece),
        }
    }
    let prologue = reader.prologue().cloned().ok_or(StreamError::Cut)?;
    Ok(Machine { prologue, pages, devices: Devices::new(devices)? })
}

pub fn read(stream: &[u8]) -> Result<Machine, StreamError> {
    read_in_pieces(stream, 1 << 16)
}

/// Writes a machine as a stream, zero pages too.
pub fn write(machine: &Machine) -> Vec<u8> {
    let mut out = machine.prologue.bytes().to_vec();
    let mut writer = StreamWriter::new(&machine.prologue);
    for (number, block) in machine.prologue.blocks.iter().enumerate() {
        for first in (0..block.pages()).step_by(100) {
            writer.begin_part(&mut out);
            for page in first..(first + 100).min(block.pages()) {
                let content = machine.pages.get(&(number, page)).map_or(Content::Zero, |bytes| Content::Data(bytes));
                writer.page(&mut out, number, page, content);
            }
            writer.end_part(&mut out);
        }
    }
    out.extend(machine.devices.bytes());
    out
}

/// A made-up prologue with blocks of so many pages.
pub fn prologue(blocks: &[(&str, u64)]) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x07\0\0\0\x0apc-q35-7.2\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04".to_vec();
    let total: u64 = blocks.iter().map(|(_, pages)| pages * PAGE as u64).sum();
    out.extend((total | 4).to_be_bytes());
    for (name, pages) in blocks {
        out.push(u8::try_from(name.len()).unwrap());
        out.extend(name.as_bytes());
        out.extend((pages * PAGE as u64).to_be_bytes());
    }
    out.extend(0x10_u64.to_be_bytes());
    out.extend(b"\x7e\0\0\0\x02");
    out
}

/// A made-up machine: each page is filled with the byte that `fill` says; zero is a zero page.
pub fn machine(blocks: &[(&str, u64)], fill: impl Fn(usize, u64) -> u8) -> Machine {
    let prologue = Prologue::new(&prologue(blocks)).unwrap();
    let mut pages = BTreeMap::new();
    for (number, block) in prologue.blocks.iter().enumerate() {
        for page in 0..block.pages() {
            match fill(number, page) {
                0 => {}
                byte => drop(pages.insert((number, page), vec![byte; PAGE])),
            }
        }
    }
    let devices = Devices::new(b"\x04\0\0\0\x05timer\0\x06\0\0\0\x0d{\"devices\":1}".to_vec()).unwrap();
    Machine { prologue, pages, devices }
}
