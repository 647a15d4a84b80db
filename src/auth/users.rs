//! `users`: who may log in to a server, and what they may do. One line a user:
//!
//! ```text
//! NAME [root=SUBDIR] [access=read-only|write-only] [password=PHC] [key=BASE64]…
//! ```

use super::file::{self, FileError};
use super::key::PublicKey;
use super::password;
use crate::store::RemotePath;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Longest user name, in bytes.
pub const MAX_USER: usize = 64;

/// What a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    #[default]
    Full,
    /// Read and list, change nothing.
    ReadOnly,
    /// Put files and make directories, see nothing: a drop-box.
    WriteOnly,
}

/// A user of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name: see [`check_name`].
    pub name: String,
    /// Directory beneath the server's root that is this user's root.
    pub root: RemotePath,
    /// What they may do.
    pub access: Access,
    /// argon2id hash; none: no login by password.
    pub password: Option<String>,
    /// Keys that log in without a password.
    pub keys: Vec<PublicKey>,
}

impl User {
    /// A user with full access and no way to log in yet.
    pub fn new(name: &str) -> User {
        User {
            name: name.to_string(),
            root: RemotePath::root(),
            access: Access::Full,
            password: None,
            keys: Vec::new(),
        }
    }
}

/// 1 to 64 letters, digits and `._@+-`, not starting with `-` or `.`.
///
/// # Errors
/// A sentence that says so.
pub fn check_name(name: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
    if name.is_empty() || name.len() > MAX_USER || name.starts_with(['-', '.']) || !name.chars().all(ok) {
        return Err("a user name has 1 to 64 letters, digits and ._@+- and does not start with '-' or '.'".into());
    }
    Ok(())
}

fn parse_line(line: &str) -> Result<User, String> {
    let mut words = line.split_whitespace();
    let mut user = User::new(words.next().unwrap_or_default());
    check_name(&user.name)?;
    for word in words {
        let (field, value) = word
            .split_once('=')
            .ok_or_else(|| format!("{word} is not FIELD=VALUE"))?;
        match field {
            "root" => user.root = unescape(value)?,
            "access" => {
                user.access = match value {
                    "full" => Access::Full,
                    "read-only" => Access::ReadOnly,
                    "write-only" => Access::WriteOnly,
                    _ => return Err(format!("access is full, read-only or write-only, not {value}")),
                }
            }
            "password" if password::is_hash(value) => user.password = Some(value.to_string()),
            "password" => return Err("password is not an argon2 hash; set it with haul user passwd".into()),
            "key" => user
                .keys
                .push(PublicKey::from_base64(value).ok_or("key is not base64")?),
            _ => return Err(format!("{field} is not root, access, password or key")),
        }
    }
    Ok(user)
}

fn format_line(user: &User) -> String {
    let mut line = user.name.clone();
    if !user.root.is_root() {
        line += &format!(" root={}", escape(&user.root));
    }
    match user.access {
        Access::Full => {}
        Access::ReadOnly => line += " access=read-only",
        Access::WriteOnly => line += " access=write-only",
    }
    if let Some(hash) = &user.password {
        line += &format!(" password={hash}");
    }
    for key in &user.keys {
        line += &format!(" key={}", key.to_base64());
    }
    line + "\n"
}

/// Percent-encodes what is not visible ASCII, and `%` itself.
fn escape(path: &RemotePath) -> String {
    let byte = |b: &u8| match b {
        b'%' => "%25".to_string(),
        b if b.is_ascii_graphic() => char::from(*b).to_string(),
        b => format!("%{b:02X}"),
    };
    path.as_bytes().iter().map(byte).collect()
}

fn unescape(text: &str) -> Result<RemotePath, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let digit = |b: Option<u8>| {
            b.and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err("root has a '%' that is not followed by two hexadecimal digits".into()),
        }
    }
    RemotePath::parse(&bytes).map_err(|e| format!("root is not a path beneath the server's root: {e}"))
}

/// Parses the file's text.
///
/// # Errors
/// [`FileError::Line`]; also for a name that stands twice.
pub fn parse(path: &Path, text: &str) -> Result<Vec<User>, FileError> {
    let mut seen = std::collections::HashSet::new();
    file::parse_lines(path, text, |line| {
        let user = parse_line(line)?;
        match seen.insert(user.name.clone()) {
            true => Ok(user),
            false => Err(format!("{} stands here a second time", user.name)),
        }
    })
}

