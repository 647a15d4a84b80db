//! The directories that a deletion makes equal, and the rules by which it does.

use crate::net::deletion::place::Place;
use crate::net::error::NetError;
use crate::net::transfer::filter::{Filter, Verdict};
use crate::net::transfer::view::{Seen, View};
use crate::store::{Kind, RemotePath};

/// A directory at both ends.
#[derive(Clone)]
pub struct Pair {
    /// What the user calls the source.
    pub label: String,
    /// The source's end.
    pub source: Place,
    /// The source itself there, where its ignore files begin.
    pub source_root: RemotePath,
    /// The directory there: the source, or one that was chosen of it.
    pub source_top: RemotePath,
    /// The same directory at the destination.
    pub top: RemotePath,
    /// Its path from the transfer's root, for the rules of a filter.
    pub place: Vec<u8>,
}

/// The rules of a filter.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// What they exclude stays.
    pub protected: &'a Filter,
    /// What they exclude is not sent.
    pub sent: &'a Filter,
    /// What is not sent is not at the source, for a deletion that includes it.
    pub deletes_excluded: bool,
    /// What the transfer sees of the sources.
    pub view: &'a View,
    /// A directory with the name of one of these at the source is extra.
    pub replaced: Replaced,
}

/// What is put in the place of directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Nothing.
    None,
    /// Files and symlinks.
    Files,
    /// FIFOs, sockets and devices, too.
    All,
}

impl Replaced {
    pub(super) fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::File | Kind::Symlink => self != Replaced::None,
            kind => kind.is_special() && self == Replaced::All,
        }
    }
}

/// The rules that exclude the directory of a pair, if something in it may be included: of those
/// that protect it, and of what is sent. `None` where nothing of it is sent.
pub(super) async fn sent_at_all(
    pair: &Pair,
    rules: Rules<'_>,
) -> Result<Option<(Option<usize>, Option<usize>)>, NetError> {
    let (within, sent) = (judge(rules.protected, &pair.place), judge(rules.sent, &pair.place));
    let rule = |verdict| match verdict {
        Verdict::Take(_) => Some(None),
        Verdict::Descend(rule) => Some(Some(rule)),
        Verdict::Skip(_) => None,
    };
    let is_chosen = pair.source_top != pair.source_root;
    if is_chosen && !rules.view.ignore_files.is_empty() && sent == Verdict::Take(None) {
        let (root, top) = (&pair.source_root, &pair.source_top);
        let seen = pair.source.see(rules.view, (root, top), std::slice::from_ref(top)).await?;
        if seen.first() == Some(&Seen::Ignored) {
            return Ok(None);
        }
    }
    Ok(rule(within).zip(rule(sent)))
}

/// The verdict about a directory that is none of an excluded one.
fn judge(filter: &Filter, place: &[u8]) -> Verdict {
    match place.is_empty() || filter.is_empty() {
        true => Verdict::Take(None),
        false => filter.judge(place, true, None),
    }
}

/// True where the source's directory has no entry at all.
///
/// # Errors
/// That of listing it.
pub async fn is_empty(pair: &Pair) -> Result<bool, NetError> {
    let top = [(pair.source_top.clone(), Vec::new())];
    let pages = pair.source.list(&top, &View::default()).await?;
    let page = pages.into_iter().next().ok_or_else(unlisted)??;
    Ok(page.entries.is_empty() && page.next.is_none())
}

/// The error of a listing that has no page.
pub(super) fn unlisted() -> NetError {
    NetError::Protocol("expected the page of a directory, got none".into())
}
