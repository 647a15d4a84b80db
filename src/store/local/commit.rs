//! The commit: a partial file gets its time and mode, and then its target's name.

use super::attributes::{final_mode, set_open};
use super::backup::preserve_all;
use super::inode::version;
use super::lock::PARTIAL_MODE;
use super::sys::{Directory, Node, OpenFile, remove_file};
use super::target::LockedTarget;
use super::tree::{Tree, sync_dir};
use crate::store::error::At;
use crate::store::{Attributes, Durability, ErrorKind, Holder, RemotePath, StoreError};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

/// The version of a target that does not exist.
const NO_VERSION: &str = "none";

/// The mode that a file is to have, while it still is a partial file. It can be opened: a writer
/// that comes after a crash must be able to see whether this one lives.
fn mode_before(mode: u32) -> u32 {
    match mode & PARTIAL_MODE {
        0 => PARTIAL_MODE,
        _ => mode,
    }
}

/// Sets time, mode and metadata of a complete partial file.
pub(super) fn prepare<D: Directory>(
    tree: &Tree<D>,
    file: &impl Node,
    attributes: &Attributes,
    path: &RemotePath,
) -> Result<(), StoreError> {
    let found = file.fstat().at("stat the partial file", path)?;
    set_open(tree, file, &found, (attributes, mode_before), path)
}

/// Refuses a target that is not of the version `wanted`; `none` is the version of an absent one.
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
    match found == wanted {
        true => Ok(()),
        false => Err(StoreError::new(ErrorKind::VersionChanged, path)),
    }
}

/// Refuses if the store was closed, the lock was taken away, or the target is not of the version
/// `if_version`. From the fence on no process takes the lock away.
fn admit<D: Directory>(
    tree: &Tree<D>,
    target: &LockedTarget<D>,
    if_version: Option<&str>,
) -> Result<(), StoreError> {
    tree.closed().check(&target.path)?;
    check_version(tree, &target.path, if_version)?;
    match target.lock.fence(&*target.dir) {
        true => Ok(()),
        false => Err(lost_lock(&target.path)),
    }
}

/// Moves aside what is in the place of targets that [`publish`] is about to replace, if the tree
/// does that; one result for each.
pub(super) fn back_up<D: Directory>(
    tree: &Tree<D>,
    targets: &[(&LockedTarget<D>, Option<&str>)],
    durability: Durability,
) -> Vec<Result<(), StoreError>> {
    let Some(backup) = tree.backup() else {
        return targets.iter().map(|_| Ok(())).collect();
    };
    let admitted: Vec<_> = targets
        .iter()
        .map(|(target, if_version)| admit(tree, target, *if_version))
        .collect();
    let pairs = targets.iter().zip(&admitted);
    let fenced = pairs
        .filter(|(_, admitted)| admitted.is_ok())
        .map(|((target, _), _)| *target);
    let fenced: Vec<_> = fenced.collect();
    let mut made = preserve_all(tree, backup, &fenced, durability).into_iter();
    let made =
        |admitted: Result<(), StoreError>| admitted.and_then(|()| made.next().unwrap_or(Ok(())));
    admitted.into_iter().map(made).collect()
}

/// Renames `from`, a name in the target's directory, to the target's name, if [`admit`] allows it:
/// the renamed file is the written one.
///
/// # Errors
/// Any; the target is then unchanged.
pub(super) fn publish<D: Directory>(
    tree: &Tree<D>,
    target: &LockedTarget<D>,
    from: &[u8],
    if_version: Option<&str>,
    before_rename: impl FnOnce() -> rustix::io::Result<()>,
) -> Result<(), StoreError> {
    let LockedTarget {
        path, dir, name, ..
    } = target;
    // a second name, that of its backup, has given the target another version; back_up compared it
    admit(tree, target, if_version.filter(|_| tree.backup().is_none()))?;
    before_rename().at("remove the record", path)?;
    let renamed = match if_version {
        Some(NO_VERSION) => rename_new(&**dir, from, name.as_bytes()),
        _ => dir.rename_at(from, name.as_bytes(), RenameFlags::empty()),
    };
    match renamed {
        Err(Errno::EXIST) if if_version.is_some() => {
            Err(StoreError::new(ErrorKind::VersionChanged, path))
        }
        other => other.at("rename the partial file", path),
    }
}

/// rename(2) that replaces nothing.
fn rename_new(dir: &impl Directory, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    match dir.rename_at(from, to, RenameFlags::NOREPLACE) {
        // a file system without it has link(2)
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            dir.link_at(from, to)?;
            // the target exists; the other name leads to a second link, which no writer resumes
            let _ = remove_file(dir, from);
            Ok(())
        }
        other => other,
    }
}

