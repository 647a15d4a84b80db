//! The sender: offers what the walk finds, sends what the receiver wants, and learns how each entry
//! ended.
//!
//! One task owns all state (`SendState`). The walk, the reads and the readers of streams are tasks
//! without any.

use crate::chunk::digest::{Digest, RootHasher};
use crate::net::control::codec::refused;
use crate::net::data::body::FileId;
use crate::net::error::{LossReason, NetError};
use crate::net::session::SessionCore;
use crate::net::session::channel::TransferChannel;
use crate::net::task::Task;
use crate::net::transfer::hands_over;
use crate::net::transfer::metadata::omissions_from_wire;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Event, Reporter};
use crate::net::transfer::send::found::Walked;
use crate::net::transfer::send::offer::Inline;
use crate::net::transfer::send::offering::Offering;
use crate::net::transfer::send::reader::{FileReader, ReadEvent, ReadFailure};
use crate::net::transfer::send::reads::WantedFile;
use crate::net::transfer::send::source::{Origin, TransferSource, shown_in};
use crate::net::transfer::send::state::{Phase, SendState, is_large};
use crate::net::transfer::send::stream::{Input, StreamReader};
use crate::net::transfer::send::walk::{Walk, WalkOptions};
use crate::net::transfer::{MAX_UNSETTLED, STALL};
use crate::net::wire::proto::{self, transfer_message::Body};
use crate::store::{Kind, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// Streams that are read at once.
const STREAMS: usize = 4;
/// How often the sender looks whether anything moves.
const TICK: Duration = Duration::from_secs(5);

/// One transfer, from the side that has the files.
pub(super) struct Sender {
    pub(super) channel: TransferChannel,
    pub(super) sources: Arc<Vec<TransferSource>>,
    pub(super) options: Options,
    pub(super) reporter: Reporter,
    pub(super) state: SendState,
    offering: Offering,
    reader: FileReader,
    /// The tasks that read streams, by the numbers of their offers: dropping one ends it.
    pub(super) streaming: BTreeMap<u64, Task<()>>,
    /// The turns of streams to be read.
    streams: Arc<Semaphore>,
    /// The walk has not ended.
    is_walking: bool,
    /// When anything last moved.
    moved: Instant,
}

/// What woke the sender.
enum Wake {
    Message(Option<Body>),
    Read(ReadEvent),
    Walked(Option<Vec<Walked>>),
    Down(NetError),
    Clock,
}

/// Sends the sources as the transfer of `channel`; files that fail are reported and do not end it.
///
/// # Errors
/// [`NetError`] if the transfer as a whole ended before it was complete.
pub async fn send(
    channel: TransferChannel,
    sources: Arc<Vec<TransferSource>>,
    options: Options,
    reporter: Reporter,
) -> Result<(), NetError> {
    let core = channel.core().clone();
    core.send_queue.set_packing(channel.number(), options.packing);
    let (walked_in, walked) = mpsc::channel(8);
    let walk_options = WalkOptions::of(&options, core.pool().buffers().clone());
    let walk = Walk::new(sources.clone(), walk_options, walked_in);
    let _walk = core.tasks().spawn("walk", walk.run());
    let inline = Inline::new(options.checksum || options.dry_run);
    let sender = Sender {
        reader: FileReader::new(core.clone(), channel.number()),
        offering: Offering::new(core.clone(), sources.clone(), inline, options.clone()),
        state: SendState::new(
            core.tasks().clone(),
            reporter.counters.clone(),
            hands_over(&core, &options),
        ),
        channel,
        sources,
        options,
        reporter,
        streaming: BTreeMap::new(),
        streams: Arc::new(Semaphore::new(STREAMS)),
        is_walking: true,
        moved: Instant::now(),
    };
    sender.run(&core, walked).await
}

impl Sender {
    async fn run(
        mut self,
        core: &Arc<SessionCore>,
        mut walked: mpsc::Receiver<Vec<Walked>>,
    ) -> Result<(), NetError> {
        let mut clock = tokio::time::interval(TICK);
        loop {
            if let Some(failed) = self.reader.plan(&mut self.state) {
                self.read_failed(failed).await?;
                continue;
            }
            let (since, waiting) = (Instant::now(), self.reader.waits_for());
            let may_offer = self.is_walking && self.state.len() < MAX_UNSETTLED / 2;
            let wake = tokio::select! {
                // what has come counts before the news that the session is over
                biased;
                message = self.channel.receive() => Wake::Message(message),
                event = self.reader.next(&mut self.state) => Wake::Read(event),
                batch = next_batch(core, &mut walked), if may_offer => Wake::Walked(batch),
                why = core.down() => Wake::Down(why),
                _ = clock.tick() => Wake::Clock,
            };
            if let Some(waiting) = waiting {
                self.reporter.counters.waited(waiting, since.elapsed());
            }
            match wake {
                Wake::Message(Some(Body::Finished(finished))) => return self.finished(finished),
                Wake::Message(Some(message)) => self.message(message).await?,
                Wake::Walked(Some(batch)) => self.offer(batch).await?,
                Wake::Read(event) => {
                    for failed in self.reader.process(event, &mut self.state) {
                        self.read_failed(failed).await?;
                    }
                    continue;
                }
                // a walk that ends without its last word has panicked, which its task is about to
                // tell
                Wake::Message(None) | Wake::Walked(None) => return Err(core.down().await),
                Wake::Down(why) => return Err(why),
                Wake::Clock => {
                    self.check_progress(core)?;
                    continue;
                }
            }
            self.moved = Instant::now();
            core.progress();
        }
    }

    /// Gives up when the receiver answers nothing for too long.
    fn check_progress(&mut self, core: &SessionCore) -> Result<(), NetError> {
        if !core.is_attached() {
            self.moved = Instant::now();
        }
        let stall = STALL.saturating_add(self.options.wait.unwrap_or_default());
        // A stream takes as long as it takes.
        let waits_for_answers = !self.state.is_empty() && self.streaming.is_empty();
        let waits = core.send_queue.is_waiting(self.channel.number()) || waits_for_answers;
        if waits && self.moved.elapsed() > stall {
            return Err(NetError::Lost(LossReason::ReceiverStalled));
        }
        Ok(())
    }

    fn finished(&self, finished: proto::Finished) -> Result<(), NetError> {
        if self.is_walking || !self.state.is_empty() {
            return Err(NetError::Protocol("it finished a transfer before all was settled".into()));
        }
        if let Some(omissions) = finished.omissions {
            self.reporter.counters.omitted(&omissions_from_wire(omissions));
        }
        Ok(())
    }

    /// Offers what the walk has found.
    async fn offer(&mut self, found: Vec<Walked>) -> Result<(), NetError> {
        let batch = self.offering.batch(found, &mut self.state, &self.reporter).await;
        if !batch.withdrawals.is_empty() {
            let withdrawals = batch.withdrawals;
            let message = Body::Withdrawals(proto::Withdrawals { withdrawals });
            self.channel.send(message).await?;
        }
        if !batch.exclusions.is_empty() {
            let exclusions = batch.exclusions;
            self.channel
                .send(Body::Exclusions(proto::Exclusions { exclusions }))
                .await?;
        }
        if !batch.offers.is_empty() {
            let offers = batch.offers;
            self.channel.send(Body::Offers(proto::Offers { offers })).await?;
        }
        if batch.is_last {
            self.is_walking = false;
            self.reporter.counters.walked.store(true, Ordering::Relaxed);
            self.channel.send(Body::End(proto::EndOfOffers {})).await?;
        }
        Ok(())
    }

    async fn message(&mut self, message: Body) -> Result<(), NetError> {
        match message {
            Body::Wants(wants) => {
                for want in wants.wants {
                    self.want(want).await?;
                }
            }
            Body::Acks(acks) => {
                for ack in acks.acks {
                    self.acknowledged(&ack);
                }
            }
            Body::Results(results) => {
                for result in results.results {
                    self.result(result).await?;
                }
            }
            Body::Cancel(cancel) => return Err(refused(cancel.code, cancel.text)),
            _ => return Err(NetError::Protocol("it sent a sender's message to the sender".into())),
        }
        Ok(())
    }

    async fn want(&mut self, want: proto::Want) -> Result<(), NetError> {
        let (number, hands_over) = (want.number, self.state.hands_over());
        let file = self.state.get_mut(number).filter(|file| file.may_be_wanted());
        let file = file.ok_or_else(unasked)?;
        // what is there already counts neither as sent nor as to be sent
        file.resumed = want.offset;
        // and what was written of an earlier attempt is gone; all of its acks have come before this
        let gone = std::mem::take(&mut file.written);
        self.reporter.counters.bytes_done.fetch_sub(gone, Ordering::Relaxed);
        let id = FileId {
            number,
            attempt: file.attempt,
        };
        let source = self.sources.get(file.source).ok_or_else(unasked)?;
        match (&source.origin, &file.entry) {
            (Origin::Tree { store, .. }, Some(entry))
                if entry.kind == Kind::File && !file.sized =>
            {
                if want.offset > 0 {
                    return Err(unasked());
                }
                let (store, path) = (store.clone(), file.path.clone());
                self.start_stream(id, async move { Input::file(&*store, &path).await });
            }
            (Origin::Tree { store, .. }, Some(entry)) if entry.kind == Kind::File => {
                let size = entry.size;
                let root = match hands_over && is_large(size) {
                    // it is not hashed
                    true => Some(RootHasher::default()).filter(|_| want.offset < size),
                    false => Some(hash_of_prefix(&want, size)?),
                };
                let wanted = WantedFile {
                    id,
                    store: store.clone(),
                    path: file.path.clone(),
                    size,
                    version: entry.version.clone(),
                    allocation: entry.attributes.allocation,
                    offset: want.offset,
                    root: root.ok_or_else(unasked)?,
                };
                let path = shown_in(&self.sources, file.source, &file.path);
                self.state.queue(wanted);
                if is_large(size) {
                    self.reporter.begins(&path, want.offset);
                }
                self.report_prefix(&want, path).await;
            }
            (Origin::Stream(stream), None) if want.offset == 0 => {
                let input = Input::Reader(stream.lock().take().ok_or_else(unasked)?);
                self.start_stream(id, async { Ok(input) });
            }
            _ => return Err(unasked()),
        }
        Ok(())
    }

    /// Reports what the receiver had of a file.
    async fn report_prefix(&self, want: &proto::Want, path: Vec<u8>) {
        let (offset, discarded) = (want.offset, want.discarded);
        if offset > 0 {
            self.reporter.report(Event::Resumed { path, offset }).await;
        } else if discarded > 0 {
            self.reporter.report(Event::Restarted { path, discarded }).await;
        }
    }

    /// Reads a stream as this attempt at an offer, once few enough others are being read.
    fn start_stream(
        &mut self,
        id: FileId,
        open: impl Future<Output = Result<Input, StoreError>> + Send + 'static,
    ) {
        if let Some(file) = self.state.get_mut(id.number) {
            file.phase = Phase::ReadingWhole;
        }
        let core = self.channel.core();
        let reader = StreamReader {
            id,
            credit: core.send_queue.credit().clone(),
            pool: core.pool().buffers().clone(),
            counters: self.reporter.counters.clone(),
            out: self.reader.streams(),
        };
        let streams = self.streams.clone();
        let task = core.tasks().spawn("stream", async move {
            // never closed
            let _turn = streams.acquire().await;
            reader.run(open).await;
        });
        self.streaming.insert(id.number, task);
    }

    async fn read_failed(&mut self, failed: ReadFailure) -> Result<(), NetError> {
        match failed {
            ReadFailure::Failed(id, error) => self.withdraw(id.number, &error).await,
            ReadFailure::Changed(id) => self.changed(id.number).await,
        }
    }
}

fn unasked() -> NetError {
    NetError::Protocol("it wants what was not offered".into())
}

/// The next batch of the walk, once the receiver has room for more offers. Cancel-safe.
async fn next_batch(
    core: &SessionCore,
    walked: &mut mpsc::Receiver<Vec<Walked>>,
) -> Option<Vec<Walked>> {
    core.offered().room().await;
    walked.recv().await
}

/// The hash of the bytes of a file that the receiver has.
fn hash_of_prefix(want: &proto::Want, size: u64) -> Result<RootHasher, NetError> {
    let bad = || NetError::Protocol("it wants a file from a place where no chunk begins".into());
    let digests = want.digests.iter().map(|d| Digest::try_from(d.as_slice()));
    let digests = digests.collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
    if want.offset > 0 && want.offset >= size {
        return Err(bad());
    }
    RootHasher::resume(want.offset, digests).ok_or_else(bad)
}
