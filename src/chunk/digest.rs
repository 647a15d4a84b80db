//! BLAKE3 by chunks: a digest for each, and their merge into the hash of the file.

use super::LEAST_CHUNK;
use crate::store::Watch;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use parking_lot::Mutex;

/// A chaining value or a hash, 32 bytes.
pub type Digest = [u8; 32];

/// Returns the digest of one chunk of a file that has several: the chaining value of its subtree.
///
/// `offset` is the start of the chunk in bytes, aligned to its size; `bytes` are not empty.
pub fn chunk_digest(offset: u64, bytes: &[u8]) -> Digest {
    let mut hashing = Hashing::of_chunk(offset);
    hashing.update(bytes);
    hashing.digest()
}

/// Returns the digest of a file that is a single chunk: its ordinary BLAKE3 hash.
pub fn whole_digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// An unfinished digest, of bytes that come piece by piece.
pub struct Hashing {
    hasher: blake3::Hasher,
    whole: bool,
}

impl Hashing {
    /// Starts that of [`chunk_digest`].
    pub fn of_chunk(offset: u64) -> Hashing {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        Hashing {
            hasher,
            whole: false,
        }
    }

    /// Starts that of [`whole_digest`].
    pub fn of_whole() -> Hashing {
        Hashing {
            hasher: blake3::Hasher::new(),
            whole: true,
        }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Returns the digest of all bytes so far; zeros for a chunk without bytes.
    pub fn digest(&self) -> Digest {
        match self.whole {
            true => *self.hasher.finalize().as_bytes(),
            false if self.hasher.count() == 0 => [0; 32],
            false => self.hasher.finalize_non_root(),
        }
    }
}

/// A digest that the reading thread makes.
pub struct Reading(Mutex<Hashing>);

impl Reading {
    /// Continues this digest.
    pub fn new(hashing: Hashing) -> Reading {
        Reading(Mutex::new(hashing))
    }

    /// Returns the digest of all bytes that were read.
    pub fn digest(&self) -> Digest {
        self.0.lock().digest()
    }
}

impl Watch for Reading {
    fn see(&self, bytes: &[u8]) {
        self.0.lock().update(bytes);
    }
}

/// Merges the digests of a file's chunks, given in order, into the file's BLAKE3 hash.
///
/// It holds one value per complete subtree so far: at most 44, for the largest possible file.
#[derive(Clone, Debug, Default)]
pub struct RootHasher {
    stack: Vec<Digest>,
    /// So many of the least chunks are covered.
    least_chunks: u64,
}

impl RootHasher {
    /// Adds the digest of the next chunk, which has `length` bytes.
    pub fn push(&mut self, digest: Digest, length: u64) {
        // complete subtrees are merged only once more follows: the topmost merge makes the root, in
        // another way
        self.merge_complete();
        self.stack.push(digest);
        let least_chunks = length.div_ceil(LEAST_CHUNK as u64);
        self.least_chunks = self.least_chunks.saturating_add(least_chunks);
    }

    /// Merges complete subtrees of the same size: one remains for each bit of the chunks' number.
    fn merge_complete(&mut self) {
        while self.stack.len() as u64 > u64::from(self.least_chunks.count_ones()) {
            self.merge_top();
        }
    }

