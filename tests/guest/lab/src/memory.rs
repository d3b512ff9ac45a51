//! Memory filled with data that cannot be compressed, some of it rewritten all the time, all of it checkable.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::{Outcome, ask, pattern};

/// The filled pages and, for each, how often it was rewritten: what it must hold follows from that.
struct Filled {
    seed: u64,
    bytes: Vec<u8>,
    generations: Vec<u64>,
}

/// Fills `mib` MiB, then rewrites `dirty` MiB a second of them at random places.
///
/// Asked `check` it says `intact`, or which page is wrong; asked `size` how many MiB it holds. Both answer
/// only once the memory is filled, so a test can wait for it with `size`.
pub(crate) fn keep(name: &str, mib: u64, seed: u64, dirty: u64) -> Outcome {
    let filled = Arc::new(Mutex::new(Filled::new(mib, seed)?)); // held for one question or one rewrite
    let asked = Arc::clone(&filled);
    ask::answer(name, move |question| match (question, asked.lock()) {
        ("check", Ok(filled)) => filled.check(),
        ("size", Ok(filled)) => format!("{}", filled.bytes.len() >> 20),
        (_, Ok(_)) => format!("error: `{question}`? ask: check | size"),
        (_, Err(_)) => "error: an earlier question failed".into(),
    })?;
    let mut random = seed | 1;
    loop {
        if dirty == 0 {
            thread::park();
            continue;
        }
        thread::sleep(Duration::from_millis(10));
        let Ok(mut filled) = filled.lock() else { return Err("a question failed".into()) };
        for _ in 0..(dirty * 256).div_ceil(100) {
            filled.rewrite(pattern::next(&mut random));
        }
    }
}

impl Filled {
    fn new(mib: u64, seed: u64) -> Result<Self, String> {
        let size = usize::try_from(mib << 20).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; size];
        for (page, number) in bytes.chunks_exact_mut(pattern::PAGE).zip(0..) {
            pattern::write_page(page, seed, number, 0);
        }
        Ok(Self { seed, generations: vec![0; size / pattern::PAGE], bytes })
    }

    fn rewrite(&mut self, random: u64) {
        let count = self.generations.len() as u64;
        let number = random.checked_rem(count).unwrap_or(0);
        let Ok(index) = usize::try_from(number) else { return };
        let Some(page) = self.bytes.chunks_exact_mut(pattern::PAGE).nth(index) else { return };
        self.generations[index] += 1;
        pattern::write_page(page, self.seed, number, self.generations[index]);
    }

    fn check(&self) -> String {
        let mut pages = self.bytes.chunks_exact(pattern::PAGE).zip(&self.generations).zip(0..);
        match pages.find(|((page, generation), number)| !pattern::holds(page, self.seed, *number, **generation)) {
            None => "intact".into(),
            Some((_, number)) => format!("error: page {number} of {} changed by itself", self.generations.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewritten_memory_is_intact_and_a_flipped_bit_is_found() {
        let mut filled = Filled::new(1, 42).unwrap();
        (0..100).for_each(|n| filled.rewrite(n * 31));
        assert_eq!(filled.check(), "intact");
        filled.bytes[5 * pattern::PAGE + 9] ^= 4;
        assert_eq!(filled.check(), "error: page 5 of 256 changed by itself");
    }
}
