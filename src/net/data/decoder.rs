//! From the bytes of a data connection to frames: records are decrypted where they are received.
//!
//! A large payload comes in records of full size. So the socket is read straight into the payload,
//! around the heads and tails of its records, and nothing is copied. All else, and what does not
//! come in such records, is received elsewhere.

use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Window;
use crate::net::data::assembler::FrameAssembler;
use crate::net::data::payload::{Outcome, Placed, ReceivedFrame, WORTH, fill};
use crate::net::error::NetError;
use crate::net::tls::record::{Decrypted, Decryptor, HEAD};
use std::io::IoSliceMut;

/// Size of the buffer of a connection that has not carried many small frames yet, and of one that
/// has.
const SMALL: usize = 32 << 10;
const LARGE: usize = 512 << 10;
/// What is received behind a payload: the next frame's header, and little that would have to be
/// moved.
const BEHIND: usize = 4 << 10;
/// A peer whose records are not of full size this often (new keys come between, now and then) sends
/// others.
const MISSES: u8 = 16;

/// Whatever has come and is not a frame yet.
pub(super) struct FrameDecoder {
    decryptor: Decryptor,
    /// Plaintext that came before there was an decryptor.
    early: Vec<u8>,
    /// Nothing has been worked off so far.
    fresh: bool,
    /// What was received, of which the first `filled` bytes count, and how many to receive at most.
    wire: Vec<u8>,
    filled: usize,
    reach: usize,
    /// Bytes before the first frame: the attach message on the server's side.
    preamble: Option<(usize, Vec<u8>)>,
    frames: FrameAssembler,
    placed: Option<Placed>,
    /// How often the peer's records were not of full size within a payload.
    missed: u8,
    closed: bool,
}

/// A record that was received, decrypted.
struct TlsRecord<'a> {
    decrypted: Decrypted,
    content: &'a [u8],
    /// On the wire.
    length: usize,
}

impl FrameDecoder {
    /// Begins with what came right behind the handshake: `early`, which is decrypted, and then
    /// `received`, as it came. Payloads are in buffers of `pool`.
    pub(super) fn new(
        decryptor: Decryptor,
        early: Vec<u8>,
        received: Vec<u8>,
        pool: BufferPool,
    ) -> FrameDecoder {
        let (filled, mut wire) = (received.len(), received);
        let reach = filled.saturating_add(SMALL);
        wire.resize(reach, 0);
        FrameDecoder {
            decryptor,
            early,
            fresh: true,
            wire,
            filled,
            reach,
            preamble: None,
            frames: FrameAssembler::new(pool),
            placed: None,
            missed: 0,
            closed: false,
        }
    }

    /// From now on payloads come out of this pool.
    pub(super) fn use_pool(&mut self, pool: BufferPool) {
        self.frames.use_pool(pool);
    }

    /// Charges frames to this window from now on, from their headers on.
    pub(super) fn charge_to(&mut self, window: Window) {
        self.frames.charge_to(window);
    }

    /// Something may have come behind the handshake that has not been worked off.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The first `n` bytes are no frame.
    pub(super) fn expect_preamble(&mut self, n: usize) {
        self.preamble = Some((n, Vec::with_capacity(n)));
    }

    /// Those bytes, once they have come.
    pub(super) fn take_preamble(&mut self) -> Option<Vec<u8>> {
        let (_, bytes) = self.preamble.take_if(|(n, got)| got.len() == *n)?;
        Some(bytes)
    }

    /// The next frame that is complete.
    pub(super) fn next(&mut self) -> Option<ReceivedFrame> {
        self.frames.next()
    }

    /// The peer has said properly that nothing follows.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// No frame has begun to come.
    pub(super) fn is_between_frames(&self) -> bool {
        self.frames.is_between_frames()
    }

