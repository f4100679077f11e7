//! The content of a checked stream: a function of seed and offset, so that any block can be made or checked alone.

/// Where a stream first differed from its pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Offset of the first wrong byte in the stream.
    pub offset: u64,
    /// What the pattern has there.
    pub wanted: u8,
    /// What came.
    pub found: u8,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "byte {} is {:#04x}, should be {:#04x}", self.offset, self.found, self.wanted)
    }
}

/// The eight bytes at `8 * index`: splitmix64, which never repeats a block within a stream.
fn word(seed: u64, index: u64) -> [u8; 8] {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// Calls `visit` with each piece of `buffer` and the pattern's bytes for it, from stream offset `offset` on.
fn walk<T>(length: usize, seed: u64, offset: u64, mut visit: impl FnMut(usize, &[u8]) -> Option<T>) -> Option<T> {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let skip = (at % 8) as usize;
        let bytes = word(seed, at / 8);
        let piece = &bytes[skip..(8).min(skip + length - done)];
        if let Some(found) = visit(done, piece) {
            return Some(found);
        }
        done += piece.len();
    }
    None
}

/// Fills `buffer` with the stream's content from `offset` on.
pub fn fill(buffer: &mut [u8], seed: u64, offset: u64) {
    let length = buffer.len();
    walk(length, seed, offset, |at, piece| -> Option<()> {
        buffer[at..at + piece.len()].copy_from_slice(piece);
        None
    });
}

/// Checks that `buffer` is the stream's content from `offset` on.
///
/// # Errors
/// The first byte that differs.
pub fn check(buffer: &[u8], seed: u64, offset: u64) -> Result<(), Mismatch> {
    let wrong = walk(buffer.len(), seed, offset, |at, piece| {
        let found = &buffer[at..at + piece.len()];
        if found == piece {
            return None;
        }
        let index = found.iter().zip(piece).position(|(a, b)| a != b)?;
        Some(Mismatch { offset: offset + (at + index) as u64, wanted: piece[index], found: found[index] })
    });
    wrong.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_stream_as_the_whole() {
        let mut whole = vec![0; 1000];
        fill(&mut whole, 7, 0);
        let mut pieces = vec![0; 1000];
        let mut at = 0;
        for length in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 15] {
            fill(&mut pieces[at..at + length], 7, at as u64);
            at += length;
        }
        assert_eq!(at, 1000);
        assert_eq!(whole, pieces);
    }

    #[test]
    fn a_changed_lost_or_repeated_byte_is_found_at_its_place() {
        let mut stream = vec![0; 4096];
        fill(&mut stream, 9, 5);
        assert_eq!(check(&stream, 9, 5), Ok(()));
        assert!(check(&stream, 10, 5).is_err());
        let mut changed = stream.clone();
        changed[1234] ^= 0x10;
        assert_eq!(check(&changed, 9, 5).unwrap_err().offset, 5 + 1234);
        let mut lost = stream.clone();
        lost.drain(2048..2056);
        assert!((2053..2061).contains(&check(&lost, 9, 5).unwrap_err().offset));
        let mut repeated = stream.clone();
        let block = repeated[1024..2048].to_vec();
        repeated.splice(2048..3072, block);
        assert!(check(&repeated, 9, 5).is_err());
    }
}
