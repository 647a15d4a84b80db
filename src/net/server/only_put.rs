//! What a session is for that began with a ticket: one put, and nothing else.

use crate::net::error::NetError;
use crate::net::server::reply::refusal;
use crate::net::wire::Code;
use crate::net::wire::proto::{self, request::Body};
use prost::Message;
use std::sync::atomic::{AtomicBool, Ordering};

/// The put that a ticket was made for, as a hash, and whether it has been requested.
pub(super) struct OnlyPut {
    put: [u8; 32],
    is_used: AtomicBool,
}

impl OnlyPut {
    /// This one, from any sender.
    pub(super) fn of(put: &proto::Put) -> OnlyPut {
        OnlyPut {
            put: hash_of(put),
            is_used: AtomicBool::new(false),
        }
    }

    /// Permits that put, once, and what every transfer needs besides.
    ///
    /// # Errors
    /// The refusal of anything else.
    pub(super) fn permit(&self, body: Option<&Body>) -> Result<(), NetError> {
        match body {
            Some(Body::Put(put)) if hash_of(put) == self.put => {
                match self.is_used.swap(true, Ordering::Relaxed) {
                    false => Ok(()),
                    true => Err(refusal(Code::DENIED, "the put of this ticket has been made")),
                }
            }
            Some(Body::Noop(_) | Body::Quit(_)) => Ok(()),
            _ => Err(refusal(Code::DENIED, "this session is for the put of its ticket alone")),
        }
    }
}

/// The hash of all that the maker of a ticket decides: not of the sender's own matters.
fn hash_of(put: &proto::Put) -> [u8; 32] {
    let options = put.options.clone().map(|options| proto::Options {
        filter: Vec::new(),
        compression: 0,
        level: 0,
        sender_window: 0,
        ..options
    });
    let decided = proto::Put {
        transfer: 0,
        source_ids: Vec::new(),
        options,
        ..put.clone()
    };
    *blake3::hash(&decided.encode_to_vec()).as_bytes()
}
