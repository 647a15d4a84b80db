//! Time, mode, owner and extended attributes of entries.
//!
//! They are set in an order in which no call undoes an earlier one: the owner, which clears set-uid
//! bits and capabilities; extended attributes, whose ACLs change the mode; the mode; the time.

use super::inode::{mtime, owner};
use super::meta_record::{self, real_mode};
use super::partial_dir::stage::INCOMPLETE;
use super::sys::{Directory, Node, open_any, open_handle};
use super::times::timestamps;
use super::tree::Tree;
use super::xattrs;
use crate::store::error::At;
use crate::store::{Attributes, Metadata, Omissions, RemotePath, Rights, StoreError};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// The bits of a mode that any entry takes over.
const ANY_MODE: u32 = 0o777;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// Which of the wanted owners an entry has: with a right to both, it takes over the set-id bits,
/// too.
#[derive(Clone, Copy, Default)]
struct Restored {
    user: bool,
    group: bool,
}

/// Sets what an open entry is to have, which `found` describes, but with the mode that `mode_while`
/// makes of the one that it is to have.
pub(super) fn set_open<D: Directory>(
    tree: &Tree<D>,
    node: &impl Node,
    found: &Stat,
    (attributes, mode_while): (&Attributes, impl Fn(u32) -> u32),
    path: &RemotePath,
) -> Result<(), StoreError> {
    if *tree.rights() == Rights::Recorded {
        return meta_record::set(tree, node, found, (attributes, mode_while), path);
    }
    let mut omitted = Omissions::default();
    let (mut restored, mut is_changed) = (Restored::default(), false);
    if let Some(metadata) = &attributes.metadata {
        (restored, is_changed) = set_owner(tree.rights(), node, found, metadata, &mut omitted)
            .at("set the owner", path)?;
        is_changed |= xattrs::set(tree.rights(), node, metadata, &mut omitted)
            .at("set the extended attributes", path)?;
    }
    if !FileType::from_raw_mode(found.st_mode).is_symlink() {
        let wanted = mode_for(found, attributes, restored);
        let is_dir = FileType::from_raw_mode(found.st_mode).is_dir();
        let asks = attributes.metadata.as_ref().is_some_and(|metadata| metadata.uid.is_some());
        if asks && !is_dir && attributes.mode & !wanted & (SET_UID | SET_GID) != 0 {
            omitted.set_ids = 1;
        }
        let mode = mode_while(wanted);
        if is_changed || found.st_mode & 0o7777 != mode {
            node.fchmod(mode).at("set the mode", path)?;
        }
    }
    tree.omissions().count(&because(tree.rights(), omitted));
    if mtime(found) == attributes.mtime {
        return Ok(());
    }
    node.futimens(&timestamps(attributes.mtime)).at("set the time", path)
}

/// The same, with the reason that the store has.
pub(super) fn because(rights: &Rights, mut omitted: Omissions) -> Omissions {
    if let Rights::Own { why, .. } = rights {
        omitted.why = (*why).into();
    }
    omitted
}

/// Sets user and group, as far as they may be set. Returns which are as they should be, and whether
/// anything was changed.
fn set_owner(
    rights: &Rights,
    node: &impl Node,
    found: &Stat,
    metadata: &Metadata,
    omitted: &mut Omissions,
) -> Result<(Restored, bool), Errno> {
    let now = owner(found);
    let uid = metadata.uid.filter(|uid| *uid != now.uid);
    let gid = metadata.gid.filter(|gid| *gid != now.gid);
    let may_uid = uid.filter(|_| rights.are_all());
    let may_gid = gid.filter(|gid| rights.has_group(*gid));
    let (mut set_uid, mut set_gid) = (may_uid.is_some(), may_gid.is_some());
    if set_uid || set_gid {
        match node.fchown(may_uid, may_gid) {
            Ok(()) => {}
            // a file system without owners, or one that another machine's root may not change
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                (set_uid, set_gid) = (false, false);
            }
            Err(e) => return Err(e),
        }
    }
    omitted.owners = u64::from(uid.is_some() && !set_uid);
    omitted.groups = u64::from(gid.is_some() && !set_gid);
    let restored = Restored {
        user: rights.are_all() && metadata.uid.is_some() && (uid.is_none() || set_uid),
        group: rights.are_all() && metadata.gid.is_some() && (gid.is_none() || set_gid),
    };
    Ok((restored, set_uid || set_gid))
}