/// Changes the list of users; `change` may refuse with a sentence.
///
/// # Errors
/// What `change` said, or what is wrong with the file; then nothing is changed.
pub fn update<T>(path: &Path, change: impl FnOnce(&mut Vec<User>) -> Result<T, String>) -> Result<T, FileError> {
    file::update(path, |text| {
        let mut users = parse(path, &text)?;
        let value = change(&mut users).map_err(|reason| FileError::content(path, reason))?;
        Ok((users.iter().map(format_line).collect(), value))
    })
}

/// The users of a running server: the file is read again when it has changed, so that changes need no restart.
pub struct Users {
    path: PathBuf,
    cache: Mutex<Cache>,
}

struct Cache {
    stamp: Option<Stamp>,
    users: Arc<Vec<User>>,
}

/// What tells one version of the file from the next; it is only ever replaced, so the inode changes.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Users {
    /// Reads the file for the first time; one that does not exist has no users.
    ///
    /// # Errors
    /// [`FileError`], with the line.
    pub fn load(path: &Path) -> Result<Users, FileError> {
        let users = Users {
            path: path.to_path_buf(),
            cache: Mutex::new(Cache {
                stamp: None,
                users: Arc::default(),
            }),
        };
        users.current()?;
        Ok(users)
    }

    /// The users as the file has them now.
    ///
    /// # Errors
    /// [`FileError`]: a file that has become malformed lets nobody in until it is mended.
    pub fn current(&self) -> Result<Arc<Vec<User>>, FileError> {
        use std::os::unix::fs::MetadataExt;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = std::fs::metadata(&self.path).ok().map(|m| Stamp {
            inode: m.ino(),
            size: m.len(),
            modified: m.modified().ok(),
        });
        if stamp.is_none() || stamp != cache.stamp {
            cache.users = Arc::new(parse(&self.path, &file::read(&self.path)?)?);
            cache.stamp = stamp;
        }
        Ok(cache.users.clone())
    }

    /// One user, as the file has them now.
    ///
    /// # Errors
    /// As [`Users::current`].
    pub fn find(&self, name: &str) -> Result<Option<User>, FileError> {
        Ok(self.current()?.iter().find(|u| u.name == name).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<User> {
        let mut kim = User::new("kim");
        kim.root = RemotePath::parse("a dir/50%/\u{e4}".as_bytes()).unwrap();
        kim.access = Access::ReadOnly;
        kim.password = Some(password::hash("secret").unwrap());
        kim.keys = vec![PublicKey::from_der(&[1, 2, 3])];
        vec![kim, User::new("sam@host")]
    }

    #[test]
    fn what_is_written_is_read_again() {
        let users = sample();
        let text: String = users.iter().map(format_line).collect();
        assert_eq!(parse(Path::new("users"), &text).unwrap(), users);
    }

    #[test]
    fn bad_lines_are_named_with_their_reason() {
        let error = |text: &str| parse(Path::new("users"), text).unwrap_err().to_string();
        assert_eq!(error("kim\nkim\n"), "users:2: kim stands here a second time");
        assert!(error("# x\nkim root=../up").starts_with("users:2: root is not a path"));
        assert!(error("kim root=%zz").contains("hexadecimal"));
        assert!(error("kim password=hunter2").contains("haul user passwd"));
        assert!(error("kim access=all").contains("access is full"));
        assert!(error("-rf").contains("user name"));
        assert!(error("kim shell=/bin/sh").contains("shell is not"));
        assert!(error("kim key").contains("FIELD=VALUE"));
    }

    #[test]
    fn a_change_is_seen_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let users = Users::load(&path).unwrap();
        assert!(users.find("kim").unwrap().is_none());
        update(&path, |all| {
            all.push(User::new("kim"));
            Ok(())
        })
        .unwrap();
        assert!(users.find("kim").unwrap().is_some());
        update(&path, |all| {
            all.clear();
            Ok(())
        })
        .unwrap();
        assert!(users.find("kim").unwrap().is_none());
    }
}
