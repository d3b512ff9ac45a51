//! Pages served to a VM that runs before it has all of them.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    mem::ManuallyDrop,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::fs::FileExt as _,
        unix::net::UnixStream,
    },
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use proptest::prelude::*;
use stillpoint_common::{MemoryId, MemoryState};
use stillpoint_engine::{
    ports::{MemoryStates as _, Reach},
    served::{Served, ServedEnd},
};
use stillpoint_memory::{
    FileMemoryStates, Serve, serve,
    stream::{
        Content, Event, PAGE, PAGE_BYTES, StreamError, StreamReader,
        postcopy::{Answer, AnswerReader, head, tail},
    },
};
use support::{Machine, machine, write};
use tempfile::TempDir;

/// A side that waits for longer waits in vain.
const SOON: Duration = Duration::from_secs(20);
const BLOCKS: &[(&str, u64)] = &[("pc.ram", 300), ("rom", 5)];

fn small() -> Machine {
    machine(
        BLOCKS,
        |block, page| if page % 3 == 0 { 0 } else { u8::try_from(page % 200).unwrap() + 1 + u8::from(block == 1) },
    )
}

#[test]
fn a_head_is_what_qemu_reads() {
    let machine = machine(&[("ab", 2)], |_, _| 0);
    let expected: &[&[u8]] = &[
        b"QEVM\0\0\0\x03\x07\0\0\0\x0apc-q35-7.2",
        b"\x08\0\x01\0\0",
        b"\x08\0\x03\0\x10\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x10\0",
        b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\x20\x04\x02ab\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\0\x10\x7e\0\0\0\x02",
        b"\x08\0\x06\0\x15\0\x02ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x20\0",
        b"\x08\0\x07\0\x04\0\0\0\x14",
        b"\x08\0\x04\0\0",
        b"\x04\0\0\0\x05timer",
        b"\x08\0\x05\0\0",
    ];
    let found = head(&machine.prologue, &machine.devices);
    let expected: Vec<u8> = expected.concat();
    assert_eq!(found.len(), expected.len());
    assert_eq!(found, expected);
    assert_eq!(tail(&machine.prologue), b"\x03\0\0\0\x02\0\0\0\0\0\0\0\x10\x7e\0\0\0\x02\0");
}

/// A message of the other side.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

