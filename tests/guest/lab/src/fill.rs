//! Files of random data that can be checked later from their seed.

use std::fs::File;
use std::io::{Read, Write};

use crate::{Outcome, pattern};

const PAGES_PER_MIB: u64 = 1024 * 1024 / pattern::PAGE as u64;

/// Writes `mib` MiB of the pattern `seed` to `file` and makes them durable.
pub(crate) fn fill(file: &str, mib: u64, seed: u64) -> Outcome {
    let failed = |e: std::io::Error| format!("{file}: {e}");
    let mut out = File::options().write(true).create(true).truncate(true).open(file).map_err(failed)?;
    let mut chunk = vec![0; 1024 * 1024];
    for at in 0..mib {
        for (page, number) in chunk.chunks_exact_mut(pattern::PAGE).zip(at * PAGES_PER_MIB..) {
            pattern::write_page(page, seed, number, 0);
        }
        out.write_all(&chunk).map_err(failed)?;
    }
    out.sync_all().map_err(failed)?;
    Ok(format!("filled {mib} MiB"))
}

/// Says `intact`, or fails with the first page that is not what [`fill`] wrote.
pub(crate) fn check(file: &str, mib: u64, seed: u64) -> Outcome {
    let mut input = File::open(file).map_err(|e| format!("{file}: {e}"))?;
    let mut page = vec![0; pattern::PAGE];
    for number in 0..mib * PAGES_PER_MIB {
        input.read_exact(&mut page).map_err(|e| format!("{file}: page {number}: {e}"))?;
        if !pattern::holds(&page, seed, number, 0) {
            return Err(format!("{file}: page {number} is not what was written"));
        }
    }
    match input.read(&mut page) {
        Ok(0) => Ok("intact".into()),
        Ok(_) => Err(format!("{file} is longer than {mib} MiB")),
        Err(e) => Err(format!("{file}: {e}")),
    }
}
