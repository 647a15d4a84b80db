//! What the user wants of a transfer, here and on the wire.

use crate::net::data::packing::{MOST_LEVEL, Packing};
use crate::net::transfer::backup::BackupOptions;
use crate::net::transfer::filter::Filter;
use crate::net::transfer::metadata::MetadataOptions;
use crate::net::transfer::mode::ModeRules;
use crate::net::transfer::view::View;
use crate::net::wire::{MAX_VERSION, Malformed, proto};
use crate::store::{Durability, ErrorKind, Removal, StoreError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What the user wants of a transfer.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Compare by content instead of size and mtime.
    pub checksum: bool,
    /// What the files survive once they are acknowledged.
    pub durability: Durability,
    /// How long to wait for a lock that another writer holds.
    pub wait: Option<Duration>,
    /// The version that the target must have; `none`: it must not exist.
    pub if_version: Option<String>,
    /// Take directories too.
    pub recursive: bool,
    /// This transfer was under way before, and may have been done: with `if_version`, a target with
    /// the very content that is to go there is the one that this transfer committed.
    pub retried: bool,
    /// Which entries are taken. The sender applies it.
    pub filter: Filter,
    /// What a deletion leaves: the rules of the filter, and those for deletions only. They do not
    /// travel: the client deletes.
    pub protected: Filter,
    /// Directories in which nothing is sent are not made.
    pub prune_empty_dirs: bool,
    /// The least bytes of a file that is sent.
    pub min_size: Option<u64>,
    /// The most.
    pub max_size: Option<u64>,
    /// What the sender sees of the sources.
    pub view: View,
    /// The sender tells which entries it does not send, and why.
    pub explain: bool,
    /// The client removes at the sender what has arrived.
    pub removes: bool,
    /// Is called for each entry that is at the destination, and no directory. It does not travel:
    /// the client calls it.
    pub on_settled: Option<OnSettled>,
    /// Which targets that exist stay as they are.
    pub preserved: PreservedTargets,
    /// A file of the same size is unchanged, whatever its time is.
    pub size_only: bool,
    /// What is not at the destination is not made there.
    pub existing: bool,
    /// Times that differ by no more than this are the same.
    pub modify_window: Duration,
    /// Nothing is written: what would be sent is only reported.
    pub dry_run: bool,
    /// When the sender compresses.
    pub packing: Packing,
    /// Bytes that the sender has outstanding at most; 0: the whole window.
    pub sender_window: u64,
    /// What becomes of modes. It does not travel: the client applies it, as sender or receiver.
    pub chmod: ModeRules,
    /// What is preserved besides content, time and mode.
    pub metadata: MetadataOptions,
    /// Where the receiver moves aside what it replaces; `None`: nowhere.
    pub backup: Option<BackupOptions>,
    /// The same of a store of this machine, which does so by itself. It does not travel.
    pub backup_here: Option<BackupOptions>,
    /// A deletion follows. An entry that is no directory is replaced by one; what has a directory
    /// in its place is skipped, for the deletion to remove that first.
    pub mirror: bool,
    /// With `mirror`: only directories are replaced.
    pub keeps_files: bool,
    /// A new directory gets its name once everything in it is complete.
    pub whole_dirs: bool,
}

/// A function that takes the index of a source, and an entry of it as the destination has it now:
/// its path there, kind, size and time.
#[derive(Clone)]
pub struct OnSettled(pub Arc<dyn Fn(usize, Removal) + Send + Sync>);

impl fmt::Debug for OnSettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnSettled")
    }
}

/// Which targets stay as they are, although they differ from their sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PreservedTargets {
    /// None.
    #[default]
    None,
    /// Those that were modified after their sources.
    Newer,
    /// All that exist.
    All,
}

/// When a sender compresses, and the level, as they travel.
fn wire_packing(packing: Packing) -> (proto::Compression, u32) {
    match packing {
        Packing::Auto => (proto::Compression::Auto, 0),
        Packing::Eager => (proto::Compression::Eager, 0),
        Packing::Never => (proto::Compression::Never, 0),
        Packing::Level(level) => (proto::Compression::Level, u32::from(level)),
    }
}

/// As a peer sent them.
fn packing_of_wire(options: &proto::Options) -> Packing {
    match options.compression() {
        proto::Compression::Auto => Packing::Auto,
        proto::Compression::Eager => Packing::Eager,
        proto::Compression::Never => Packing::Never,
        proto::Compression::Level => {
            Packing::Level(u8::try_from(options.level).unwrap_or(MOST_LEVEL).clamp(1, MOST_LEVEL))
        }
    }
}

