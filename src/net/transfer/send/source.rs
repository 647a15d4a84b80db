//! The sources of a transfer: what the user calls them, where their bytes come from, and where they
//! go.

use crate::net::transfer::report::shown;
use crate::net::transfer::send::chosen::{Chosen, Scope};
use crate::store::{Entry, ErrorKind, Kind, RemotePath, Store, StoreError, StoreExt};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::io::AsyncRead;

/// Something to send.
pub struct TransferSource {
    /// What the user called it, for messages.
    pub label: Vec<u8>,
    /// What it is.
    pub origin: Origin,
    /// Where it goes at the destination: the root where its contents go into the destination
    /// itself. `None` where that is not known.
    pub place: Option<RemotePath>,
    /// The only paths of it that are sent, if not all are.
    pub chosen: Option<Arc<Chosen>>,
}

/// Where the bytes of a source come from.
pub enum Origin {
    /// An entry of a store, and everything beneath it. The store follows no symlinks.
    Tree {
        /// The store.
        store: Arc<dyn Store>,
        /// The entry; the root for a whole store.
        path: RemotePath,
    },
    /// Nothing: it could not be found.
    Missing(StoreError),
    /// A stream of unknown length. Taken out when it is read.
    Stream(Mutex<Option<Box<dyn AsyncRead + Send + Unpin>>>),
}

impl TransferSource {
    /// The store, the entry in there, and its place, of a tree whose place is known.
    pub(super) fn tree(&self) -> Option<(&Arc<dyn Store>, &RemotePath, &RemotePath)> {
        match (&self.origin, &self.place) {
            (Origin::Tree { store, path }, Some(place)) => Some((store, path, place)),
            _ => None,
        }
    }

    /// The part of the path of one of its entries that is beneath the source itself.
    pub(super) fn beneath<'a>(&self, path: &'a RemotePath) -> &'a [u8] {
        let Origin::Tree { path: top, .. } = &self.origin else {
            return &[];
        };
        let rest = path.as_bytes().strip_prefix(top.as_bytes()).unwrap_or(path.as_bytes());
        rest.strip_prefix(b"/").unwrap_or(rest)
    }

    /// Where one of its entries goes, from the transfer's root.
    pub(super) fn place_of(&self, path: &RemotePath) -> Vec<u8> {
        let name = match (&self.place, &self.origin) {
            (Some(place), _) => place.as_bytes(),
            // a client that does not say: the source has its own name there
            (None, Origin::Tree { path, .. }) => {
                path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default()
            }
            (None, _) => &[],
        };
        shown(name, self.beneath(path))
    }

    /// The versions of the directories that are sent with everything in them: the source, or what
    /// is chosen of it.
    pub async fn dir_versions(&self) -> Vec<String> {
        let Origin::Tree { store, path } = &self.origin else {
            return Vec::new();
        };
        let tops = match &self.chosen {
            Some(chosen) => {
                let whole = chosen.paths().into_iter().filter(|(_, scope)| *scope == Scope::Tree);
                let tops = whole.filter_map(|(beneath, _)| path.append(&beneath).ok());
                tops.collect()
            }
            None => vec![path.clone()],
        };
        let found = store.stat_many(tops).await.into_iter().flatten();
        let dirs = found.filter(|entry| entry.kind == Kind::Dir);
        dirs.map(|entry| entry.version.to_string()).collect()
    }

    /// The version of the directory in which the paths of its files begin. A destination there
    /// would make each file its own target, of which nothing may be removed.
    pub async fn home_version(&self) -> Option<String> {
        let Origin::Tree { store, path } = &self.origin else {
            return None;
        };
        let top = store.stat(path).await.ok()?;
        let home = match (&self.chosen, path.split()) {
            (None, Some((parent, _))) if top.kind != Kind::Dir => store.stat(&parent).await.ok()?,
            _ => top,
        };
        (home.kind == Kind::Dir).then(|| home.version.to_string())
    }

    /// False for a stream that has been read from: it is gone.
    pub fn is_repeatable(&self) -> bool {
        match &self.origin {
            Origin::Stream(stream) => stream.lock().is_some(),
            Origin::Tree { .. } | Origin::Missing(_) => true,
        }
    }
}

/// What the user calls an entry of a source: its label, and the path beneath it.
pub(super) fn shown_in(sources: &[TransferSource], source: usize, path: &RemotePath) -> Vec<u8> {
    match sources.get(source) {
        Some(source) => shown(&source.label, source.beneath(path)),
        None => path.as_bytes().to_vec(),
    }
}

/// The store of a source that has one.
pub(super) fn store_of(sources: &[TransferSource], source: usize) -> Option<Arc<dyn Store>> {
    match &sources.get(source)?.origin {
        Origin::Tree { store, .. } => Some(store.clone()),
        Origin::Stream(_) | Origin::Missing(_) => None,
    }
}

/// True where `error` came from a file that is what it was, and yet has not as many bytes as its
/// size says.
pub(super) async fn is_missized(
    store: &dyn Store,
    path: &RemotePath,
    entry: &Entry,
    error: &StoreError,
) -> bool {
    let same = |now: Entry| now.version == entry.version;
    error.kind == ErrorKind::SourceChanged && store.stat(path).await.is_ok_and(same)
}
