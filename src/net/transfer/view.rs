//! What a sender sees of its sources: the symlinks that it follows, the file systems that it
//! enters, and the files of patterns that it obeys.

use crate::net::transfer::filter::ignore_files::Ignored;
use crate::net::wire::entry::{kind_from_wire, kind_to_wire};
use crate::net::wire::measure::MAX_IGNORE_FILES;
use crate::net::wire::{Malformed, proto};
use crate::store::{
    Entry, ErrorKind, FollowedLinks, Kind, Name, Page, RemotePath, Store, StoreError, StoreExt,
};
use std::collections::HashMap;
use std::sync::Arc;

/// Directories that are remembered while the entries of many are asked for, and the bytes of their
/// ignore files, which take some hundred times as much in memory.
const REMEMBERED: usize = 1024;
const REMEMBERED_BYTES: usize = 64 << 10;

/// What a sender sees of its sources. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Which symlinks are replaced by what they lead to.
    pub links: FollowedLinks,
    /// Directories in which another file system begins are empty.
    pub one_file_system: bool,
    /// The names of files with patterns that exclude entries beside and beneath them.
    pub ignore_files: Arc<[Name]>,
}

/// What a source has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// An entry of this kind.
    Kind(Kind),
    /// A directory in which another file system begins.
    Mount,
    /// An ignore file excludes it, whether it is there or not.
    Ignored,
}

/// [`Seen::Mount`], as it travels.
const MOUNT: u8 = 254;
/// [`Seen::Ignored`], as it travels.
const IGNORED: u8 = 255;

impl Seen {
    /// As it travels: the number of a kind, or one of its own.
    pub fn to_wire(self) -> u8 {
        match self {
            Seen::Nothing => 0,
            Seen::Kind(kind) => u8::try_from(kind_to_wire(kind)).unwrap_or_default(),
            Seen::Mount => MOUNT,
            Seen::Ignored => IGNORED,
        }
    }

    /// As a peer sent it.
    pub fn from_wire(byte: u8) -> Seen {
        match byte {
            0 => Seen::Nothing,
            MOUNT => Seen::Mount,
            IGNORED => Seen::Ignored,
            kind => Seen::Kind(kind_from_wire(i32::from(kind))),
        }
    }
}

impl View {
    /// As it travels; `None` for a view of everything as it is.
    pub fn to_wire(&self) -> Option<proto::View> {
        let view = proto::View {
            links: match self.links {
                FollowedLinks::None => proto::FollowedLinks::None,
                FollowedLinks::Dirs => proto::FollowedLinks::Dirs,
                FollowedLinks::All => proto::FollowedLinks::All,
            }
            .into(),
            one_file_system: self.one_file_system,
            ignore_files: self.ignore_files.iter().map(|name| name.as_bytes().to_vec()).collect(),
        };
        (view != proto::View::default()).then_some(view)
    }

    /// As a peer sent it.
    ///
    /// # Errors
    /// [`Malformed`] for a name that is none, or too many.
    pub fn from_wire(view: Option<&proto::View>) -> Result<View, Malformed> {
        let Some(view) = view else {
            return Ok(View::default());
        };
        if view.ignore_files.len() > MAX_IGNORE_FILES {
            return Err(Malformed("there are more than 8 names of ignore files"));
        }
        let names = view.ignore_files.iter().map(|name| Name::parse(name));
        let names = names.collect::<Result<Vec<_>, _>>();
        Ok(View {
            links: match view.links() {
                proto::FollowedLinks::None => FollowedLinks::None,
                proto::FollowedLinks::Dirs => FollowedLinks::Dirs,
                proto::FollowedLinks::All => FollowedLinks::All,
            },
            one_file_system: view.one_file_system,
            ignore_files: names
                .map_err(|_| Malformed("the name of an ignore file is not allowed"))?
                .into(),
        })
    }

    /// The device of the file system that a walk from `top` on does not leave.
    pub fn device_of(&self, top: &Entry) -> Option<u64> {
        top.file_system().filter(|_| self.one_file_system)
    }

