//! What the sender offers: the message, and the content that goes with the first small files.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::{Digest, whole_digest};
use crate::net::transfer::send::source::is_missized;
use crate::net::transfer::{INLINE_BUDGET, MAX_INLINE};
use crate::net::wire::{entry::kind_to_wire, proto};
use crate::store::{Allocation, Entry, Kind, RemotePath, Store};

/// What a file takes of the budget at least: each is read by itself.
const INLINE_COST: usize = 512;

/// The offer of an entry.
pub(super) fn offer_of(
    number: u64,
    parent: u64,
    source: usize,
    entry: &Entry,
    hash: Option<Digest>,
) -> proto::Offer {
    let name = entry.name.as_ref().filter(|_| parent != 0);
    proto::Offer {
        number,
        parent,
        source: u32::try_from(source).unwrap_or(u32::MAX),
        name: name.map(|n| n.as_bytes().to_vec()).unwrap_or_default(),
        kind: kind_to_wire(entry.kind),
        size: entry.size,
        mtime: entry.attributes.mtime.secs,
        mtime_nanos: entry.attributes.mtime.nanos,
        mode: entry.attributes.mode,
        sparse: entry.attributes.allocation == Allocation::Sparse,
        target: entry.target.clone().unwrap_or_default(),
        hash: hash.map(|h| h.to_vec()).unwrap_or_default(),
        version: match entry.kind {
            Kind::File if entry.size > CHUNK_SIZE as u64 || parent == 0 => {
                entry.version.to_string()
            }
            _ => String::new(),
        },
        ..Default::default()
    }
}

/// The offer of a file whose size is not what its file system says: of a stream.
pub(super) fn unsized_offer(offer: proto::Offer) -> proto::Offer {
    proto::Offer {
        size: 0,
        stream: true,
        hash: Vec::new(),
        version: String::new(),
        ..offer
    }
}

/// The offer of a stream.
pub(super) fn offer_of_stream(number: u64, source: usize) -> proto::Offer {
    proto::Offer {
        number,
        source: u32::try_from(source).unwrap_or(u32::MAX),
        kind: kind_to_wire(Kind::File),
        mode: 0o644,
        stream: true,
        ..Default::default()
    }
}

/// Bytes of content that may still go with offers.
pub(super) struct Inline(usize);

/// What goes with an offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InlineContent {
    /// All of the file, and its hash.
    Here(Vec<u8>, Digest),
    /// Nothing: it has not as many bytes as its size says.
    Unsized,
    /// Nothing: it is sent when it is wanted.
    Later,
}

impl Inline {
    /// With `checksum` none does: the offer may make it superfluous.
    pub(super) fn new(checksum: bool) -> Inline {
        Inline(if checksum { 0 } else { INLINE_BUDGET })
    }

    /// The content of a small file that goes with its offer: of the first few. What cannot be read
    /// now is read when it is wanted, and fails then.
    pub(super) async fn content(
        &mut self,
        store: &dyn Store,
        path: &RemotePath,
        entry: &Entry,
    ) -> InlineContent {
        let most = MAX_INLINE.min(self.0);
        let fits = usize::try_from(entry.size).is_ok_and(|size| size <= most);
        if entry.kind != Kind::File || self.0 == 0 || !fits {
            return InlineContent::Later;
        }
        let read = store.read_whole(vec![path.clone()], MAX_INLINE).await.pop();
        match read {
            Some(Ok(read)) if read.version == entry.version => {
                self.0 = self.0.saturating_sub(read.bytes.len().max(INLINE_COST));
                let digest = whole_digest(&read.bytes);
                InlineContent::Here(read.bytes, digest)
            }
            Some(Err(e)) if is_missized(store, path, entry, &e).await => InlineContent::Unsized,
            _ => InlineContent::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::net::transfer::send::offer::*;
    use crate::store::StoreExt;
    use crate::store::local::LocalStore;

    /// A file that was changed after it was listed, and its time of change set back, is not sent
    /// with the offer of what it was.
    #[tokio::test]
    async fn content_of_another_version_does_not_go_with_an_offer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"old").unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        let path = RemotePath::parse(b"f").unwrap();
        let listed = store.stat(&path).await.unwrap();
        let content = Inline::new(false).content(&store, &path, &listed).await;
        assert_eq!(content, InlineContent::Here(b"old".to_vec(), whole_digest(b"old")));
        let time = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(&file, b"new").unwrap();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
        let now = store.stat(&path).await.unwrap();
        assert_eq!((now.size, now.attributes), (listed.size, listed.attributes.clone()));
        let content = Inline::new(false).content(&store, &path, &listed).await;
        assert_eq!(content, InlineContent::Later);
    }
}
