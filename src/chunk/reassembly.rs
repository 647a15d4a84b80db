//! Chunks in any order, with duplicates, become parts of a file: in order, or, where a store takes them so, as they come.

use super::CHUNK_SIZE;
use super::digest::{Digest, RootHasher};
use super::hole::ZeroChunk;
use super::merge::Merge;
use crate::store::PartRules;
use std::collections::BTreeMap;

/// Chunks that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Two payloads for one chunk.
    #[error("two different payloads came for one chunk")]
    Conflict,
    /// A chunk after the end, a short chunk before it, or a size that is not the sum.
    #[error("the chunks do not add up to a file")]
    Shape,
    /// The hash of the whole is not the one that the sender gave.
    #[error("the file's hash is not the one that was sent")]
    Hash,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is kept until its turn.
    New,
    /// It was here before; the copy is not needed.
    Duplicate,
}

/// One file's chunks on the way back into order. The payload is any `T`; its bound in number is the window's.
#[derive(Debug)]
pub struct Reassembly<T> {
    waiting: BTreeMap<u64, (Digest, u64, T)>,
    /// Holes that are not taken yet, by offset: how many bytes.
    holes: BTreeMap<u64, u64>,
    /// The digests of what has been taken. Everything that it covers has been.
    taken: Merge,
    /// The end of the file, once a short chunk or the seal has told it.
    end: Option<u64>,
    sealed: Option<Digest>,
    /// The file is a single chunk: its digest is its hash.
    single: bool,
}

/// Some consecutive chunks, ready to be written.
#[derive(Debug)]
pub struct Part<T> {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes in all.
    pub length: u64,
    /// Offset and payload of each chunk, in order.
    pub chunks: Vec<(u64, T)>,
}

impl<T> Default for Reassembly<T> {
    fn default() -> Reassembly<T> {
        Reassembly {
            waiting: BTreeMap::new(),
            holes: BTreeMap::new(),
            taken: Merge::default(),
            end: None,
            sealed: None,
            single: false,
        }
    }
}

impl<T> Reassembly<T> {
    /// Goes on at `offset`, a multiple of [`CHUNK_SIZE`]; `state` covers what is before it. None where it does not.
    pub fn resume(offset: u64, state: Vec<Digest>) -> Option<Reassembly<T>> {
        let chunks = offset / CHUNK_SIZE as u64;
        let root = RootHasher::resume(chunks, state).filter(|_| offset.is_multiple_of(CHUNK_SIZE as u64))?;
        Some(Reassembly {
            taken: Merge::resume(offset, root),
            ..Reassembly::default()
        })
    }

    /// Up to where everything has been taken.
    pub fn next_offset(&self) -> u64 {
        self.taken.covered()
    }

    /// Up to where everything has been taken, and the values that cover that, given that more follows.
    pub fn taken(&self) -> (u64, Vec<Digest>) {
        (self.taken.covered(), self.taken.root().state())
    }

    /// A chunk arrived, verified against `digest`. `length` is that of its payload, 1 to [`CHUNK_SIZE`].
    ///
    /// # Errors
    /// [`Mismatch`] where it contradicts what came before.
    pub fn insert(&mut self, offset: u64, length: u64, digest: Digest, payload: T) -> Result<Inserted, Mismatch> {
        if offset < self.taken.covered() {
            return Ok(Inserted::Duplicate);
        }
        let waiting = self.waiting.get(&offset).map(|(digest, length, _)| (*digest, *length));
        if let Some(known) = waiting.or_else(|| self.taken.apart(offset)) {
            return if known == (digest, length) {
                Ok(Inserted::Duplicate)
            } else {
                Err(Mismatch::Conflict)
            };
        }
        let chunk_end = offset.checked_add(length).ok_or(Mismatch::Shape)?;
        if self.has_hole(offset, chunk_end) {
            return Err(Mismatch::Conflict);
        }
        if length < CHUNK_SIZE as u64 {
            self.set_end(chunk_end)?;
        } else if self.end.is_some_and(|end| chunk_end > end) {
            return Err(Mismatch::Shape);
        }
        self.waiting.insert(offset, (digest, length, payload));
        Ok(Inserted::New)
    }

    /// The sender has a hole of `length` bytes at `offset`, the start of a chunk. It ends where a chunk or the file does.
    ///
    /// # Errors
    /// [`Mismatch`] where it contradicts what came before.
    pub fn insert_hole(&mut self, offset: u64, length: u64) -> Result<Inserted, Mismatch> {
        if offset < self.taken.covered() || self.holes.get(&offset) == Some(&length) {
            return Ok(Inserted::Duplicate);
        }
        let end = offset.checked_add(length).ok_or(Mismatch::Shape)?;
        let filled = self.waiting.range(offset..end).next().is_some() || self.taken.has_apart(offset, end);
        if filled || self.has_hole(offset, end) {
            return Err(Mismatch::Conflict);
        }
        if !length.is_multiple_of(CHUNK_SIZE as u64) {
            self.set_end(end)?;
        } else if self.end.is_some_and(|known| end > known) {
            return Err(Mismatch::Shape);
        }
        self.holes.insert(offset, length);
        Ok(Inserted::New)
    }

