//! Where a transfer arrives: a tree beneath one directory, or a stream. Decides what is wanted.

use crate::chunk::buffer::BufferPool;
use crate::chunk::digest::Digest;
use crate::chunk::window::SharedPermit;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::stream::Stream;
use crate::net::transfer::receive::tree::{Tree, is_locked};
pub use crate::net::wire::proto::Difference;
use crate::store::{
    Attributes, Durability, ErrorKind, Kind, MadeDir, NewEntry, Omissions, RemotePath,
    StageRequest, Staging, StoreError, Version,
};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// The receiver's end of a transfer. Cheap to clone.
#[derive(Clone)]
pub enum Target {
    /// Beneath a directory.
    Tree(Tree),
    /// The one file's bytes, in order.
    Stream(Stream),
}

/// An offered file or symlink, with its place.
#[derive(Clone)]
pub struct Candidate {
    /// The offer's number.
    pub number: u64,
    /// The number of the directory that it is in; 0 for a source itself.
    pub parent: u64,
    /// Where it goes.
    pub path: RemotePath,
    /// Its kind.
    pub kind: Kind,
    /// Bytes; none for a stream.
    pub size: Option<u64>,
    /// Time and mode.
    pub attributes: Attributes,
    /// Of a symlink.
    pub target: Vec<u8>,
    /// The number of a device.
    pub device: u64,
    /// Where the file is that it is to be another name of.
    pub link: Option<RemotePath>,
    /// With `checksum`.
    pub hash: Option<Digest>,
    /// The version of the source, where a transfer may resume it.
    pub version: Option<String>,
    /// Of a small file whose content came with the offer: that, and its hash.
    pub content: Option<(Vec<u8>, Digest)>,
    /// What it takes of the window's part for offers, until all of it is dropped.
    pub cost: SharedPermit,
}

/// What is known of a larger file before it comes.
pub struct SourceFacts {
    /// The version of the source.
    pub version: Option<String>,
    /// Bytes of the file, if that is known.
    pub size: Option<u64>,
    /// Bytes that its sender may have outstanding.
    pub window: u64,
}

/// What is to become of a candidate.
#[derive(Debug)]
pub enum Decision {
    /// It is there already. What it lacked besides, of mode, time or owner, it has now, or in a dry
    /// run would have; not specified for nothing.
    Unchanged(Difference),
    /// Another one is there, which is to stay.
    Skipped,
    /// A directory is there, which a deletion may remove.
    Deferred,
    /// Its content is needed, because of this difference.
    Wanted(Difference),
    /// It becomes another name of this entry, with this version.
    Linked(RemotePath, Version),
    /// A dry run: it would be needed.
    Planned(Difference),
    /// It cannot be.
    Failed(StoreError),
}

impl Decision {
    /// The same for a dry run.
    fn planned(self) -> Decision {
        match self {
            Decision::Wanted(difference) => Decision::Planned(difference),
            Decision::Linked(..) => Decision::Planned(Difference::Kind),
            other => other,
        }
    }
}

impl Target {
    /// Where each source goes, as the sender may know it.
    pub fn names(&self) -> Vec<Vec<u8>> {
        match self {
            Target::Tree(tree) => tree.tops.iter().map(|top| top.as_bytes().to_vec()).collect(),
            Target::Stream(_) => Vec::new(),
        }
    }

    /// Where the source with this index goes.
    pub fn top(&self, source: u32) -> Option<RemotePath> {
        match self {
            Target::Tree(tree) => tree.tops.get(usize::try_from(source).ok()?).cloned(),
            Target::Stream(_) if source == 0 => Some(RemotePath::root()),
            Target::Stream(_) => None,
        }
    }

