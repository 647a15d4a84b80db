//! Answers on their way to the sender, gathered while there is more to do.

use crate::net::error::NetError;
use crate::net::session::channel::TransferChannel;
use crate::net::transfer::MAX_BATCH;
use crate::net::wire::proto::{self, transfer_message::Body};

/// Bytes of a message with answers, and those of an answer besides its text.
const MESSAGE_BYTES: usize = 128 << 10;
const ENTRY_BYTES: usize = 128;

/// The answers of a receiver.
#[derive(Default)]
pub(super) struct Answers {
    wants: Vec<proto::Want>,
    acks: Vec<proto::Ack>,
    results: Vec<proto::Result>,
}

impl Answers {
    /// The content of a file is wanted.
    pub(super) fn want(&mut self, want: proto::Want) {
        self.wants.push(want);
    }

    /// All of a file is wanted.
    pub(super) fn want_all(&mut self, number: u64) {
        self.want(proto::Want {
            number,
            ..Default::default()
        });
    }

    /// A chunk is written.
    pub(super) fn ack(&mut self, ack: proto::Ack) {
        self.acks.push(ack);
    }

    /// An entry is settled.
    pub(super) fn result(&mut self, result: proto::Result) {
        self.results.push(result);
    }

    /// True when there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.wants.is_empty() && self.acks.is_empty() && self.results.is_empty()
    }

    /// True when there are enough to send.
    pub(super) fn is_large(&self) -> bool {
        self.wants.len() >= 4 * MAX_BATCH
            || self.acks.len() >= MAX_BATCH
            || self.results.len() >= MAX_BATCH
    }

    /// Sends all of them.
    ///
    /// # Errors
    /// Why the session is over.
    pub(super) async fn flush(&mut self, channel: &TransferChannel) -> Result<(), NetError> {
        let Answers {
            wants,
            acks,
            results,
        } = std::mem::take(self);
        // acks first: one for an attempt that is over must not come after the next attempt was
        // asked for
        for acks in messages(acks, |_| 0) {
            channel.send(Body::Acks(proto::Acks { acks })).await?;
        }
        for results in messages(results, |result| result.text.len()) {
            channel.send(Body::Results(proto::Results { results })).await?;
        }
        for wants in messages(wants, |want| want.digests.len().saturating_mul(ENTRY_BYTES)) {
            channel.send(Body::Wants(proto::Wants { wants })).await?;
        }
        Ok(())
    }
}

/// Cuts a list into messages that may be sent, by the entries' texts.
fn messages<T>(list: Vec<T>, text: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut all, mut bytes) = (Vec::new(), 0_usize);
    for entry in list {
        let size = text(&entry).saturating_add(ENTRY_BYTES);
        bytes = bytes.saturating_add(size);
        match all.last_mut() {
            Some(message) if bytes <= MESSAGE_BYTES => Vec::push(message, entry),
            _ => {
                bytes = size;
                all.push(vec![entry]);
            }
        }
    }
    all
}
