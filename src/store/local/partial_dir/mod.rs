//! New directories of a transfer: each is made as a partial directory, `.NAME~HASH.haul-dir`, and
//! gets its own name once everything in it is complete.
//!
//! The partial file of NAME is its lock: who has that is alone in the partial directory, so that
//! entries there need neither locks nor partial files of their own. A file has the mode
//! [`stage::INCOMPLETE`] until its content is there, and durable if it is to be. The next transfer
//! resumes the partial directory of a writer that died, without such files.

pub(super) mod publish;
pub(super) mod put;
pub(super) mod stage;
pub(super) mod state;

#[cfg(test)]
mod tests;
