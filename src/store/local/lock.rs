//! The staging file as the lock of its target.
//!
//! For target `NAME` it is `.NAME~HASH.haul` in the same directory, made with O_EXCL, mode 0600, and held with flock(2). A
//! writer that finds one tries that flock: refused means that its holder lives; granted, with the name still leading to
//! this inode, means that the holder died. What the dead writer left is resumed or removed: nobody but its maker ever writes
//! to an inode anew. `.NAME~HASH.haul-info` beside it tells how much of it is durable.
//!
//! Only what has such a name is haul's, and only a regular file: anything else under it is an obstacle that is named.

use super::record::{self, Progress, RecordFile, ResumeRecord};
use super::sys::{Directory, Node, OpenFile};
use super::tree::remove_file as remove;
use crate::store::error::At;
use crate::store::reserved::StagingNames;
use crate::store::{Checkpoint, ErrorKind, Holder, Name, RemotePath, Resume, StoreError};
use parking_lot::Mutex;
use rustix::fs::{FileType, FlockOperation, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a lock is tried again when others make and remove staging files at the same time.
const TRIES: usize = 64;

/// How often a lock is looked at again that a process may have which only looks, or removes what is dead.
const GLANCES: u32 = 4;
/// The pause before that.
const GLANCE: Duration = Duration::from_millis(2);

/// The mode of a staging file: nobody else's to read or to open before it is complete.
pub(super) const STAGED_MODE: u32 = 0o600;

/// What this process knows of the locks that it holds itself, by device and inode.
static HELD: LazyLock<Mutex<HashMap<Inode, Arc<Progress>>>> = LazyLock::new(Mutex::default);

/// Device and inode number.
type Inode = (u64, u64);

/// A staging file, open and locked. Dropping it lets the lock go and leaves the file.
pub(super) struct Lock<F> {
    pub(super) file: F,
    pub(super) names: StagingNames,
    pub(super) progress: Arc<Progress>,
    inode: Inode,
    /// What a dead writer left, and how many bytes are in the file.
    pub(super) left: Resume,
    pub(super) size: u64,
}

impl<F> Drop for Lock<F> {
    fn drop(&mut self) {
        // before the file is closed, and thus unlocked: another thread may lock the same inode right after
        HELD.lock().remove(&self.inode);
    }
}

impl<F: OpenFile> Lock<F> {
    /// Locks `name` for a writer of this version of a source: the staging file is resumed where its record is of the same
    /// one, and else a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] says who holds it, [`ErrorKind::Obstacle`] what is in the way and not haul's.
    pub(super) fn acquire(
        dir: &impl Directory<File = F>,
        name: &Name,
        path: &RemotePath,
        who: &str,
        source: Option<&str>,
    ) -> Result<Lock<F>, StoreError> {
        let names = StagingNames::of(name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut glances = 0;
        let mut discarded = Resume::Fresh;
        for _ in 0..TRIES {
            let (file, access) = match dir.create_at(&names.file, flags, STAGED_MODE) {
                Ok(file) => (file, None),
                Err(Errno::EXIST) => match open_found(dir, &names.file) {
                    Ok((file, access)) => (file, Some(access)),
                    Err(Errno::NOENT) => continue,
                    Err(Errno::LOOP | Errno::NXIO) => return Err(obstacle(&names.file, path)),
                    Err(e) => return Err(e).at("open the staging file", path),
                },
                Err(e) => return Err(e).at("create the staging file", path),
            };
            match file.flock(FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // no flock on this file system: only the one who made the file has it
                Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) if access.is_none() => {}
                // a process that only looks whether its writer lives holds it for a moment
                Err(Errno::WOULDBLOCK) if glances < GLANCES => {
                    glances += 1;
                    std::thread::sleep(GLANCE);
                    continue;
                }
                Err(Errno::WOULDBLOCK | Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => {
                    let holder = holder_of(dir, &names, &file);
                    return Err(StoreError::new(ErrorKind::Locked(holder), path));
                }
                Err(e) => return Err(e).at("lock the staging file", path),
            }
            let found = file.fstat().at("stat the staging file", path)?;
            // Between open and flock another writer may have taken the name over, or committed the file: then this is its target.
            if !leads_to(dir, &names.file, &found).at("stat the staging file", path)? {
                continue;
            }
            let mut left = discarded.clone();
            if let Some(access) = access {
                if !FileType::from_raw_mode(found.st_mode).is_file() {
                    return Err(obstacle(&names.file, path));
                }
                left = left_of(dir, &names, (&file, &found), source);
                if !matches!(left, Resume::From(_)) || access != OFlags::RDWR {
                    discarded = left;
                    match remove_staged(dir, &names, &file) {
                        // `unlock --force` is at it
                        Err(Errno::AGAIN) => {}
                        removed => removed.at("remove a dead staging file", path)?,
                    }
                    continue;
                }
            }
            if found.st_mode & 0o7777 != STAGED_MODE {
                // resumed, and its writer had set its mode; or the umask took of it
                file.fchmod(STAGED_MODE).at("set the mode", path)?;
            }
            return Ok(Lock::held(file, names, who, &found, left));
        }
        let who = "several writers at once".into();
        let holder = Holder {
            who,
            ..Holder::default()
        };
        Err(StoreError::new(ErrorKind::Locked(holder), path))
    }

    fn held(file: F, names: StagingNames, who: &str, found: &Stat, left: Resume) -> Lock<F> {
        let inode = (found.st_dev, found.st_ino);
        let progress = Arc::new(Progress::new(who));
        HELD.lock().insert(inode, progress.clone());
        Lock {
            file,
            names,
            progress,
            inode,
            left,
            size: u64::try_from(found.st_size).unwrap_or(0),
        }
    }

    /// Starts the record of this staging file, or goes on with that of what is resumed; it tells other processes who holds
    /// the lock.
    pub(super) fn record(
        &self,
        dir: &impl Directory<File = F>,
        source: Option<String>,
    ) -> rustix::io::Result<RecordFile<F>> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = ResumeRecord::new(&self.progress.who, since.as_secs(), source, self.identity());
        match &self.left {
            Resume::From(_) => RecordFile::resume(dir, &self.names.record, record),
            _ => RecordFile::start(dir, &self.names.record, record),
        }
    }

    /// What tells this inode from others that have had its name.
    fn identity(&self) -> record::Identity {
        (self.inode.1, self.file.birth())
    }

    /// The device that it is on.
    pub(super) fn device(&self) -> u64 {
        self.inode.0
    }

    /// The fence before a rename: from here on the lock cannot be taken away, and it has not been.
    pub(super) fn fence(&self, dir: &impl Directory) -> bool {
        exclude_commit(&self.file).is_ok() && self.still_held(dir)
    }

    /// The staging name still leads to the file that is held.
    pub(super) fn still_held(&self, dir: &impl Directory) -> bool {
        dir.stat_at(&self.names.file).is_ok_and(|found| self.is_of(&found))
    }

    /// True when this is the stat of the file that is locked.
    pub(super) fn is_of(&self, found: &Stat) -> bool {
        (found.st_dev, found.st_ino) == self.inode
    }

    /// Removes the staging file and its record; the lock itself goes when this is dropped.
    pub(super) fn discard(&self, dir: &impl Directory<File = F>) {
        let _ = remove_staged(dir, &self.names, &self.file);
    }
}

/// Removes a staging file that the caller has locked, if it still has its name; its record first: while that says that
/// something is durable, the file that it speaks of stays. Nobody else removes or commits it meanwhile.
///
/// # Errors
/// AGAIN: another process is at it.
pub(super) fn remove_staged<D: Directory>(dir: &D, names: &StagingNames, file: &D::File) -> rustix::io::Result<()> {
    exclude_commit(file)?;
    if !leads_to(dir, &names.file, &file.fstat()?)? {
        return Ok(());
    }
    record::remove(dir, &names.record)?;
    remove(dir, &names.file)
}

/// Takes what commits and removals exclude each other by. Where the file system has no such locks, none is in the way.
///
/// # Errors
/// AGAIN: another process has it.
fn exclude_commit(file: &impl OpenFile) -> rustix::io::Result<()> {
    match file.lock_commit() {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Errno::AGAIN),
        _ => Ok(()),
    }
}