impl Options {
    /// True where nothing is in an entry's place. In a dry run a file or symlink may still be in
    /// that of a directory above it, which would replace it.
    pub fn is_missing(&self, error: &StoreError) -> bool {
        match error.kind {
            ErrorKind::NotFound => true,
            ErrorKind::NotADirectory | ErrorKind::Symlink => self.replaces_files() && self.dry_run,
            _ => false,
        }
    }

    /// True where a new directory gets its name once everything in it is complete. What is removed
    /// at the sender once it has arrived must have its name by then, and what becomes a backup,
    /// too. What stays as it is if it exists is looked for in its place.
    pub fn stages_dirs(&self) -> bool {
        let removes = self.removes || self.on_settled.is_some();
        let backs_up = self.backup.is_some() || self.backup_here.is_some();
        let preserves = self.preserved != PreservedTargets::None;
        self.whole_dirs && !removes && !backs_up && !preserves
    }

    /// True where a directory replaces an entry that is none.
    pub fn replaces_files(&self) -> bool {
        self.mirror && !self.keeps_files
    }

    /// As they travel.
    pub fn to_wire(&self) -> proto::Options {
        let mut options = proto::Options {
            checksum: self.checksum,
            durability: match self.durability {
                Durability::Durable => proto::Durability::Durable.into(),
                Durability::Volatile => proto::Durability::Volatile.into(),
            },
            wait_ms: self.wait.map(|w| u64::try_from(w.as_millis()).unwrap_or(u64::MAX)),
            if_version: self.if_version.clone(),
            recursive: self.recursive,
            retried: self.retried,
            filter: self.filter.to_wire(),
            prune_empty_dirs: self.prune_empty_dirs,
            min_size: self.min_size,
            max_size: self.max_size,
            update: self.preserved == PreservedTargets::Newer,
            ignore_existing: self.preserved == PreservedTargets::All,
            size_only: self.size_only,
            existing: self.existing,
            modify_window_ms: u64::try_from(self.modify_window.as_millis()).unwrap_or(u64::MAX),
            dry_run: self.dry_run,
            sender_window: self.sender_window,
            compression: wire_packing(self.packing).0.into(),
            level: wire_packing(self.packing).1,
            view: self.view.to_wire().map(Box::new),
            explain: self.explain,
            removes: self.removes || self.on_settled.is_some(),
            backup: self.backup.as_ref().map(BackupOptions::to_wire).map(Box::new),
            mirror: self.mirror,
            keeps_files: self.keeps_files,
            whole_dirs: self.whole_dirs,
            ..proto::Options::default()
        };
        self.metadata.to_wire(&mut options);
        options
    }

    /// As a peer sent them; a wait is at most a week.
    ///
    /// # Errors
    /// [`Malformed`] for a version that is longer than any is: each entry of the transfer keeps
    /// one.
    pub fn from_wire(options: proto::Options) -> Result<Options, Malformed> {
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
        if options.if_version.as_ref().is_some_and(|v| v.len() > MAX_VERSION) {
            return Err(Malformed("a version is longer than 256 bytes"));
        }
        let packing = packing_of_wire(&options);
        Ok(Options {
            metadata: MetadataOptions::from_wire(&options)?,
            view: View::from_wire(options.view.as_deref())?,
            explain: options.explain,
            removes: options.removes,
            sender_window: options.sender_window,
            on_settled: None,
            backup_here: None,
            backup: options
                .backup
                .as_deref()
                .cloned()
                .map(BackupOptions::from_wire)
                .transpose()?,
            checksum: options.checksum,
            durability: match options.durability() {
                proto::Durability::Durable => Durability::Durable,
                proto::Durability::Volatile => Durability::Volatile,
            },
            wait: options.wait_ms.map(|ms| Duration::from_millis(ms).min(WEEK)),
            if_version: options.if_version,
            recursive: options.recursive,
            retried: options.retried,
            filter: Filter::from_wire(&options.filter)
                .map_err(|_| Malformed("a filter has a rule that is none, or too many"))?,
            protected: Filter::default(),
            chmod: ModeRules::default(),
            prune_empty_dirs: options.prune_empty_dirs,
            min_size: options.min_size,
            max_size: options.max_size,
            preserved: match (options.ignore_existing, options.update) {
                (true, _) => PreservedTargets::All,
                (false, true) => PreservedTargets::Newer,
                (false, false) => PreservedTargets::None,
            },
            size_only: options.size_only,
            existing: options.existing,
            modify_window: Duration::from_millis(options.modify_window_ms),
            packing,
            dry_run: options.dry_run,
            mirror: options.mirror,
            keeps_files: options.keeps_files,
            whole_dirs: options.whole_dirs,
        })
    }
}