fn wanted(name: Option<&str>, first: u64, pages: u32) -> Vec<u8> {
    let place = [&(first * PAGE_BYTES).to_be_bytes()[..], &(pages * PAGE as u32).to_be_bytes()].concat();
    match name {
        Some(name) => message(3, &[&place[..], &[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()),
        None => message(4, &place),
    }
}

#[test]
fn requests_are_understood_and_those_for_what_there_is_not_are_refused() {
    let machine = small();
    let mut reader = AnswerReader::new(&machine.prologue);
    let mut read = |input: &[u8]| reader.read(input);
    assert!(read(&wanted(None, 1, 1)).is_err(), "the same block as what?");
    let asked = wanted(Some("rom"), 2, 3);
    for short in 0..asked.len() {
        assert_eq!(read(&asked[..short]), Ok(None));
    }
    assert_eq!(read(&asked), Ok(Some((asked.len(), Answer::Wanted { block: 1, first: 2, pages: 3 }))));
    assert_eq!(read(&wanted(None, 0, 1)), Ok(Some((16, Answer::Wanted { block: 1, first: 0, pages: 1 }))));
    assert_eq!(
        read(&wanted(Some("pc.ram"), 299, 1)).unwrap().unwrap().1,
        Answer::Wanted { block: 0, first: 299, pages: 1 }
    );
    assert_eq!(read(&message(1, &[0, 0, 0, 7])), Ok(Some((8, Answer::End(7)))));
    assert_eq!(read(&message(2, &[0; 4])), Ok(Some((8, Answer::Nothing))));
    assert!(matches!(read(&wanted(Some("pc.ram"), 299, 2)), Err(StreamError::Outside { .. })));
    assert!(matches!(read(&wanted(Some("vga"), 0, 1)), Err(StreamError::UnknownBlock(_))));
    let part_of_a_page = message(4, &[&8_u64.to_be_bytes()[..], &4096_u32.to_be_bytes()].concat());
    for wrong in
        [part_of_a_page, wanted(Some("rom"), 0, 0), message(4, &[0; 11]), message(4, &[0; 13]), message(9, &[])]
    {
        assert!(read(&wrong).is_err(), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn whatever_the_other_side_says_nothing_is_asked_for_that_there_is_not(input in prop::collection::vec(0_u8..8, 0..200)) {
        let machine = small();
        let (mut reader, mut rest) = (AnswerReader::new(&machine.prologue), &input[..]);
        while let Ok(Some((length, answer))) = reader.read(rest) {
            prop_assert!((4..=rest.len()).contains(&length));
            if let Answer::Wanted { block, first, pages } = answer {
                prop_assert!(pages > 0 && first + pages <= machine.prologue.blocks[block].pages());
            }
            rest = &rest[length..];
        }
    }
}

/// A state that is kept, and a process that serves it.
struct Lab {
    folder: TempDir,
    machine: Machine,
    state: MemoryState,
}

impl Lab {
    async fn new() -> Self {
        let (folder, machine) = (tempfile::tempdir().unwrap(), small());
        let (states, id) = (FileMemoryStates::default(), MemoryId::generate());
        let sink = states.begin(folder.path(), id, None).await.unwrap();
        let stream = write(&machine);
        tokio::task::spawn_blocking(move || File::from(sink.stream).write_all(&stream).unwrap()).await.unwrap();
        let state = states.seal(folder.path(), id, "10.0.2").await.unwrap();
        assert_eq!(states.reach(&state).await.unwrap(), Reach::AnyPage);
        Self { folder, machine, state }
    }

    fn hold(&self) -> PathBuf {
        self.folder.path().join("hold")
    }

    /// The side of QEMU, which has read the head.
    fn served(&self) -> (Other<'_>, JoinHandle<ServedEnd>) {
        self.served_telling(self.folder.path().to_owned())
    }

    /// The same, told in this folder.
    fn served_telling(&self, folder: PathBuf) -> (Other<'_>, JoinHandle<ServedEnd>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(SOON)).unwrap();
        let what = Serve {
            memory: self.state.path.clone(),
            blake3: self.state.blake3.clone(),
            folder,
            hold: Some(self.hold()),
        };
        let serving = thread::spawn(move || serve(&what, &OwnedFd::from(ours)).unwrap());
        let mut reader = StreamReader::new();
        reader.read(self.machine.prologue.bytes()).unwrap();
        let mut other =
            Other { socket: theirs, reader, heard: Vec::new(), machine: &self.machine, pages: BTreeMap::new() };
        let mut found = vec![0; head(&self.machine.prologue, &self.machine.devices).len()];
        if other.socket.read_exact(&mut found).is_ok() {
            assert_eq!(found, head(&self.machine.prologue, &self.machine.devices));
        }
        (other, serving)
    }

    fn told(&self) -> Served {
        Served::heard(self.folder.path()).unwrap()
    }

    /// The file with the pages.
    fn pack(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.path());
        entries.find(|path| path.extension().is_some_and(|it| it == "pages")).unwrap()
    }
}

/// Who has this file open in this process.
fn open_as(path: &PathBuf) -> RawFd {
    let mut entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let found = entries.find(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == *path)).unwrap();
    found.file_name().to_str().unwrap().parse().unwrap()
}

/// Lets a descriptor that is open lead to another file.
#[allow(unsafe_code, reason = "it is open, and stays so for whoever owns it")]
fn lead(descriptor: RawFd, to: &File) {
    // SAFETY: it is open as long as the server has its state, and this does not close it.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor) });
    rustix::io::dup2(to, &mut place).unwrap();
}

struct Other<'a> {
    socket: UnixStream,
    reader: StreamReader,
    heard: Vec<u8>,
    machine: &'a Machine,
    pages: BTreeMap<(usize, u64), Vec<u8>>,
}

impl Other<'_> {
    /// Reads pages until there are so many, or no more come.
    fn reads(&mut self, pages: usize) {
        let mut piece = [0; 1 << 16];
        while self.pages.len() < pages {
            let read = self.socket.read(&mut piece).unwrap();
            self.heard.extend(&piece[..read]);
            self.understand();
            if read == 0 {
                return;
            }
        }
    }

    fn understand(&mut self) {
        let mut seen = 0;
        while let Ok(parsed) = self.reader.read(&self.heard[seen..]) {
            seen += parsed.consumed;
            if let Some(Event::Page { block, page, content }) = parsed.event {
                let bytes = match content {
                    Content::Zero => vec![0; PAGE],
                    Content::Data(bytes) => bytes.to_vec(),
                };
                assert!(self.pages.insert((block, page), bytes).is_none(), "page {page} of {block} came twice");
            } else if parsed.consumed == 0 {
                break;
            }
        }
        self.heard.drain(..seen);
    }

    fn says(&mut self, message: &[u8]) {
        self.socket.write_all(message).unwrap();
    }

    fn has_what_was_kept(&self) -> bool {
        let kept = |place: &(usize, u64)| self.machine.pages.get(place).cloned().unwrap_or_else(|| vec![0; PAGE]);
        self.pages.iter().all(|(place, bytes)| *bytes == kept(place))
    }
}

