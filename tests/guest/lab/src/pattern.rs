//! Data that cannot be compressed and can be told again from its seed: what was written can be checked
//! later without keeping a copy.

/// Bytes in a page of the pattern; each page follows from its seed and number alone.
pub(crate) const PAGE: usize = 4096;

/// Fills `page` with what page `number` of the pattern `seed` holds in its `generation`.
pub(crate) fn write_page(page: &mut [u8], seed: u64, number: u64, generation: u64) {
    let mut state = start(seed, number, generation);
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&next(&mut state).to_le_bytes());
    }
}

/// Whether `page` still holds exactly what [`write_page`] put there.
pub(crate) fn holds(page: &[u8], seed: u64, number: u64, generation: u64) -> bool {
    let mut state = start(seed, number, generation);
    page.chunks_exact(8).all(|word| word == next(&mut state).to_le_bytes())
}

/// The next number of a random sequence (xorshift64*, good enough to defeat compression).
pub(crate) fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

fn start(seed: u64, number: u64, generation: u64) -> u64 {
    let mut z = seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ generation.wrapping_mul(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (z ^ (z >> 27)) | 1 // xorshift must not start at zero
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_again_and_a_changed_one_is_not() {
        let mut page = vec![0; PAGE];
        write_page(&mut page, 7, 3, 1);
        assert!(holds(&page, 7, 3, 1));
        assert!(!holds(&page, 7, 3, 2) && !holds(&page, 7, 4, 1) && !holds(&page, 8, 3, 1));
        page[PAGE - 1] ^= 1;
        assert!(!holds(&page, 7, 3, 1));
    }
}
