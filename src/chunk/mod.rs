//! Chunks: files are cut up, read ahead, checked, and put back in order.
//!
//! A chunk is 256 KiB to 1 MiB of a file, a power of two, and aligned to its size; only the last is
//! shorter. So it is a subtree of the file's BLAKE3 tree: its digest is the subtree's chaining
//! value, and the values of all chunks merge into the file's ordinary BLAKE3 hash ([`digest`]). The
//! slower its connections are, the more finely the sender cuts a file up.
//!
//! The sender's [`ahead`] runs several reads at once and returns them in order, into [`buffer`]s
//! from a pool, as many as the receiver's [`window`] allows. It does not read a [`hole`]; [`hash`]
//! only hashes. The receiver's [`reassembly`] puts chunks back in order, however they arrive. On
//! both sides [`merge`] makes the file's hash of theirs.

pub mod ahead;
pub mod buffer;
pub mod digest;
pub mod hash;
pub mod hole;
pub mod merge;
pub mod reassembly;
pub mod window;

/// Most bytes of a chunk; a power of two.
pub const CHUNK_SIZE: usize = 1 << 20;

/// Least bytes of a chunk that is not the last; a power of two. Every chunk starts at a multiple.
pub const LEAST_CHUNK: usize = 256 << 10;

/// Returns the length of the chunk at `offset`, a multiple of [`LEAST_CHUNK`]: what remains of the
/// file there, at most `most` bytes, a power of two.
pub fn chunk_length(offset: u64, remaining: u64, most: u64) -> u64 {
    let alignment = match offset {
        0 => u64::MAX,
        _ => 1 << offset.trailing_zeros(),
    };
    let most = most.clamp(LEAST_CHUNK as u64, CHUNK_SIZE as u64);
    remaining.min(most.min(alignment))
}

/// True if a chunk of `length` bytes at `offset` may be followed by another.
pub fn is_full(offset: u64, length: u64) -> bool {
    let sizes = LEAST_CHUNK as u64..=CHUNK_SIZE as u64;
    length.is_power_of_two() && sizes.contains(&length) && offset.is_multiple_of(length)
}

/// True if `length` bytes at `offset` are within one subtree of a chunk's size.
pub fn is_aligned(offset: u64, length: u64) -> bool {
    let size = length.max(LEAST_CHUNK as u64).checked_next_power_of_two();
    size.is_some_and(|size| size <= CHUNK_SIZE as u64 && offset.is_multiple_of(size))
}

/// Some bytes of a file: a chunk, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}
