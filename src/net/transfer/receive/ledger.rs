//! The offers that a receiver has not settled: each is answered with one result, counted, and
//! reported.

use crate::chunk::window::SharedPermit;
use crate::net::error::code_of;
use crate::net::transfer::options::OnSettled;
use crate::net::transfer::receive::answers::Answers;
use crate::net::transfer::receive::destination::{Candidate, Difference};
use crate::net::transfer::receive::dirs::{Dirs, Place};
use crate::net::transfer::receive::event::FileEvent;
use crate::net::transfer::report::{Counters, Event, Reporter, shown};
use crate::net::wire::entry::kind_from_wire;
use crate::net::wire::{Code, proto};
use crate::store::{Checkpoint, RemotePath, Removal, StoreError, Time};
use std::collections::HashMap;

/// An unsettled file or symlink.
struct Unsettled {
    /// The directory that it is in.
    parent: u64,
    /// What the user calls it; empty if that is not reported.
    path: Vec<u8>,
    size: u64,
    /// What it takes of the window's part for offers.
    _cost: SharedPermit,
    /// What its last change takes of the same.
    _change: Option<SharedPermit>,
    /// Bytes that were there before.
    resumed: u64,
    /// Bytes that were reported as written.
    written: u64,
    /// Why it is wanted, as the sender may know it.
    difference: Difference,
    /// The entry of a source that it is, if the client wants to know.
    of: Option<Box<(usize, Removal)>>,
}

/// The unsettled offers of a transfer.
pub(super) struct Ledger {
    /// What the user calls the destination.
    label: Vec<u8>,
    pub(super) dirs: Dirs,
    /// Files and symlinks, by the numbers of their offers.
    unsettled: HashMap<u64, Unsettled>,
    /// Further names of unsettled files, by the numbers of those.
    further_names: HashMap<u64, Vec<Candidate>>,
    /// Further names of files that were settled meanwhile.
    ready: Vec<Candidate>,
    pub(super) reporter: Reporter,
    pub(super) answers: Answers,
    /// A sender that may not know what is there gets one answer.
    hides_what_exists: bool,
    on_settled: Option<OnSettled>,
}

impl Ledger {
    /// `on_settled` is the client's.
    pub(super) fn new(
        label: Vec<u8>,
        reporter: Reporter,
        hides_what_exists: bool,
        on_settled: Option<OnSettled>,
    ) -> Ledger {
        Ledger {
            label,
            dirs: Dirs::new(!reporter.is_silent()),
            unsettled: HashMap::new(),
            further_names: HashMap::new(),
            ready: Vec::new(),
            reporter,
            answers: Answers::default(),
            hides_what_exists,
            on_settled,
        }
    }

    /// Unsettled entries.
    pub(super) fn len(&self) -> usize {
        self.unsettled.len().saturating_add(self.dirs.len())
    }

