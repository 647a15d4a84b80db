//! Backups: what a store moves aside before it replaces or removes it.

use super::path::{BadPath, MAX_NAME, Name, RemotePath};

/// What is added to the name of an entry for that of its backup. It may be empty in a backup
/// directory only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffix(Vec<u8>);

impl Suffix {
    /// Checks that names can end with it.
    ///
    /// # Errors
    /// [`BadPath`] says why they cannot.
    pub fn parse(bytes: &[u8]) -> Result<Suffix, BadPath> {
        match bytes {
            _ if bytes.len() > MAX_NAME => Err(BadPath::TooLong),
            _ if bytes.contains(&b'/') => Err(BadPath::Slash),
            _ if bytes.contains(&0) => Err(BadPath::Nul),
            _ => Ok(Suffix(bytes.to_vec())),
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// This one, or for none the usual one.
    pub(super) fn or_usual(&self) -> Suffix {
        match self.0.is_empty() {
            true => Suffix(b"~".to_vec()),
            false => self.clone(),
        }
    }

    /// The name of the backup of an entry.
    ///
    /// # Errors
    /// [`BadPath`] if that is no name.
    pub(super) fn name_of(&self, name: &Name) -> Result<Name, BadPath> {
        Name::parse(&[name.as_bytes(), &self.0].concat())
    }

    /// True for the name of a backup.
    pub(super) fn is_of(&self, name: &Name) -> bool {
        !self.0.is_empty() && name.as_bytes().ends_with(&self.0)
    }
}

/// Where backups go, and their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupPlan {
    /// A directory of the store, which need not exist; `None`: beside the entry itself.
    pub dir: Option<RemotePath>,
    /// What is added to the names.
    pub suffix: Suffix,
}
