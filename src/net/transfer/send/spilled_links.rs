//! The files with several names for which there was no room in memory: a hash table in a temporary
//! file, and their first names in another.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a slot: device, inode, the place of the record and one, and the names to come, 8 each.
const SLOT: usize = 32;
/// Slots that are read at once.
const CLUSTER: u64 = 16;
/// Slots of a new table, a power of two; a table that is half full doubles.
const FIRST_SLOTS: u64 = 1 << 14;
/// Most bytes of all first names.
const MOST_BYTES: u64 = 256 << 20;
/// Most files: the table then has as many bytes.
const MOST_FILES: u64 = 4 << 20;

/// The name of a file that was offered first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FirstRecord {
    /// The number of its offer.
    pub(super) number: u64,
    /// The index of its source.
    pub(super) source: u32,
    /// Its path beneath the source.
    pub(super) path: Vec<u8>,
}

/// First names on disk.
pub(super) struct SpilledLinks {
    slots: File,
    count: u64,
    used: u64,
    records: File,
    end: u64,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Slot {
    file: (u64, u64),
    /// 0: the slot is free.
    place: u64,
    more: u64,
}

impl Slot {
    fn of_bytes(bytes: &[u8; SLOT]) -> Slot {
        let mut numbers = [0_u64; 4];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = bytes.try_into().map_or(0, u64::from_ne_bytes);
        }
        let [device, inode, place, more] = numbers;
        Slot {
            file: (device, inode),
            place,
            more,
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        let numbers = [self.file.0, self.file.1, self.place, self.more];
        numbers.into_iter().flat_map(u64::to_ne_bytes).collect()
    }
}

impl SpilledLinks {
    /// An empty table.
    ///
    /// # Errors
    /// That of making a temporary file.
    pub(super) fn new() -> io::Result<SpilledLinks> {
        Ok(SpilledLinks {
            slots: table(FIRST_SLOTS)?,
            count: FIRST_SLOTS,
            used: 0,
            records: tempfile::tempfile()?,
            end: 0,
            hasher: RandomState::new(),
        })
    }

    /// Returns the first name of a file of which this is a further one.
    ///
    /// # Errors
    /// That of reading or writing it.
    pub(super) fn find(&self, file: (u64, u64)) -> io::Result<Option<FirstRecord>> {
        let (at, slot) = self.slot_of(file)?;
        // all names of a file that was removed may have been seen, and another may have its inode
        if slot.place == 0 || slot.more == 0 {
            return Ok(None);
        }
        let more = slot.more.saturating_sub(1);
        self.write(at, Slot { more, ..slot })?;
        self.record(slot.place).map(Some)
    }

    /// Adds the first name of a file; false where there is no room for more. `more` names may come.
    ///
    /// # Errors
    /// That of reading or writing it.
    pub(super) fn add(
        &mut self,
        file: (u64, u64),
        first: &FirstRecord,
        more: u64,
    ) -> io::Result<bool> {
        if self.end >= MOST_BYTES || self.used >= MOST_FILES {
            return Ok(false);
        }
        if self.used.saturating_mul(2) >= self.count {
            self.double()?;
        }
        let (at, slot) = self.slot_of(file)?;
        let length = u32::try_from(first.path.len()).unwrap_or(u32::MAX);
        let mut record = first.number.to_ne_bytes().to_vec();
        record.extend_from_slice(&first.source.to_ne_bytes());
        record.extend_from_slice(&length.to_ne_bytes());
        record.extend_from_slice(&first.path);
        self.records.write_all_at(&record, self.end)?;
        let place = self.end.saturating_add(1);
        self.write(at, Slot { file, place, more })?;
        self.used = self.used.saturating_add(u64::from(slot.place == 0));
        self.end = self.end.saturating_add(record.len() as u64);
        Ok(true)
    }

    /// The slot of a file, or the free one where it belongs.
    fn slot_of(&self, file: (u64, u64)) -> io::Result<(u64, Slot)> {
        find_slot(&self.slots, self.count, self.hasher.hash_one(file), file)
    }

