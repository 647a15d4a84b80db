//! Ignore files: files in the directories of a source with patterns that exclude what is beside and
//! beneath them, with git's meaning (gitignore(5)). The last pattern that matches decides, those of
//! inner directories before those of outer ones; nothing beneath an excluded directory is included.

use crate::store::{ErrorKind, Name, RemotePath, Store, StoreError, blocking};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes of all ignore files on the way down to a directory: each directory of a walk may have
/// one, and its patterns are in memory until the walk leaves it.
const MAX_IGNORE: usize = 32 << 10;

/// The ignore files of a directory, and of those above it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Ignored(Option<Arc<Level>>);

struct Level {
    above: Ignored,
    dir: RemotePath,
    patterns: Gitignore,
    /// Bytes of its files, and of those above.
    bytes: usize,
}

/// The pattern that excludes an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredBy {
    /// The file that has it: its path in the store.
    pub file: RemotePath,
    /// Its line, from 1 on.
    pub line: u32,
    /// What the line says.
    pub pattern: String,
}

impl Ignored {
    /// Those of no directory.
    pub const fn none() -> Ignored {
        Ignored(None)
    }

    /// Goes down into a directory, which may have files of these names.
    ///
    /// # Errors
    /// That of reading them, or that they are too large. Nothing in the directory may be sent
    /// then: what they exclude is not known.
    pub async fn enter(
        &self,
        store: &dyn Store,
        dir: &RemotePath,
        names: &[Name],
    ) -> Result<Ignored, StoreError> {
        if names.is_empty() {
            return Ok(self.clone());
        }
        let paths = names.iter().map(|name| dir.join(name));
        // one that is too long is not there
        let paths = paths.filter_map(Result::ok).collect::<Vec<_>>();
        let mut bytes = self.bytes();
        let mut files = Vec::new();
        let read = store.read_whole(paths.clone(), MAX_IGNORE).await;
        for (path, read) in paths.iter().zip(read) {
            let content = match read {
                Ok(whole) => whole.bytes,
                Err(e) if is_absent(&e) => continue,
                Err(e) if e.kind == ErrorKind::SourceChanged => return Err(too_large(path)),
                Err(e) => return Err(e),
            };
            bytes = bytes.saturating_add(content.len());
            if bytes > MAX_IGNORE {
                return Err(too_large(path));
            }
            let text = String::from_utf8(content);
            let text =
                text.map_err(|_| StoreError::because("the ignore file is not UTF-8", path))?;
            files.push((path.clone(), text));
        }
        if files.is_empty() {
            return Ok(self.clone());
        }
        // thousands of patterns take their time
        let patterns = blocking(move || compile(&files)).await;
        let patterns = patterns.map_err(|e| {
            StoreError::because(&format!("its ignore file cannot be used: {e}"), dir)
        })?;
        Ok(match patterns.is_empty() {
            true => self.clone(),
            false => Ignored(Some(Arc::new(Level {
                above: self.clone(),
                dir: dir.clone(),
                patterns,
                bytes,
            }))),
        })
    }

    /// Bytes of the files of this directory, and of those above.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |level| level.bytes)
    }

    /// The pattern that excludes an entry of the directory, if one does.
    pub fn excludes(&self, path: &RemotePath, is_dir: bool) -> Option<IgnoredBy> {
        let mut next = self;
        while let Some(level) = &next.0 {
            let beneath = path.beneath(&level.dir)?;
            match level.patterns.matched(beneath.as_path(), is_dir) {
                ignore::Match::Ignore(glob) => return Some(ignored_by(glob)),
                ignore::Match::Whitelist(_) => return None,
                ignore::Match::None => next = &level.above,
            }
        }
        None
    }
}

/// True where a directory has no such file. Anything else of the name says nothing either.
fn is_absent(error: &StoreError) -> bool {
    matches!(
        error.kind,
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::BadKind | ErrorKind::Symlink
    )
}

fn too_large(path: &RemotePath) -> StoreError {
    StoreError::because("the ignore files down to here have more than 32 KiB", path)
}

/// The patterns of files. As with git, a line that is no pattern matches nothing.
fn compile(files: &[(RemotePath, String)]) -> Result<Gitignore, ignore::Error> {
    let mut builder = GitignoreBuilder::new("");
    for (path, text) in files {
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        for (line, number) in text.lines().zip(1_u32..) {
            let _ = builder.add_line(Some(origin(path, number)), line);
        }
    }
    builder.build()
}

/// Where a pattern comes from, as the library carries it: a path, which names the line, too.
fn origin(path: &RemotePath, line: u32) -> PathBuf {
    path.as_path().join(line.to_string())
}

fn ignored_by(glob: &ignore::gitignore::Glob) -> IgnoredBy {
    let from = glob.from().unwrap_or(Path::new(""));
    let line = from
        .file_name()
        .and_then(|line| line.to_str())
        .and_then(|line| line.parse().ok());
    let file = from.parent().unwrap_or(Path::new(""));
    IgnoredBy {
        file: RemotePath::parse(file.as_os_str().as_encoded_bytes()).unwrap_or_default(),
        line: line.unwrap_or_default(),
        pattern: glob.original().to_owned(),
    }
}
