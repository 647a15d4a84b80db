//! The commit: what is staged gets its time and mode, and then its target's name.

use super::lock::{Lock, STAGED_MODE};
use super::sys::{Directory, Node, OpenFile};
use super::tree::{Tree, remove_file, sync_dir};
use crate::store::error::At;
use crate::store::local::stat::version;
use crate::store::{Attributes, Durability, ErrorKind, Name, RemotePath, StoreError, Time};
use rustix::fs::{RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

/// The bits of a mode that a file takes over.
const FILE_MODE: u32 = 0o777;
/// What a writer asks for who wants no target to be there.
const NO_VERSION: &str = "none";

/// The mode of a file with these attributes while it still has its staging name. It can be opened then: a writer that comes
/// after a crash must be able to see whether this one lives.
pub(super) fn mode_before(attributes: Attributes) -> u32 {
    match mode_of(attributes) {
        mode if mode & STAGED_MODE == 0 => STAGED_MODE,
        mode => mode,
    }
}

fn mode_of(attributes: Attributes) -> u32 {
    attributes.mode & FILE_MODE
}

/// Refuses when the target is not the version that the writer named; `none` names its absence.
pub(super) fn check_version<D: Directory>(
    tree: &Tree<D>,
    path: &RemotePath,
    wanted: Option<&str>,
) -> Result<(), StoreError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let (dir, name) = tree.parent(path)?;
    let found = match dir.stat_at(name.as_bytes()) {
        Ok(stat) => version(&stat).to_string(),
        Err(Errno::NOENT) => NO_VERSION.into(),
        Err(e) => return Err(e).at("stat", path),
    };
    if found == wanted {
        Ok(())
    } else {
        Err(StoreError::new(ErrorKind::VersionChanged, path))
    }
}

/// utimensat's argument for a modification time; the access time stays.
pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs,
            tv_nsec: i64::from(mtime.nanos),
        },
    }
}

/// Time and mode of an open file or directory that has mode `has`, in an order that keeps the time.
pub(super) fn set_open(
    file: &impl Node,
    attributes: Attributes,
    (has, mode): (u32, u32),
    path: &RemotePath,
) -> Result<(), StoreError> {
    if has != mode {
        file.fchmod(mode).at("set the mode", path)?;
    }
    file.futimens(&timestamps(attributes.mtime)).at("set the time", path)
}

/// What of a staged entry gets its name where.
pub(super) struct Staged<'a, D: Directory> {
    pub(super) dir: &'a D,
    pub(super) lock: &'a Lock<D::File>,
    /// The name that it has: a symlink is staged beside its lock.
    pub(super) from: &'a [u8],
    pub(super) name: &'a Name,
    pub(super) path: &'a RemotePath,
}

/// Gives a staged entry its target's name, unless the store was closed, the lock was taken away, or the target is not `if_version`. From the fence on
/// nobody takes the lock away, so that what is renamed is what was written.
///
/// # Errors
/// Any, and then the target is what it was.
pub(super) fn publish<D: Directory>(
    tree: &Tree<D>,
    staged: &Staged<'_, D>,
    if_version: Option<&str>,
    before_rename: impl FnOnce() -> rustix::io::Result<()>,
) -> Result<(), StoreError> {
    let Staged {
        dir,
        lock,
        from,
        name,
        path,
    } = staged;
    tree.closed().check(path)?;
    check_version(tree, path, if_version)?;
    if !lock.fence(*dir) {
        return Err(lost_lock(path));
    }
    before_rename().at("remove the record", path)?;
    let renamed = match if_version {
        Some(NO_VERSION) => rename_new(*dir, from, name.as_bytes()),
        _ => dir.rename_at(from, name.as_bytes(), RenameFlags::empty()),
    };
    match renamed {
        Err(Errno::EXIST) if if_version.is_some() => Err(StoreError::new(ErrorKind::VersionChanged, path)),
        other => other.at("rename the staging file", path),
    }
}

/// rename(2) that replaces nothing.
fn rename_new(dir: &impl Directory, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    match dir.rename_at(from, to, RenameFlags::NOREPLACE) {
        // a file system without it has link(2)
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            dir.link_at(from, to)?;
            // it is there; a name that is left leads to a second link, which is never resumed
            let _ = remove_file(dir, from);
            Ok(())
        }
        other => other,
    }
}

