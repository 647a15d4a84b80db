//! The record beside a partial file, `.NAME~HASH.haul-info`: its writer, the source, and how much
//! of it is durable.
//!
//! It has two slots that are written in turn, each with a checksum, so that a torn write leaves the
//! one before. Data and names are fsynced before the record calls them durable. The record is made
//! to say the contrary, durably, before the partial file is emptied, renamed or removed. So
//! whatever a power loss leaves of it never speaks of other bytes.

use super::sys::{Birth, Directory, Node, OpenFile, WARY, remove_file};
use crate::store::Checkpoint;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a slot.
pub const SLOT: usize = 4096;
/// Slots of a record.
const SLOTS: usize = 2;
/// Most bytes of `who` and `source` that are recorded.
const MAX_TEXT: usize = 256;
/// Most digests: as many as a file of 2^63 bytes needs, one for each bit of its number of chunks.
const MAX_DIGESTS: usize = 44;

/// The content of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ResumeRecord {
    /// Counts up with every write.
    sequence: u64,
    /// The writer, to show to users.
    pub who: String,
    /// Seconds since 1970, only to show to users: nothing is decided by it.
    pub since: u64,
    /// The version of the source.
    pub source: Option<String>,
    /// Leading bytes that are durable.
    pub offset: u64,
    /// BLAKE3 values that cover them, in hexadecimal digits.
    digests: Vec<String>,
    /// The inode of its partial file. A record without one belongs to no file.
    #[serde(default)]
    inode: u64,
    #[serde(default)]
    born: Option<Birth>,
}

/// Distinguishes a partial file from others of its name: the number of its inode, and the time when
/// that was made.
pub(super) type Identity = (u64, Option<Birth>);

impl ResumeRecord {
    /// Makes the record of a file of which nothing is durable yet.
    pub(super) fn new(
        who: &str,
        since: u64,
        source: Option<String>,
        (inode, born): Identity,
    ) -> ResumeRecord {
        ResumeRecord {
            inode,
            born,
            who: who.chars().take(MAX_TEXT / 4).collect(),
            since,
            source: source.filter(|s| s.len() <= MAX_TEXT),
            ..ResumeRecord::default()
        }
    }

    /// True if it is the record of this partial file.
    pub(super) fn is_of(&self, file: Identity) -> bool {
        (self.inode, self.born) == file
    }

    /// Returns how far the writer came; `None` if the record makes no sense.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let digests = self.digests.iter().map(|hex| {
            let hash = blake3::Hash::from_hex(hex).ok()?;
            Some(*hash.as_bytes())
        });
        Some(Checkpoint {
            offset: self.offset,
            digests: digests.collect::<Option<_>>()?,
        })
    }

    fn set(&mut self, point: &Checkpoint) {
        self.offset = point.offset;
        let hex = |digest: &[u8; 32]| blake3::Hash::from_bytes(*digest).to_hex().to_string();
        self.digests = point.digests.iter().take(MAX_DIGESTS).map(hex).collect();
    }

    /// Returns a slot: the record as JSON, a line with its BLAKE3 hash, and zeros. `None` if it
    /// does not fit.
    pub fn encode(&self) -> Option<[u8; SLOT]> {
        let mut text = serde_json::to_vec(self).ok()?;
        let hash = blake3::hash(&text).to_hex();
        text.push(b'\n');
        text.extend_from_slice(hash.as_bytes());
        text.push(b'\n');
        let mut slot = [0; SLOT];
        slot.get_mut(..text.len())?.copy_from_slice(&text);
        Some(slot)
    }

    /// Returns the newest of the slots that are intact.
    pub fn decode(bytes: &[u8]) -> Option<ResumeRecord> {
        let slots = bytes.chunks(SLOT).take(SLOTS).filter_map(|slot| {
            let mut lines = slot.split(|b| *b == b'\n');
            let (text, hash) = (lines.next()?, lines.next()?);
            let hash = blake3::Hash::from_hex(hash).ok()?;
            if blake3::hash(text) != hash {
                return None;
            }
            let record: ResumeRecord = serde_json::from_slice(text).ok()?;
            // haul did not write what it could not write
            let sound = record.digests.len() <= MAX_DIGESTS && record.encode().is_some();
            sound.then_some(record)
        });
        slots.max_by_key(|record| record.sequence)
    }
}

/// An open record, for its writer.
pub(super) struct RecordFile<F> {
    file: F,
    record: ResumeRecord,
}

/// Reads the record of a name; `None` for anything that is not a file of haul's.
pub(super) fn read(dir: &impl Directory, name: &[u8]) -> Option<ResumeRecord> {
    read_open(&open(dir, name, OFlags::RDONLY).ok()??)
}

fn read_open(file: &impl OpenFile) -> Option<ResumeRecord> {
    let mut bytes = vec![0; SLOT * SLOTS];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.pread(room, filled as u64).ok()? {
            0 => break,
            n => filled = filled.saturating_add(n),
        }
    }
    bytes.truncate(filled);
    ResumeRecord::decode(&bytes)
}

/// Opens a record; `None` if haul did not make it.
fn open<D: Directory>(dir: &D, name: &[u8], access: OFlags) -> rustix::io::Result<Option<D::File>> {
    let file = dir.open_at(name, WARY | access)?;
    let stat = file.fstat()?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    let plain = FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1;
    Ok((ours && plain).then_some(file))
}

