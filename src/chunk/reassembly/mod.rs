//! Chunks that arrive in any order, with duplicates, become parts of a file: in order, or, if the
//! store takes them so, in the order of their arrival.

use crate::chunk::digest::{Digest, RootHasher};
use crate::chunk::hole::ZeroChunk;
use crate::chunk::merge::Merge;
use crate::chunk::{LEAST_CHUNK, is_full};
use crate::store::PartRules;
use std::collections::BTreeMap;

/// How chunks contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Two payloads for one chunk.
    #[error("got two different payloads for one chunk")]
    Conflict,
    /// A chunk after the end, a short chunk before it, or a size that is not the sum of the chunks.
    #[error("the chunks do not add up to a file")]
    Shape,
    /// The hash of the file is not the one that the sender sent.
    #[error("the file's hash differs from the one that was sent")]
    Hash,
}

/// The fate of an inserted chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It waits for its turn.
    New,
    /// It has come before; the copy is not needed.
    Duplicate,
}

/// One file's chunks on the way back into order. The payload is any `T`; the window bounds how many
/// there are.
#[derive(Debug)]
pub struct Reassembly<T> {
    waiting: BTreeMap<u64, (Digest, u64, T)>,
    /// Holes that are not taken yet: their lengths, by offset.
    holes: BTreeMap<u64, (u64, T)>,
    /// The digests of all taken chunks. Everything that it covers has been taken.
    taken: Merge,
    /// The end of the file, once a short chunk or the `End` frame has set it.
    end: Option<u64>,
    expected: Option<Digest>,
    /// The file is a single chunk: its digest is its hash.
    single: bool,
}

/// Some consecutive chunks, ready to be written.
#[derive(Debug)]
pub struct Part<T> {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// The length of the part in bytes.
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
            expected: None,
            single: false,
        }
    }
}

impl<T> Reassembly<T> {
    /// Resumes at `offset`, where a chunk begins; `state` covers the bytes before it. `None` if it
    /// does not.
    pub fn resume(offset: u64, state: Vec<Digest>) -> Option<Reassembly<T>> {
        let root = RootHasher::resume(offset, state)?;
        Some(Reassembly {
            taken: Merge::resume(offset, root),
            ..Reassembly::default()
        })
    }

    /// Returns the offset up to which everything has been taken.
    pub fn next_offset(&self) -> u64 {
        self.taken.covered()
    }

    /// Returns the offset up to which everything has been taken, and the values that cover that,
    /// given that more follows.
    pub fn taken(&self) -> (u64, Vec<Digest>) {
        (self.taken.covered(), self.taken.root().state())
    }

    /// Adds a chunk that was verified against `digest`. Its payload has `length` bytes, at least 1,
    /// and is within one subtree ([`is_aligned`](crate::chunk::is_aligned)).
    ///
    /// # Errors
    /// [`Mismatch`] if it contradicts an earlier chunk or hole.
    pub fn insert(
        &mut self,
        offset: u64,
        length: u64,
        digest: Digest,
        payload: T,
    ) -> Result<Inserted, Mismatch> {
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
        if self.has_hole(offset, chunk_end) || self.has_chunk(offset, chunk_end) {
            return Err(Mismatch::Conflict);
        }
        if !is_full(offset, length) {
            self.set_end(chunk_end)?;
        } else if self.end.is_some_and(|end| chunk_end > end) {
            return Err(Mismatch::Shape);
        }
        self.waiting.insert(offset, (digest, length, payload));
        Ok(Inserted::New)
    }

    /// Adds a hole of `length` bytes at `offset`, the start of a chunk. It ends where a chunk or
    /// the file does.
    ///
    /// # Errors
    /// [`Mismatch`] if it contradicts an earlier chunk or hole.
    pub fn insert_hole(
        &mut self,
        offset: u64,
        length: u64,
        payload: T,
    ) -> Result<Inserted, Mismatch> {
        let known = self.holes.get(&offset).is_some_and(|(known, _)| *known == length);
        if offset < self.taken.covered() || known {
            return Ok(Inserted::Duplicate);
        }
        let end = offset.checked_add(length).ok_or(Mismatch::Shape)?;
        if self.has_chunk(offset, end) || self.has_hole(offset, end) {
            return Err(Mismatch::Conflict);
        }
        if !length.is_multiple_of(LEAST_CHUNK as u64) {
            self.set_end(end)?;
        } else if self.end.is_some_and(|known| end > known) {
            return Err(Mismatch::Shape);
        }
        self.holes.insert(offset, (length, payload));
        Ok(Inserted::New)
    }

    /// True if there is a hole between these offsets.
    fn has_hole(&self, from: u64, to: u64) -> bool {
        let last = self.holes.range(..to).next_back();
        last.is_some_and(|(offset, (length, _))| offset.saturating_add(*length) > from)
    }

    /// True if there is a chunk, not covered yet, with bytes between these offsets.
    fn has_chunk(&self, from: u64, to: u64) -> bool {
        let last = self.waiting.range(..to).next_back();
        let waits = last.is_some_and(|(at, (_, length, _))| at.saturating_add(*length) > from);
        waits || self.taken.has_apart(from, to)
    }

    /// Returns offset and length of the hole whose turn it is: everything before it has been taken.
    pub fn next_hole(&self) -> Option<(u64, u64)> {
        let hole = self.holes.get_key_value(&self.next_offset());
        hole.map(|(offset, (length, _))| (*offset, *length))
    }

    /// Takes the hole whose turn it is, which consists of `chunks`.
    pub fn take_hole(&mut self, chunks: &[ZeroChunk]) {
        if self.holes.remove(&self.next_offset()).is_some() {
            for chunk in chunks {
                self.taken.insert(chunk.offset, chunk.length, chunk.digest);
            }
        }
    }

    /// Adds a whole file that is a single chunk: its digest is the file's hash. An empty file has
    /// no part to take.
    ///
    /// # Errors
    /// [`Mismatch`] if other chunks have come before.
    pub fn insert_whole(
        &mut self,
        length: u64,
        hash: Digest,
        payload: T,
    ) -> Result<Inserted, Mismatch> {
        self.finish(length, hash)?;
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
        let hole = hole.map_or(0, |(at, (length, _))| at.saturating_add(*length));
        let last = waiting.max(hole).max(self.taken.end());
        if self.end.is_some_and(|known| known != end) || last > end {
            return Err(Mismatch::Shape);
        }
        self.end = Some(end);
        Ok(())
    }

    /// Ends the file: it has `size` bytes and this hash.
    ///
    /// # Errors
    /// [`Mismatch::Shape`] if chunks beyond that have come.
    pub fn finish(&mut self, size: u64, hash: Digest) -> Result<(), Mismatch> {
        self.set_end(size)?;
        self.expected = Some(hash);
        Ok(())
    }

    /// Takes the next part that is ready: consecutive chunks of at most `rules.most` bytes, and of
    /// at least `rules.least` unless the file ends there or a hole begins. It starts where the last
    /// part ended. With `rules.skip_gap_after` chunks waiting for a missing one, it starts with the
    /// first that waits.
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

    /// Returns the file's size and hash, once every chunk has been taken and the file has ended.
    ///
    /// # Errors
    /// [`Mismatch::Hash`] if the chunks are complete and make another file.
    pub fn complete(&self) -> Result<Option<(u64, Digest)>, Mismatch> {
        match (self.expected, self.end) {
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
}

#[cfg(test)]
mod tests;
