//! A transfer between two other machines, as it passes through this one: its messages and frames
//! say what becomes of each entry.
//!
//! It counts and reports what a sender here would.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::Digest;
use crate::chunk::window::{Allowance, SharedPermit};
use crate::net::error::NetError;
use crate::net::transfer::MAX_UNSETTLED;
use crate::net::transfer::cost::offer_cost;
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::metadata::omissions_from_wire;
use crate::net::transfer::mode::ModeRules;
use crate::net::transfer::passed::Passed;
use crate::net::transfer::report::{Counters, Event, Reporter, shown};
use crate::net::wire::frame::{FrameHeader, FrameKind};
use crate::net::wire::{Code, entry, proto};
use crate::store::Kind;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// An entry that was offered, and has no result yet.
struct Observed {
    /// What the user calls it.
    path: Vec<u8>,
    is_dir: bool,
    /// Of a stream: what has been written, until its end was seen.
    size: u64,
    is_stream: bool,
    attempt: u8,
    /// The receiver wants its content.
    is_wanted: bool,
    hash: Option<Digest>,
    /// Bytes that the receiver had, and those that it has written since.
    resumed: u64,
    written: u64,
    /// Which of its frames have passed.
    passed: Passed,
    /// Why the sender has withdrawn it.
    withdrawn: Option<(Code, String)>,
    /// What it takes of the memory for offers.
    _cost: SharedPermit,
}

/// What the user calls the entries of a transfer.
pub struct Names {
    /// Each source.
    pub sources: Vec<Vec<u8>>,
    /// What stands before a path on the sender's machine.
    pub prefix: Vec<u8>,
}

/// The transfer as far as it has passed.
pub struct Observer {
    names: Names,
    /// Changes of modes, which the sender does not know of.
    chmod: ModeRules,
    reporter: Reporter,
    /// The memory for unsettled offers.
    accepted: Allowance,
    unsettled: HashMap<u64, Observed>,
    last_number: u64,
    all_offered: bool,
}

fn broken(what: &str) -> NetError {
    NetError::Protocol(what.into())
}

fn is_large(size: u64) -> bool {
    size > CHUNK_SIZE as u64
}

impl Observer {
    /// Nothing has passed yet.
    pub fn new(
        names: Names,
        chmod: ModeRules,
        reporter: Reporter,
        accepted: Allowance,
    ) -> Observer {
        Observer {
            names,
            chmod,
            reporter,
            accepted,
            unsettled: HashMap::new(),
            last_number: 0,
            all_offered: false,
        }
    }

    /// Offers pass, with the modes that the user wants.
    ///
    /// # Errors
    /// [`NetError::Protocol`] for offers that no receiver would take.
    pub fn offers(&mut self, offers: &mut proto::Offers) -> Result<(), NetError> {
        for offer in offers.offers.iter_mut().filter(|offer| !offer.closes) {
            if offer.number <= self.last_number || self.all_offered {
                return Err(broken("its offers are out of order"));
            }
            self.last_number = offer.number;
            let observed = self.observe(offer)?;
            offer.mode = self.chmod.apply(offer.mode, observed.is_dir);
            if !observed.is_dir {
                let counters = &self.reporter.counters;
                Counters::add(&counters.files_found, 1);
                Counters::add(&counters.bytes_found, offer.size);
                counters.endless.fetch_or(offer.stream, Ordering::Relaxed);
            }
            self.unsettled.insert(offer.number, observed);
        }
        match self.unsettled.len() > MAX_UNSETTLED {
            true => Err(broken("it offers more at once than is allowed")),
            false => Ok(()),
        }
    }

