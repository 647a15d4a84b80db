//! The receiver: says what it wants, puts what arrives back in order, commits, and settles every offer.
//!
//! One task owns all state and never waits for the store: whatever touches it runs as a job whose end comes back through
//! a channel: of batches of offers (`decide_all`), of files (`Files`), and of directories (`Dirs`).

use crate::chunk::window::AllowancePermit;
use crate::net::control::codec::refused;
use crate::net::error::{NetError, code_of};
use crate::net::session::{ChannelEvent, TransferChannel};
use crate::net::task::Jobs;
use crate::net::transfer::cost::offer_cost;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::decide::{Batch, Decided, candidate_of, decide_all, version_of};
use crate::net::transfer::receive::destination::{Decision, Target};
use crate::net::transfer::receive::dirs::{Dirs, Place};
use crate::net::transfer::receive::files::{FileEvent, Files, JobDone};
use crate::net::transfer::report::{Counters, Event, Reporter, Waiting, shown};
use crate::net::transfer::{MAX_BATCH, MAX_UNSETTLED, STALL};
use crate::net::wire::proto::{self, transfer_message::Body};
use crate::net::wire::{Code, entry};
use crate::store::{Durability, ErrorKind, Kind, StoreError};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes of a message with answers, and those of an answer besides its text.
const BATCH_BYTES: usize = 128 << 10;
const ENTRY: usize = 128;

/// One transfer, from the side that gets the files.
struct Receiver {
    channel: TransferChannel,
    label: Vec<u8>,
    target: Target,
    options: Options,
    reporter: Reporter,
    last_number: u64,
    dirs: Dirs,
    /// Parent of every unsettled file or symlink, with what to show of it.
    unsettled: HashMap<u64, Unsettled>,
    ended: bool,
    to_decide: mpsc::UnboundedSender<Batch>,
    /// Batches that are being decided, which with hashes may take long.
    deciding: usize,
    outgoing: Outgoing,
}

struct Unsettled {
    parent: u64,
    path: Vec<u8>,
    size: u64,
    /// What it takes of the window's part for offers.
    _cost: AllowancePermit,
    /// Bytes that were there before.
    resumed: u64,
    /// Bytes that were reported as written.
    written: u64,
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
    channel: TransferChannel,
    target: Target,
    label: Vec<u8>,
    options: Options,
    reporter: Reporter,
) -> Result<(), NetError> {
    let (to_decide, batches) = mpsc::unbounded_channel();
    let (decided_in, decided) = mpsc::unbounded_channel();
    let pool = channel.core().pool().buffers().clone();
    let tasks = channel.core().tasks().clone();
    let deciding = decide_all(target.clone(), options.clone(), pool, batches, decided_in);
    let decider = tasks.spawn("decide", deciding);
    let (mut files, mut settled) = Files::new(target.clone(), options.clone(), tasks);
    let receiver = Receiver {
        channel,
        label,
        target,
        options,
        dirs: Dirs::new(!reporter.is_silent()),
        reporter,
        last_number: 0,
        unsettled: HashMap::new(),
        ended: false,
        to_decide,
        deciding: 0,
        outgoing: Outgoing::default(),
    };
    let result = receiver.run(&mut files, &mut settled, decided).await;
    drop(decider);
    match result {
        // what a fault has left is not trusted with a record
        Ok(()) | Err(NetError::Internal(_)) => {}
        Err(_) => files.suspend(settled).await,
    }
    result
}

