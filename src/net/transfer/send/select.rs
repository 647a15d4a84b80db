//! Which of the entries that a walk comes across it sends: by the rules of a filter, by
//! ignore files, and by size.

use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::filter::ignore_files::Ignored;
use crate::net::transfer::filter::{Filter, Verdict};
use crate::net::transfer::options::Options;
use crate::net::transfer::send::levels::Levels;
use crate::net::transfer::send::source::TransferSource;
use crate::store::{Entry, Kind, Name, RemotePath};
use std::sync::Arc;

/// An entry that is to be sent; of a directory the rule that excludes it, if something in it may be
/// included.
pub(super) type Selected = ((RemotePath, Entry), Option<usize>);

/// What becomes of an entry.
pub(super) enum Choice {
    /// It is sent.
    Take,
    /// It is a directory that this rule excludes, and something in it may be sent.
    Descend(usize),
    /// It is not sent.
    Leave(Exclusion),
}

/// What a walk selects.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    filter: Filter,
    prune_empty_dirs: bool,
    ignore_files: Arc<[Name]>,
    min_size: Option<u64>,
    max_size: Option<u64>,
}

impl Selection {
    /// What the user wants.
    pub(super) fn of(options: &Options) -> Selection {
        Selection {
            filter: options.filter.clone(),
            prune_empty_dirs: options.prune_empty_dirs,
            ignore_files: options.view.ignore_files.clone(),
            min_size: options.min_size,
            max_size: options.max_size,
        }
    }

    /// True where directories in which nothing is sent are not offered.
    pub(super) fn prunes(&self) -> bool {
        self.prune_empty_dirs
    }

    /// False where everything is taken.
    fn is_needed(&self) -> bool {
        !self.ignore_files.is_empty()
            || !self.filter.is_empty()
            || self.min_size.is_some()
            || self.max_size.is_some()
    }

    /// The names of ignore files.
    pub(super) fn ignore_files(&self) -> &[Name] {
        &self.ignore_files
    }

    /// Decides about an entry at `place`, in a directory that the rule `within` excludes, if one
    /// does. A rule that matches it decides before the ignore files. The transfer's root is always
    /// taken.
    pub(super) fn choose(
        &self,
        place: &[u8],
        (path, entry): (&RemotePath, &Entry),
        within: Option<usize>,
        ignored: &Ignored,
    ) -> Choice {
        let is_dir = entry.kind == Kind::Dir;
        let verdict = match place {
            _ if place.is_empty() || self.filter.is_empty() => Verdict::Take(None),
            place => self.filter.judge(place, is_dir, within),
        };
        match verdict {
            Verdict::Take(Some(_)) => self.choose_by_size(entry),
            Verdict::Take(None) => match ignored.excludes(path, is_dir) {
                Some(by) => Choice::Leave(Exclusion::ignored(by)),
                None => self.choose_by_size(entry),
            },
            Verdict::Descend(rule) => Choice::Descend(rule),
            Verdict::Skip(rule) => Choice::Leave(Exclusion::Rule(rule)),
        }
    }

    fn choose_by_size(&self, entry: &Entry) -> Choice {
        let (size, is_file) = (entry.size, entry.kind == Kind::File);
        if is_file && self.min_size.is_some_and(|least| size < least) {
            return Choice::Leave(Exclusion::TooSmall);
        }
        if is_file && self.max_size.is_some_and(|most| size > most) {
            return Choice::Leave(Exclusion::TooLarge);
        }
        Choice::Take
    }

    /// Leaves the entries of a page of the innermost directory that are to be sent; returns the
    /// others, and why. Those that `is_taken` says are sent whatever the rules are.
    pub(super) fn select(
        &self,
        (source, is_taken): (&TransferSource, &dyn Fn(&RemotePath) -> bool),
        levels: &Levels,
        entries: &mut Vec<Selected>,
    ) -> Vec<(RemotePath, Exclusion)> {
        let mut excluded = Vec::new();
        if !self.is_needed() {
            return excluded;
        }
        let (within, ignored) = (levels.within(), levels.ignored());
        entries.retain_mut(|((path, entry), excluded_by)| {
            if is_taken(path) {
                return true;
            }
            match self.choose(&source.place_of(path), (path, entry), within, ignored) {
                Choice::Take => true,
                Choice::Descend(rule) => {
                    *excluded_by = Some(rule);
                    true
                }
                Choice::Leave(why) => {
                    excluded.push((path.clone(), why));
                    false
                }
            }
        });
        excluded
    }
}
