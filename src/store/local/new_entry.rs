//! What is made of an entry, under any name: a file's content, or something that is no file.

use super::attributes::set_open;
use super::inode::{is_same_file, system_device};
use super::sparse;
use super::sys::{Directory, Node, OpenFile, open_handle, remove_file};
use super::tree::Tree;
use crate::store::error::At;
use crate::store::{Allocation, Content, ErrorKind, Kind, NewEntry, StoreError};
use rustix::fs::FileType;
use rustix::io::Errno;

/// Makes an entry that is no file, or a further name of one, with its attributes, under a name in
/// its directory. Elsewhere than in a partial directory that is the record's of files: it cannot be
/// locked, so it is staged beside its lock.
pub(super) fn make_beside<D: Directory>(
    tree: &Tree<D>,
    dir: &D,
    staged: &[u8],
    entry: &NewEntry,
) -> Result<(), StoreError> {
    let path = &entry.path;
    remove_file(dir, staged).at("remove what an earlier writer made", path)?;
    let made = match &entry.content {
        Content::Symlink(pointee) => dir.symlink_at(pointee, staged),
        Content::HardLink { path: to, version } => {
            let (from, name) = tree.parent(to)?;
            from.link_into(name.as_bytes(), dir, staged).at("link", path)?;
            let linked = dir.stat_at(staged).at("stat", path)?;
            return match is_same_file(version, &linked) {
                true => Ok(()),
                false => Err(StoreError::new(ErrorKind::SourceChanged, path)),
            };
        }
        Content::Special { kind, .. } if !tree.rights().may_make(*kind) => Err(Errno::PERM),
        Content::Special { kind, device } => {
            let kind = special_type(*kind).at("create the entry", path)?;
            dir.mknod_at(staged, kind, 0o600, system_device(*device))
        }
        Content::File(_) => Err(Errno::INVAL),
    };
    made.at("create the entry", path)?;
    let handle = open_handle(dir, staged).at("open", path)?;
    let found = handle.fstat().at("stat", path)?;
    set_open(tree, &handle, &found, (&entry.attributes, |mode| mode), path)
}

/// The system's kind of a FIFO, socket or device.
fn special_type(kind: Kind) -> Result<FileType, Errno> {
    match kind {
        Kind::Fifo => Ok(FileType::Fifo),
        Kind::Socket => Ok(FileType::Socket),
        Kind::CharDevice => Ok(FileType::CharacterDevice),
        Kind::BlockDevice => Ok(FileType::BlockDevice),
        Kind::File | Kind::Dir | Kind::Symlink | Kind::Other => Err(Errno::INVAL),
    }
}

/// Writes all of a file.
pub(super) fn write_content(
    file: &impl OpenFile,
    bytes: &[u8],
    entry: &NewEntry,
) -> Result<(), StoreError> {
    let written = match entry.attributes.allocation {
        Allocation::Sparse => sparse::write(file, bytes, 0),
        Allocation::Dense if bytes.is_empty() => Ok(()),
        Allocation::Dense => file.pwrite_all(bytes, 0),
    };
    written.at("write", &entry.path)
}
