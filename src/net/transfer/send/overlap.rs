//! Sources that go to one place (`a/. b/.`): of what has one name there, the first source's is
//! sent, and the others are refused.

use crate::net::transfer::report::shown;
use crate::net::transfer::send::source::TransferSource;
use crate::store::{Entry, ErrorKind, Kind, RemotePath, Store, StoreError};
use std::sync::Arc;

/// An earlier source with entries that may go where those of a later one go.
struct Earlier<'a> {
    label: &'a [u8],
    store: &'a Arc<dyn Store>,
    top: &'a RemotePath,
    place: &'a RemotePath,
}

/// True where an earlier source may have entries that go where those of source `index` go.
pub(super) fn may_overlap(sources: &[TransferSource], index: usize) -> bool {
    let place = sources.get(index).and_then(TransferSource::tree).map(|(.., place)| place);
    place.is_some_and(|place| {
        sources.iter().take(index).any(|source| earlier_of(source, place).is_some())
    })
}

/// For each of these entries of source `index` why it is not sent: something else of its name is.
pub(super) async fn refusals(
    sources: &[TransferSource],
    index: usize,
    entries: &[(RemotePath, Kind)],
) -> Vec<Option<StoreError>> {
    let mut refused: Vec<Option<StoreError>> = entries.iter().map(|_| None).collect();
    let Some((top, place)) = sources
        .get(index)
        .and_then(TransferSource::tree)
        .map(|(_, top, place)| (top, place))
    else {
        return refused;
    };
    let target = |path: &RemotePath| path.beneath(top).and_then(|rest| place.append(&rest).ok());
    let targets: Vec<Option<RemotePath>> = entries.iter().map(|(path, _)| target(path)).collect();
    for earlier in sources.iter().take(index).filter_map(|source| earlier_of(source, place)) {
        earlier.refuse(entries, &targets, &mut refused).await;
    }
    refused
}

/// The source, if what it has may go where a source goes that has this place.
fn earlier_of<'a>(source: &'a TransferSource, other: &RemotePath) -> Option<Earlier<'a>> {
    let (store, top, place) = source.tree()?;
    (place.is_within(other) || other.is_within(place)).then_some(Earlier {
        label: &source.label,
        store,
        top,
        place,
    })
}

impl Earlier<'_> {
    async fn refuse(
        &self,
        entries: &[(RemotePath, Kind)],
        targets: &[Option<RemotePath>],
        refused: &mut [Option<StoreError>],
    ) {
        let rest = |target: &Option<RemotePath>| target.as_ref()?.beneath(self.place);
        let rests: Vec<Option<RemotePath>> = targets.iter().map(rest).collect();
        let path = |rest: &RemotePath| self.top.append(rest).ok();
        let paths: Vec<RemotePath> = rests.iter().flatten().filter_map(path).collect();
        let mut found = match paths.is_empty() {
            true => Vec::new(),
            false => self.store.stat_many(paths).await,
        }
        .into_iter();
        for (((path, kind), rest), refused) in entries.iter().zip(&rests).zip(refused) {
            let Some(rest) = rest.as_ref().filter(|rest| self.top.append(rest).is_ok()) else {
                continue;
            };
            if let Some(Ok(entry)) = found.next()
                && !may_share(&entry, *kind)
            {
                let first = shown(self.label, rest.as_bytes());
                *refused = Some(StoreError::new(ErrorKind::SameName(first), path));
            }
        }
    }
}

/// Directories become one; what is never sent is in no other entry's way.
fn may_share(earlier: &Entry, kind: Kind) -> bool {
    let is_sent = earlier.kind != Kind::Other && !earlier.kind.is_special();
    !is_sent || (earlier.kind == Kind::Dir && kind == Kind::Dir)
}
