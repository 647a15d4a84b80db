//! A machine of the model: its disks, its processes, and its faults.

use super::chance::Chance;
use super::device::Device;
use super::inode::{Body, Inode, Meta, surviving_names, survivor};
use crate::store::local::sys::Call;
use parking_lot::Mutex;
use rustix::fs::Stat;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The clock at the start, in nanoseconds, and the time that each call takes.
const EPOCH: u64 = 1_700_000_000_123_456_789;
const TICK: u64 = 40_000_000;
/// The number of the next device, so that no two worlds share one.
static DEVICES: AtomicU64 = AtomicU64::new(1 << 40);

/// Another process, which runs before a call.
pub(in crate::store::local) type Intruder = Box<dyn FnOnce(&World) + Send>;

pub(super) struct WorldState {
    pub(super) chance: Chance,
    pub(super) inodes: Vec<Option<Inode>>,
    pub(super) devices: Vec<Device>,
    pub(super) first_device: u64,
    pub(super) free: Vec<(usize, u64)>,
    pub(super) numbers: u64,
    pub(super) opened: u64,
    pub(super) clock: u64,
    /// Handles of an earlier life are dead: their process was killed.
    pub(super) life: u64,
    pub(super) calls: u64,
    /// From this call on every call fails without any effect: the machine has stopped.
    pub(super) stops_at: u64,
    pub(super) intruder: Option<(u64, Intruder)>,
    pub(super) no_dir_sync: bool,
    /// The file systems have no hard links.
    pub(super) no_links: bool,
    /// These calls fail, without any effect, and only these.
    pub(super) failing: Range<u64>,
}

/// A machine with its disks.
#[derive(Clone)]
pub(in crate::store::local) struct World(Arc<Mutex<WorldState>>);

/// An open file or directory of a [`World`].
pub(in crate::store::local) struct Handle {
    pub(super) world: World,
    pub(super) inode: usize,
    pub(super) description: u64,
    pub(super) life: u64,
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
    /// Makes a root on the first device with the directories `sub` and `mount`; the second device
    /// is mounted on `mount`.
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
            no_links: false,
            failing: 0..0,
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

    /// Stops the machine after this many more calls.
    pub(in crate::store::local) fn stop_after(&self, calls: u64) {
        let mut state = self.0.lock();
        state.stops_at = state.calls + calls;
    }

    /// Fails the call that comes after this many more.
    pub(in crate::store::local) fn fail_after(&self, calls: u64) {
        self.fail_some_after(calls, 1);
    }

    /// Fails so many calls, after this many more.
    pub(in crate::store::local) fn fail_some_after(&self, calls: u64, count: u64) {
        let mut state = self.0.lock();
        let first = state.calls + calls + 1;
        state.failing = first..first + count;
    }

    /// Runs another process before the call that comes after this many more.
    pub(in crate::store::local) fn intrude_after(&self, calls: u64, intruder: Intruder) {
        let mut state = self.0.lock();
        let at = state.calls + calls;
        state.intruder = Some((at, intruder));
    }

    /// Cancels faults that have not occurred; true if the machine has stopped.
    pub(in crate::store::local) fn calm(&self) -> bool {
        let mut state = self.0.lock();
        let stopped = state.calls >= state.stops_at;
        (state.stops_at, state.failing) = (u64::MAX, 0..0);
        state.intruder = None;
        stopped
    }

    /// Fails every later fsync of a directory.
    pub(in crate::store::local) fn fail_fsync_of_directories(&self) {
        self.0.lock().no_dir_sync = true;
    }

    /// Fails every later link(2).
    pub(in crate::store::local) fn refuse_links(&self) {
        self.0.lock().no_links = true;
    }

    /// Kills all processes. The data that they wrote stays.
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

    /// Loses the power, and restarts the machine.
    pub(in crate::store::local) fn lose_power(&self) {
        self.kill();
        let mut state = self.0.lock();
        let WorldState { chance, inodes, .. } = &mut *state;
        for inode in inodes.iter_mut().flatten() {
            let body = match &inode.bodies[0] {
                Body::File(_) => Body::File(survivor(chance, &inode.bodies)),
                Body::Dir(_) => Body::Dir(surviving_names(chance, &inode.bodies)),
                other @ (Body::Symlink(_) | Body::Special(_)) => other.clone(),
            };
            let meta = chance.of(&inode.metas).clone();
            (inode.bodies, inode.metas) = (vec![body], vec![meta]);
        }
        for inode in 0..state.inodes.len() {
            state.forget(inode);
        }
    }

