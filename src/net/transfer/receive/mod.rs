//! The receiving side of a transfer: decides what it wants, puts what arrives in order, commits it, settles every offer.

mod decide;
pub mod destination;
mod dirs;
mod files;
pub mod receiver;
mod small;
mod staged;
pub mod stream;
