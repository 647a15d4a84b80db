//! The staging file as the lock of its target.
//!
//! For target `NAME` it is `.NAME.haul` in the same directory, made with O_EXCL and held with flock(2). A writer
//! that finds one tries that flock: refused means that its holder lives; granted, with the name still leading to
//! this inode, means that the holder died, and the file is taken over. `.NAME.haul-info` beside it tells other
//! processes who holds it, and later writers how far this one came.

use super::record::{self, Progress, Record, RecordFile};
use super::tree::{create_in, lock, open_in, remove_file as remove};
use crate::store::error::At;
use crate::store::path::MAX_NAME;
use crate::store::{ErrorKind, Holder, Name, RemotePath, StoreError};
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a lock is tried again when others make and remove staging files at the same time.
const TRIES: usize = 64;

/// How long a lock may be held by somebody who only looks at it.
const GLANCE: Duration = Duration::from_millis(2);

/// Names of the staging file and its record for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StagingNames {
    pub(super) file: Vec<u8>,
    pub(super) record: Vec<u8>,
}

impl StagingNames {
    /// A name too long for the form is cut and told apart by a hash.
    pub(super) fn of(name: &Name) -> StagingNames {
        const ROOM: usize = MAX_NAME - ".".len() - ".haul-info".len();
        const HASH: usize = 17;
        let bytes = name.as_bytes();
        let stem = if bytes.len() <= ROOM {
            bytes.to_vec()
        } else {
            let hash = blake3::hash(bytes).to_hex();
            let kept = bytes.iter().take(ROOM - HASH).copied();
            kept.chain(*b"~").chain(hash.bytes().take(HASH - 1)).collect()
        };
        StagingNames {
            file: [b".", &stem[..], b".haul"].concat(),
            record: [b".", &stem[..], b".haul-info"].concat(),
        }
    }
}

/// What this process knows of the locks that it holds itself, by device and inode.
static HELD: LazyLock<Mutex<HashMap<Inode, Arc<Progress>>>> = LazyLock::new(Mutex::default);

/// Device and inode number.
type Inode = (u64, u64);

/// A staging file, open and locked. Dropping it lets the lock go and leaves the file.
pub(super) struct Lock {
    pub(super) file: File,
    pub(super) names: StagingNames,
    pub(super) progress: Arc<Progress>,
    inode: Inode,
    /// Bytes that are in it already: a dead writer's.
    pub(super) left: u64,
    /// Its permission bits when it was locked.
    pub(super) mode: u32,
}

/// What becomes of a dead writer's staging file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is emptied, and its record removed.
    Emptied,
    /// It is taken over as it is.
    Kept,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // before the file is closed, and thus unlocked: another thread may lock the same inode right after
        lock(&HELD).remove(&self.inode);
    }
}

impl Lock {
    /// Locks `name`. With [`Found::Emptied`] the file that comes back is empty. A staging file that is made has `mode`, less
    /// the umask.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] says who holds it.
    pub(super) fn acquire(
        dir: &Dir,
        name: &Name,
        path: &RemotePath,
        who: &str,
        found: Found,
        mode: u32,
    ) -> Result<Lock, StoreError> {
        let names = StagingNames::of(name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut looked_again = false;
        for _ in 0..TRIES {
            let (fd, fresh) = match create_in(dir, &names.file, flags, Mode::from_raw_mode(mode)) {
                Ok(fd) => (fd, true),
                Err(Errno::EXIST) => match open_in(dir, &names.file, flags) {
                    Ok(fd) => (fd, false),
                    Err(Errno::NOENT) => continue,
                    // nothing of haul's: it never makes a symlink of this name
                    Err(Errno::LOOP) => {
                        remove(dir, &names.file).at("remove a foreign staging file", path)?;
                        continue;
                    }
                    // its writer had set the mode of a read-only file already
                    Err(Errno::ACCESS) => {
                        remove_unwritable(dir, &names, path)?;
                        continue;
                    }
                    Err(e) => return Err(e).at("open the staging file", path),
                },
                Err(e) => return Err(e).at("create the staging file", path),
            };
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // no flock on this file system: only the one who made the file has it
                Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) if fresh => {}
                // whoever only looks whether its writer lives holds it for a moment
                Err(Errno::WOULDBLOCK) if !looked_again => {
                    looked_again = true;
                    std::thread::sleep(GLANCE);
                    continue;
                }
                Err(Errno::WOULDBLOCK | Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => {
                    let holder = holder_of(dir, &names, &fd);
                    return Err(StoreError::new(ErrorKind::Locked(holder), path));
                }
                Err(e) => return Err(e).at("lock the staging file", path),
            }
            let held = rustix::fs::fstat(&fd).at("stat the staging file", path)?;
            let inode = (held.st_dev, held.st_ino);
            // The name must still lead here: between open and flock another writer may have taken the file over,
            // committed it (then this is its target now) and let it go.
            match rustix::fs::statat(dir, &names.file, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if (found.st_dev, found.st_ino) == inode => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(e) => return Err(e).at("stat the staging file", path),
            }
            if !fresh {
                // what somebody planted here is not written to: it could be another file's second name
                let ours = held.st_uid == rustix::process::geteuid().as_raw();
                if !FileType::from_raw_mode(held.st_mode).is_file() || held.st_nlink != 1 || !ours {
                    remove(dir, &names.file).at("remove a foreign staging file", path)?;
                    continue;
                }
                if found == Found::Emptied {
                    rustix::fs::ftruncate(&fd, 0).at("empty the staging file", path)?;
                    let _ = remove(dir, &names.record);
                }
            }
            let left = match found {
                Found::Kept if !fresh => u64::try_from(held.st_size).unwrap_or(0),
                _ => 0,
            };
            let progress = Arc::new(Progress::new(who));
            lock(&HELD).insert(inode, progress.clone());
            return Ok(Lock {
                file: fd.into(),
                names,
                progress,
                inode,
                left,
                mode: held.st_mode & 0o7777,
            });
        }
        Err(StoreError::new(
            ErrorKind::Locked(Holder {
                who: "several writers at once".into(),
                ..Holder::default()
            }),
            path,
        ))
    }

