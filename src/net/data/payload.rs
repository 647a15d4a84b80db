//! A payload on its way: made of plaintext that is fed to it, or received in its place, record by
//! record.
//!
//! ```text
//! wire      head | content 16 KiB | tail | head | content 16 KiB | tail | …
//! payload          content 16 KiB |        content 16 KiB |        …
//! ```

use crate::chunk::buffer::{Buffer, BufferPool};
use crate::chunk::digest::Hashing;
use crate::chunk::window::Permit;
use crate::net::data::body::FrameBody;
use crate::net::error::NetError;
use crate::net::tls::record::{CONTENT, Decrypted, Decryptor, HEAD, TAIL};
use crate::net::wire::frame::{FrameHeader, FrameKind, VOID};
use crate::store::Bytes;
use std::ops::Deref;
use std::sync::Arc;

/// A payload of which less is missing is not received in its place.
pub(super) const WORTH: usize = 2 * CONTENT;
/// Bytes that are hashed at once.
const HASHED: usize = 64 << 10;

/// The bytes of a frame that arrived.
pub enum ReceivedBytes {
    /// They came over a wire; back to their pool when dropped.
    Own(Buffer),
    /// The sender is in this process and has the same ones.
    Shared(Arc<FrameBody>),
}

impl Deref for ReceivedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            ReceivedBytes::Own(buffer) => buffer,
            ReceivedBytes::Shared(body) => body.in_memory(),
        }
    }
}

/// A frame that arrived.
pub struct ReceivedFrame {
    /// Its header.
    pub header: FrameHeader,
    /// Its payload.
    pub payload: ReceivedBytes,
    /// Whether the payload has the digest that came with it. Seals and such have nothing to verify:
    /// true. So is a compressed payload, which is verified when it is decompressed.
    pub intact: bool,
    /// What it takes of the window, charged from its header on.
    pub charge: Option<Permit>,
}

/// A payload that is charged to the window for as long as it is in memory.
struct ChargedPayload {
    payload: ReceivedBytes,
    _charge: Option<Permit>,
}

impl AsRef<[u8]> for ChargedPayload {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl ReceivedFrame {
    /// Its payload, which stays charged to the window until the last holder drops it.
    pub fn into_bytes(self) -> Bytes {
        Arc::new(ChargedPayload {
            payload: self.payload,
            _charge: self.charge,
        })
    }
}

/// A payload that is not complete: `done` bytes of it are there.
pub(super) struct Payload {
    header: FrameHeader,
    bytes: Vec<u8>,
    /// Where it begins in there.
    start: usize,
    done: usize,
    /// The digest of the first `hashed` bytes.
    hashing: Hashing,
    hashed: usize,
    /// What has come of that which is behind it.
    trailer: Vec<u8>,
    charge: Option<Permit>,
}

impl Payload {
    pub(super) fn new(header: FrameHeader, pool: &BufferPool, charge: Option<Permit>) -> Payload {
        let hashing = match header.kind {
            FrameKind::Chunk => Hashing::of_chunk(header.offset),
            _ => Hashing::of_whole(),
        };
        let (bytes, start) = match header.length as usize {
            // memory that is written by appending need not be filled with anything before
            length if length < WORTH => (Vec::with_capacity(length), 0),
            // with one byte more, for the type of the content, see `Placed::open`
            length => pool.take_aligned(length),
        };
        Payload {
            header,
            bytes,
            start,
            done: 0,
            hashing,
            hashed: 0,
            trailer: Vec::new(),
            charge,
        }
    }

    /// Takes plaintext; gives what does not belong to it.
    pub(super) fn feed<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.missing() == 0 {
            return fill(&mut self.trailer, self.header.kind.trailer(), bytes);
        }
        let (part, rest) = bytes.split_at_checked(self.missing()).unwrap_or((bytes, &[]));
        let end = self.done.saturating_add(part.len());
        match self.range(self.done, end) {
            Some(to) => to.copy_from_slice(part),
            None => self.bytes.extend_from_slice(part),
        }
        self.done = end;
        self.hash();
        rest
    }

