//! Makes a group of small files durable: with an fsync(2) each, or with one syncfs(2) for all of a
//! device, whichever costs less there. File systems that are not known to honour syncfs(2) get
//! fsync: FUSE does not pass it on to its daemon.
//!
//! Each fsync flushes the disk's cache once. syncfs does so once per group, but also writes the
//! data of other programs. Which is cheaper depends on the file system, the disk and the other
//! programs, so it is measured.

use super::sys::Node;
use crate::store::local::fs_type::honours_syncfs;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Groups smaller than this are synced file by file.
const LEAST: usize = 8;
/// One in this many groups is synced in the seemingly dearer way, to measure that again.
const REMEASURE: u64 = 32;
/// A syncfs that takes longer has written the data of other programs: it is not used again.
const TOO_LONG: Duration = Duration::from_millis(500);
/// Before Linux 5.17 syncfs(2) does not report every error: `sync_filesystem` dropped those of
/// `->sync_fs`, and before 5.8 those of writing data back.
const RELIABLE: (u32, u32) = (5, 17);

static IS_RELIABLE: LazyLock<bool> = LazyLock::new(|| {
    let system = rustix::system::uname();
    let release = system.release().to_str().unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= RELIABLE
});

/// The measured cost of syncing, for one transfer, on each device that it writes to.
#[derive(Default)]
pub(super) struct Flush {
    devices: Mutex<HashMap<u64, Arc<DeviceFlush>>>,
}

/// The same, for one device.
#[derive(Default)]
struct DeviceFlush {
    /// syncfs(2) makes everything durable there.
    syncfs: bool,
    /// Nanoseconds per file, averaged; 0 if not measured yet.
    each: AtomicU64,
    together: AtomicU64,
    groups: AtomicU64,
    shunned: AtomicBool,
}

impl Flush {
    /// Makes the content of files durable, each with its device; returns one result per file. The
    /// first file of a device must be the one that was opened first.
    pub(super) fn flush<N: Node>(&self, files: &[(u64, &N)]) -> Vec<rustix::io::Result<()>> {
        let mut results = vec![Ok(()); files.len()];
        let mut devices: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, (device, _)) in files.iter().enumerate() {
            devices.entry(*device).or_default().push(index);
        }
        for (device, indices) in devices {
            let of_device: Vec<&N> =
                indices.iter().filter_map(|i| files.get(*i).map(|(_, f)| *f)).collect();
            let Some(first) = of_device.first() else {
                continue;
            };
            let synced = self.device(device, *first).flush(&of_device);
            for (index, result) in indices.into_iter().zip(synced) {
                if let Some(slot) = results.get_mut(index) {
                    *slot = result;
                }
            }
        }
        results
    }

    fn device(&self, device: u64, node: &impl Node) -> Arc<DeviceFlush> {
        let mut devices = self.devices.lock();
        let known = devices.entry(device).or_insert_with(|| {
            Arc::new(DeviceFlush {
                syncfs: syncs_whole(node),
                ..DeviceFlush::default()
            })
        });
        known.clone()
    }
}

/// True if one syncfs(2) makes everything of a file system durable, and reports all errors.
pub(super) fn syncs_whole(node: &impl Node) -> bool {
    *IS_RELIABLE && honours_syncfs(node)
}

impl DeviceFlush {
    fn flush(&self, files: &[&impl Node]) -> Vec<rustix::io::Result<()>> {
        let started = Instant::now();
        let together = self.is_better_together(files.len());
        // The first file was open before any of these were written, so syncfs through it reports
        // their errors. Each file's own fsync then tells whose error it is.
        let synced = together && files.first().is_some_and(|first| first.syncfs().is_ok());
        let results = match synced {
            true => vec![Ok(()); files.len()],
            false => files.iter().map(|file| file.fsync()).collect(),
        };
        let took = started.elapsed();
        if together && took > TOO_LONG {
            self.shunned.store(true, Ordering::Relaxed);
        }
        let cost = if together { &self.together } else { &self.each };
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let now = (nanos / (files.len() as u64).max(1)).max(1);
        let before = cost.load(Ordering::Relaxed);
        let average = if before == 0 {
            now
        } else {
            (before / 4).saturating_mul(3).saturating_add(now / 4).max(1)
        };
        cost.store(average, Ordering::Relaxed);
        results
    }

    fn is_better_together(&self, count: usize) -> bool {
        if count < LEAST || !self.syncfs || self.shunned.load(Ordering::Relaxed) {
            return false;
        }
        let group = self.groups.fetch_add(1, Ordering::Relaxed);
        let (each, together) =
            (self.each.load(Ordering::Relaxed), self.together.load(Ordering::Relaxed));
        match (each, together) {
            (_, 0) => true,
            (0, _) => false,
            _ if group % REMEASURE == REMEASURE - 1 => together > each,
            _ => together <= each,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_cheaper_way_is_taken_and_the_other_remeasured() {
        let mut flush = DeviceFlush::default();
        assert!(!flush.is_better_together(LEAST), "syncfs means nothing here");
        flush.syncfs = true;
        assert!(!flush.is_better_together(LEAST - 1), "few files are synced one by one");
        assert!(flush.is_better_together(LEAST), "what is not known is tried");
        flush.together.store(100, Ordering::Relaxed);
        assert!(!flush.is_better_together(LEAST), "and the other, too");
        flush.each.store(200, Ordering::Relaxed);
        let together = (0..320).filter(|_| flush.is_better_together(LEAST)).count();
        assert_eq!(together, 310);
        flush.each.store(50, Ordering::Relaxed);
        let together = (0..320).filter(|_| flush.is_better_together(LEAST)).count();
        assert_eq!(together, 10);
        flush.shunned.store(true, Ordering::Relaxed);
        assert_eq!((0..320).filter(|_| flush.is_better_together(LEAST)).count(), 0);
    }

    #[test]
    fn files_are_synced_either_way_and_their_cost_is_known() {
        let files: Vec<File> = (0..LEAST).map(|_| tempfile::tempfile().unwrap()).collect();
        let files: Vec<(u64, &File)> = files.iter().map(|file| (5, file)).collect();
        let flush = Flush::default();
        for _ in 0..3 {
            assert!(flush.flush(&files).iter().all(Result::is_ok));
        }
        let device = flush.device(5, files[0].1);
        assert!(device.each.load(Ordering::Relaxed) > 0);
        assert_eq!(device.together.load(Ordering::Relaxed) > 0, syncs_whole(files[0].1));
    }
}