    /// Starts the record, or goes on with `found`; that tells other processes who holds the lock.
    pub(super) fn record(
        &self,
        dir: &Dir,
        source: Option<String>,
        found: Option<Record>,
    ) -> std::io::Result<RecordFile> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record::new(&self.progress.who, since.as_secs(), source);
        RecordFile::start(dir, &self.names.record, record, found)
    }

    /// The fence before a rename: the staging name still leads to the file that is held.
    pub(super) fn still_held(&self, dir: &Dir) -> bool {
        rustix::fs::statat(dir, &self.names.file, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| self.is_of(&found))
    }

    /// True when this is the stat of the file that is locked.
    pub(super) fn is_of(&self, found: &Stat) -> bool {
        (found.st_dev, found.st_ino) == self.inode
    }

    /// Removes the staging file and its record; the lock itself goes when this is dropped.
    pub(super) fn discard(&self, dir: &Dir) {
        if self.still_held(dir) {
            let _ = remove(dir, &self.names.record);
            let _ = remove(dir, &self.names.file);
        }
    }
}

/// Who holds an open staging file, as far as can be known.
pub(super) fn holder_of(dir: &Dir, names: &StagingNames, fd: &impl std::os::fd::AsFd) -> Holder {
    let stat = rustix::fs::fstat(fd).ok();
    if let Some(stat) = &stat
        && let Some(progress) = lock(&HELD).get(&(stat.st_dev, stat.st_ino))
    {
        return Holder {
            who: progress.who.clone(),
            held_for: Some(progress.since.elapsed()),
            written: Some(progress.written.load(Ordering::Relaxed)),
        };
    }
    let written = stat.and_then(|s| u64::try_from(s.st_size).ok());
    match record::read(dir, &names.record) {
        Some(record) => Holder {
            who: record.who,
            held_for: (UNIX_EPOCH + Duration::from_secs(record.since.min(1 << 40)))
                .elapsed()
                .ok(),
            written,
        },
        None => Holder {
            who: "another process".into(),
            held_for: None,
            written,
        },
    }
}

/// Removes a staging file that cannot be opened for writing, when its writer is dead.
fn remove_unwritable(dir: &Dir, names: &StagingNames, path: &RemotePath) -> Result<(), StoreError> {
    match open_if_dead(dir, &names.file) {
        Ok(_held) => remove(dir, &names.file).at("remove a dead staging file", path),
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let holder = Holder {
                who: "another process".into(),
                ..Holder::default()
            };
            Err(StoreError::new(ErrorKind::Locked(holder), path))
        }
        Err(e) => Err(e).at("open the staging file", path),
    }
}

/// Opens and locks a staging file only to remove it: hold what is returned until then. WOULDBLOCK: its writer lives.
pub(super) fn open_if_dead(dir: &Dir, name: &[u8]) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = open_in(dir, name, flags)?;
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    let (held, found) = (
        rustix::fs::fstat(&fd)?,
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?,
    );
    if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino) {
        Ok(fd)
    } else {
        Err(Errno::NOENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_names_fit_and_differ() {
        let short = StagingNames::of(&Name::parse(b"report.pdf").unwrap());
        assert_eq!(short.file, b".report.pdf.haul");
        assert_eq!(short.record, b".report.pdf.haul-info");
        let long = |last: u8| {
            let mut name = vec![b'n'; 255];
            name[254] = last;
            StagingNames::of(&Name::parse(&name).unwrap())
        };
        assert!(long(b'a').record.len() <= MAX_NAME);
        assert_ne!(long(b'a'), long(b'b'));
        assert!(crate::store::path::is_reserved(&long(b'a').file));
    }
}
