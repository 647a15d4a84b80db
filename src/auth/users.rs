//! The `users` file: who may log in to a server. `user_line` has its format.

use super::file::{self, FileError};
use super::state_file::{SharedText, StateFile};
use super::user::User;
use super::user_line;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, as the file has them.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Parses the file's text.
///
/// # Errors
/// [`FileError::Line`]; also for a name that stands twice.
pub fn parse(path: &Path, text: &str) -> Result<Vec<User>, FileError> {
    let mut seen = std::collections::HashSet::new();
    file::parse_lines(path, text, |line| {
        let user = user_line::parse(line)?;
        match seen.insert(user.name.clone()) {
            true => Ok(user),
            false => Err(format!("{} stands here a second time", user.name)),
        }
    })
}

/// Reads the file; one that does not exist has no users.
///
/// # Errors
/// [`FileError`], with the line.
pub fn read(at: impl Into<StateFile>) -> Result<Vec<User>, FileError> {
    let at = at.into();
    parse(&at.name(), &at.read()?)
}

/// Changes the list of users; `change` may refuse, and may be called several times.
///
/// # Errors
/// What `change` said, or what is wrong with the file; then nothing is changed.
pub fn update<T, E: From<FileError>>(
    at: impl Into<StateFile>,
    mut change: impl FnMut(&mut Vec<User>) -> Result<T, E>,
) -> Result<T, E> {
    let at = at.into();
    let name = at.name();
    at.update(|text| {
        let mut users = parse(&name, &text)?;
        let value = change(&mut users)?;
        Ok((users.iter().map(user_line::format).collect(), value))
    })
}

/// The users of a running server: the file is read again when it has changed, so that changes need
/// no restart.
pub struct Users {
    /// `None`: there is no file, and the users stay what they are.
    at: Option<StateFile>,
    cache: Mutex<Cache>,
    /// Reads of a shared file that have begun, and the last of them that was noted. One reads at a
    /// time: an earlier read that took longer would bring back users that have changed since.
    reads: tokio::sync::Mutex<()>,
    begun: AtomicU64,
    noted: AtomicU64,
}

#[derive(Default)]
struct Cache {
    stamp: Option<Stamp>,
    /// Stays open, so that no other version of the file can get its inode.
    _file: Option<File>,
    users: Arc<Vec<User>>,
}

