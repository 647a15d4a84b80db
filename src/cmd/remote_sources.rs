//! The sources of a get: what is fetched, and the same directories as ends of a deletion.

use super::failure::Failure;
use super::remote::Remote;
use super::source_removal::{SourceEnd, SourceEnds};
use super::transfer::TransferArgs;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::requests::GetSources;
use crate::net::deletion::pair::Pair;
use crate::net::deletion::place::Place as End;
use crate::net::transfer::send::chosen::{Chosen, Scope};
use crate::net::transfer::view::{Seen, View};
use crate::net::wire::Code;
use crate::store::{FollowedLinks, Kind, RemotePath};
use std::sync::Arc;

/// The directories that are sent with everything in them, with their places.
pub(super) async fn pairs_of(
    client: &Arc<Client>,
    given: &Sources,
    tops: &[RemotePath],
    view: &View,
) -> Result<Vec<Pair>, NetError> {
    let mut pairs = Vec::new();
    for (index, (source, top)) in given.remotes.iter().zip(tops).enumerate() {
        let name = match source.path.split() {
            Some((_, name)) if !source.means_contents() => name.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let pair = |label: String, beneath: RemotePath, top: RemotePath, place: Vec<u8>| Pair {
            label,
            source: End::There {
                client: client.clone(),
                base: source.path.as_bytes().to_vec(),
            },
            source_root: RemotePath::root(),
            source_top: beneath,
            top,
            place,
        };
        let Some(chosen) = given.chosen.get(index) else {
            // a slash follows a symlink
            if source.directory || is_dir(client, &source.path, view).await? {
                pairs.push(pair(source.shown.clone(), RemotePath::root(), top.clone(), name));
            }
            continue;
        };
        for (beneath, scope) in chosen.paths() {
            let (Ok(path), Ok(top)) = (source.path.append(&beneath), top.append(&beneath)) else {
                continue;
            };
            if scope == Scope::Tree && is_dir(client, &path, view).await? {
                let (label, place) = (source.at(path).shown, beneath.as_bytes().to_vec());
                pairs.push(pair(label, beneath, top, place));
            }
        }
    }
    Ok(pairs)
}

/// True of a directory, or of a symlink to one that the view follows; false also of what is not
/// there.
async fn is_dir(client: &Client, path: &RemotePath, view: &View) -> Result<bool, NetError> {
    if view.links != FollowedLinks::None {
        let root = RemotePath::root();
        let followed = View {
            links: view.links,
            ..View::default()
        };
        let (base, paths) = ((path.as_bytes(), &root), std::slice::from_ref(&root));
        return match client.see_beneath(base, paths, &followed).await {
            Ok(seen) => Ok(seen.first() == Some(&Seen::Kind(Kind::Dir))),
            Err(NetError::Refused { code, .. }) if code == Code::NOT_FOUND => Ok(false),
            Err(e) => Err(e),
        };
    }
    match client.stat(path.as_bytes(), false).await {
        Ok((entry, _)) => Ok(entry.kind == Kind::Dir),
        Err(NetError::Refused { code, .. }) if code == Code::NOT_FOUND => Ok(false),
        Err(e) => Err(e),
    }
}

/// Where the files of the sources are, to be removed.
pub(super) fn ends_of(client: &Arc<Client>, sources: &[Remote]) -> SourceEnds {
    let end = |source: &Remote| {
        // a symlink that leads to the directory is followed
        let (base, top) = match source.path.split() {
            Some((parent, name)) if !source.means_contents() => {
                (parent, RemotePath::root().join(&name).unwrap_or_default())
            }
            _ => (source.path.clone(), RemotePath::root()),
        };
        Some(SourceEnd {
            place: End::There {
                client: client.clone(),
                base: base.as_bytes().to_vec(),
            },
            top,
            label: source.shown.as_bytes().to_vec(),
            destination: None,
        })
    };
    sources.iter().map(end).collect()
}

/// Refuses a removal by a user who may only read.
pub(super) async fn check_rights(client: &Client) -> Result<(), NetError> {
    client.logged_in().await?;
    let text = "this user may only read: --remove-source-files removes at the server".into();
    match client.is_read_only() {
        true => Err(NetError::Refused {
            code: Code::DENIED,
            text,
        }),
        false => Ok(()),
    }
}

/// What is fetched.
pub(super) struct Sources {
    pub(super) remotes: Vec<Remote>,
    /// The paths that are chosen of each; none where everything is sent.
    pub(super) chosen: Vec<Arc<Chosen>>,
}

impl Sources {
    /// What the user named.
    ///
    /// # Errors
    /// A usage failure about the paths that are chosen.
    pub(super) fn of(remotes: Vec<Remote>, args: &TransferArgs) -> Result<Sources, Failure> {
        if !args.is_of_chosen() {
            let chosen = Vec::new();
            return Ok(Sources { remotes, chosen });
        }
        if let (Some(first), Some(other)) = (remotes.first(), other_server(&remotes)) {
            return Err(not_on_one_server(first, other));
        }
        let chosen = args.chosen_there(&remotes)?.into_iter();
        let (remotes, chosen) = chosen.map(|source| (source.base, source.chosen)).unzip();
        Ok(Sources { remotes, chosen })
    }

    /// Where each source goes, and what the user calls it; of one of which paths are chosen, each
    /// of these.
    pub(super) fn places(&self, tops: &[RemotePath]) -> Vec<(RemotePath, String)> {
        let mut places = Vec::new();
        for (index, (source, top)) in self.remotes.iter().zip(tops).enumerate() {
            match self.chosen.get(index) {
                None => places.push((top.clone(), source.shown.clone())),
                Some(chosen) => {
                    places.extend(chosen.paths().into_iter().filter_map(|(path, _)| {
                        let shown = source.at(source.path.append(&path).ok()?).shown;
                        Some((top.append(&path).ok()?, shown))
                    }))
                }
            }
        }
        places
    }

    /// The requests that fetch it: one, unless a list has more paths than a request.
    pub(super) fn requests(&self) -> Vec<GetSources> {
        let paths: Vec<_> = self.remotes.iter().map(wire_path).collect();
        match self.chosen.as_slice() {
            [chosen] => {
                let parts = chosen.parts().into_iter().map(|part| GetSources {
                    paths: paths.clone(),
                    chosen: vec![Arc::new(part)],
                });
                parts.collect()
            }
            // several bases are there because something of each was chosen
            chosen => vec![GetSources {
                paths,
                chosen: chosen.to_vec(),
            }],
        }
    }
}

/// The first source that is on another server than the one before.
pub(super) fn other_server(sources: &[Remote]) -> Option<&Remote> {
    let first = sources.first()?;
    sources.iter().find(|source| source.server != first.server)
}

pub(super) fn not_on_one_server(first: &Remote, other: &Remote) -> Failure {
    let (other, first) = (&other.shown, &first.shown);
    Failure::usage(format!("{other} is on another server than {first}"))
}

/// The path of a source. A slash at its end follows a symlink to a directory, as usual.
pub(super) fn wire_path(remote: &Remote) -> Vec<u8> {
    let mut path = remote.asked();
    if remote.directory && !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path
}
