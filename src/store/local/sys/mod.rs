//! The system calls of a local store, by their names in Linux's manual: three small traits.
//!
//! The kernel answers them, or, in tests, a model of a file system that loses at a crash what was
//! not synced. A name is a single component; no call follows it if it is a symlink.

mod linux;
#[cfg(test)]
pub(super) mod model;

pub(super) use linux::{open_in, readable, retry};

use rustix::fs::{FileType, FlockOperation, OFlags, RenameFlags, Stat, Timestamps};
use rustix::io::Errno;
use std::fs::File;
use std::io::IoSlice;
use std::path::Path;

/// The result of a call, or the system's error number.
pub(super) type Call<T> = rustix::io::Result<T>;

/// How haul opens entries that other programs may have made: it follows no symlink, waits for no
/// FIFO, and no child process inherits the file.
pub(super) const WARY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// When an inode was made: seconds since 1970, and nanoseconds.
pub(super) type Birth = (i64, u32);

/// An open file or directory. A call that a handle of O_PATH refuses goes by the handle's path in
/// /proc.
pub(super) trait Node: Send + Sync + 'static {
    /// fstat(2).
    fn fstat(&self) -> Call<Stat>;
    /// statx(2), STATX_BTIME; `None` if the file system does not keep it.
    fn birth(&self) -> Option<Birth>;
    /// fchmod(2).
    fn fchmod(&self, mode: u32) -> Call<()>;
    /// fchownat(2) of what is open; what is `None` stays.
    fn fchown(&self, uid: Option<u32>, gid: Option<u32>) -> Call<()>;
    /// futimens(3).
    fn futimens(&self, times: &Timestamps) -> Call<()>;
    /// flistxattr(2).
    fn xattr_names(&self) -> Call<Vec<Vec<u8>>>;
    /// fgetxattr(2).
    fn xattr(&self, name: &[u8]) -> Call<Vec<u8>>;
    /// fsetxattr(2).
    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Call<()>;
    /// fremovexattr(2).
    fn remove_xattr(&self, name: &[u8]) -> Call<()>;
    /// fsync(2); of a handle that cannot be synced (O_PATH), sync(2).
    fn fsync(&self) -> Call<()>;
    /// syncfs(2): all of the file system that this is in; of a handle that cannot be synced
    /// (O_PATH), sync(2).
    fn syncfs(&self) -> Call<()>;
    /// fstatfs(2), `f_type`.
    fn fs_type(&self) -> Call<u64>;
}

/// An open directory.
pub(super) trait Directory: Node + Sized {
    /// A file in it.
    type File: OpenFile;

    /// Opens a directory beneath this one; symlinks are followed as long as they stay beneath.
    fn open_beneath(&self, path: &Path) -> std::io::Result<Self>;
    /// Opens a directory beneath this one, or, by symlinks on the way, anywhere.
    fn open_anywhere(&self, path: &Path) -> Call<Self>;
    /// openat(2) of a directory; with O_PATH if it may not be read.
    fn open_dir_at(&self, name: &[u8]) -> Call<Self>;
    /// openat(2) of an existing entry.
    fn open_at(&self, name: &[u8], flags: OFlags) -> Call<Self::File>;
    /// openat(2) with `O_CREAT | O_EXCL`; the umask takes its part of `mode`.
    fn create_at(&self, name: &[u8], flags: OFlags, mode: u32) -> Call<Self::File>;
    /// fstatat(2).
    fn stat_at(&self, name: &[u8]) -> Call<Stat>;
    /// symlinkat(2).
    fn symlink_at(&self, target: &[u8], name: &[u8]) -> Call<()>;
    /// mknodat(2) of anything but a file or directory; the umask takes its part of `mode`.
    fn mknod_at(&self, name: &[u8], kind: FileType, mode: u32, device: u64) -> Call<()>;
    /// unlinkat(2) of anything but a directory.
    fn unlink_at(&self, name: &[u8]) -> Call<()>;
    /// unlinkat(2) of an empty directory.
    fn remove_dir_at(&self, name: &[u8]) -> Call<()>;
    /// getdents64(2): visits every name but `.` and `..`, until a visit fails.
    fn each_name(&self, visit: &mut dyn FnMut(&[u8]) -> Call<()>) -> Call<()>;
    /// renameat2(2) within this directory.
    fn rename_at(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Call<()>;
    /// linkat(2) within this directory.
    fn link_at(&self, from: &[u8], to: &[u8]) -> Call<()>;
    /// linkat(2) into another directory.
    fn link_into(&self, from: &[u8], dir: &Self, to: &[u8]) -> Call<()>;
    /// renameat(2) into another directory.
    fn rename_into(&self, from: &[u8], dir: &Self, to: &[u8]) -> Call<()>;
    /// mkdirat(2); the umask takes its part of `mode`.
    fn make_dir_at(&self, name: &[u8], mode: u32) -> Call<()>;
}

/// An open file. Offsets and lengths are bytes.
pub(super) trait OpenFile: Node {
    /// fdatasync(2).
    fn fdatasync(&self) -> Call<()>;
    /// ftruncate(2).
    fn ftruncate(&self, length: u64) -> Call<()>;
    /// flock(2).
    fn flock(&self, operation: FlockOperation) -> Call<()>;
    /// fcntl(2), F_OFD_SETLK over the whole file: locked from a commit's rename until the file is
    /// closed. It locks for writing if the file is open for that.
    fn lock_commit(&self) -> Call<()>;
    /// One pread(2): fewer bytes than asked for do not mean the end, none do.
    fn pread(&self, buffer: &mut [u8], offset: u64) -> Call<usize>;
    /// pwrite(2) until all is written.
    fn pwrite_all(&self, bytes: &[u8], offset: u64) -> Call<()>;
    /// One pwritev(2); returns the bytes written.
    fn pwritev(&self, parts: &[IoSlice<'_>], offset: u64) -> Call<usize>;
    /// ioctl(2), FICLONE: all blocks of `source` become this file's, too.
    fn clone_of(&self, source: &File) -> Call<()>;
    /// One copy_file_range(2) to the same offset; returns the bytes copied.
    fn copy_range(&self, source: &File, offset: u64, length: usize) -> Call<usize>;
}

/// Opens an entry for the first of these accesses that its mode allows; returns that access too.
pub(super) fn open_allowed<D: Directory>(
    dir: &D,
    name: &[u8],
    accesses: &[OFlags],
) -> Call<(D::File, OFlags)> {
    let mut last = Errno::ACCESS;
    for access in accesses {
        match dir.open_at(name, WARY | *access) {
            Err(e @ (Errno::ACCESS | Errno::ISDIR)) => last = e,
            other => return Ok((other?, *access)),
        }
    }
    Err(last)
}

/// Opens an entry for calls that need neither its content nor write access, such as fsync(2) and
/// fchmod(2).
pub(super) fn open_any<D: Directory>(dir: &D, name: &[u8]) -> Call<D::File> {
    open_allowed(dir, name, &[OFlags::RDONLY, OFlags::WRONLY]).map(|(file, _)| file)
}

/// Opens an entry of any kind, and nothing of what it leads to, to set its attributes.
pub(super) fn open_handle<D: Directory>(dir: &D, name: &[u8]) -> Call<D::File> {
    dir.open_at(name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)
}

/// unlink(2); an entry that does not exist is no error.
pub(super) fn remove_file(dir: &impl Directory, name: &[u8]) -> Call<()> {
    match dir.unlink_at(name) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
