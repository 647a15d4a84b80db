//! The sender: offers what the walk finds, sends what the receiver wants, and learns how each entry ended.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::{Digest, RootHasher};
use crate::chunk::window::AllowancePermit;
use crate::net::control::codec::refused;
use crate::net::error::{NetError, code_of};
use crate::net::session::{SessionCore, TransferChannel};
use crate::net::task::Task;
use crate::net::transfer::cost::offer_cost;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Counters, Event, Reporter, shown};
use crate::net::transfer::send::offer::{Inline, InlineContent, Offered, offer_of, offer_of_stream, unsized_offer};
use crate::net::transfer::send::reader::{Cancelled, FileReader, ReadEvent};
use crate::net::transfer::send::reads::Wanted;
use crate::net::transfer::send::stream::{Input, Outlet, send_stream};
use crate::net::transfer::send::walk::{Origin, TransferSource, Walk, Walked};
use crate::net::transfer::{MAX_UNSETTLED, STALL};
use crate::net::wire::Code;
use crate::net::wire::proto::{self, transfer_message::Body};
use crate::store::{ErrorKind, Kind, RemotePath, Store, StoreError, StoreExt};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// How often a file is started anew because it changed while it was read.
const MAX_ATTEMPT: u8 = 3;

/// Streams that are read at once.
const STREAMS: usize = 4;

/// One transfer, from the side that has the files.
pub struct Sender {
    channel: TransferChannel,
    sources: Arc<Vec<TransferSource>>,
    options: Options,
    reporter: Reporter,
    offered: HashMap<u64, Offered>,
    wanted: mpsc::UnboundedSender<Wanted>,
    events: mpsc::UnboundedReceiver<ReadEvent>,
    events_in: mpsc::UnboundedSender<ReadEvent>,
    stopped: Cancelled,
    /// The tasks that read streams, by the numbers of their offers.
    streaming: HashMap<u64, Task<()>>,
    /// How many of them are at it.
    streams: Arc<Semaphore>,
    moved: Instant,
    inline: Inline,
}

/// Sends the sources as the transfer of `seat`; files that fail are reported and do not end it.
///
/// # Errors
/// [`NetError`] where the transfer as a whole ended before it was complete.
pub async fn send(
    channel: TransferChannel,
    sources: Arc<Vec<TransferSource>>,
    options: Options,
    reporter: Reporter,
) -> Result<(), NetError> {
    let (wanted, wanted_out) = mpsc::unbounded_channel();
    let (events_in, events) = mpsc::unbounded_channel();
    let stopped = Cancelled::default();
    let core = channel.core().clone();
    let counters = reporter.counters.clone();
    let reader = FileReader::new(
        core.clone(),
        channel.number(),
        counters,
        wanted_out,
        events_in.clone(),
        stopped.clone(),
    );
    let _pump = core.tasks().spawn("reader", reader.run());
    let (walked_in, walked) = mpsc::channel(8);
    let hash = options.checksum.then(|| core.pool().buffers().clone());
    let walk = Walk::new(sources.clone(), options.recursive, hash, walked_in);
    let _walk = core.tasks().spawn("walk", walk.run());
    let inline = Inline::new(options.checksum);
    let sender = Sender {
        channel,
        sources,
        options,
        reporter,
        offered: HashMap::new(),
        wanted,
        events,
        events_in,
        stopped,
        streaming: HashMap::new(),
        streams: Arc::new(Semaphore::new(STREAMS)),
        moved: Instant::now(),
        inline,
    };
    sender.run(walked).await
}

