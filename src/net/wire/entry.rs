//! Converts entries and paths of the wire to the store's types and back, and checks those of a
//! peer.

use crate::net::wire::proto;
use crate::net::wire::reader::Malformed;
use crate::store::trash::{TrashItem, TrashedEntry};
use crate::store::{
    Allocation, Attributes, BadPath, Entry, Holder, Kind, LockEntry, Name, Owner, RemotePath,
    Removal, Space, Time, Version,
};
use std::time::Duration;

/// The kind, as it travels.
pub fn kind_to_wire(kind: Kind) -> i32 {
    let kind = match kind {
        Kind::File => proto::Kind::File,
        Kind::Dir => proto::Kind::Dir,
        Kind::Symlink => proto::Kind::Symlink,
        Kind::Fifo => proto::Kind::Fifo,
        Kind::Socket => proto::Kind::Socket,
        Kind::CharDevice => proto::Kind::CharDevice,
        Kind::BlockDevice => proto::Kind::BlockDevice,
        Kind::Other => proto::Kind::Other,
    };
    kind.into()
}

/// A kind that this version does not know is [`Kind::Other`]: listed, not transferred.
pub fn kind_from_wire(kind: i32) -> Kind {
    match proto::Kind::try_from(kind) {
        Ok(proto::Kind::File) => Kind::File,
        Ok(proto::Kind::Dir) => Kind::Dir,
        Ok(proto::Kind::Symlink) => Kind::Symlink,
        Ok(proto::Kind::Fifo) => Kind::Fifo,
        Ok(proto::Kind::Socket) => Kind::Socket,
        Ok(proto::Kind::CharDevice) => Kind::CharDevice,
        Ok(proto::Kind::BlockDevice) => Kind::BlockDevice,
        _ => Kind::Other,
    }
}

/// Time and mode from a peer's numbers.
///
/// # Errors
/// [`Malformed`] for nanoseconds of a second or more.
pub fn attributes(secs: i64, nanos: u32, mode: u32) -> Result<Attributes, Malformed> {
    if nanos >= 1_000_000_000 {
        return Err(Malformed("nanoseconds of a second or more"));
    }
    Ok(Attributes {
        mtime: Time { secs, nanos },
        mode: mode & 0o7777,
        ..Attributes::default()
    })
}

/// Time, mode and allocation of an offered entry.
///
/// # Errors
/// As [`attributes`].
pub fn offered_attributes(offer: &proto::Offer) -> Result<Attributes, Malformed> {
    let allocation = match offer.sparse {
        true => Allocation::Sparse,
        false => Allocation::Dense,
    };
    let attributes = attributes(offer.mtime, offer.mtime_nanos, offer.mode)?;
    Ok(Attributes {
        allocation,
        ..attributes
    })
}

/// An entry for `stat` and listings, with its hash if a client asked for that.
pub fn to_wire(entry: Entry, hash: Option<[u8; 32]>) -> proto::Entry {
    proto::Entry {
        name: entry.name.map(|n| n.as_bytes().to_vec()).unwrap_or_default(),
        kind: kind_to_wire(entry.kind),
        size: entry.size,
        mtime: entry.attributes.mtime.secs,
        mtime_nanos: entry.attributes.mtime.nanos,
        mode: entry.attributes.mode,
        target: entry.target.unwrap_or_default(),
        hash: hash.map(|h| h.to_vec()).unwrap_or_default(),
        version: entry.version.to_string(),
        uid: entry.owner.map(|owner| owner.uid),
        gid: entry.owner.map(|owner| owner.gid),
        device: entry.device,
        links: entry.links,
    }
}