    /// True when everything that was offered is settled.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.dirs.is_empty()
    }

    /// It is wanted, because of this difference. A sender that may not know what is there does not
    /// learn it.
    pub(super) fn wanted(&mut self, number: u64, difference: Difference) {
        if let Some(unsettled) = self.unsettled.get_mut(&number)
            && !self.hides_what_exists
        {
            unsettled.difference = difference;
        }
    }

    /// True while this file or symlink is not settled.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.unsettled.contains_key(&number)
    }

    /// A further name of an unsettled file waits until that is settled.
    pub(super) fn wait_for(&mut self, number: u64, candidate: Candidate) {
        self.further_names.entry(number).or_default().push(candidate);
    }

    /// Takes out the further names of files that were settled since the last call.
    pub(super) fn take_ready(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.ready)
    }

    /// Adds a file or symlink; `of` is its source and its path there, if the client wants to know.
    pub(super) fn add(
        &mut self,
        offer: &proto::Offer,
        of: Option<(usize, RemotePath)>,
        place: &Place,
        cost: SharedPermit,
    ) {
        let path = match self.reporter.is_silent() {
            true => Vec::new(),
            false => self.shown(place.shown()),
        };
        let unsettled = Unsettled {
            parent: offer.parent,
            path,
            size: offer.size,
            _cost: cost,
            _change: None,
            resumed: 0,
            written: 0,
            difference: Difference::Unspecified,
            of: of.map(|(source, path)| {
                let entry = Removal {
                    path,
                    kind: kind_from_wire(offer.kind),
                    size: offer.size,
                    mtime: mtime_of(offer),
                };
                Box::new((source, entry))
            }),
        };
        let before = self.unsettled.insert(offer.number, unsettled);
        debug_assert!(before.is_none(), "the numbers of offers count up");
    }

    /// What the user calls an entry of the target.
    fn shown(&self, path: &[u8]) -> Vec<u8> {
        shown(&self.label, path)
    }

    /// A file restarts, with this size.
    pub(super) fn restarted(&mut self, offer: &proto::Offer, cost: SharedPermit) {
        if let Some(unsettled) = self.unsettled.get_mut(&offer.number) {
            if let Some((_, entry)) = unsettled.of.as_deref_mut() {
                (entry.size, entry.mtime) = (offer.size, mtime_of(offer));
            }
            let counters = &self.reporter.counters;
            counters.gave_up(unsettled.size, unsettled.resumed, unsettled.written);
            (unsettled.size, unsettled.resumed, unsettled.written) = (offer.size, 0, 0);
            unsettled._change = Some(cost);
        }
    }

    /// Fails an offer. A directory is only reported: it is settled when it is closed, like any
    /// other.
    pub(super) async fn refuse(&mut self, number: u64, error: StoreError) {
        match self.dirs.fail(number, &error) {
            Some(path) => self.reporter.failed(self.shown(&path), &error).await,
            None => self.settle_failed(number, code_of(&error.kind), error.describe()).await,
        }
    }

    /// Something became known of a wanted file.
    pub(super) async fn file_event(&mut self, event: FileEvent) {
        match event {
            FileEvent::Want {
                number,
                from,
                discarded,
            } => self.want(number, from, discarded).await,
            FileEvent::Written {
                number,
                offset,
                length,
            } => {
                self.reporter.counters.written(length);
                if let Some(unsettled) = self.unsettled.get_mut(&number) {
                    unsettled.written = unsettled.written.saturating_add(length);
                }
                self.answers.ack(proto::Ack {
                    number,
                    offset,
                    length,
                });
            }
            FileEvent::Committed { .. } => self.settle_committed(event).await,
            FileEvent::Failed { number, code, text } => {
                self.settle_failed(number, code, text).await
            }
        }
    }

    /// The content of a staged file is wanted, from where an earlier writer ended.
    async fn want(&mut self, number: u64, from: Checkpoint, discarded: u64) {
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
        self.answers.want(proto::Want {
            number,
            offset,
            digests: from.digests.iter().map(|d| d.to_vec()).collect(),
            discarded,
        });
    }

    async fn settle_committed(&mut self, event: FileEvent) {
        let FileEvent::Committed {
            number,
            hash,
            size,
            version,
            batched,
        } = event
        else {
            return;
        };
        let unsettled = self.unsettled.get(&number);
        let difference = unsettled.map_or(Difference::Unspecified, |file| file.difference);
        let committed = proto::Result {
            version: version.clone(),
            difference: difference.into(),
            ..result(number, proto::Outcome::Committed)
        };
        let Some(unsettled) = self.settle(committed) else {
            return;
        };
        if batched {
            let counters = &self.reporter.counters;
            counters.written(size);
            // another name of a file has no content of its own
            Counters::add(&counters.bytes_unchanged, unsettled.size.saturating_sub(size));
        }
        let staged = (!batched).then(|| unsettled.path.clone());
        let event = || Event::Committed {
            path: unsettled.path,
            size,
            hash,
            version,
            difference,
        };
        self.reporter.committed(size, staged.as_deref(), event).await;
    }

    /// Answers an offer of a file or symlink, which is settled by that. `None` if it was before.
    fn settle(&mut self, result: proto::Result) -> Option<Unsettled> {
        let mut unsettled = self.unsettled.remove(&result.number)?;
        let is_there =
            matches!(result.outcome(), proto::Outcome::Committed | proto::Outcome::Unchanged);
        if let (Some(OnSettled(tell)), Some(of), true) =
            (&self.on_settled, unsettled.of.take(), is_there)
        {
            tell(of.0, of.1);
        }
        self.ready
            .extend(self.further_names.remove(&result.number).into_iter().flatten());
        self.answers.result(result);
        self.dirs.settled(unsettled.parent);
        Some(unsettled)
    }

    /// A file or symlink was there already.
    pub(super) async fn settle_unchanged(&mut self, number: u64, difference: Difference) {
        let known = match self.hides_what_exists {
            true => Difference::Unspecified,
            false => difference,
        };
        let unchanged = proto::Result {
            difference: known.into(),
            ..result(number, proto::Outcome::Unchanged)
        };
        let Some(unsettled) = self.settle(unchanged) else {
            return;
        };
        let (path, size) = (unsettled.path, unsettled.size);
        let event = || Event::Unchanged {
            path,
            size,
            difference,
        };
        self.reporter.unchanged(size, event).await;
    }

    /// Another file or symlink is there, and stays.
    pub(super) async fn settle_skipped(&mut self, number: u64) {
        let Some(unsettled) = self.settle(result(number, proto::Outcome::Skipped)) else {
            return;
        };
        let (path, size) = (unsettled.path, unsettled.size);
        self.reporter.skipped(size, || Event::Skipped { path, size }).await;
    }

    /// A directory is in the place of a file or symlink.
    pub(super) fn settle_deferred(&mut self, number: u64) {
        if let Some(unsettled) = self.settle(result(number, proto::Outcome::Deferred)) {
            self.reporter.deferred(unsettled.size);
        }
    }

    /// A file or symlink would be sent.
    pub(super) async fn settle_planned(&mut self, number: u64, difference: Difference) {
        let planned = proto::Result {
            difference: difference.into(),
            ..result(number, proto::Outcome::Planned)
        };
        if let Some(unsettled) = self.settle(planned) {
            self.reporter.planned(unsettled.path, unsettled.size, difference).await;
        }
    }

    /// A file or symlink has failed.
    pub(super) async fn settle_failed(&mut self, number: u64, code: Code, text: String) {
        let failed = proto::Result {
            code: u32::from(code.0),
            text: text.clone(),
            ..result(number, proto::Outcome::Failed)
        };
        let Some(unsettled) = self.settle(failed) else {
            return;
        };
        let counters = &self.reporter.counters;
        counters.gave_up(unsettled.size, unsettled.resumed, unsettled.written);
        let path = unsettled.path;
        self.reporter.report(Event::Failed { path, code, text }).await;
    }

    /// A directory is complete, or failed.
    pub(super) async fn settle_dir(&mut self, number: u64, result: Result<(), StoreError>) {
        let Some((parent, place, made)) = self.dirs.remove(number) else {
            return;
        };
        let mut answer = proto::Result {
            number,
            outcome: match made || self.hides_what_exists {
                true => proto::Outcome::Committed.into(),
                false => proto::Outcome::Unchanged.into(),
            },
            ..Default::default()
        };
        match result {
            Ok(()) => self.reporter.counters.directory_done(made),
            Err(error) => {
                answer.outcome = proto::Outcome::Failed.into();
                answer.code = u32::from(code_of(&error.kind).0);
                answer.text = error.describe();
                // one that could not be made has been reported when that was known
                if let Place::At(path) = place {
                    self.reporter.failed(self.shown(path.as_bytes()), &error).await;
                }
            }
        }
        self.answers.result(answer);
        self.dirs.settled(parent);
    }
}

fn mtime_of(offer: &proto::Offer) -> Time {
    Time {
        secs: offer.mtime,
        nanos: offer.mtime_nanos,
    }
}

/// A result of this outcome, without more.
fn result(number: u64, outcome: proto::Outcome) -> proto::Result {
    proto::Result {
        number,
        outcome: outcome.into(),
        ..Default::default()
    }
}
