//! The receiver: says what it wants, puts what arrives back in order, commits, and settles every offer.
//!
//! One task owns all state and never waits for the store: whatever touches it runs as a job whose end comes back as
//! a `Done`. Directories are completed bottom-up, when everything in them is settled.

use super::files::{Files, Settled};
use super::target::{Candidate, Decision, Target};
use super::{Counters, Event, MAX_BATCH, MAX_INLINE, MAX_UNSETTLED, Options, Reporter, STALL, Waiting, shown};
use crate::chunk::digest::{Digest, whole_digest};
use crate::net::control::refused;
use crate::net::error::{NetError, code_of};
use crate::net::link::{Incoming, Seat};
use crate::net::wire::proto::{self, transfer_message::Body};
use crate::net::wire::{Code, entry};
use crate::store::{Attributes, BadPath, ErrorKind, Kind, Name, RemotePath, StoreError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc;

/// Directories that are remembered as new; what is beneath one that was forgotten is looked for like anything else.
const MAX_EMPTY: usize = 1024;
/// Candidates that are compared in one go, about.
const MAX_DECIDED: usize = 512;

/// A directory whose contents are not all settled.
struct Dir {
    parent: u64,
    /// An error: it could not be made, and everything in it fails too.
    path: Result<RemotePath, StoreError>,
    attributes: Attributes,
    /// Entries in it that are not settled, and itself while it is being made.
    pending: usize,
    /// The sender has offered everything in it.
    closed: bool,
}

/// A job of this file that has ended.
enum Done {
    /// Directories were made; candidates were compared.
    Decided {
        batches: usize,
        made: Vec<(u64, Result<(), StoreError>)>,
        decided: Vec<(Candidate, Decision)>,
    },
    /// Directories are complete.
    Completed(Vec<(u64, Result<(), StoreError>)>),
}

/// Offers of one message, sorted.
#[derive(Default)]
struct Batch {
    dirs: Vec<(u64, RemotePath, Attributes)>,
    candidates: Vec<Candidate>,
}

/// One transfer, from the side that gets the files.
struct Receiver {
    seat: Seat,
    label: Vec<u8>,
    target: Target,
    options: Options,
    reporter: Reporter,
    last_number: u64,
    dirs: HashMap<u64, Dir>,
    /// Parent of every unsettled file or symlink, with what to show of it.
    unsettled: HashMap<u64, Unsettled>,
    ended: bool,
    to_decide: mpsc::UnboundedSender<Batch>,
    /// Batches that are being decided, which with hashes may take long.
    deciding: usize,
    to_complete: Vec<u64>,
    completing: bool,
    outgoing: Outgoing,
}

struct Unsettled {
    parent: u64,
    path: Vec<u8>,
    size: u64,
}

/// Answers on their way to the sender, gathered while there is more to do.
#[derive(Default)]
struct Outgoing {
    wants: Vec<proto::Want>,
    acks: Vec<proto::Ack>,
    results: Vec<proto::Result>,
}

/// Receives the transfer of `seat` into `target`. `label` is what the user calls the destination.
///
/// # Errors
/// [`NetError`] where the transfer as a whole ended before it was complete. Files that failed are reported and do not
/// end it.
pub async fn receive(
    seat: Seat,
    target: Target,
    label: Vec<u8>,
    options: Options,
    reporter: Reporter,
) -> Result<(), NetError> {
    let (to_decide, batches) = mpsc::unbounded_channel();
    let (done_in, done) = mpsc::unbounded_channel();
    let pool = seat.link().pool().buffers().clone();
    let decider = tokio::spawn(decide_all(
        target.clone(),
        options.clone(),
        pool,
        batches,
        done_in.clone(),
    ));
    let (mut files, mut settled) = Files::new(target.clone(), options.clone());
    let receiver = Receiver {
        seat,
        label,
        target,
        options,
        reporter,
        last_number: 0,
        dirs: HashMap::new(),
        unsettled: HashMap::new(),
        ended: false,
        to_decide,
        deciding: 0,
        to_complete: Vec::new(),
        completing: false,
        outgoing: Outgoing::default(),
    };
    let result = receiver.run(&mut files, &mut settled, done, done_in).await;
    decider.abort();
    if result.is_err() {
        files.suspend(settled).await;
    }
    result
}

/// Works batches off one after another, so that a directory is made before what is in it is looked at.
async fn decide_all(
    target: Target,
    options: Options,
    pool: crate::chunk::buffer::BufferPool,
    mut batches: mpsc::UnboundedReceiver<Batch>,
    done: mpsc::UnboundedSender<Done>,
) {
    // Directories that this transfer made: a walk goes depth first, so that those of a moment ago are all that matter.
    let mut empty = HashSet::new();
    while let Some(mut batch) = batches.recv().await {
        let mut count = 1_usize;
        // what has come meanwhile is done in one go: directories first, and then what is in them
        while batch.candidates.len() < MAX_DECIDED
            && let Ok(more) = batches.try_recv()
        {
            batch.dirs.extend(more.dirs);
            batch.candidates.extend(more.candidates);
            count = count.saturating_add(1);
        }
        let wanted = batch
            .dirs
            .iter()
            .map(|(_, path, attributes)| (path.clone(), *attributes))
            .collect();
        let made = target.make_dirs(wanted).await;
        if empty.len() > MAX_EMPTY {
            empty.clear();
        }
        let new = batch
            .dirs
            .iter()
            .zip(&made)
            .filter(|(_, made)| matches!(made, Ok(true)));
        empty.extend(new.map(|((_, path, _), _)| path.clone()));
        let numbers = batch.dirs.iter().map(|(number, ..)| *number);
        let made = numbers.zip(made.into_iter().map(|made| made.map(drop))).collect();
        let decisions = target.decide(&batch.candidates, &empty, &options, &pool).await;
        let decided = batch.candidates.into_iter().zip(decisions).collect();
        let decided = Done::Decided {
            batches: count,
            made,
            decided,
        };
        if done.send(decided).is_err() {
            return;
        }
    }
}

impl Receiver {
    async fn run(
        mut self,
        files: &mut Files,
        settled: &mut mpsc::UnboundedReceiver<Settled>,
        mut done: mpsc::UnboundedReceiver<Done>,
        done_in: mpsc::UnboundedSender<Done>,
    ) -> Result<(), NetError> {
        let link = self.seat.link().clone();
        let mut clock = tokio::time::interval(std::time::Duration::from_secs(5));
        let mut moved = Instant::now();
        loop {
            let waited = (
                Instant::now(),
                if files.is_busy() {
                    Waiting::Receiver
                } else {
                    Waiting::Network
                },
            );
            // Everything that is ready is worked off before the answers go out.
            tokio::select! {
                biased;
                Some(job) = settled.recv() => {
                    for item in files.ended(job, &self.seat) {
                        self.file_event(item).await;
                    }
                }
                Some(job) = done.recv() => self.done(job, files).await?,
                incoming = self.seat.receive_any() => match incoming {
                    Some(Incoming::Message(body)) => self.message(body, files).await?,
                    Some(Incoming::Frame(frame)) => {
                        for item in files.frame(frame, &self.seat)? {
                            self.file_event(item).await;
                        }
                    }
                    None => return Err(link.down().await),
                },
                why = link.down() => return Err(why),
                () = std::future::ready(()), if !self.outgoing.is_empty() || files.has_gathered() => {
                    files.start_gathered();
                    self.flush().await?;
                    continue;
                }
                _ = clock.tick() => {
                    if !link.is_attached() {
                        moved = Instant::now();
                    }
                    if (files.is_working() || self.deciding > 0) && moved.elapsed() > STALL / 4 {
                        // a slow disk, not a dead receiver
                        self.seat.send(Body::Acks(proto::Acks::default())).await?;
                    }
                    if files.waits_for_sender() && moved.elapsed() > STALL.saturating_mul(2) {
                        return Err(NetError::lost("the sender has sent nothing for four minutes"));
                    }
                    continue;
                }
            }
            moved = Instant::now();
            link.progress();
            self.reporter.counters.waited(waited.1, moved.duration_since(waited.0));
            if self.outgoing.is_large() {
                self.flush().await?;
            }
            self.complete_dirs(&done_in);
            if self.ended && self.unsettled.is_empty() && self.dirs.is_empty() {
                self.flush().await?;
                self.seat.send(Body::Finished(proto::Finished {})).await?;
                return Ok(());
            }
        }
    }

    async fn message(&mut self, body: Body, files: &mut Files) -> Result<(), NetError> {
        match body {
            Body::Offers(offers) => self.offers(offers.offers).await,
            Body::Withdrawals(list) => {
                for withdrawal in list.withdrawals {
                    self.withdrawn(withdrawal, files).await;
                }
                Ok(())
            }
            Body::Changed(changed) => self.changed(changed, files).await,
            Body::End(_) => {
                self.ended = true;
                self.reporter.counters.walked.store(true, Ordering::Relaxed);
                Ok(())
            }
            Body::Cancel(cancel) => Err(refused(cancel.code, cancel.text)),
            _ => Err(NetError::Protocol(
                "it sent a receiver's message to the receiver".into(),
            )),
        }
    }

    async fn offers(&mut self, offers: Vec<proto::Offer>) -> Result<(), NetError> {
        if offers.len() > 4 * MAX_BATCH || self.unsettled.len().saturating_add(self.dirs.len()) > MAX_UNSETTLED {
            return Err(NetError::Protocol("it offers more at once than is allowed".into()));
        }
        let mut batch = Batch::default();
        for offer in offers {
            if offer.closes {
                self.close(offer.number)?;
            } else if let Err(error) = self.place(&offer, &mut batch)? {
                self.refuse(&offer, error).await;
            }
        }
        if !batch.dirs.is_empty() || !batch.candidates.is_empty() {
            self.deciding = self.deciding.saturating_add(1);
            let _ = self.to_decide.send(batch);
        }
        Ok(())
    }

    /// Finds an offer's place. The outer error breaks the protocol and ends the transfer, the inner one only fails
    /// this entry.
    fn place(&mut self, offer: &proto::Offer, batch: &mut Batch) -> Result<Result<(), StoreError>, NetError> {
        if offer.number <= self.last_number || self.ended {
            return Err(NetError::Protocol("its offers are out of order".into()));
        }
        self.last_number = offer.number;
        let attributes = entry::attributes(offer.mtime, offer.mtime_nanos, offer.mode)?;
        let kind = entry::kind_from_wire(offer.kind);
        let path = match offer.parent {
            0 => {
                let top = self.target.top(offer.source).filter(|_| offer.name.is_empty());
                Ok(top.ok_or_else(|| NetError::Protocol("it offers what was not asked for".into()))?)
            }
            parent => {
                let dir = self.dirs.get_mut(&parent).filter(|d| !d.closed);
                let dir = dir.ok_or_else(|| NetError::Protocol("it offers an entry of no open directory".into()))?;
                dir.pending = dir.pending.saturating_add(1);
                place_in(dir, &offer.name)?
            }
        };
        if kind == Kind::Dir {
            let dir = Dir {
                parent: offer.parent,
                path: path.clone(),
                attributes,
                pending: 0,
                closed: false,
            };
            self.dirs.insert(offer.number, dir);
        } else {
            let path = path.as_ref().map_or(&offer.name[..], |p| p.as_bytes());
            let unsettled = Unsettled {
                parent: offer.parent,
                path: self.shown(path),
                size: offer.size,
            };
            self.unsettled.insert(offer.number, unsettled);
        }
        let path = match path {
            Ok(path) => path,
            Err(e) => return Ok(Err(e)),
        };
        match kind {
            Kind::Other => return Ok(Err(StoreError::new(ErrorKind::BadKind, &path))),
            Kind::Dir if !self.options.recursive => return Ok(Err(StoreError::new(ErrorKind::IsADirectory, &path))),
            Kind::Dir => {
                if let Some(dir) = self.dirs.get_mut(&offer.number) {
                    dir.pending = 1;
                }
                batch.dirs.push((offer.number, path, attributes));
            }
            Kind::File | Kind::Symlink => {
                let counters = &self.reporter.counters;
                Counters::add(&counters.files_found, 1);
                Counters::add(&counters.bytes_found, offer.size);
                let content = content_of(offer, kind)?;
                batch
                    .candidates
                    .push(candidate_of(offer, kind, path, attributes, content)?);
            }
        }
        Ok(Ok(()))
    }

    /// What the user calls an entry of the target.
    fn shown(&self, path: &[u8]) -> Vec<u8> {
        shown(&self.label, path)
    }

    /// Fails an offer. A directory is only reported: it is settled when it is closed, like any other.
    async fn refuse(&mut self, offer: &proto::Offer, error: StoreError) {
        if let Some(dir) = self.dirs.get_mut(&offer.number) {
            dir.path = Err(error.clone());
            let path = self.shown(if error.path.is_root() {
                &offer.name
            } else {
                error.path.as_bytes()
            });
            self.reporter.failed(path, &error).await;
        } else {
            self.settle_failed(offer.number, code_of(&error.kind), error.describe())
                .await;
        }
    }

    fn close(&mut self, number: u64) -> Result<(), NetError> {
        let dir = self.dirs.get_mut(&number).filter(|d| !d.closed);
        let dir = dir.ok_or_else(|| NetError::Protocol("it closes a directory that is not open".into()))?;
        dir.closed = true;
        if dir.pending == 0 {
            self.to_complete.push(number);
        }
        Ok(())
    }

    async fn done(&mut self, job: Done, files: &mut Files) -> Result<(), NetError> {
        match job {
            Done::Decided { batches, made, decided } => {
                self.deciding = self.deciding.saturating_sub(batches);
                for (number, made) in made {
                    if let Err(error) = made {
                        if let Some(dir) = self.dirs.get_mut(&number) {
                            dir.path = Err(error.clone());
                        }
                        let path = self.shown(error.path.as_bytes());
                        self.reporter.failed(path, &error).await;
                    }
                    self.entry_settled(number);
                }
                for (candidate, decision) in decided {
                    let number = candidate.number;
                    match decision {
                        Decision::Unchanged(version) => self.settle_unchanged(number, version).await,
                        Decision::Failed(e) => self.settle_failed(number, code_of(&e.kind), e.describe()).await,
                        Decision::Wanted if self.unsettled.contains_key(&number) => {
                            self.reporter.counters.started(candidate.path.as_bytes());
                            if files.want(candidate) {
                                self.outgoing.wants.push(want(number));
                            }
                        }
                        // withdrawn meanwhile
                        Decision::Wanted => {}
                    }
                }
            }
            Done::Completed(dirs) => {
                self.completing = false;
                for (number, result) in dirs {
                    self.settle_dir(number, result).await;
                }
            }
        }
        Ok(())
    }

    async fn withdrawn(&mut self, withdrawal: proto::Withdrawal, files: &mut Files) {
        let code = Code::from_wire(withdrawal.code);
        if withdrawal.number == 0 {
            let (path, text) = (withdrawal.path, format!("at the source: {}", withdrawal.text));
            self.reporter.report(Event::Failed { path, code, text }).await;
        } else if self.unsettled.contains_key(&withdrawal.number) {
            files.give_up(withdrawal.number, &self.seat);
            let text = format!("at the source: {}", withdrawal.text);
            self.settle_failed(withdrawal.number, code, text).await;
        }
    }

    async fn changed(&mut self, changed: proto::Changed, files: &mut Files) -> Result<(), NetError> {
        let (Some(offer), Ok(attempt)) = (changed.offer, u8::try_from(changed.attempt)) else {
            return Err(NetError::Protocol("a change without an offer".into()));
        };
        let Some(unsettled) = self.unsettled.get_mut(&offer.number) else {
            return Ok(());
        };
        let attributes = entry::attributes(offer.mtime, offer.mtime_nanos, offer.mode)?;
        let counters = &self.reporter.counters;
        Counters::add(&counters.bytes_found, offer.size);
        Counters::add(&counters.bytes_failed, unsettled.size);
        unsettled.size = offer.size;
        let version = Some(offer.version).filter(|v| !v.is_empty());
        if files.restart(offer.number, (attempt, offer.size, attributes), version, &self.seat) {
            self.outgoing.wants.push(want(offer.number));
        }
        Ok(())
    }

    async fn file_event(&mut self, event: super::files::FileEvent) {
        use super::files::FileEvent;
        match event {
            FileEvent::Want {
                number,
                from,
                discarded,
            } => {
                let path = self.unsettled.get(&number).map(|u| u.path.clone()).unwrap_or_default();
                let offset = from.offset;
                if offset > 0 {
                    self.reporter.report(Event::Resumed { path, offset }).await;
                } else if discarded > 0 {
                    self.reporter.report(Event::Restarted { path, discarded }).await;
                }
                self.outgoing.wants.push(proto::Want {
                    number,
                    offset,
                    digests: from.digests.iter().map(|d| d.to_vec()).collect(),
                    discarded,
                });
            }
            FileEvent::Written { number, offset, length } => {
                Counters::add(&self.reporter.counters.bytes_done, length);
                self.outgoing.acks.push(proto::Ack { number, offset, length });
            }
            FileEvent::Committed {
                number,
                hash,
                size,
                version,
                grouped,
            } => {
                let Some(unsettled) = self.unsettled.remove(&number) else {
                    return;
                };
                if grouped {
                    Counters::add(&self.reporter.counters.bytes_done, size);
                }
                self.outgoing.results.push(proto::Result {
                    number,
                    outcome: proto::Outcome::Committed.into(),
                    version: version.clone(),
                    ..Default::default()
                });
                let path = unsettled.path;
                self.reporter
                    .report(Event::Committed {
                        path,
                        size,
                        hash,
                        version,
                    })
                    .await;
                self.entry_settled(unsettled.parent);
            }
            FileEvent::Failed { number, code, text } => self.settle_failed(number, code, text).await,
        }
    }

    async fn settle_unchanged(&mut self, number: u64, version: String) {
        let Some(unsettled) = self.unsettled.remove(&number) else {
            return;
        };
        self.outgoing.results.push(proto::Result {
            number,
            outcome: proto::Outcome::Unchanged.into(),
            version,
            ..Default::default()
        });
        let (path, size) = (unsettled.path, unsettled.size);
        self.reporter.report(Event::Unchanged { path, size }).await;
        self.entry_settled(unsettled.parent);
    }

    async fn settle_failed(&mut self, number: u64, code: Code, text: String) {
        let Some(unsettled) = self.unsettled.remove(&number) else {
            return;
        };
        self.outgoing.results.push(proto::Result {
            number,
            outcome: proto::Outcome::Failed.into(),
            code: u32::from(code.0),
            text: text.clone(),
            ..Default::default()
        });
        Counters::add(&self.reporter.counters.bytes_failed, unsettled.size);
        let path = unsettled.path;
        self.reporter.report(Event::Failed { path, code, text }).await;
        self.entry_settled(unsettled.parent);
    }

    async fn settle_dir(&mut self, number: u64, result: Result<(), StoreError>) {
        let Some(dir) = self.dirs.remove(&number) else { return };
        let mut message = proto::Result {
            number,
            outcome: proto::Outcome::Committed.into(),
            ..Default::default()
        };
        match result {
            Ok(()) => Counters::add(&self.reporter.counters.dirs_done, 1),
            Err(error) => {
                message.outcome = proto::Outcome::Failed.into();
                message.code = u32::from(code_of(&error.kind).0);
                message.text = error.describe();
                // one that could not be made has been reported when that was known
                if dir.path.is_ok() {
                    let path = self.shown(error.path.as_bytes());
                    self.reporter.failed(path, &error).await;
                }
            }
        }
        self.outgoing.results.push(message);
        self.entry_settled(dir.parent);
    }

    /// One entry less is pending in its directory.
    fn entry_settled(&mut self, parent: u64) {
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.pending = dir.pending.saturating_sub(1);
            if dir.closed && dir.pending == 0 {
                self.to_complete.push(parent);
            }
        }
    }

    /// Sets time and mode of the directories that nothing will change any more: one job at a time, for all that have
    /// become ready meanwhile.
    fn complete_dirs(&mut self, done: &mpsc::UnboundedSender<Done>) {
        if self.completing || self.to_complete.is_empty() {
            return;
        }
        let (mut numbers, mut set, mut results) = (Vec::new(), Vec::new(), BTreeMap::new());
        for number in std::mem::take(&mut self.to_complete) {
            match self.dirs.get(&number) {
                Some(Dir {
                    path: Ok(path),
                    attributes,
                    ..
                }) => {
                    numbers.push(number);
                    set.push((path.clone(), *attributes));
                }
                Some(Dir { path: Err(e), .. }) => drop(results.insert(number, Err(e.clone()))),
                None => {}
            }
        }
        self.completing = true;
        let (target, durable, done) = (self.target.clone(), !self.options.no_fsync, done.clone());
        tokio::spawn(async move {
            let ends = target.set_attributes(set).await;
            let synced = if durable { target.sync().await } else { Ok(()) };
            let ends = numbers
                .into_iter()
                .zip(ends.into_iter().map(|end| end.and(synced.clone())));
            let _ = done.send(Done::Completed(results.into_iter().chain(ends).collect()));
        });
    }

    async fn flush(&mut self) -> Result<(), NetError> {
        let Outgoing { wants, acks, results } = std::mem::take(&mut self.outgoing);
        // acks first: one for an attempt that is over must not come after the next attempt was asked for
        if !acks.is_empty() {
            self.seat.send(Body::Acks(proto::Acks { acks })).await?;
        }
        if !results.is_empty() {
            self.seat.send(Body::Results(proto::Results { results })).await?;
        }
        if !wants.is_empty() {
            self.seat.send(Body::Wants(proto::Wants { wants })).await?;
        }
        Ok(())
    }
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.acks.is_empty() && self.results.is_empty()
    }

    fn is_large(&self) -> bool {
        self.wants.len() >= 4 * MAX_BATCH || self.acks.len() >= MAX_BATCH || self.results.len() >= MAX_BATCH
    }
}

