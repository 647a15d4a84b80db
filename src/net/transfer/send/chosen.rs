//! Chosen paths of a source: the walk goes straight to them, and lists only what is beneath them.

use crate::net::transfer::send::levels::Listed;
use crate::net::wire::Malformed;
use crate::store::{
    DirPage, DirStream, Entry, ErrorKind, Kind, Name, RemotePath, Store, StoreError,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most bytes of the chosen paths of one source, with what is needed to find them.
const MAX_BYTES: usize = 64 << 20;
/// Most bytes of the chosen paths of a get: a server has them in memory.
pub const MAX_SENT_CHOSEN: usize = 64 << 10;
/// Most bytes that those take in memory.
const MAX_SENT_BYTES: usize = 4 << 20;
/// About what a name takes besides its bytes, and the first name in a directory.
const COST: usize = 96;
const FIRST_COST: usize = 768;

/// How much of a chosen directory is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Itself, and everything beneath it.
    Tree,
    /// Itself and what is directly in it.
    Contents,
    /// Itself.
    Entry,
}

/// The chosen paths of a source, beneath it.
#[derive(Debug, Default)]
pub struct Chosen {
    root: Node,
    bytes: usize,
}

/// A path, and those beneath it.
#[derive(Debug, Default)]
struct Node {
    /// It is chosen itself.
    chosen: Option<Scope>,
    names: BTreeMap<Vec<u8>, Node>,
}

impl Chosen {
    /// Adds a path.
    ///
    /// # Errors
    /// Where there is no room for it.
    pub fn add(&mut self, path: &RemotePath, scope: Scope) -> Result<(), TooMany> {
        let mut node = &mut self.root;
        for name in path.components() {
            let bytes = name.as_bytes();
            if !node.names.contains_key(bytes) {
                let cost = if node.names.is_empty() { FIRST_COST } else { COST };
                self.bytes = self.bytes.saturating_add(bytes.len()).saturating_add(cost);
            }
            node = node.names.entry(bytes.to_vec()).or_default();
        }
        // the widest counts
        match (node.chosen, scope) {
            (Some(Scope::Tree), _) | (Some(Scope::Contents), Scope::Entry) => {}
            _ => node.chosen = Some(scope),
        }
        match self.bytes {
            bytes if bytes > MAX_BYTES => Err(TooMany),
            _ => Ok(()),
        }
    }

    /// True where nothing is chosen.
    pub fn is_empty(&self) -> bool {
        self.root.chosen.is_none() && self.root.names.is_empty()
    }

