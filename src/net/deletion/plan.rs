//! The plan of a deletion: files first, then directories, the innermost first. A large one is in a
//! temporary file.

use crate::net::error::NetError;
use crate::net::wire::{MAX_PATHS, entry, proto};
use crate::store::{Kind, RemotePath, Removal, StoreError};
use prost::Message;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use tempfile::SpooledTempFile;

/// Bytes of a plan in memory; more are in a temporary file.
const IN_MEMORY: usize = 1 << 20;
/// Bytes of the paths of a batch.
const BATCH_BYTES: usize = 128 << 10;
/// Most directories that could not be listed and are named.
const MOST_UNLISTED: usize = 1024;
/// Most directories that give way to other entries in one run.
const MOST_IN_THE_WAY: usize = 10_000;
/// Most bytes of a record: a path and some numbers.
const MAX_RECORD: usize = 8 << 10;

/// What is to be deleted, and of how much.
pub struct Plan {
    files: Records,
    /// In the order in which they were found: outer ones first.
    dirs: Records,
    /// Directories with something that stays, by the hashes of their paths. Two with one hash both
    /// stay.
    protected: HashSet<u64>,
    hasher: RandomState,
    /// Directories that could not be listed, the first of them: what is in them stays.
    pub unlisted: Vec<(RemotePath, NetError)>,
    /// Paths from the transfer's root of directories that are in the way of something else: the
    /// first of them.
    pub in_the_way: Vec<Vec<u8>>,
    /// Entries of the destination that were found.
    pub found: u64,
    /// Entries that no source has, with directories that stay because of others.
    pub added: u64,
    /// Files, symlinks and the like that would go.
    pub files_count: u64,
    /// Directories that would go.
    pub dirs_count: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            files: Records::default(),
            dirs: Records::default(),
            protected: HashSet::new(),
            hasher: RandomState::new(),
            unlisted: Vec::new(),
            in_the_way: Vec::new(),
            found: 0,
            added: 0,
            files_count: 0,
            dirs_count: 0,
            bytes: 0,
        }
    }
}

impl Plan {
    /// Entries that would go.
    pub fn count(&self) -> u64 {
        self.files_count.saturating_add(self.dirs_count)
    }

    /// Adds an entry that is to go.
    ///
    /// # Errors
    /// That of the temporary file.
    pub fn add(&mut self, removal: &Removal) -> Result<(), NetError> {
        self.added = self.added.saturating_add(1);
        let record = entry::removal_to_wire(removal).encode_to_vec();
        match removal.kind {
            Kind::Dir => self.dirs.push(&record),
            _ => {
                self.files_count = self.files_count.saturating_add(1);
                self.bytes = self.bytes.saturating_add(removal.size);
                self.files.push(&record)
            }
        }
        .map_err(failed)
    }

    /// A directory could not be listed: it stays, with everything in it.
    pub(super) fn unlisted(&mut self, dir: &RemotePath, why: NetError) {
        self.protect(dir);
        if self.unlisted.len() < MOST_UNLISTED {
            self.unlisted.push((dir.clone(), why));
        }
    }

    /// A directory is in the way of an entry of another kind.
    pub(super) fn in_the_way(&mut self, place: Vec<u8>) {
        if self.in_the_way.len() < MOST_IN_THE_WAY {
            self.in_the_way.push(place);
        }
    }

    /// Something in a directory stays: so does the directory, and those above it.
    pub(super) fn protect(&mut self, dir: &RemotePath) {
        let mut dir = dir.clone();
        while self.protected.insert(self.hasher.hash_one(dir.as_bytes())) {
            match dir.split() {
                Some((parent, _)) => dir = parent,
                None => return,
            }
        }
    }

    /// Counts the directories, once everything is known.
    ///
    /// # Errors
    /// That of the temporary file.
    pub fn complete(&mut self) -> Result<(), NetError> {
        self.dirs_count = 0;
        self.restart()?;
        loop {
            let batch = self.next_dirs()?;
            if batch.is_empty() {
                return self.restart();
            }
            let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            self.dirs_count = self.dirs_count.saturating_add(count);
        }
    }