/// Removes a record. While it calls something durable, a power loss could bring it back beside
/// another file: so it first says the contrary, durably.
pub(super) fn remove(dir: &impl Directory, name: &[u8]) -> rustix::io::Result<()> {
    match open(dir, name, OFlags::RDWR) {
        Ok(Some(file)) => {
            if let Some(record) = read_open(&file).filter(|record| record.offset > 0) {
                let mut open = RecordFile { file, record };
                open.restart(None)?;
            }
        }
        Err(Errno::NOENT) => return Ok(()),
        // a symlink that was staged here, or something else that cannot be a record
        Ok(None) | Err(_) => {}
    }
    remove_file(dir, name)
}

impl<F: OpenFile> RecordFile<F> {
    /// Starts a record over.
    ///
    /// # Errors
    /// That of the system.
    pub(super) fn start(
        dir: &impl Directory<File = F>,
        name: &[u8],
        record: ResumeRecord,
    ) -> rustix::io::Result<RecordFile<F>> {
        remove(dir, name)?;
        let file = dir.create_at(name, WARY | OFlags::RDWR, 0o600)?;
        let mut fresh = RecordFile { file, record };
        fresh.write()?;
        Ok(fresh)
    }

    /// Continues an existing record, for another writer.
    ///
    /// # Errors
    /// That of the system.
    pub(super) fn resume(
        dir: &impl Directory<File = F>,
        name: &[u8],
        record: ResumeRecord,
    ) -> rustix::io::Result<RecordFile<F>> {
        let file = open(dir, name, OFlags::RDWR)?.ok_or(Errno::NOENT)?;
        let found = read_open(&file).ok_or(Errno::NOENT)?;
        let (sequence, offset, digests) = (found.sequence, found.offset, found.digests);
        let record = ResumeRecord {
            sequence,
            offset,
            digests,
            ..record
        };
        let mut resumed = RecordFile { file, record };
        resumed.write()?;
        Ok(resumed)
    }

    /// Says, durably, that nothing is durable any more, for another version of the source.
    pub(super) fn restart(&mut self, source: Option<String>) -> rustix::io::Result<()> {
        let said_so = self.record.offset > 0;
        self.record.source = source;
        self.record.set(&Checkpoint::default());
        self.write()?;
        match said_so {
            true => self.file.fdatasync(),
            false => Ok(()),
        }
    }

    /// Says, durably, that this much is durable.
    pub(super) fn checkpoint(&mut self, point: &Checkpoint) -> rustix::io::Result<()> {
        self.record.set(point);
        self.write()?;
        self.file.fdatasync()
    }

    fn write(&mut self) -> rustix::io::Result<()> {
        self.record.sequence = self.record.sequence.saturating_add(1);
        let slot = self.record.encode().ok_or(Errno::OVERFLOW)?;
        let at = (self.record.sequence % SLOTS as u64).saturating_mul(SLOT as u64);
        self.file.pwrite_all(&slot, at)
    }
}

/// The progress of a writer, for other tasks of this process.
pub(super) struct Progress {
    /// The writer.
    pub(super) who: String,
    pub(super) since: std::time::Instant,
    /// Bytes written.
    pub(super) written: AtomicU64,
    /// Leading bytes that the record calls durable.
    pub(super) durable_offset: AtomicU64,
}

impl Progress {
    pub(super) fn new(who: &str) -> Progress {
        Progress {
            who: who.to_string(),
            since: std::time::Instant::now(),
            written: AtomicU64::new(0),
            durable_offset: AtomicU64::new(0),
        }
    }

    pub(super) fn set(&self, written: u64, durable_offset: u64) {
        self.written.store(written, Ordering::Relaxed);
        self.durable_offset.store(durable_offset, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64, offset: u64) -> ResumeRecord {
        let mut record = ResumeRecord::new("kim@laptop", 5, Some("v1".into()), (7, Some((1, 2))));
        record.sequence = sequence;
        record.set(&Checkpoint {
            offset,
            digests: vec![[7; 32]; 3],
        });
        record
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let slots =
            |a: ResumeRecord, b: ResumeRecord| [a.encode().unwrap(), b.encode().unwrap()].concat();
        let both = slots(record(4, 40), record(3, 30));
        assert_eq!(ResumeRecord::decode(&both).unwrap().offset, 40);
        assert_eq!(ResumeRecord::decode(&both[SLOT..]).unwrap().offset, 30);
        for at in [0, 20, 100] {
            let mut torn = both.clone();
            torn[at] ^= 1;
            assert_eq!(ResumeRecord::decode(&torn).unwrap().offset, 30, "{at}");
        }
        assert_eq!(ResumeRecord::decode(&[]), None);
        assert_eq!(ResumeRecord::decode(&[0; 3 * SLOT]), None);
        let point = ResumeRecord::decode(&both).unwrap().checkpoint().unwrap();
        assert_eq!(point.digests, vec![[7; 32]; 3]);
    }

    /// Found by the fuzzer: a struct written as an array is shorter than haul's own form of it.
    #[test]
    fn a_record_that_haul_could_not_write_is_none() {
        let text = format!("[1,\"{}\",8,\"s\",0,[]]", "o".repeat(3980));
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let mut slot = format!("{text}\n{hash}\n").into_bytes();
        assert!(slot.len() <= SLOT);
        slot.resize(SLOT, 0);
        assert_eq!(ResumeRecord::decode(&slot), None);
    }

    #[test]
    fn the_longest_record_fits() {
        let long = "\u{1}".repeat(1000);
        let mut record = ResumeRecord::new(
            &long,
            u64::MAX,
            Some("s".repeat(MAX_TEXT)),
            (u64::MAX, Some((i64::MIN, u32::MAX))),
        );
        record.sequence = u64::MAX;
        record.set(&Checkpoint {
            offset: u64::MAX,
            digests: vec![[255; 32]; 1000],
        });
        assert!(record.encode().is_some());
    }
}
