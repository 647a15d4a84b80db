//! The names of this machine's users and groups, as its files list them.
//!
//! They are read once, before a server confines itself: what it serves then has no way to them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

/// The most lines of a file that are read.
const MAX_LINES: usize = 1 << 16;

static ACCOUNTS: LazyLock<Accounts> = LazyLock::new(|| Accounts {
    users: Names::load(Path::new("/etc/passwd")),
    groups: Names::load(Path::new("/etc/group")),
});

/// The users and groups of this machine.
#[derive(Debug, Default)]
pub struct Accounts {
    /// Its users.
    pub users: Names,
    /// Its groups.
    pub groups: Names,
}

/// Names and their numbers. Where one has several, the first counts.
#[derive(Debug, Default)]
pub struct Names {
    ids: HashMap<Vec<u8>, u32>,
    names: HashMap<u32, Vec<u8>>,
}

/// Returns the users and groups of this machine, which the first call reads.
pub fn accounts() -> &'static Accounts {
    &ACCOUNTS
}

/// The home directory of a user of this machine.
pub fn home_of(user: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let user = nix::unistd::User::from_name(user).ok()??;
    Some(user.dir.into_os_string().into_vec())
}

impl Names {
    /// Reads a file of lines `NAME:PASSWORD:NUMBER:…`; without one there are no names.
    fn load(path: &Path) -> Names {
        Names::parse(&std::fs::read(path).unwrap_or_default())
    }

    fn parse(text: &[u8]) -> Names {
        let mut all = Names::default();
        for line in text.split(|byte| *byte == b'\n').take(MAX_LINES) {
            let mut fields = line.split(|byte| *byte == b':');
            let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else {
                continue;
            };
            let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
            let is_name = !name.is_empty() && !name.starts_with(b"#");
            if let Some(id) = id.filter(|_| is_name) {
                all.ids.entry(name.to_vec()).or_insert(id);
                all.names.entry(id).or_insert_with(|| name.to_vec());
            }
        }
        all
    }

    /// The number of a name.
    pub fn id(&self, name: &[u8]) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// The name of a number.
    pub fn name(&self, id: u32) -> Option<&[u8]> {
        self.names.get(&id).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_accounts_are_skipped_and_the_first_of_several_counts() {
        let text = b"root:x:0:0::/root:/bin/sh\n# no:x:1\nkim:x:1000:\nkim:x:7:\nalso:x:1000:\n\
            broken:x:many:\n:x:9:\nshort:x";
        let names = Names::parse(text);
        assert_eq!(names.id(b"root"), Some(0));
        assert_eq!(names.id(b"kim"), Some(1000));
        assert_eq!(names.name(1000), Some(&b"kim"[..]));
        assert_eq!((names.id(b"broken"), names.id(b""), names.id(b"short")), (None, None, None));
        assert_eq!((names.name(1), names.name(9)), (None, None));
    }
}
