//! Memory states taken in, kept, shared, given out again and removed.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt, unix::fs::PermissionsExt},
    path::Path,
    time::Duration,
};

use stillpoint_common::{MemoryFormat, MemoryId, MemoryState};
use stillpoint_engine::ports::{MemoryError, MemoryStates};
use stillpoint_memory::{FileMemoryStates, state::SavedMemory, stream::PAGE};
use support::{GOLDEN, Machine, golden, machine, read, write};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

struct Lab {
    folder: TempDir,
    states: FileMemoryStates,
}

impl Lab {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), states: FileMemoryStates::default() }
    }

    /// Saves this stream the way a hypervisor does.
    async fn try_save(
        &self,
        stream: Vec<u8>,
        base: Option<&MemoryState>,
    ) -> (MemoryId, Result<MemoryState, MemoryError>) {
        let checkpoint = MemoryId::generate();
        let sink = self.states.begin(self.folder.path(), checkpoint, base).await.unwrap();
        tokio::task::spawn_blocking(move || File::from(sink.stream).write_all(&stream).unwrap()).await.unwrap();
        (checkpoint, self.states.seal(self.folder.path(), checkpoint, "10.0.2").await)
    }

    async fn save(&self, machine: &Machine, base: Option<&MemoryState>) -> (MemoryId, MemoryState) {
        let (checkpoint, state) = self.try_save(write(machine), base).await;
        (checkpoint, state.unwrap())
    }

    async fn load(&self, state: &MemoryState) -> Result<Machine, MemoryError> {
        let (stream, outcome) = self.states.open(state).await?.split();
        let bytes = tokio::task::spawn_blocking(move || contents(stream)).await.unwrap();
        outcome.told(SOON).await?;
        Ok(read(&bytes).unwrap())
    }

    async fn remove(&self, checkpoint: MemoryId) {
        self.states.remove(self.folder.path(), checkpoint).await.unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn contents(stream: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::from(stream).read_to_end(&mut bytes).unwrap();
    bytes
}

fn opened(state: &MemoryState) -> SavedMemory {
    SavedMemory::open(&state.path).unwrap().unwrap()
}

/// A PC with this much RAM whose pages are all different but for every fourth, which is of zeros. Pages in `changed`
/// are not what they were.
fn pc(pages: u64, changed: std::ops::Range<u64>) -> Machine {
    let mut machine = machine(&[("pc.ram", pages), ("pc.bios", 8)], |_, page| u8::from(page % 4 != 0));
    for ((block, page), content) in &mut machine.pages {
        content[..8].copy_from_slice(&(page << 8 | *block as u64).to_le_bytes());
        content[8] = u8::from(*block == 0 && changed.contains(page));
    }
    machine
}

#[tokio::test]
async fn what_real_qemus_wrote_comes_back_page_by_page() {
    for (which, (name, _)) in GOLDEN.iter().enumerate() {
        let lab = Lab::new();
        let (checkpoint, state) = lab.try_save(golden(which), None).await;
        let state = state.unwrap();
        assert_eq!(lab.names(), [format!("{checkpoint}.memory"), format!("{checkpoint}.pages")], "{name}");
        assert_eq!((state.format, &state.qemu_version[..]), (MemoryFormat::Pages, "10.0.2"));
        let sizes =
            lab.names().iter().map(|name| fs::metadata(lab.folder.path().join(name)).unwrap()).collect::<Vec<_>>();
        assert_eq!(state.bytes, sizes.iter().map(|file| file.len()).sum::<u64>(), "{name}");
        assert!(sizes.iter().all(|file| file.permissions().mode() & 0o777 == 0o600), "memory holds secrets");
        assert!(
            state.bytes * 4 < golden(which).len() as u64,
            "{name}: {} bytes of {}",
            state.bytes,
            golden(which).len()
        );

        let expected = read(&golden(which)).unwrap();
        assert!(lab.load(&state).await.unwrap() == expected, "{name}");
        let mut saved = opened(&state);
        assert_eq!(saved.check().unwrap().pages, expected.pages.len() as u64, "{name}");
        // Sixteen pages of the firmware's pattern lie there twice.
        assert_eq!(saved.manifest().pages.stored + 16, expected.pages.len() as u64, "{name}");

        let again = lab.states.seal(lab.folder.path(), checkpoint, "10.0.2").await.unwrap();
        assert_eq!(again, state, "{name}: sealed already");
        lab.remove(checkpoint).await;
        lab.remove(checkpoint).await;
        assert!(lab.names().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_second_state_costs_what_changed_and_each_outlives_the_other() {
    let first_removed_first = [true, false];
    for order in first_removed_first {
        let lab = Lab::new();
        let (before, after) = (pc(8_000, 0..0), pc(8_000, 5_000..5_400));
        let (first, first_state) = lab.save(&before, None).await;
        let (second, second_state) = lab.save(&after, Some(&first_state)).await;
        let (all, changed) = (opened(&first_state).manifest().pages, opened(&second_state).manifest().pages);
        assert_eq!((all.kept, all.stored), (6_006, 6_006));
        assert_eq!((changed.kept, changed.stored), (6_006, 300));
        assert!(second_state.bytes * 8 < first_state.bytes, "{} after {}", second_state.bytes, first_state.bytes);
        let (goes, stays, expected) =
            if order { (first, &second_state, &after) } else { (second, &first_state, &before) };
        lab.remove(goes).await;
        assert!(lab.load(stays).await.unwrap() == *expected);
        lab.remove(if order { second } else { first }).await;
        assert!(lab.names().is_empty(), "{:?}", lab.names());
    }
}

#[tokio::test]
async fn the_variables_of_the_firmware_are_left_to_their_image() {
    let lab = Lab::new();
    let blocks = [("pc.ram", 300), ("system.flash0", 5), ("system.flash1", 132), ("pc.bios", 4)];
    let (_, state) = lab.save(&machine(&blocks, |_, _| 7), None).await;
    let given = lab.load(&state).await.unwrap();
    let of = |wanted: usize| given.pages.keys().filter(|(block, _)| *block == wanted).count();
    assert_eq!([0, 1, 2, 3].map(of), [300, 5, 0, 4], "no page of them, not even one of zeros");
    assert_eq!(given.prologue.blocks.len(), 4, "the machine has the flash all the same");
    let mut stream = Vec::new();
    opened(&state).write_stream(&mut stream, |_| {}).unwrap();
    let named = b"system.flash1";
    assert_eq!(stream.windows(named.len()).filter(|window| window == named).count(), 1, "in the list of blocks only");
}

#[tokio::test]
async fn a_page_that_moved_is_not_stored_again() {
    let lab = Lab::new();
    let first = pc(1_000, 0..0);
    let mut moved = first.clone();
    moved.pages = first.pages.iter().map(|((block, page), content)| ((*block, page ^ 2), content.clone())).collect();
    let (_, state) = lab.save(&first, None).await;
    let (_, state) = lab.save(&moved, Some(&state)).await;
    assert_eq!(opened(&state).manifest().pages.stored, 0);
    assert!(lab.load(&state).await.unwrap() == moved);
}

#[tokio::test]
async fn the_room_of_pages_that_no_state_needs_comes_back_while_others_stay() {
    let lab = Lab::new();
    let (before, after) = (pc(12_000, 0..0), pc(12_000, 300..11_800));
    let (first, first_state) = lab.save(&before, None).await;
    let (_, second_state) = lab.save(&after, Some(&first_state)).await;
    let pack = lab.folder.path().join(format!("{first}.pages"));
    let used = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    let full = used(&pack);
    lab.remove(first).await;
    assert!(used(&pack) * 4 < full, "{} of {full} bytes are left", used(&pack));
    assert!(lab.load(&second_state).await.unwrap() == after);
    opened(&second_state).check().unwrap();
}

#[tokio::test]
async fn a_chain_of_states_is_whole_whatever_is_removed_from_it() {
    let lab = Lab::new();
    let mut kept: Vec<(MemoryId, MemoryState, Machine)> = Vec::new();
    for round in 0..12 {
        let machine = pc(2_000, round * 150..round * 150 + 90);
        let base = kept.last().map(|(_, state, _)| state.clone());
        let (checkpoint, state) = lab.save(&machine, base.as_ref()).await;
        kept.push((checkpoint, state, machine));
        if round % 3 == 2 {
            let (checkpoint, ..) = kept.remove((round as usize * 7) % (kept.len() - 1));
            lab.remove(checkpoint).await;
        }
        for (_, state, machine) in &kept {
            assert!(lab.load(state).await.unwrap() == *machine);
        }
    }
    for (checkpoint, ..) in kept {
        lab.remove(checkpoint).await;
    }
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn a_page_that_comes_twice_counts_as_it_came_last() {
    let lab = Lab::new();
    let (old, new) = (pc(3_000, 0..3_000), pc(3_000, 0..0));
    // As in a live migration: everything, and then everything again.
    let (old, new_stream) = (write(&old), write(&new));
    let (pages, prologue) = (old.len() - new.devices.bytes().len(), new.prologue.bytes().len());
    let stream = [&old[..pages], &new_stream[prologue..]].concat();
    let (_, state) = lab.try_save(stream, None).await;
    assert!(lab.load(&state.unwrap()).await.unwrap() == new);
}

#[tokio::test]
async fn what_is_not_whole_is_not_sealed_and_the_pipe_never_refuses() {
    let lab = Lab::new();
    let whole = write(&pc(5_000, 0..0));
    let half = whole[..whole.len() / 2].to_vec();
    // More than any pipe takes: if nobody read on, this would not return.
    let garbage = vec![b'x'; 8 << 20];
    let page = pc(5_000, 0..0).prologue.bytes().len() + 5;
    let bent = [&whole[..page], &[0xff; 100], &whole[page + 100..]].concat();
    for (name, stream) in [("nothing", vec![]), ("half", half), ("garbage", garbage), ("bent", bent)] {
        let (checkpoint, sealed) = lab.try_save(stream, None).await;
        assert!(matches!(sealed, Err(MemoryError::Unusable { .. })), "{name}: {sealed:?}");
        assert_eq!(lab.names(), [format!("{checkpoint}.pages.part")], "{name}");
        lab.remove(checkpoint).await;
        assert!(lab.names().is_empty(), "{name}");
    }
    let missing = lab.states.seal(lab.folder.path(), MemoryId::generate(), "10.0.2").await;
    assert!(matches!(missing, Err(MemoryError::Damaged { .. })), "{missing:?}");
}

#[tokio::test]
async fn an_unknown_qemu_and_an_unknown_machine_are_named() {
    let lab = Lab::new();
    let checkpoint = MemoryId::generate();
    let sink = lab.states.begin(lab.folder.path(), checkpoint, None).await.unwrap();
    tokio::task::spawn_blocking(move || File::from(sink.stream).write_all(&golden(0)).unwrap()).await.unwrap();
    let error = lab.states.seal(lab.folder.path(), checkpoint, "6.2.0").await.unwrap_err();
    assert!(error.to_string().contains("6.2.0"), "{error}");
    lab.remove(checkpoint).await;
    let other = String::from_utf8_lossy(&golden(0)[..23]).replace("pc-q35-7.2", "virt-9.2.0").into_bytes();
    let error = lab.try_save([&other, &golden(0)[23..]].concat(), None).await.1.unwrap_err();
    assert!(error.to_string().contains("virt-9.2.0"), "{error}");
}

#[tokio::test]
async fn a_capture_that_is_given_up_ends_although_nobody_closes_the_pipe() {
    let lab = Lab::new();
    let checkpoint = MemoryId::generate();
    let mut sink = File::from(lab.states.begin(lab.folder.path(), checkpoint, None).await.unwrap().stream);
    sink.write_all(&golden(0)[..200_000]).unwrap();
    tokio::time::timeout(SOON, lab.remove(checkpoint)).await.unwrap();
    assert!(lab.names().is_empty());
    // Nobody reads any more.
    let refused = (0..100).any(|_| sink.write_all(&[0; 1 << 16]).is_err());
    assert!(refused);

    // Begun again while an earlier attempt is at work: that one's words are not heard.
    let old = lab.states.begin(lab.folder.path(), checkpoint, None).await.unwrap();
    let new = lab.states.begin(lab.folder.path(), checkpoint, None).await.unwrap();
    let _ = File::from(old.stream).write_all(b"late words");
    tokio::task::spawn_blocking(move || File::from(new.stream).write_all(&golden(0)).unwrap()).await.unwrap();
    lab.states.seal(lab.folder.path(), checkpoint, "10.0.2").await.unwrap();
}

#[tokio::test]
async fn the_first_page_is_told_of_as_soon_as_it_has_come() {
    let lab = Lab::new();
    let sink = lab.states.begin(lab.folder.path(), MemoryId::generate(), None).await.unwrap();
    let mut stream = File::from(sink.stream);
    stream.write_all(&support::prologue(&[("pc.ram", 8)])).unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(100), sink.first_page.has_come()).await;
    assert!(waited.is_err(), "the stream's head is no page: memory need not be protected yet");
    // A section of pages, and one of zeros: its address with what is known of it, its block, and the zero.
    stream.write_all(b"\x02\0\0\0\x02\0\0\0\0\0\0\0\x02\x06pc.ram\0").unwrap();
    tokio::time::timeout(SOON, sink.first_page.has_come()).await.unwrap();
}

#[tokio::test]
async fn a_seal_that_waits_in_vain_says_so() {
    let config = stillpoint_memory::MemoryConfig { settle: Duration::from_millis(50) };
    let lab = Lab { folder: tempfile::tempdir().unwrap(), states: FileMemoryStates::new(config) };
    let checkpoint = MemoryId::generate();
    let _sink = lab.states.begin(lab.folder.path(), checkpoint, None).await.unwrap();
    let error = lab.states.seal(lab.folder.path(), checkpoint, "10.0.2").await.unwrap_err();
    assert!(matches!(error, MemoryError::Unanswered { .. }), "{error}");
    lab.remove(checkpoint).await;
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn the_base_of_a_capture_at_work_can_be_removed() {
    let lab = Lab::new();
    let (before, after) = (pc(4_000, 0..0), pc(4_000, 10..20));
    let (first, state) = lab.save(&before, None).await;
    let second = MemoryId::generate();
    let sink = lab.states.begin(lab.folder.path(), second, Some(&state)).await.unwrap();
    lab.remove(first).await;
    let stream = write(&after);
    tokio::task::spawn_blocking(move || File::from(sink.stream).write_all(&stream).unwrap()).await.unwrap();
    let state = lab.states.seal(lab.folder.path(), second, "10.0.2").await.unwrap();
    assert!(lab.load(&state).await.unwrap() == after);
    lab.remove(second).await;
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn a_state_that_is_kept_twice_is_removed_once_and_stays() {
    let lab = Lab::new();
    let (before, after) = (pc(500, 0..0), pc(500, 1..20));
    let (first, first_state) = lab.save(&before, None).await;
    let (saved, state) = lab.save(&after, Some(&first_state)).await;
    let pages = lab.names();
    let checkpoint = MemoryId::generate();
    for _ in 0..2 {
        let kept = lab.states.keep(&state, checkpoint).await.unwrap();
        assert_eq!((kept.bytes, &kept.blake3), (state.bytes, &state.blake3));
        let names: Vec<_> = lab.names().into_iter().filter(|name| *name != format!("{checkpoint}.memory")).collect();
        assert_eq!(names, pages, "one name more, and no page twice");
        assert!(lab.load(&kept).await.unwrap() == after);
    }
    let kept = lab.states.keep(&state, checkpoint).await.unwrap();
    lab.remove(saved).await;
    lab.remove(first).await;
    assert!(lab.load(&kept).await.unwrap() == after, "its pages stay as long as one of the two does");
    let back = lab.states.keep(&kept, saved).await.unwrap();
    lab.remove(checkpoint).await;
    assert!(lab.load(&back).await.unwrap() == after);
    let gone = lab.states.keep(&kept, checkpoint).await.unwrap_err();
    assert!(matches!(&gone, MemoryError::Damaged { problem, .. } if problem == "missing"), "{gone}");
    lab.remove(saved).await;
    assert!(lab.names().is_empty(), "{:?}", lab.names());
}

#[tokio::test]
async fn nothing_is_collected_while_a_state_cannot_be_read() {
    let lab = Lab::new();
    let (first, first_state) = lab.save(&pc(500, 0..0), None).await;
    let (second, second_state) = lab.save(&pc(500, 1..20), Some(&first_state)).await;
    let good = fs::read(&second_state.path).unwrap();
    fs::write(&second_state.path, &good[..good.len() - 1]).unwrap();
    lab.remove(first).await;
    assert!(lab.names().contains(&format!("{first}.pages")));
    fs::write(&second_state.path, &good).unwrap();
    assert!(lab.load(&second_state).await.is_ok());

    // A file that has only the name of a pack is not one of ours to remove.
    let stranger = lab.folder.path().join(format!("{}.pages", MemoryId::generate()));
    fs::write(&stranger, b"somebody's pages").unwrap();
    lab.remove(second).await;
    assert_eq!(lab.names(), [stranger.file_name().unwrap().to_str().unwrap()]);
}

#[tokio::test]
async fn a_state_of_an_older_version_is_read() {
    let lab = Lab::new();
    let path = lab.folder.path().join("old.memory");
    fs::write(&path, golden(1)).unwrap();
    let record = serde_json::json!({
        "path": path, "bytes": golden(1).len(), "blake3": blake3::hash(&golden(1)).to_hex().as_str(), "qemu_version": "7.2.22"
    });
    let state: MemoryState = serde_json::from_value(record).unwrap();
    assert!(lab.load(&state).await.unwrap() == read(&golden(1)).unwrap());
    // It is no base, and it is in nobody's way.
    let (checkpoint, new) = lab.save(&pc(100, 0..0), Some(&state)).await;
    assert!(lab.load(&new).await.is_ok());
    lab.remove(checkpoint).await;
    assert_eq!(lab.names(), ["old.memory"]);
    fs::write(&path, &golden(1)[1..]).unwrap();
    assert!(matches!(lab.load(&state).await, Err(MemoryError::Damaged { .. })));
}

#[tokio::test]
async fn every_bent_byte_is_seen_before_a_guest_runs_on_it() {
    let lab = Lab::new();
    let first = pc(300, 0..0);
    let (_, first_state) = lab.save(&first, None).await;
    let second = pc(300, 0..150);
    let (_, state) = lab.save(&second, Some(&first_state)).await;
    for name in lab.names() {
        let path = lab.folder.path().join(&name);
        let needed = path != first_state.path;
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 60 + 1).chain([good.len() - 1]) {
            let mut bent = good.clone();
            bent[at] ^= 0x10;
            fs::write(&path, &bent).unwrap();
            match lab.load(&state).await {
                Ok(loaded) => assert!(loaded == second, "{name}, byte {at}: another machine was loaded"),
                Err(MemoryError::Damaged { .. }) => assert!(needed),
                Err(other) => panic!("{name}, byte {at}: {other}"),
            }
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert_eq!(lab.load(&state).await.is_err(), needed, "{name}, half of it");
        fs::remove_file(&path).unwrap();
        assert_eq!(lab.load(&state).await.is_err(), needed, "{name}, gone");
        fs::write(&path, &good).unwrap();
    }
    assert!(lab.load(&state).await.unwrap() == second);
    assert_eq!(opened(&state).page(0, 1).unwrap(), stillpoint_memory::stream::Content::Data(&second.pages[&(0, 1)]));
    assert_eq!(second.pages[&(0, 1)].len(), PAGE);
}

#[tokio::test]
async fn a_folder_is_made_where_it_is_missing_and_one_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().join("not/there/yet");
    let states = FileMemoryStates::default();
    states.begin(&location, MemoryId::generate(), None).await.unwrap();
    assert_eq!(fs::metadata(&location).unwrap().permissions().mode() & 0o777, 0o700);

    let file = folder.path().join("file");
    fs::write(&file, b"in the way").unwrap();
    let error = states.begin(&file.join("below"), MemoryId::generate(), None).await.unwrap_err();
    assert!(matches!(&error, MemoryError::Io { what, .. } if what.contains("file/below")), "{error}");
}

#[tokio::test]
async fn pages_that_no_state_needs_are_told_of_and_nothing_else_is() {
    let lab = Lab::new();
    let none: [std::path::PathBuf; 0] = [];
    let unneeded = async || lab.states.unneeded(lab.folder.path()).await.unwrap();
    assert_eq!(unneeded().await, none, "there is nothing yet");
    let machine = machine(&[("pc.ram", 64)], |_, page| u8::from(page % 4 != 0));
    let (_, first) = lab.save(&machine, None).await;
    lab.save(&machine, Some(&first)).await;
    assert_eq!(unneeded().await, none);
    let at_work = MemoryId::generate();
    let sink = lab.states.begin(lab.folder.path(), at_work, Some(&first)).await.unwrap();
    let stray = ["pages", "pages.part"].map(|ending| {
        let path = lab.folder.path().join(format!("{}.{ending}", MemoryId::generate()));
        fs::write(&path, b"left by a crash").unwrap();
        path
    });
    fs::write(lab.folder.path().join("notes.part"), b"somebody's").unwrap();
    let mut found = unneeded().await;
    found.sort();
    let mut expected = stray.to_vec();
    expected.sort();
    assert_eq!(found, expected, "not those of a capture at work");
    drop(sink);
    fs::write(lab.folder.path().join(format!("{}.memory", MemoryId::generate())), b"not to be read").unwrap();
    assert_eq!(unneeded().await, none, "it cannot be told");
}