impl Receiver {
    async fn run(
        mut self,
        files: &mut Files,
        settled: &mut mpsc::UnboundedReceiver<JobDone>,
        mut decided: mpsc::UnboundedReceiver<Decided>,
    ) -> Result<(), NetError> {
        let core = self.channel.core().clone();
        let (completing, mut completed) = Jobs::new(core.tasks().clone());
        let (last, mut ended) = Jobs::new(core.tasks().clone());
        let mut is_last = false;
        let mut clock = tokio::time::interval(std::time::Duration::from_secs(5));
        let mut moved = Instant::now();
        loop {
            if core.is_refused() {
                return Err(core.down().await);
            }
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
                    for item in files.ended(job, &self.channel) {
                        self.file_event(item).await;
                    }
                }
                Some(decided) = decided.recv() => self.decided(decided, files).await,
                Some(dirs) = completed.recv() => {
                    self.dirs.completed();
                    for (number, result) in dirs {
                        self.settle_dir(number, result).await;
                    }
                }
                Some(synced) = ended.recv() => {
                    let () = synced?;
                    self.channel.send(Body::Finished(proto::Finished {})).await?;
                    return Ok(());
                }
                incoming = self.channel.receive_any() => match incoming {
                    Some(ChannelEvent::Message(body)) => self.message(body, files).await?,
                    Some(ChannelEvent::Frame(frame)) => {
                        for item in files.frame(frame, &self.channel)? {
                            self.file_event(item).await;
                        }
                    }
                    None => return Err(core.down().await),
                },
                why = core.down() => return Err(why),
                () = std::future::ready(()), if !self.outgoing.is_empty() || files.has_gathered() => {
                    files.start_gathered();
                    self.flush().await?;
                    continue;
                }
                _ = clock.tick() => {
                    if !core.is_attached() {
                        moved = Instant::now();
                    }
                    let completing = self.dirs.is_completing() || is_last;
                    let working = files.is_working() || self.deciding > 0 || completing;
                    if working && moved.elapsed() > STALL / 4 {
                        // a slow disk, not a dead receiver
                        self.channel.send(Body::Acks(proto::Acks::default())).await?;
                    }
                    if files.waits_for_sender() && moved.elapsed() > STALL.saturating_mul(2) {
                        return Err(NetError::lost("the sender has sent nothing for four minutes"));
                    }
                    continue;
                }
            }
            moved = Instant::now();
            core.progress();
            self.reporter.counters.waited(waited.1, moved.duration_since(waited.0));
            if self.outgoing.is_large() {
                self.flush().await?;
            }
            self.dirs.complete(&self.target, self.options.durability, &completing);
            if self.ended && self.unsettled.is_empty() && self.dirs.is_empty() {
                self.flush().await?;
                let (target, durability) = (self.target.clone(), self.options.durability);
                if !std::mem::replace(&mut is_last, true) {
                    last.start("unchanged", async move {
                        match durability {
                            Durability::Durable => target.sync_unchanged().await,
                            Durability::Volatile => Ok(()),
                        }
                    });
                }
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
        if self.unsettled.len().saturating_add(self.dirs.len()) > MAX_UNSETTLED {
            return Err(NetError::Protocol("it offers more at once than is allowed".into()));
        }
        let mut batch = Batch::default();
        for offer in offers {
            if offer.closes {
                self.dirs.close(offer.number)?;
            } else if let Err(error) = self.place(&offer, &mut batch)? {
                self.refuse(offer.number, error).await;
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
        let attributes = entry::offered_attributes(offer)?;
        let kind = entry::kind_from_wire(offer.kind);
        let place = match offer.parent {
            0 => {
                let top = self.target.top(offer.source).filter(|_| offer.name.is_empty());
                Place::At(top.ok_or_else(|| NetError::Protocol("it offers what was not asked for".into()))?)
            }
            parent => self.dirs.place(parent, &offer.name)?,
        };
        let length = place.shown().len();
        let cost = self.channel.core().accepted().try_take(offer_cost(length, offer));
        let cost = cost.map_err(|_| NetError::Protocol("it offers more at once than the window allows".into()))?;
        if kind == Kind::Dir {
            let with = (attributes, cost.clone());
            self.dirs.insert(offer.number, offer.parent, place.clone(), with);
        } else {
            let unsettled = Unsettled {
                parent: offer.parent,
                path: match self.reporter.is_silent() {
                    true => Vec::new(),
                    false => self.shown(place.shown()),
                },
                size: offer.size,
                _cost: cost.clone(),
                resumed: 0,
                written: 0,
            };
            self.unsettled.insert(offer.number, unsettled);
        }
        let path = match place {
            Place::At(path) => path,
            Place::Not { error, .. } => return Ok(Err(error)),
        };
        match kind {
            Kind::Other => return Ok(Err(StoreError::new(ErrorKind::BadKind, &path))),
            Kind::Dir if !self.options.recursive => return Ok(Err(StoreError::new(ErrorKind::IsADirectory, &path))),
            Kind::Dir => {
                self.dirs.making(offer.number);
                batch.dirs.push((offer.number, path, attributes));
            }
            Kind::File | Kind::Symlink => {
                let counters = &self.reporter.counters;
                Counters::add(&counters.files_found, 1);
                Counters::add(&counters.bytes_found, offer.size);
                batch
                    .candidates
                    .push(candidate_of(offer, kind, path, attributes, cost)?);
            }
        }
        Ok(Ok(()))
    }

    /// What the user calls an entry of the target.
    fn shown(&self, path: &[u8]) -> Vec<u8> {
        shown(&self.label, path)
    }

    /// Fails an offer. A directory is only reported: it is settled when it is closed, like any other.
    async fn refuse(&mut self, number: u64, error: StoreError) {
        match self.dirs.fail(number, &error) {
            Some(path) => self.reporter.failed(self.shown(&path), &error).await,
            None => self.settle_failed(number, code_of(&error.kind), error.describe()).await,
        }
    }

    async fn decided(&mut self, decided: Decided, files: &mut Files) {
        self.deciding = self.deciding.saturating_sub(decided.batches);
        for (number, made) in decided.made {
            match made {
                Ok(true) => self.dirs.made(number),
                Ok(false) => {}
                Err(error) => {
                    // where the one above could not be made, that is the reason
                    let error = self.dirs.failure_above(number).cloned().unwrap_or(error);
                    self.refuse(number, error).await;
                }
            }
            self.dirs.settled(number);
        }
        for (candidate, decision) in decided.decided {
            let number = candidate.number;
            let decision = match self.dirs.failure(candidate.parent) {
                Some(error) => Decision::Failed(error.clone()),
                None => decision,
            };
            match decision {
                Decision::Unchanged => self.settle_unchanged(number).await,
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

    async fn withdrawn(&mut self, withdrawal: proto::Withdrawal, files: &mut Files) {
        let code = Code::from_wire(withdrawal.code);
        if withdrawal.number == 0 {
            let (path, text) = (withdrawal.path, format!("at the source: {}", withdrawal.text));
            self.reporter.report(Event::Failed { path, code, text }).await;
        } else if self.unsettled.contains_key(&withdrawal.number) {
            files.withdrawn(withdrawal.number, code, &self.channel);
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
        let attributes = entry::offered_attributes(&offer)?;
        let counters = &self.reporter.counters;
        Counters::add(&counters.bytes_found, offer.size);
        counters.gave_up(unsettled.size, unsettled.resumed, unsettled.written);
        (unsettled.size, unsettled.resumed, unsettled.written) = (offer.size, 0, 0);
        let version = version_of(&offer)?;
        let size = (!offer.stream).then_some(offer.size);
        if files.restart(offer.number, (attempt, size, attributes), version, &self.channel) {
            self.outgoing.wants.push(want(offer.number));
        }
        Ok(())
    }

    async fn file_event(&mut self, event: FileEvent) {
        match event {
            FileEvent::Want {
                number,
                from,
                discarded,
            } => {
                let offset = from.offset;
                let path = match self.unsettled.get_mut(&number) {
                    Some(unsettled) => {
                        unsettled.resumed = offset;
                        unsettled.path.clone()
                    }
                    None => Vec::new(),
                };
                self.reporter.begins(&path, offset);
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
                self.reporter.counters.written(length);
                if let Some(unsettled) = self.unsettled.get_mut(&number) {
                    unsettled.written = unsettled.written.saturating_add(length);
                }
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
                    self.reporter.counters.written(size);
                }
                self.outgoing.results.push(proto::Result {
                    number,
                    outcome: proto::Outcome::Committed.into(),
                    version: version.clone(),
                    ..Default::default()
                });
                let large = (!grouped).then(|| unsettled.path.clone());
                let event = || Event::Committed {
                    path: unsettled.path,
                    size,
                    hash,
                    version,
                };
                self.reporter.committed(size, large.as_deref(), event).await;
                self.dirs.settled(unsettled.parent);
            }
            FileEvent::Failed { number, code, text } => self.settle_failed(number, code, text).await,
        }
    }

    async fn settle_unchanged(&mut self, number: u64) {
        let Some(unsettled) = self.unsettled.remove(&number) else {
            return;
        };
        self.outgoing.results.push(proto::Result {
            number,
            outcome: proto::Outcome::Unchanged.into(),
            ..Default::default()
        });
        let (path, size) = (unsettled.path, unsettled.size);
        let event = || Event::Unchanged { path, size };
        self.reporter.unchanged(size, event).await;
        self.dirs.settled(unsettled.parent);
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
        let counters = &self.reporter.counters;
        counters.gave_up(unsettled.size, unsettled.resumed, unsettled.written);
        let path = unsettled.path;
        self.reporter.report(Event::Failed { path, code, text }).await;
        self.dirs.settled(unsettled.parent);
    }

    async fn settle_dir(&mut self, number: u64, result: Result<(), StoreError>) {
        let Some((parent, place, made)) = self.dirs.remove(number) else {
            return;
        };
        let mut message = proto::Result {
            number,
            // a sender that may not know what is there gets one answer
            outcome: match made || self.target.is_write_only() {
                true => proto::Outcome::Committed.into(),
                false => proto::Outcome::Unchanged.into(),
            },
            ..Default::default()
        };
        match result {
            Ok(()) => self.reporter.counters.directory_done(made),
            Err(error) => {
                message.outcome = proto::Outcome::Failed.into();
                message.code = u32::from(code_of(&error.kind).0);
                message.text = error.describe();
                // one that could not be made has been reported when that was known
                if let Place::At(path) = place {
                    self.reporter.failed(self.shown(path.as_bytes()), &error).await;
                }
            }
        }
        self.outgoing.results.push(message);
        self.dirs.settled(parent);
    }

    async fn flush(&mut self) -> Result<(), NetError> {
        let Outgoing { wants, acks, results } = std::mem::take(&mut self.outgoing);
        // acks first: one for an attempt that is over must not come after the next attempt was asked for
        for acks in batches(acks, |_| 0) {
            self.channel.send(Body::Acks(proto::Acks { acks })).await?;
        }
        for results in batches(results, |result| result.text.len()) {
            self.channel.send(Body::Results(proto::Results { results })).await?;
        }
        for wants in batches(wants, |want| want.digests.len().saturating_mul(ENTRY)) {
            self.channel.send(Body::Wants(proto::Wants { wants })).await?;
        }
        Ok(())
    }
}

/// Cuts a list into messages that may be sent, by the entries' texts.
fn batches<T>(list: Vec<T>, text: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut all, mut bytes) = (Vec::new(), 0_usize);
    for entry in list {
        let size = text(&entry).saturating_add(ENTRY);
        bytes = bytes.saturating_add(size);
        match all.last_mut() {
            Some(batch) if bytes <= BATCH_BYTES => Vec::push(batch, entry),
            _ => {
                bytes = size;
                all.push(vec![entry]);
            }
        }
    }
    all
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
