//! Which of the entries that a walk comes across it sends: by the rules of a filter, and by size.

use crate::net::transfer::filter::{Filter, Verdict};
use crate::net::transfer::options::Options;
use crate::net::transfer::send::source::TransferSource;
use crate::store::{Entry, Kind, RemotePath};

/// An entry that is to be sent; of a directory the rule that excludes it, if something in it may be
/// included.
pub(super) type Selected = ((RemotePath, Entry), Option<usize>);

/// What a walk selects.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    filter: Filter,
    prune_empty_dirs: bool,
    min_size: Option<u64>,
    max_size: Option<u64>,
}

impl Selection {
    /// What the user wants.
    pub fn of(options: &Options) -> Selection {
        Selection {
            filter: options.filter.clone(),
            prune_empty_dirs: options.prune_empty_dirs,
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
        !self.filter.is_empty() || self.min_size.is_some() || self.max_size.is_some()
    }

    /// Decides about an entry at `place`, in a directory that the rule `within` excludes, if one
    /// does. The transfer's root is always taken.
    pub(super) fn judge(&self, place: &[u8], entry: &Entry, within: Option<usize>) -> Verdict {
        let is_too_small = self.min_size.is_some_and(|least| entry.size < least);
        let is_too_large = self.max_size.is_some_and(|most| entry.size > most);
        if entry.kind == Kind::File && (is_too_small || is_too_large) {
            return Verdict::Skip;
        }
        match place {
            [] => Verdict::Take(None),
            _ if self.filter.is_empty() => Verdict::Take(None),
            place => self.filter.judge(place, entry.kind == Kind::Dir, within),
        }
    }

    /// Leaves the entries of a page that are to be sent, of a directory that the rule `within`
    /// excludes, if one does.
    pub(super) fn select(
        &self,
        source: &TransferSource,
        within: Option<usize>,
        entries: &mut Vec<Selected>,
    ) {
        if !self.is_needed() {
            return;
        }
        entries.retain_mut(|((path, entry), excluded_by)| {
            match self.judge(&source.place_of(path), entry, within) {
                Verdict::Take(_) => true,
                Verdict::Descend(rule) => {
                    *excluded_by = Some(rule);
                    true
                }
                Verdict::Skip => false,
            }
        });
    }
}
