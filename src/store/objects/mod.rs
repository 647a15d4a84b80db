//! The store that is a bucket of an object store such as S3, or a part of one.
//!
//! Several servers may serve the same bucket; none of them has any state of its own. `keys` and
//! `record` are the layout, which `docs/STORE.md` specifies. `requests` sends requests to the
//! `engine` until their outcome is known. `entries` finds and writes entries under conditions.
//! `small` and `stage` write files; `writing`, `lock`, `lease` and `upload` are what a larger one
//! needs meanwhile. `listing` and `index` list, `source` reads; `dirs`, `remove`, `rename` and
//! `attributes` do what they say. `probe` checks an engine, and `sweep` removes what nothing refers
//! to.

mod attributes;
mod background;
mod clock;
mod dirs;
pub mod engine;
mod entries;
mod index;
mod keys;
mod lease;
mod listing;
mod lock;
mod lock_record;
mod outcome;
mod own;
mod probe;
mod record;
mod remove;
mod rename;
mod requests;
mod retry;
mod served;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod simulation;
mod small;
mod source;
mod stage;
mod sweep;
mod upload;
mod view;
mod writing;

use super::{
    Attributes, Change, DirPage, Durability, Entry, ErrorKind, ExistingDirs, FileSource, LockEntry,
    LockPage, Name, NewEntry, Omissions, Page, RemotePath, Removal, RemoveScope, Rights, Space,
    StageRequest, Staging, Store, StoreError, UnlockMode, WholeFile, Xattr, XattrSets,
};
use async_trait::async_trait;
use engine::Engine;
use entries::{Entries, Seen, visible};
use futures_util::{StreamExt, stream};
use index::Indexes;
use keys::Keys;
use lease::Lease;
use lock::Live;
pub use probe::{Unusable, probe};
use rename::InTheWay;
pub use requests::Random;
use requests::Requests;
pub use served::ServedObjects;
use std::sync::Arc;
use std::time::Duration;
pub use upload::LEAST_WINDOW;
use view::{Links, Shared, View};

/// How long a lock counts after its last renewal: longer than an engine whose node dies takes to
/// answer.
pub const LEASE: Duration = Duration::from_secs(60);
/// Directories whose first pages are listed at once.
const LISTED: usize = 16;

/// The settings of a store of objects.
#[derive(Clone)]
pub struct Settings {
    /// What all keys begin with.
    pub prefix: String,
    /// How long a lock counts after its last renewal.
    pub lease: Duration,
    /// Where random numbers come from.
    pub random: Random,
}

impl Settings {
    /// The usual settings beneath a prefix.
    pub fn new(prefix: &str) -> Settings {
        Settings {
            prefix: prefix.to_string(),
            lease: LEASE,
            random: Arc::new(random),
        }
    }
}

/// A number that cannot be guessed.
fn random() -> u64 {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 8];
    // without the system's random numbers there is no TLS either, and no session
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => std::process::abort(),
    }
}

/// A bucket, or a part of one, as a [`Store`]. Cheap to clone.
#[derive(Clone)]
pub struct ObjectStore(View);

impl ObjectStore {
    /// Opens a store on an engine that was probed.
    pub fn open(engine: Arc<dyn Engine>, settings: Settings) -> ObjectStore {
        let requests = Requests::new(engine, settings.random);
        ObjectStore(View {
            entries: Entries {
                requests,
                keys: Keys::new(&settings.prefix),
                seen: Arc::default(),
            },
            base: RemotePath::root(),
            links: Links::Followed,
            shared: Arc::new(Shared {
                indexes: Indexes::default(),
                lease: Lease::new(settings.lease),
                blocks: source::block_memory(),
            }),
            closed: Arc::default(),
            omissions: super::metadata::OmissionCounter::default(),
        })
    }

    /// The store beneath a directory of the whole store, for one transfer.
    fn strict(&self, base: RemotePath) -> ObjectStore {
        let mut view = self.0.clone();
        view.base = base;
        view.links = Links::Refused;
        view.entries.seen = Arc::new(Seen::default());
        view.omissions = super::metadata::OmissionCounter::default();
        ObjectStore(view)
    }

    /// What a call of requests sees: nothing that was seen earlier.
    fn fresh(&self) -> View {
        let mut view = self.0.clone();
        if view.links == Links::Followed {
            view.entries.seen = Arc::new(Seen::default());
        }
        view
    }
}