/// A peer's entry, and the hash if one came with it.
///
/// # Errors
/// [`Malformed`] for an invalid name, a wrong time, or a hash of another length.
pub fn from_wire(entry: proto::Entry) -> Result<(Entry, Option<[u8; 32]>), Malformed> {
    let kind = kind_from_wire(entry.kind);
    let name = match entry.name.as_slice() {
        [] => None,
        bytes => Some(Name::parse(bytes).map_err(|_| Malformed("an entry's name is not a name"))?),
    };
    let hash = match entry.hash.as_slice() {
        [] => None,
        bytes => Some(bytes.try_into().map_err(|_| Malformed("a hash is not 32 bytes"))?),
    };
    let attributes = attributes(entry.mtime, entry.mtime_nanos, entry.mode)?;
    let entry = Entry {
        name,
        kind,
        size: entry.size,
        attributes,
        target: (kind == Kind::Symlink).then_some(entry.target),
        version: Version::Text(entry.version),
        owner: entry.uid.zip(entry.gid).map(|(uid, gid)| Owner { uid, gid }),
        device: entry.device,
        links: entry.links,
    };
    Ok((entry, hash))
}

/// A path as a request names it: relative to `working`, or to the user's root when it begins with
/// `/`.
///
/// # Errors
/// [`BadPath`].
pub fn path(bytes: &[u8], working: &RemotePath) -> Result<RemotePath, BadPath> {
    match bytes.strip_prefix(b"/") {
        Some(rest) => RemotePath::parse(rest),
        None => working.append(&RemotePath::parse(bytes)?),
    }
}

/// Sizes for `df`.
pub fn space_to_wire(space: Space) -> proto::SpaceReply {
    proto::SpaceReply {
        total: space.total,
        free: space.free,
        used: Some(space.used),
        files: space.files,
        files_free: space.files_free,
    }
}

/// Sizes from a peer.
pub fn space_from_wire(space: &proto::SpaceReply) -> Space {
    Space {
        total: space.total,
        free: space.free,
        // an older server does not send it
        used: space.used.unwrap_or(space.total.saturating_sub(space.free)),
        files: space.files,
        files_free: space.files_free,
    }
}

/// A lock or partial file on the wire.
pub fn lock_to_wire(lock: LockEntry) -> proto::LockEntry {
    proto::LockEntry {
        target: lock.target,
        who: lock.holder.who,
        locked_ms: lock
            .holder
            .locked_for
            .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        written: lock.holder.written,
        live: lock.live,
    }
}

/// A peer's lock or partial file.
pub fn lock_from_wire(lock: proto::LockEntry) -> LockEntry {
    LockEntry {
        target: lock.target,
        holder: Holder {
            who: lock.who,
            locked_for: lock.locked_ms.map(Duration::from_millis),
            written: lock.written,
        },
        live: lock.live,
    }
}

/// An entry to be removed, on the wire.
pub fn removal_to_wire(removal: &Removal) -> proto::Removal {
    proto::Removal {
        path: removal.path.as_bytes().to_vec(),
        kind: kind_to_wire(removal.kind),
        size: removal.size,
        mtime: removal.mtime.secs,
        mtime_nanos: removal.mtime.nanos,
    }
}

/// A peer's entry to be removed.
///
/// # Errors
/// [`Malformed`] for a path that is not allowed.
pub fn removal_from_wire(removal: &proto::Removal) -> Result<Removal, Malformed> {
    let path = RemotePath::parse(&removal.path);
    Ok(Removal {
        path: path.map_err(|_| Malformed("a path to be removed is not allowed"))?,
        kind: kind_from_wire(removal.kind),
        size: removal.size,
        mtime: attributes(removal.mtime, removal.mtime_nanos, 0)?.mtime,
    })
}

/// An entry of a trash, for a peer.
pub fn trashed_to_wire(entry: TrashedEntry) -> proto::TrashedEntry {
    let TrashItem { batch, index } = entry.item;
    proto::TrashedEntry {
        item: Some(proto::TrashItem { batch, index }),
        path: entry.path.as_bytes().to_vec(),
        kind: kind_to_wire(entry.kind),
        size: entry.size,
        deleted: entry.deleted,
        expires: entry.expires,
        run: entry.run,
    }
}