    fn merge_top(&mut self) {
        if let (Some(newer), Some(older)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&older, &newer, Mode::Hash));
        }
    }

    /// Returns the values that cover the chunks so far, given that more follow: the `state` of
    /// [`RootHasher::resume`].
    pub fn state(&self) -> Vec<Digest> {
        let mut complete = self.clone();
        complete.merge_complete();
        complete.stack
    }

    /// Resumes after the first `offset` bytes of a file, which `state` covers; `None` if it does
    /// not, or no chunk begins there.
    pub fn resume(offset: u64, state: Vec<Digest>) -> Option<RootHasher> {
        let least_chunks = offset / LEAST_CHUNK as u64;
        let covers = state.len() as u64 == u64::from(least_chunks.count_ones());
        (covers && offset.is_multiple_of(LEAST_CHUNK as u64)).then_some(RootHasher {
            stack: state,
            least_chunks,
        })
    }

    /// Returns the file's hash; `None` unless at least two digests were added. The hash of a single
    /// chunk is its [`whole_digest`].
    pub fn root(mut self) -> Option<Digest> {
        while self.stack.len() > 2 {
            self.merge_top();
        }
        match self.stack.as_slice() {
            [older, newer] => Some(*merge_subtrees_root(older, newer, Mode::Hash).as_bytes()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{CHUNK_SIZE, chunk_length, is_aligned, is_full};

    const MIB: u64 = CHUNK_SIZE as u64;

    /// Some bytes, and the most that chunks from each of them on have.
    fn bytes_and_sizes() -> (Vec<u8>, [u64; 4]) {
        let bytes = (0..9 * CHUNK_SIZE + 17).map(|i| (i * 31 % 251) as u8);
        (bytes.collect(), [MIB, MIB / 4, MIB / 2, 0])
    }

    /// The digests and lengths of a file's chunks from `offset` on. With 0 their sizes take turns.
    fn digests_of(file: &[u8], mut offset: u64, most: u64) -> Vec<(Digest, u64)> {
        let mut digests = Vec::new();
        while offset < file.len() as u64 {
            let most = match most {
                0 => [MIB / 4, MIB, MIB / 2][digests.len() % 3],
                most => most,
            };
            let length = chunk_length(offset, file.len() as u64 - offset, most);
            assert!(is_aligned(offset, length));
            let end = offset + length;
            assert!(is_full(offset, length) || end == file.len() as u64);
            digests.push((chunk_digest(offset, &file[offset as usize..end as usize]), length));
            offset = end;
        }
        digests
    }

    #[test]
    fn merged_chunks_of_any_sizes_give_the_ordinary_hash() {
        let (bytes, sizes) = bytes_and_sizes();
        for chunks in 2..=9 {
            for extra in [0, 1, 17, CHUNK_SIZE / 4, CHUNK_SIZE / 4 * 3 + 1] {
                let Some(file) = bytes.get(..chunks * CHUNK_SIZE + extra) else {
                    continue;
                };
                for most in sizes {
                    let mut root = RootHasher::default();
                    digests_of(file, 0, most).iter().for_each(|(d, n)| root.push(*d, *n));
                    let what = format!("{chunks} chunks and {extra} bytes by {most}");
                    assert_eq!(root.root(), Some(whole_digest(file)), "{what}");
                }
            }
        }
    }

    #[test]
    fn a_hash_can_be_gone_on_with_after_any_chunk_with_others() {
        let (bytes, sizes) = bytes_and_sizes();
        for (before, after) in sizes.into_iter().flat_map(|a| sizes.map(|b| (a, b))) {
            let digests = digests_of(&bytes, 0, before);
            for cut in 0..digests.len() {
                let (mut first, mut offset) = (RootHasher::default(), 0);
                for (digest, length) in &digests[..cut] {
                    first.push(*digest, *length);
                    offset += length;
                }
                let mut rest = RootHasher::resume(offset, first.state()).unwrap();
                let more = digests_of(&bytes, offset, after);
                more.iter().for_each(|(d, n)| rest.push(*d, *n));
                assert_eq!(rest.root(), Some(whole_digest(&bytes)), "{cut} {before} {after}");
            }
        }
        assert!(RootHasher::resume(3 * MIB, vec![[0; 32]]).is_none());
        assert!(RootHasher::resume(3, vec![[0; 32]]).is_none());
    }

    #[test]
    fn a_single_chunk_has_no_merged_root() {
        let mut root = RootHasher::default();
        assert_eq!(root.clone().root(), None);
        root.push([1; 32], 5);
        assert_eq!(root.root(), None);
    }
}
