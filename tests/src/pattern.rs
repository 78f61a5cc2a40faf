//! A stream of bytes of which every one can be checked by its place: a lost, doubled or swapped
//! piece is found, and where.

/// A prime, so that no buffer size of ours divides it.
const BLOCK: usize = 65_521;

/// A stream of bytes that is the same for the same seed.
#[derive(Clone)]
pub struct Pattern {
    block: Vec<u8>,
    offset: u64,
}

impl Pattern {
    /// The stream of a seed, from its beginning.
    pub fn new(seed: u64) -> Pattern {
        let mut state = seed;
        let mut block = Vec::with_capacity(BLOCK + 8);
        while block.len() < BLOCK {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            block.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        block.truncate(BLOCK);
        Pattern { block, offset: 0 }
    }

    /// How many bytes were made or checked.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Calls `each` with the bytes that come next, `len` in all, in pieces.
    fn pieces(&mut self, len: usize, mut each: impl FnMut(usize, &[u8])) {
        let mut done = 0;
        while done < len {
            let at = (self.offset % BLOCK as u64) as usize;
            if at == 0 {
                // Each block begins with its number: the loss of a whole block is seen.
                let number = self.offset / BLOCK as u64;
                self.block[..8].copy_from_slice(&number.to_le_bytes());
            }
            let n = (BLOCK - at).min(len - done);
            each(done, &self.block[at..at + n]);
            self.offset += n as u64;
            done += n;
        }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        self.pieces(len, |_, piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// Panics where `bytes` are not what comes next.
    pub fn check(&mut self, bytes: &[u8]) {
        let start = self.offset;
        self.pieces(bytes.len(), |at, piece| {
            let got = &bytes[at..at + piece.len()];
            if got != piece {
                let wrong = got.iter().zip(piece).position(|(a, b)| a != b).unwrap_or(0);
                panic!("the stream differs at byte {}", start + (at + wrong) as u64);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_stream() {
        let whole = Pattern::new(7).take(3 * BLOCK + 11);
        let mut pieces = Pattern::new(7);
        for chunk in whole.chunks(1000) {
            pieces.check(chunk);
        }
        assert_eq!(pieces.offset(), whole.len() as u64);
    }

    #[test]
    #[should_panic(expected = "differs at byte 65521")]
    fn a_lost_block_is_seen() {
        let whole = Pattern::new(7).take(3 * BLOCK);
        let mut reader = Pattern::new(7);
        reader.check(&whole[..BLOCK]);
        reader.check(&whole[2 * BLOCK..]);
    }
}
