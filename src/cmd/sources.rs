//! The sources of a put or a copy, on this machine.

use super::chosen::ChosenSource;
use super::failure::{Failure, local_failure};
use super::location::{Location, means_contents, split_local};
use super::source_removal::{SourceEnd, not_a_link};
use super::transfer::TransferArgs;
use crate::net::client::requests::IfMissing;
use crate::net::deletion::pair::Pair;
use crate::net::deletion::place::Place;
use crate::net::transfer::report::shown;
use crate::net::transfer::send::chosen::{Chosen, Scope};
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::store::local::LocalStore;
use crate::store::{ErrorKind, FollowedLinks, Kind, RemotePath, Store, StoreError, StoreExt};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncRead;

/// Checks every source before anything is sent. A source that cannot be sent becomes
/// [`Origin::Missing`]. `stream_name` is the name of a stream at the destination.
pub(super) async fn prepare(
    sources: &[OsString],
    args: &TransferArgs,
    stream_name: impl FnOnce() -> Result<Vec<u8>, Failure>,
) -> Result<Vec<LocalSource>, Failure> {
    for source in sources {
        if let Location::Remote(remote) = Location::parse(source)? {
            return Err(Failure::usage(format!("{} is not on this machine", remote.shown)).hint(
                "put sends local files; write ./NAME for a local file with a colon in its name",
            ));
        }
    }
    if args.is_of_chosen() {
        let mut prepared = Vec::new();
        for ChosenSource { base, chosen } in args.chosen_here(sources)? {
            let path = Path::new(&base);
            let follow = Follow::all(args.links());
            prepared.push(match local_source(path, follow).await {
                Ok(given) => given.with_chosen(chosen),
                Err(error) => missing(path, error),
            });
        }
        return Ok(prepared);
    }
    if let Some(given) = sources.iter().find(|source| is_stream(source)) {
        let shown = stream_label(given).display();
        if sources.len() > 1 {
            return Err(Failure::usage(format!("{shown} is a stream: it can only be put alone")));
        }
        let name = stream_name().map_err(|e| Failure::about(&shown, e))?;
        let source = stream(given).await?;
        let kind = Kind::File;
        let path = PathBuf::from(given);
        return Ok(vec![LocalSource {
            source,
            name,
            kind,
            path,
        }]);
    }
    let mut seen = HashSet::new();
    let mut prepared = Vec::with_capacity(sources.len());
    for source in sources {
        let path = Path::new(source);
        let found = local_source(path, Follow::of(args)).await;
        let given = found.unwrap_or_else(|error| missing(path, error));
        if !given.name.is_empty() && !seen.insert(given.name.clone()) {
            let name = String::from_utf8_lossy(&given.name).into_owned();
            return Err(Failure::usage(format!("two sources are called {name}"))
                .hint("put them one by one"));
        }
        prepared.push(given);
    }
    Ok(prepared)
}

/// Refuses to remove what a symlink leads to: the symlink would lead nowhere then.
///
/// # Errors
/// A usage failure.
pub(super) fn refuse_followed(
    prepared: &[LocalSource],
    args: &TransferArgs,
) -> Result<(), Failure> {
    let recursive = args.is_recursive();
    match prepared.iter().any(|given| given.is_followed(recursive)) && args.remove_source_files {
        true => Err(not_a_link().hint("name the file, or add -r to send the symlink")),
        false => Ok(()),
    }
}

/// True for standard input, and for the path of a file that this process has open, as a shell
/// writes it for `<(COMMAND)`. A stream is read to its end. A FIFO with a name of its own is
/// skipped: it may never have a writer.
fn is_stream(source: &OsStr) -> bool {
    let bytes = source.as_bytes();
    let number = |prefix: &[u8]| bytes.strip_prefix(prefix);
    let number = number(b"/dev/fd/").or_else(|| number(b"/proc/self/fd/"));
    let is_open = number.is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit));
    match bytes {
        b"-" | b"/dev/stdin" => true,
        _ => is_open && std::fs::metadata(source).is_ok_and(|found| !found.is_dir()),
    }
}

/// The name of a stream in messages.
fn stream_label(source: &OsStr) -> &OsStr {
    match source.as_bytes() {
        b"-" => OsStr::new("standard input"),
        _ => source,
    }
}

