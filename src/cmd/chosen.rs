//! `-R` and `--files-from`: sources of which only some paths are sent, each under the path that it
//! has there.

use super::failure::Failure;
use super::filter::read_lines;
use super::hint;
use super::remote::{Remote, means_contents, tidy};
use crate::net::printable;
use crate::net::transfer::send::chosen::{Chosen, Scope};
use crate::store::RemotePath;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

/// Options about the paths of sources.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ChosenArgs {
    /// Send each SRC under its whole path; a /./ in it marks where that begins
    #[arg(short = 'R', long)]
    relative: bool,

    /// Send the paths that FILE lists, one per line, and each under its path in the only SRC;
    /// - is standard input. Directories of the list are sent with their contents if -r is given
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL)]
    files_from: Option<OsString>,
}

/// A source, and the paths that are chosen of it.
pub struct ChosenSource<T> {
    /// The directory in which the paths begin.
    pub base: T,
    /// The paths.
    pub chosen: Arc<Chosen>,
}

/// The paths that are chosen, by their bases.
struct ByBase<T>(Vec<(T, Chosen)>);

impl<T: PartialEq> ByBase<T> {
    fn add(&mut self, base: T, path: &RemotePath, scope: Scope) -> Result<(), Failure> {
        let at = match self.0.iter().position(|(other, _)| *other == base) {
            Some(at) => at,
            None => {
                self.0.push((base, Chosen::default()));
                self.0.len().saturating_sub(1)
            }
        };
        let added = self.0.get_mut(at).map(|(_, chosen)| chosen.add(path, scope));
        added.unwrap_or(Ok(())).map_err(|e| Failure::usage(e.to_string()))
    }

    fn finish(self) -> Vec<ChosenSource<T>> {
        let sources = self.0.into_iter().map(|(base, chosen)| ChosenSource {
            base,
            chosen: Arc::new(chosen),
        });
        sources.collect()
    }
}

impl ChosenArgs {
    /// True where only some paths of sources are sent.
    pub fn is_wanted(&self) -> bool {
        self.relative || self.files_from.is_some()
    }

    /// True where the list comes from standard input.
    pub fn reads_stdin(&self) -> bool {
        self.files_from.as_deref() == Some(OsStr::new("-"))
    }

    /// True where a list names the paths.
    pub fn has_list(&self) -> bool {
        self.files_from.is_some()
    }

    /// The local directories in which the paths begin, and the paths. Symlinks to directories are
    /// followed if it `follows`; `ends_with_nul` is of the lines of a list.
    ///
    /// # Errors
    /// A usage failure that names the source, or the line of the list.
    pub fn local(
        &self,
        sources: &[OsString],
        (scope, follows): (Scope, bool),
        ends_with_nul: bool,
    ) -> Result<Vec<ChosenSource<OsString>>, Failure> {
        let mut groups = ByBase(Vec::new());
        if let Some(file) = &self.files_from {
            let [base] = sources else {
                return Err(not_one_source());
            };
            let top = std::path::absolute(base).unwrap_or_default();
            let top = tidy(top.as_os_str().as_bytes()).unwrap_or_default();
            for (path, is_contents) in listed(file, &top, ends_with_nul)? {
                groups.add(base.clone(), &path, scope_of(scope, is_contents))?;
            }
            // an empty list is a transfer of nothing
            if groups.0.is_empty() {
                groups.0.push((base.clone(), Chosen::default()));
            }
            return Ok(groups.finish());
        }
        for source in sources {
            let (base, path) = split(source.as_bytes());
            let is_link = Path::new(source).components().as_path().is_symlink();
            if means_contents(source.as_bytes()) && is_link && !follows {
                let shown = printable(&source.to_string_lossy());
                return Err(Failure::usage(format!("-R {shown}: the directory is a symlink"))
                    .hint("add -k to send what it leads to, or leave out the slash"));
            }
            let path = tidy(path).map_err(|e| {
                let shown = printable(&source.to_string_lossy());
                Failure::usage(format!("-R {shown}: {e}"))
                    .hint("write /./ before the part that is to be sent")
            })?;
            groups.add(OsString::from_vec(base.to_vec()), &path, scope)?;
        }
        Ok(groups.finish())
    }