    /// As they travel: paths, each ended by a NUL. A slash at the end of one leaves out what is
    /// beneath it, two leave out what is beneath its directories.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        for (path, scope) in self.paths() {
            wire.extend_from_slice(path.as_bytes());
            wire.extend_from_slice(match scope {
                Scope::Tree => b"\0",
                Scope::Contents => b"//\0",
                Scope::Entry => b"/\0",
            });
        }
        wire
    }

    /// As a peer sent them; `None` for none.
    ///
    /// # Errors
    /// [`Malformed`] for a path that is none, or too many.
    pub fn from_wire(wire: &[u8]) -> Result<Option<Chosen>, Malformed> {
        if wire.len() > MAX_SENT_CHOSEN {
            return Err(Malformed("there are too many chosen paths"));
        }
        let mut chosen = Chosen::default();
        for path in wire.split_inclusive(|byte| *byte == 0) {
            let path = path.strip_suffix(b"\0").ok_or(Malformed("a chosen path has no end"))?;
            let (path, scope) = match (path.strip_suffix(b"//"), path.strip_suffix(b"/")) {
                (Some(path), _) => (path, Scope::Contents),
                (None, Some(path)) => (path, Scope::Entry),
                (None, None) => (path, Scope::Tree),
            };
            let path = RemotePath::parse(path);
            let path = path.map_err(|_| Malformed("a chosen path is not allowed"))?;
            let added = chosen.add(&path, scope).is_ok();
            if !added || chosen.bytes > MAX_SENT_BYTES {
                return Err(Malformed("there are too many chosen paths"));
            }
        }
        Ok((!wire.is_empty()).then_some(chosen))
    }

    /// The same paths in parts, each of which a get can have.
    pub fn parts(&self) -> Vec<Chosen> {
        let (mut parts, mut part, mut bytes) = (Vec::new(), Chosen::default(), 0_usize);
        for (path, scope) in self.paths() {
            let more = path.as_bytes().len().saturating_add(3);
            if part.bytes > MAX_SENT_BYTES / 2 || bytes.saturating_add(more) > MAX_SENT_CHOSEN {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            bytes = bytes.saturating_add(more);
            // there was room for all of them together
            let _ = part.add(&path, scope);
        }
        if !part.is_empty() {
            parts.push(part);
        }
        parts
    }

    /// The paths, and how much of each; none beneath one that is sent whole.
    pub fn paths(&self) -> Vec<(RemotePath, Scope)> {
        let mut paths = Vec::new();
        let mut waiting = vec![(RemotePath::root(), &self.root)];
        while let Some((path, node)) = waiting.pop() {
            if let Some(scope) = node.chosen {
                paths.push((path.clone(), scope));
            }
            if node.chosen != Some(Scope::Tree) {
                let beneath = node.names.iter().rev();
                waiting.extend(beneath.filter_map(|(name, node)| {
                    let path = path.join(&Name::parse(name).ok()?).ok()?;
                    Some((path, node))
                }));
            }
        }
        paths
    }

    /// True of the source itself where only some of what is in it is sent: it is no more than the
    /// way to that.
    pub(super) fn is_way(&self) -> bool {
        self.leads_on(b"")
    }

    /// True of an entry that is chosen itself.
    pub(super) fn is_chosen(&self, beneath: &[u8]) -> bool {
        self.node(beneath).is_some_and(|node| node.chosen.is_some())
    }

    /// The names that are chosen beneath an entry, itself aside.
    fn names_beneath(&self, beneath: &[u8]) -> Vec<Vec<u8>> {
        let node = self.node(beneath);
        node.map_or(Vec::new(), |node| node.names.keys().cloned().collect())
    }

    fn node(&self, beneath: &[u8]) -> Option<&Node> {
        let mut names = beneath.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(&self.root, |node, name| node.names.get(name))
    }

    /// The names that are sent of a directory; `None`: all that it has.
    fn names_in(&self, beneath: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut node = &self.root;
        let names = beneath.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        for name in names {
            if node.chosen == Some(Scope::Tree) {
                return None;
            }
            // a directory of which no more than itself is sent
            let Some(next) = node.names.get(name) else {
                return Some(Vec::new());
            };
            node = next;
        }
        match node.chosen {
            Some(Scope::Tree | Scope::Contents) => None,
            _ => Some(node.names.keys().cloned().collect()),
        }
    }

    /// True of a directory that is only the way to what is chosen.
    pub(super) fn leads_on(&self, beneath: &[u8]) -> bool {
        let node = self.node(beneath);
        node.is_some_and(|node| node.chosen.is_none() && !node.names.is_empty())
    }
}

/// There are more chosen paths than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the paths have more than 64 MiB")]
pub struct TooMany;

/// Chosen paths that could not be found, until the walk reports them.
pub(super) type Missing = Arc<Mutex<Vec<(RemotePath, StoreError)>>>;

/// A source of which only some paths are sent.
#[derive(Clone, Copy)]
pub(super) struct ChosenSource<'a> {
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) top: &'a RemotePath,
    pub(super) chosen: &'a Arc<Chosen>,
    pub(super) missing: &'a Missing,
}

impl ChosenSource<'_> {
    /// True of a directory that is only the way to what is chosen.
    pub(super) fn is_way(&self, path: &RemotePath) -> bool {
        let beneath = path.beneath(self.top).unwrap_or_default();
        self.chosen.leads_on(beneath.as_bytes())
    }

    /// The first pages of directories, as [`Store::list_whole`] returns them.
    pub(super) async fn list(&self, paths: Vec<RemotePath>, limit: usize) -> Vec<Listed> {
        let Some(first) = paths.first() else {
            return Vec::new();
        };
        let names_of = |path: &RemotePath| {
            let beneath = path.beneath(self.top).unwrap_or_default();
            self.chosen.names_in(beneath.as_bytes())
        };
        // one after another where names are chosen, and together where all of them are
        match names_of(first) {
            Some(names) => {
                let stream = ChosenNames {
                    store: self.store.clone(),
                    top: self.top.clone(),
                    dir: first.clone(),
                    chosen: self.chosen.clone(),
                    names,
                    missing: self.missing.clone(),
                };
                vec![Box::new(stream).next_page(limit).await]
            }
            None => {
                let whole = paths.into_iter().take_while(|path| names_of(path).is_none());
                self.store.list_whole(whole.collect(), limit).await
            }
        }
    }
}

/// The chosen names of a directory that have not been listed.
struct ChosenNames {
    store: Arc<dyn Store>,
    top: RemotePath,
    dir: RemotePath,
    chosen: Arc<Chosen>,
    names: Vec<Vec<u8>>,
    missing: Missing,
}

