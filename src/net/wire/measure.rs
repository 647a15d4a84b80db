//! Measures the memory that a control message will take, before it is decoded.
//!
//! An empty list entry is two bytes on the wire and some hundred decoded. So [`decoded_size`]
//! counts the entries of every list before prost decodes them, and refuses too many.

use crate::net::wire::proto;
use crate::net::wire::reader::{Malformed, Reader};
use crate::store::metadata::MAX_XATTRS;
use std::mem::size_of;

/// Most bytes that a message takes decoded.
pub const MAX_DECODED: usize = 2 << 20;
/// Most entries of a list in a message.
pub const MAX_LIST: usize = 4096;
/// Most offers in a message.
pub const MAX_OFFERS: usize = 1024;
/// Most digests in a want: one for each bit of a count of chunks.
const MAX_DIGESTS: usize = 64;
/// Bytes that the allocator adds to each string, list or byte field.
const ALLOCATION: usize = 32;
/// A growing list has room for up to twice its entries.
const GROWTH: usize = 2;

/// A field that has lists, or is one. Fields that are in no shape are numbers, texts, bytes or
/// unknown.
enum Field {
    /// A message, at most once: decoding would merge the lists of several.
    One(&'static Shape),
    /// A list of messages: their shape, the most of them, and the bytes of each.
    List(&'static Shape, usize, usize),
    /// A list of strings or byte fields, and the most of them.
    Texts(usize),
}

/// The lists of a kind of message, by field number.
struct Shape(&'static [(u64, Field)]);

const FLAT: Shape = Shape(&[]);
const WANT: Shape = Shape(&[(3, Field::Texts(MAX_DIGESTS))]);
const PUT: Shape = Shape(&[(4, Field::Texts(MAX_LIST)), (6, Field::Texts(MAX_LIST))]);
const GET: Shape = Shape(&[
    (2, Field::Texts(MAX_LIST)),
    (4, Field::Texts(MAX_LIST)),
    (5, Field::Texts(MAX_LIST)),
]);
const LIST_BENEATH: Shape =
    Shape(&[(2, Field::List(&FLAT, MAX_LIST, size_of::<proto::DirCursor>()))]);
const STAT_BENEATH: Shape = Shape(&[(2, Field::Texts(MAX_LIST))]);
const REMOVE_BENEATH: Shape =
    Shape(&[(2, Field::List(&FLAT, MAX_LIST, size_of::<proto::Removal>()))]);
const REQUEST: Shape = Shape(&[
    (11, Field::One(&PUT)),
    (12, Field::One(&GET)),
    (30, Field::One(&LIST_BENEATH)),
    (31, Field::One(&STAT_BENEATH)),
    (32, Field::One(&REMOVE_BENEATH)),
]);
const LIST_REPLY: Shape = one_list::<{ size_of::<proto::Entry>() }>();
const LOCKS_REPLY: Shape = one_list::<{ size_of::<proto::LockEntry>() }>();
const GLOB_REPLY: Shape = Shape(&[(1, Field::Texts(MAX_LIST))]);
const DIR_PAGE: Shape = one_list::<{ size_of::<proto::Entry>() }>();
const LIST_BENEATH_REPLY: Shape =
    Shape(&[(1, Field::List(&DIR_PAGE, MAX_LIST, size_of::<proto::DirPage>()))]);
const REMOVE_BENEATH_REPLY: Shape = one_list::<{ size_of::<proto::Removed>() }>();
const REPLY: Shape = Shape(&[
    (7, Field::One(&LIST_REPLY)),
    (11, Field::One(&LOCKS_REPLY)),
    (18, Field::One(&GLOB_REPLY)),
    (30, Field::One(&LIST_BENEATH_REPLY)),
    (32, Field::One(&REMOVE_BENEATH_REPLY)),
]);
const OFFER: Shape = Shape(&[(22, Field::List(&FLAT, MAX_XATTRS, size_of::<proto::Xattr>()))]);
const OFFERS: Shape = Shape(&[(1, Field::List(&OFFER, MAX_OFFERS, size_of::<proto::Offer>()))]);
const CHANGED: Shape = Shape(&[(1, Field::One(&OFFER))]);
const WANTS: Shape = Shape(&[(1, Field::List(&WANT, MAX_LIST, size_of::<proto::Want>()))]);
const ACKS: Shape = one_list::<{ size_of::<proto::Ack>() }>();
const RESULTS: Shape = one_list::<{ size_of::<proto::Result>() }>();
const WITHDRAWALS: Shape = one_list::<{ size_of::<proto::Withdrawal>() }>();
const TRANSFER: Shape = Shape(&[
    (2, Field::One(&OFFERS)),
    (3, Field::One(&WANTS)),
    (4, Field::One(&ACKS)),
    (5, Field::One(&RESULTS)),
    (6, Field::One(&WITHDRAWALS)),
    (7, Field::One(&CHANGED)),
]);
const CONTROL_MESSAGE: Shape = Shape(&[
    (1, Field::One(&REQUEST)),
    (2, Field::One(&REPLY)),
    (3, Field::One(&TRANSFER)),
]);

/// A message whose field 1 is a list of flat messages of `SIZE` bytes.
const fn one_list<const SIZE: usize>() -> Shape {
    Shape(&[(1, Field::List(&FLAT, MAX_LIST, SIZE))])
}

/// About how many bytes the decoded `ControlMessage` in `bytes` takes.
///
/// # Errors
/// [`Malformed`] if the bytes are not a message, a list has too many entries, or all of them take
/// more than [`MAX_DECODED`].
pub fn decoded_size(bytes: &[u8]) -> Result<usize, Malformed> {
    let size = measure(&CONTROL_MESSAGE, bytes)?;
    let size = size.saturating_add(size_of::<proto::ControlMessage>());
    match size {
        ..=MAX_DECODED => Ok(size),
        _ => Err(Malformed("a control message takes more than 2 MiB decoded")),
    }
}

/// Bytes of a message beyond its own struct.
fn measure(shape: &Shape, bytes: &[u8]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut counts = [0_usize; 8];
    let mut total = 0_usize;
    while !reader.is_empty() {
        let tag = reader.varint()?;
        let content = match tag & 7 {
            0 => {
                reader.varint()?;
                continue;
            }
            1 => {
                reader.take(8)?;
                continue;
            }
            5 => {
                reader.take(4)?;
                continue;
            }
            2 => {
                let length = usize::try_from(reader.varint()?);
                reader.take(length.unwrap_or(usize::MAX))?
            }
            _ => return Err(Malformed("not a control message")),
        };
        let known = shape.0.iter().zip(&mut counts).find(|((number, _), _)| *number == tag >> 3);
        let taken = match known {
            Some(((_, field), count)) => {
                *count = count.saturating_add(1);
                of_field(field, *count, content)?
            }
            None => content.len().saturating_add(ALLOCATION),
        };
        total = total.saturating_add(taken);
    }
    Ok(total)
}

/// Bytes of the `count`th occurrence of a field.
fn of_field(field: &Field, count: usize, content: &[u8]) -> Result<usize, Malformed> {
    let (most, taken) = match field {
        Field::One(shape) => (1, measure(shape, content)?),
        Field::List(shape, most, size) => {
            let beyond = measure(shape, content)?;
            (*most, size.saturating_mul(GROWTH).saturating_add(beyond))
        }
        Field::Texts(most) => {
            let own = size_of::<Vec<u8>>().saturating_mul(GROWTH).saturating_add(ALLOCATION);
            (*most, own.saturating_add(content.len()))
        }
    };
    match count <= most {
        true => Ok(taken),
        false => Err(Malformed("a list in a control message has too many entries")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::control_message::Body;
    use proto::{ControlMessage, request, transfer_message};

    fn transfer(body: transfer_message::Body) -> Vec<u8> {
        let message = proto::TransferMessage {
            transfer: 1,
            body: Some(body),
        };
        let body = Some(Body::Transfer(message));
        ControlMessage { body }.encode_to_vec()
    }

    fn request(body: request::Body) -> Vec<u8> {
        let request = proto::Request {
            number: 1,
            body: Some(body),
        };
        let body = Some(Body::Request(request));
        ControlMessage { body }.encode_to_vec()
    }

    fn reply(body: proto::reply::Body) -> Vec<u8> {
        let reply = proto::Reply {
            body: Some(body),
            ..Default::default()
        };
        let body = Some(Body::Reply(reply));
        ControlMessage { body }.encode_to_vec()
    }

    fn empty_offers(n: usize) -> proto::Offers {
        let offers = vec![proto::Offer::default(); n];
        proto::Offers { offers }
    }

    /// An offer with so many extended attributes.
    fn one_offer(n: usize) -> proto::Offers {
        let offer = proto::Offer {
            xattrs: vec![proto::Xattr::default(); n],
            ..Default::default()
        };
        proto::Offers {
            offers: vec![offer],
        }
    }

    /// A changed offer with so many extended attributes.
    fn changed_offer(n: usize) -> proto::Changed {
        let offer = one_offer(n).offers.pop().map(Box::new);
        proto::Changed {
            offer,
            ..Default::default()
        }
    }

    /// The wire's bytes of each list with `n` empty entries.
    fn lists(n: usize) -> Vec<(Vec<u8>, usize)> {
        use transfer_message::Body::{Acks, Changed, Offers, Results, Wants, Withdrawals};
        let put = proto::Put {
            names: vec![Vec::new(); n],
            ..Default::default()
        };
        let source_ids = proto::Put {
            source_ids: vec![String::new(); n],
            ..Default::default()
        };
        let get = proto::Get {
            sources: vec![Vec::new(); n],
            ..Default::default()
        };
        let names = proto::Get {
            names: vec![Vec::new(); n],
            ..Default::default()
        };
        let destination_ancestors = proto::Get {
            destination_ancestors: vec![String::new(); n],
            ..Default::default()
        };
        let want = proto::Want {
            digests: vec![Vec::new(); n],
            ..Default::default()
        };
        let list = proto::ListReply {
            entries: vec![proto::Entry::default(); n],
            ..Default::default()
        };
        let locks = proto::LocksReply {
            locks: vec![proto::LockEntry::default(); n],
            ..Default::default()
        };
        let glob = proto::GlobReply {
            paths: vec![Vec::new(); n],
            ..Default::default()
        };
        let (wants, acks) = (vec![proto::Want::default(); n], vec![proto::Ack::default(); n]);
        let results = vec![proto::Result::default(); n];
        let withdrawals = vec![proto::Withdrawal::default(); n];
        vec![
            (transfer(Offers(empty_offers(n))), MAX_OFFERS),
            (transfer(Offers(one_offer(n))), MAX_XATTRS),
            (transfer(Changed(changed_offer(n))), MAX_XATTRS),
            (transfer(Wants(proto::Wants { wants })), MAX_LIST),
            (transfer(Wants(proto::Wants { wants: vec![want] })), MAX_DIGESTS),
            (transfer(Acks(proto::Acks { acks })), MAX_LIST),
            (transfer(Results(proto::Results { results })), MAX_LIST),
            (transfer(Withdrawals(proto::Withdrawals { withdrawals })), MAX_LIST),
            (request(request::Body::Put(put)), MAX_LIST),
            (request(request::Body::Put(source_ids)), MAX_LIST),
            (request(request::Body::Get(get)), MAX_LIST),
            (request(request::Body::Get(destination_ancestors)), MAX_LIST),
            (request(request::Body::Get(names)), MAX_LIST),
            (reply(proto::reply::Body::List(list)), MAX_LIST),
            (reply(proto::reply::Body::Locks(locks)), MAX_LIST),
            (reply(proto::reply::Body::Glob(glob)), MAX_LIST),
        ]
        .into_iter()
        .chain(lists_beneath(n))
        .collect()
    }

    /// Those of the requests about many entries.
    fn lists_beneath(n: usize) -> Vec<(Vec<u8>, usize)> {
        use proto::reply::Body::{ListBeneath, RemoveBeneath};
        let list = proto::ListBeneath {
            dirs: vec![proto::DirCursor::default(); n],
            ..Default::default()
        };
        let stat = proto::StatBeneath {
            paths: vec![Vec::new(); n],
            ..Default::default()
        };
        let remove = proto::RemoveBeneath {
            removals: vec![proto::Removal::default(); n],
            ..Default::default()
        };
        let page = proto::DirPage {
            entries: vec![proto::Entry::default(); n],
            ..Default::default()
        };
        let pages = vec![proto::DirPage::default(); n];
        let removed = vec![proto::Removed::default(); n];
        vec![
            (request(request::Body::ListBeneath(list)), MAX_LIST),
            (request(request::Body::StatBeneath(stat)), MAX_LIST),
            (request(request::Body::RemoveBeneath(remove)), MAX_LIST),
            (reply(ListBeneath(proto::ListBeneathReply { pages: vec![page] })), MAX_LIST),
            (reply(ListBeneath(proto::ListBeneathReply { pages })), MAX_LIST),
            (reply(RemoveBeneath(proto::RemoveBeneathReply { removed })), MAX_LIST),
        ]
    }

    #[test]
    fn lists_are_counted_before_they_are_decoded() {
        for (index, (_, most)) in lists(0).into_iter().enumerate() {
            let (fits, _) = lists(most).swap_remove(index);
            let size = decoded_size(&fits).unwrap();
            assert!(size >= most * size_of::<Vec<u8>>(), "list {index}: {size}");
            let (over, _) = lists(most + 1).swap_remove(index);
            assert!(decoded_size(&over).is_err(), "list {index}");
        }
    }

    /// Parts of one message that decoding would merge do not add up behind the counter's back.
    #[test]
    fn a_message_that_comes_in_parts_is_refused() {
        let mut twice = lists(MAX_OFFERS).swap_remove(0).0;
        twice.extend_from_within(..);
        assert!(ControlMessage::decode(&twice[..]).is_ok());
        assert!(decoded_size(&twice).is_err());
    }

    #[test]
    fn long_texts_are_bounded_and_groups_refused() {
        let digests = vec![vec![0; 1]; MAX_DIGESTS];
        let want = proto::Want {
            digests,
            ..Default::default()
        };
        let wants = vec![want; MAX_LIST];
        let wants = transfer(transfer_message::Body::Wants(proto::Wants { wants }));
        assert!(decoded_size(&wants).is_err(), "64 digests in each of 4096 wants");
        for bytes in [&[0x0b][..], &[0x0c], &[0x0a, 5], &[0xff; 11], &[0x09, 1], &[0x0d]] {
            assert!(decoded_size(bytes).is_err(), "{bytes:?}");
        }
    }

    /// Every list of the definition is in a shape: a new one has to be entered there, and here.
    #[test]
    fn every_list_of_the_protocol_has_a_bound() {
        let bounded = [
            "ListReply 1",
            "LocksReply 1",
            "ListBeneath 2",
            "ListBeneathReply 1",
            "DirPage 1",
            "StatBeneath 2",
            "RemoveBeneath 2",
            "RemoveBeneathReply 1",
            "GlobReply 1",
            "Put 4",
            "Put 6",
            "Get 2",
            "Get 4",
            "Get 5",
            "Offer 22",
            "Offers 1",
            "Want 3",
            "Wants 1",
            "Acks 1",
            "Results 1",
            "Withdrawals 1",
        ];
        let (mut message, mut lists) = ("", Vec::new());
        for line in include_str!("control.proto").lines() {
            if let Some(rest) = line.strip_prefix("message ") {
                message = rest.split_whitespace().next().unwrap_or_default();
            }
            for field in line.split("repeated ").skip(1) {
                let number = field.split(['=', ';']).nth(1).unwrap_or_default().trim();
                lists.push(format!("{message} {number}"));
            }
        }
        assert_eq!(lists, bounded);
    }
}
