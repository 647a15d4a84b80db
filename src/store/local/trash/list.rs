//! Lists the trash, the last deletions first.

use super::super::inode::entry;
use super::super::sys::Directory;
use super::super::tree::Tree;
use super::batch::{BatchName, for_each_batch, open_trash};
use super::log;
use crate::store::error::At;
use crate::store::trash::{MAX_TRASHED, TrashItem, TrashPage, TrashedEntry};
use crate::store::{RemotePath, StoreError};
use cap_std::fs::Dir;
use rustix::io::Errno;
use std::collections::BTreeSet;

/// Batches of a page at most.
const BATCHES: usize = 64;
/// Bytes of the paths of a page, about.
const PAGE_BYTES: usize = 256 << 10;

/// The place of an entry: its batch, and its number there.
type Place = (BatchName, u32);

/// A page of the entries behind the one that the cookie names.
pub(super) fn page(tree: &Tree, cookie: &[u8]) -> Result<TrashPage, StoreError> {
    let root = RemotePath::root();
    let from = match cookie {
        [] => None,
        cookie => Some(parse(cookie).ok_or(Errno::INVAL).at("continue the listing", &root)?),
    };
    let trash = match open_trash(tree.root()) {
        Err(Errno::NOENT) => return Ok(TrashPage::default()),
        opened => opened.at("open the trash", &root)?,
    };
    let batches = last_batches(&trash, from.map(|(batch, _)| batch))?;
    let mut listing = Listing::default();
    for batch in batches.iter().rev() {
        let first = from.filter(|(of, _)| of == batch).map_or(0, |(_, number)| number);
        if let Some(next) = listing.add(&trash, *batch, first) {
            listing.page.next = Some(cookie_of(*batch, next));
            return Ok(listing.page);
        }
    }
    if batches.len() == BATCHES {
        listing.page.next = batches.first().map(|last| cookie_of(*last, u32::MAX));
    }
    Ok(listing.page)
}

/// The last batches that are not behind `from`.
fn last_batches(trash: &Dir, from: Option<BatchName>) -> Result<BTreeSet<BatchName>, StoreError> {
    let mut batches = BTreeSet::new();
    for_each_batch(trash, |batch| {
        if from.is_none_or(|from| batch <= from) {
            batches.insert(batch);
            if batches.len() > BATCHES {
                batches.pop_first();
            }
        }
    })?;
    Ok(batches)
}

fn cookie_of(batch: BatchName, number: u32) -> Vec<u8> {
    format!("{}/{number}", batch.text()).into_bytes()
}

fn parse(cookie: &[u8]) -> Option<Place> {
    let (batch, number) = std::str::from_utf8(cookie).ok()?.split_once('/')?;
    Some((BatchName::parse(batch.as_bytes())?, number.parse().ok()?))
}

/// A page that is being filled.
#[derive(Default)]
struct Listing {
    page: TrashPage,
    bytes: usize,
}

impl Listing {
    /// Adds the entries of a batch from a number on. Returns the number of the next one if the page
    /// is full. A batch that cannot be read has no entries.
    fn add(&mut self, trash: &Dir, batch: BatchName, first: u32) -> Option<u32> {
        let name = batch.text();
        let dir = trash.open_dir_at(name.as_bytes()).ok()?;
        let paths = log::read(&dir).unwrap_or_default();
        for (number, path) in (0_u32..).zip(paths).skip_while(|(number, _)| *number < first) {
            let Ok(found) = dir.stat_at(number.to_string().as_bytes()) else {
                continue;
            };
            if self.page.entries.len() >= MAX_TRASHED || self.bytes >= PAGE_BYTES {
                return Some(number);
            }
            self.bytes = self.bytes.saturating_add(path.as_bytes().len());
            let found = entry(None, &found, None);
            self.page.entries.push(TrashedEntry {
                item: TrashItem {
                    batch: name.clone(),
                    index: number,
                },
                path,
                kind: found.kind,
                size: found.size,
                deleted: batch.deleted(),
                expires: batch.expires,
                run: batch.run,
            });
        }
        None
    }
}
