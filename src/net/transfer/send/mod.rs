//! The sending side of a transfer: walks its sources, offers what it finds, and sends what the
//! receiver wants.

mod batches;
pub mod chosen;
mod describe;
mod details;
pub mod found;
mod layout;
mod levels;
mod offer;
mod offering;
mod overlap;
mod page;
mod reader;
mod reading;
mod reads;
mod select;
pub mod sender;
mod settle;
pub mod source;
mod spilled_links;
mod state;
mod stream;
pub mod walk;