/// True while `name` leads to the inode that was found; false if it leads elsewhere or nowhere.
fn leads_to(dir: &impl Directory, name: &[u8], found: &Stat) -> rustix::io::Result<bool> {
    match dir.stat_at(name) {
        Ok(now) => Ok((now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// What a dead writer left, for a writer of this version of a source.
fn left_of<D: Directory>(
    dir: &D,
    names: &StagingNames,
    (file, found): (&D::File, &Stat),
    source: Option<&str>,
) -> Resume {
    let Some(record) = record::read(dir, &names.record) else {
        return Resume::Fresh;
    };
    let of_this_file = record.names((found.st_ino, file.birth())) && found.st_nlink == 1;
    let ours = found.st_uid == rustix::process::geteuid().as_raw();
    let durable = record.offset > 0 && u64::try_from(found.st_size).is_ok_and(|size| record.offset <= size);
    if !(of_this_file && ours && durable) || source.is_none() {
        return Resume::Fresh;
    }
    let point: Option<Checkpoint> = record.checkpoint();
    match (record.source.as_deref() == source, point) {
        (true, Some(point)) => Resume::From(point),
        (true, None) => Resume::Fresh,
        (false, _) => Resume::Discarded(record.offset),
    }
}

/// What is in the way under a name of haul's, and not of haul's making.
pub(super) fn obstacle(name: &[u8], path: &RemotePath) -> StoreError {
    StoreError::new(ErrorKind::Obstacle(name.to_vec()), path)
}

/// Opens a staging file that is there, for what it may be opened for: its writer may have set its final mode already.
fn open_found<D: Directory>(dir: &D, name: &[u8]) -> rustix::io::Result<(D::File, OFlags)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut last = Errno::ACCESS;
    for access in [OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY] {
        match dir.open_at(name, flags | access) {
            Err(e @ (Errno::ACCESS | Errno::ISDIR)) => last = e,
            other => return Ok((other?, access)),
        }
    }
    Err(last)
}

/// Who holds an open staging file, as far as can be known.
pub(super) fn holder_of(dir: &impl Directory, names: &StagingNames, file: &impl Node) -> Holder {
    let stat = file.fstat().ok();
    if let Some(stat) = &stat
        && let Some(progress) = HELD.lock().get(&(stat.st_dev, stat.st_ino))
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

/// Opens and locks a staging file only to remove it: hold what is returned until then.
///
/// # Errors
/// WOULDBLOCK: its writer lives. NOENT: it is gone, or is no staging file.
pub(super) fn open_if_dead<D: Directory>(dir: &D, name: &[u8]) -> rustix::io::Result<D::File> {
    let (file, _) = open_found(dir, name)?;
    file.flock(FlockOperation::NonBlockingLockExclusive)?;
    still_staged(dir, name, file)
}

/// Opens a staging file to take it away from a writer that lives: not while that one commits it.
///
/// # Errors
/// AGAIN: it is being committed. NOENT: it is gone, or is no staging file.
pub(super) fn open_to_break<D: Directory>(dir: &D, name: &[u8]) -> rustix::io::Result<D::File> {
    let (file, _) = open_found(dir, name)?;
    exclude_commit(&file)?;
    still_staged(dir, name, file)
}

/// A file that was locked, if the name still leads to it.
fn still_staged<D: Directory>(dir: &D, name: &[u8], file: D::File) -> rustix::io::Result<D::File> {
    let found = file.fstat()?;
    let is_file = FileType::from_raw_mode(found.st_mode).is_file();
    match is_file && leads_to(dir, name, &found)? {
        true => Ok(file),
        false => Err(Errno::NOENT),
    }
}
