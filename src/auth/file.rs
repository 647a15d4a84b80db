//! Small text files: read with line numbers, changed under a lock, replaced atomically, mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most bytes of such a file.
const MAX_LEN: u64 = 16 << 20;

/// What is wrong with a file of settings, users or keys.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line that is not understood.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The file as a whole is not what it should be.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl FileError {
    /// An error of the system's.
    pub fn io(path: &Path, source: io::Error) -> FileError {
        FileError::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    /// A file that is wrong as a whole.
    pub fn content(path: &Path, reason: impl Into<String>) -> FileError {
        FileError::Content {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}

/// Opens a file for reading; `None` where there is none.
///
/// # Errors
/// [`FileError::Io`].
pub fn open(path: &Path) -> Result<Option<File>, FileError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::io(path, e)),
    }
}

/// Reads a file; one that does not exist is empty.
///
/// # Errors
/// [`FileError`], also for one of more than 16 MiB or that is not UTF-8.
pub fn read(path: &Path) -> Result<String, FileError> {
    match open(path)? {
        Some(file) => read_open(path, &file),
        None => Ok(String::new()),
    }
}

/// Reads a file that was opened at `path`.
///
/// # Errors
/// As [`read`].
pub fn read_open(path: &Path, file: &File) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_LEN.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| FileError::io(path, e))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(FileError::content(path, "is larger than 16 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| FileError::content(path, "is not UTF-8 text"))
}

/// Parses every line that is neither empty nor a comment (`#`).
///
/// # Errors
/// [`FileError::Line`] for the first line that `parse` refuses.
pub fn parse_lines<T>(
    path: &Path,
    text: &str,
    mut parse: impl FnMut(&str) -> Result<T, String>,
) -> Result<Vec<T>, FileError> {
    let lines = text.lines().enumerate().map(|(i, line)| (i.saturating_add(1), line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            parse(line).map_err(|reason| FileError::Line {
                path: path.to_path_buf(),
                line: number,
                reason,
            })
        })
        .collect()
}

/// Makes a directory that only its owner may look into, and what is above it.
///
/// # Errors
/// [`FileError::Io`].
pub fn make_private_dir(dir: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| FileError::io(dir, e))
}

/// Refuses a directory that users other than its owner may look into, or that is not `owner`'s
/// where one is given. One that does not exist yet is in order.
///
/// # Errors
/// [`FileError`], with what to do.
pub fn check_private(dir: &Path, owner: Option<u32>) -> Result<(), FileError> {
    let found = match fs::metadata(dir) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(FileError::io(dir, e)),
    };
    let (mode, shown) = (found.mode() & 0o7777, dir.display());
    if mode & 0o077 != 0 {
        let reason = format!(
            "other users may look into this directory (mode {mode:o}): run chmod 700 {shown}"
        );
        return Err(FileError::content(dir, reason));
    }
    match owner {
        Some(owner) if owner != found.uid() => {
            let uid = found.uid();
            let reason =
                format!("this directory belongs to user {uid}: run chown -R {owner} {shown}");
            Err(FileError::content(dir, reason))
        }
        _ => Ok(()),
    }
}

/// A file that root makes in another user's directory is that user's, who could not read it else.
fn give_to_owner(file: &File, dir: &Path) -> io::Result<()> {
    let (made, dir) = (file.metadata()?, fs::metadata(dir)?);
    if rustix::process::geteuid().is_root() && made.uid() != dir.uid() {
        std::os::unix::fs::fchown(file, Some(dir.uid()), Some(dir.gid()))?;
    }
    Ok(())
}

/// Replaces a file: written beside it with mode 0600, synced, renamed, directory synced.
///
/// # Errors
/// [`FileError::Io`], and then the file is what it was.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let error = |e| FileError::io(path, e);
    let dir = parent(path);
    make_private_dir(dir)?;
    let mut temporary =
        tempfile::Builder::new().prefix(".haul-").tempfile_in(dir).map_err(error)?;
    temporary.write_all(content).map_err(error)?;
    give_to_owner(temporary.as_file(), dir).map_err(error)?;
    temporary.as_file().sync_all().map_err(error)?;
    temporary.persist(path).map_err(|e| error(e.error))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(error)
}

/// Changes a file under a lock that others who change it wait for; gives what `change` gives.
///
/// # Errors
/// That of `change`, or of reading and writing; then the file is what it was.
pub fn update<T, E: From<FileError>>(
    path: &Path,
    change: impl FnOnce(String) -> Result<(String, T), E>,
) -> Result<T, E> {
    make_private_dir(parent(path))?;
    let _lock = lock(&path.with_extension("lock"))?;
    let before = read(path)?;
    let (text, value) = change(before.clone())?;
    if text != before {
        replace(path, text.as_bytes())?;
    }
    Ok(value)
}

/// The lock that this file is, once it is had. Only its owner may open it: a user who can open it
/// can hold it for as long as they like. One that others may open is put aside.
fn lock(path: &Path) -> Result<File, FileError> {
    let error = |e| FileError::io(path, e);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    loop {
        let lock = options.open(path).map_err(error)?;
        let found = lock.metadata().map_err(error)?;
        if found.mode() & 0o077 != 0 {
            remove_if_there(path).map_err(error)?;
            continue;
        }
        give_to_owner(&lock, parent(path)).map_err(error)?;
        lock.lock().map_err(error)?;
        // another one may have been put in its place meanwhile
        match fs::metadata(path) {
            Ok(now) if (now.dev(), now.ino()) == (found.dev(), found.ino()) => return Ok(lock),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
            _ => {}
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
