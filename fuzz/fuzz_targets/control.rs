//! A control message from a peer: decoded as the connection does it, and what it says of entries
//! turned into values.
#![no_main]

use haul::net::wire::{entry, measure};
use haul::net::wire::proto::{ControlMessage, control_message::Body, reply, transfer_message};
use haul::net::control::codec;
use haul::net::transfer::options::Options;
use haul::store::{Name, RemotePath};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let measured = measure::decoded_size(data);
    let Ok(message) = ControlMessage::decode(data) else { return };
    // what is counted before it is decoded is at least what there is then
    if let (Ok(size), Some(Body::Transfer(transfer))) = (measured, &message.body)
        && let Some(transfer_message::Body::Offers(offers)) = &transfer.body
    {
        assert!(size >= std::mem::size_of_val(&offers.offers[..]));
    }
    // what was decoded can be sent, and is the same afterwards
    let mut out = Vec::new();
    if codec::encode(&message, &mut out).is_ok() {
        let again = ControlMessage::decode(&out[4..]).expect("what was encoded decodes");
        assert_eq!(again, message);
    }
    match message.body {
        Some(Body::Reply(reply)) => {
            let _ = codec::refused(reply.code, reply.text).to_string();
            if let Some(reply::Body::Entry(found)) = reply.body {
                let _ = entry::from_wire(found);
            }
        }
        Some(Body::Transfer(message)) => {
            if let Some(transfer_message::Body::Offers(offers)) = message.body {
                for offer in offers.offers {
                    let _ = Name::parse(&offer.name);
                    let _ = entry::kind_from_wire(offer.kind);
                    let _ = entry::attributes(offer.mtime, offer.mtime_nanos, offer.mode);
                }
            }
        }
        Some(Body::Request(request)) => {
            use haul::net::wire::proto::request::Body;
            match request.body {
                Some(Body::Put(put)) => {
                    let _ = entry::path(&put.destination, &RemotePath::root());
                    let _ = Options::from_wire(put.options.unwrap_or_default());
                }
                Some(Body::List(list)) => drop(entry::path(&list.path, &RemotePath::root())),
                _ => {}
            }
        }
        _ => {}
    }
});