    fn observe(&self, offer: &proto::Offer) -> Result<Observed, NetError> {
        let path = match offer.parent {
            0 => {
                let source = usize::try_from(offer.source).ok();
                source.and_then(|index| self.names.sources.get(index)).cloned()
            }
            parent => {
                let dir = self.unsettled.get(&parent).filter(|dir| dir.is_dir);
                dir.map(|dir| shown(&dir.path, &offer.name))
            }
        };
        let path = path.ok_or_else(|| broken("it offers what is in no directory"))?;
        let cost = self.accepted.try_take(offer_cost(path.len(), offer));
        Ok(Observed {
            path,
            is_dir: entry::kind_from_wire(offer.kind) == Kind::Dir,
            size: if offer.stream { 0 } else { offer.size },
            is_stream: offer.stream,
            attempt: 0,
            is_wanted: false,
            hash: offer.digest.as_slice().try_into().ok(),
            resumed: 0,
            written: 0,
            passed: Passed::default(),
            withdrawn: None,
            _cost: cost.map_err(|_| broken("it offers more at once than the window allows"))?,
        })
    }

    /// The sender has offered everything.
    pub fn all_offered(&mut self) {
        self.all_offered = true;
        self.reporter.counters.walked.store(true, Ordering::Relaxed);
    }

    /// Withdrawals pass.
    pub async fn withdrawals(&mut self, withdrawals: &proto::Withdrawals) {
        for withdrawal in &withdrawals.withdrawals {
            let (code, text) = (Code::from_wire(withdrawal.code), withdrawal.text.clone());
            if withdrawal.number == 0 {
                let path = [self.names.prefix.as_slice(), &withdrawal.path].concat();
                self.reporter.report(Event::Failed { path, code, text }).await;
            } else if let Some(observed) = self.unsettled.get_mut(&withdrawal.number) {
                observed.withdrawn = Some((code, text));
            }
        }
    }

    /// Entries that the sender does not send.
    pub async fn exclusions(&mut self, exclusions: &proto::Exclusions) {
        for exclusion in &exclusions.exclusions {
            let path = [self.names.prefix.as_slice(), &exclusion.path].concat();
            let why = Exclusion::from_wire(exclusion.clone());
            self.reporter.report(Event::Excluded { path, why }).await;
        }
    }

    /// A changed offer passes, with the mode that the user wants. Returns its number: frames of the
    /// attempt before count no more.
    ///
    /// # Errors
    /// [`NetError::Protocol`] for a change without an offer.
    pub fn changed(&mut self, changed: &mut proto::Changed) -> Result<u64, NetError> {
        let attempt = u8::try_from(changed.attempt);
        let (Some(offer), Ok(attempt)) = (&mut changed.offer, attempt) else {
            return Err(broken("a change without an offer"));
        };
        offer.mode = self.chmod.apply(offer.mode, false);
        if let Some(observed) = self.unsettled.get_mut(&offer.number) {
            let counters = &self.reporter.counters;
            let resumed = std::mem::take(&mut observed.resumed);
            Counters::add(&counters.bytes_failed, observed.size.saturating_sub(resumed));
            Counters::add(&counters.bytes_found, offer.size);
            counters.endless.fetch_or(offer.stream, Ordering::Relaxed);
            (observed.attempt, observed.is_wanted) = (attempt, false);
            (observed.is_stream, observed.hash) = (offer.stream, None);
            observed.size = if offer.stream { 0 } else { offer.size };
        }
        Ok(offer.number)
    }

    /// A frame is about to pass. Returns false for one that the receiver does not wait for, or has
    /// got already.
    pub fn frame(&mut self, header: &FrameHeader) -> bool {
        let observed = self.unsettled.get_mut(&header.number);
        let Some(observed) = observed.filter(|it| it.is_wanted && it.attempt == header.attempt)
        else {
            return false;
        };
        if !observed.passed.first(header) {
            return false;
        }
        match header.kind {
            FrameKind::File => observed.hash = Some(header.digest),
            FrameKind::End => {
                observed.hash = Some(header.digest);
                if observed.is_stream {
                    observed.size = header.offset;
                }
            }
            _ => {}
        }
        true
    }

    /// Wants pass.
    pub async fn wants(&mut self, wants: &proto::Wants) {
        for want in &wants.wants {
            let Some(observed) = self.unsettled.get_mut(&want.number) else {
                continue;
            };
            let counters = &self.reporter.counters;
            // what was written of an earlier attempt is gone
            let gone = std::mem::take(&mut observed.written);
            counters.bytes_done.fetch_sub(gone, Ordering::Relaxed);
            (observed.is_wanted, observed.resumed) = (true, want.offset);
            observed.passed = Passed::from(want.offset);
            counters.started(&observed.path);
            if is_large(observed.size) {
                self.reporter.begins(&observed.path, want.offset);
            }
            let (path, offset, discarded) = (&observed.path, want.offset, want.discarded);
            if offset > 0 {
                let path = path.clone();
                self.reporter.report(Event::Resumed { path, offset }).await;
            } else if discarded > 0 {
                let path = path.clone();
                self.reporter.report(Event::Restarted { path, discarded }).await;
            }
        }
    }

