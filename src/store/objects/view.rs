//! What a user or a transfer sees of the entries: those beneath a directory, with or without
//! symlinks followed.

use super::entries::{Entries, Place, Written, visible};
use super::index::Indexes;
use super::lease::Lease;
use super::record::{Record, RecordKind};
use crate::store::entry::{Attributes, Entry, Time, Version};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::kind::Kind;
use crate::store::metadata::OmissionCounter;
use crate::store::path::RemotePath;
use crate::store::shares::Shares;
use crate::store::staging::Bytes;
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most symlinks on one way, as in Linux.
const MAX_LINKS: usize = 40;
/// Requests of one call at once.
pub const AT_ONCE: usize = 64;

/// What becomes of symlinks on the way to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Those that stay beneath the root are followed.
    Followed,
    /// They are no way.
    Refused,
}

/// In which order directories are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepthOrder {
    /// A directory before what is in it.
    OuterFirst,
    /// What is in a directory before it.
    InnerFirst,
}

/// What all views of a store share.
pub struct Shared {
    /// The indexes of directories that were read.
    pub indexes: Indexes,
    /// How long locks count.
    pub lease: Lease,
    /// The memory for what is read ahead.
    pub blocks: Arc<Shares>,
}

/// The entries beneath a directory. Cheap to clone.
#[derive(Clone)]
pub struct View {
    /// All entries.
    pub entries: Entries,
    /// The directory, in the whole store.
    pub base: RemotePath,
    /// What becomes of symlinks.
    pub links: Links,
    /// What all views share.
    pub shared: Arc<Shared>,
    /// True once nothing may be written any more.
    pub closed: Arc<AtomicBool>,
    /// What could not be set.
    pub omissions: OmissionCounter,
}

impl View {
    /// The path in the whole store.
    ///
    /// # Errors
    /// If it is too long.
    pub fn absolute(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        let whole = self.base.append(path);
        whole.map_err(|why| StoreError::new(ErrorKind::BadName(why), path))
    }