impl Sender {
    async fn run(mut self, mut walked: mpsc::Receiver<Vec<Walked>>) -> Result<(), NetError> {
        let core = self.channel.core().clone();
        let stall = STALL.saturating_add(self.options.wait.unwrap_or_default());
        let mut clock = tokio::time::interval(std::time::Duration::from_secs(5));
        let mut walking = true;
        loop {
            tokio::select! {
                // what has come counts before the news that the session is over
                biased;
                message = self.channel.receive() => match message {
                    Some(Body::Finished(_)) => return self.finished(walking),
                    Some(message) => self.message(message).await?,
                    None => return Err(core.down().await),
                },
                Some(events) = self.events.recv() => self.events(events).await?,
                batch = next_batch(&core, &mut walked), if walking && self.offered.len() < MAX_UNSETTLED / 2 => match batch {
                    Some(batch) => walking = self.offer(batch).await?,
                    // it has panicked, which its task is about to tell
                    None => return Err(core.down().await),
                },
                why = core.down() => return Err(why),
                _ = clock.tick() => {
                    if !core.is_attached() {
                        self.moved = Instant::now();
                    }
                    let waiting = core.send_queue.is_waiting(self.channel.number()) || self.waits_for_answers();
                    if waiting && self.moved.elapsed() > stall {
                        return Err(NetError::lost("the receiver has answered nothing for two minutes"));
                    }
                    continue;
                }
            }
            self.moved = Instant::now();
            core.progress();
        }
    }

    /// True when offers are unsettled and nothing but the receiver is in the way. A stream takes as long as it takes.
    fn waits_for_answers(&self) -> bool {
        !self.offered.is_empty() && self.streaming.is_empty()
    }

    fn finished(&self, walking: bool) -> Result<(), NetError> {
        if walking || !self.offered.is_empty() {
            return Err(NetError::Protocol(
                "it finished a transfer before all was settled".into(),
            ));
        }
        Ok(())
    }

    fn shown(&self, source: usize, path: &RemotePath) -> Vec<u8> {
        match self.sources.get(source) {
            Some(TransferSource {
                label,
                origin: Origin::Tree { path: top, .. },
                ..
            }) => {
                let rest = path.as_bytes().strip_prefix(top.as_bytes()).unwrap_or(path.as_bytes());
                shown(label, rest.strip_prefix(b"/").unwrap_or(rest))
            }
            Some(TransferSource { label, .. }) => label.clone(),
            None => path.as_bytes().to_vec(),
        }
    }

    /// Offers what the walk has found; false when that was all.
    async fn offer(&mut self, batch: Vec<Walked>) -> Result<bool, NetError> {
        let (mut offers, mut withdrawals) = (Vec::with_capacity(batch.len()), Vec::new());
        let mut more = true;
        for step in batch {
            match step {
                Walked::Entry { .. } => offers.extend(self.offer_entry(step).await),
                Walked::Stream { number, source } => {
                    Counters::add(&self.reporter.counters.files_found, 1);
                    self.reporter.counters.endless.store(true, Ordering::Relaxed);
                    let (path, offer) = (RemotePath::root(), offer_of_stream(number, source));
                    let cost = self.take_cost(&path, &offer);
                    self.offered.insert(number, Offered::new(source, path, None, cost));
                    offers.push(offer);
                }
                Walked::Close { number } => offers.push(proto::Offer {
                    number,
                    closes: true,
                    ..Default::default()
                }),
                Walked::End => more = false,
                Walked::Failed { source, path, error } => {
                    let path = self.shown(source, &path);
                    withdrawals.push(proto::Withdrawal {
                        number: 0,
                        code: u32::from(code_of(&error.kind).0),
                        text: error.describe(),
                        path: path.clone(),
                    });
                    self.reporter.failed(path, &error).await;
                }
            }
        }
        if !withdrawals.is_empty() {
            self.channel
                .send(Body::Withdrawals(proto::Withdrawals { withdrawals }))
                .await?;
        }
        if !offers.is_empty() {
            self.channel.send(Body::Offers(proto::Offers { offers })).await?;
        }
        if !more {
            self.reporter.counters.walked.store(true, Ordering::Relaxed);
            self.channel.send(Body::End(proto::EndOfOffers {})).await?;
        }
        Ok(more)
    }

    /// What an offer takes until it is settled.
    fn take_cost(&self, path: &RemotePath, offer: &proto::Offer) -> AllowancePermit {
        self.channel
            .core()
            .offered()
            .take(offer_cost(path.as_bytes().len(), offer))
    }