    /// Makes directories, outer ones first.
    pub async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        options: &Options,
    ) -> Vec<Result<MadeDir, StoreError>> {
        match self {
            Target::Tree(tree) => tree.make_dirs(dirs, options).await,
            Target::Stream(_) => dirs
                .iter()
                .map(|(path, _)| Err(StoreError::new(ErrorKind::IsADirectory, path)))
                .collect(),
        }
    }

    /// Compares candidates with what is there. In the `empty` directories, made a moment ago,
    /// nothing is.
    pub async fn decide(
        &self,
        candidates: &[Candidate],
        empty: &HashSet<u64>,
        options: &Options,
        pool: &BufferPool,
    ) -> Vec<Decision> {
        let Target::Tree(tree) = self else {
            return candidates.iter().map(|_| Decision::Wanted(Difference::New)).collect();
        };
        let is_compared = |c: &&Candidate| !empty.contains(&c.parent);
        let compared = candidates.iter().filter(is_compared);
        let mut found = match compared.map(|c| c.path.clone()).collect::<Vec<_>>() {
            none if none.is_empty() => Vec::new(),
            paths => tree.store.stat_many(paths).await,
        }
        .into_iter();
        let mut decisions = Vec::with_capacity(candidates.len());
        let mut unchanged = Vec::new();
        for candidate in candidates {
            let compares = is_compared(&candidate);
            decisions.push(match if compares { found.next() } else { None } {
                Some(Ok(entry)) => {
                    let decision = tree.compare(candidate, &entry, options, pool).await;
                    let decision = tree.or_link(decision, candidate, Some(&entry), pool).await;
                    if matches!(decision, Decision::Unchanged(_)) && options.durability.is_durable()
                    {
                        unchanged.push((candidate.path.clone(), candidate.kind, entry.version));
                    }
                    decision
                }
                Some(Err(e)) if !options.is_missing(&e) => Decision::Failed(e),
                Some(Err(_)) | None if options.existing => Decision::Skipped,
                Some(Err(_)) | None => {
                    tree.or_link(tree.decide_new(candidate), candidate, None, pool).await
                }
            });
        }
        if tree.dry_run {
            return decisions.into_iter().map(Decision::planned).collect();
        }
        if !unchanged.is_empty() {
            // what is reported as there is durable like what is put there
            let mut noted = tree.store.note_unchanged(unchanged).await.into_iter();
            let all = decisions.iter_mut().filter(|d| matches!(d, Decision::Unchanged(_)));
            for (decision, noted) in all.zip(&mut noted) {
                if let Err(e) = noted {
                    *decision = Decision::Failed(e);
                }
            }
        }
        decisions
    }

    /// Locks and opens the partial file of a larger file; waits for the lock as long as `deadline`
    /// allows.
    pub async fn stage(
        &self,
        path: &RemotePath,
        options: &Options,
        facts: SourceFacts,
        deadline: Option<Instant>,
    ) -> Result<Box<dyn Staging>, StoreError> {
        let tree = match self {
            Target::Tree(tree) => tree,
            Target::Stream(stream) => return stream.stage(facts.version).await,
        };
        let request = StageRequest {
            who: tree.who.clone(),
            if_version: options.if_version.clone(),
            durability: options.durability,
            size: facts.size,
            window: facts.window,
            source: facts.version.filter(|_| !tree.write_only),
        };
        let (began, mut pause) = (Instant::now(), Duration::from_millis(20));
        let mut asked = false;
        loop {
            match tree.store.stage(path, &request).await {
                Err(e) if !asked && is_locked(&e) && tree.released(&e).await => asked = true,
                Err(e) if is_locked(&e) && tree.waits(&e, began, deadline) => {
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(Duration::from_secs(1));
                }
                other => return other.map_err(|e| tree.disclosed(e)),
            }
        }
    }

    /// Puts a group of small entries. Errors name writers that the sender may not know:
    /// [`Target::disclosed`].
    pub async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        durability: Durability,
    ) -> Vec<Result<String, StoreError>> {
        match self {
            Target::Tree(tree) => {
                let mut results =
                    tree.store.put_whole(entries.clone(), &tree.who, durability).await;
                for (entry, result) in entries.into_iter().zip(&mut results) {
                    if let Err(e) = result
                        && is_locked(e)
                        && tree.released(e).await
                        && let Some(second) =
                            tree.store.put_whole(vec![entry], &tree.who, durability).await.pop()
                    {
                        *result = second;
                    }
                }
                results
            }
            // a stream's file is staged, whatever its size; a symlink has no bytes
            Target::Stream(_) => entries
                .iter()
                .map(|e| Err(StoreError::new(ErrorKind::BadKind, &e.path)))
                .collect(),
        }
    }

    /// True if `error` says that a target is locked, and that lock is waited for: since `began`, or
    /// until `deadline`.
    pub fn waits(&self, error: &StoreError, began: Instant, deadline: Option<Instant>) -> bool {
        matches!(self, Target::Tree(tree) if is_locked(error) && tree.waits(error, began, deadline))
    }

    /// An error as the sender may know it.
    pub fn disclosed(&self, error: StoreError) -> StoreError {
        match self {
            Target::Tree(tree) => tree.disclosed(error),
            Target::Stream(_) => error,
        }
    }

    /// Counts what cannot be set.
    pub fn omit(&self, omitted: &Omissions) {
        if let Target::Tree(tree) = self {
            tree.store.omit(omitted);
        }
    }

    /// What could not be set.
    pub fn omissions(&self) -> Omissions {
        match self {
            Target::Tree(tree) => tree.store.omissions(),
            Target::Stream(_) => Omissions::default(),
        }
    }

    /// True where the sender may not know what is there.
    pub fn is_write_only(&self) -> bool {
        matches!(self, Target::Tree(tree) if tree.write_only)
    }

    /// Time and mode of complete directories; those without any stay as they are.
    pub async fn complete_dirs(
        &self,
        dirs: Vec<(RemotePath, Option<Attributes>)>,
        options: &Options,
    ) -> Vec<Result<(), StoreError>> {
        let tree = match self {
            Target::Tree(tree) if !tree.dry_run => tree,
            Target::Tree(_) | Target::Stream(_) => return dirs.iter().map(|_| Ok(())).collect(),
        };
        let mut ends = tree.store.complete_dirs(dirs, options.durability).await;
        for end in &mut ends {
            // it was not made
            if options.existing && matches!(end, Err(e) if e.kind == ErrorKind::NotFound) {
                *end = Ok(());
            }
        }
        ends
    }

    /// The same for another transfer: see [`crate::store::Store::renewed`].
    #[must_use]
    pub fn renewed(self) -> Target {
        match self {
            Target::Tree(tree) => {
                let store = tree.store.renewed().unwrap_or_else(|| tree.store.clone());
                Target::Tree(Tree { store, ..tree })
            }
            stream @ Target::Stream(_) => stream,
        }
    }

    /// Makes durable what [`Target::decide`] found unchanged.
    pub async fn sync_unchanged(&self) -> Result<(), StoreError> {
        match self {
            Target::Tree(tree) if !tree.dry_run => tree.store.sync_unchanged().await,
            Target::Tree(_) | Target::Stream(_) => Ok(()),
        }
    }

    /// Makes the names of directories durable.
    pub async fn sync(&self) -> Result<(), StoreError> {
        match self {
            Target::Tree(tree) if !tree.dry_run => tree.store.sync().await,
            Target::Tree(_) | Target::Stream(_) => Ok(()),
        }
    }
}