    fn write(&self, at: u64, slot: Slot) -> io::Result<()> {
        self.slots.write_all_at(&slot.to_bytes(), at.saturating_mul(SLOT as u64))
    }

    fn record(&self, place: u64) -> io::Result<FirstRecord> {
        let (mut head, at) = ([0; 16], place.saturating_sub(1));
        self.records.read_exact_at(&mut head, at)?;
        let [n0, n1, n2, n3, n4, n5, n6, n7, s0, s1, s2, s3, l0, l1, l2, l3] = head;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]);
        let mut path = vec![0; length as usize];
        self.records
            .read_exact_at(&mut path, at.saturating_add(head.len() as u64))?;
        Ok(FirstRecord {
            number: u64::from_ne_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            source: u32::from_ne_bytes([s0, s1, s2, s3]),
            path,
        })
    }

    /// Copies the table into one of twice the size.
    fn double(&mut self) -> io::Result<()> {
        let count = self.count.saturating_mul(2);
        let slots = table(count)?;
        let mut at = 0;
        while at < self.count {
            for slot in read_slots(&self.slots, at)? {
                if slot.place != 0 {
                    let hash = self.hasher.hash_one(slot.file);
                    let (to, _) = find_slot(&slots, count, hash, slot.file)?;
                    slots.write_all_at(&slot.to_bytes(), to.saturating_mul(SLOT as u64))?;
                }
            }
            at = at.saturating_add(CLUSTER);
        }
        (self.slots, self.count) = (slots, count);
        Ok(())
    }
}

fn table(slots: u64) -> io::Result<File> {
    let file = tempfile::tempfile()?;
    file.set_len(slots.saturating_mul(SLOT as u64))?;
    Ok(file)
}

/// A cluster of slots, from one on whose index is a multiple of [`CLUSTER`].
fn read_slots(slots: &File, at: u64) -> io::Result<Vec<Slot>> {
    let mut bytes = [0; CLUSTER as usize * SLOT];
    slots.read_exact_at(&mut bytes, at.saturating_mul(SLOT as u64))?;
    let (slots, _) = bytes.as_chunks::<SLOT>();
    Ok(slots.iter().map(Slot::of_bytes).collect())
}

/// Linear probing, a cluster at a time. A table is never full.
fn find_slot(slots: &File, count: u64, hash: u64, file: (u64, u64)) -> io::Result<(u64, Slot)> {
    let mut at = (hash & count.saturating_sub(1)) / CLUSTER * CLUSTER;
    loop {
        for (index, slot) in (at..).zip(read_slots(slots, at)?) {
            if slot.place == 0 || slot.file == file {
                return Ok((index, slot));
            }
        }
        at = at.saturating_add(CLUSTER) & count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(number: u64) -> FirstRecord {
        FirstRecord {
            number,
            source: 3,
            path: format!("dir/{number}").into_bytes(),
        }
    }

    #[test]
    fn every_file_is_found_as_often_as_it_has_names() {
        let mut links = SpilledLinks::new().unwrap();
        let files = FIRST_SLOTS * 2;
        for n in 0..files {
            assert!(links.add((n % 3, n), &first(n), 2).unwrap());
        }
        assert!(links.count > FIRST_SLOTS, "it has grown");
        for times in 0..3 {
            for n in (0..files).step_by(7) {
                let found = links.find((n % 3, n)).unwrap();
                assert_eq!(found, (times < 2).then(|| first(n)), "{n}");
            }
        }
        assert_eq!(links.find((9, 9)).unwrap(), None);
        // an inode that another file has now
        assert!(links.add((0, 0), &first(77), 1).unwrap());
        assert_eq!(links.find((0, 0)).unwrap(), Some(first(77)));
    }

    #[test]
    fn it_has_a_bound() {
        let mut links = SpilledLinks::new().unwrap();
        links.end = MOST_BYTES;
        assert!(!links.add((1, 1), &first(1), 1).unwrap());
        assert_eq!(links.find((1, 1)).unwrap(), None);
    }
}