/// The target is there; makes its name durable, and gives it its last mode.
///
/// # Errors
/// The target is there, but may not survive a power loss.
pub(super) fn settle(
    file: &impl OpenFile,
    (attributes, durability): (Attributes, Durability),
    path: &RemotePath,
) -> Result<(), StoreError> {
    let (before, mode) = (mode_before(attributes), mode_of(attributes));
    if before == mode {
        return Ok(());
    }
    file.fchmod(mode).at("set the mode", path)?;
    match durability {
        Durability::Durable => file.fsync().at("fsync", path).map_err(not_durable),
        Durability::Volatile => Ok(()),
    }
}

/// fsync of the directory in which targets have got their names.
///
/// # Errors
/// The targets are there, but may not survive a power loss.
pub(super) fn sync_names<D: Directory>(tree: &Tree<D>, dir: &D, path: &RemotePath) -> Result<(), StoreError> {
    sync_dir(dir, path).and_then(|()| tree.sync()).map_err(not_durable)
}

fn not_durable(error: StoreError) -> StoreError {
    let why = format!(
        "it is there, whole, but may not survive a power loss: {}",
        error.describe()
    );
    StoreError::because(&why, &error.path)
}

pub(super) fn lost_lock(path: &RemotePath) -> StoreError {
    StoreError::new(
        ErrorKind::Locked(crate::store::Holder {
            who: "another writer, who took the lock over".into(),
            ..Default::default()
        }),
        path,
    )
}

pub(super) fn committed_version(file: &impl Node, path: &RemotePath) -> Result<String, StoreError> {
    Ok(version(&file.fstat().at("stat", path)?).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::sys::model::{Device, Handle, World};
    use super::*;
    use crate::store::local::small::put_whole;
    use crate::store::{Content, NewEntry};
    use parking_lot::Mutex;
    use rustix::fs::OFlags;
    use std::sync::Arc;

    fn world() -> World {
        let device = Device {
            fs_type: 0xEF53,
            syncfs_lies: false,
            granularity: 1,
            has_birth: true,
        };
        World::new(1, vec![device.clone(), device])
    }

    fn put(tree: &Tree<Handle>, if_version: Option<&str>) -> Result<String, StoreError> {
        let entry = NewEntry {
            path: RemotePath::parse(b"sub/f").unwrap(),
            content: Content::File(Arc::new(b"ours".to_vec())),
            attributes: Attributes::default(),
            if_version: if_version.map(str::to_string),
        };
        put_whole(tree, &[entry], "t", Durability::Durable).remove(0)
    }

    #[test]
    fn a_target_that_appears_after_the_check_is_not_replaced() {
        let (mut refused, mut there) = (0, 0);
        for at in 0..40 {
            let world = world();
            let tree = Tree::strict(Arc::new(world.root()));
            let created = Arc::new(Mutex::new(false));
            let set = created.clone();
            let theirs = move |world: &World| {
                let sub = world.root().open_dir_at(b"sub").unwrap();
                let made = sub.create_at(b"f", OFlags::RDWR, 0o644);
                *set.lock() = made.is_ok_and(|file| file.pwrite_all(b"theirs", 0).is_ok());
            };
            world.intrude_after(at, Box::new(theirs));
            match put(&tree, Some("none")) {
                Ok(_) => {
                    assert_eq!(world.content("sub/f").as_deref(), Some(&b"ours"[..]), "at {at}");
                    assert!(!*created.lock(), "theirs was replaced, at {at}");
                    there += 1;
                }
                Err(e) => {
                    assert_eq!(e.kind, ErrorKind::VersionChanged);
                    assert_eq!(world.content("sub/f").as_deref(), Some(&b"theirs"[..]), "at {at}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 5 && there > 5, "{refused} {there}");
    }

    #[test]
    fn an_fsync_that_fails_after_the_rename_says_that_the_file_is_there() {
        let world = world();
        let tree = Tree::strict(Arc::new(world.root()));
        world.fail_fsync_of_directories();
        let error = put(&tree, None).unwrap_err().describe();
        assert!(
            error.contains("it is there, whole, but may not survive a power loss"),
            "{error}"
        );
        assert_eq!(world.content("sub/f").as_deref(), Some(&b"ours"[..]));
    }
}
