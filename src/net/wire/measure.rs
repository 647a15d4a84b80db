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
/// Most names of ignore files.
pub const MAX_IGNORE_FILES: usize = 8;
/// Most digests in a want: one for each bit of a count of chunks.
const MAX_DIGESTS: usize = 64;
/// Fields that a shape has at most.
const FIELDS: usize = 16;
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
const VIEW: Shape = Shape(&[(3, Field::Texts(MAX_IGNORE_FILES))]);
const OPTIONS: Shape = Shape(&[(60, Field::One(&VIEW))]);
const WANT: Shape = Shape(&[(3, Field::Texts(MAX_DIGESTS))]);
const PUT: Shape = Shape(&[
    (4, Field::Texts(MAX_LIST)),
    (5, Field::One(&OPTIONS)),
    (6, Field::Texts(MAX_LIST)),
]);
const GET: Shape = Shape(&[
    (2, Field::Texts(MAX_LIST)),
    (3, Field::One(&OPTIONS)),
    (4, Field::Texts(MAX_LIST)),
    (60, Field::Texts(MAX_LIST)),
    (5, Field::Texts(MAX_LIST)),
]);
const COPY: Shape = Shape(&[
    (2, Field::Texts(MAX_LIST)),
    (5, Field::Texts(MAX_LIST)),
    (7, Field::One(&OPTIONS)),
    (9, Field::Texts(MAX_LIST)),
    (60, Field::Texts(MAX_LIST)),
]);
const MAKE_TICKET: Shape = Shape(&[(1, Field::One(&PUT))]);
const SEND_TO: Shape = Shape(&[(1, Field::One(&COPY))]);
const LIST_BENEATH: Shape =
    Shape(&[(2, Field::List(&FLAT, MAX_LIST, size_of::<proto::DirCursor>()))]);
const STAT_BENEATH: Shape = Shape(&[(2, Field::Texts(MAX_LIST)), (60, Field::One(&VIEW))]);
const REMOVE_BENEATH: Shape = Shape(&[
    (2, Field::List(&FLAT, MAX_LIST, size_of::<proto::Removal>())),
    (3, Field::One(&FLAT)),
]);
const DISCARD: Shape = Shape(&[(2, Field::List(&FLAT, MAX_LIST, size_of::<proto::Removal>()))]);
const RESTORE: Shape = Shape(&[(2, Field::List(&FLAT, MAX_LIST, size_of::<proto::TrashItem>()))]);
const REQUEST: Shape = Shape(&[
    (11, Field::One(&PUT)),
    (12, Field::One(&GET)),
    (30, Field::One(&LIST_BENEATH)),
    (31, Field::One(&STAT_BENEATH)),
    (32, Field::One(&REMOVE_BENEATH)),
    (40, Field::One(&DISCARD)),
    (42, Field::One(&RESTORE)),
    (45, Field::One(&COPY)),
    (46, Field::One(&MAKE_TICKET)),
    (47, Field::One(&SEND_TO)),
]);
const LIST_REPLY: Shape = one_list::<{ size_of::<proto::Entry>() }>();
const LOCKS_REPLY: Shape = one_list::<{ size_of::<proto::LockEntry>() }>();
const GLOB_REPLY: Shape = Shape(&[(1, Field::Texts(MAX_LIST))]);
const DIR_PAGE: Shape = one_list::<{ size_of::<proto::Entry>() }>();
const LIST_BENEATH_REPLY: Shape =
    Shape(&[(1, Field::List(&DIR_PAGE, MAX_LIST, size_of::<proto::DirPage>()))]);
const REMOVE_BENEATH_REPLY: Shape = one_list::<{ size_of::<proto::Removed>() }>();
const TRASHED_ENTRY: Shape = Shape(&[(1, Field::One(&FLAT))]);
const LIST_TRASH_REPLY: Shape =
    Shape(&[(1, Field::List(&TRASHED_ENTRY, MAX_LIST, size_of::<proto::TrashedEntry>()))]);
const REPLY: Shape = Shape(&[
    (7, Field::One(&LIST_REPLY)),
    (11, Field::One(&LOCKS_REPLY)),
    (18, Field::One(&GLOB_REPLY)),
    (30, Field::One(&LIST_BENEATH_REPLY)),
    (32, Field::One(&REMOVE_BENEATH_REPLY)),
    (41, Field::One(&LIST_TRASH_REPLY)),
    (42, Field::One(&REMOVE_BENEATH_REPLY)),
]);
const OFFER: Shape = Shape(&[(22, Field::List(&FLAT, MAX_XATTRS, size_of::<proto::Xattr>()))]);
const OFFERS: Shape = Shape(&[(1, Field::List(&OFFER, MAX_OFFERS, size_of::<proto::Offer>()))]);
const CHANGED: Shape = Shape(&[(1, Field::One(&OFFER))]);
const WANTS: Shape = Shape(&[(1, Field::List(&WANT, MAX_LIST, size_of::<proto::Want>()))]);
const ACKS: Shape = one_list::<{ size_of::<proto::Ack>() }>();
const RESULTS: Shape = one_list::<{ size_of::<proto::Result>() }>();
const WITHDRAWALS: Shape = one_list::<{ size_of::<proto::Withdrawal>() }>();
const EXCLUSIONS: Shape = one_list::<{ size_of::<proto::Exclusion>() }>();
const REPORT: Shape = Shape(&[(2, Field::List(&FLAT, MAX_LIST, size_of::<proto::CopyEvent>()))]);
const TRANSFER: Shape = Shape(&[
    (2, Field::One(&OFFERS)),
    (3, Field::One(&WANTS)),
    (4, Field::One(&ACKS)),
    (5, Field::One(&RESULTS)),
    (6, Field::One(&WITHDRAWALS)),
    (30, Field::One(&EXCLUSIONS)),
    (7, Field::One(&CHANGED)),
    (20, Field::One(&REPORT)),
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
    let mut counts = [0_usize; FIELDS];
    debug_assert!(shape.0.len() <= FIELDS, "each field of a shape is counted");
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
mod tests;