/// The mode that an open entry is to have now that its owner is set.
pub(super) fn final_mode<D: Directory>(
    tree: &Tree<D>,
    found: &Stat,
    attributes: &Attributes,
) -> u32 {
    if *tree.rights() == Rights::Recorded {
        return real_mode(FileType::from_raw_mode(found.st_mode), attributes);
    }
    mode_for(found, attributes, restored(tree.rights(), found, attributes))
}

/// Which owners an entry has that it is to have.
fn restored(rights: &Rights, found: &Stat, attributes: &Attributes) -> Restored {
    let (now, metadata) = (owner(found), attributes.metadata.as_deref());
    let is = |wanted: Option<u32>, now: u32| rights.are_all() && wanted == Some(now);
    Restored {
        user: is(metadata.and_then(|m| m.uid), now.uid),
        group: is(metadata.and_then(|m| m.gid), now.gid),
    }
}

/// The mode for an entry that exists. Set-id bits come with the owner that they act for, and stay
/// as they are without. A directory takes over the sticky bit, too; so does a file, unless that
/// would be the mark of an incomplete one ([`INCOMPLETE`]).
fn mode_for(found: &Stat, attributes: &Attributes, restored: Restored) -> u32 {
    let taken = |bit: u32, is_taken: bool| match is_taken {
        true => attributes.mode & bit,
        false => found.st_mode & bit,
    };
    let is_dir = FileType::from_raw_mode(found.st_mode).is_dir();
    let sticky = match is_dir || restored.user && attributes.mode & ANY_MODE | STICKY != INCOMPLETE
    {
        true => attributes.mode & STICKY,
        false => 0,
    };
    let set_ids = taken(SET_UID, restored.user) | taken(SET_GID, restored.group);
    attributes.mode & ANY_MODE | sticky | set_ids
}

/// Sets what an existing entry is to have. One that is as it should be is not touched, so that its
/// change time stays too.
pub(super) fn set_attributes<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
    attributes: &Attributes,
) -> Result<(), StoreError> {
    if path.is_root() {
        return set_where_wrong(tree, tree.root(), attributes, path);
    }
    if let Some(dir) = tree.partial_dirs().dir(path.as_bytes()) {
        return set_where_wrong(tree, &*dir, attributes, path);
    }
    let (dir, name) = tree.parent(path)?;
    let found = dir.stat_at(name.as_bytes()).at("stat", path)?;
    match FileType::from_raw_mode(found.st_mode) {
        _ if has(tree.rights(), &found, attributes) => Ok(()),
        FileType::Directory => {
            // its owner may not be allowed to read it
            let inner = dir.open_dir_at(name.as_bytes()).at("open", path)?;
            set_where_wrong(tree, &inner, attributes, path)
        }
        FileType::RegularFile => {
            let file = open_any(&*dir, name.as_bytes()).at("open", path)?;
            set_where_wrong(tree, &file, attributes, path)
        }
        // opening a device may do anything
        _ => {
            let handle = open_handle(&*dir, name.as_bytes()).at("open", path)?;
            set_where_wrong(tree, &handle, attributes, path)
        }
    }
}

/// Sets what an open entry is to have, unless it has that.
fn set_where_wrong<D: Directory>(
    tree: &Tree<D>,
    node: &impl Node,
    attributes: &Attributes,
    path: &RemotePath,
) -> Result<(), StoreError> {
    let found = node.fstat().at("stat", path)?;
    match has(tree.rights(), &found, attributes) && !has_other_xattrs(tree, node, attributes) {
        true => Ok(()),
        false => set_open(tree, node, &found, (attributes, |mode| mode), path),
    }
}

fn has_other_xattrs<D: Directory>(
    tree: &Tree<D>,
    node: &impl Node,
    attributes: &Attributes,
) -> bool {
    let metadata = attributes.metadata.as_deref();
    metadata.is_some_and(|metadata| xattrs::differ(tree.rights(), node, metadata))
}