    /// The payload is there, and what is behind it.
    pub(super) fn is_complete(&self) -> bool {
        self.missing() == 0 && self.trailer.len() == self.header.kind.trailer()
    }

    /// The frame, when it is complete; none where its sender says that it is void.
    pub(super) fn arrived(mut self, pool: &BufferPool) -> Option<ReceivedFrame> {
        let mut header = self.header;
        if let Ok(digest) = self.trailer.as_slice().try_into() {
            if digest == VOID {
                return None;
            }
            header.digest = digest;
        }
        let intact = match header.kind {
            FrameKind::File | FrameKind::Chunk if header.unpacked == 0 => {
                self.hashing.digest() == header.digest
            }
            // of these there is nothing to verify, or not before they are decompressed
            _ => true,
        };
        self.bytes.truncate(self.start.saturating_add(self.length()));
        Some(ReceivedFrame {
            header,
            payload: ReceivedBytes::Own(pool.share_from(self.bytes, self.start)),
            intact,
            charge: self.charge,
        })
    }

    /// Hashes what has come since, when it is enough to be worth it and not too much for the
    /// processor's cache.
    fn hash(&mut self) {
        if self.header.unpacked > 0 {
            return;
        }
        if self.done.saturating_sub(self.hashed) >= HASHED || self.missing() == 0 {
            let (from, to) =
                (self.start.saturating_add(self.hashed), self.start.saturating_add(self.done));
            self.hashing.update(self.bytes.get(from..to).unwrap_or_default());
            self.hashed = self.done;
        }
    }

    /// Its bytes from `from` to `to`.
    fn range(&mut self, from: usize, to: usize) -> Option<&mut [u8]> {
        let (from, to) = (self.start.saturating_add(from), self.start.saturating_add(to));
        self.bytes.get_mut(from..to)
    }

    fn length(&self) -> usize {
        self.header.length as usize
    }

    pub(super) fn missing(&self) -> usize {
        self.length().saturating_sub(self.done)
    }
}

/// Moves bytes into `into` until it has `wanted`; returns the rest.
pub(super) fn fill<'a>(into: &mut Vec<u8>, wanted: usize, bytes: &'a [u8]) -> &'a [u8] {
    let missing = wanted.saturating_sub(into.len()).min(bytes.len());
    let (head, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
    into.extend_from_slice(head);
    rest
}

/// A last record with less content than this is not received in its place.
const LEAST: usize = 64;

/// What lies around a record's content.
#[derive(Clone, Copy)]
struct Edges {
    head: [u8; HEAD],
    tail: [u8; TAIL],
}

/// The records of a payload that is received in its place, from its `done` bytes on up to `end`.
pub(super) struct Placed {
    end: usize,
    edges: Vec<Edges>,
    /// Bytes on the wire that have come since.
    got: usize,
}

/// What became of the records of a payload in its place.
pub(super) enum Outcome {
    /// More has to come.
    Waits,
    Complete,
    /// They are not of the size that was expected.
    Unexpected,
}

/// A record with this much content, on the wire.
fn on_wire(content: usize) -> usize {
    content.saturating_add(HEAD + TAIL)
}

impl Placed {
    pub(super) fn of(payload: &Payload) -> Placed {
        let none = Edges {
            head: [0; HEAD],
            tail: [0; TAIL],
        };
        // A last record that is as small as a message of TLS' own could be one.
        let last = Some(payload.missing() % CONTENT).filter(|last| *last < LEAST);
        let missing = payload.missing().saturating_sub(last.unwrap_or(0));
        Placed {
            end: payload.done.saturating_add(missing),
            edges: vec![none; missing.div_ceil(CONTENT)],
            got: 0,
        }
    }

    fn missing(&self, payload: &Payload) -> usize {
        self.end.saturating_sub(payload.done)
    }

