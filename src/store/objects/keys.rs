//! The keys of a store's objects, and the paths that they stand for.
//!
//! ```text
//! f/=/NAME           an entry of the root      f/A/B/=/NAME   an entry of A/B
//! l/A/=/NAME         the lock of A/NAME        i/A/=/ID       a directory's index
//! b/ID               content of larger files   s/NAME         the servers' own
//! ```
//!
//! The `=` stands apart from all names, so that the entries of a directory have one prefix, which
//! nothing beneath them has. Bytes of a name that keys should not have are written as `%XX`.

use crate::store::error::StoreError;
use crate::store::path::{Name, RemotePath};
use std::fmt::Write;

/// Most bytes of a key.
pub const MAX_KEY: usize = 1024;
/// Separates a directory from its entries.
const ENTRIES: &str = "=/";

/// The kinds of keys that follow a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Entries.
    Entries,
    /// Locks.
    Locks,
    /// Indexes of directories.
    Indexes,
}

impl Space {
    fn letter(self) -> char {
        match self {
            Space::Entries => 'f',
            Space::Locks => 'l',
            Space::Indexes => 'i',
        }
    }
}

/// The keys beneath a prefix. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys beneath `prefix`, which may be empty.
    pub fn new(prefix: &str) -> Keys {
        let prefix = prefix.trim_matches('/');
        Keys {
            prefix: match prefix {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            },
        }
    }

    /// The prefix of the entries of a directory, and of nothing else.
    pub fn within(&self, space: Space, dir: &RemotePath) -> String {
        let mut key = self.beneath(space, dir);
        key += ENTRIES;
        key
    }

    /// The prefix of everything beneath a directory.
    pub fn beneath(&self, space: Space, dir: &RemotePath) -> String {
        let mut key = format!("{}{}/", self.prefix, space.letter());
        for name in dir.components() {
            encode(name.as_bytes(), &mut key);
            key.push('/');
        }
        key
    }

    /// The key of an entry.
    ///
    /// # Errors
    /// [`StoreError`] if it is longer than keys may be, or is the root's, which has none.
    pub fn of(&self, space: Space, path: &RemotePath) -> Result<String, StoreError> {
        let Some((dir, name)) = path.split() else {
            return Err(StoreError::because("the root is no entry", path));
        };
        let mut key = self.within(space, &dir);
        encode(name.as_bytes(), &mut key);
        // what follows a directory's path has to fit, too
        match key.len() {
            0..=MAX_KEY => Ok(key),
            _ => {
                let why = "an object store has keys of at most 1024 bytes: choose a shorter path";
                Err(StoreError::because(why, path))
            }
        }
    }

    /// The key of some content.
    pub fn blob(&self, id: &str) -> String {
        format!("{}b/{id}", self.prefix)
    }

    /// The prefix of all content.
    pub fn blobs(&self) -> String {
        format!("{}b/", self.prefix)
    }

    /// The key of something of the servers' own.
    pub fn own(&self, name: &str) -> String {
        format!("{}s/{name}", self.prefix)
    }

    /// The prefix of everything of one kind.
    pub fn all(&self, space: Space) -> String {
        format!("{}{}/", self.prefix, space.letter())
    }

    /// The path that a key of this kind stands for; `None` if it stands for none.
    pub fn path_of(&self, space: Space, key: &str) -> Option<RemotePath> {
        let rest = key.strip_prefix(&self.all(space))?;
        let (dirs, name) = match rest.strip_prefix(ENTRIES) {
            Some(name) => ("", name),
            None => rest.split_once("/=/")?,
        };
        let mut path = RemotePath::root();
        for part in dirs.split('/').filter(|part| !part.is_empty()).chain([name]) {
            path = path.join(&decode_name(part)?).ok()?;
        }
        Some(path)
    }
}

/// The last part of a key as a name; `None` if it is none.
pub fn name_of(key: &str) -> Option<Name> {
    let (_, last) = key.rsplit_once('/')?;
    decode_name(last)
}

/// A name, encoded as the last part of a key.
pub fn encoded(name: &Name) -> String {
    let mut text = String::new();
    encode(name.as_bytes(), &mut text);
    text
}

fn decode_name(part: &str) -> Option<Name> {
    Name::parse(&decode(part)?).ok()
}

/// Adds bytes to a text: valid UTF-8 as it is, except for what XML, URLs and these keys reserve.
pub fn encode(bytes: &[u8], text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let reserved = matches!(c, '%' | '=' | '/' | '\\' | '\u{fffe}' | '\u{ffff}');
            if reserved || c.is_control() {
                let mut utf8 = [0; 4];
                percent(c.encode_utf8(&mut utf8).as_bytes(), text);
            } else {
                text.push(c);
            }
        }
        percent(chunk.invalid(), text);
    }
}

fn percent(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        // a String takes everything
        let _ = write!(text, "%{byte:02X}");
    }
}

/// The bytes of an encoded text; `None` if it is malformed.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || (rest.next()? as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
        bytes.push(digit()?.checked_mul(16)?.checked_add(digit()?)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> RemotePath {
        RemotePath::parse(bytes).unwrap()
    }

    #[test]
    fn keys_stand_for_paths_and_back() {
        let keys = Keys::new("/some/where/");
        for bytes in [
            &b"a"[..],
            b"a/b/c",
            b"=/=",
            b"50% off/x=y",
            b"\xff\xfe/\n\t",
            "\u{fffe}ä/日本".as_bytes(),
            b"a\\b/ b ",
            b".../..a",
        ] {
            let path = path(bytes);
            let key = keys.of(Space::Entries, &path).unwrap();
            assert!(!key.chars().any(char::is_control), "{key}");
            assert!(object_store::path::Path::parse(&key).is_ok(), "{key}");
            assert_eq!(keys.path_of(Space::Entries, &key), Some(path.clone()), "{key}");
            let (dir, name) = path.split().unwrap();
            assert!(key.starts_with(&keys.within(Space::Entries, &dir)));
            assert_eq!(name_of(&key), Some(name));
        }
        assert_eq!(keys.of(Space::Locks, &path(b"a/b")).unwrap(), "some/where/l/a/=/b");
        assert_eq!(Keys::new("").of(Space::Entries, &path(b"a")).unwrap(), "f/=/a");
    }

    #[test]
    fn the_entries_of_a_directory_have_a_prefix_of_their_own() {
        let keys = Keys::new("");
        let of = |bytes: &[u8]| keys.of(Space::Entries, &path(bytes)).unwrap();
        let root = keys.within(Space::Entries, &RemotePath::root());
        let a = keys.within(Space::Entries, &path(b"a"));
        for (key, in_root, in_a) in [
            (of(b"a"), true, false),
            (of(b"="), true, false),
            (of(b"a/x"), false, true),
            (of(b"a/b/x"), false, false),
            (of(b"=/x"), false, false),
            (of(b"ab/x"), false, false),
        ] {
            assert_eq!((key.starts_with(&root), key.starts_with(&a)), (in_root, in_a), "{key}");
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_refused_by_name() {
        let long = [b'n'; 200];
        let deep = [&long[..]; 6].join(&b'/');
        let error = Keys::new("").of(Space::Entries, &path(&deep)).unwrap_err();
        assert!(error.describe().contains("1024"), "{}", error.describe());
        assert!(Keys::new("").of(Space::Entries, &RemotePath::root()).is_err());
    }
}
