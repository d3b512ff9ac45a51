//! `stillpoint backup verify` and `stillpoint backup restore`: a folder of backups, without the service.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
};

use crate::{
    CliError,
    output::{Answer, text},
    repository::{
        BackedUpDisk, Manifest, Repository,
        blocks::{Block, BlockReader, hash},
        damaged, failed,
    },
};

/// Bytes that zeros are written in, where something else was before.
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
    fs::create_dir(to).map_err(failed(to))?;
    let Some(last) = chain.last() else { return Err(damaged(folder, "a backup of nothing")) };
    for disk in &last.disks {
        let made = to.join(format!("{}.raw", disk.disk));
        make(&repository, &chain, disk, &made)?;
    }
    let said = format!("backup {number} of VM {} is restored to {}", last.vm, to.display());
    Answer::new(said, &serde_json::json!({ "number": number, "of": chain.len(), "disks": last.disks.len() }))
}

/// One disk: everything that the chain says of it, in order.
fn make(repository: &Repository, chain: &[Manifest], disk: &BackedUpDisk, made: &Path) -> Result<(), CliError> {
    let file = File::create_new(made).map_err(failed(made))?;
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
            let (zeros, mut at) = (vec![0; ZEROS], offset);
            while at < offset + length {
                let part = usize::try_from(offset + length - at).unwrap_or(ZEROS).min(ZEROS);
                file.write_all_at(&zeros[..part], at)?;
                at += part as u64;
            }
            Ok(())
        }
    }
}