    /// The same for remote sources.
    ///
    /// # Errors
    /// As [`ChosenArgs::local`].
    pub fn remote(
        &self,
        sources: &[Remote],
        scope: Scope,
        ends_with_nul: bool,
    ) -> Result<Vec<ChosenSource<Remote>>, Failure> {
        let mut groups = ByBase(Vec::new());
        if let Some(file) = &self.files_from {
            let [base] = sources else {
                return Err(not_one_source());
            };
            let base = base.as_contents(&base.path);
            for (path, is_contents) in listed(file, &base.path, ends_with_nul)? {
                groups.add(base.clone(), &path, scope_of(scope, is_contents))?;
            }
            if groups.0.is_empty() {
                groups.0.push((base, Chosen::default()));
            }
            return Ok(groups.finish());
        }
        for source in sources {
            let top = source.anchor.clone().unwrap_or_default();
            let path = source.path.beneath(&top).unwrap_or_default();
            groups.add(source.as_contents(&top), &path, scope)?;
        }
        Ok(groups.finish())
    }
}

fn not_one_source() -> Failure {
    Failure::usage("--files-from needs one SRC, in which the paths of the list begin")
}

/// Where the path begins that a source of `-R` is sent under: after `/./`, or at its beginning.
fn split(source: &[u8]) -> (&[u8], &[u8]) {
    let marked = source.windows(3).position(|three| three == b"/./");
    match marked {
        Some(0) => (b"/", source.get(3..).unwrap_or_default()),
        Some(at) => {
            let (base, path) = source.split_at_checked(at).unwrap_or((source, b""));
            (base, path.get(3..).unwrap_or_default())
        }
        None if source.starts_with(b"/") => (b"/", source),
        None => (b".", source),
    }
}

/// How much of a path of a list is sent: with a slash at its end also what is directly in it.
fn scope_of(scope: Scope, is_contents: bool) -> Scope {
    match (scope, is_contents) {
        (Scope::Entry, true) => Scope::Contents,
        (scope, _) => scope,
    }
}

/// The paths of a list, beneath the source that is at `top`, and whether each has a slash at its
/// end, or means the source itself.
fn listed(
    file: &OsStr,
    top: &RemotePath,
    ends_with_nul: bool,
) -> Result<Vec<(RemotePath, bool)>, Failure> {
    let about = format!("--files-from {}", printable(&file.to_string_lossy()));
    let mut paths = Vec::new();
    for (number, line) in read_lines(&about, file, ends_with_nul)? {
        let bad = |why: String| Failure::usage(format!("{about}, line {number}: {why}"));
        let path = tidy(&line).map_err(|e| bad(e.to_string()))?;
        let is_absolute = line.starts_with(b"/");
        let path = match path.is_within(top) {
            true if is_absolute => path.beneath(top).unwrap_or_default(),
            false if is_absolute => {
                let shown = String::from_utf8_lossy(&line).into_owned();
                return Err(bad(format!("{} is not within SRC", printable(&shown)))
                    .hint("write paths without a slash at their beginning"));
            }
            _ => path,
        };
        let is_contents = means_contents(&line) || path.is_root();
        paths.push((path, is_contents));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_sent_under_its_path_from_the_mark_on() {
        let parts = |source: &'static str| {
            let (base, path) = split(source.as_bytes());
            (std::str::from_utf8(base).unwrap(), std::str::from_utf8(path).unwrap())
        };
        assert_eq!(parts("a/b/c"), (".", "a/b/c"));
        assert_eq!(parts("/a/b"), ("/", "/a/b"));
        assert_eq!(parts("a/./b/c"), ("a", "b/c"));
        assert_eq!(parts("/srv/./b/./c"), ("/srv", "b/./c"));
        assert_eq!(parts("/./a"), ("/", "a"));
        assert_eq!(parts("a/./"), ("a", ""));
    }
}