/// True if the entry has all but the extended attributes, or what it lacks may not be set.
fn has(rights: &Rights, found: &Stat, attributes: &Attributes) -> bool {
    if *rights == Rights::Recorded {
        // its record says
        return false;
    }
    let is_symlink = FileType::from_raw_mode(found.st_mode).is_symlink();
    let mode = mode_for(found, attributes, restored(rights, found, attributes));
    let has_mode = is_symlink || found.st_mode & 0o7777 == mode;
    let metadata = attributes.metadata.as_deref();
    let sets = metadata.map(|metadata| metadata.sets).unwrap_or_default();
    let has_owner = metadata.is_none_or(|metadata| {
        let now = owner(found);
        let user = metadata.uid.is_none_or(|uid| uid == now.uid);
        user && metadata.gid.is_none_or(|gid| gid == now.gid)
    });
    mtime(found) == attributes.mtime && has_mode && has_owner && !sets.is_any()
}

#[cfg(test)]
mod tests {
    use super::super::small::put_whole;
    use super::super::stage::stage;
    use super::super::sys::model::{Device, Handle, World};
    use super::*;
    use crate::store::{Bytes, Content, Durability, NewEntry, StageRequest, Xattr, XattrSets};
    use std::sync::Arc;

    fn wanted() -> Attributes {
        let metadata = Metadata {
            uid: Some(7),
            gid: Some(8),
            sets: XattrSets {
                attributes: true,
                acls: false,
            },
            xattrs: vec![Xattr {
                name: b"user.x".to_vec(),
                value: b"value".to_vec(),
            }],
            special: None,
        };
        Attributes {
            mode: 0o4750,
            metadata: Some(Arc::new(metadata)),
            ..Attributes::default()
        }
    }

    fn put(tree: &Arc<Tree<Handle>>, path: &RemotePath, is_large: bool) -> Result<(), StoreError> {
        let bytes: Bytes = Arc::new(b"content".to_vec());
        if !is_large {
            let entry = NewEntry {
                path: path.clone(),
                content: Content::File(bytes),
                attributes: wanted(),
                if_version: None,
            };
            return put_whole(tree, &[entry], "t", Durability::Durable).remove(0).map(drop);
        }
        let request = StageRequest {
            who: "t".into(),
            if_version: None,
            durability: Durability::Durable,
            size: None,
            window: 32 << 20,
            source: None,
        };
        let staged = stage(tree, path, &request, None)?;
        staged.write_now(0, &[bytes])?;
        staged.commit_now(7, &wanted()).map(drop)
    }

    /// The machine stops after any call and loses its power: a file that is there then is not
    /// without its owner, mode or attributes.
    #[test]
    fn a_file_appears_with_all_of_its_metadata_or_not_at_all() {
        let path = RemotePath::parse(b"sub/f").unwrap();
        let (mut absent, mut there) = (0, 0);
        for seed in 0..400 {
            let device = Device {
                fs_type: 0xEF53,
                syncfs_lies: seed % 3 == 0,
                granularity: 1,
                has_birth: true,
            };
            let world = World::new(seed, vec![device.clone(), device]);
            let tree = || Tree::strict(Arc::new(world.root())).with_rights(Rights::All);
            world.stop_after(seed % 50);
            let done = put(&Arc::new(tree()), &path, seed % 2 == 0).is_ok();
            world.calm();
            world.lose_power();
            let tree = tree();
            let (dir, name) = tree.parent(&path).unwrap();
            let Ok(found) = dir.stat_at(name.as_bytes()) else {
                assert!(!done, "{seed}");
                absent += 1;
                continue;
            };
            let now = owner(&found);
            assert_eq!((now.uid, now.gid, found.st_mode & 0o7777), (7, 8, 0o4750), "{seed}");
            let handle = open_handle(&*dir, name.as_bytes()).unwrap();
            assert_eq!(handle.xattr(b"user.x").unwrap(), b"value", "{seed}");
            there += 1;
        }
        assert!(absent > 50 && there > 50, "{absent} {there}");
    }
}
