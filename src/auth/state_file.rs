//! A file of a server's state, such as its users: on this machine, or shared by several servers.

use super::file::{self, FileError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How often a shared text is changed that others change at the same moment.
const RACES: usize = 16;

/// A text that several servers share.
///
/// Its calls wait for a network: they are for threads that may block.
pub trait SharedText: Send + Sync {
    /// Its name, for errors.
    fn name(&self) -> PathBuf;

    /// The text, empty if there is none yet, and its version.
    ///
    /// # Errors
    /// [`FileError`].
    fn read(&self) -> Result<(String, Option<String>), FileError>;

    /// Replaces the text if it still has this version; false if it has not.
    ///
    /// # Errors
    /// [`FileError`]; whether it was replaced is then not known.
    fn replace(&self, text: &str, version: Option<&str>) -> Result<bool, FileError>;

    /// Another text, beside it.
    fn beside(&self, name: &str) -> Arc<dyn SharedText>;
}

/// A file of a server's state.
#[derive(Clone)]
pub enum StateFile {
    /// On this machine.
    Local(PathBuf),
    /// Shared by several servers.
    Shared(Arc<dyn SharedText>),
}

impl StateFile {
    /// Its name, for errors.
    pub fn name(&self) -> PathBuf {
        match self {
            StateFile::Local(path) => path.clone(),
            StateFile::Shared(text) => text.name(),
        }
    }

    /// Another file, beside it.
    #[must_use]
    pub fn beside(&self, name: &str) -> StateFile {
        match self {
            StateFile::Local(path) => StateFile::Local(path.with_file_name(name)),
            StateFile::Shared(text) => StateFile::Shared(text.beside(name)),
        }
    }

    /// Its text; one that does not exist is empty.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(&self) -> Result<String, FileError> {
        match self {
            StateFile::Local(path) => file::read(path),
            StateFile::Shared(text) => text.read().map(|(text, _)| text),
        }
    }

    /// Changes it, and returns what `change` returns. If others change it at the same moment,
    /// `change` is called once more.
    ///
    /// # Errors
    /// That of `change`, or of reading and writing; then the file is what it was.
    pub fn update<T, E: From<FileError>>(
        &self,
        mut change: impl FnMut(String) -> Result<(String, T), E>,
    ) -> Result<T, E> {
        let shared = match self {
            StateFile::Local(path) => return file::update(path, change),
            StateFile::Shared(shared) => shared,
        };
        for _ in 0..RACES {
            let (before, version) = shared.read()?;
            let (text, value) = change(before.clone())?;
            if text == before || shared.replace(&text, version.as_deref())? {
                return Ok(value);
            }
        }
        Err(FileError::content(&shared.name(), "others change it all the time: try again").into())
    }
}

impl fmt::Debug for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name().display())
    }
}

impl From<&Path> for StateFile {
    fn from(path: &Path) -> StateFile {
        StateFile::Local(path.to_path_buf())
    }
}

impl From<&PathBuf> for StateFile {
    fn from(path: &PathBuf) -> StateFile {
        StateFile::Local(path.clone())
    }
}

impl From<PathBuf> for StateFile {
    fn from(path: PathBuf) -> StateFile {
        StateFile::Local(path)
    }
}

impl From<&StateFile> for StateFile {
    fn from(file: &StateFile) -> StateFile {
        file.clone()
    }
}
