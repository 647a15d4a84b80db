//! The steps of a transfer.

use super::samples::{PART, path, source};
use crate::store::error::At;
use crate::store::local::inode::version;
use crate::store::local::stage::{LocalStaging, stage};
use crate::store::local::sys::Directory;
use crate::store::local::sys::model::Handle;
use crate::store::local::tree::Tree;
use crate::store::local::unchanged::Unchanged;
use crate::store::{Durability, Kind, StageRequest, StoreError};
use std::sync::Arc;

/// The writer of a larger file.
pub(super) type Staged = LocalStaging<Handle>;

/// Locks a target for a version of its source.
pub(super) fn begin(
    tree: &Arc<Tree<Handle>>,
    target: &str,
    version: usize,
    durability: Durability,
) -> Result<Staged, StoreError> {
    let request = StageRequest {
        who: "writer".into(),
        if_version: None,
        durability,
        size: None,
        window: 32 << 20,
        source: Some(source(target, version)),
    };
    stage(tree, &path(target), &request, None)
}

/// Writes the part at `at`, or the hole if it has nothing but zeros; true if that worked.
pub(super) fn write(staged: &Staged, at: usize, whole: &[u8]) -> bool {
    let part = whole[at..(at + PART).min(whole.len())].to_vec();
    match part.iter().all(|byte| *byte == 0) {
        true => staged.hole_now(at as u64, part.len() as u64).is_ok(),
        false => staged.write_now(at as u64, &[Arc::new(part)]).is_ok(),
    }
}

/// Makes unchanged targets durable, as the end of a transfer does.
pub(super) fn settle(tree: &Arc<Tree<Handle>>, unchanged: &[(&'static str, usize)]) -> bool {
    let pending = Unchanged::new(tree);
    let note = |(target, _): &(&'static str, usize)| {
        let (dir, name) = tree.parent(&path(target))?;
        let found = dir.stat_at(name.as_bytes()).at("stat", &path(target))?;
        pending.note(&(path(target), Kind::File, version(&found)))
    };
    unchanged.iter().map(note).all(|noted| noted.is_ok()) && pending.sync().is_ok()
}