    /// The offer of an entry that was walked, with its content where there is room for that.
    async fn offer_entry(&mut self, step: Walked) -> Option<proto::Offer> {
        let Walked::Entry {
            number,
            parent,
            source,
            path,
            entry,
            hash,
            sized,
        } = step
        else {
            return None;
        };
        let content = match (sized, self.store_of(source)) {
            (false, _) => InlineContent::Unsized,
            (true, Some(store)) => self.inline.content(&*store, &path, &entry).await,
            (true, None) => InlineContent::Later,
        };
        let mut offer = offer_of(number, parent, source, &entry, hash);
        let is_dir = entry.kind == Kind::Dir;
        let (mut read, mut is_sized) = (None, true);
        match content {
            InlineContent::Here(bytes, digest) => {
                read = Some((digest, bytes.len() as u64));
                (offer.content, offer.digest) = (bytes, digest.to_vec());
            }
            InlineContent::Unsized => {
                self.reporter.counters.endless.store(true, Ordering::Relaxed);
                is_sized = false;
                offer = unsized_offer(offer);
            }
            InlineContent::Later => {}
        }
        let cost = self.take_cost(&path, &offer);
        let mut offered = Offered::new(source, path, Some(entry), cost);
        (offered.read, offered.sized) = (read, is_sized);
        if !is_dir {
            Counters::add(&self.reporter.counters.files_found, 1);
            Counters::add(&self.reporter.counters.bytes_found, offered.size());
        }
        self.offered.insert(number, offered);
        Some(offer)
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
        let unasked = || NetError::Protocol("it wants origin was not offered".into());
        let offered = self.offered.get_mut(&want.number).ok_or_else(unasked)?;
        if offered.wanted {
            return Err(unasked());
        }
        offered.wanted = true;
        // what is there already counts neither as sent nor as to be sent
        offered.resumed = want.offset;
        // and what was written of an earlier attempt is gone; all of its acks have come before this
        let gone = std::mem::take(&mut offered.written);
        self.reporter.counters.bytes_done.fetch_sub(gone, Ordering::Relaxed);
        let source = self.sources.get(offered.source).ok_or_else(unasked)?;
        match (&source.origin, &offered.entry) {
            (Origin::Tree { store, .. }, Some(entry)) if entry.kind == Kind::File && !offered.sized => {
                if want.offset > 0 {
                    return Err(unasked());
                }
                let (store, path) = (store.clone(), offered.path.clone());
                let open = async move { Input::file(&*store, &path).await };
                let attempt = offered.attempt;
                self.start_stream(want.number, attempt, open);
            }
            (Origin::Tree { store, .. }, Some(entry)) if entry.kind == Kind::File => {
                let from = from_where(&want, entry.size)?;
                let wanted = Wanted {
                    allocation: entry.attributes.allocation,
                    number: want.number,
                    attempt: offered.attempt,
                    store: store.clone(),
                    path: offered.path.clone(),
                    size: entry.size,
                    version: entry.version.clone(),
                    offset: want.offset,
                    root: from,
                };
                let _ = self.wanted.send(wanted);
                let (source, path, size) = (offered.source, offered.path.clone(), entry.size);
                let path = self.shown(source, &path);
                if is_large(size) {
                    self.reporter.begins(&path, want.offset);
                }
                self.tell_left(&want, path).await;
            }
            (Origin::Stream(stream), None) if want.offset == 0 => {
                let taken = stream.lock().take();
                let input = Input::Reader(taken.ok_or_else(unasked)?);
                self.start_stream(want.number, 0, async { Ok(input) });
            }
            _ => return Err(unasked()),
        }
        Ok(())
    }

