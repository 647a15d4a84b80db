//! The digests of a file's chunks, in any order, become its hash.

use super::digest::{Digest, RootHasher};
use std::collections::BTreeMap;

/// The known part of a file's hash. Hashes merge in order, so a digest waits for those before it.
#[derive(Clone, Debug, Default)]
pub struct Merge {
    /// Bytes from the start of the file that `root` covers.
    covered: u64,
    root: RootHasher,
    /// By offset: digest and length.
    apart: BTreeMap<u64, (Digest, u64)>,
}

impl Merge {
    /// Resumes behind the first `covered` bytes, which are whole chunks with the hash `root`.
    pub fn resume(covered: u64, root: RootHasher) -> Merge {
        Merge {
            covered,
            root,
            apart: BTreeMap::new(),
        }
    }

    /// Adds the digest of the chunk of `length` bytes at `offset`. One that is covered already
    /// changes nothing.
    pub fn insert(&mut self, offset: u64, length: u64, digest: Digest) {
        if offset < self.covered {
            return;
        }
        self.apart.insert(offset, (digest, length));
        while let Some((digest, length)) = self.apart.remove(&self.covered) {
            self.root.push(digest, length);
            self.covered = self.covered.saturating_add(length);
        }
    }

    /// Returns how many bytes from the start of the file are covered.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Returns digest and length of the chunk at `offset`, if they have come and are not covered
    /// yet.
    pub fn apart(&self, offset: u64) -> Option<(Digest, u64)> {
        self.apart.get(&offset).copied()
    }

    /// True if the digest of a chunk with bytes between these offsets has come and is not covered
    /// yet.
    pub fn has_apart(&self, from: u64, to: u64) -> bool {
        let last = self.apart.range(..to).next_back();
        last.is_some_and(|(offset, (_, length))| offset.saturating_add(*length) > from)
    }

    /// Returns the end of the last chunk whose digest has come, in bytes from the start.
    pub fn end(&self) -> u64 {
        let last = self.apart.last_key_value();
        last.map_or(self.covered, |(offset, (_, length))| offset.saturating_add(*length))
    }

    /// The hash of the covered bytes.
    pub fn root(&self) -> &RootHasher {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::CHUNK_SIZE;
    use crate::chunk::digest::chunk_digest;

    #[test]
    fn digests_in_any_order_are_those_of_the_file() {
        let chunk = CHUNK_SIZE as u64;
        let file: Vec<u8> = (0..4 * CHUNK_SIZE + 5).map(|i| (i / 1000) as u8).collect();
        let digests: Vec<_> = file
            .chunks(CHUNK_SIZE)
            .zip(0..)
            .map(|(bytes, i)| (i * chunk, bytes.len() as u64, chunk_digest(i * chunk, bytes)))
            .collect();
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 0, 4, 2, 3]] {
            let mut merge = Merge::default();
            for i in order {
                let (offset, length, digest) = digests[i];
                merge.insert(offset, length, digest);
                merge.insert(offset, length, digest);
            }
            assert_eq!((merge.covered(), merge.end()), (file.len() as u64, file.len() as u64));
            assert_eq!(merge.root().clone().root(), Some(*blake3::hash(&file).as_bytes()));
        }
        let mut merge = Merge::default();
        merge.insert(2 * chunk, chunk, digests[2].2);
        merge.insert(0, chunk, digests[0].2);
        assert_eq!((merge.covered(), merge.end()), (chunk, 3 * chunk));
        assert_eq!(merge.apart(2 * chunk), Some((digests[2].2, chunk)));
        assert_eq!(merge.apart(chunk), None);
    }
}
