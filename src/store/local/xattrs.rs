//! Extended attributes of entries. ACLs are extended attributes, too.

use super::follow;
use super::sys::{Node, open_handle};
use super::tree::Tree;
use crate::store::error::At;
use crate::store::metadata::{MAX_XATTR_BYTES, MAX_XATTRS, is_acl};
use crate::store::{Metadata, Omissions, RemotePath, Rights, StoreError, Xattr, XattrSets};
use rustix::io::Errno;
use std::fs::File;

/// Reads the attributes of an entry that are in these sets, by name.
///
/// # Errors
/// Also for more than may be transferred.
pub(super) fn read(
    tree: &Tree,
    path: &RemotePath,
    sets: XattrSets,
) -> Result<Vec<Xattr>, StoreError> {
    if path.is_root() {
        return read_open(tree.root(), sets, path);
    }
    read_open(&handle(tree, path)?, sets, path)
}

/// Opens an entry, or what it leads to in a tree that follows symlinks, for its attributes.
pub(super) fn handle(tree: &Tree, path: &RemotePath) -> Result<File, StoreError> {
    if tree.following().is_some()
        && let Ok(handle) = follow::handle(tree, path)
    {
        return Ok(handle);
    }
    let (dir, name) = tree.parent(path)?;
    open_handle(&*dir, name.as_bytes()).at("open", path)
}

fn read_open(
    node: &impl Node,
    sets: XattrSets,
    path: &RemotePath,
) -> Result<Vec<Xattr>, StoreError> {
    let with_root = rustix::process::geteuid().is_root();
    let names = names(node).at("list the extended attributes", path)?;
    let mut found = Vec::new();
    let mut bytes = 0_usize;
    for name in names.into_iter().filter(|name| sets.contains(name, with_root)) {
        let value = match node.xattr(&name) {
            Ok(value) => value,
            // it was removed a moment ago
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e).at("read an extended attribute", path),
        };
        bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
        found.push(Xattr { name, value });
        if found.len() > MAX_XATTRS || bytes > MAX_XATTR_BYTES {
            let why = "its extended attributes are more than 128, or larger than 128 KiB";
            return Err(StoreError::because(why, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The names of all attributes; none where the file system has none.
fn names(node: &impl Node) -> Result<Vec<Vec<u8>>, Errno> {
    match node.xattr_names() {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Vec::new()),
        other => other,
    }
}

/// True if [`set`] would change anything, or would have to omit something.
pub(super) fn differ(rights: &Rights, node: &impl Node, metadata: &Metadata) -> bool {
    if !metadata.sets.is_any() {
        return false;
    }
    let Ok(found) = names(node) else { return true };
    let mut of_sets = found.iter().filter(|name| metadata.sets.contains(name, rights.are_all()));
    let is_extra = |name: &Vec<u8>| metadata.xattrs.iter().all(|wanted| wanted.name != *name);
    let is_missing = |wanted: &Xattr| node.xattr(&wanted.name).as_ref() != Ok(&wanted.value);
    of_sets.any(is_extra) || metadata.xattrs.iter().any(is_missing)
}

/// Gives an open entry the attributes that it is to have, and removes others of the same sets.
/// Counts it if it could not have all of them. Returns whether anything was changed.
pub(super) fn set(
    rights: &Rights,
    node: &impl Node,
    metadata: &Metadata,
    omitted: &mut Omissions,
) -> Result<bool, Errno> {
    if !metadata.sets.is_any() {
        return Ok(false);
    }
    let mut is_changed = false;
    for name in names(node)? {
        let is_wanted = metadata.xattrs.iter().any(|wanted| wanted.name == name);
        if !is_wanted && metadata.sets.contains(&name, rights.are_all()) {
            is_changed |= is_settable(node.remove_xattr(&name), &name, omitted)?;
        }
    }
    for Xattr { name, value } in &metadata.xattrs {
        if !metadata.sets.contains(name, rights.are_all()) {
            *omission(name, omitted) = 1;
        } else if node.xattr(name).as_ref() != Ok(value) {
            is_changed |= is_settable(node.set_xattr(name, value), name, omitted)?;
        }
    }
    Ok(is_changed)
}

/// The count of what an attribute is.
fn omission<'a>(name: &[u8], omitted: &'a mut Omissions) -> &'a mut u64 {
    match is_acl(name) {
        true => &mut omitted.acls,
        false => &mut omitted.xattrs,
    }
}

/// False, and counted, for an attribute that the file system, or the system, does not let anybody
/// set here.
fn is_settable(
    changed: Result<(), Errno>,
    name: &[u8],
    omitted: &mut Omissions,
) -> Result<bool, Errno> {
    match changed {
        Ok(()) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NOSYS) => {
            *omission(name, omitted) = 1;
            Ok(false)
        }
        Err(e) => Err(e),
    }
}