    /// Tells the user what the receiver had of a file.
    async fn tell_left(&self, want: &proto::Want, path: Vec<u8>) {
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
        number: u64,
        attempt: u8,
        open: impl Future<Output = Result<Input, StoreError>> + Send + 'static,
    ) {
        let to = Outlet {
            core: self.channel.core().clone(),
            transfer: self.channel.number(),
            number,
            attempt,
        };
        let (counters, out) = (self.reporter.counters.clone(), self.events_in.clone());
        let streams = self.streams.clone();
        let tasks = self.channel.core().tasks();
        let task = tasks.spawn("stream", async move {
            // never closed
            let _turn = streams.acquire().await;
            let read = async { send_stream(&to, open.await?, &counters).await };
            let events = match read.await {
                Ok(read) => ReadEvent::Read { number, attempt, read },
                Err(e) => ReadEvent::of_error(number, attempt, e),
            };
            let _ = out.send(events);
        });
        self.streaming.insert(number, task);
    }

    fn acknowledged(&mut self, ack: &proto::Ack) {
        self.channel
            .core()
            .send_queue
            .acknowledge(self.channel.number(), ack.number, ack.offset);
        if let Some(offered) = self.offered.get_mut(&ack.number) {
            let most = match offered.sized {
                true => offered
                    .size()
                    .saturating_sub(offered.resumed)
                    .saturating_sub(offered.written),
                false => CHUNK_SIZE as u64,
            };
            let length = ack.length.min(most);
            offered.written = offered.written.saturating_add(length);
            self.reporter.counters.written(length);
            if !offered.sized {
                // how long a stream is is not known before it has come
                Counters::add(&self.reporter.counters.bytes_found, length);
            }
        }
    }

    async fn result(&mut self, result: proto::Result) -> Result<(), NetError> {
        let unasked = || NetError::Protocol("it settled origin was not offered".into());
        let mut offered = self.offered.remove(&result.number).ok_or_else(unasked)?;
        // whatever a stream still has is not wanted any more
        self.streaming.remove(&result.number);
        let is_dir = offered.entry.as_ref().is_some_and(|e| e.kind == Kind::Dir);
        if offered.wanted {
            // A result may overtake the pump's own word that it has read the file.
            while let Ok(events) = self.events.try_recv() {
                match events {
                    ReadEvent::Read { number, attempt, read }
                        if (number, attempt) == (result.number, offered.attempt) =>
                    {
                        offered.read = Some(read);
                    }
                    other => self.events(other).await?,
                }
            }
            if offered.read.is_none() {
                self.stopped.insert(result.number);
            }
            self.channel
                .core()
                .send_queue
                .forget_file(self.channel.number(), result.number);
        }
        let path = || self.shown(offered.source, &offered.path);
        let size = offered.size();
        let counters = &self.reporter.counters;
        match proto::Outcome::try_from(result.outcome) {
            Ok(proto::Outcome::Committed) if is_dir => counters.directory_done(true),
            Ok(proto::Outcome::Unchanged) if is_dir => counters.directory_done(false),
            Ok(proto::Outcome::Committed) => {
                // what came in one piece has not been acknowledged before
                let acknowledged = offered.resumed.saturating_add(offered.written);
                counters.written(size.saturating_sub(acknowledged));
                let large = is_large(size).then(&path);
                let event = || Event::Committed {
                    path: path(),
                    size,
                    hash: offered.read.map(|(hash, _)| hash),
                    version: result.version,
                };
                self.reporter.committed(size, large.as_deref(), event).await;
            }
            Ok(proto::Outcome::Unchanged) => {
                let event = || Event::Unchanged { path: path(), size };
                self.reporter.unchanged(size, event).await;
            }
            Ok(proto::Outcome::Failed) => {
                counters.gave_up(size, offered.resumed, offered.written);
                let path = path();
                let (code, text) = offered.withdrawn.unwrap_or_else(|| {
                    let text = format!("at the destination: {}", result.text);
                    (Code::from_wire(result.code), text)
                });
                self.reporter.report(Event::Failed { path, code, text }).await;
            }
            _ => return Err(NetError::Protocol("it settled an entry with an unknown outcome".into())),
        }
        Ok(())
    }

