//! QEMU's stream, read and written: real ones, made-up ones, and garbage.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use proptest::prelude::*;
use stillpoint_memory::stream::{MAX_PROLOGUE, PAGE, StreamError, StreamReader};
use support::{GOLDEN, golden, machine, prologue, read, read_in_pieces, write};

#[test]
fn streams_of_real_qemus_are_read() {
    for (which, (name, _)) in GOLDEN.iter().enumerate() {
        let machine = read(&golden(which)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(machine.prologue.machine, "pc-q35-7.2", "{name}");
        let blocks: Vec<_> = machine.prologue.blocks.iter().map(|block| (&block.name[..], block.pages())).collect();
        assert_eq!(blocks[0], ("pc.ram", 4096), "{name}");
        assert!(blocks.contains(&("pc.bios", 16)), "{name}: {blocks:?}");
        let ram: Vec<u64> = machine.pages.keys().filter(|(block, _)| *block == 0).map(|(_, page)| *page).collect();
        assert_eq!(ram, (16..48).collect::<Vec<_>>(), "{name}");
        // The firmware's pattern: each word is its own address.
        for page in 16..48 {
            let expected: Vec<u8> = (0..PAGE).step_by(2).flat_map(|at| word(page, at)).collect();
            assert!(machine.pages[&(0, page)] == expected, "{name}: page {page}");
        }
        assert!(machine.devices.sections().starts_with(b"\x04\0\0\0\0\x05timer"), "{name}");
        assert!(machine.devices.bytes().len() > machine.devices.sections().len() + 1000, "{name}");
    }
}

fn word(page: u64, at: usize) -> [u8; 2] {
    u16::try_from((page % 16) as usize * PAGE + at).unwrap().to_le_bytes()
}

#[test]
fn a_stream_says_the_same_however_it_is_cut_into_pieces() {
    let stream = golden(0);
    let whole = read(&stream).unwrap();
    for piece in [1, 7, 4096, 4105, 1 << 20] {
        assert!(read_in_pieces(&stream, piece).unwrap() == whole, "pieces of {piece}");
    }
}

#[test]
fn what_is_written_is_what_was_read() {
    for which in 0..GOLDEN.len() {
        let machine = read(&golden(which)).unwrap();
        assert!(read(&write(&machine)).unwrap() == machine);
    }
}

#[test]
fn a_stream_that_ends_early_is_not_whole() {
    let stream = golden(1);
    for cut in (0..stream.len()).step_by(997).chain([stream.len() - 1, 4, 8, 20]) {
        assert_eq!(read(&stream[..cut]), Err(StreamError::Cut), "cut at {cut}");
    }
}

/// Replaces the first `from` by `to`.
fn replaced(stream: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = stream.windows(from.len()).position(|window| window == from).unwrap();
    [&stream[..at], to, &stream[at + from.len()..]].concat()
}

#[test]
fn what_is_not_supported_is_named() {
    let stream = write(&machine(&[("pc.ram", 4), ("rom", 1)], |_, page| u8::from(page == 2)));
    assert!(read(&stream).is_ok());
    let said = |from: &[u8], to: &[u8]| read(&replaced(&stream, from, to)).unwrap_err().to_string();
    let page_of = |flags: u8| [&[flags, 6][..], b"pc.ram"].concat();
    assert!(said(b"QEVM", b"QEVN").contains("no migration stream"));
    assert!(said(b"\0\0\0\x03", b"\0\0\0\x02").contains("version 2"));
    assert!(said(b"pc-q35-7.2", b"virt-9.2.0").contains("virt-9.2.0"));
    assert!(said(b"\x01\0\0\0\x02\x03ram", b"\x01\0\0\0\x02\x03cow").contains("cow"));
    assert!(said(b"ram\0\0\0\0\0\0\0\x04", b"ram\0\0\0\0\0\0\0\x05").contains("version 5"));
    assert!(said(&page_of(2), &page_of(0x40)).contains("0x40"), "xbzrle");
    assert!(said(b"\x02\0\0\0\x02", b"\x08\0\x03\0\x08").contains("kind 8"), "a command of postcopy");
    assert!(said(b"\x02\0\0\0\x02", b"\x02\0\0\0\x03").contains("other than RAM"));
    assert!(said(&page_of(2), &page_of(0x22)).contains("no block"), "«the same», and there was none");
    assert!(said(&page_of(2), b"\x02\x06pc.rom").contains("pc.rom"));
    assert!(said(b"\0\0\0\0\0\0\x30\x22", b"\0\0\0\0\0\0\x40\x22").contains("outside"));
}

#[test]
fn limits_hold_whatever_a_stream_says() {
    let mut huge = prologue(&[]);
    let at = huge.len() - 13 - 8;
    huge[at..at + 8].copy_from_slice(&(!0xfff_u64 | 4).to_be_bytes());
    assert!(matches!(read(&huge), Err(StreamError::TooMuch(_))));
    let names: Vec<String> = (0..5000).map(|number| format!("block{number}")).collect();
    let blocks: Vec<_> = names.iter().map(|name| (&name[..], 1)).collect();
    assert!(matches!(read(&prologue(&blocks)), Err(StreamError::TooMuch(_))));
    let endless = [
        &b"QEVM\0\0\0\x03\x07\0\0\0\x0apc-q35-7.2"[..],
        &b"\x05\x1aconfiguration/capabilities\0\0\0\0\xff\xff\xff\xff"[..],
        &vec![0; MAX_PROLOGUE],
    ]
    .concat();
    assert!(matches!(StreamReader::new().read(&endless), Err(StreamError::TooMuch(_))));
    assert!(matches!(read(&prologue(&[("a", 1), ("a", 1)])), Err(StreamError::Malformed(_))));
}

#[test]
fn after_an_error_there_are_only_errors() {
    let mut reader = StreamReader::new();
    let error = reader.read(b"QEMU").unwrap_err();
    assert_eq!(reader.read(&golden(0)), Err(error));
}

/// Numbers that look random and are the same every time.
fn pseudo_random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap() % below.max(1)
    }
}

