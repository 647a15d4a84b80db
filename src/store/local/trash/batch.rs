//! The batches of a trash, and their names: `DELETED-EXPIRES-RUN`, in hexadecimal digits, so that
//! later deletions have later names.

use super::super::inode::mtime;
use super::super::sys::{Call, Directory, Node};
use super::super::times::timestamps;
use super::super::tree::read_dir;
use crate::store::reserved::trash_name;
use crate::store::trash::TrashRun;
use crate::store::{RemotePath, StoreError};
use cap_std::fs::Dir;
use rustix::fs::Stat;
use rustix::io::Errno;
use std::time::{SystemTime, UNIX_EPOCH};

/// The mode of the trash and its batches: only their owner gets at what is deleted.
const MODE: u32 = 0o700;
/// How often a batch gets another name, or the trash is made, while other runs do the same.
const TRIES: u64 = 64;
/// Nanoseconds of a second.
const NANOS: u64 = 1_000_000_000;
/// Digits of the times of a name, and of a run.
const DIGITS: [usize; 3] = [16, 10, 8];

/// What the name of a batch says. Later deletions are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchName {
    /// Nanoseconds since 1970.
    deleted: u64,
    /// Seconds since 1970.
    pub(super) expires: u64,
    pub(super) run: u32,
}

impl BatchName {
    /// The name that these bytes are; `None` if they are no other way to write one.
    pub(super) fn parse(bytes: &[u8]) -> Option<BatchName> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.split('-');
        let mut next = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            part.bytes().all(is_digit).then(|| u64::from_str_radix(part, 16).ok())?
        };
        let [of_deleted, of_expires, of_run] = DIGITS;
        let name = BatchName {
            deleted: next(of_deleted)?,
            expires: next(of_expires)?,
            run: u32::try_from(next(of_run)?).ok()?,
        };
        parts.next().is_none().then_some(name)
    }

    pub(super) fn text(&self) -> String {
        let [of_deleted, of_expires, of_run] = DIGITS;
        format!(
            "{:0of_deleted$x}-{:0of_expires$x}-{:0of_run$x}",
            self.deleted, self.expires, self.run
        )
    }

    /// When its entries were deleted, in seconds since 1970.
    pub(super) fn deleted(&self) -> u64 {
        self.deleted / NANOS
    }
}

/// Seconds since 1970, and nanoseconds.
pub(super) fn now() -> (u64, u64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Opens the trash of a directory.
///
/// # Errors
/// NOENT: it has none.
pub(super) fn open_trash(dir: &Dir) -> Call<Dir> {
    dir.open_dir_at(&trash_name())
}

/// An open batch.
pub(super) struct Batch {
    pub(super) trash: Dir,
    pub(super) dir: Dir,
    pub(super) name: BatchName,
}

/// Makes a batch in the trash of a directory, which is made if it does not exist.
pub(super) fn make_batch(dir: &Dir, run: TrashRun) -> Call<Batch> {
    // what fits into the digits, some tens of thousands of years from now
    const LAST: u64 = (1 << 40) - 1;
    let (secs, nanos) = now();
    for more in 0..TRIES {
        let trash = match open_trash(dir) {
            Err(Errno::NOENT) => {
                let before = dir.fstat()?;
                match dir.make_dir_at(&trash_name(), MODE) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                restore_time(dir, &before);
                dir.fsync()?;
                continue;
            }
            opened => opened?,
        };
        let name = BatchName {
            deleted: nanos.saturating_add(more),
            expires: secs.saturating_add(run.lifetime.as_secs()).min(LAST),
            run: run.id,
        };
        let text = name.text();
        match trash.make_dir_at(text.as_bytes(), MODE) {
            Ok(()) => {
                let dir = trash.open_dir_at(text.as_bytes())?;
                return Ok(Batch { trash, dir, name });
            }
            // another run has it, or has just emptied the trash
            Err(Errno::EXIST | Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::BUSY)
}

/// Gives a directory the time back that it had: its trash is nothing that a user sees.
pub(super) fn restore_time(dir: &Dir, before: &Stat) {
    let _ = dir.futimens(&timestamps(mtime(before)));
}

/// Calls `each` with the names of all batches, in no order.
pub(super) fn for_each_batch(
    trash: &Dir,
    mut each: impl FnMut(BatchName),
) -> Result<(), StoreError> {
    let stream = read_dir(trash, &RemotePath::root())?;
    for entry in stream.flatten() {
        if let Some(name) = BatchName::parse(entry.file_name().to_bytes()) {
            each(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_in_one_way() {
        let name = BatchName {
            deleted: 1_800_000_000_123_456_789,
            expires: 1_802_592_000,
            run: 0xbeef,
        };
        let text = name.text();
        assert_eq!(BatchName::parse(text.as_bytes()), Some(name));
        assert_eq!(name.deleted(), 1_800_000_000);
        for wrong in [
            "",
            "..",
            "log",
            &text.to_uppercase(),
            &format!("{text}-"),
            &format!("+{}", text.get(1..).unwrap()),
            &text.replace('-', "/"),
        ] {
            assert_eq!(BatchName::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