    async fn events(&mut self, events: ReadEvent) -> Result<(), NetError> {
        match events {
            ReadEvent::Read { number, attempt, .. }
            | ReadEvent::Failed(number, attempt, _)
            | ReadEvent::Changed(number, attempt)
                if !self.is_current(number, attempt) =>
            {
                Ok(())
            }
            ReadEvent::Read { number, read, .. } => {
                if let Some(offered) = self.offered.get_mut(&number) {
                    offered.read = Some(read);
                }
                Ok(())
            }
            ReadEvent::Failed(number, _, error) => self.withdraw(number, &error).await,
            ReadEvent::Changed(number, _) => self.changed(number).await,
        }
    }

    /// The file is not settled, and not begun anew since.
    fn is_current(&self, number: u64, attempt: u8) -> bool {
        let offered = self.offered.get(&number);
        offered.is_some_and(|offered| offered.attempt == attempt)
    }

    async fn withdraw(&mut self, number: u64, error: &StoreError) -> Result<(), NetError> {
        let (code, text) = (code_of(&error.kind), error.describe());
        let Some(offered) = self.offered.get_mut(&number) else {
            return Ok(());
        };
        offered.withdrawn = Some((code, text.clone()));
        self.stopped.insert(number);
        self.channel
            .core()
            .send_queue
            .forget_file(self.channel.number(), number);
        let path = offered.path.as_bytes().to_vec();
        let withdrawal = proto::Withdrawal {
            number,
            code: u32::from(code.0),
            text,
            path,
        };
        let withdrawals = vec![withdrawal];
        self.channel
            .send(Body::Withdrawals(proto::Withdrawals { withdrawals }))
            .await
    }

    /// The file is not what was offered any more: it is offered again as it is now, a few times.
    async fn changed(&mut self, number: u64) -> Result<(), NetError> {
        let Some(offered) = self.offered.get(&number) else {
            return Ok(());
        };
        let gave_up = StoreError::new(ErrorKind::SourceChanged, &offered.path);
        let (path, attempt) = (offered.path.clone(), offered.attempt.saturating_add(1));
        let Some(store) = self.store_of(offered.source) else {
            return Ok(());
        };
        if attempt > MAX_ATTEMPT {
            return self.withdraw(number, &gave_up).await;
        }
        let entry = match store.stat(&path).await {
            Ok(entry) if entry.kind == Kind::File => entry,
            Ok(_) => return self.withdraw(number, &gave_up).await,
            Err(e) => return self.withdraw(number, &e).await,
        };
        self.channel
            .core()
            .send_queue
            .forget_file(self.channel.number(), number);
        let Some(offered) = self.offered.get_mut(&number) else {
            return Ok(());
        };
        let counters = &self.reporter.counters;
        Counters::add(&counters.bytes_failed, offered.size().saturating_sub(offered.resumed));
        offered.resumed = 0;
        let mut offer = offer_of(number, 0, offered.source, &entry, None);
        // the file is what it was, and yet was not read as what it said: its size is not what it says
        offered.sized = offered
            .entry
            .as_ref()
            .is_some_and(|before| before.version != entry.version);
        if !offered.sized {
            counters.endless.store(true, Ordering::Relaxed);
            offer = unsized_offer(offer);
        }
        offered.entry = Some(entry);
        offered.attempt = attempt;
        offered.wanted = false;
        offered.read = None;
        if let Some(entry) = offered.entry.as_ref().filter(|_| offered.sized) {
            Counters::add(&counters.bytes_found, entry.size);
        }
        let changed = proto::Changed {
            offer: Some(offer),
            attempt: u32::from(attempt),
        };
        self.channel.send(Body::Changed(changed)).await
    }

    fn store_of(&self, source: usize) -> Option<Arc<dyn Store>> {
        match &self.sources.get(source)?.origin {
            Origin::Tree { store, .. } => Some(store.clone()),
            Origin::Stream(_) | Origin::Missing(_) => None,
        }
    }
}

