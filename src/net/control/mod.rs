//! The control connection: its messages as bytes, the queue of those to be sent, and what makes them outlive it.

pub mod codec;
pub mod queue;
pub mod replay;
