//! Names and paths of entries in a store, checked where they come in.

use super::reserved::is_reserved;
use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use super::reserved::MAX_NAME;

/// Longest path, in bytes (PATH_MAX of Linux, less its final NUL).
pub const MAX_PATH: usize = 4095;

/// Why bytes are not a name or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Two slashes in a row, or an empty name.
    #[error("it has an empty component")]
    Empty,
    /// `.` or `..`.
    #[error("'.' and '..' are not allowed in it")]
    Dots,
    /// A slash where a single name belongs.
    #[error("a name cannot contain '/'")]
    Slash,
    /// A NUL byte.
    #[error("it contains a NUL byte")]
    Nul,
    /// More than [`MAX_NAME`] or [`MAX_PATH`] bytes.
    #[error("it is too long (a name has at most 255 bytes, a path 4095)")]
    TooLong,
    /// `.NAME~HASH.haul`, and the same with `-info`, `-old` or `-trash` behind it, belong to haul.
    #[error("names of the form .NAME~HASH.haul and .NAME~HASH.haul-… are haul's own")]
    Reserved,
}

/// One component of a path.
///
/// Invariants: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`, not of a form that is reserved for
/// haul. Bytes, not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Vec<u8>);

impl Name {
    /// Checks the invariants.
    ///
    /// # Errors
    /// [`BadPath`] says which one does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Name, BadPath> {
        match bytes {
            [] => Err(BadPath::Empty),
            b"." | b".." => Err(BadPath::Dots),
            _ if bytes.len() > MAX_NAME => Err(BadPath::TooLong),
            _ if bytes.contains(&b'/') => Err(BadPath::Slash),
            _ if bytes.contains(&0) => Err(BadPath::Nul),
            _ if is_reserved(bytes) => Err(BadPath::Reserved),
            _ => Ok(Name(bytes.to_vec())),
        }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// The path of an entry beneath a store's root; empty for the root itself.
///
/// Invariants: every component is a [`Name`]; single slashes between them, none in front or behind;
/// at most [`MAX_PATH`] bytes. So a path can name nothing above the root, whatever a peer sent. The
/// store sees to it that symlinks cannot lead outside either, when it opens them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RemotePath(Vec<u8>);

impl RemotePath {
    /// The store's root.
    pub fn root() -> RemotePath {
        RemotePath(Vec::new())
    }

    /// Checks the invariants; the empty string is the root.
    ///
    /// # Errors
    /// [`BadPath`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<RemotePath, BadPath> {
        if bytes.is_empty() {
            return Ok(RemotePath::root());
        }
        if bytes.len() > MAX_PATH {
            return Err(BadPath::TooLong);
        }
        for component in bytes.split(|b| *b == b'/') {
            Name::parse(component)?;
        }
        Ok(RemotePath(bytes.to_vec()))
    }

    /// Returns this path with one more component.
    ///
    /// # Errors
    /// [`BadPath::TooLong`].
    pub fn join(&self, name: &Name) -> Result<RemotePath, BadPath> {
        self.followed_by(&name.0)
    }

    /// Returns this path followed by `rest`.
    ///
    /// # Errors
    /// [`BadPath::TooLong`].
    pub fn append(&self, rest: &RemotePath) -> Result<RemotePath, BadPath> {
        match rest.is_root() {
            true => Ok(self.clone()),
            false => self.followed_by(&rest.0),
        }
    }

    fn followed_by(&self, rest: &[u8]) -> Result<RemotePath, BadPath> {
        if self.is_root() {
            return Ok(RemotePath(rest.to_vec()));
        }
        let joined = [&self.0[..], b"/", rest].concat();
        match joined.len() {
            0..=MAX_PATH => Ok(RemotePath(joined)),
            _ => Err(BadPath::TooLong),
        }
    }

    /// Returns the path of the directory that holds this entry, and its name there; `None` for the
    /// root.
    pub fn split(&self) -> Option<(RemotePath, Name)> {
        let (parent, name) = self.halves()?;
        Some((RemotePath(parent.to_vec()), name))
    }