async fn stream(source: &OsStr) -> Result<TransferSource, Failure> {
    let input: Box<dyn AsyncRead + Send + Unpin> = match source.as_bytes() {
        b"-" | b"/dev/stdin" | b"/dev/fd/0" | b"/proc/self/fd/0" => Box::new(tokio::io::stdin()),
        _ => Box::new(
            tokio::fs::File::open(source)
                .await
                .map_err(|e| local_failure(Path::new(source), &e))?,
        ),
    };
    let label = stream_label(source).as_bytes().to_vec();
    let origin = Origin::Stream(Mutex::new(Some(input)));
    let place = None;
    Ok(TransferSource {
        label,
        origin,
        place,
        chosen: None,
    })
}

/// A label without the `/` or `/.` at its end.
fn without_slash(label: &[u8]) -> &[u8] {
    let label = label
        .strip_suffix(b"/.")
        .or_else(|| label.strip_suffix(b"/"))
        .unwrap_or(label);
    match label {
        [] => b"/",
        label => label,
    }
}

/// A source that cannot be sent, under the name that it would have had.
fn missing(path: &Path, error: StoreError) -> LocalSource {
    let label = path.as_os_str().as_bytes().to_vec();
    let name = path.file_name().map_or(label.clone(), |name| name.as_bytes().to_vec());
    let origin = Origin::Missing(error);
    let place = None;
    let source = TransferSource {
        label,
        origin,
        place,
        chosen: None,
    };
    LocalSource {
        source,
        name,
        kind: Kind::File,
        path: path.to_path_buf(),
    }
}

/// A source of a put.
pub(super) struct LocalSource {
    pub(super) source: TransferSource,
    /// Its name at the destination: empty for `dir/`, `.` and the like, which stand for their
    /// contents.
    pub(super) name: Vec<u8>,
    kind: Kind,
    /// Its path on this machine, as the user wrote it.
    path: PathBuf,
}

impl LocalSource {
    /// Where it goes at the destination, and what the user calls it; of a source of which paths are
    /// chosen, each of these.
    pub(super) fn places(&self) -> Vec<(RemotePath, String)> {
        let Some(chosen) = &self.source.chosen else {
            return vec![self.place()];
        };
        let label = |beneath: &RemotePath| shown(&self.source.label, beneath.as_bytes());
        let text = |label: Vec<u8>| String::from_utf8_lossy(&label).into_owned();
        let paths = chosen.paths().into_iter();
        paths.map(|(beneath, _)| (beneath.clone(), text(label(&beneath)))).collect()
    }

    /// Where it goes at the destination, and what the user calls it.
    pub(super) fn place(&self) -> (RemotePath, String) {
        let place = RemotePath::parse(&self.name).unwrap_or_default();
        (place, String::from_utf8_lossy(&self.source.label).into_owned())
    }

    /// The same source, of which only these paths are sent, each under its own path.
    fn with_chosen(self, chosen: Arc<Chosen>) -> LocalSource {
        let label = match self.source.label.as_slice() {
            b"." => Vec::new(),
            _ => self.source.label,
        };
        LocalSource {
            source: TransferSource {
                label,
                place: Some(RemotePath::root()),
                chosen: Some(chosen),
                ..self.source
            },
            name: Vec::new(),
            ..self
        }
    }

    /// The directories that are sent with everything in them, as ends of a deletion: the source, or
    /// those that are chosen of it. It goes to `top` at the destination.
    pub(super) async fn dirs(&self, top: &RemotePath) -> Vec<Pair> {
        let Origin::Tree { store, path } = &self.source.origin else {
            return Vec::new();
        };
        let Some(chosen) = &self.source.chosen else {
            let (place, label) = self.place();
            let pair = Pair {
                source: Place::Here(store.clone()),
                source_root: path.clone(),
                source_top: path.clone(),
                place: place.as_bytes().to_vec(),
                top: top.clone(),
                label,
            };
            return Vec::from_iter((self.kind == Kind::Dir).then_some(pair));
        };
        let mut pairs = Vec::new();
        for (beneath, scope) in chosen.paths() {
            let (Ok(source_top), Ok(top)) = (path.append(&beneath), top.append(&beneath)) else {
                continue;
            };
            let found = store.stat(&source_top).await;
            if scope == Scope::Tree && found.is_ok_and(|entry| entry.kind == Kind::Dir) {
                let label = shown(&self.source.label, beneath.as_bytes());
                pairs.push(Pair {
                    source: Place::Here(store.clone()),
                    source_root: path.clone(),
                    source_top,
                    place: beneath.as_bytes().to_vec(),
                    top,
                    label: String::from_utf8_lossy(&label).into_owned(),
                });
            }
        }
        pairs
    }

    /// True of a file that was named by a symlink to it.
    pub(super) fn is_followed(&self, recursive: bool) -> bool {
        let is_link = || self.path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        !recursive && self.kind == Kind::File && is_link()
    }