    /// The next entries to remove, in the order in which that works; none at the end.
    ///
    /// # Errors
    /// That of the temporary file.
    pub fn next_batch(&mut self) -> Result<Vec<Removal>, NetError> {
        let batch = batch(|| self.files.next())?;
        match batch.is_empty() {
            true => self.next_dirs(),
            false => Ok(batch),
        }
    }

    /// [`Plan::next_batch`] begins with the first entries.
    ///
    /// # Errors
    /// That of the temporary file.
    pub fn restart(&mut self) -> Result<(), NetError> {
        self.files.seek_start().and_then(|()| self.dirs.seek_end()).map_err(failed)
    }

    fn next_dirs(&mut self) -> Result<Vec<Removal>, NetError> {
        let Plan {
            dirs,
            protected,
            hasher,
            ..
        } = self;
        batch(|| {
            loop {
                match dirs.previous()? {
                    Some(dir) if protected.contains(&hasher.hash_one(dir.path.as_bytes())) => {}
                    other => return Ok(other),
                }
            }
        })
    }
}

/// Records until there are enough for a request.
fn batch(mut next: impl FnMut() -> io::Result<Option<Removal>>) -> Result<Vec<Removal>, NetError> {
    let (mut batch, mut bytes) = (Vec::new(), 0_usize);
    while batch.len() < MAX_PATHS && bytes < BATCH_BYTES {
        let Some(removal) = next().map_err(failed)? else {
            break;
        };
        bytes = bytes.saturating_add(removal.path.as_bytes().len());
        batch.push(removal);
    }
    Ok(batch)
}

fn failed(error: io::Error) -> NetError {
    StoreError::io("store the plan of the deletion", &RemotePath::root(), &error).into()
}

/// Records in a row, each between two copies of its length: they can be read both ways.
struct Records(SpooledTempFile);

impl Default for Records {
    fn default() -> Records {
        Records(SpooledTempFile::new(IN_MEMORY))
    }
}

/// Bytes of a length, in network byte order.
const LENGTH: usize = 4;

impl Records {
    fn push(&mut self, record: &[u8]) -> io::Result<()> {
        self.seek_end()?;
        let length = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let length = length.to_be_bytes();
        self.0.write_all(&[&length, record, &length].concat())
    }

    fn seek_start(&mut self) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0)).map(drop)
    }

    fn seek_end(&mut self) -> io::Result<()> {
        self.0.seek(SeekFrom::End(0)).map(drop)
    }

    /// The record behind the position, which moves behind it.
    fn next(&mut self) -> io::Result<Option<Removal>> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let record = self.record(length)?;
        self.length()?;
        record_of(&record).map(Some)
    }

    /// The record before the position, which moves before it.
    fn previous(&mut self) -> io::Result<Option<Removal>> {
        if self.0.stream_position()? == 0 {
            return Ok(None);
        }
        self.0.seek_relative(-(LENGTH as i64))?;
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let back = i64::try_from(length.saturating_add(LENGTH)).unwrap_or(i64::MAX);
        self.0.seek_relative(-back)?;
        let record = self.record(length)?;
        self.0.seek_relative(-back)?;
        record_of(&record).map(Some)
    }

    /// Reads a length; `None` at the end.
    fn length(&mut self) -> io::Result<Option<usize>> {
        let mut length = [0; LENGTH];
        match self.0.read_exact(&mut length) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        match usize::try_from(u32::from_be_bytes(length)) {
            Ok(length @ ..=MAX_RECORD) => Ok(Some(length)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn record(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut record = vec![0; length];
        self.0.read_exact(&mut record)?;
        Ok(record)
    }
}

fn record_of(bytes: &[u8]) -> io::Result<Removal> {
    let bad = |_| io::Error::from(io::ErrorKind::InvalidData);
    let record = proto::Removal::decode(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    entry::removal_from_wire(&record).map_err(bad)
}
