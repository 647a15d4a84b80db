//! What becomes of offers: what is written, how each one ended, and those that are withdrawn or
//! offered again because their files have changed.

use crate::chunk::CHUNK_SIZE;
use crate::net::error::{NetError, code_of};
use crate::net::transfer::options::OnSettled;
use crate::net::transfer::report::{Counters, Event};
use crate::net::transfer::send::details::details;
use crate::net::transfer::send::offer::{offer_of, unsized_offer};
use crate::net::transfer::send::sender::Sender;
use crate::net::transfer::send::source::{shown_in, store_of};
use crate::net::transfer::send::state::{Phase, SendFile, is_large};
use crate::net::wire::Code;
use crate::net::wire::proto::{self, transfer_message::Body};
use crate::store::{ErrorKind, Kind, RemotePath, Removal, StoreError, StoreExt};
use std::sync::atomic::Ordering;

/// How often a file is restarted because it changed while it was read.
const MAX_ATTEMPT: u8 = 3;

impl Sender {
    /// A chunk is written.
    pub(super) fn acknowledged(&mut self, ack: &proto::Ack) {
        let send_queue = &self.channel.core().send_queue;
        send_queue.acknowledge(self.channel.number(), ack.number, ack.offset);
        if let Some(file) = self.state.get_mut(ack.number) {
            let most = match file.sized {
                true => file.size().saturating_sub(file.resumed).saturating_sub(file.written),
                false => CHUNK_SIZE as u64,
            };
            let length = ack.length.min(most);
            file.written = file.written.saturating_add(length);
            self.reporter.counters.written(length);
        }
    }

    /// An offer has ended.
    pub(super) async fn result(&mut self, result: proto::Result) -> Result<(), NetError> {
        let unasked = || NetError::Protocol("it settled what was not offered".into());
        let file = self.state.settle(result.number).ok_or_else(unasked)?;
        // whatever a stream still has is not wanted any more
        self.streaming.remove(&result.number);
        if !file.may_be_wanted() {
            self.forget_frames(result.number);
        }
        let counters = &self.reporter.counters;
        match proto::Outcome::try_from(result.outcome) {
            Ok(proto::Outcome::Committed) if file.is_dir() => counters.directory_done(true),
            Ok(proto::Outcome::Unchanged) if file.is_dir() => counters.directory_done(false),
            Ok(proto::Outcome::Committed) => {
                self.tell_settled(&file);
                self.committed(file, result).await;
            }
            Ok(proto::Outcome::Unchanged) => {
                self.tell_settled(&file);
                let size = file.size();
                let path = || shown_in(&self.sources, file.source, &file.path);
                let difference = result.difference();
                let event = || Event::Unchanged {
                    path: path(),
                    size,
                    difference,
                };
                self.reporter.unchanged(size, event).await;
            }
            Ok(proto::Outcome::Skipped) => {
                let size = file.size();
                let path = || shown_in(&self.sources, file.source, &file.path);
                let event = || Event::Skipped { path: path(), size };
                self.reporter.skipped(size, event).await;
            }
            Ok(proto::Outcome::Deferred) => self.reporter.deferred(file.size()),
            Ok(proto::Outcome::Planned) => {
                let path = shown_in(&self.sources, file.source, &file.path);
                self.reporter.planned(path, file.size(), result.difference()).await;
            }
            Ok(proto::Outcome::Failed) => self.failed(file, result.code, &result.text).await,
            _ => {
                return Err(NetError::Protocol(
                    "it settled an entry with an unknown outcome".into(),
                ));
            }
        }
        Ok(())
    }

    /// Tells the client that an entry is at the destination, as it is at the source.
    fn tell_settled(&self, file: &SendFile) {
        let (Some(OnSettled(tell)), Some(entry)) = (&self.options.on_settled, &file.entry) else {
            return;
        };
        let beneath = self.sources.get(file.source).map(|source| source.beneath(&file.path));
        if let Some(Ok(path)) = beneath.map(RemotePath::parse) {
            tell(
                file.source,
                Removal {
                    path,
                    kind: entry.kind,
                    size: entry.size,
                    mtime: entry.attributes.mtime,
                },
            );
        }
    }

