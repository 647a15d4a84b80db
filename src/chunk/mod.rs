//! Chunks: files are cut up, read ahead, checked, and put back in order.
//!
//! A chunk is 1 MiB of a file, aligned to 1 MiB; only the last is shorter. Being a power of two, it
//! is a subtree of the file's BLAKE3 tree, so its digest is the subtree's chaining value and the
//! values of all chunks merge into the file's ordinary BLAKE3 hash ([`digest`]).
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

/// Bytes of a chunk; a power of two.
pub const CHUNK_SIZE: usize = 1 << 20;

/// Some bytes of a file: a chunk, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}
