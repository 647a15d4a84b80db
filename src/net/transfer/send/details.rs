//! What a walk finds out about an entry besides what the listing says: its extended attributes, and
//! of which earlier one it is another name.

use crate::net::transfer::metadata::{Details, LinkTo, MetadataOptions};
use crate::net::transfer::send::source::TransferSource;
use crate::net::transfer::send::spilled_links::{FirstRecord, SpilledLinks};
use crate::store::{Entry, ErrorKind, Kind, RemotePath, Store, StoreError};
use std::collections::HashMap;

/// The most bytes for files that have further names.
const LINK_MEMORY: usize = 16 << 20;
/// About what such a file takes besides its path.
const LINK_COST: usize = 96;

/// Why entries of this kind are not sent, if that is so.
pub(super) fn refused(
    kind: Kind,
    is_recursive: bool,
    options: &MetadataOptions,
) -> Option<ErrorKind> {
    match kind {
        Kind::Other => Some(ErrorKind::BadKind),
        kind if kind.is_special() && !options.devices => Some(ErrorKind::BadKind),
        Kind::Dir if !is_recursive => Some(ErrorKind::IsADirectory),
        _ => None,
    }
}

/// Reads the extended attributes of an entry, as far as they are preserved.
///
/// # Errors
/// That of reading them; or there are more than can be transferred.
pub(super) async fn details(
    store: &dyn Store,
    path: &RemotePath,
    options: &MetadataOptions,
) -> Result<Details, StoreError> {
    let mut details = Details::default();
    if options.xattrs.is_any() {
        details.xattrs = store.xattrs(path, options.xattrs).await?;
    }
    Ok(details)
}

/// The files with several names that a walk has come across, until it has seen all their names.
pub(super) struct Links {
    are_wanted: bool,
    files: HashMap<(u64, u64), FirstName>,
    bytes: usize,
    /// Those for which there is no room; made when it is needed.
    spilled: Option<SpilledLinks>,
    /// No temporary file can be made, or written.
    cannot_spill: bool,
}

/// The name of a file that was offered first.
struct FirstName {
    number: u64,
    source: u32,
    path: RemotePath,
    /// Names that may still come.
    more: u64,
}

impl FirstName {
    fn cost(&self) -> usize {
        self.path.as_bytes().len().saturating_add(LINK_COST)
    }
}

impl Links {
    /// Remembers files only if links are preserved.
    pub(super) fn new(are_wanted: bool) -> Links {
        Links {
            are_wanted,
            files: HashMap::new(),
            bytes: 0,
            spilled: None,
            cannot_spill: false,
        }
    }

    /// Returns the offer that an entry is another name of, or remembers it as the first name of its
    /// file. The offer with the entry's own `number` stands for one that was not remembered,
    /// because there were too many.
    pub(super) fn find(
        &mut self,
        (number, source): (u64, usize),
        sources: &[TransferSource],
        (path, entry): (&RemotePath, &Entry),
    ) -> Option<LinkTo> {
        let file = entry.linked_file().filter(|_| self.are_wanted)?;
        let of = sources.get(source)?;
        if let Some(first) = self.files.get_mut(&file) {
            let link = LinkTo {
                number: first.number,
                source: first.source,
                path: first.path.clone(),
            };
            first.more = first.more.saturating_sub(1);
            if first.more == 0
                && let Some(seen) = self.files.remove(&file)
            {
                self.bytes = self.bytes.saturating_sub(seen.cost());
            }
            return Some(link);
        }
        if let Some(found) = self.find_spilled(file) {
            return Some(found);
        }
        let first = FirstName {
            number,
            source: u32::try_from(source).unwrap_or(u32::MAX),
            path: RemotePath::parse(of.beneath(path)).unwrap_or_default(),
            more: entry.links.saturating_sub(1),
        };
        let bytes = self.bytes.saturating_add(first.cost());
        if bytes > LINK_MEMORY {
            if self.spill(file, &first) {
                return None;
            }
            let FirstName { source, path, .. } = first;
            return Some(LinkTo {
                number,
                source,
                path,
            });
        }
        self.bytes = bytes;
        self.files.insert(file, first);
        None
    }
}

