//! Data connections: frames in and out, the queue of what is to be sent, and the pool of a
//! session's connections.

mod assembler;
mod balance;
pub mod body;
mod bucket;
pub mod carry;
pub mod connection;
mod decoder;
pub mod local;
pub mod pacer;
pub mod packer;
pub mod packing;
pub mod payload;
pub mod pool;
pub mod rtt;
pub mod send_queue;
#[cfg(test)]
pub(crate) mod simulated;
pub mod throughput;
