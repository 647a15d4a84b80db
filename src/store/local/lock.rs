//! The partial file as the lock of its target.
//!
//! For target `NAME` it is `.NAME~HASH.haul` in the same directory, made with O_EXCL and mode 0600,
//! and locked with flock(2). A writer that finds one tries that flock. If it is refused, the holder
//! lives. If it is granted and the name still leads to this inode, the holder died: the writer
//! resumes its partial file or removes it. Only its maker ever writes to an inode from its start.
//! `.NAME~HASH.haul-info` beside it records how much of it is durable.
//!
//! Only a regular file under such a name is haul's: anything else is an obstacle, which the error
//! names.

use super::record::{self, Identity, Progress, RecordFile, ResumeRecord};
use super::sys::{Directory, Node, OpenFile, WARY, open_allowed, remove_file};
use crate::store::error::At;
use crate::store::partial_names::PartialNames;
use crate::store::{ErrorKind, Holder, Name, RemotePath, Resume, StoreError};
use parking_lot::Mutex;
use rustix::fs::{FileType, FlockOperation, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a writer retries while others make and remove partial files at the same time.
const TRIES: usize = 64;

/// How often a writer retries a lock that a process may have that only examines it or removes
/// an abandoned one.
const GLANCES: u32 = 4;
/// The pause before that.
const GLANCE: Duration = Duration::from_millis(2);

/// The mode of a partial file: no other user may read or open it before it is complete.
pub(super) const PARTIAL_MODE: u32 = 0o600;

/// The locks that this process holds, by device and inode.
static LOCKED: LazyLock<Mutex<HashMap<Inode, Arc<Progress>>>> = LazyLock::new(Mutex::default);

/// Device and inode number.
type Inode = (u64, u64);

/// A partial file, open and locked. Dropping it releases the lock and leaves the file.
pub(super) struct Lock<F> {
    pub(super) file: F,
    pub(super) names: PartialNames,
    pub(super) progress: Arc<Progress>,
    inode: Inode,
    /// Where this writer starts.
    pub(super) resume: Resume,
    /// The file's size when it was locked.
    pub(super) size: u64,
}

/// What a writer locks a target for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose<'a> {
    /// A file or the like of which nothing is resumed.
    New,
    /// A file, of this version of its source.
    Version(&'a str),
    /// A directory: its partial file is only a lock. While there is one, that of a dead writer or
    /// its own, only the next writer touches the partial directory.
    Dir,
}

impl<F> Drop for Lock<F> {
    fn drop(&mut self) {
        // before the file is closed, and thus unlocked: another thread may lock the same inode
        // right after
        LOCKED.lock().remove(&self.inode);
    }
}

impl<F: OpenFile> Lock<F> {
    /// Locks `name` for a writer. That of a dead one is resumed, replaced or taken over.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] names the holder, [`ErrorKind::Obstacle`] an entry in the way that is
    /// not haul's.
    pub(super) fn acquire(
        dir: &impl Directory<File = F>,
        name: &Name,
        path: &RemotePath,
        who: &str,
        purpose: Purpose<'_>,
    ) -> Result<Lock<F>, StoreError> {
        let names = PartialNames::of(name);
        let mut glances = 0;
        let mut discarded = Resume::Fresh;
        for _ in 0..TRIES {
            let Some(opened) = open_or_create(dir, &names.file, path)? else {
                continue;
            };
            match opened.lock() {
                Ok(()) => {}
                // a process that only looks whether the writer lives holds it for a moment
                Err(Errno::WOULDBLOCK) if glances < GLANCES => {
                    glances += 1;
                    std::thread::sleep(GLANCE);
                    continue;
                }
                Err(Errno::WOULDBLOCK | Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => {
                    let holder = holder_of(dir, &names, &opened.file);
                    return Err(StoreError::new(ErrorKind::Locked(holder), path));
                }
                Err(e) => return Err(e).at("lock the partial file", path),
            }
            let found = opened.file.fstat().at("stat the partial file", path)?;
            // between open and flock another writer may have taken the name over, or committed the
            // file: it is the target
            if !leads_to(dir, &names.file, &found).at("stat the partial file", path)? {
                continue;
            }
            let resume = match opened.take_over(dir, &names, &found, purpose) {
                TakeOver::New => discarded.clone(),
                TakeOver::Resume(resume) => resume,
                TakeOver::Obstacle => return Err(obstacle(&names.file, path)),
                TakeOver::Replace(bytes) => {
                    discarded = Resume::Discarded(bytes);
                    match remove_partial(dir, &names, &opened.file) {
                        // `unlock --force` is removing it
                        Err(Errno::AGAIN) => {}
                        removed => removed.at("remove an abandoned partial file", path)?,
                    }
                    continue;
                }
            };
            if found.st_mode & 0o7777 != PARTIAL_MODE {
                // its writer had set the final mode, or the umask took bits of a new one
                opened.file.fchmod(PARTIAL_MODE).at("set the mode", path)?;
            }
            return Ok(Lock::acquired(opened.file, names, who, &found, resume));
        }
        Err(StoreError::new(
            ErrorKind::Locked(Holder::of("several writers at once")),
            path,
        ))
    }

    fn acquired(file: F, names: PartialNames, who: &str, found: &Stat, resume: Resume) -> Lock<F> {
        let inode = inode_of(found);
        let progress = Arc::new(Progress::new(who));
        LOCKED.lock().insert(inode, progress.clone());
        Lock {
            file,
            names,
            progress,
            inode,
            resume,
            size: u64::try_from(found.st_size).unwrap_or(0),
        }
    }

    /// Starts the record of a new partial file, or continues that of a resumed one. The record
    /// names the holder to other processes.
    pub(super) fn record(
        &self,
        dir: &impl Directory<File = F>,
        source: Option<String>,
    ) -> rustix::io::Result<RecordFile<F>> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record =
            ResumeRecord::new(&self.progress.who, since.as_secs(), source, self.identity());
        match &self.resume {
            Resume::From(_) => RecordFile::resume(dir, &self.names.record, record),
            _ => RecordFile::start(dir, &self.names.record, record),
        }
    }

    /// Tells this inode from others that have had its name.
    fn identity(&self) -> Identity {
        (self.inode.1, self.file.birth())
    }

    /// The device of the partial file.
    pub(super) fn device(&self) -> u64 {
        self.inode.0
    }

    /// The fence before a rename: true if this process still has the lock, and then no process can
    /// remove it any more.
    pub(super) fn fence(&self, dir: &impl Directory) -> bool {
        exclude_commit(&self.file).is_ok() && self.is_ours(dir)
    }

    /// True while the name of the partial file leads to the locked file.
    pub(super) fn is_ours(&self, dir: &impl Directory) -> bool {
        dir.stat_at(&self.names.file).is_ok_and(|found| self.is_of(&found))
    }

    /// True if `found` is the stat of the file that is locked.
    pub(super) fn is_of(&self, found: &Stat) -> bool {
        inode_of(found) == self.inode
    }

    /// Removes the partial file and its record. Dropping the lock releases it.
    pub(super) fn discard(&self, dir: &impl Directory<File = F>) {
        let _ = remove_partial(dir, &self.names, &self.file);
    }
}

/// A partial file that a writer has opened.
struct Opened<F> {
    file: F,
    /// The access that it was opened for; `None` if this writer has made it.
    access: Option<OFlags>,
}

/// What a writer does with a partial file that it has locked.
enum TakeOver {
    /// It has just made the file.
    New,
    /// It resumes the file.
    Resume(Resume),
    /// It removes the file, of which so many bytes are durable, and makes another one.
    Replace(u64),
    /// It fails: haul did not make this.
    Obstacle,
}

/// Creates a partial file, or opens the one that exists; `None` if that has gone in between.
fn open_or_create<D: Directory>(
    dir: &D,
    name: &[u8],
    path: &RemotePath,
) -> Result<Option<Opened<D::File>>, StoreError> {
    match dir.create_at(name, WARY | OFlags::RDWR, PARTIAL_MODE) {
        Ok(file) => return Ok(Some(Opened { file, access: None })),
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e).at("create the partial file", path),
    }
    match open_existing(dir, name) {
        Ok((file, access)) => Ok(Some(Opened {
            file,
            access: Some(access),
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP | Errno::NXIO) => Err(obstacle(name, path)),
        Err(e) => Err(e).at("open the partial file", path),
    }
}

/// Opens a partial file that exists: its writer may have set its final mode already.
pub(super) fn open_existing<D: Directory>(
    dir: &D,
    name: &[u8],
) -> rustix::io::Result<(D::File, OFlags)> {
    open_allowed(dir, name, &[OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY])
}

impl<F: OpenFile> Opened<F> {
    fn lock(&self) -> rustix::io::Result<()> {
        match self.file.flock(FlockOperation::NonBlockingLockExclusive) {
            // no flock on this file system: only the maker of the file has it
            Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) if self.access.is_none() => Ok(()),
            locked => locked,
        }
    }

    fn take_over(
        &self,
        dir: &impl Directory<File = F>,
        names: &PartialNames,
        found: &Stat,
        purpose: Purpose<'_>,
    ) -> TakeOver {
        let Some(access) = self.access else {
            return TakeOver::New;
        };
        if !FileType::from_raw_mode(found.st_mode).is_file() {
            return TakeOver::Obstacle;
        }
        if purpose == Purpose::Dir && access == OFlags::RDWR {
            return TakeOver::Resume(Resume::Discarded(0));
        }
        match self.resume(dir, names, found, purpose) {
            resume @ Resume::From(_) if access == OFlags::RDWR => TakeOver::Resume(resume),
            Resume::From(point) => TakeOver::Replace(point.offset),
            Resume::Discarded(bytes) => TakeOver::Replace(bytes),
            Resume::Fresh => TakeOver::Replace(0),
        }
    }

    /// Returns where a writer of this version of a source starts, given an abandoned partial file.
    fn resume(
        &self,
        dir: &impl Directory<File = F>,
        names: &PartialNames,
        found: &Stat,
        purpose: Purpose<'_>,
    ) -> Resume {
        let Purpose::Version(source) = purpose else {
            return Resume::Fresh;
        };
        let Some(record) = record::read(dir, &names.record) else {
            return Resume::Fresh;
        };
        let of_this_file = record.is_of((found.st_ino, self.file.birth())) && found.st_nlink == 1;
        let ours = found.st_uid == rustix::process::geteuid().as_raw();
        let durable = record.offset > 0
            && u64::try_from(found.st_size).is_ok_and(|size| record.offset <= size);
        if !(of_this_file && ours && durable) {
            return Resume::Fresh;
        }
        match (record.source.as_deref() == Some(source), record.checkpoint()) {
            (true, Some(point)) => Resume::From(point),
            (true, None) => Resume::Fresh,
            (false, _) => Resume::Discarded(record.offset),
        }
    }
}

/// Removes a partial file that the caller has locked, if it still has its name. Its record goes
/// first: while that says that something is durable, the file stays. No other process removes or
/// commits it meanwhile.
///
/// # Errors
/// AGAIN: another process is removing or committing it.
pub(super) fn remove_partial<D: Directory>(
    dir: &D,
    names: &PartialNames,
    file: &D::File,
) -> rustix::io::Result<()> {
    exclude_commit(file)?;
    if !leads_to(dir, &names.file, &file.fstat()?)? {
        return Ok(());
    }
    record::remove(dir, &names.record)?;
    remove_file(dir, &names.file)
}

/// Takes the lock by which commits and removals exclude each other. A file system without such
/// locks grants it.
///
/// # Errors
/// AGAIN: another process has it.
pub(super) fn exclude_commit(file: &impl OpenFile) -> rustix::io::Result<()> {
    match file.lock_commit() {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Errno::AGAIN),
        _ => Ok(()),
    }
}