    /// Pages of directories, as [`StoreExt::list_many`] returns them, without those directories in
    /// which another file system begins if the view does not enter them.
    pub async fn list(
        &self,
        store: &dyn Store,
        dirs: &[(RemotePath, Vec<u8>)],
        limit: usize,
    ) -> Vec<Result<Page, StoreError>> {
        let mut pages = store.list_many(dirs, limit).await;
        if !self.one_file_system {
            return pages;
        }
        let paths = dirs.iter().map(|(path, _)| path.clone()).take(pages.len());
        let devices = store.stat_many(paths.collect()).await;
        for (page, dir) in pages.iter_mut().zip(devices) {
            let device = dir.ok().and_then(|dir| dir.file_system());
            let is_here = |entry: &Entry| entry.kind != Kind::Dir || entry.file_system() == device;
            if let Ok(page) = page {
                page.entries.retain(is_here);
            }
        }
        pages
    }

    /// What a source has at each path beneath its directory `root`, where its ignore files begin.
    /// `top` is the directory beneath it whose file system the view does not leave.
    ///
    /// # Errors
    /// The first that says neither what is there nor that nothing is.
    pub async fn see(
        &self,
        store: &dyn Store,
        (root, top): (&RemotePath, &RemotePath),
        paths: &[RemotePath],
    ) -> Result<Vec<Seen>, StoreError> {
        let device = match self.one_file_system {
            true => self.device_of(&store.stat(top).await?),
            false => None,
        };
        let mut ignored = IgnoredDirs::new(self, store, root);
        let found = store.stat_many(paths.to_vec()).await;
        let mut seen = Vec::with_capacity(paths.len());
        for (path, found) in paths.iter().zip(found) {
            let found = match found {
                Ok(entry) => Some(entry),
                Err(e) if e.kind == ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            };
            let is_other = |entry: &Entry| device.is_some() && entry.file_system() != device;
            seen.push(match found {
                // it may have been either
                None if ignored.excludes(path, true).await? => Seen::Ignored,
                None if ignored.excludes(path, false).await? => Seen::Ignored,
                None => Seen::Nothing,
                Some(entry) if ignored.excludes(path, entry.kind == Kind::Dir).await? => {
                    Seen::Ignored
                }
                Some(entry) if entry.kind == Kind::Dir && is_other(&entry) => Seen::Mount,
                Some(entry) => Seen::Kind(entry.kind),
            });
        }
        Ok(seen)
    }
}

/// The ignore files of directories beneath the top of a source.
struct IgnoredDirs<'a> {
    view: &'a View,
    store: &'a dyn Store,
    root: &'a RemotePath,
    known: HashMap<RemotePath, Ignored>,
    /// Bytes of the ignore files of those.
    bytes: usize,
}

impl<'a> IgnoredDirs<'a> {
    fn new(view: &'a View, store: &'a dyn Store, root: &'a RemotePath) -> IgnoredDirs<'a> {
        IgnoredDirs {
            view,
            store,
            root,
            known: HashMap::new(),
            bytes: 0,
        }
    }

    /// True where an ignore file excludes the entry. Whether one excludes a directory above it is
    /// not asked: a search that comes from above does not go there.
    async fn excludes(&mut self, path: &RemotePath, is_dir: bool) -> Result<bool, StoreError> {
        if self.view.ignore_files.is_empty() {
            return Ok(false);
        }
        let Some((parent, _)) = path.split() else {
            return Ok(false);
        };
        let mut dir = self.root.clone();
        let mut ignored = self.enter(&dir, &Ignored::none()).await?;
        for name in parent.beneath(self.root).unwrap_or_default().components() {
            dir = dir.join(&name).map_err(|e| StoreError::new(ErrorKind::BadName(e), path))?;
            ignored = self.enter(&dir, &ignored).await?;
        }
        Ok(ignored.excludes(path, is_dir).is_some())
    }

    async fn enter(&mut self, dir: &RemotePath, above: &Ignored) -> Result<Ignored, StoreError> {
        if let Some(known) = self.known.get(dir) {
            return Ok(known.clone());
        }
        let entered = above.enter(self.store, dir, &self.view.ignore_files).await;
        let entered = match entered {
            // one that is not at the source has none
            Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                above.clone()
            }
            other => other?,
        };
        self.bytes = self.bytes.saturating_add(entered.bytes().saturating_sub(above.bytes()));
        if self.known.len() >= REMEMBERED || self.bytes > REMEMBERED_BYTES {
            self.known.clear();
            self.bytes = 0;
        }
        self.known.insert(dir.clone(), entered.clone());
        Ok(entered)
    }
}
