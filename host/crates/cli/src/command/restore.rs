//! `stillpoint backup verify` and `stillpoint backup restore`: a folder of backups, without the service.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, FileExt as _},
    path::Path,
};

use crate::{
    CliError,
    output::{Answer, text},
    repository::{
        BackedUpDisk, Kind, Manifest, Repository,
        blocks::{Block, BlockReader, hash},
        damaged, failed,
    },
};

/// Bytes that are looked at, and written, where there are to be zeros.
const ZEROS: usize = 1 << 16;

/// Compares every file of every backup with its hash.
pub(super) fn verify(folder: &Path) -> Result<Answer, CliError> {
    let repository = Repository::open(folder)?;
    let (mut bytes, numbers) = (0, repository.numbers()?);
    for number in &numbers {
        bytes += verified(&repository, &repository.chain(*number)?[..], *number)?;
    }
    let said = format!("{} backups are whole: {}", numbers.len(), text::bytes(bytes));
    Answer::new(said, &serde_json::json!({ "backups": numbers.len(), "bytes": bytes }))
}

/// Compares the files of one backup of a chain; answers how large they are.
fn verified(repository: &Repository, chain: &[Manifest], number: u32) -> Result<u64, CliError> {
    let mut sum = 0;
    for disk in chain.iter().filter(|manifest| manifest.number == number).flat_map(|manifest| &manifest.disks) {
        let path = repository.backup(number).join(&disk.file);
        let (bytes, blake3) = hash(&path).map_err(failed(&path))?;
        if (bytes, &blake3) != (disk.bytes, &disk.blake3) {
            return Err(damaged(&path, "it is not what was written"));
        }
        sum += bytes;
    }
    Ok(sum)
}

/// Makes the disks of a VM as they were at a backup, in a folder that must not be there yet. All that they are made of is
/// compared with its hashes first.
pub(super) fn restore(folder: &Path, at: Option<u32>, to: &Path) -> Result<Answer, CliError> {
    let repository = Repository::open(folder)?;
    let numbers = repository.numbers()?;
    let number = match at {
        Some(at) if !numbers.contains(&at) => {
            return Err(CliError::usage(format!("there is no backup {at}"), format!("there are {numbers:?}")));
        }
        Some(at) => at,
        None => numbers.into_iter().next_back().unwrap_or_default(),
    };
    let chain = repository.chain(number)?;
    for manifest in &chain {
        verified(&repository, &chain, manifest.number)?;
    }
    make_folder(to)?;
    let Some(last) = chain.last() else { return Err(damaged(folder, "a backup of nothing")) };
    if let Err(error) = make_all(&repository, &chain, last, to) {
        // It is of no use, and was not there before.
        let _ = fs::remove_dir_all(to);
        return Err(error);
    }
    let said = format!("backup {number} of VM {} is restored to {}", last.vm, to.display());
    Answer::new(said, &serde_json::json!({ "number": number, "of": chain.len(), "disks": last.disks.len() }))
}

/// For the user alone: disks hold what others must not read.
fn make_folder(to: &Path) -> Result<(), CliError> {
    match fs::DirBuilder::new().mode(0o700).create(to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let advice = "give a folder that is not there yet: it is made";
            Err(CliError::usage(format!("{} is there already", to.display()), advice))
        }
        made => made.map_err(failed(to)),
    }
}

fn make_all(repository: &Repository, chain: &[Manifest], last: &Manifest, to: &Path) -> Result<(), CliError> {
    for disk in &last.disks {
        make(repository, since_whole(chain, disk), disk, &to.join(format!("{}.raw", disk.disk)))?;
    }
    File::open(to).and_then(|folder| folder.sync_all()).map_err(failed(to))
}

/// The part of a chain that a disk consists of: it may have come later, or be another one than was there before.
fn since_whole<'c>(chain: &'c [Manifest], disk: &BackedUpDisk) -> &'c [Manifest] {
    let is_whole = |of: &BackedUpDisk| of.disk == disk.disk && of.kind == Kind::Full;
    let whole = chain.iter().rposition(|manifest| manifest.disks.iter().any(is_whole));
    &chain[whole.unwrap_or_default()..]
}

/// One disk: everything that the chain says of it, in order.
fn make(repository: &Repository, chain: &[Manifest], disk: &BackedUpDisk, made: &Path) -> Result<(), CliError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(made).map_err(failed(made))?;
    for manifest in chain {
        let Some(of) = manifest.disks.iter().find(|known| known.disk == disk.disk) else { continue };
        file.set_len(of.size).map_err(failed(made))?;
        let path = repository.backup(manifest.number).join(&of.file);
        let mut blocks = BlockReader::open(&path).map_err(failed(&path))?;
        while let Some(block) = blocks.next().map_err(failed(&path))? {
            let end = match &block {
                Block::Data(offset, data) => offset.checked_add(data.len() as u64),
                Block::Zeros(offset, length) => offset.checked_add(*length),
            };
            if end.is_none_or(|end| end > of.size) {
                return Err(damaged(&path, "a range behind the end of the disk"));
            }
            put(&file, block).map_err(failed(made))?;
        }
    }
    file.sync_all().map_err(failed(made))
}