    /// As [`RemotePath::split`], with the directory's path as bytes.
    pub fn halves(&self) -> Option<(&[u8], Name)> {
        let slash = self.0.iter().rposition(|b| *b == b'/');
        let (parent, name) = match slash.and_then(|slash| self.0.split_at_checked(slash)) {
            Some((parent, name)) => (parent, name.strip_prefix(b"/").unwrap_or(name)),
            None => (&[][..], &self.0[..]),
        };
        (!self.is_root()).then(|| (parent, Name(name.to_vec())))
    }

    /// True for the store's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `self` is `other` or lies beneath it.
    pub fn is_within(&self, other: &RemotePath) -> bool {
        match self.0.strip_prefix(other.0.as_slice()) {
            Some(rest) => rest.is_empty() || other.is_root() || rest.starts_with(b"/"),
            None => false,
        }
    }

    /// Returns this path relative to `other`; `None` if it is not within that.
    pub fn beneath(&self, other: &RemotePath) -> Option<RemotePath> {
        let rest = self.0.strip_prefix(other.0.as_slice()).filter(|_| self.is_within(other))?;
        Some(RemotePath(rest.strip_prefix(b"/").unwrap_or(rest).to_vec()))
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl Iterator<Item = Name> + '_ {
        self.0
            .split(|b| *b == b'/')
            .filter(|c| !c.is_empty())
            .map(|c| Name(c.to_vec()))
    }

    /// The path's bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns it as the standard library's type; `.` for the root.
    pub fn as_path(&self) -> &Path {
        if self.is_root() {
            Path::new(".")
        } else {
            Path::new(OsStr::from_bytes(&self.0))
        }
    }
}

impl Borrow<[u8]> for RemotePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::partial_names::PartialNames;
    use super::*;

    #[test]
    fn what_is_no_path_is_refused() {
        let refused = |bytes: &[u8]| RemotePath::parse(bytes).unwrap_err();
        assert_eq!(refused(b"a/../b"), BadPath::Dots);
        assert_eq!(refused(b".."), BadPath::Dots);
        assert_eq!(refused(b"a/."), BadPath::Dots);
        assert_eq!(refused(b"/etc"), BadPath::Empty);
        assert_eq!(refused(b"a//b"), BadPath::Empty);
        assert_eq!(refused(b"a/"), BadPath::Empty);
        assert_eq!(refused(b"a\0b"), BadPath::Nul);
        let x = PartialNames::of(&Name::parse(b"x").unwrap());
        assert_eq!(refused(&[b"d/", &x.file[..]].concat()), BadPath::Reserved);
        assert_eq!(refused(&[&x.record[..], b"/d"].concat()), BadPath::Reserved);
        assert_eq!(refused(&[b'a'; 256]), BadPath::TooLong);
        assert_eq!(refused(&b"a/".repeat(2048)), BadPath::TooLong);
        assert_eq!(Name::parse(b"a/b").unwrap_err(), BadPath::Slash);
    }

    #[test]
    fn odd_but_legal_names_pass() {
        for name in [
            &b"..."[..],
            b"-rf",
            b" ",
            b"\n",
            b"\xff\xfe",
            b"a\\b",
            b"x.haul",
            b".x.haul",
            b".haul",
            &[b'n'; 255],
        ] {
            assert_eq!(Name::parse(name).unwrap().as_bytes(), name);
        }
    }

    #[test]
    fn split_and_join_are_inverse() {
        let path = RemotePath::parse(b"a/b/c").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.as_bytes(), name.as_bytes()), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(parent.join(&name).unwrap(), path);
        assert!(RemotePath::root().split().is_none());
        assert_eq!(path.components().count(), 3);
        assert_eq!(RemotePath::root().components().count(), 0);
    }

    #[test]
    fn within_goes_by_components() {
        let p = |s: &str| RemotePath::parse(s.as_bytes()).unwrap();
        assert!(p("a/b").is_within(&p("a")));
        assert!(p("a").is_within(&p("a")));
        assert!(p("a").is_within(&p("")));
        assert!(!p("ab").is_within(&p("a")));
        assert!(!p("a").is_within(&p("a/b")));
    }
}
