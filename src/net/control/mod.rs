//! The control connection: its messages as bytes, the queue of outgoing ones, and the replay after
//! a reconnection.

pub mod codec;
pub mod queue;
pub mod replay;