#[tokio::test]
async fn what_is_waited_for_comes_first_and_all_comes_once() {
    let lab = Lab::new().await;
    fs::write(lab.hold(), "").unwrap();
    let (mut other, serving) = lab.served();
    other.says(&[wanted(Some("pc.ram"), 77, 2), wanted(Some("rom"), 4, 1), wanted(None, 4, 1)].concat());
    other.reads(3);
    assert_eq!(other.pages.keys().copied().collect::<Vec<_>>(), [(0, 77), (0, 78), (1, 4)]);
    // What is open is read although it has no name any more.
    fs::remove_file(lab.pack()).unwrap();
    fs::remove_file(lab.hold()).unwrap();
    other.reads(305);
    assert_eq!(other.pages.len(), 305);
    assert!(other.has_what_was_kept());
    other.says(&message(1, &[0; 4]));
    assert_eq!(serving.join().unwrap(), ServedEnd::Whole);
    assert_eq!(lab.told().end, Some(ServedEnd::Whole));
}

#[tokio::test]
async fn a_page_that_is_damaged_does_not_go() {
    let lab = Lab::new().await;
    let pack = File::options().read(true).write(true).open(lab.pack()).unwrap();
    let mut byte = [0];
    pack.read_exact_at(&mut byte, 1000).unwrap();
    pack.write_all_at(&[byte[0] ^ 1], 1000).unwrap();
    let (mut other, serving) = lab.served();
    other.reads(305);
    assert!(other.pages.len() < 305 && other.has_what_was_kept());
    let ServedEnd::Failed(why) = serving.join().unwrap() else { panic!("it has served what it should not") };
    assert!(why.contains("is not what was written"), "{why}");
    assert_eq!(lab.told().end, Some(ServedEnd::Failed(why)));
}

#[tokio::test]
async fn a_page_that_cannot_be_read_for_now_comes_when_it_can() {
    let lab = Lab::new().await;
    fs::write(lab.hold(), "").unwrap();
    let (mut other, serving) = lab.served();
    let (pack, open) = (File::open(lab.pack()).unwrap(), open_as(&lab.pack()));
    // What is open for writing alone cannot be read.
    lead(open, &File::options().write(true).open("/dev/null").unwrap());
    other.says(&wanted(Some("pc.ram"), 77, 2));
    other.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let nothing = other.socket.read(&mut [0]).unwrap_err().kind();
    assert_eq!(nothing, ErrorKind::WouldBlock);
    other.socket.set_read_timeout(Some(SOON)).unwrap();
    lead(open, &pack);
    other.reads(2);
    assert_eq!(other.pages.keys().copied().collect::<Vec<_>>(), [(0, 77), (0, 78)]);
    fs::remove_file(lab.hold()).unwrap();
    other.reads(305);
    assert!(other.pages.len() == 305 && other.has_what_was_kept());
    other.says(&message(1, &[0; 4]));
    assert_eq!(serving.join().unwrap(), ServedEnd::Whole);
}

#[tokio::test]
async fn what_cannot_be_told_keeps_no_page_back_and_the_last_word_is_tried_again() {
    let lab = Lab::new().await;
    let folder = lab.folder.path().join("full");
    let (mut other, serving) = lab.served_telling(folder.clone());
    other.reads(305);
    assert!(other.pages.len() == 305 && other.has_what_was_kept());
    other.says(&message(1, &[0; 4]));
    thread::sleep(Duration::from_millis(200));
    assert!(!serving.is_finished());
    fs::create_dir(&folder).unwrap();
    assert_eq!(serving.join().unwrap(), ServedEnd::Whole);
    assert_eq!(Served::heard(&folder).unwrap(), Served { sent: 305, pages: 305, end: Some(ServedEnd::Whole) });
}

#[tokio::test]
async fn another_state_than_the_one_that_was_meant_is_not_served() {
    let mut lab = Lab::new().await;
    lab.state.blake3 = "00".repeat(32);
    let (mut other, serving) = lab.served();
    other.reads(1);
    assert!(other.pages.is_empty());
    assert!(matches!(serving.join().unwrap(), ServedEnd::Failed(why) if why.contains("not the memory state")));
}

#[tokio::test]
async fn a_server_whose_other_side_is_gone_or_refuses_ends() {
    let lab = Lab::new().await;
    fs::write(lab.hold(), "").unwrap();
    let (other, serving) = lab.served();
    drop(other);
    assert_eq!(serving.join().unwrap(), ServedEnd::HungUp);
    let (mut other, serving) = lab.served();
    other.says(&message(1, &[0, 0, 0, 1]));
    assert!(matches!(serving.join().unwrap(), ServedEnd::Failed(why) if why.contains("says 1")));
    let (mut other, serving) = lab.served();
    other.says(&wanted(Some("rom"), 5, 1));
    assert!(matches!(serving.join().unwrap(), ServedEnd::Failed(why) if why.contains("outside")));
}
