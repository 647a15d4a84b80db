//! The backups that a transfer makes, as the user asks for them and as they travel.

use crate::net::wire::{Malformed, proto};
use crate::store::path::MAX_PATH;
use crate::store::{BackupPlan, BadPath, Name, RemotePath, Suffix};

/// Where a receiver moves aside what it replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    /// A directory, from the destination; with a leading slash from the root. `None`: beside each
    /// file.
    pub dir: Option<Vec<u8>>,
    /// What is added to the names.
    pub suffix: Suffix,
}

impl BackupOptions {
    /// As they travel.
    pub fn to_wire(&self) -> proto::Backup {
        proto::Backup {
            dir: self.dir.clone().unwrap_or_default(),
            suffix: self.suffix.as_bytes().to_vec(),
        }
    }

    /// As a peer sent them.
    ///
    /// # Errors
    /// [`Malformed`] for a suffix that is none, and for a path that is too long.
    pub fn from_wire(backup: proto::Backup) -> Result<BackupOptions, Malformed> {
        let bad = |_| Malformed("a suffix of backups is none");
        if backup.dir.len() > MAX_PATH {
            return Err(Malformed("the path of a backup directory is too long"));
        }
        Ok(BackupOptions {
            dir: Some(backup.dir).filter(|dir| !dir.is_empty()),
            suffix: Suffix::parse(&backup.suffix).map_err(bad)?,
        })
    }

    /// The plan for a destination at this path from the root.
    ///
    /// # Errors
    /// [`BadPath`] for a backup directory that is none; [`BadPath::Dots`] if it is above the root.
    pub fn plan(&self, destination: &RemotePath) -> Result<BackupPlan, BadPath> {
        let dir = self.dir.as_ref().map(|dir| directory(dir, destination));
        Ok(BackupPlan {
            dir: dir.transpose()?,
            suffix: self.suffix.clone(),
        })
    }

    /// Where the backup directory is beneath a destination at this path from the root, if it is.
    pub fn inside(&self, destination: &RemotePath) -> Option<RemotePath> {
        self.plan(destination).ok()?.dir?.beneath(destination)
    }
}

/// A path from a directory, with `.` and `..`.
fn directory(path: &[u8], from: &RemotePath) -> Result<RemotePath, BadPath> {
    let mut at = match path.starts_with(b"/") {
        true => RemotePath::root(),
        false => from.clone(),
    };
    for component in path.split(|byte| *byte == b'/') {
        at = match component {
            b"" | b"." => at,
            b".." => at.split().ok_or(BadPath::Dots)?.0,
            name => at.join(&Name::parse(name)?)?,
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_directory_never_leads_above_the_root() {
        let path = |text: &str| RemotePath::parse(text.as_bytes()).unwrap();
        let at = |text: &str| directory(text.as_bytes(), &path("www/site"));
        for (text, expected) in [
            ("old", "www/site/old"),
            ("./old/", "www/site/old"),
            ("../old//x", "www/old/x"),
            ("/old", "old"),
            ("/old/..", ""),
            ("../..", ""),
            (".", "www/site"),
        ] {
            assert_eq!(at(text), Ok(path(expected)), "{text}");
        }
        for outside in ["../../..", "/..", "/../etc", "old/../../../../etc"] {
            assert_eq!(at(outside), Err(BadPath::Dots), "{outside}");
        }
        assert_eq!(at("a\0b"), Err(BadPath::Nul));
    }
}
