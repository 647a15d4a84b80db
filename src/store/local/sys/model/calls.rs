//! The system calls of the model.

use super::inode::{Body, Inode, Meta};
use super::world::Handle;
use crate::store::local::sys::{Birth, Call, Directory, Node, OpenFile};
use rustix::fs::{FileType, FlockOperation, OFlags, RenameFlags, Stat, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSlice;
use std::path::Path;

impl Node for Handle {
    fn fstat(&self) -> Call<Stat> {
        self.call(|state| state.stat(self.inode))
    }

    fn birth(&self) -> Option<Birth> {
        let found = self.call(|state| {
            let inode = state.inode(self.inode)?;
            let known = state.devices[inode.device].has_birth;
            Ok(known.then_some((inode.birth / 1_000_000_000, inode.birth % 1_000_000_000)))
        });
        let (secs, nanos) = found.ok().flatten()?;
        Some((secs.cast_signed(), nanos as u32))
    }

    fn fchmod(&self, mode: u32) -> Call<()> {
        self.change(|inode, now| {
            inode.metas.push(Meta {
                mode,
                ctime: now,
                ..inode.meta()
            });
        })
    }

    fn fchown(&self, uid: Option<u32>, gid: Option<u32>) -> Call<()> {
        self.change(|inode, now| {
            let before = inode.meta();
            inode.metas.push(Meta {
                owner: (uid.or(before.owner.0), gid.or(before.owner.1)),
                ctime: now,
                ..before
            });
        })
    }

    fn xattr_names(&self) -> Call<Vec<Vec<u8>>> {
        self.call(|state| Ok(state.inode(self.inode)?.meta().xattrs.into_keys().collect()))
    }

    fn xattr(&self, name: &[u8]) -> Call<Vec<u8>> {
        self.call(|state| {
            let mut all = state.inode(self.inode)?.meta().xattrs;
            all.remove(name).ok_or(Errno::NODATA)
        })
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Call<()> {
        self.change(|inode, now| {
            let mut meta = inode.meta();
            meta.xattrs.insert(name.to_vec(), value.to_vec());
            meta.ctime = now;
            inode.metas.push(meta);
        })
    }

    fn remove_xattr(&self, name: &[u8]) -> Call<()> {
        self.change(|inode, now| {
            let mut meta = inode.meta();
            meta.xattrs.remove(name);
            meta.ctime = now;
            inode.metas.push(meta);
        })
    }

    fn futimens(&self, times: &Timestamps) -> Call<()> {
        let wanted = times.last_modification;
        if wanted.tv_nsec == UTIME_OMIT {
            return Ok(());
        }
        let nanos = wanted.tv_sec.cast_unsigned() * 1_000_000_000 + wanted.tv_nsec.cast_unsigned();
        self.call(|state| {
            let device = state.inode(self.inode)?.device;
            let (now, coarse) = (state.now(device), state.devices[device].granularity);
            let inode = state.inodes[self.inode].as_mut().unwrap();
            inode.metas.push(Meta {
                mtime: nanos / coarse * coarse,
                ctime: now,
                ..inode.meta()
            });
            Ok(())
        })
    }

    fn fsync(&self) -> Call<()> {
        self.call(|state| match state.inode(self.inode)?.body() {
            Body::Dir(_) if state.no_dir_sync => Err(Errno::IO),
            _ => Ok(()),
        })?;
        self.change(|inode, _| inode.sync())
    }

    fn syncfs(&self) -> Call<()> {
        self.call(|state| {
            let device = state.inode(self.inode)?.device;
            if !state.devices[device].syncfs_lies {
                let on = |inode: &&mut Inode| inode.device == device;
                state.inodes.iter_mut().flatten().filter(on).for_each(Inode::sync);
            }
            Ok(())
        })
    }

    fn fs_type(&self) -> Call<u64> {
        self.call(|state| Ok(state.devices[state.inode(self.inode)?.device].fs_type))
    }
}

impl Directory for Handle {
    type File = Handle;

    fn open_beneath(&self, _: &Path) -> std::io::Result<Handle> {
        Err(Errno::NOSYS.into())
    }

    fn open_anywhere(&self, _: &Path) -> Call<Handle> {
        Err(Errno::NOSYS)
    }

    fn open_dir_at(&self, name: &[u8]) -> Call<Handle> {
        let found = self.call(|state| {
            let found = self.find(state, name)?;
            state.inode(found)?.names().map(|_| found)
        })?;
        Ok(self.world.open(found))
    }

    /// Every process is the owner's, and not root's.
    fn open_at(&self, name: &[u8], flags: OFlags) -> Call<Handle> {
        let access = match flags & OFlags::RWMODE {
            OFlags::RDWR => 0o600,
            OFlags::WRONLY => 0o200,
            _ => 0o400,
        };
        let found = self.call(|state| {
            let found = self.find(state, name)?;
            let inode = state.inode(found)?;
            match inode.body() {
                _ if flags.contains(OFlags::PATH) => Ok(found),
                Body::Symlink(_) => Err(Errno::LOOP),
                _ if inode.meta().mode & access != access => Err(Errno::ACCESS),
                _ => Ok(found),
            }
        })?;
        Ok(self.world.open(found))
    }

    fn create_at(&self, name: &[u8], _: OFlags, mode: u32) -> Call<Handle> {
        let made = self.add(name, Body::File(Vec::new()), mode)?;
        Ok(self.world.open(made))
    }

    fn stat_at(&self, name: &[u8]) -> Call<Stat> {
        self.call(|state| state.stat(self.find(state, name)?))
    }

    fn symlink_at(&self, target: &[u8], name: &[u8]) -> Call<()> {
        self.add(name, Body::Symlink(target.to_vec()), 0o777).map(drop)
    }

    fn mknod_at(&self, name: &[u8], kind: FileType, mode: u32, _: u64) -> Call<()> {
        self.add(name, Body::Special(kind.as_raw_mode()), mode).map(drop)
    }

    fn unlink_at(&self, name: &[u8]) -> Call<()> {
        self.call(|state| {
            let found = self.find(state, name)?;
            if state.inode(found)?.names().is_ok() {
                return Err(Errno::ISDIR);
            }
            state.name(self.inode, name, None);
            Ok(())
        })
    }

    fn remove_dir_at(&self, name: &[u8]) -> Call<()> {
        self.call(|state| {
            let found = self.find(state, name)?;
            if !state.inode(found)?.names()?.is_empty() {
                return Err(Errno::NOTEMPTY);
            }
            state.name(self.inode, name, None);
            Ok(())
        })
    }

    fn each_name(&self, visit: &mut dyn FnMut(&[u8]) -> Call<()>) -> Call<()> {
        let names: Vec<Vec<u8>> =
            self.call(|state| Ok(state.inode(self.inode)?.names()?.keys().cloned().collect()))?;
        names.iter().try_for_each(|name| visit(name))
    }

    fn rename_at(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Call<()> {
        self.call(|state| {
            let moved = self.find(state, from)?;
            if flags.contains(RenameFlags::NOREPLACE) && self.find(state, to).is_ok() {
                return Err(Errno::EXIST);
            }
            state.may_replace(moved, self.find(state, to).ok())?;
            state.name(self.inode, to, Some(moved));
            state.name(self.inode, from, None);
            Ok(())
        })
    }

    fn link_at(&self, from: &[u8], to: &[u8]) -> Call<()> {
        self.link_into(from, self, to)
    }

    fn link_into(&self, from: &[u8], dir: &Handle, to: &[u8]) -> Call<()> {
        self.call(|state| {
            let linked = self.find(state, from)?;
            if state.no_links {
                return Err(Errno::PERM);
            }
            if dir.find(state, to).is_ok() {
                return Err(Errno::EXIST);
            }
            if state.inode(linked)?.device != state.inode(dir.inode)?.device {
                return Err(Errno::XDEV);
            }
            state.name(dir.inode, to, Some(linked));
            Ok(())
        })
    }

    fn rename_into(&self, from: &[u8], dir: &Handle, to: &[u8]) -> Call<()> {
        self.call(|state| {
            let moved = self.find(state, from)?;
            if state.inode(moved)?.device != state.inode(dir.inode)?.device {
                return Err(Errno::XDEV);
            }
            state.may_replace(moved, dir.find(state, to).ok())?;
            // two names of one file stay as they are
            if dir.find(state, to) != Ok(moved) {
                state.name(dir.inode, to, Some(moved));
                state.name(self.inode, from, None);
            }
            Ok(())
        })
    }

    fn make_dir_at(&self, name: &[u8], mode: u32) -> Call<()> {
        self.add(name, Body::Dir(BTreeMap::new()), mode).map(drop)
    }
}

impl OpenFile for Handle {
    fn fdatasync(&self) -> Call<()> {
        self.change(|inode, _| inode.sync_data())
    }

    fn ftruncate(&self, length: u64) -> Call<()> {
        self.edit(|data| data.resize(length as usize, 0))
    }

    fn flock(&self, operation: FlockOperation) -> Call<()> {
        assert_eq!(operation, FlockOperation::NonBlockingLockExclusive);
        self.call(|state| {
            let inode = state.inodes[self.inode].as_mut().unwrap();
            match inode.locked {
                Some(by) if by != self.description => Err(Errno::WOULDBLOCK),
                _ => {
                    inode.locked = Some(self.description);
                    Ok(())
                }
            }
        })
    }

    fn lock_commit(&self) -> Call<()> {
        self.call(|state| {
            let inode = state.inodes[self.inode].as_mut().unwrap();
            match inode.committing {
                Some(by) if by != self.description => Err(Errno::AGAIN),
                _ => {
                    inode.committing = Some(self.description);
                    Ok(())
                }
            }
        })
    }

    fn pread(&self, buffer: &mut [u8], offset: u64) -> Call<usize> {
        self.call(|state| {
            let data = state.inode(self.inode)?.data();
            let rest = data.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        })
    }

    fn pwrite_all(&self, bytes: &[u8], offset: u64) -> Call<()> {
        self.edit(|data| {
            let end = offset as usize + bytes.len();
            if data.len() < end {
                data.resize(end, 0);
            }
            data[offset as usize..end].copy_from_slice(bytes);
        })
    }

    fn pwritev(&self, parts: &[IoSlice<'_>], offset: u64) -> Call<usize> {
        let bytes = parts.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>();
        self.pwrite_all(&bytes, offset)?;
        Ok(bytes.len())
    }

    fn clone_of(&self, _: &File) -> Call<()> {
        Err(Errno::XDEV)
    }

    fn copy_range(&self, _: &File, _: u64, _: usize) -> Call<usize> {
        Err(Errno::XDEV)
    }
}
