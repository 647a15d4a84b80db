//! A file system in memory that forgets, at a power loss, what was not synced: data and names apart, each in any order.
//!
//! It keeps of every inode all contents, and of every name all inodes, since they were last synced. A power loss picks any of
//! them: page by page of a file, name by name of a directory. It has two devices; each has a type, a granularity of its
//! timestamps, and keeps a birth time or not. The numbers of inodes that are durably gone are used again at once.

use super::chance::Chance;
use super::{Birth, Call, Directory, Node, OpenFile};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags, RenameFlags, Stat, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that reach the disk together.
const PAGE: usize = 8;
/// The clock at the start, in nanoseconds, and how far each call moves it.
const EPOCH: u64 = 1_700_000_000_123_456_789;
const TICK: u64 = 40_000_000;
/// Of the first device that a world has, so that no two worlds share one.
static DEVICES: AtomicU64 = AtomicU64::new(1 << 40);

/// What a device is like.
#[derive(Clone, Debug)]
pub(in crate::store::local) struct Device {
    /// As statfs(2) has it; whether syncfs means anything follows from it.
    pub(in crate::store::local) fs_type: u64,
    /// Nanoseconds that its timestamps are multiples of.
    pub(in crate::store::local) granularity: u64,
    pub(in crate::store::local) has_birth: bool,
    /// syncfs(2) succeeds and does nothing, as over a FUSE whose daemon is not told.
    pub(in crate::store::local) syncfs_lies: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, usize>),
    Link(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Meta {
    mode: u32,
    mtime: u64,
    ctime: u64,
}

/// What was there, from the last sync on; the last one is now.
#[derive(Clone, Debug)]
struct Inode {
    number: u64,
    device: usize,
    birth: u64,
    bodies: Vec<Body>,
    metas: Vec<Meta>,
    /// The open file description that holds flock(2), and the one that holds the commit lock.
    locked: Option<u64>,
    committing: Option<u64>,
    opens: usize,
}

impl Inode {
    fn body(&self) -> &Body {
        self.bodies.last().unwrap()
    }

    fn meta(&self) -> Meta {
        *self.metas.last().unwrap()
    }

    fn names(&self) -> Call<&BTreeMap<Vec<u8>, usize>> {
        match self.body() {
            Body::Dir(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn data(&self) -> &[u8] {
        match self.body() {
            Body::File(data) => data,
            _ => &[],
        }
    }

    fn sync_data(&mut self) {
        self.bodies.drain(..self.bodies.len() - 1);
    }

    fn sync(&mut self) {
        self.sync_data();
        self.metas.drain(..self.metas.len() - 1);
    }
}

/// What happens at a call.
pub(in crate::store::local) type Intruder = Box<dyn FnOnce(&World) + Send>;

struct WorldState {
    chance: Chance,
    inodes: Vec<Option<Inode>>,
    devices: Vec<Device>,
    first_device: u64,
    free: Vec<(usize, u64)>,
    numbers: u64,
    opened: u64,
    clock: u64,
    /// Handles of an earlier life are dead: their process was killed.
    life: u64,
    calls: u64,
    /// From this call on every one fails without any effect: the machine has stopped.
    stops_at: u64,
    intruder: Option<(u64, Intruder)>,
    no_dir_sync: bool,
    /// This call fails, without any effect, and only this one.
    fails_at: u64,
}

/// A machine with its disks.
#[derive(Clone)]
pub(in crate::store::local) struct World(Arc<Mutex<WorldState>>);

/// An open file or directory of it.
pub(in crate::store::local) struct Handle {
    world: World,
    inode: usize,
    description: u64,
    life: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.world.0.lock();
        if state.life != self.life {
            return;
        }
        let description = self.description;
        if let Some(inode) = &mut state.inodes[self.inode] {
            inode.opens -= 1;
            inode.locked = inode.locked.filter(|by| *by != description);
            inode.committing = inode.committing.filter(|by| *by != description);
        }
        state.forget(self.inode);
    }
}

impl World {
    /// A root on the first device with the directory `sub`, and `mount`, where the second device is mounted.
    pub(in crate::store::local) fn new(seed: u64, devices: Vec<Device>) -> World {
        let first_device = DEVICES.fetch_add(devices.len() as u64, Ordering::Relaxed);
        let world = World(Arc::new(Mutex::new(WorldState {
            chance: Chance::new(seed),
            inodes: Vec::new(),
            devices,
            first_device,
            free: Vec::new(),
            numbers: 10,
            opened: 0,
            clock: EPOCH,
            life: 0,
            calls: 0,
            stops_at: u64::MAX,
            intruder: None,
            no_dir_sync: false,
            fails_at: 0,
        })));
        let mut state = world.0.lock();
        let root = state.make(0, Body::Dir(BTreeMap::new()), 0o755);
        for (device, name) in [(0, "sub"), (1, "mount")] {
            let made = state.make(device, Body::Dir(BTreeMap::new()), 0o755);
            state.name(root, name.as_bytes(), Some(made));
        }
        state.inodes.iter_mut().flatten().for_each(Inode::sync);
        drop(state);
        world
    }

    pub(in crate::store::local) fn root(&self) -> Handle {
        self.open(0)
    }

    /// The machine stops after so many more calls.
    pub(in crate::store::local) fn stop_after(&self, calls: u64) {
        let mut state = self.0.lock();
        state.stops_at = state.calls + calls;
    }

    /// The call that comes after so many more fails.
    pub(in crate::store::local) fn fail_after(&self, calls: u64) {
        let mut state = self.0.lock();
        state.fails_at = state.calls + calls + 1;
    }

    /// Runs something of another process before the call that comes after so many more.
    pub(in crate::store::local) fn intrude_after(&self, calls: u64, intruder: Intruder) {
        let mut state = self.0.lock();
        let at = state.calls + calls;
        state.intruder = Some((at, intruder));
    }

    /// Forgets a stop or an intruder that has not come; true when the machine has stopped.
    pub(in crate::store::local) fn calm(&self) -> bool {
        let mut state = self.0.lock();
        let stopped = state.calls >= state.stops_at;
        (state.stops_at, state.fails_at) = (u64::MAX, 0);
        state.intruder = None;
        stopped
    }

    /// From now on fsync of a directory fails.
    pub(in crate::store::local) fn fail_fsync_of_directories(&self) {
        self.0.lock().no_dir_sync = true;
    }

    /// All processes are killed. What they wrote is there.
    pub(in crate::store::local) fn kill(&self) {
        let mut state = self.0.lock();
        state.life += 1;
        for inode in state.inodes.iter_mut().flatten() {
            (inode.locked, inode.committing, inode.opens) = (None, None, 0);
        }
        for inode in 0..state.inodes.len() {
            state.forget(inode);
        }
    }

    /// The power is lost, and the machine is started again.
    pub(in crate::store::local) fn lose_power(&self) {
        self.kill();
        let mut state = self.0.lock();
        let WorldState { chance, inodes, .. } = &mut *state;
        for inode in inodes.iter_mut().flatten() {
            let body = match &inode.bodies[0] {
                Body::File(_) => Body::File(survivor(chance, &inode.bodies)),
                Body::Dir(_) => Body::Dir(surviving_names(chance, &inode.bodies)),
                link @ Body::Link(_) => link.clone(),
            };
            let meta = *chance.of(&inode.metas);
            (inode.bodies, inode.metas) = (vec![body], vec![meta]);
        }
        for inode in 0..state.inodes.len() {
            state.forget(inode);
        }
    }

    /// The content of a file, beneath the root; `None` if there is no such file.
    pub(in crate::store::local) fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let mut at = 0;
        for name in path.split('/') {
            at = *state.inode(at).ok()?.names().ok()?.get(name.as_bytes())?;
        }
        Some(state.inode(at).ok()?.data().to_vec())
    }

    fn open(&self, inode: usize) -> Handle {
        let mut state = self.0.lock();
        state.opened += 1;
        state.inodes[inode].as_mut().unwrap().opens += 1;
        Handle {
            world: self.clone(),
            inode,
            description: state.opened,
            life: state.life,
        }
    }
}

/// Of each page any content since the last sync, and any length.
fn survivor(chance: &mut Chance, bodies: &[Body]) -> Vec<u8> {
    let contents: Vec<&[u8]> = bodies
        .iter()
        .map(|body| match body {
            Body::File(data) => &data[..],
            _ => &[],
        })
        .collect();
    let mut kept = vec![0; chance.of(&contents).len()];
    for (i, page) in kept.chunks_mut(PAGE).enumerate() {
        let from = chance.of(&contents);
        let start = (i * PAGE).min(from.len());
        let here = &from[start..(start + page.len()).min(from.len())];
        page[..here.len()].copy_from_slice(here);
    }
    kept
}

/// Under each name anything that it led to since the last sync.
fn surviving_names(chance: &mut Chance, bodies: &[Body]) -> BTreeMap<Vec<u8>, usize> {
    let all: Vec<&BTreeMap<Vec<u8>, usize>> = bodies
        .iter()
        .filter_map(|body| match body {
            Body::Dir(names) => Some(names),
            _ => None,
        })
        .collect();
    let names: BTreeSet<&Vec<u8>> = all.iter().flat_map(|names| names.keys()).collect();
    let mut kept = BTreeMap::new();
    for name in names {
        if let Some(inode) = chance.of(&all).get(name) {
            kept.insert(name.clone(), *inode);
        }
    }
    kept
}

impl WorldState {
    fn inode(&self, inode: usize) -> Call<&Inode> {
        self.inodes[inode].as_ref().ok_or(Errno::NOENT)
    }

    fn now(&self, device: usize) -> u64 {
        self.clock / self.devices[device].granularity * self.devices[device].granularity
    }

    fn make(&mut self, device: usize, body: Body, mode: u32) -> usize {
        let now = self.now(device);
        let number = match self.free.iter().rposition(|(on, _)| *on == device) {
            Some(at) => self.free.remove(at).1,
            None => {
                self.numbers += 1;
                self.numbers
            }
        };
        let empty = match &body {
            Body::File(_) => Body::File(Vec::new()),
            other => other.clone(),
        };
        let meta = Meta {
            mode,
            mtime: now,
            ctime: now,
        };
        self.inodes.push(Some(Inode {
            number,
            device,
            birth: now,
            bodies: vec![empty, body],
            metas: vec![meta],
            locked: None,
            committing: None,
            opens: 0,
        }));
        self.inodes.len() - 1
    }

    fn name(&mut self, dir: usize, name: &[u8], inode: Option<usize>) {
        let dir = self.inodes[dir].as_mut().unwrap();
        let Body::Dir(mut names) = dir.body().clone() else {
            panic!()
        };
        let before = names.get(name).copied();
        match inode {
            Some(inode) => names.insert(name.to_vec(), inode),
            None => names.remove(name),
        };
        dir.bodies.push(Body::Dir(names));
        let now = self.now(self.inodes[inode.or(before).unwrap()].as_ref().unwrap().device);
        for touched in [before, inode].into_iter().flatten() {
            let inode = self.inodes[touched].as_mut().unwrap();
            inode.metas.push(Meta {
                ctime: now,
                ..inode.meta()
            });
            self.forget(touched);
        }
    }

    /// Frees an inode that no process has open and no name leads to, now or after a power loss.
    fn forget(&mut self, inode: usize) {
        let Some(found) = &self.inodes[inode] else { return };
        let named = |other: &Inode| {
            other
                .bodies
                .iter()
                .any(|body| matches!(body, Body::Dir(names) if names.values().any(|i| *i == inode)))
        };
        if inode == 0 || found.opens > 0 || self.inodes.iter().flatten().any(named) {
            return;
        }
        self.free.push((found.device, found.number));
        self.inodes[inode] = None;
    }

    fn links(&self, inode: usize) -> usize {
        let dirs = self.inodes.iter().flatten().filter_map(|i| i.names().ok());
        dirs.flat_map(|names| names.values()).filter(|i| **i == inode).count()
    }

    fn stat(&self, number: usize) -> Call<Stat> {
        let inode = self.inode(number)?;
        let mut stat = rustix::fs::stat("/")?;
        let kind = match inode.body() {
            Body::File(_) => 0o100_000,
            Body::Dir(_) => 0o040_000,
            Body::Link(_) => 0o120_000,
        };
        let meta = inode.meta();
        let time = |time: u64| ((time / 1_000_000_000).cast_signed(), time % 1_000_000_000);
        stat.st_dev = self.first_device + inode.device as u64;
        stat.st_ino = inode.number;
        stat.st_nlink = self.links(number) as u64;
        stat.st_uid = rustix::process::geteuid().as_raw();
        stat.st_mode = kind | meta.mode;
        stat.st_size = inode.data().len() as i64;
        (stat.st_mtime, stat.st_mtime_nsec) = time(meta.mtime);
        (stat.st_ctime, stat.st_ctime_nsec) = time(meta.ctime);
        Ok(stat)
    }
}

impl Handle {
    /// One call of a process that lives, on a machine that runs.
    fn call<T>(&self, call: impl FnOnce(&mut WorldState) -> Call<T>) -> Call<T> {
        let mut state = self.world.0.lock();
        let calls = state.calls;
        let is_due = |(at, _): &mut (u64, Intruder)| *at <= calls;
        if state.life == self.life
            && let Some((_, intruder)) = state.intruder.take_if(is_due)
        {
            drop(state);
            intruder(&self.world);
            state = self.world.0.lock();
        }
        state.calls += 1;
        state.clock += TICK;
        let fails = state.calls == state.fails_at;
        if state.life != self.life || state.calls > state.stops_at || fails {
            return Err(Errno::IO);
        }
        call(&mut state)
    }

    fn change(&self, change: impl FnOnce(&mut Inode, u64)) -> Call<()> {
        self.call(|state| {
            let device = state.inode(self.inode)?.device;
            let now = state.now(device);
            change(state.inodes[self.inode].as_mut().unwrap(), now);
            Ok(())
        })
    }

    /// Changes the content; modification and change time are now.
    fn edit(&self, edit: impl FnOnce(&mut Vec<u8>)) -> Call<()> {
        self.change(|inode, now| {
            let mut data = inode.data().to_vec();
            edit(&mut data);
            inode.bodies.push(Body::File(data));
            let mode = inode.meta().mode;
            inode.metas.push(Meta {
                mode,
                mtime: now,
                ctime: now,
            });
        })
    }

    /// The inode under a name in this directory.
    fn find(&self, state: &WorldState, name: &[u8]) -> Call<usize> {
        let dir = state.inode(self.inode)?;
        dir.names()?.get(name).copied().ok_or(Errno::NOENT)
    }

    fn add(&self, name: &[u8], body: Body, mode: u32) -> Call<usize> {
        self.call(|state| {
            if self.find(state, name).is_ok() {
                return Err(Errno::EXIST);
            }
            let device = state.inode(self.inode)?.device;
            let made = state.make(device, body, mode);
            state.name(self.inode, name, Some(made));
            Ok(made)
        })
    }
}

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
            let mtime = inode.meta().mtime;
            inode.metas.push(Meta {
                mode,
                mtime,
                ctime: now,
            });
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
            let mode = inode.meta().mode;
            inode.metas.push(Meta {
                mode,
                mtime: nanos / coarse * coarse,
                ctime: now,
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

    fn open_dir_at(&self, name: &[u8]) -> Call<Handle> {
        let found = self.call(|state| {
            let found = self.find(state, name)?;
            state.inode(found)?.names().map(|_| found)
        })?;
        Ok(self.world.open(found))
    }

    fn open_at(&self, name: &[u8], _: OFlags) -> Call<Handle> {
        let found = self.call(|state| {
            let found = self.find(state, name)?;
            match state.inode(found)?.body() {
                Body::Link(_) => Err(Errno::LOOP),
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
        self.add(name, Body::Link(target.to_vec()), 0o777).map(drop)
    }

    fn utimens_at(&self, name: &[u8], times: &Timestamps) -> Call<()> {
        let found = self.call(|state| self.find(state, name))?;
        self.world.open(found).futimens(times)
    }

    fn unlink_at(&self, name: &[u8]) -> Call<()> {
        self.call(|state| {
            self.find(state, name)?;
            state.name(self.inode, name, None);
            Ok(())
        })
    }

    fn rename_at(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Call<()> {
        self.call(|state| {
            let moved = self.find(state, from)?;
            if flags.contains(RenameFlags::NOREPLACE) && self.find(state, to).is_ok() {
                return Err(Errno::EXIST);
            }
            state.name(self.inode, to, Some(moved));
            state.name(self.inode, from, None);
            Ok(())
        })
    }

    fn link_at(&self, from: &[u8], to: &[u8]) -> Call<()> {
        self.call(|state| {
            let linked = self.find(state, from)?;
            if self.find(state, to).is_ok() {
                return Err(Errno::EXIST);
            }
            state.name(self.inode, to, Some(linked));
            Ok(())
        })
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
}
