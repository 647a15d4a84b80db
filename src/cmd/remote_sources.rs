//! The sources of a get: what is fetched, and the same directories as ends of a deletion.

use super::failure::Failure;
use super::location::Remote;
use super::source_removal::SourceEnd;
use super::transfer::TransferArgs;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::client::requests::GetSources;
use crate::net::deletion::place::Place as End;
use crate::net::deletion::search::Pair;
use crate::net::transfer::send::chosen::{Chosen, Scope};
use crate::net::wire::Code;
use crate::store::{Kind, RemotePath};
use std::sync::Arc;

/// The directories that are sent with everything in them, with their places.
pub(super) async fn pairs_of(
    client: &Arc<Client>,
    given: &Sources,
    tops: &[RemotePath],
) -> Result<Vec<Pair>, NetError> {
    let mut pairs = Vec::new();
    for (index, (source, top)) in given.remotes.iter().zip(tops).enumerate() {
        let name = match source.path.split() {
            Some((_, name)) if !source.means_contents() => name.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let Some(chosen) = given.chosen.get(index) else {
            // a slash follows a symlink
            if source.directory || is_dir(client, &source.path).await? {
                pairs.push(pair(client, source, top.clone(), name));
            }
            continue;
        };
        for (beneath, scope) in chosen.paths() {
            let (Ok(path), Ok(top)) = (source.path.append(&beneath), top.append(&beneath)) else {
                continue;
            };
            if scope == Scope::Tree && is_dir(client, &path).await? {
                pairs.push(pair(client, &source.at(path), top, beneath.as_bytes().to_vec()));
            }
        }
    }
    Ok(pairs)
}

/// False also of what is not there.
async fn is_dir(client: &Client, path: &RemotePath) -> Result<bool, NetError> {
    match client.stat(path.as_bytes(), false).await {
        Ok((entry, _)) => Ok(entry.kind == Kind::Dir),
        Err(NetError::Refused { code, .. }) if code == Code::NOT_FOUND => Ok(false),
        Err(e) => Err(e),
    }
}

fn pair(client: &Arc<Client>, source: &Remote, top: RemotePath, place: Vec<u8>) -> Pair {
    Pair {
        label: source.shown.clone(),
        source: End::There {
            client: client.clone(),
            base: source.path.as_bytes().to_vec(),
        },
        source_top: RemotePath::root(),
        top,
        place,
    }
}

/// Where the files of the sources are, to be removed.
pub(super) fn ends_of(client: &Arc<Client>, sources: &[Remote]) -> Vec<SourceEnd> {
    let end = |source: &Remote| {
        let (base, top) = match source.path.split() {
            Some((parent, name)) => (parent, RemotePath::root().join(&name).unwrap_or_default()),
            None => (RemotePath::root(), RemotePath::root()),
        };
        SourceEnd {
            place: End::There {
                client: client.clone(),
                base: base.as_bytes().to_vec(),
            },
            top,
            label: source.shown.as_bytes().to_vec(),
        }
    };
    sources.iter().map(end).collect()
}

/// The refusal of a removal by a user who may only read.
pub(super) fn not_for_readers() -> NetError {
    let text = "this user may only read: --remove-source-files removes at the server".into();
    NetError::Refused {
        code: Code::DENIED,
        text,
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
    let mut path = remote.path.as_bytes().to_vec();
    if remote.directory && !path.is_empty() {
        path.push(b'/');
    }
    path
}
