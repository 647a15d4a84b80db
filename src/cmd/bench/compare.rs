//! Compares the tree that was sent with the tree that came back.

use crate::cmd::failure::{Failure, exit};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use walkdir::DirEntry;

/// Compares two trees entry by entry, with other code than the transfer's. Returns how many entries
/// they have.
pub(super) fn compare(sent: &Path, received: &Path) -> Result<u64, Failure> {
    let walk = |top: &Path| walkdir::WalkDir::new(top).sort_by_file_name().into_iter();
    // special files are neither sent nor expected
    let mut ours = walk(sent).filter(|entry| !entry.as_ref().is_ok_and(is_special));
    let mut theirs = walk(received);
    let mut count = 0_u64;
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return Ok(count),
            (Some(Ok(one)), Some(Ok(other))) => {
                let names = (one.path().strip_prefix(sent), other.path().strip_prefix(received));
                if names.0.ok() != names.1.ok() || one.file_type() != other.file_type() {
                    return Err(differs(one.path(), "the name or kind"));
                }
                compare_entries(&one, &other)?;
            }
            (Some(Err(e)), _) | (_, Some(Err(e))) => return Err(failed(&e)),
            (Some(Ok(one)), None) | (None, Some(Ok(one))) => {
                return Err(differs(one.path(), "an entry"));
            }
        }
        count = count.saturating_add(1);
    }
}

/// Compares two entries of the same name and kind.
fn compare_entries(sent: &DirEntry, received: &DirEntry) -> Result<(), Failure> {
    let path = sent.path();
    let (a, b) = (
        sent.metadata().map_err(|e| failed(&e))?,
        received.metadata().map_err(|e| failed(&e))?,
    );
    if (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec()) {
        return Err(differs(path, "the time"));
    }
    if sent.path_is_symlink() {
        return match std::fs::read_link(path).ok() == std::fs::read_link(received.path()).ok() {
            true => Ok(()),
            false => Err(differs(path, "the target")),
        };
    }
    if (a.mode() ^ b.mode()) & 0o777 != 0 {
        return Err(differs(path, "the mode"));
    }
    let same = |path| same_content(path, received.path()).map_err(|e| Failure::io("compare", &e));
    if a.is_file() && !same(path)? {
        return Err(differs(path, "the content"));
    }
    Ok(())
}

fn differs(path: &Path, what: &str) -> Failure {
    Failure::new(
        exit::FAILED,
        format!("{}: {what} differs from what was sent", path.display()),
    )
}

fn failed(error: &walkdir::Error) -> Failure {
    Failure::new(exit::FAILED, format!("cannot compare: {error}"))
}

fn is_special(entry: &DirEntry) -> bool {
    let kind = entry.file_type();
    !(kind.is_file() || kind.is_dir() || kind.is_symlink())
}

fn same_content(sent: &Path, received: &Path) -> std::io::Result<bool> {
    let (mut a, mut b) = (std::fs::File::open(sent)?, std::fs::File::open(received)?);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    loop {
        x.clear();
        y.clear();
        (&mut a).take(1 << 20).read_to_end(&mut x)?;
        (&mut b).take(1 << 20).read_to_end(&mut y)?;
        if x != y {
            return Ok(false);
        }
        if x.is_empty() {
            return Ok(true);
        }
    }
}
