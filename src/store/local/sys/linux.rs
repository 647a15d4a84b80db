//! Linux answers: every call is the one of its name, repeated when a signal interrupted it.

use super::{Birth, Call, Directory, Node, OpenFile};
use cap_std::fs::Dir;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Stat, StatxFlags,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What most lists and values of extended attributes fit into, and what all do.
const SHORT_XATTR: usize = 512;
const MAX_XATTR: usize = 64 << 10;

/// Repeats a call that a signal interrupted.
pub fn retry<T>(mut call: impl FnMut() -> Call<T>) -> Call<T> {
    rustix::io::retry_on_intr(&mut call)
}

/// openat(2) of an entry that exists.
pub fn open_in(dir: &Dir, name: &[u8], flags: OFlags) -> Call<OwnedFd> {
    retry(|| rustix::fs::openat(dir, name, flags, Mode::empty()))
}

/// Returns a handle that can be listed and synced: cap-std opens its own with O_PATH. A directory
/// that may not be read keeps its handle, which still opens its entries by name.
pub fn readable(dir: Dir) -> Dir {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match open_in(&dir, b".", flags) {
        Ok(fd) => Dir::from_std_file(fd.into()),
        Err(_) => dir,
    }
}

/// Opens a directory. One that may not be read keeps a handle with which what is in it can still be
/// opened by name.
fn open_dir(dir: &Dir, path: &[u8], flags: OFlags) -> Call<Dir> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match open_in(dir, path, flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => open_in(dir, path, flags | OFlags::PATH),
        other => other,
    };
    Ok(Dir::from_std_file(fd?.into()))
}