#[async_trait]
impl Store for ObjectStore {
    async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        self.fresh().resolve(path).await
    }

    async fn subtree(&self, path: &RemotePath) -> Result<Arc<dyn Store>, StoreError> {
        let base = self.fresh().dir(path).await?;
        Ok(Arc::new(self.strict(base)))
    }

    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>> {
        listing::stat_many(&self.fresh(), paths).await
    }

    async fn list(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<Page, StoreError> {
        let view = self.fresh();
        let dir = view.dir(path).await?;
        listing::page(&view, &dir, cookie, limit).await.map_err(|e| e.about(path))
    }

    async fn list_whole(
        &self,
        paths: Vec<RemotePath>,
        limit: usize,
    ) -> Vec<Result<DirPage, StoreError>> {
        let first = |path: RemotePath| async move {
            let view = self.fresh();
            let dir = view.dir(&path).await?;
            listing::dir_page(view, (dir, path), &[], limit).await
        };
        let mut listed = stream::iter(paths.into_iter().map(first)).buffered(LISTED);
        let (mut pages, mut count) = (Vec::new(), 0_usize);
        while let Some(page) = listed.next().await {
            count = count.saturating_add(page.as_ref().map_or(0, |page| page.entries.len()));
            pages.push(page);
            if count >= limit {
                break;
            }
        }
        pages
    }

    async fn make_dir(&self, path: &RemotePath) -> Result<(), StoreError> {
        dirs::make_dir(&self.fresh(), path).await
    }

    async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        existing: ExistingDirs,
    ) -> Vec<Result<bool, StoreError>> {
        dirs::make_dirs(&self.fresh(), dirs, existing).await
    }

    async fn remove(&self, path: &RemotePath, scope: RemoveScope) -> Result<(), StoreError> {
        remove::remove(&self.fresh(), path, scope).await
    }

    async fn remove_many(&self, entries: Vec<Removal>) -> Vec<Result<(), StoreError>> {
        remove::remove_many(&self.fresh(), entries).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
        rename::rename(&self.fresh(), from, to, InTheWay::Replaced).await
    }

    async fn rename_new(&self, from: &RemotePath, to: &RemotePath) -> Result<(), StoreError> {
        rename::rename(&self.fresh(), from, to, InTheWay::Respected).await
    }

    async fn change(&self, path: &RemotePath, change: Change) -> Result<(), StoreError> {
        attributes::change(&self.fresh(), path, change).await
    }

    async fn space(&self, _path: &RemotePath) -> Result<Option<Space>, StoreError> {
        Ok(None)
    }

    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn FileSource>, StoreError> {
        Ok(Arc::new(source::open(&self.fresh(), path).await?))
    }

    async fn read_whole(
        &self,
        paths: Vec<RemotePath>,
        most: usize,
    ) -> Vec<Result<WholeFile, StoreError>> {
        source::read_whole(&self.fresh(), paths, most).await
    }

    async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        _who: &str,
        _durability: Durability,
    ) -> Vec<Result<String, StoreError>> {
        small::put_whole(&self.fresh(), entries).await
    }

    async fn stage(
        &self,
        path: &RemotePath,
        request: &StageRequest,
    ) -> Result<Box<dyn Staging>, StoreError> {
        Ok(Box::new(stage::stage(&self.fresh(), path, request).await?))
    }

    async fn xattrs(&self, path: &RemotePath, sets: XattrSets) -> Result<Vec<Xattr>, StoreError> {
        let place = self.fresh().find(path).await?;
        let record = visible(&place).ok_or_else(|| StoreError::new(ErrorKind::NotFound, path))?;
        let mut xattrs = record.xattrs();
        xattrs.retain(|xattr| sets.contains(&xattr.name, true));
        Ok(xattrs)
    }

    fn rights(&self) -> Rights {
        // owners, devices and the like are part of an entry's record
        Rights::Recorded
    }

    fn omissions(&self) -> Omissions {
        self.0.omissions.get()
    }

    fn omit(&self, omitted: &Omissions) {
        self.0.omissions.count(omitted);
    }

    async fn set_attributes(
        &self,
        entries: Vec<(RemotePath, Attributes)>,
    ) -> Vec<Result<(), StoreError>> {
        let view = &self.fresh();
        let set = |(path, attributes): (RemotePath, Attributes)| async move {
            attributes::set_attributes(view, &path, &attributes).await
        };
        view.each(entries, set).await
    }

    async fn locks(
        &self,
        path: &RemotePath,
        cookie: &[u8],
        limit: usize,
    ) -> Result<LockPage, StoreError> {
        let view = self.fresh();
        let dir = view.dir(path).await?;
        let bad = |why| StoreError::new(ErrorKind::BadName(why), path);
        let after = match cookie {
            [] => None,
            name => Some(Name::parse(name).map_err(bad)?),
        };
        let listed = lock::list(&view, &dir, after.as_ref(), limit).await;
        let (shown, more) = listed.map_err(|e| e.about(path))?;
        let last = shown.last().map(|lock| lock.name.as_bytes().to_vec());
        let entry = |lock: lock::Shown| LockEntry {
            target: lock.name.as_bytes().to_vec(),
            holder: lock.record.holder(),
            live: lock.live,
        };
        Ok(LockPage {
            entries: shown.into_iter().map(entry).collect(),
            next: last.filter(|_| more),
        })
    }

    async fn unlock(&self, path: &RemotePath, mode: UnlockMode) -> Result<bool, StoreError> {
        let live = match mode {
            UnlockMode::Abandoned => Live::Respected,
            UnlockMode::Force => Live::Forced,
        };
        remove::unlock(&self.fresh(), path, live).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        // what is acknowledged is as durable as the engine makes it; indexes are a cache
        let view = &self.0;
        view.shared.indexes.write_all(&view.entries, &view.base).await;
        Ok(())
    }
}