    /// Where the next bytes of the connection belong, in their order, at most `most`; tell how many
    /// came with [`FrameDecoder::received`].
    pub(super) fn room(&mut self, mut most: usize) -> Vec<IoSliceMut<'_>> {
        let room = match (&mut self.placed, self.frames.payload_mut()) {
            (Some(placed), Some(payload)) => {
                let mut room = placed.room(payload);
                room.extend(self.wire.get_mut(..BEHIND));
                room
            }
            _ => vec![self.wire.get_mut(self.filled..self.reach).unwrap_or_default()],
        };
        let mut parts = Vec::with_capacity(room.len());
        for part in room {
            let n = part.len().min(most);
            most = most.saturating_sub(n);
            parts.extend(part.get_mut(..n).map(IoSliceMut::new));
        }
        parts
    }

    /// So many bytes have come.
    ///
    /// # Errors
    /// As [`FrameDecoder::process`].
    pub(super) fn received(&mut self, n: usize) -> Result<(), NetError> {
        let mut rest = n;
        if let (Some(placed), Some(payload)) = (&mut self.placed, self.frames.payload()) {
            rest = placed.took(payload, n);
        }
        self.filled = self.filled.saturating_add(rest).min(self.wire.len());
        let was_full = self.filled >= self.reach;
        self.process()?;
        self.reach = match self.placed {
            // one large payload is followed by another, and more than its header would have to be
            // moved
            Some(_) => SMALL,
            None if was_full => LARGE,
            None => self.reach,
        };
        self.wire.resize(self.wire.len().max(self.reach), 0);
        Ok(())
    }

    /// Makes frames of what has come.
    ///
    /// # Errors
    /// Those of [`Decryptor::decrypt`], and [`NetError::Protocol`] where it is no frame.
    pub(super) fn process(&mut self) -> Result<(), NetError> {
        self.fresh = false;
        let early = std::mem::take(&mut self.early);
        self.feed(&early)?;
        let mut wire = std::mem::take(&mut self.wire);
        let mut at = 0;
        while !self.closed {
            if let (Some(placed), Some(payload)) = (&mut self.placed, self.frames.payload_mut()) {
                match placed.open(payload, &mut self.decryptor)? {
                    Outcome::Waits => break,
                    Outcome::Complete => {}
                    Outcome::Unexpected => {
                        self.missed = self.missed.saturating_add(1);
                        let mut back = placed.taken_back(payload);
                        back.extend_from_slice(wire.get(at..self.filled).unwrap_or_default());
                        (self.filled, at) = (back.len(), 0);
                        back.resize(self.filled.max(LARGE), 0);
                        wire = back;
                    }
                }
                self.placed = None;
                self.frames.finish();
                continue;
            }
            let Some(record) = self.open_next(wire.get_mut(at..self.filled).unwrap_or_default())?
            else {
                break;
            };
            at = at.saturating_add(record.length);
            self.closed = record.decrypted == Decrypted::Closed;
            self.feed(record.content)?;
            if let Some(payload) = self
                .frames
                .payload_mut()
                .filter(|p| self.missed < MISSES && p.missing() >= WORTH)
            {
                let mut placed = Placed::of(payload);
                let rest = wire.get(at..self.filled).unwrap_or_default();
                at = at.saturating_add(placed.place(payload, rest));
                self.placed = Some(placed);
            }
        }
        let at = at.min(self.filled);
        wire.copy_within(at..self.filled, 0);
        self.filled = self.filled.saturating_sub(at);
        self.wire = wire;
        Ok(())
    }

    /// Decrypts the record that `wire` begins with, if all of it is there: what it is, its content,
    /// and how long it was.
    fn open_next<'a>(&mut self, wire: &'a mut [u8]) -> Result<Option<TlsRecord<'a>>, NetError> {
        let Some((head, body)) = wire.split_first_chunk_mut::<HEAD>() else {
            return Ok(None);
        };
        let length = Decryptor::length(*head)?;
        let Some((body, _)) = body.split_at_mut_checked(length) else {
            return Ok(None);
        };
        let Some((inner, tag)) = body.split_last_chunk_mut() else {
            return Ok(None);
        };
        let decrypted = self.decryptor.decrypt(*head, inner, *tag)?;
        let content = match decrypted {
            Decrypted::Data(n) => inner.get(..n).unwrap_or_default(),
            _ => &[],
        };
        let length = length.saturating_add(HEAD);
        Ok(Some(TlsRecord {
            decrypted,
            content,
            length,
        }))
    }

    /// Takes plaintext, however it is cut.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NetError> {
        if let Some((wanted, got)) = &mut self.preamble {
            bytes = fill(got, *wanted, bytes);
        }
        self.frames.feed(bytes)
    }
}

#[cfg(test)]
mod tests;