fn inode_of(found: &Stat) -> Inode {
    (found.st_dev, found.st_ino)
}

/// True while `name` leads to the inode that was found; false if it leads elsewhere or nowhere.
pub(super) fn leads_to(
    dir: &impl Directory,
    name: &[u8],
    found: &Stat,
) -> rustix::io::Result<bool> {
    match dir.stat_at(name) {
        Ok(now) => Ok(inode_of(&now) == inode_of(found)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The error for an entry that has a name of haul's and is not haul's.
pub(super) fn obstacle(name: &[u8], path: &RemotePath) -> StoreError {
    StoreError::new(ErrorKind::Obstacle(name.to_vec()), path)
}

/// The holder of an open partial file, as far as it can be known.
pub(super) fn holder_of(dir: &impl Directory, names: &PartialNames, file: &impl Node) -> Holder {
    let stat = file.fstat().ok();
    if let Some(stat) = &stat
        && let Some(progress) = LOCKED.lock().get(&inode_of(stat))
    {
        return Holder {
            who: progress.who.clone(),
            locked_for: Some(progress.since.elapsed()),
            written: Some(progress.written.load(Ordering::Relaxed)),
        };
    }
    let written = stat.and_then(|s| u64::try_from(s.st_size).ok());
    match record::read(dir, &names.record) {
        Some(record) => Holder {
            who: record.who,
            locked_for: (UNIX_EPOCH + Duration::from_secs(record.since.min(1 << 40)))
                .elapsed()
                .ok(),
            written,
        },
        None => Holder {
            written,
            ..Holder::of("another process")
        },
    }
}
