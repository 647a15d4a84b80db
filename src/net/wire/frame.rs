//! The data connections' bytes: the attach message that opens one, and the header of every frame.

use crate::chunk::hole::MAX_HOLE;
use crate::chunk::{CHUNK_SIZE, is_aligned};
use crate::net::wire::reader::{Malformed, Reader};

/// Length of an encoded [`FrameHeader`], in bytes.
pub const HEADER_LEN: usize = 64;
/// Length of an encoded [`Attach`], in bytes.
pub const ATTACH_LEN: usize = 60;

/// What a data frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The server has accepted the connection into the session. No payload. Server to client,
    /// first.
    Attached,
    /// A file that fits into one chunk, whole; `digest` is the file's BLAKE3 hash.
    File,
    /// One chunk of a larger file. `digest` is the chaining value of its BLAKE3 subtree. It follows
    /// the payload, which is hashed while it is sent. Zeros: the sender could not read the chunk,
    /// and the frame is void.
    Chunk,
    /// A larger file is complete: `offset` is its size, `digest` its BLAKE3 hash. No payload.
    End,
    /// Nothing follows on this connection from this side. No payload.
    Goodbye,
    /// The peer answers with a [`FrameKind::Pong`] of the same number over the same connection. No
    /// payload.
    Ping,
    /// The answer to a [`FrameKind::Ping`]. No payload.
    Pong,
    /// Chunks of zeros of a larger file, which its source does not store. No payload; see
    /// [`FrameHeader::hole`].
    Hole,
}

impl FrameKind {
    fn to_wire(self) -> u8 {
        match self {
            FrameKind::Attached => 1,
            FrameKind::File => 2,
            FrameKind::Chunk => 3,
            FrameKind::End => 4,
            FrameKind::Goodbye => 5,
            FrameKind::Ping => 6,
            FrameKind::Pong => 7,
            FrameKind::Hole => 8,
        }
    }

    /// Bytes behind the payload.
    pub fn trailer(self) -> usize {
        match self {
            FrameKind::Chunk => 32,
            _ => 0,
        }
    }

    fn from_wire(value: u8) -> Result<FrameKind, Malformed> {
        Ok(match value {
            1 => FrameKind::Attached,
            2 => FrameKind::File,
            3 => FrameKind::Chunk,
            4 => FrameKind::End,
            5 => FrameKind::Goodbye,
            6 => FrameKind::Ping,
            7 => FrameKind::Pong,
            8 => FrameKind::Hole,
            _ => return Err(Malformed("unknown kind of frame")),
        })
    }
}

/// `attempt` of a [`FrameKind::Attached`]: BBR decides how fast the server sends.
pub const ATTACHED_BBR: u8 = 1;

/// The digest behind a chunk that its sender could not read. No chunk has it.
pub const VOID: [u8; 32] = [0; 32];

/// The digest field of a header that carries none: a hole's, or a chunk's that is hashed as it is
/// sent.
pub const NO_DIGEST: [u8; 32] = [0; 32];

/// The fixed header before a frame's payload. Integers are in network byte order.
///
/// ```text
///  0 kind (1)  1 attempt (1)  2 zero (2)  4 transfer (4)
///  8 number (8): the offer that the frame belongs to
/// 16 offset (8): of the payload in the file, in bytes
/// 24 length (4): of the payload, in bytes, at most one chunk
/// 28 unpacked (4): of the content, where the payload is that, compressed by zstd; else zero
/// 32 digest (32); a chunk's is zero, and follows the payload;
///    a hole has its length (8), zero (24)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The kind of the frame.
    pub kind: FrameKind,
    /// Counts up each time that the sender restarts the file, because the source changed. Of a
    /// [`FrameKind::Attached`] it is 0 or [`ATTACHED_BBR`].
    pub attempt: u8,
    /// The transfer's number.
    pub transfer: u32,
    /// The offer's number in the transfer.
    pub number: u64,
    /// Bytes from the start of the file; a multiple of the chunk size, except in a
    /// [`FrameKind::End`].
    pub offset: u64,
    /// Bytes of payload, at most [`CHUNK_SIZE`].
    pub length: u32,
    /// Bytes of the content that the payload becomes when it is decompressed, at most
    /// [`CHUNK_SIZE`] and more than `length`; 0: it is not compressed.
    pub unpacked: u32,
    /// A digest, as `kind` defines it.
    pub digest: [u8; 32],
}

impl FrameHeader {
    /// A header without file or payload, for frames about the connection.
    pub fn bare(kind: FrameKind) -> FrameHeader {
        FrameHeader {
            kind,
            attempt: 0,
            transfer: 0,
            number: 0,
            offset: 0,
            length: 0,
            unpacked: 0,
            digest: [0; 32],
        }
    }

    /// The header of a hole of `length` bytes, with the other fields of `header`.
    pub fn of_hole(header: FrameHeader, length: u64) -> FrameHeader {
        let mut digest = [0; 32];
        if let Some(first) = digest.first_chunk_mut() {
            *first = length.to_be_bytes();
        }
        FrameHeader {
            kind: FrameKind::Hole,
            digest,
            ..header
        }
    }