    /// Where its files are, to be removed; `destination` is where it goes, if that is here too.
    pub(super) fn end(
        &self,
        destination: Option<(Arc<dyn Store>, RemotePath)>,
    ) -> Option<SourceEnd> {
        let Origin::Tree { store, path } = &self.source.origin else {
            return None;
        };
        Some(SourceEnd {
            place: Place::Here(store.clone()),
            top: path.clone(),
            label: self.source.label.clone(),
            destination,
        })
    }

    /// The paths on this machine that are sent whole, and each one's path at the source's place.
    pub(super) fn whole_paths(&self) -> Vec<(PathBuf, RemotePath)> {
        let Some(chosen) = &self.source.chosen else {
            return vec![(self.path.clone(), RemotePath::root())];
        };
        let whole = chosen.paths().into_iter().filter(|(_, scope)| *scope == Scope::Tree);
        whole
            .map(|(beneath, _)| (self.path.join(beneath.as_path()), beneath))
            .collect()
    }

    /// True of one that cannot be sent.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.source.origin, Origin::Missing(_))
    }
}

/// What becomes of a DEST where nothing is: it is made for directories, and for their contents, so
/// that a directory goes to DEST/NAME the first time and every time.
pub(super) fn if_missing(sources: &[LocalSource]) -> IfMissing {
    match sources.iter().any(|source| source.kind == Kind::Dir) {
        true => IfMissing::Make,
        false => IfMissing::Name,
    }
}

/// Which symlinks are followed, and which directories taken, where they are sources themselves.
#[derive(Clone, Copy)]
pub(super) struct Follow {
    /// Directories are taken.
    pub(super) recursive: bool,
    /// A symlink that is a source is followed.
    pub(super) source: bool,
    /// So are these beneath a source.
    pub(super) beneath: FollowedLinks,
}

impl Follow {
    /// As the options say. With -r a symlink is itself an entry, as with cp -r; without, its target
    /// is meant.
    fn of(args: &TransferArgs) -> Follow {
        Follow {
            recursive: args.is_recursive(),
            source: !args.is_recursive() || args.links() == FollowedLinks::All,
            beneath: args.links(),
        }
    }

    /// Directories are taken, and symlinks as they are.
    pub(super) fn none() -> Follow {
        Follow {
            source: false,
            ..Follow::all(FollowedLinks::None)
        }
    }

    /// Of a directory in which paths are chosen.
    fn all(beneath: FollowedLinks) -> Follow {
        Follow {
            recursive: true,
            source: true,
            beneath,
        }
    }

    /// True of a source that is followed if it is a symlink.
    fn follows(self, path: &Path) -> bool {
        let is_dir = || self.beneath == FollowedLinks::Dirs && path.is_dir();
        self.source || path.as_os_str().as_bytes().ends_with(b"/") || is_dir()
    }
}

/// Opens the directory that holds a source, or the source itself if it is a directory.
pub(super) async fn local_source(path: &Path, with: Follow) -> Result<LocalSource, StoreError> {
    let failed = |e: std::io::Error| StoreError::io("open", &RemotePath::root(), &e);
    let not_allowed = |e| StoreError::new(ErrorKind::BadName(e), &RemotePath::root());
    let follow = with.follows(path);
    let found = if follow {
        std::fs::metadata(path)
    } else {
        std::fs::symlink_metadata(path)
    };
    let found = found.map_err(failed)?;
    if found.is_dir() && !with.recursive {
        return Err(StoreError::new(ErrorKind::IsADirectory, &RemotePath::root()));
    }
    let name = path.file_name().filter(|_| !means_contents(path.as_os_str().as_bytes()));
    let name = name.map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    let (base, inside) = if found.is_dir() {
        (path.to_path_buf(), RemotePath::root())
    } else if follow {
        split_local(&std::fs::canonicalize(path).map_err(failed)?).map_err(not_allowed)?
    } else {
        split_local(path).map_err(not_allowed)?
    };
    let store = LocalStore::open(&base).map_err(failed)?;
    let store: Arc<dyn Store> = match with.beneath {
        FollowedLinks::None => store.subtree(&RemotePath::root()).await?,
        links => Arc::new(store.following_anywhere(links)?),
    };
    let label = path.as_os_str().as_bytes();
    let source = TransferSource {
        label: without_slash(label).to_vec(),
        origin: Origin::Tree {
            store,
            path: inside,
        },
        place: RemotePath::parse(&name).ok(),
        chosen: None,
    };
    let kind = match found.is_dir() {
        true => Kind::Dir,
        false => Kind::File,
    };
    Ok(LocalSource {
        source,
        name,
        kind,
        path: path.to_path_buf(),
    })
}