/// The next batch of the walk, once the receiver has room for more offers. Cancel-safe.
async fn next_batch(core: &SessionCore, walked: &mut mpsc::Receiver<Vec<Walked>>) -> Option<Vec<Walked>> {
    core.offered().room().await;
    walked.recv().await
}

/// True of a file that comes in more than one piece, so that the beginning of it may be there.
fn is_large(size: u64) -> bool {
    size > CHUNK_SIZE as u64
}

/// The hash of a file so far, as the receiver has it, to go on with.
fn from_where(want: &proto::Want, size: u64) -> Result<RootHasher, NetError> {
    let bad = || NetError::Protocol("it wants a file from a place where no chunk begins".into());
    let digests = want.digests.iter().map(|d| Digest::try_from(d.as_slice()));
    let digests = digests.collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
    let chunk = CHUNK_SIZE as u64;
    if want.offset > 0 && (want.offset >= size || !want.offset.is_multiple_of(chunk)) {
        return Err(bad());
    }
    RootHasher::resume(want.offset / chunk, digests).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use crate::chunk::buffer::BufferPool;
    use crate::net::control::queue::ControlSender;
    use crate::net::session::SessionBounds;
    use crate::net::session::SessionCore;
    use crate::net::transfer::send::sender::*;
    use crate::store::local::LocalStore;

    /// What was read of an attempt before is forgotten when the file changes: else its hash would be
    /// reported, and a file that then fails would be read on to its end.
    #[tokio::test]
    async fn a_change_forgets_what_was_read_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = RemotePath::parse(b"f").unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"old").unwrap();
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(dir.path()).unwrap());
        let entry = store.stat(&path).await.unwrap();
        let (control, _queue) = ControlSender::channel(1 << 20);
        let core = SessionCore::new(control, SessionBounds::of_client(1 << 20, 1 << 20), BufferPool::new(1));
        let origin = Origin::Tree {
            store,
            path: path.clone(),
        };
        let (wanted, _wanted) = mpsc::unbounded_channel();
        let (events_in, events) = mpsc::unbounded_channel();
        let label = b"f".to_vec();
        let mut sender = Sender {
            channel: core.join(1).unwrap(),
            sources: Arc::new(vec![TransferSource {
                label,
                origin,
                place: None,
            }]),
            options: Options::default(),
            reporter: Reporter::silent(),
            offered: HashMap::from([(1, Offered::new(0, path, Some(entry), core.offered().take(0)))]),
            wanted,
            events,
            events_in,
            stopped: Cancelled::default(),
            streaming: HashMap::new(),
            streams: Arc::new(Semaphore::new(1)),
            moved: Instant::now(),
            inline: Inline::new(false),
        };
        let want = || proto::Want {
            number: 1,
            ..Default::default()
        };
        let read = |attempt| ReadEvent::Read {
            number: 1,
            attempt,
            read: ([attempt; 32], 3),
        };
        sender.want(want()).await.unwrap();
        sender.acknowledged(&proto::Ack {
            number: 1,
            offset: 0,
            length: 3,
        });
        sender.events(read(0)).await.unwrap();
        assert_eq!(sender.offered[&1].read, Some(([0; 32], 3)));
        std::fs::write(&file, b"newer").unwrap();
        sender.events(ReadEvent::Changed(1, 0)).await.unwrap();
        assert_eq!(sender.offered[&1].read, None);
        // the pump's word of the attempt before may come late
        sender.events(read(0)).await.unwrap();
        assert_eq!(sender.offered[&1].read, None);
        sender.want(want()).await.unwrap();
        let done = &sender.reporter.counters.bytes_done;
        assert_eq!(Counters::get(done), 0, "origin was written before is gone");
        let failed = proto::Result {
            number: 1,
            outcome: proto::Outcome::Failed.into(),
            ..Default::default()
        };
        sender.events_in.send(read(0)).unwrap();
        sender.result(failed).await.unwrap();
        assert!(sender.stopped.contains(1), "it is not read any more");
    }
}
