//! Entries of a partial directory: each is made under its own name.

use super::super::attributes::set_open;
use super::super::commit::committed_version;
use super::super::inode::version;
use super::super::new_entry::{make_beside, write_content};
use super::super::sys::{Directory, Node, WARY, remove_file};
use super::super::tree::Tree;
use super::stage::{INCOMPLETE, is_incomplete};
use super::state::{PartialDir, State};
use crate::store::error::At;
use crate::store::{Content, Durability, ErrorKind, Name, NewEntry, RemotePath, StoreError};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::sync::Arc;

/// An entry that is not complete.
struct Begun<'a, D: Directory> {
    entry: &'a NewEntry,
    /// Its directory and its name there, if that could be opened.
    place: Option<(Arc<D>, Name)>,
    /// Of a file: that, open, and its stat once its content was written.
    made: Result<Option<(D::File, Stat)>, StoreError>,
}

/// Puts entries into the partial directory that they are in: one result for each, by order. `None`
/// if that has its name by now, and they are to be put like any others.
///
/// A file is not complete before its content is durable, if it is to be; its name, time and mode
/// are durable once [`super::publish::complete`] has been called.
pub(in super::super) fn put<D: Directory>(
    tree: &Tree<D>,
    partial: &PartialDir<D>,
    entries: &[&NewEntry],
    durability: Durability,
) -> Option<Vec<Result<String, StoreError>>> {
    // it does not get its name meanwhile
    let state = partial.state.read();
    if *state == State::Published {
        return None;
    }
    // what is synced together is open at once; the rest is closed while it is in the cache
    let at_once = match durability {
        Durability::Durable => entries.len().max(1),
        Durability::Volatile => 1,
    };
    let (mut results, mut failed) = (Vec::with_capacity(entries.len()), Vec::new());
    for group in entries.chunks(at_once) {
        let mut begun: Vec<_> = group.iter().map(|entry| Begun::new(tree, entry)).collect();
        if durability.is_durable() {
            sync_content(tree, &mut begun);
        }
        for begun in begun {
            let result = begun.finish(tree);
            if result.is_err() {
                failed.extend(begun.place);
            }
            results.push(result);
        }
    }
    drop(state);
    for (dir, name) in failed {
        if !matches!(remove_file(&*dir, name.as_bytes()), Ok(()) | Err(Errno::ISDIR)) {
            partial.spoil();
        }
    }
    partial.wrote(size_of(entries));
    Some(results)
}

impl<'a, D: Directory> Begun<'a, D> {
    /// Makes an entry; of a file, with its content.
    fn new(tree: &Tree<D>, entry: &'a NewEntry) -> Begun<'a, D> {
        let (place, made) = match tree.parent(&entry.path) {
            Ok((dir, name)) => {
                let made = make(tree, (&dir, &name), entry);
                (Some((dir, name)), made)
            }
            Err(e) => (None, Err(e)),
        };
        Begun { entry, place, made }
    }

    /// Gives an entry its attributes, and with its mode a file is complete; returns its version.
    fn finish(&self, tree: &Tree<D>) -> Result<String, StoreError> {
        let path = &self.entry.path;
        match (&self.made, &self.place) {
            (Ok(Some((file, found))), _) => {
                set_open(tree, file, found, (&self.entry.attributes, |mode| mode), path)?;
                committed_version(file, path)
            }
            (Ok(None), Some((dir, name))) => {
                let placed = dir.stat_at(name.as_bytes()).at("stat", path)?;
                Ok(version(&placed).to_string())
            }
            (Ok(None), None) => Err(StoreError::new(ErrorKind::NotFound, path)),
            (Err(e), _) => Err(e.clone()),
        }
    }
}

/// Makes an entry; returns a file, open, with its stat.
fn make<D: Directory>(
    tree: &Tree<D>,
    (dir, name): (&D, &Name),
    entry: &NewEntry,
) -> Result<Option<(D::File, Stat)>, StoreError> {
    let path = &entry.path;
    let Content::File(bytes) = &entry.content else {
        return make_beside(tree, dir, name.as_bytes(), entry).map(|()| None);
    };
    let file = create(dir, name, path)?;
    write_content(&file, (**bytes).as_ref(), entry)?;
    let mut found = file.fstat().at("stat", path)?;
    if !is_incomplete(&found) {
        // the umask, or the directory's ACL, takes bits of its owner's
        file.fchmod(INCOMPLETE).at("set the mode", path)?;
        found = file.fstat().at("stat", path)?;
    }
    match is_incomplete(&found) {
        true => Ok(Some((file, found))),
        false => Err(Errno::OPNOTSUPP).at("mark the incomplete file", path),
    }
}

/// Makes a file that is not complete; the one of an earlier transfer goes.
fn create<D: Directory>(dir: &D, name: &Name, path: &RemotePath) -> Result<D::File, StoreError> {
    let create = || dir.create_at(name.as_bytes(), WARY | OFlags::WRONLY, INCOMPLETE);
    match create() {
        Err(Errno::EXIST) => {
            let found = dir.stat_at(name.as_bytes()).at("stat", path)?;
            if FileType::from_raw_mode(found.st_mode).is_dir() {
                return Err(StoreError::new(ErrorKind::IsADirectory, path));
            }
            remove_file(dir, name.as_bytes()).at("replace", path)?;
            create().at("create", path)
        }
        created => created.at("create", path),
    }
}

/// Makes the content of files durable; one that is not fails.
fn sync_content<D: Directory>(tree: &Tree<D>, begun: &mut [Begun<'_, D>]) {
    let files: Vec<_> = begun
        .iter()
        .filter_map(|begun| begun.made.as_ref().ok()?.as_ref())
        .map(|(file, found)| (found.st_dev, file))
        .collect();
    let mut synced = tree.flush().flush(&files).into_iter();
    for begun in begun.iter_mut().filter(|begun| matches!(begun.made, Ok(Some(_)))) {
        if let Err(e) = synced.next().unwrap_or(Err(Errno::IO)).at("fsync", &begun.entry.path) {
            begun.made = Err(e);
        }
    }
}

/// Bytes of the entries.
fn size_of(entries: &[&NewEntry]) -> u64 {
    let bytes = entries.iter().map(|entry| match &entry.content {
        Content::File(bytes) => (**bytes).as_ref().len() as u64,
        _ => 0,
    });
    bytes.sum()
}
