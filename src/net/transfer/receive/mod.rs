//! The receiving side of a transfer: decides what it wants, puts what arrives in order, commits it,
//! settles every offer.

mod answers;
mod compare;
mod copied;
mod decide;
pub mod destination;
mod dirs;
mod event;
mod files;
mod in_flight;
mod job;
mod ledger;
mod links;
mod offers;
mod progress;
pub mod receiver;
mod small;
mod staged;
mod staged_files;
mod staged_jobs;
pub mod stream;
pub mod tree;