/// A peer's entry of a trash.
///
/// # Errors
/// [`Malformed`] for a path that is not allowed.
pub fn trashed_from_wire(entry: proto::TrashedEntry) -> Result<TrashedEntry, Malformed> {
    let path = RemotePath::parse(&entry.path);
    let proto::TrashItem { batch, index } = entry.item.unwrap_or_default();
    Ok(TrashedEntry {
        item: TrashItem { batch, index },
        path: path.map_err(|_| Malformed("a path in a trash is not allowed"))?,
        kind: kind_from_wire(entry.kind),
        size: entry.size,
        deleted: entry.deleted,
        expires: entry.expires,
        run: entry.run,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn paths_resolve_against_the_working_directory() {
        let working = RemotePath::parse(b"a/b").unwrap();
        let resolved = |bytes: &[u8]| path(bytes, &working).map(|p| p.as_bytes().to_vec());
        assert_eq!(resolved(b"c").unwrap(), b"a/b/c");
        assert_eq!(resolved(b"/c").unwrap(), b"c");
        assert_eq!(resolved(b"").unwrap(), b"a/b");
        assert_eq!(resolved(b"/").unwrap(), b"");
        assert_eq!(resolved(b"../c"), Err(BadPath::Dots));
        assert_eq!(resolved(b"//c"), Err(BadPath::Empty));
    }

    #[test]
    fn entries_survive_the_wire_and_bad_ones_do_not() {
        let entry = Entry {
            name: Some(Name::parse(b"\xff\n").unwrap()),
            kind: Kind::Symlink,
            size: 0,
            attributes: attributes(-5, 999_999_999, 0o7777).unwrap(),
            target: Some(b"../x".to_vec()),
            version: Version::Text("v".into()),
            owner: Some(Owner { uid: 7, gid: 0 }),
            device: 1 << 32,
            links: 2,
        };
        let wire = to_wire(entry.clone(), Some([1; 32]));
        assert_eq!(from_wire(wire.clone()), Ok((entry, Some([1; 32]))));
        let bad = |change: fn(&mut proto::Entry)| {
            let mut wire = wire.clone();
            change(&mut wire);
            from_wire(wire).is_err()
        };
        assert!(bad(|e| e.name = b"a/b".to_vec()));
        assert!(bad(|e| e.name = b"..".to_vec()));
        assert!(bad(|e| e.hash = vec![1]));
        assert!(bad(|e| e.mtime_nanos = 1_000_000_000));
    }

    /// Every message cut at every length is an error or a shorter message: never a panic.
    #[test]
    fn cut_messages_do_not_panic() {
        use proto::control_message::Body;
        use proto::{request, transfer_message};
        let offer = proto::Offer {
            number: 7,
            parent: 3,
            name: b"name".to_vec(),
            kind: 1,
            size: 1 << 40,
            mtime: -1,
            target: b"t".to_vec(),
            hash: vec![1; 32],
            ..Default::default()
        };
        let messages = [
            Body::Request(proto::Request {
                number: 1,
                body: Some(request::Body::Login(proto::Login {
                    session: vec![1; 16],
                    user: "kim".into(),
                    password: Some("secret".into()),
                    window: 1 << 20,
                    ..Default::default()
                })),
            }),
            Body::Reply(proto::Reply {
                number: 1,
                code: 550,
                text: "no".into(),
                body: None,
            }),
            Body::Transfer(proto::TransferMessage {
                transfer: 1,
                body: Some(transfer_message::Body::Offers(proto::Offers {
                    offers: vec![offer],
                })),
            }),
        ];
        for body in messages {
            let bytes = proto::ControlMessage { body: Some(body) }.encode_to_vec();
            for n in 0..bytes.len() {
                let _ = proto::ControlMessage::decode(&bytes[..n]);
            }
        }
    }
}