    async fn committed(&self, file: Box<SendFile>, result: proto::Result) {
        let (difference, version) = (result.difference(), result.version);
        // a file that the receiver did not ask for is another name of one that is there
        let is_link = matches!(file.phase, Phase::Offered);
        let (size, hash) = (if is_link { 0 } else { file.size() }, file.hash());
        if is_link {
            Counters::add(&self.reporter.counters.bytes_unchanged, file.size());
        }
        // what came in one piece has not been acknowledged before
        let acknowledged = file.resumed.saturating_add(file.written);
        self.reporter.counters.written(size.saturating_sub(acknowledged));
        let path = || shown_in(&self.sources, file.source, &file.path);
        let large = is_large(size).then(&path);
        let event = || Event::Committed {
            path: path(),
            size,
            hash,
            version,
            difference,
        };
        self.reporter.committed(size, large.as_deref(), event).await;
    }

    async fn failed(&self, file: Box<SendFile>, code: u32, text: &str) {
        let counters = &self.reporter.counters;
        counters.gave_up(file.size(), file.resumed, file.written);
        let path = shown_in(&self.sources, file.source, &file.path);
        let (code, text) = match file.phase {
            Phase::Withdrawn(code, text) => (code, text),
            _ => (Code::from_wire(code), format!("at the destination: {text}")),
        };
        self.reporter.report(Event::Failed { path, code, text }).await;
    }

    /// Nothing more of this file is to be sent.
    pub(super) fn forget_frames(&self, number: u64) {
        let send_queue = &self.channel.core().send_queue;
        send_queue.forget_file(self.channel.number(), number);
    }

    pub(super) async fn withdraw(
        &mut self,
        number: u64,
        error: &StoreError,
    ) -> Result<(), NetError> {
        let (code, text) = (code_of(&error.kind), error.describe());
        let Some(file) = self.state.get_mut(number) else {
            return Ok(());
        };
        file.phase = Phase::Withdrawn(code, text.clone());
        let path = file.path.as_bytes().to_vec();
        self.forget_frames(number);
        let withdrawal = proto::Withdrawal {
            number,
            code: u32::from(code.0),
            text,
            path,
        };
        let withdrawals = vec![withdrawal];
        let message = Body::Withdrawals(proto::Withdrawals { withdrawals });
        self.channel.send(message).await
    }

    /// The file is not what was offered any more: it is offered again as it is now, a few times.
    pub(super) async fn changed(&mut self, number: u64) -> Result<(), NetError> {
        let Some(file) = self.state.get(number) else {
            return Ok(());
        };
        let (path, attempt) = (file.path.clone(), file.attempt.saturating_add(1));
        let gave_up = StoreError::new(ErrorKind::SourceChanged, &path);
        let Some(store) = store_of(&self.sources, file.source) else {
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
        let metadata = &self.options.metadata;
        let details = match details(&*store, &path, metadata).await {
            Ok(details) => details,
            Err(e) => return self.withdraw(number, &e).await,
        };
        self.forget_frames(number);
        let counters = &self.reporter.counters;
        let Some(file) = self.state.get_mut(number) else {
            return Ok(());
        };
        Counters::add(&counters.bytes_failed, file.size().saturating_sub(file.resumed));
        let mut offer = offer_of(number, 0, file.source, &entry, None);
        offer.mode = self.options.chmod.apply(offer.mode, false);
        metadata.describe(&mut offer, &entry, details);
        // a file that is what it was, and yet was not read as what it said, has another size than
        // it says
        file.sized = file.entry.as_ref().is_some_and(|before| before.version != entry.version);
        if file.sized {
            Counters::add(&counters.bytes_found, entry.size);
        } else {
            counters.endless.store(true, Ordering::Relaxed);
            offer = unsized_offer(offer);
        }
        (file.entry, file.attempt, file.resumed) = (Some(entry), attempt, 0);
        file.phase = Phase::Offered;
        let changed = proto::Changed {
            offer: Some(Box::new(offer)),
            attempt: u32::from(attempt),
        };
        self.channel.send(Body::Changed(changed)).await
    }
}
