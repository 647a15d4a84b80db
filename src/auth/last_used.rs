//! `last-used`: when a key logged in last, one line each: `NAME SHA256:… TIME`, in seconds since
//! 1970.
//!
//! It is the server's notebook, apart from `users`: a login changes nothing that decides about
//! logins.

use super::file::{self, FileError};
use super::key::Fingerprint;
use super::name::UserName;
use super::state_file::StateFile;
use super::user::User;
use std::collections::BTreeMap;

/// The file's name in the server's state directory.
pub const FILE: &str = "last-used";

/// A key of a user.
type Id = (String, String);

/// When keys logged in last.
#[derive(Default)]
pub struct LastUsed(BTreeMap<Id, u64>);

/// A login by key.
pub struct Use {
    /// Who logged in.
    pub user: UserName,
    /// With which key.
    pub key: Fingerprint,
    /// When, in seconds since 1970.
    pub at: u64,
}

fn id(user: &UserName, key: &Fingerprint) -> Id {
    (user.to_string(), key.to_string())
}

fn parse_line(line: &str) -> Result<(Id, u64), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [user, key, at] = words[..] else {
        return Err("a line is NAME FINGERPRINT TIME".into());
    };
    let user = UserName::parse(user)?;
    let key = Fingerprint::parse(key).ok_or("the fingerprint is not of the form SHA256:base64")?;
    let at = at.parse().map_err(|_| "the time is not in seconds since 1970")?;
    Ok((id(&user, &key), at))
}

impl LastUsed {
    /// Reads the file; one that does not exist says nothing.
    ///
    /// # Errors
    /// [`FileError`], with the line.
    pub fn read(at: impl Into<StateFile>) -> Result<LastUsed, FileError> {
        let at = at.into();
        let lines = file::parse_lines(&at.name(), &at.read()?, parse_line)?;
        Ok(LastUsed(lines.into_iter().collect()))
    }

    /// When this key of the user logged in last.
    pub fn of(&self, user: &UserName, key: &Fingerprint) -> Option<u64> {
        self.0.get(&id(user, key)).copied()
    }
}

/// Adds logins to the file, and forgets keys that `users` do not have. A file that is damaged
/// starts over.
///
/// # Errors
/// [`FileError`].
pub fn record(at: impl Into<StateFile>, uses: &[Use], users: &[User]) -> Result<(), FileError> {
    let at = at.into();
    let name = at.name();
    at.update(|text| {
        let lines = file::parse_lines(&name, &text, parse_line).unwrap_or_default();
        let mut last: BTreeMap<Id, u64> = lines.into_iter().collect();
        last.extend(uses.iter().map(|one| (id(&one.user, &one.key), one.at)));
        let listed = users.iter().flat_map(|user| {
            let keys = user.keys.iter();
            keys.map(|key| id(&user.name, &key.public.fingerprint()))
        });
        let line = |id: Id| last.get(&id).map(|at| format!("{} {} {at}\n", id.0, id.1));
        Ok((listed.filter_map(line).collect(), ()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::key::PublicKey;
    use super::super::user::AuthorizedKey;
    use super::*;

    #[test]
    fn the_last_use_of_each_listed_key_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last-used");
        let (one, two) = (PublicKey::from_der(&[1]), PublicKey::from_der(&[2]));
        let mut kim = User::new(UserName::parse("kim").unwrap());
        kim.keys = vec![AuthorizedKey::new(one.clone()), AuthorizedKey::new(two.clone())];
        let used = |key: &PublicKey, at: u64| Use {
            user: kim.name.clone(),
            key: key.fingerprint(),
            at,
        };
        let last =
            |key: &PublicKey| LastUsed::read(&path).unwrap().of(&kim.name, &key.fingerprint());
        assert_eq!(last(&one), None);
        record(&path, &[used(&one, 5), used(&one, 6), used(&two, 7)], &[kim.clone()]).unwrap();
        assert_eq!((last(&one), last(&two)), (Some(6), Some(7)));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(LastUsed::read(&path).is_err());
        record(&path, &[used(&one, 8)], &[kim.clone()]).unwrap();
        assert_eq!(last(&one), Some(8));
        record(&path, &[], &[]).unwrap();
        assert_eq!(last(&one), None, "no user has the key any more");
    }
}