#[test]
fn a_bent_stream_is_an_error_or_another_stream_and_never_a_panic() {
    let small = write(&machine(&[("pc.ram", 6), ("/rom@etc/acpi/tables", 2), ("pc.bios", 1)], |_, page| page as u8));
    let mut refused = 0;
    for seed in 0..20_000 {
        let mut random = pseudo_random(seed * 2 + 1);
        let mut bent = small.clone();
        for _ in 0..=random(4) {
            if bent.is_empty() {
                break;
            }
            let at = random(bent.len());
            // Page data takes most of the room, and bending it proves little: the marks lie at both ends.
            let at = if random(2) == 0 { at % 300 } else { at };
            match random(5) {
                0 => bent[at] ^= 1 << random(8),
                1 => bent[at] = random(256) as u8,
                2 => drop(bent.drain(at..(at + random(40)).min(bent.len()))),
                3 => drop(bent.splice(at..at, std::iter::repeat_n(random(256) as u8, random(40)))),
                _ => bent.truncate(at.max(1)),
            }
        }
        refused += u32::from(read_in_pieces(&bent, 1 + random(9000)).is_err());
    }
    assert!(refused > 5_000, "only {refused} were refused");
}

proptest! {
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), head in any::<bool>()) {
        let stream = if head { [&prologue(&[("pc.ram", 3)])[..], &bytes].concat() } else { bytes };
        prop_assert!(read_in_pieces(&stream, 100).is_err());
    }

    #[test]
    fn every_machine_is_written_and_read(sizes in proptest::collection::vec(1_u64..20, 1..5), fills in proptest::collection::vec(0_u8..4, 100), piece in 1_usize..9000) {
        let names = ["pc.ram", "pc.bios", "vga.vram", "virtio-mem"];
        let blocks: Vec<_> = names.iter().copied().zip(sizes).collect();
        let machine = machine(&blocks, |block, page| fills[(block * 20 + page as usize) % 100]);
        prop_assert!(read_in_pieces(&write(&machine), piece).unwrap() == machine);
    }
}
