//! What a file's file system is good at, by its type (statfs(2)).

use std::os::fd::AsFd;

/// tmpfs.
const TMPFS: u64 = 0x0102_1994;
/// ext4 and XFS.
const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;

fn system_of(file: &impl AsFd) -> Option<u64> {
    let system = rustix::fs::fstatfs(file).ok()?;
    u64::try_from(system.f_type).ok()
}

/// Reads and writes have no device to wait for (but swap). Handing them to a thread that may wait costs more than they do.
pub(super) fn is_in_memory(file: &impl AsFd) -> bool {
    system_of(file) == Some(TMPFS)
}

/// It does well what goes past the page cache. On a network file system each such write would wait for the server.
pub(super) fn is_good_at_direct(file: &impl AsFd) -> bool {
    matches!(system_of(file), Some(EXT4 | XFS))
}