/// Gives a committed file its final mode, durably if it is to be durable.
///
/// # Errors
/// The target exists, but may not survive a power loss.
pub(super) fn settle<D: Directory>(
    tree: &Tree<D>,
    file: &impl OpenFile,
    attributes: &Attributes,
    durability: Durability,
    path: &RemotePath,
) -> Result<(), StoreError> {
    if attributes.mode & PARTIAL_MODE != 0 {
        return Ok(());
    }
    let found = file.fstat().at("stat", path)?;
    file.fchmod(final_mode(tree, &found, attributes)).at("set the mode", path)?;
    match durability {
        Durability::Durable => file.fsync().at("fsync", path).map_err(not_durable),
        Durability::Volatile => Ok(()),
    }
}

/// fsync of the directory of committed targets.
///
/// # Errors
/// The targets exist, but may not survive a power loss.
pub(super) fn sync_names<D: Directory>(
    tree: &Tree<D>,
    dir: &D,
    path: &RemotePath,
) -> Result<(), StoreError> {
    sync_dir(dir, path).and_then(|()| tree.sync()).map_err(not_durable)
}

fn not_durable(error: StoreError) -> StoreError {
    let why = format!(
        "it is written completely, but may not survive a power loss: {}",
        error.describe()
    );
    StoreError::because(&why, &error.path)
}

/// The error of a writer whose lock was taken away.
pub(super) fn lost_lock(path: &RemotePath) -> StoreError {
    let holder = Holder::of("another writer, who took the lock over");
    StoreError::new(ErrorKind::Locked(holder), path)
}

/// The version of a committed file.
pub(super) fn committed_version(file: &impl Node, path: &RemotePath) -> Result<String, StoreError> {
    Ok(version(&file.fstat().at("stat", path)?).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::sys::model::{Device, Handle, World};
    use super::*;
    use crate::store::local::small::put_whole;
    use crate::store::local::stage::stage;
    use crate::store::{Checkpoint, Content, NewEntry, Resume, StageRequest, Staging};
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
        put_with_mode(tree, if_version, 0)
    }

    fn put_with_mode(
        tree: &Tree<Handle>,
        if_version: Option<&str>,
        mode: u32,
    ) -> Result<String, StoreError> {
        let entry = NewEntry {
            path: RemotePath::parse(b"sub/f").unwrap(),
            content: Content::File(Arc::new(b"ours".to_vec())),
            attributes: with_mode(mode),
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

    fn with_mode(mode: u32) -> Attributes {
        Attributes {
            mode,
            ..Attributes::default()
        }
    }

    /// As [`put_with_mode`], but as a file that arrives in parts and is resumed.
    fn stage_with_mode(tree: &Arc<Tree<Handle>>, mode: u32) -> Result<String, StoreError> {
        let request = StageRequest {
            who: "t".into(),
            if_version: None,
            durability: Durability::Durable,
            size: None,
            window: 32 << 20,
            source: Some("v1".into()),
        };
        let staged = stage(tree, &RemotePath::parse(b"sub/f").unwrap(), &request, None)?;
        let at = match staged.resume() {
            Resume::From(point) => point.offset as usize,
            _ => 0,
        };
        staged.write_now(at as u64, &[Arc::new(b"ours"[at..].to_vec())])?;
        staged.checkpoint_now(&Checkpoint {
            offset: 4,
            digests: vec![*blake3::hash(b"ours").as_bytes()],
        })?;
        staged.commit_now(4, &with_mode(mode))
    }

    /// A process that is killed at any call of a commit leaves nothing that its owner cannot open.
    #[test]
    fn a_dead_writers_file_of_any_mode_is_replaced_by_its_owner() {
        type Write = fn(&Arc<Tree<Handle>>, u32) -> Result<String, StoreError>;
        let writers: [Write; 2] = [|tree, mode| put_with_mode(tree, None, mode), stage_with_mode];
        for (mode, write) in [0o044, 0o000, 0o200, 0o444]
            .into_iter()
            .flat_map(|m| writers.map(|w| (m, w)))
        {
            let mut stops = 0;
            for at in 0.. {
                let world = world();
                let tree = || Arc::new(Tree::strict(Arc::new(world.root())));
                world.stop_after(at);
                let _ = write(&tree(), mode);
                let stopped = world.calm();
                world.kill();
                let retried = write(&tree(), mode);
                assert!(retried.is_ok(), "{mode:o}, stopped at {at}: {retried:?}");
                let sub = world.root().open_dir_at(b"sub").unwrap();
                assert_eq!(sub.stat_at(b"f").unwrap().st_mode & 0o7777, mode);
                assert_eq!(world.content("sub/f").as_deref(), Some(&b"ours"[..]));
                if !stopped {
                    break;
                }
                stops += 1;
            }
            assert!(stops > 10, "{stops}");
        }
    }

    #[test]
    fn an_fsync_that_fails_after_the_rename_says_that_the_file_is_there() {
        let world = world();
        let tree = Tree::strict(Arc::new(world.root()));
        world.fail_fsync_of_directories();
        let error = put(&tree, None).unwrap_err().describe();
        assert!(
            error.contains("it is written completely, but may not survive a power loss"),
            "{error}"
        );
        assert_eq!(world.content("sub/f").as_deref(), Some(&b"ours"[..]));
    }
}