    /// Where the wire's bytes belong, in their order, from the first that has not come.
    pub(super) fn room<'a>(&'a mut self, payload: &'a mut Payload) -> Vec<&'a mut [u8]> {
        let mut got = self.got;
        let contents = payload.range(payload.done, self.end).unwrap_or_default();
        let mut room = Vec::with_capacity(self.edges.len().saturating_mul(3).saturating_add(1));
        for (edges, content) in self.edges.iter_mut().zip(contents.chunks_mut(CONTENT)) {
            for part in [edges.head.as_mut_slice(), content, edges.tail.as_mut_slice()] {
                let had = got.min(part.len());
                got = got.saturating_sub(had);
                if let Some(rest) = part.get_mut(had..).filter(|rest| !rest.is_empty()) {
                    room.push(rest);
                }
            }
        }
        room
    }

    /// Puts bytes in their place that were received elsewhere; gives how many had one.
    pub(super) fn place(&mut self, payload: &mut Payload, mut bytes: &[u8]) -> usize {
        let before = bytes.len();
        for part in self.room(payload) {
            let (head, rest) = bytes.split_at_checked(part.len()).unwrap_or((bytes, &[]));
            if let Some(to) = part.get_mut(..head.len()) {
                to.copy_from_slice(head);
            }
            bytes = rest;
        }
        let placed = before.saturating_sub(bytes.len());
        self.got = self.got.saturating_add(placed);
        placed
    }

    /// Of `n` bytes that came, those behind the payload.
    pub(super) fn took(&mut self, payload: &Payload, n: usize) -> usize {
        let missing = self.missing(payload);
        let wire = missing.saturating_add(missing.div_ceil(CONTENT).saturating_mul(HEAD + TAIL));
        let mine = n.min(wire.saturating_sub(self.got));
        self.got = self.got.saturating_add(mine);
        n.saturating_sub(mine)
    }

    /// Decrypts the records that are complete.
    pub(super) fn open(
        &mut self,
        payload: &mut Payload,
        decryptor: &mut Decryptor,
    ) -> Result<Outcome, NetError> {
        let mut decrypted = 0;
        let outcome = loop {
            let content = self.missing(payload).min(CONTENT);
            let Some(edges) = self.edges.get(decrypted).filter(|_| content > 0) else {
                break Outcome::Complete;
            };
            if self.got < HEAD {
                break Outcome::Waits;
            }
            // at once: a shorter record could be all that comes
            if Decryptor::length(edges.head)? != content.saturating_add(TAIL) {
                break Outcome::Unexpected;
            }
            if self.got < on_wire(content) {
                break Outcome::Waits;
            }
            let [kind, tag @ ..] = edges.tail;
            let end = payload.done.saturating_add(content);
            // the type of the content follows it, where the next record's content begins
            let inner = payload.range(payload.done, end.saturating_add(1)).unwrap_or_default();
            let next = inner.last_mut().map(|last| std::mem::replace(last, kind));
            let result = decryptor.decrypt(edges.head, inner, tag)?;
            if result != Decrypted::Data(content) {
                return Err(NetError::Protocol(
                    "a record within a payload carries something else".into(),
                ));
            }
            if let (Some(last), Some(next)) = (inner.last_mut(), next) {
                *last = next;
            }
            payload.done = end;
            payload.hash();
            self.got = self.got.saturating_sub(on_wire(content));
            decrypted = decrypted.saturating_add(1);
        };
        self.edges.drain(..decrypted);
        Ok(outcome)
    }

    /// The bytes of the wire that have come since the last record that was decrypted.
    pub(super) fn taken_back(&mut self, payload: &mut Payload) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.got);
        let mut wire = Vec::with_capacity(rest);
        for part in self.room(payload) {
            let n = rest.min(part.len());
            wire.extend_from_slice(part.get(..n).unwrap_or_default());
            rest = rest.saturating_sub(n);
        }
        wire
    }
}
