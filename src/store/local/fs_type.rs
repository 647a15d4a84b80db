//! The capabilities of a file system, by its type (statfs(2)).

use super::sys::Node;

/// tmpfs.
const TMPFS: u64 = 0x0102_1994;
/// ext4 (ext2 and ext3 too), XFS, Btrfs, F2FS.
const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683E;
const F2FS: u64 = 0xF2F5_2010;
/// overlayfs, NFS, SMB 2 and 1, FAT, exFAT and ZFS.
const OTHERS: [u64; 7] = [
    0x794C_7630,
    0x6969,
    0xFE53_4D42,
    0xFF53_4D42,
    0x4D44,
    0x2011_BAB0,
    0x2FC1_2FC1,
];

/// True if reads and writes wait for no device (except swap): a thread for blocking calls costs
/// more than they do.
pub(super) fn is_in_memory(file: &impl Node) -> bool {
    file.fs_type() == Ok(TMPFS)
}

/// True if writes past the page cache serve there. On a network file system each would wait for the
/// server.
pub(super) fn is_good_at_direct(file: &impl Node) -> bool {
    matches!(file.fs_type(), Ok(EXT4 | XFS))
}

/// True if syncfs(2) makes all of it durable. FUSE does nothing then, and of others it is not
/// known.
pub(super) fn honours_syncfs(node: &impl Node) -> bool {
    matches!(node.fs_type(), Ok(TMPFS | EXT4 | XFS | BTRFS | F2FS))
}

/// True if a position in a directory stays valid for as long as the directory exists, whatever is
/// made and removed in it.
pub(super) fn has_stable_positions(fs_type: u64) -> bool {
    matches!(fs_type, EXT4 | XFS | BTRFS)
}

/// True if files have as many bytes as their sizes. Those of /proc and /sys have not, and FUSE may
/// be anything.
pub(super) fn tells_sizes(fs_type: u64) -> bool {
    matches!(fs_type, TMPFS | EXT4 | XFS | BTRFS | F2FS) || OTHERS.contains(&fs_type)
}