    /// Checks that this view may still write.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`].
    pub fn check_open(&self, path: &RemotePath) -> Result<(), StoreError> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(StoreError::new(ErrorKind::Denied, path)),
            false => Ok(()),
        }
    }

    /// What is at a path; no symlink is followed.
    ///
    /// # Errors
    /// The engine's.
    pub async fn find(&self, path: &RemotePath) -> Result<Place, StoreError> {
        let found = self.entries.find(&self.absolute(path)?).await;
        found.map_err(|e| e.about(path))
    }

    /// Describes the root of the view, which may have no object.
    async fn root(&self) -> Result<Entry, StoreError> {
        let here = RemotePath::root();
        if self.base.is_root() {
            return Ok(whole_root());
        }
        let found = self.find(&here).await?;
        let entry = visible(&found).and_then(|record| record.entry(None));
        entry.ok_or_else(|| StoreError::new(ErrorKind::NotFound, &here))
    }

    /// Describes an entry, at the end of whose path no symlink is followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and the engine's.
    pub async fn stat(&self, path: &RemotePath) -> Result<Entry, StoreError> {
        let Some((_, name)) = path.split() else {
            return self.root().await;
        };
        let missing = || StoreError::new(ErrorKind::NotFound, path);
        let found = self.find(path).await?;
        let found = match (visible(&found), self.links) {
            (None, Links::Followed) => {
                let real = self.resolve_parent(path).await?;
                if real == *path {
                    return Err(missing());
                }
                self.find(&real).await?
            }
            _ => found,
        };
        let entry = visible(&found).and_then(|record| record.entry(Some(name)));
        entry.ok_or_else(missing)
    }

    /// The path without symlinks in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NotADirectory`], or [`ErrorKind::Symlink`] for one
    /// that leads outside the root or to itself.
    pub async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        // most paths have no symlink in them: what is at a key can only be beneath directories
        if path.is_root() {
            return self.root().await.map(|_| path.clone());
        }
        if visible(&self.find(path).await?).is_some_and(|r| r.kind != RecordKind::Symlink) {
            return Ok(path.clone());
        }
        let outside = || StoreError::new(ErrorKind::Symlink, path);
        let mut waiting: VecDeque<Vec<u8>> =
            path.components().map(|name| name.as_bytes().to_vec()).collect();
        let (mut real, mut links) = (RemotePath::root(), 0_usize);
        while let Some(part) = waiting.pop_front() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    real = real.split().map(|(parent, _)| parent).ok_or_else(outside)?;
                    continue;
                }
                _ => {}
            }
            let step = RemotePath::parse(&part).and_then(|name| real.append(&name));
            let step = step.map_err(|why| StoreError::new(ErrorKind::BadName(why), path))?;
            let found = self.find(&step).await?;
            let missing = || StoreError::new(ErrorKind::NotFound, path);
            let record = visible(&found).ok_or_else(missing)?;
            match (record.kind, record.symlink_target()) {
                (RecordKind::Symlink, Some(target)) => {
                    links = links.saturating_add(1);
                    if links > MAX_LINKS || target.starts_with(b"/") {
                        return Err(outside());
                    }
                    for part in target.rsplit(|byte| *byte == b'/') {
                        waiting.push_front(part.to_vec());
                    }
                }
                (RecordKind::Dir, _) => real = step,
                _ if waiting.is_empty() => real = step,
                _ => return Err(StoreError::new(ErrorKind::NotADirectory, path)),
            }
        }
        Ok(real)
    }

    /// The path with symlinks followed above its last name.
    ///
    /// # Errors
    /// As [`View::resolve`].
    pub async fn resolve_parent(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        let Some((parent, name)) = path.split() else {
            return Ok(path.clone());
        };
        let parent = match self.links {
            Links::Followed => self.resolve(&parent).await.map_err(|e| e.about(path))?,
            Links::Refused => parent,
        };
        let whole = parent.join(&name);
        whole.map_err(|why| StoreError::new(ErrorKind::BadName(why), path))
    }

    /// Where an entry is to be written, in the whole store: its directory exists.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NotADirectory`] or [`ErrorKind::Symlink`] if the
    /// directory does not.
    pub async fn target(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        let real = self.resolve_parent(path).await?;
        let whole = self.absolute(&real)?;
        if let Some((parent, _)) = whole.split() {
            self.check_dir(&parent).await.map_err(|e| e.about(path))?;
        }
        Ok(whole)
    }

    /// Checks that a path of the whole store is a directory.
    ///
    /// # Errors
    /// As [`View::target`].
    pub async fn check_dir(&self, whole: &RemotePath) -> Result<(), StoreError> {
        if whole.is_root() {
            return Ok(());
        }
        let is_dir = |place: &Place| kind_at(place) == Some(RecordKind::Dir);
        let mut place = self.entries.recall(whole).await?;
        if !is_dir(&place) {
            place = self.entries.find(whole).await?;
        }
        match kind_at(&place) {
            Some(RecordKind::Dir) => Ok(()),
            None => Err(StoreError::new(ErrorKind::NotFound, whole)),
            Some(RecordKind::Symlink) => Err(StoreError::new(ErrorKind::Symlink, whole)),
            Some(_) => Err(StoreError::new(ErrorKind::NotADirectory, whole)),
        }
    }

    /// The path of a directory in the whole store, which is one.
    ///
    /// # Errors
    /// As [`View::target`].
    pub async fn dir(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        let real = match self.links {
            Links::Followed => self.resolve(path).await?,
            Links::Refused => path.clone(),
        };
        let whole = self.absolute(&real)?;
        self.check_dir(&whole).await.map_err(|e| e.about(path))?;
        Ok(whole)
    }

    /// Does the same for many, several at once, and returns the results in order.
    pub async fn each<T, R, F>(&self, all: Vec<T>, work: impl Fn(T) -> F) -> Vec<R>
    where
        F: Future<Output = R>,
    {
        stream::iter(all.into_iter().map(work)).buffered(AT_ONCE).collect().await
    }

    /// Does the same for many paths, those of one depth at once, and returns the results in order.
    pub async fn each_by_depth<T, R, F>(
        &self,
        all: Vec<T>,
        order: DepthOrder,
        path: impl Fn(&T) -> &RemotePath,
        work: impl Fn(T) -> F,
    ) -> Vec<R>
    where
        F: Future<Output = R>,
    {
        let mut by_depth: BTreeMap<usize, Vec<(usize, T)>> = BTreeMap::new();
        for (index, one) in all.into_iter().enumerate() {
            let depth = path(&one).components().count();
            by_depth.entry(depth).or_default().push((index, one));
        }
        let mut groups: Vec<_> = by_depth.into_values().collect();
        if order == DepthOrder::InnerFirst {
            groups.reverse();
        }
        let mut results = Vec::new();
        for group in groups {
            let work = |(index, one)| {
                let work = work(one);
                async move { (index, work.await) }
            };
            results.extend(self.each(group, work).await);
        }
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Writes an entry at a path of the whole store if its place is still as `expected`, while this
    /// view may write; the entry will be in an index.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], and the engine's, about `path`.
    pub async fn write(
        &self,
        (path, whole): (&RemotePath, &RemotePath),
        record: Record,
        content: Option<Bytes>,
        expected: &Place,
    ) -> Result<Written, StoreError> {
        self.check_open(path)?;
        let written = self.entries.write(whole, record, content, expected).await;
        let written = written.map_err(|e| e.about(path))?;
        if let (Written::Done(found), Some((dir, name))) = (&written, whole.split()) {
            self.shared.indexes.note(&dir, &name, found);
        }
        Ok(written)
    }

    /// A version for an entry that is written now.
    pub fn new_version(&self) -> String {
        self.entries.requests.nonce()
    }

    /// A record of a new entry, or of one that replaces what is at its place.
    pub fn new_record(&self, kind: RecordKind, place: &Place, attributes: &Attributes) -> Record {
        let mut record = Record::new(kind, self.new_version());
        record.epoch = place.as_ref().map_or(0, |found| found.record.epoch);
        record.set(attributes);
        record
    }
}

/// The kind of the entry that users see at a place.
pub fn kind_at(place: &Place) -> Option<RecordKind> {
    visible(place).map(|record| record.kind)
}

/// The root of the whole store, which has no object.
fn whole_root() -> Entry {
    Entry {
        name: None,
        kind: Kind::Dir,
        size: 0,
        attributes: Attributes {
            mtime: Time::default(),
            mode: 0o755,
            ..Attributes::default()
        },
        target: None,
        version: Version::Text("root".into()),
        owner: None,
        device: 0,
        links: 1,
    }
}
