//! What the sender learns of its offers: what is written, and how each one ended.

use crate::chunk::CHUNK_SIZE;
use crate::net::error::NetError;
use crate::net::transfer::report::Event;
use crate::net::transfer::send::sender::Sender;
use crate::net::transfer::send::source::shown_in;
use crate::net::transfer::send::state::{Phase, SendFile, is_large};
use crate::net::wire::Code;
use crate::net::wire::proto;

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
            Ok(proto::Outcome::Committed) => self.committed(file, result.version).await,
            Ok(proto::Outcome::Unchanged) => {
                let size = file.size();
                let path = || shown_in(&self.sources, file.source, &file.path);
                let event = || Event::Unchanged { path: path(), size };
                self.reporter.unchanged(size, event).await;
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

    async fn committed(&self, file: Box<SendFile>, version: String) {
        let (size, hash) = (file.size(), file.hash());
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
}
