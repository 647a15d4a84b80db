//! Stops at any call of a commit with a backup: the target is the old file or the new one, and the
//! old one is never lost.

use super::samples::{PART, attributes, content, path};
use super::steps::{begin, write};
use crate::store::local::small::put_whole;
use crate::store::local::sys::Directory;
use crate::store::local::sys::model::{Device, Handle, World};
use crate::store::local::tree::{Backup, Tree};
use crate::store::{Content, Durability, NewEntry, RemotePath, Suffix};
use std::sync::Arc;

/// Where the backups go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goes {
    Beside,
    Elsewhere,
}

/// A target with the place of its backup.
type Case = (&'static str, Goes);

fn world(seed: u64) -> World {
    let device = Device {
        fs_type: 0xEF53,
        syncfs_lies: seed % 2 == 1,
        granularity: 1,
        has_birth: true,
    };
    World::new(seed, vec![device.clone(), device])
}

fn backup_of((target, goes): Case) -> String {
    match goes {
        Goes::Beside => format!("{target}~"),
        Goes::Elsewhere => format!("sub/old/runs/{target}"),
    }
}

fn tree(world: &World, goes: Goes) -> Arc<Tree<Handle>> {
    let suffix = |text: &[u8]| Suffix::parse(text).unwrap();
    let backup = match goes {
        Goes::Beside => Backup::beside(suffix(b"~"), &RemotePath::root()).unwrap(),
        Goes::Elsewhere => {
            let sub = world.root().open_dir_at(b"sub").unwrap();
            Backup::within(suffix(b""), (Tree::strict(Arc::new(sub)), path("old/runs")), None)
        }
    };
    Arc::new(Tree::strict(Arc::new(world.root())).with_backup(backup))
}

/// Writes a version of a target, with a backup of the one before.
fn put(tree: &Arc<Tree<Handle>>, target: &str, version: usize) -> bool {
    let bytes = content(target, version);
    if target.ends_with("large") {
        let Ok(staged) = begin(tree, target, version, Durability::Durable) else {
            return false;
        };
        let parts = (0..bytes.len()).step_by(PART);
        let written = parts.into_iter().all(|at| write(&staged, at, &bytes));
        return written && staged.commit_now(bytes.len() as u64, &attributes(version)).is_ok();
    }
    let entry = NewEntry {
        path: path(target),
        content: Content::File(Arc::new(bytes)),
        attributes: attributes(version),
        if_version: None,
    };
    put_whole(tree, &[entry], "writer", Durability::Durable)[0].is_ok()
}

/// Replaces version 2 by version 3, stopped at a call; true if it came to its end.
fn replace(case: Case, seed: u64, at: u64, links: bool) -> bool {
    let (target, goes) = case;
    let world = world(seed);
    if !links {
        world.refuse_links();
    }
    // a backup of version 1 exists
    assert!([1, 2].iter().all(|version| put(&tree(&world, goes), target, *version)));
    let last = tree(&world, goes);
    world.stop_after(at);
    let ended = put(&last, target, 3);
    let stopped = world.calm();
    assert!(ended || stopped);
    // without links a rename is one step, which the model's disks do not have
    match seed.is_multiple_of(3) || !links {
        true => world.kill(),
        false => world.lose_power(),
    }
    let (found, backup) = (world.content(target), world.content(&backup_of(case)));
    let is = |found: &Option<Vec<u8>>, version| found.as_ref() == Some(&content(target, version));
    let context = format!("{case:?}, seed {seed}, stopped at {at}, links {links}");
    match is(&found, 3) {
        true => assert!(is(&backup, 2), "the old content is lost: {context}"),
        false if links => {
            assert!(is(&found, 2), "the target is neither old nor new: {context}");
            assert!(is(&backup, 1) || is(&backup, 2), "the older backup is lost: {context}");
        }
        // the target is renamed
        false => assert!(is(&found, 2) || is(&backup, 2), "the old content is lost: {context}"),
    }
    assert!(!ended || is(&found, 3), "what was reported is lost: {context}");
    // a later writer is not stopped by what remains, and makes the backup
    assert!(put(&tree(&world, goes), target, 4), "{context}");
    assert!(is(&world.content(target), 4), "{context}");
    ended
}

#[test]
fn a_replaced_file_is_there_as_its_backup_at_every_stop() {
    for case in [
        ("sub/a", Goes::Beside),
        ("sub/large", Goes::Beside),
        ("a", Goes::Elsewhere),
        ("large", Goes::Elsewhere),
    ] {
        for (seed, links) in (0..40).flat_map(|seed| [(seed, true), (seed, false)]) {
            let ended = (0..200).find(|at| replace(case, seed, *at, links));
            assert!(ended.is_some_and(|at| at > 10), "{case:?}: {ended:?}");
        }
    }
}
