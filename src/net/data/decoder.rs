//! From the bytes of a data connection to frames: records are decrypted where they are received.
//!
//! A large payload comes in records of full size. So the socket is read straight into the payload, around the heads and
//! tails of its records, and nothing is copied. All else, and what does not come in such records, is received elsewhere.

use crate::chunk::buffer::BufferPool;
use crate::chunk::window::{Permit, Window, cost};
use crate::net::data::payload::{Outcome, Payload, Placed, ReceivedFrame, WORTH, fill};
use crate::net::error::NetError;
use crate::net::tls::record::{Decrypted, Decryptor, HEAD};
use crate::net::wire::frame::{FrameHeader, FrameKind, HEADER_LEN};
use std::collections::VecDeque;
use std::io::IoSliceMut;

/// Size of the buffer of a connection that has not carried many small frames yet, and of one that has.
const SMALL: usize = 32 << 10;
const LARGE: usize = 512 << 10;
/// What is received behind a payload: the next frame's header, and little that would have to be moved.
const BEHIND: usize = 4 << 10;
/// A peer whose records are not of full size this often (new keys come between, now and then) sends others.
const MISSES: u8 = 16;

/// Whatever has come and is not a frame yet.
pub(super) struct FrameDecoder {
    decryptor: Decryptor,
    pool: BufferPool,
    /// What frames count against, once they may come.
    window: Option<Window>,
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
    header: Vec<u8>,
    payload: Option<Payload>,
    placed: Option<Placed>,
    /// How often the peer's records were not of full size within a payload.
    missed: u8,
    frames: VecDeque<ReceivedFrame>,
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
    /// Begins with what came right behind the handshake: `early`, which is decrypted, and then `received`, as it came.
    /// Payloads are in buffers of `pool`.
    pub(super) fn new(decryptor: Decryptor, early: Vec<u8>, received: Vec<u8>, pool: BufferPool) -> FrameDecoder {
        let (filled, mut wire) = (received.len(), received);
        let reach = filled.saturating_add(SMALL);
        wire.resize(reach, 0);
        FrameDecoder {
            decryptor,
            pool,
            window: None,
            early,
            fresh: true,
            wire,
            filled,
            reach,
            preamble: None,
            header: Vec::with_capacity(HEADER_LEN),
            payload: None,
            placed: None,
            missed: 0,
            frames: VecDeque::new(),
            closed: false,
        }
    }

    /// From now on payloads come out of this pool.
    pub(super) fn use_pool(&mut self, pool: BufferPool) {
        self.pool = pool;
    }

    /// Charges frames to this window from now on, from their headers on.
    pub(super) fn charge_to(&mut self, window: Window) {
        self.window = Some(window);
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
        self.frames.pop_front()
    }

    /// The peer has said properly that nothing follows.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// No frame has begun to come.
    pub(super) fn is_between_frames(&self) -> bool {
        self.payload.is_none() && self.header.is_empty()
    }