impl Links {
    /// Returns the first name of a file, if it is on disk.
    fn find_spilled(&mut self, file: (u64, u64)) -> Option<LinkTo> {
        match self.spilled.as_ref()?.find(file) {
            Ok(found) => {
                let first = found?;
                Some(LinkTo {
                    number: first.number,
                    source: first.source,
                    path: RemotePath::parse(&first.path).ok()?,
                })
            }
            Err(error) => {
                self.give_up_spilling(&error);
                None
            }
        }
    }

    /// Writes a first name to disk; false where that cannot be done.
    fn spill(&mut self, file: (u64, u64), first: &FirstName) -> bool {
        if self.cannot_spill {
            return false;
        }
        let record = FirstRecord {
            number: first.number,
            source: first.source,
            path: first.path.as_bytes().to_vec(),
        };
        let spilled = match self.spilled.take() {
            Some(spilled) => Ok(spilled),
            None => SpilledLinks::new(),
        };
        let added = spilled.and_then(|mut spilled| {
            let added = spilled.add(file, &record, first.more)?;
            self.spilled = Some(spilled);
            Ok(added)
        });
        added.unwrap_or_else(|error| {
            self.give_up_spilling(&error);
            false
        })
    }

    fn give_up_spilling(&mut self, error: &std::io::Error) {
        tracing::debug!(%error, "names of files cannot be written to a temporary file");
        (self.spilled, self.cannot_spill) = (None, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::transfer::send::source::Origin;
    use crate::store::{Attributes, StoreError, Version};

    fn entry(inode: u64, links: u64) -> Entry {
        Entry {
            name: None,
            kind: Kind::File,
            size: 1,
            attributes: Attributes::default(),
            target: None,
            version: Version::Facts([1, inode, 1, 0, 0, 0, 0]),
            owner: None,
            device: 0,
            links,
        }
    }

    #[test]
    fn files_with_several_names_are_remembered_until_all_were_seen_and_within_a_bound() {
        let root = RemotePath::root();
        let gone = StoreError::new(ErrorKind::NotFound, &root);
        let sources = [TransferSource {
            label: Vec::new(),
            origin: Origin::Missing(gone),
            place: None,
            chosen: None,
        }];
        let mut links = Links::new(true);
        let mut find = |number, inode, names| {
            let found = links.find((number, 0), &sources, (&root, &entry(inode, names)));
            (found.map(|link| link.number), links.bytes)
        };
        assert_eq!(find(1, 7, 1).0, None, "it has one name");
        for (number, first) in [(2, None), (3, Some(2)), (4, Some(2))] {
            assert_eq!(find(number, 8, 3).0, first);
        }
        assert_eq!(find(5, 8, 3), (None, LINK_COST), "all of its names were seen");
        // more than memory has room for are found all the same
        for n in 100..300_000 {
            let (first, bytes) = find(n, 1000 + n, 2);
            assert!(first.is_none() && bytes <= LINK_MEMORY, "{n}: {bytes}");
        }
        for n in (100..300_000).step_by(997) {
            assert_eq!(find(300_000 + n, 1000 + n, 2).0, Some(n));
        }
        // where nothing can be written, those beyond the bound become files of their own
        let mut links = Links::new(true);
        links.cannot_spill = true;
        let mut find = |number, inode, names| {
            let found = links.find((number, 0), &sources, (&root, &entry(inode, names)));
            (found.map(|link| link.number), links.bytes)
        };
        let beyond = (100..).find(|n| find(*n, 1000 + n, 2).0 == Some(*n)).unwrap();
        assert!(beyond > 100_000, "{beyond}");
        assert_eq!(find(beyond + 1, 1100, 2).0, Some(100));
        let (first, bytes) = find(beyond + 2, 1_000_000, 2);
        assert!(first.is_none() && bytes <= LINK_MEMORY, "there is room once more: {bytes}");
        let mut links = Links::new(false);
        let entry = entry(8, 3);
        assert_eq!(links.find((1, 0), &sources, (&root, &entry)), None);
        assert_eq!(links.find((2, 0), &sources, (&root, &entry)), None);
    }
}
