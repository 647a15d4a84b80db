//! What a receiver does with offers: directories are made, and the rest is compared with what is
//! there.

use crate::chunk::buffer::BufferPool;
use crate::chunk::digest::{Digest, whole_digest};
use crate::chunk::window::SharedPermit;
use crate::net::error::NetError;
use crate::net::jobs::Work;
use crate::net::transfer::MAX_INLINE;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::{Candidate, Decision, Target};
use crate::net::wire::{MAX_VERSION, proto};
use crate::store::{Attributes, Kind, MadeDir, RemotePath, StoreError};
use std::collections::{HashSet, VecDeque};

/// Directories that are remembered as new; what is beneath one that was forgotten is looked for
/// like anything else.
const MAX_EMPTY: usize = 1024;
/// Candidates that are compared in one go, about.
const MAX_DECIDED: usize = 512;

/// Offers of one message, sorted.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) dirs: Vec<(u64, RemotePath, Attributes)>,
    pub(super) candidates: Vec<Candidate>,
}

/// What became of some batches: directories by their numbers, and what was decided of the rest.
pub(super) struct Decided {
    pub(super) made: Vec<(u64, Result<MadeDir, StoreError>)>,
    pub(super) decided: Vec<(Candidate, Decision)>,
    /// Directories that this transfer made, to be given back to [`Decider::ended`].
    empty: HashSet<u64>,
}

/// Processes batches one after another, so that a directory is made before what is in it is looked
/// at.
pub(super) struct Decider {
    target: Target,
    options: Options,
    pool: BufferPool,
    waiting: VecDeque<Batch>,
    /// Directories that this transfer made: a walk goes depth first, so that those of a moment ago
    /// are all that matter. `None` while a job has them.
    empty: Option<HashSet<u64>>,
}

impl Decider {
    pub(super) fn new(target: Target, options: Options, pool: BufferPool) -> Decider {
        Decider {
            target,
            options,
            pool,
            waiting: VecDeque::new(),
            empty: Some(HashSet::new()),
        }
    }

    /// Adds a batch.
    pub(super) fn add(&mut self, batch: Batch) {
        self.waiting.push_back(batch);
    }

    /// True while a batch waits, or a job decides.
    pub(super) fn is_busy(&self) -> bool {
        self.empty.is_none() || !self.waiting.is_empty()
    }

    /// The work of deciding, if a batch waits and nothing else is being decided. With hashes it may
    /// take long.
    pub(super) fn next(&mut self) -> Option<Work<Decided>> {
        if self.waiting.is_empty() {
            return None;
        }
        let mut empty = self.empty.take()?;
        let mut batch = self.waiting.pop_front()?;
        // what has come meanwhile is done in one go: directories first, and then what is in them
        while batch.candidates.len() < MAX_DECIDED
            && let Some(more) = self.waiting.pop_front()
        {
            batch.dirs.extend(more.dirs);
            batch.candidates.extend(more.candidates);
        }
        let (target, options, pool) =
            (self.target.clone(), self.options.clone(), self.pool.clone());
        Some(Work::new("decide", async move {
            let wanted = batch.dirs.iter();
            let wanted = wanted.map(|(_, path, attributes)| (path.clone(), attributes.clone()));
            let made = target.make_dirs(wanted.collect(), &options).await;
            if empty.len() > MAX_EMPTY {
                empty.clear();
            }
            let numbers = batch.dirs.iter().map(|(number, ..)| *number);
            let made: Vec<_> = numbers.zip(made).collect();
            empty.extend(
                made.iter()
                    .filter(|(_, made)| matches!(made, Ok(MadeDir::New)))
                    .map(|(n, _)| *n),
            );
            let decisions = target.decide(&batch.candidates, &empty, &options, &pool).await;
            let decided = batch.candidates.into_iter().zip(decisions).collect();
            Decided {
                made,
                decided,
                empty,
            }
        }))
    }

    /// A job has ended. Returns what it decided.
    pub(super) fn ended(&mut self, mut decided: Decided) -> Decided {
        debug_assert!(self.empty.is_none(), "a job was under way");
        self.empty = Some(std::mem::take(&mut decided.empty));
        decided
    }
}

/// What an offer of a file or symlink asks about. Content that came with it is verified.
///
/// # Errors
/// [`NetError::Protocol`] where the offer contradicts itself.
pub(super) fn candidate_of(
    offer: &proto::Offer,
    kind: Kind,
    path: RemotePath,
    attributes: Attributes,
    cost: SharedPermit,
) -> Result<Candidate, NetError> {
    let hash = match offer.hash.as_slice() {
        [] => None,
        bytes => Some(
            bytes
                .try_into()
                .map_err(|_| NetError::Protocol("a hash is not 32 bytes".into()))?,
        ),
    };
    Ok(Candidate {
        number: offer.number,
        parent: offer.parent,
        path,
        kind,
        size: (!offer.stream).then_some(offer.size),
        attributes,
        target: offer.target.clone(),
        device: offer.device,
        link: None,
        hash,
        version: version_of(offer)?,
        content: content_of(offer, kind)?,
        cost,
    })
}

/// The version of an offer's source, if it has one.
///
/// # Errors
/// [`NetError::Protocol`] where it is longer than any version is.
pub(super) fn version_of(offer: &proto::Offer) -> Result<Option<String>, NetError> {
    if offer.version.len() > MAX_VERSION {
        return Err(NetError::Protocol("a version is longer than 256 bytes".into()));
    }
    Ok(Some(offer.version.clone()).filter(|v| !v.is_empty()))
}

/// The content that came with an offer, verified.
fn content_of(offer: &proto::Offer, kind: Kind) -> Result<Option<(Vec<u8>, Digest)>, NetError> {
    if offer.digest.is_empty() {
        return Ok(None);
    }
    let bytes = offer.content.clone();
    let digest = whole_digest(&bytes);
    let fits = bytes.len() <= MAX_INLINE
        && bytes.len() as u64 == offer.size
        && kind == Kind::File
        && !offer.stream;
    if !fits || digest != offer.digest.as_slice() {
        return Err(NetError::Protocol(
            "the content of an offer is not what the offer says".into(),
        ));
    }
    Ok(Some((bytes, digest)))
}
