//! The sending side of a transfer: walks its sources, offers what it finds, and sends what the
//! receiver wants.

mod details;
pub mod found;
mod layout;
mod levels;
mod offer;
mod offering;
mod overlap;
mod reader;
mod reading;
mod reads;
pub mod select;
pub mod sender;
mod settle;
pub mod source;
mod state;
mod stream;
pub mod walk;
