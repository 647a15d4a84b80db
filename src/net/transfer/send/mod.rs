//! The sending side of a transfer: walks its sources, offers what it finds, and sends what the receiver wants.

mod layout;
mod levels;
mod offer;
mod overlap;
mod reader;
mod reads;
pub mod sender;
mod stream;
pub mod walk;