fn put(file: &File, block: Block) -> std::io::Result<()> {
    match block {
        Block::Data(offset, data) => file.write_all_at(&data, offset),
        Block::Zeros(offset, length) => {
            let (zeros, mut found, mut at) = (vec![0; ZEROS], vec![0; ZEROS], offset);
            while at < offset + length {
                let part = usize::try_from(offset + length - at).unwrap_or(ZEROS).min(ZEROS);
                file.read_exact_at(&mut found[..part], at)?;
                // What was never written takes no room, and is to take none.
                if found[..part] != zeros[..part] {
                    file.write_all_at(&zeros[..part], at)?;
                }
                at += part as u64;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use stillpoint_common::DiskName;

    use super::*;
    use crate::repository::{Previous, blocks::BlockWriter, file_of};

    /// A disk of 4 KiB in a backup.
    type Disk<'d> = (&'d str, Kind, &'d [Block]);

    /// Adds a backup of these disks, on top of the one before.
    fn add(repository: &Repository, number: u32, disks: &[Disk<'_>]) {
        let partial = repository.begin(number, "").unwrap();
        let write = |(name, kind, blocks): &Disk<'_>| {
            let disk: DiskName = name.parse().unwrap();
            let mut writer = BlockWriter::create(&partial.folder.join(file_of(&disk))).unwrap();
            for block in *blocks {
                match block {
                    Block::Data(offset, data) => writer.data(*offset, data).unwrap(),
                    Block::Zeros(offset, length) => writer.zeros(*offset, *length).unwrap(),
                }
            }
            let (bytes, blake3) = writer.finish().unwrap();
            BackedUpDisk { file: file_of(&disk), disk, kind: *kind, size: 4096, bytes, blake3 }
        };
        let before = number.checked_sub(1).filter(|before| *before > 0);
        let previous = before.map(|number| Previous { number, blake3: repository.manifest(number).unwrap().1 });
        let manifest = Manifest {
            format: Manifest::new_format(),
            vm: "web".parse().unwrap(),
            number,
            kind: if previous.is_some() { Kind::Incremental } else { Kind::Full },
            previous,
            session: String::new(),
            created: None,
            consistency: None,
            backup_type: None,
            disks: disks.iter().map(write).collect(),
        };
        repository.seal(&partial, &manifest).unwrap();
    }

    #[test]
    fn a_disk_that_came_in_place_of_another_of_its_name_has_nothing_of_that_one() {
        let folder = tempfile::tempdir().unwrap();
        let (backups, to) = (folder.path().join("backups"), folder.path().join("to"));
        let repository = Repository::open_or_make(&backups).unwrap();
        let ones = [Block::Data(0, vec![1; 4096])];
        add(&repository, 1, &[("system", Kind::Full, &ones), ("data", Kind::Full, &ones)]);
        add(&repository, 2, &[("system", Kind::Incremental, &[Block::Zeros(1024, 1024)])]);
        add(
            &repository,
            3,
            &[
                ("system", Kind::Incremental, &[Block::Data(3072, vec![3; 1024])]),
                ("data", Kind::Full, &[Block::Data(512, vec![2; 512])]),
            ],
        );
        add(&repository, 4, &[("data", Kind::Incremental, &[Block::Data(0, vec![4; 512])])]);
        restore(&backups, Some(3), &to).unwrap();
        let parts =
            |parts: &[(u8, usize)]| parts.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect::<Vec<u8>>();
        assert_eq!(fs::read(to.join("system.raw")).unwrap(), parts(&[(1, 1024), (0, 1024), (1, 1024), (3, 1024)]));
        assert_eq!(fs::read(to.join("data.raw")).unwrap(), parts(&[(0, 512), (2, 512), (0, 3072)]));
        restore(&backups, None, &folder.path().join("last")).unwrap();
        let last = fs::read(folder.path().join("last/data.raw")).unwrap();
        assert_eq!(last, parts(&[(4, 512), (2, 512), (0, 3072)]));
        let there = restore(&backups, Some(3), &to).unwrap_err();
        assert!(there.to_string().contains("there already"), "{there}");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(backups.join("0001")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn zeros_take_no_room_and_nothing_is_built_upon_a_chain_that_is_not_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let (backups, to) = (folder.path().join("backups"), folder.path().join("to"));
        let repository = Repository::open_or_make(&backups).unwrap();
        add(&repository, 1, &[("data", Kind::Full, &[])]);
        add(&repository, 2, &[("data", Kind::Incremental, &[Block::Zeros(0, 4096)])]);
        restore(&backups, None, &to).unwrap();
        let made = fs::metadata(to.join("data.raw")).unwrap();
        assert_eq!((made.len(), made.blocks()), (4096, 0));
        repository.is_complete(2).unwrap();
        fs::write(backups.join("0001/data.blocks"), b"STILL").unwrap();
        assert!(repository.is_complete(2).unwrap_err().to_string().contains("0001/data.blocks"));
        fs::remove_dir_all(backups.join("0001")).unwrap();
        assert!(repository.is_complete(2).unwrap_err().to_string().contains("0001"));
    }

    #[test]
    fn a_restore_that_fails_leaves_nothing_and_a_second_run_at_once_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (backups, to) = (folder.path().join("backups"), folder.path().join("to"));
        let repository = Repository::open_or_make(&backups).unwrap();
        add(&repository, 1, &[("data", Kind::Full, &[Block::Data(4000, vec![1; 97])])]);
        let behind = restore(&backups, None, &to).unwrap_err();
        assert!(behind.to_string().contains("damaged"), "{behind}");
        assert!(!to.exists());
        let held = repository.lock().unwrap();
        assert!(repository.lock().unwrap_err().to_string().contains("another backup"));
        drop(held);
        repository.lock().unwrap();
    }
}
