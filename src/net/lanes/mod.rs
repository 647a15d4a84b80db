//! Connections within one byte stream, such as the standard input and output of ssh.
//!
//! The stream is the *carrier*, a connection within it a *lane*. Either side sends segments
//! ([`segment`]): pieces of a lane's bytes, and the credit that bounds how many of them the other
//! side may have outstanding. So a lane that is not read never holds up another one, and what a
//! carrier takes in memory is bounded. [`greeting`] is what both sides say first; [`socket`] is a
//! lane or a TCP connection, for the layers above.

pub mod carrier;
pub mod greeting;
mod intake;
pub mod lane;
mod outgoing;
pub mod role;
pub mod segment;
pub mod socket;
mod state;