    /// True when there is a hole between these offsets.
    fn has_hole(&self, from: u64, to: u64) -> bool {
        let last = self.holes.range(..to).next_back();
        last.is_some_and(|(offset, length)| offset.saturating_add(*length) > from)
    }

    /// The hole whose turn it is, offset and length: everything before it has been taken.
    pub fn next_hole(&self) -> Option<(u64, u64)> {
        let hole = self.holes.get_key_value(&self.next_offset());
        hole.map(|(offset, length)| (*offset, *length))
    }

    /// Takes the hole whose turn it is, which consists of `chunks`.
    pub fn take_hole(&mut self, chunks: &[ZeroChunk]) {
        if self.holes.remove(&self.next_offset()).is_some() {
            for chunk in chunks {
                self.taken.insert(chunk.offset, chunk.length, chunk.digest);
            }
        }
    }

    /// Holes that are not taken yet.
    pub fn waiting_holes(&self) -> usize {
        self.holes.len()
    }

    /// The whole file arrived as a single chunk, whose digest is the file's hash. An empty one has no part to take.
    ///
    /// # Errors
    /// [`Mismatch`] where other chunks came before.
    pub fn insert_whole(&mut self, length: u64, hash: Digest, payload: T) -> Result<Inserted, Mismatch> {
        self.seal(length, hash)?;
        let inserted = match length {
            0 => Inserted::New,
            _ => self.insert(0, length, hash, payload)?,
        };
        self.single = true;
        Ok(inserted)
    }

    fn set_end(&mut self, end: u64) -> Result<(), Mismatch> {
        let waiting = self.waiting.last_key_value();
        let waiting = waiting.map_or(0, |(at, (_, length, _))| at.saturating_add(*length));
        let hole = self.holes.last_key_value();
        let hole = hole.map_or(0, |(at, length)| at.saturating_add(*length));
        let last = waiting.max(hole).max(self.taken.end());
        if self.end.is_some_and(|known| known != end) || last > end {
            return Err(Mismatch::Shape);
        }
        self.end = Some(end);
        Ok(())
    }

    /// The sender has read everything: `size` bytes with this hash.
    ///
    /// # Errors
    /// [`Mismatch::Shape`] where chunks beyond it have come.
    pub fn seal(&mut self, size: u64, hash: Digest) -> Result<(), Mismatch> {
        self.set_end(size)?;
        self.sealed = Some(hash);
        Ok(())
    }

    /// The next part that is ready: consecutive chunks of at most `rules.most` bytes, and of at least `rules.least` unless
    /// the file ends there, or a hole begins. They are those from where the last part ended; with `rules.skip_gap_after` chunks waiting for a
    /// missing one, the first there are.
    pub fn take_part(&mut self, rules: &PartRules) -> Option<Part<T>> {
        let first = match rules.skip_gap_after.is_some_and(|most| self.waiting.len() >= most) {
            true => *self.waiting.first_key_value()?.0,
            false => self.next_offset(),
        };
        let (mut count, mut length) = (0_usize, 0_u64);
        for (offset, (_, len, _)) in &self.waiting {
            let grown = length.saturating_add(*len);
            if *offset != first.saturating_add(length) || (count > 0 && grown > rules.most as u64) {
                break;
            }
            (count, length) = (count.saturating_add(1), grown);
        }
        let end = first.saturating_add(length);
        let is_last = self.end == Some(end) || self.holes.contains_key(&end);
        if count == 0 || (length < rules.least as u64 && !is_last) {
            return None;
        }
        let mut part = Part {
            offset: first,
            length,
            chunks: Vec::with_capacity(count),
        };
        for _ in 0..count {
            if let Some((offset, (digest, length, payload))) = self.waiting.pop_first() {
                self.taken.insert(offset, length, digest);
                part.chunks.push((offset, payload));
            }
        }
        Some(part)
    }

    /// The file's size and hash, once every chunk has been taken and the seal has come.
    ///
    /// # Errors
    /// [`Mismatch::Hash`] where the chunks are complete and make another file.
    pub fn complete(&self) -> Result<Option<(u64, Digest)>, Mismatch> {
        match (self.sealed, self.end) {
            (Some(hash), Some(end)) if end == self.next_offset() => {
                if self.single || self.taken.root().clone().root() == Some(hash) {
                    Ok(Some((end, hash)))
                } else {
                    Err(Mismatch::Hash)
                }
            }
            _ => Ok(None),
        }
    }