    /// Bytes of a [`FrameKind::Hole`]: whole chunks, but for the file's last; at most [`MAX_HOLE`].
    pub fn hole(&self) -> u64 {
        self.digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    fn is_hole(&self) -> bool {
        let rest = self.digest.get(8..).unwrap_or_default();
        (1..=MAX_HOLE).contains(&self.hole()) && rest.iter().all(|byte| *byte == 0)
    }

    /// The 64 bytes that travel before the payload.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = self.kind.to_wire();
        out[1] = self.attempt;
        out[4..8].copy_from_slice(&self.transfer.to_be_bytes());
        out[8..16].copy_from_slice(&self.number.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..28].copy_from_slice(&self.length.to_be_bytes());
        out[28..32].copy_from_slice(&self.unpacked.to_be_bytes());
        if self.kind.trailer() == 0 {
            out[32..64].copy_from_slice(&self.digest);
        }
        out
    }

    /// The bytes behind the payload: a chunk's digest.
    pub fn trailer(&self) -> &[u8] {
        self.digest.get(..self.kind.trailer()).unwrap_or_default()
    }

    /// Decodes a header and checks every bound, before anything is allocated. A chunk's digest is
    /// zeros until the bytes behind the payload arrive.
    ///
    /// # Errors
    /// [`Malformed`] for an unknown kind, reserved bytes (and a chunk's digest) that are not zero,
    /// a payload that is longer than a chunk or not allowed, an offset that is not a chunk's, or an
    /// end beyond 2^63.
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader, Malformed> {
        let mut r = Reader::new(bytes);
        let kind = FrameKind::from_wire(r.u8()?)?;
        let attempt = r.u8()?;
        if r.take(2)? != [0; 2] {
            return Err(Malformed("reserved bytes of a frame header are not zero"));
        }
        let header = FrameHeader {
            kind,
            attempt,
            transfer: r.u32()?,
            number: r.u64()?,
            offset: r.u64()?,
            length: r.u32()?,
            unpacked: r.u32()?,
            digest: r.array()?,
        };
        r.end()?;
        header.check()?;
        Ok(header)
    }

    /// The payload is not compressed, or it may be and is shorter than its content.
    fn is_packing_allowed(&self) -> bool {
        let has_content = matches!(self.kind, FrameKind::File | FrameKind::Chunk);
        let is_packed =
            self.length > 0 && self.length < self.unpacked && self.unpacked as usize <= CHUNK_SIZE;
        self.unpacked == 0 || (has_content && is_packed)
    }

    /// Bytes of memory that the payload takes, also decompressed.
    pub fn content_length(&self) -> usize {
        self.length.max(self.unpacked) as usize
    }

    fn check(&self) -> Result<(), Malformed> {
        let aligned = is_aligned(self.offset, self.content_length() as u64);
        let fits = self.length as usize <= CHUNK_SIZE && self.offset < 1 << 62;
        let ok = match self.kind {
            FrameKind::File => self.offset == 0 && self.number > 0,
            FrameKind::Chunk => {
                aligned && self.length > 0 && self.number > 0 && self.digest == [0; 32]
            }
            FrameKind::End => self.length == 0 && self.number > 0,
            FrameKind::Hole => aligned && self.length == 0 && self.number > 0 && self.is_hole(),
            FrameKind::Ping | FrameKind::Pong => {
                self.length == 0 && self.number > 0 && self.offset == 0
            }
            FrameKind::Attached | FrameKind::Goodbye => {
                self.length == 0 && self.number == 0 && self.offset == 0
            }
        };
        if ok && fits && self.is_packing_allowed() {
            Ok(())
        } else {
            Err(Malformed("offset or length of a frame is out of range"))
        }
    }
}

/// Role of a data connection in [`Attach::signed`].
pub const ROLE_DATA: u8 = 1;
/// Role of a control connection that resumes a session.
pub const ROLE_CONTROL: u8 = 2;

/// Opens a data connection with the proof that it belongs to a login. Client to server, first.
///
/// ```text
///  0 "haul" (4)  4 role, 1 = data (1)  5 zero (3)  8 session (16)  24 n (4)  28 HMAC-SHA256 (32)
/// ```
/// The HMAC's key is the TLS exporter of the control connection (RFC 8446, section 7.5) with the
/// label `EXPORTER-haul-data` and the session id as context; it covers bytes 0 to 28, thus role,
/// session and n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The session id that the client chose for its login.
    pub session: [u8; 16],
    /// Counts up with every data connection of a session; each is good once.
    pub n: u32,
    /// HMAC-SHA256 over [`Attach::signed`].
    pub proof: [u8; 32],
}

impl Attach {
    /// The bytes that the proof covers; `role` is [`ROLE_DATA`] or [`ROLE_CONTROL`].
    pub fn signed(role: u8, session: &[u8; 16], n: u32) -> [u8; 28] {
        let mut out = [0; 28];
        out[0..4].copy_from_slice(b"haul");
        out[4] = role;
        out[8..24].copy_from_slice(session);
        out[24..28].copy_from_slice(&n.to_be_bytes());
        out
    }

    /// The 60 bytes on the wire.
    pub fn encode(&self) -> [u8; ATTACH_LEN] {
        let mut out = [0; ATTACH_LEN];
        out[..28].copy_from_slice(&Attach::signed(ROLE_DATA, &self.session, self.n));
        out[28..].copy_from_slice(&self.proof);
        out
    }

    /// Decodes the message. The session checks the proof.
    ///
    /// # Errors
    /// [`Malformed`] for another magic, role or length.
    pub fn decode(bytes: &[u8]) -> Result<Attach, Malformed> {
        let mut r = Reader::new(bytes);
        if r.take(8)? != b"haul\x01\0\0\0" {
            return Err(Malformed("not an attach message"));
        }
        let attach = Attach {
            session: r.array()?,
            n: r.u32()?,
            proof: r.array()?,
        };
        r.end()?;
        Ok(attach)
    }
}

#[cfg(test)]
mod tests;