/// All of a file is wanted.
fn want(number: u64) -> proto::Want {
    proto::Want {
        number,
        ..Default::default()
    }
}

/// The path of an entry in its directory. The outer error breaks the protocol: no honest walk finds such a name.
fn place_in(dir: &Dir, name: &[u8]) -> Result<Result<RemotePath, StoreError>, NetError> {
    let parent = match &dir.path {
        Ok(parent) => parent,
        Err(e) => return Ok(Err(e.clone())),
    };
    let name = match Name::parse(name) {
        Ok(name) => name,
        Err(e @ (BadPath::TooLong | BadPath::Reserved)) => {
            return Ok(Err(StoreError::new(ErrorKind::BadName(e), parent)));
        }
        Err(e) => return Err(NetError::Protocol(format!("a name that it offers is not allowed: {e}"))),
    };
    Ok(parent
        .join(&name)
        .map_err(|e| StoreError::new(ErrorKind::BadName(e), parent)))
}

fn candidate_of(
    offer: &proto::Offer,
    kind: Kind,
    path: RemotePath,
    attributes: Attributes,
    content: Option<(Vec<u8>, Digest)>,
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
        path,
        kind,
        size: (!offer.stream).then_some(offer.size),
        attributes,
        target: offer.target.clone(),
        hash,
        version: Some(offer.version.clone()).filter(|v| !v.is_empty()),
        content,
    })
}

/// The content that came with an offer, verified.
fn content_of(offer: &proto::Offer, kind: Kind) -> Result<Option<(Vec<u8>, Digest)>, NetError> {
    if offer.digest.is_empty() {
        return Ok(None);
    }
    let bytes = offer.content.clone();
    let digest = whole_digest(&bytes);
    let fits = bytes.len() <= MAX_INLINE && bytes.len() as u64 == offer.size && kind == Kind::File && !offer.stream;
    if !fits || digest != offer.digest.as_slice() {
        return Err(NetError::Protocol(
            "the content of an offer is not what the offer says".into(),
        ));
    }
    Ok(Some((bytes, digest)))
}