/// What tells one version of the file from the next; it is only ever replaced, so the inode
/// changes.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: io::Result<std::fs::Metadata>) -> io::Result<Option<Stamp>> {
        use std::os::unix::fs::MetadataExt;
        match metadata {
            Ok(m) => Ok(Some(Stamp {
                device: m.dev(),
                inode: m.ino(),
                size: m.len(),
                modified: m.modified().ok(),
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Users {
    /// Reads the file for the first time; one that does not exist has no users.
    ///
    /// # Errors
    /// [`FileError`], with the line.
    pub fn load(at: impl Into<StateFile>) -> Result<Users, FileError> {
        let at = at.into();
        let shared = match &at {
            StateFile::Shared(shared) => Some(shared.clone()),
            StateFile::Local(_) => None,
        };
        let users = Users::new(Some(at), Cache::default());
        match shared {
            Some(shared) => users.note(&shared.name(), &shared.read()?.0, 0)?,
            None => drop(users.current()?),
        }
        Ok(users)
    }

    /// The only user of a server that lasts as long as they use it.
    pub fn only(user: User) -> Users {
        let cache = Cache {
            users: Arc::new(vec![user]),
            ..Cache::default()
        };
        Users::new(None, cache)
    }

    fn new(at: Option<StateFile>, cache: Cache) -> Users {
        Users {
            at,
            cache: Mutex::new(cache),
            reads: tokio::sync::Mutex::default(),
            begun: AtomicU64::new(0),
            noted: AtomicU64::new(0),
        }
    }

    /// Where the file is, if there is one.
    pub fn at(&self) -> Option<&StateFile> {
        self.at.as_ref()
    }

    /// True if several servers share the file.
    pub fn is_shared(&self) -> bool {
        matches!(self.at, Some(StateFile::Shared(_)))
    }

    /// Reads a shared file as it is now or was after this call, with `read`; callers at the same
    /// moment share a read. Users of a file of this machine are read when they are looked at.
    ///
    /// # Errors
    /// [`FileError`], that of `read` too; the users stay what they are.
    pub async fn reread<F>(
        &self,
        read: impl FnOnce(Arc<dyn SharedText>) -> F,
    ) -> Result<(), FileError>
    where
        F: Future<Output = Result<String, FileError>>,
    {
        let Some(StateFile::Shared(shared)) = &self.at else {
            return Ok(());
        };
        let called = self.begun.load(Ordering::Relaxed);
        let _one = self.reads.lock().await;
        if self.noted.load(Ordering::Relaxed) > called {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let text = read(shared.clone()).await?;
        self.note(&shared.name(), &text, number)
    }

    /// Takes over the text of read `number` of a shared file.
    fn note(&self, name: &Path, text: &str, number: u64) -> Result<(), FileError> {
        let users = Arc::new(parse(name, text)?);
        self.cache.lock().users = users;
        self.noted.store(number, Ordering::Relaxed);
        Ok(())
    }

    /// The users as the file has them now; of a shared one, as it was noted last.
    ///
    /// # Errors
    /// [`FileError`]: a file that has become malformed lets no user in until it is mended.
    pub fn current(&self) -> Result<Arc<Vec<User>>, FileError> {
        let mut cache = self.cache.lock();
        let Some(StateFile::Local(path)) = &self.at else {
            return Ok(cache.users.clone());
        };
        let error = |e| FileError::io(path, e);
        let stamp = Stamp::of(std::fs::metadata(path)).map_err(error)?;
        if stamp.is_none() {
            *cache = Cache::default();
        } else if stamp != cache.stamp {
            *cache = read_cache(path)?;
        }
        Ok(cache.users.clone())
    }

    /// One user, as the file has them now.
    ///
    /// # Errors
    /// As [`Users::current`].
    pub fn find(&self, name: &str) -> Result<Option<User>, FileError> {
        Ok(self.current()?.iter().find(|u| u.name == *name).cloned())
    }
}

fn read_cache(path: &Path) -> Result<Cache, FileError> {
    let Some(opened) = file::open(path)? else {
        return Ok(Cache::default());
    };
    let stamp = Stamp::of(opened.metadata()).map_err(|e| FileError::io(path, e))?;
    let text = file::read_open(path, &opened)?;
    Ok(Cache {
        stamp,
        users: Arc::new(parse(path, &text)?),
        _file: Some(opened),
    })
}

#[cfg(test)]
mod tests {
    use super::super::name::UserName;
    use super::super::user::Access;
    use super::*;
    use std::path::PathBuf;

    fn kim() -> User {
        User::new(UserName::parse("kim").unwrap())
    }

    #[test]
    fn a_change_is_seen_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let users = Users::load(&path).unwrap();
        assert!(users.find("kim").unwrap().is_none());
        let change = |change: fn(&mut Vec<User>)| {
            let changed = update(&path, |all| {
                change(all);
                Ok::<_, FileError>(())
            });
            changed.unwrap();
        };
        change(|all| all.push(kim()));
        assert!(users.find("kim").unwrap().is_some());
        change(|all| all[0].access = Access::ReadOnly);
        assert_eq!(users.find("kim").unwrap().unwrap().access, Access::ReadOnly);
        std::fs::remove_file(&path).unwrap();
        assert!(users.find("kim").unwrap().is_none());
    }

    /// A text that other servers change.
    struct Text;

    impl SharedText for Text {
        fn name(&self) -> PathBuf {
            "users".into()
        }

        fn read(&self) -> Result<(String, Option<String>), FileError> {
            Ok((String::new(), None))
        }

        fn replace(&self, _: &str, _: Option<&str>) -> Result<bool, FileError> {
            Ok(true)
        }

        fn beside(&self, _: &str) -> Arc<dyn SharedText> {
            Arc::new(Text)
        }
    }

    #[tokio::test]
    async fn a_slow_read_does_not_bring_back_users_of_the_past() {
        let users = Users::load(StateFile::Shared(Arc::new(Text))).unwrap();
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let old = users.reread(async |_| {
            answered.await.unwrap();
            Ok(String::new())
        });
        let line = user_line::format(&kim());
        let reads = AtomicU64::new(0);
        let new = || {
            users.reread(async |_| {
                reads.fetch_add(1, Ordering::Relaxed);
                Ok(line.clone())
            })
        };
        let (old, first, second, ()) = tokio::join!(old, new(), new(), async {
            tokio::task::yield_now().await;
            answer.send(()).unwrap();
        });
        for read in [old, first, second] {
            read.unwrap();
        }
        assert!(users.find("kim").unwrap().is_some());
        // callers at the same moment share a read, of which none began before they called
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }
}