    /// Returns the content of a file beneath the root; `None` if there is no such file.
    pub(in crate::store::local) fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let mut at = 0;
        for name in path.split('/') {
            at = *state.inode(at).ok()?.names().ok()?.get(name.as_bytes())?;
        }
        Some(state.inode(at).ok()?.data().to_vec())
    }

    pub(super) fn open(&self, inode: usize) -> Handle {
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

impl WorldState {
    pub(super) fn inode(&self, inode: usize) -> Call<&Inode> {
        self.inodes[inode].as_ref().ok_or(Errno::NOENT)
    }

    pub(super) fn now(&self, device: usize) -> u64 {
        self.clock / self.devices[device].granularity * self.devices[device].granularity
    }

    pub(super) fn make(&mut self, device: usize, body: Body, mode: u32) -> usize {
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
            ..Meta::default()
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

    pub(super) fn name(&mut self, dir: usize, name: &[u8], inode: Option<usize>) {
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

    /// Whether rename(2) may put an inode in the place of another one.
    pub(super) fn may_replace(&self, moved: usize, replaced: Option<usize>) -> Call<()> {
        let Some(replaced) = replaced else {
            return Ok(());
        };
        let is_dir = self.inode(moved)?.names().is_ok();
        match (is_dir, self.inode(replaced)?.names()) {
            (true, Err(_)) => Err(Errno::NOTDIR),
            (true, Ok(names)) if !names.is_empty() => Err(Errno::NOTEMPTY),
            (false, Ok(_)) => Err(Errno::ISDIR),
            _ => Ok(()),
        }
    }

    /// Frees an inode that no process has open and no name leads to, now or after a power loss.
    pub(super) fn forget(&mut self, inode: usize) {
        let Some(found) = &self.inodes[inode] else {
            return;
        };
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

    pub(super) fn links(&self, inode: usize) -> usize {
        let dirs = self.inodes.iter().flatten().filter_map(|i| i.names().ok());
        dirs.flat_map(|names| names.values()).filter(|i| **i == inode).count()
    }

    pub(super) fn stat(&self, number: usize) -> Call<Stat> {
        let inode = self.inode(number)?;
        let mut stat = rustix::fs::stat("/")?;
        let kind = match inode.body() {
            Body::File(_) => 0o100_000,
            Body::Dir(_) => 0o040_000,
            Body::Symlink(_) => 0o120_000,
            Body::Special(kind) => *kind,
        };
        let meta = inode.meta();
        let time = |time: u64| ((time / 1_000_000_000).cast_signed(), time % 1_000_000_000);
        stat.st_dev = self.first_device + inode.device as u64;
        stat.st_ino = inode.number;
        stat.st_nlink = self.links(number) as u64;
        let (uid, gid) = meta.owner;
        stat.st_uid = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        stat.st_gid = gid.unwrap_or_else(|| rustix::process::getegid().as_raw());
        stat.st_mode = kind | meta.mode;
        stat.st_size = inode.data().len() as i64;
        (stat.st_mtime, stat.st_mtime_nsec) = time(meta.mtime);
        (stat.st_ctime, stat.st_ctime_nsec) = time(meta.ctime);
        Ok(stat)
    }
}

impl Handle {
    /// Makes one call of a process that lives, on a machine that runs.
    pub(super) fn call<T>(&self, call: impl FnOnce(&mut WorldState) -> Call<T>) -> Call<T> {
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
        let fails = state.failing.contains(&state.calls);
        if state.life != self.life || state.calls > state.stops_at || fails {
            return Err(Errno::IO);
        }
        call(&mut state)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Inode, u64)) -> Call<()> {
        self.call(|state| {
            let device = state.inode(self.inode)?.device;
            let now = state.now(device);
            change(state.inodes[self.inode].as_mut().unwrap(), now);
            Ok(())
        })
    }

    /// Changes the content, and sets modification and change time to now.
    pub(super) fn edit(&self, edit: impl FnOnce(&mut Vec<u8>)) -> Call<()> {
        self.change(|inode, now| {
            let mut data = inode.data().to_vec();
            edit(&mut data);
            inode.bodies.push(Body::File(data));
            inode.metas.push(Meta {
                mtime: now,
                ctime: now,
                ..inode.meta()
            });
        })
    }

    /// Returns the inode of a name in this directory.
    pub(super) fn find(&self, state: &WorldState, name: &[u8]) -> Call<usize> {
        let dir = state.inode(self.inode)?;
        dir.names()?.get(name).copied().ok_or(Errno::NOENT)
    }

    pub(super) fn add(&self, name: &[u8], body: Body, mode: u32) -> Call<usize> {
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
