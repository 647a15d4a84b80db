//! BLAKE3 by chunks: a digest for each, and their merge into the hash of the file.

use crate::store::Watch;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use parking_lot::Mutex;

/// A chaining value or a hash, 32 bytes.
pub type Digest = [u8; 32];

/// Returns the digest of one chunk of a file that has several: the chaining value of its subtree.
///
/// `offset` is the start of the chunk in bytes, a multiple of [`super::CHUNK_SIZE`]; `bytes` are
/// not empty.
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
    chunks: u64,
}

impl RootHasher {
    /// Adds the next chunk's digest.
    pub fn push(&mut self, digest: Digest) {
        // complete subtrees are merged only once more follows: the topmost merge makes the root, in
        // another way
        while self.stack.len() as u64 > u64::from(self.chunks.count_ones()) {
            self.merge_top();
        }
        self.stack.push(digest);
        self.chunks = self.chunks.saturating_add(1);
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
        while complete.stack.len() as u64 > u64::from(self.chunks.count_ones()) {
            complete.merge_top();
        }
        complete.stack
    }

    /// Resumes after the first `chunks` chunks of a file, which `state` covers; `None` if it does
    /// not.
    pub fn resume(chunks: u64, state: Vec<Digest>) -> Option<RootHasher> {
        (state.len() as u64 == u64::from(chunks.count_ones())).then_some(RootHasher {
            stack: state,
            chunks,
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
    use crate::chunk::CHUNK_SIZE;

    #[test]
    fn merged_chunks_give_the_ordinary_hash() {
        let bytes: Vec<u8> = (0..9 * CHUNK_SIZE + 17).map(|i| (i * 31 % 251) as u8).collect();
        for chunks in 2..=9 {
            for extra in [0, 1, 17] {
                let file = &bytes[..chunks * CHUNK_SIZE + extra];
                let mut root = RootHasher::default();
                for (i, chunk) in file.chunks(CHUNK_SIZE).enumerate() {
                    root.push(chunk_digest((i * CHUNK_SIZE) as u64, chunk));
                }
                assert_eq!(
                    root.root(),
                    Some(whole_digest(file)),
                    "{chunks} chunks and {extra} bytes"
                );
            }
        }
    }

    #[test]
    fn a_hash_can_be_gone_on_with_after_any_chunk() {
        let bytes: Vec<u8> = (0..9 * CHUNK_SIZE + 17).map(|i| (i * 31 % 251) as u8).collect();
        let digests: Vec<Digest> = bytes
            .chunks(CHUNK_SIZE)
            .enumerate()
            .map(|(i, chunk)| chunk_digest((i * CHUNK_SIZE) as u64, chunk))
            .collect();
        for cut in 0..digests.len() {
            let mut first = RootHasher::default();
            digests[..cut].iter().for_each(|d| first.push(*d));
            let mut rest = RootHasher::resume(cut as u64, first.state()).unwrap();
            digests[cut..].iter().for_each(|d| rest.push(*d));
            assert_eq!(rest.root(), Some(whole_digest(&bytes)), "{cut}");
        }
        assert!(RootHasher::resume(3, vec![[0; 32]]).is_none());
    }

    #[test]
    fn a_single_chunk_has_no_merged_root() {
        let mut root = RootHasher::default();
        assert_eq!(root.clone().root(), None);
        root.push([1; 32]);
        assert_eq!(root.root(), None);
    }
}