    /// An ack passes.
    pub fn acknowledged(&mut self, ack: &proto::Ack) {
        if let Some(observed) = self.unsettled.get_mut(&ack.number) {
            let there = observed.resumed.saturating_add(observed.written);
            let most = match observed.is_stream {
                true => CHUNK_SIZE as u64,
                false => observed.size.saturating_sub(there),
            };
            let length = ack.length.min(most);
            observed.written = observed.written.saturating_add(length);
            self.reporter.counters.written(length);
        }
    }

    /// A result passes.
    ///
    /// # Errors
    /// [`NetError::Protocol`] for one of nothing that was offered.
    pub async fn result(&mut self, result: &proto::Result) -> Result<(), NetError> {
        let observed = self.unsettled.remove(&result.number);
        let observed = observed.ok_or_else(|| broken("it settled what was not offered"))?;
        let size = observed.size.max(observed.written);
        let (reporter, path) = (&self.reporter, observed.path.clone());
        let counters = &reporter.counters;
        match proto::Outcome::try_from(result.outcome) {
            Ok(proto::Outcome::Committed) if observed.is_dir => counters.directory_done(true),
            Ok(proto::Outcome::Unchanged) if observed.is_dir => counters.directory_done(false),
            Ok(proto::Outcome::Committed) => self.committed(observed, result).await,
            Ok(proto::Outcome::Unchanged) => {
                let difference = result.difference();
                let event = || Event::Unchanged {
                    path,
                    size,
                    difference,
                };
                reporter.unchanged(size, event).await;
            }
            Ok(proto::Outcome::Skipped) => {
                reporter.skipped(size, || Event::Skipped { path, size }).await;
            }
            Ok(proto::Outcome::Deferred) => reporter.deferred(size),
            Ok(proto::Outcome::Planned) => reporter.planned(path, size, result.difference()).await,
            Ok(proto::Outcome::Failed) => {
                counters.gave_up(size, observed.resumed, observed.written);
                let (code, text) = observed.withdrawn.unwrap_or_else(|| {
                    let text = format!("at the destination: {}", result.text);
                    (Code::from_wire(result.code), text)
                });
                reporter.report(Event::Failed { path, code, text }).await;
            }
            _ => return Err(broken("it settled an entry with an unknown outcome")),
        }
        Ok(())
    }

    async fn committed(&self, observed: Observed, result: &proto::Result) {
        let counters = &self.reporter.counters;
        // a file that the receiver did not ask for is another name of one that is there
        let is_link = !observed.is_wanted && observed.hash.is_none();
        let size = match is_link {
            true => 0,
            false => observed.size.max(observed.written),
        };
        if is_link {
            Counters::add(&counters.bytes_unchanged, observed.size);
        }
        // what came in one piece has not been acknowledged before
        let acknowledged = observed.resumed.saturating_add(observed.written);
        counters.written(size.saturating_sub(acknowledged));
        let large = is_large(size).then(|| observed.path.clone());
        let event = || Event::Committed {
            path: observed.path,
            size,
            hash: observed.hash,
            version: result.version.clone(),
            difference: result.difference(),
        };
        self.reporter.committed(size, large.as_deref(), event).await;
    }

    /// The receiver has finished.
    ///
    /// # Errors
    /// [`NetError::Protocol`] if not everything was settled.
    pub fn finished(&self, finished: &proto::Finished) -> Result<(), NetError> {
        if !self.all_offered || !self.unsettled.is_empty() {
            return Err(broken("it finished a transfer before all was settled"));
        }
        if let Some(omissions) = finished.omissions.clone() {
            self.reporter.counters.omitted(&omissions_from_wire(omissions));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