    /// Where the next bytes of the connection belong, in their order; tell how many came with [`FrameDecoder::received`].
    pub(super) fn room(&mut self) -> Vec<IoSliceMut<'_>> {
        match (&mut self.placed, &mut self.payload) {
            (Some(placed), Some(payload)) => {
                let mut room = placed.room(payload);
                room.extend(self.wire.get_mut(..BEHIND));
                room.into_iter().map(IoSliceMut::new).collect()
            }
            _ => {
                let room = self.wire.get_mut(self.filled..self.reach).unwrap_or_default();
                vec![IoSliceMut::new(room)]
            }
        }
    }

    /// So many bytes have come.
    ///
    /// # Errors
    /// As [`FrameDecoder::process`].
    pub(super) fn received(&mut self, n: usize) -> Result<(), NetError> {
        let mut rest = n;
        if let (Some(placed), Some(payload)) = (&mut self.placed, &self.payload) {
            rest = placed.took(payload, n);
        }
        self.filled = self.filled.saturating_add(rest).min(self.wire.len());
        let was_full = self.filled >= self.reach;
        self.process()?;
        self.reach = match self.placed {
            // one large payload is followed by another, and more than its header would have to be moved
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
    /// Those of [`Decryptor::open`], and [`NetError::Protocol`] where it is no frame.
    pub(super) fn process(&mut self) -> Result<(), NetError> {
        self.fresh = false;
        let early = std::mem::take(&mut self.early);
        self.feed(&early)?;
        let mut wire = std::mem::take(&mut self.wire);
        let mut at = 0;
        while !self.closed {
            if let (Some(placed), Some(payload)) = (&mut self.placed, &mut self.payload) {
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
                self.finish();
                continue;
            }
            let Some(record) = self.open_next(wire.get_mut(at..self.filled).unwrap_or_default())? else {
                break;
            };
            at = at.saturating_add(record.length);
            self.closed = record.decrypted == Decrypted::Closed;
            self.feed(record.content)?;
            if let Some(payload) = self
                .payload
                .as_mut()
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

    /// Decrypts the record that `wire` begins with, if all of it is there: what it is, its content, and how long it was.
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
        while !bytes.is_empty() {
            if let Some(payload) = &mut self.payload {
                bytes = payload.feed(bytes);
            } else {
                bytes = fill(&mut self.header, HEADER_LEN, bytes);
                if self.header.len() == HEADER_LEN {
                    let header = FrameHeader::decode(&self.header)?;
                    self.header.clear();
                    let charge = self.charge(&header)?;
                    self.payload = Some(Payload::new(header, &self.pool, charge));
                }
            }
            self.finish();
        }
        Ok(())
    }

    /// Takes a frame's cost from the window before there is memory for it. Pings and such cost nothing.
    fn charge(&self, header: &FrameHeader) -> Result<Option<Permit>, NetError> {
        let counts = matches!(header.kind, FrameKind::File | FrameKind::Chunk | FrameKind::End);
        let Some(window) = self.window.as_ref().filter(|_| counts) else {
            return Ok(None);
        };
        let charge = window.charge(cost(header.length as usize));
        charge.map(Some).map_err(|e| NetError::Protocol(e.to_string()))
    }

    /// A payload that is complete is a frame.
    fn finish(&mut self) {
        if let Some(payload) = self.payload.take_if(|p| p.is_complete()) {
            self.frames.extend(payload.arrived(&self.pool));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::chunk::CHUNK_SIZE;
    use crate::chunk::digest::{chunk_digest, whole_digest};
    use crate::net::data::decoder::*;
    use crate::net::tls::record::CONTENT;
    use crate::net::tls::record::tests::pair;

    /// Numbers that look random.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, below: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(self.0 >> 33).unwrap() % below
        }
    }

    /// Frames of all kinds and sizes.
    fn frames(dice: &mut Dice) -> Vec<(FrameHeader, Vec<u8>)> {
        let lengths = [
            0,
            1,
            1000,
            CONTENT,
            WORTH,
            WORTH + 1,
            300_000,
            CHUNK_SIZE - 1,
            CHUNK_SIZE,
            CHUNK_SIZE,
        ];
        (1..40)
            .map(|number| {
                let length = lengths[dice.roll(lengths.len())];
                let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
                let offset = (CHUNK_SIZE * (dice.roll(3) + 1)) as u64;
                let (kind, offset, digest) = match dice.roll(3) {
                    0 => (FrameKind::Ping, 0, [0; 32]),
                    1 => (FrameKind::File, 0, whole_digest(&bytes)),
                    _ if length == 0 => (FrameKind::End, offset, [3; 32]),
                    _ => (FrameKind::Chunk, offset, chunk_digest(offset, &bytes)),
                };
                let bytes = if kind == FrameKind::Ping { Vec::new() } else { bytes };
                let header = FrameHeader {
                    number,
                    offset,
                    length: u32::try_from(bytes.len()).unwrap(),
                    digest,
                    ..FrameHeader::bare(kind)
                };
                (header, bytes)
            })
            .collect()
    }

    /// Receives `wire` in pieces of any size.
    fn receive(decoder: &mut FrameDecoder, mut wire: &[u8], dice: &mut Dice) -> Result<Vec<ReceivedFrame>, NetError> {
        let mut all = Vec::new();
        while !wire.is_empty() {
            let piece = match dice.roll(3) {
                0 => 1 + dice.roll(50),
                1 => 1 + dice.roll(20_000),
                _ => 1 + dice.roll(2_000_000),
            };
            let mut piece = wire.get(..piece).unwrap_or(wire);
            let mut n = 0;
            for mut part in decoder.room() {
                n += std::io::Read::read(&mut piece, &mut part).unwrap();
            }
            decoder.received(n)?;
            all.extend(std::iter::from_fn(|| decoder.next()));
            wire = &wire[n..];
        }
        Ok(all)
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_however_records_and_reads_are_cut() {
        for seed in 0..12 {
            let mut dice = Dice(seed);
            let frames = frames(&mut dice);
            let (client, server) = pair().await;
            let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
            for (header, bytes) in &frames {
                // as haul sends them; header and payload together; in records of any size
                match if seed % 3 == 0 { 0 } else { dice.roll(3) } {
                    0 => {
                        encryptor.encrypt(&header.encode(), &mut wire).unwrap();
                        encryptor.encrypt(bytes, &mut wire).unwrap();
                        encryptor.encrypt(header.trailer(), &mut wire).unwrap();
                    }
                    1 => encryptor
                        .encrypt(
                            &[&header.encode(), bytes.as_slice(), header.trailer()].concat(),
                            &mut wire,
                        )
                        .unwrap(),
                    _ => {
                        let all = [&header.encode(), bytes.as_slice(), header.trailer()].concat();
                        let mut all = all.as_slice();
                        while !all.is_empty() {
                            let (now, rest) = all.split_at((1 + dice.roll(2 * CONTENT)).min(all.len()));
                            encryptor.encrypt(now, &mut wire).unwrap();
                            all = rest;
                        }
                    }
                }
            }
            encryptor.close(&mut wire).unwrap();
            let early = wire.len().min(dice.roll(3) * 700);
            let (received, rest) = wire.split_at(early);
            let pool = BufferPool::new(2);
            let mut decoder = FrameDecoder::new(server.decryptor, Vec::new(), received.to_vec(), pool);
            decoder.process().unwrap();
            let mut arrived: Vec<ReceivedFrame> = std::iter::from_fn(|| decoder.next()).collect();
            arrived.extend(receive(&mut decoder, rest, &mut dice).unwrap());
            assert!(decoder.is_closed() && decoder.is_between_frames());
            assert_eq!(arrived.len(), frames.len());
            for (arrived, (header, bytes)) in arrived.iter().zip(&frames) {
                assert_eq!(arrived.header, *header);
                assert!(arrived.intact && *arrived.payload == *bytes, "seed {seed}: {header:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_payload_with_another_digest_is_not_intact_and_one_that_ends_early_no_frame() {
        let (client, server) = pair().await;
        let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
        let bytes = vec![7; 200_000];
        let header = FrameHeader {
            number: 1,
            length: 200_000,
            digest: whole_digest(&bytes[1..]),
            ..FrameHeader::bare(FrameKind::File)
        };
        encryptor.encrypt(&header.encode(), &mut wire).unwrap();
        encryptor.encrypt(&bytes, &mut wire).unwrap();
        encryptor.encrypt(&header.encode(), &mut wire).unwrap();
        encryptor.encrypt(&bytes[..10 * CONTENT], &mut wire).unwrap();
        encryptor.close(&mut wire).unwrap();
        let mut decoder = FrameDecoder::new(server.decryptor, Vec::new(), Vec::new(), BufferPool::new(2));
        let arrived = receive(&mut decoder, &wire, &mut Dice(1)).unwrap();
        assert_eq!(arrived.len(), 1);
        assert!(!arrived[0].intact);
        assert!(decoder.is_closed() && !decoder.is_between_frames());
    }
}