impl ChosenNames {
    /// Takes an entry, unless it is only there for what is chosen beneath it, and is no directory.
    fn take(&self, path: RemotePath, entry: Entry, entries: &mut Vec<Entry>) {
        let beneath = path.beneath(&self.top).unwrap_or_default();
        let names = match entry.kind {
            Kind::Dir => Vec::new(),
            _ => self.chosen.names_beneath(beneath.as_bytes()),
        };
        let kind = match entry.kind {
            Kind::Symlink => ErrorKind::Symlink,
            _ => ErrorKind::NotADirectory,
        };
        let missing = names.iter().filter_map(|name| path.join(&Name::parse(name).ok()?).ok());
        let missing = missing.map(|path| (path.clone(), StoreError::new(kind.clone(), &path)));
        self.missing.lock().extend(missing);
        if names.is_empty() || self.chosen.is_chosen(beneath.as_bytes()) {
            entries.push(entry);
        }
    }
}

#[async_trait]
impl DirStream for ChosenNames {
    async fn next_page(mut self: Box<Self>, limit: usize) -> Result<DirPage, StoreError> {
        let rest = self.names.split_off(self.names.len().min(limit));
        let names = std::mem::replace(&mut self.names, rest);
        let paths = names.iter().map(|name| {
            let bad = |e| StoreError::new(ErrorKind::BadName(e), &self.dir);
            self.dir.join(&Name::parse(name).map_err(bad)?).map_err(bad)
        });
        let paths = paths.collect::<Result<Vec<_>, _>>()?;
        let found = self.store.stat_many(paths.clone()).await;
        let mut entries = Vec::with_capacity(found.len());
        for (path, found) in paths.into_iter().zip(found) {
            match found {
                Ok(entry) => self.take(path, entry, &mut entries),
                Err(e) => self.missing.lock().push((path, e)),
            }
        }
        Ok(DirPage {
            entries,
            sized: false,
            rest: (!self.names.is_empty()).then_some(self as Box<dyn DirStream>),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[(&str, Scope)]) -> Chosen {
        let mut chosen = Chosen::default();
        for (path, scope) in paths {
            chosen.add(&RemotePath::parse(path.as_bytes()).unwrap(), *scope).unwrap();
        }
        chosen
    }

    #[test]
    fn the_way_leads_to_what_is_chosen_and_to_nothing_else() {
        let chosen = chosen(&[("a/b", Scope::Tree), ("a/c", Scope::Entry), ("d", Scope::Tree)]);
        let names = |dir: &str| {
            let names = chosen.names_in(dir.as_bytes())?;
            Some(names.into_iter().map(|n| String::from_utf8(n).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(names("").unwrap(), ["a", "d"]);
        assert_eq!(names("a").unwrap(), ["b", "c"]);
        assert_eq!(names("a/b"), None, "all of it");
        assert_eq!(names("a/b/x/y"), None);
        assert!(names("a/c").unwrap().is_empty(), "nothing of it");
        assert!(chosen.is_way() && chosen.leads_on(b"a") && !chosen.leads_on(b"a/c"));
        assert!(chosen.is_chosen(b"a/b") && !chosen.is_chosen(b"a") && !chosen.is_chosen(b"x"));
    }

    #[test]
    fn the_contents_of_a_directory_are_no_more_than_what_is_directly_in_it() {
        let chosen = chosen(&[("a", Scope::Contents), ("a/b/c", Scope::Entry)]);
        assert_eq!(chosen.names_in(b"a"), None, "all of it");
        assert_eq!(chosen.names_in(b"a/x"), Some(Vec::new()));
        assert_eq!(chosen.names_in(b"a/b"), Some(vec![b"c".to_vec()]));
        assert_eq!(chosen.names_in(b"a/b/c"), Some(Vec::new()));
    }

    #[test]
    fn they_travel_as_they_are_and_nonsense_is_refused() {
        let sent = chosen(&[
            ("a/b", Scope::Tree),
            ("a/b/c", Scope::Entry),
            ("e", Scope::Entry),
            ("f", Scope::Contents),
        ]);
        let wire = sent.to_wire();
        assert_eq!(wire, b"a/b\0e/\0f//\0");
        assert_eq!(Chosen::from_wire(&wire).unwrap().unwrap().paths(), sent.paths());
        assert!(Chosen::from_wire(b"").unwrap().is_none());
        for bad in [&b"a"[..], b"../a\0", b"a//b\0", b"/a\0"] {
            assert!(Chosen::from_wire(bad).is_err(), "{bad:?}");
        }
        let root = chosen(&[("", Scope::Tree)]);
        assert!(!root.is_way());
        assert_eq!(Chosen::from_wire(&root.to_wire()).unwrap().unwrap().paths(), root.paths());
    }
}