fn birth(fd: &impl AsFd) -> Option<Birth> {
    let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

/// What remains of a sync call on an O_PATH handle, of a directory that may not be read: everything
/// is synced.
fn or_sync_all(synced: Call<()>) -> Call<()> {
    match synced {
        Err(Errno::BADF) => {
            rustix::fs::sync();
            Ok(())
        }
        other => other,
    }
}

/// Repeats a call that an O_PATH handle refused, by the handle's own path in /proc: that leads to
/// what is open, whatever its name leads to by now.
fn or_by_handle<T>(
    fd: &impl AsFd,
    called: Call<T>,
    by_path: impl Fn(PathBuf) -> Call<T>,
) -> Call<T> {
    match called {
        Err(Errno::BADF) => by_path(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()),
        other => other,
    }
}

/// Reads what has most often few bytes, and never more than [`MAX_XATTR`].
fn read_xattr(read: impl Fn(&mut [u8]) -> Call<usize>) -> Call<Vec<u8>> {
    let mut bytes = vec![0; SHORT_XATTR];
    let length = match read(&mut bytes) {
        Err(Errno::RANGE) => {
            bytes.resize(MAX_XATTR, 0);
            read(&mut bytes)
        }
        other => other,
    }?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Divides the result of listxattr(2).
fn names_of(list: &[u8]) -> Vec<Vec<u8>> {
    let names = list.split(|byte| *byte == 0);
    names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

macro_rules! node {
    ($type:ty) => {
        impl Node for $type {
            fn fstat(&self) -> Call<Stat> {
                rustix::fs::fstat(self)
            }

            fn birth(&self) -> Option<Birth> {
                birth(self)
            }

            fn fchmod(&self, mode: u32) -> Call<()> {
                let mode = Mode::from_raw_mode(mode);
                let by_path = |path| rustix::fs::chmodat(CWD, path, mode, AtFlags::empty());
                or_by_handle(self, rustix::fs::fchmod(self, mode), by_path)
            }

            fn fchown(&self, uid: Option<u32>, gid: Option<u32>) -> Call<()> {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                rustix::fs::chownat(self, "", uid, gid, AtFlags::EMPTY_PATH)
            }

            fn xattr_names(&self) -> Call<Vec<Vec<u8>>> {
                let by_handle = read_xattr(|list| rustix::fs::flistxattr(self, list));
                let by_path = |path: PathBuf| read_xattr(|list| rustix::fs::listxattr(&path, list));
                Ok(names_of(&or_by_handle(self, by_handle, by_path)?))
            }

            fn xattr(&self, name: &[u8]) -> Call<Vec<u8>> {
                let by_handle = read_xattr(|value| rustix::fs::fgetxattr(self, name, value));
                let by_path =
                    |path: PathBuf| read_xattr(|value| rustix::fs::getxattr(&path, name, value));
                or_by_handle(self, by_handle, by_path)
            }

            fn set_xattr(&self, name: &[u8], value: &[u8]) -> Call<()> {
                let set = rustix::fs::fsetxattr(self, name, value, XattrFlags::empty());
                let by_path =
                    |path: PathBuf| rustix::fs::setxattr(&path, name, value, XattrFlags::empty());
                or_by_handle(self, set, by_path)
            }

            fn remove_xattr(&self, name: &[u8]) -> Call<()> {
                let removed = rustix::fs::fremovexattr(self, name);
                let by_path = |path: PathBuf| rustix::fs::removexattr(&path, name);
                or_by_handle(self, removed, by_path)
            }

            fn futimens(&self, times: &Timestamps) -> Call<()> {
                let by_path = |path| rustix::fs::utimensat(CWD, path, times, AtFlags::empty());
                or_by_handle(self, rustix::fs::futimens(self, times), by_path)
            }

            fn fsync(&self) -> Call<()> {
                or_sync_all(rustix::fs::fsync(self))
            }

            fn syncfs(&self) -> Call<()> {
                or_sync_all(rustix::fs::syncfs(self))
            }

            fn fs_type(&self) -> Call<u64> {
                let found = rustix::fs::fstatfs(self)?;
                u64::try_from(found.f_type).map_err(|_| Errno::OVERFLOW)
            }
        }
    };
}

node!(Dir);
node!(File);

impl Directory for Dir {
    type File = File;

    fn open_beneath(&self, path: &Path) -> std::io::Result<Dir> {
        Ok(readable(self.open_dir(path)?))
    }

    fn open_anywhere(&self, path: &Path) -> Call<Dir> {
        open_dir(self, path.as_os_str().as_bytes(), OFlags::empty())
    }

    fn open_dir_at(&self, name: &[u8]) -> Call<Dir> {
        open_dir(self, name, OFlags::NOFOLLOW)
    }

    fn open_at(&self, name: &[u8], flags: OFlags) -> Call<File> {
        Ok(open_in(self, name, flags)?.into())
    }

    fn create_at(&self, name: &[u8], flags: OFlags, mode: u32) -> Call<File> {
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        Ok(retry(|| rustix::fs::openat(self, name, flags, Mode::from_raw_mode(mode)))?.into())
    }

    fn stat_at(&self, name: &[u8]) -> Call<Stat> {
        rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn symlink_at(&self, target: &[u8], name: &[u8]) -> Call<()> {
        retry(|| rustix::fs::symlinkat(target, self, name))
    }

    fn mknod_at(&self, name: &[u8], kind: FileType, mode: u32, device: u64) -> Call<()> {
        let mode = Mode::from_raw_mode(mode);
        retry(|| rustix::fs::mknodat(self, name, kind, mode, device))
    }

    fn unlink_at(&self, name: &[u8]) -> Call<()> {
        rustix::fs::unlinkat(self, name, AtFlags::empty())
    }

    fn remove_dir_at(&self, name: &[u8]) -> Call<()> {
        rustix::fs::unlinkat(self, name, AtFlags::REMOVEDIR)
    }

    fn each_name(&self, visit: &mut dyn FnMut(&[u8]) -> Call<()>) -> Call<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for next in rustix::fs::Dir::new(open_in(self, b".", flags)?)? {
            let next = next?;
            match next.file_name().to_bytes() {
                b"." | b".." => {}
                name => visit(name)?,
            }
        }
        Ok(())
    }

    fn rename_at(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Call<()> {
        match flags.is_empty() {
            // older kernels and some file systems have no renameat2
            true => retry(|| rustix::fs::renameat(self, from, self, to)),
            false => retry(|| rustix::fs::renameat_with(self, from, self, to, flags)),
        }
    }

    fn link_at(&self, from: &[u8], to: &[u8]) -> Call<()> {
        self.link_into(from, self, to)
    }

    fn link_into(&self, from: &[u8], dir: &Dir, to: &[u8]) -> Call<()> {
        retry(|| rustix::fs::linkat(self, from, dir, to, AtFlags::empty()))
    }

    fn rename_into(&self, from: &[u8], dir: &Dir, to: &[u8]) -> Call<()> {
        retry(|| rustix::fs::renameat(self, from, dir, to))
    }

    fn make_dir_at(&self, name: &[u8], mode: u32) -> Call<()> {
        retry(|| rustix::fs::mkdirat(self, name, Mode::from_raw_mode(mode)))
    }
}

impl OpenFile for File {
    fn fdatasync(&self) -> Call<()> {
        rustix::fs::fdatasync(self)
    }

    fn ftruncate(&self, length: u64) -> Call<()> {
        retry(|| rustix::fs::ftruncate(self, length))
    }

    fn flock(&self, operation: FlockOperation) -> Call<()> {
        rustix::fs::flock(self, operation)
    }

    fn lock_commit(&self) -> Call<()> {
        let lock = |kind: i32| {
            let whole = nix::libc::flock {
                l_type: kind as nix::libc::c_short,
                l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            let locked = fcntl(self, FcntlArg::F_OFD_SETLK(&whole));
            locked.map(drop).map_err(|e| Errno::from_raw_os_error(e as i32))
        };
        match lock(nix::libc::F_WRLCK) {
            Err(Errno::BADF) => lock(nix::libc::F_RDLCK),
            other => other,
        }
    }

    fn pread(&self, buffer: &mut [u8], offset: u64) -> Call<usize> {
        retry(|| rustix::io::pread(self, &mut *buffer, offset))
    }

    fn pwrite_all(&self, mut bytes: &[u8], mut offset: u64) -> Call<()> {
        while !bytes.is_empty() {
            let n = retry(|| rustix::io::pwrite(self, bytes, offset))?;
            if n == 0 {
                return Err(Errno::IO);
            }
            bytes = bytes.get(n..).unwrap_or_default();
            offset = offset.saturating_add(n as u64);
        }
        Ok(())
    }

    fn pwritev(&self, parts: &[IoSlice<'_>], offset: u64) -> Call<usize> {
        retry(|| rustix::io::pwritev(self, parts, offset))
    }

    fn clone_of(&self, source: &File) -> Call<()> {
        retry(|| rustix::fs::ioctl_ficlone(self, source))
    }

    fn copy_range(&self, source: &File, offset: u64, length: usize) -> Call<usize> {
        retry(|| {
            let (mut from, mut to) = (offset, offset);
            rustix::fs::copy_file_range(source, Some(&mut from), self, Some(&mut to), length)
        })
    }
}