    /// Everything that waits, when the file is given up.
    pub fn into_waiting(self) -> impl Iterator<Item = (u64, T)> {
        self.waiting
            .into_iter()
            .map(|(offset, (_, _, payload))| (offset, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::digest::{chunk_digest, whole_digest};
    use proptest::prelude::*;

    const MIB: u64 = CHUNK_SIZE as u64;

    fn rules(least: usize, most: usize, skip_gap_after: Option<usize>) -> PartRules {
        PartRules {
            least,
            most,
            skip_gap_after,
        }
    }

    #[test]
    fn conflicts_and_shapes_are_refused() {
        let mut r = Reassembly::default();
        assert_eq!(r.insert(MIB, MIB, [1; 32], ()), Ok(Inserted::New));
        assert_eq!(r.insert(MIB, MIB, [1; 32], ()), Ok(Inserted::Duplicate));
        assert_eq!(r.insert(MIB, MIB, [2; 32], ()), Err(Mismatch::Conflict));
        assert_eq!(r.insert(0, 5, [3; 32], ()), Err(Mismatch::Shape));
        assert_eq!(r.insert(3 * MIB, 5, [4; 32], ()), Ok(Inserted::New));
        assert_eq!(r.insert(4 * MIB, MIB, [5; 32], ()), Err(Mismatch::Shape));
        assert_eq!(r.seal(2 * MIB, [0; 32]), Err(Mismatch::Shape));
        assert_eq!(r.insert(u64::MAX - 1, MIB, [5; 32], ()), Err(Mismatch::Shape));
    }

    #[test]
    fn parts_obey_the_stores_rules() {
        let mut r = Reassembly::default();
        for i in 0..5 {
            r.insert(i * MIB, MIB, [0; 32], i).unwrap();
        }
        assert_eq!(r.take_part(&rules(1, 2 << 20, None)).unwrap().chunks.len(), 2);
        assert!(
            r.take_part(&rules(4 << 20, 8 << 20, None)).is_none(),
            "three MiB are less than the store wants"
        );
        r.insert(5 * MIB, 7, [0; 32], 5).unwrap();
        let last = r.take_part(&rules(4 << 20, 8 << 20, None)).unwrap();
        assert_eq!((last.offset, last.length), (2 * MIB, 3 * MIB + 7));
    }

    #[test]
    fn chunks_that_were_taken_before_their_turn_still_count() {
        let mut r = Reassembly::default();
        let held = 8;
        let any = rules(1, 16 << 20, Some(8));
        for i in 2..held + 1 {
            r.insert(i * MIB, MIB, [i as u8; 32], ()).unwrap();
            assert!(r.take_part(&any).is_none(), "the missing ones may come soon");
        }
        r.insert((held + 1) * MIB, 7, [3; 32], ()).unwrap();
        let part = r.take_part(&any).unwrap();
        assert_eq!((part.offset, part.length), (2 * MIB, (held - 1) * MIB + 7));
        assert_eq!(r.taken().0, 0);
        assert_eq!(r.insert(2 * MIB, MIB, [2; 32], ()), Ok(Inserted::Duplicate));
        assert_eq!(r.insert(2 * MIB, MIB, [9; 32], ()), Err(Mismatch::Conflict));
        assert_eq!(r.insert(MIB, 5, [1; 32], ()), Err(Mismatch::Shape), "the end is known");
        assert_eq!(r.insert((held + 2) * MIB, MIB, [4; 32], ()), Err(Mismatch::Shape));
        r.insert(MIB, MIB, [1; 32], ()).unwrap();
        r.insert(0, MIB, [0; 32], ()).unwrap();
        assert_eq!(r.take_part(&any).unwrap().length, 2 * MIB);
        assert_eq!(r.taken().0, (held + 1) * MIB + 7);
    }

    #[tokio::test]
    async fn holes_are_taken_in_their_turn_and_count_as_zeros() {
        let mut r = Reassembly::default();
        let last = vec![1_u8; 7];
        let any = rules(4 << 20, 4 << 20, Some(2));
        assert_eq!(r.insert_hole(MIB, 3 * MIB), Ok(Inserted::New));
        assert_eq!(r.insert_hole(MIB, 3 * MIB), Ok(Inserted::Duplicate));
        assert_eq!(r.insert_hole(MIB, MIB), Err(Mismatch::Conflict));
        assert_eq!(r.insert_hole(0, 2 * MIB), Err(Mismatch::Conflict));
        assert_eq!(r.insert(3 * MIB, MIB, [1; 32], ()), Err(Mismatch::Conflict));
        assert_eq!(
            r.insert(0, 5, [1; 32], ()),
            Err(Mismatch::Shape),
            "a hole is behind that end"
        );
        assert_eq!(r.insert_hole(u64::MAX - 1, MIB), Err(Mismatch::Shape));
        assert_eq!(r.next_hole(), None, "the chunk before it is missing");
        let digest = chunk_digest(4 * MIB, &last);
        r.insert(4 * MIB, 7, digest, ()).unwrap();
        assert_eq!(r.insert_hole(4 * MIB, MIB), Err(Mismatch::Conflict));
        assert_eq!(r.insert_hole(5 * MIB, MIB), Err(Mismatch::Shape), "the end is known");
        let first = vec![2_u8; CHUNK_SIZE];
        r.insert(0, MIB, chunk_digest(0, &first), ()).unwrap();
        let part = r.take_part(&any).unwrap();
        assert_eq!((part.offset, part.length), (0, MIB), "a hole ends it");
        assert_eq!(r.next_hole(), Some((MIB, 3 * MIB)));
        assert!(r.take_part(&rules(1, 4 << 20, None)).is_none());
        let chunks = crate::chunk::hole::chunks(MIB, 3 * MIB).await;
        r.take_hole(&chunks);
        assert_eq!((r.next_hole(), r.next_offset()), (None, 4 * MIB));
        assert_eq!(r.insert_hole(MIB, 3 * MIB), Ok(Inserted::Duplicate));
        assert_eq!(r.take_part(&any).unwrap().length, 7);
        let file = [first, vec![0; 3 * CHUNK_SIZE], last].concat();
        r.seal(4 * MIB + 7, whole_digest(&file)).unwrap();
        assert_eq!(r.complete(), Ok(Some((4 * MIB + 7, whole_digest(&file)))));
    }

    #[test]
    fn a_single_chunk_is_complete_by_itself() {
        let mut r = Reassembly::default();
        assert_eq!(r.insert_whole(5, [1; 32], ()), Ok(Inserted::New));
        assert_eq!(r.complete(), Ok(None));
        assert_eq!(r.take_part(&rules(1, 100, None)).unwrap().length, 5);
        assert_eq!(r.complete(), Ok(Some((5, [1; 32]))));
        let mut empty = Reassembly::default();
        empty.insert_whole(0, [2; 32], ()).unwrap();
        assert_eq!(empty.complete(), Ok(Some((0, [2; 32]))));
    }

    proptest! {
        /// Any order with any duplicates gives the file and nothing else; while a chunk is missing, nothing does.
        #[test]
        fn any_order_with_duplicates_gives_the_file(
            chunks in 2_usize..12,
            tail in 1_usize..2000,
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
            missing in any::<prop::sample::Index>(),
            seal_first in any::<bool>(),
            held in proptest::option::of(1_usize..9),
        ) {
            let size = (chunks - 1) * CHUNK_SIZE + tail;
            let file: Vec<u8> = (0..size).map(|i| (1 + i / 7 % 253) as u8).collect();
            let pieces: Vec<&[u8]> = file.chunks(CHUNK_SIZE).collect();
            let hash = whole_digest(&file);
            let mut r = Reassembly::default();
            let mut out = vec![0; file.len()];
            if seal_first {
                r.seal(size as u64, hash).unwrap();
            }
            let last = missing.index(chunks);
            let feed = |r: &mut Reassembly<usize>, i: usize, out: &mut Vec<u8>| {
                let offset = i as u64 * MIB;
                r.insert(offset, pieces[i].len() as u64, chunk_digest(offset, pieces[i]), i).unwrap();
                let before = r.taken().0;
                while let Some(part) = r.take_part(&rules(1, 4 << 20, held)) {
                    assert!(held.is_some() || part.offset >= before);
                    for (offset, i) in part.chunks {
                        let room = &mut out[offset as usize..][..pieces[i].len()];
                        assert!(room.iter().all(|b| *b == 0), "written once");
                        room.copy_from_slice(pieces[i]);
                    }
                }
                let (taken, _) = r.taken();
                assert!(out[..taken as usize] == file[..taken as usize]);
            };
            let indices = order.iter().map(|i| i.index(chunks)).chain(0..chunks);
            for i in indices.filter(|i| *i != last) {
                feed(&mut r, i, &mut out);
            }
            prop_assert_eq!(r.complete(), Ok(None));
            feed(&mut r, last, &mut out);
            if !seal_first {
                prop_assert_eq!(r.complete(), Ok(None));
                r.seal(size as u64, hash).unwrap();
            }
            prop_assert_eq!(r.complete(), Ok(Some((size as u64, hash))));
            prop_assert!(out == file);
        }
    }
}
