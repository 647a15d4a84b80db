//! Reports of a transfer that the other side carries out alone: its counters and its events, as
//! they travel.

use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::metadata::omissions_from_wire;
use crate::net::transfer::report::{Counters, Event, Reporter};
use crate::net::wire::Code;
use crate::net::wire::proto::{self, CopyEventKind as Kind};
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of a transfer that is carried out here.
pub fn counts_to_wire(counters: &Counters) -> proto::CopyCounts {
    let get = Counters::get;
    proto::CopyCounts {
        files_found: get(&counters.files_found),
        bytes_found: get(&counters.bytes_found),
        walked: counters.walked.load(Ordering::Relaxed),
        endless: counters.endless.load(Ordering::Relaxed),
        files_done: get(&counters.files_done),
        bytes_done: get(&counters.bytes_done),
        bytes_moved: get(&counters.bytes_moved),
        bytes_committed: get(&counters.bytes_committed),
        unchanged: get(&counters.unchanged),
        skipped: get(&counters.skipped),
        bytes_unchanged: get(&counters.bytes_unchanged),
        planned: get(&counters.planned),
        bytes_planned: get(&counters.bytes_planned),
        bytes_resumed: get(&counters.bytes_resumed),
        dirs_done: get(&counters.dirs_done),
        dirs_made: get(&counters.dirs_made),
        failed: get(&counters.failed),
        deferred: get(&counters.deferred),
        bytes_failed: get(&counters.bytes_failed),
    }
}

/// An event of it. `None` for those that only this side reports.
pub fn event_to_wire(event: Event) -> Option<proto::CopyEvent> {
    let of = |kind: Kind, path, size| proto::CopyEvent {
        kind: kind.into(),
        path,
        size,
        ..proto::CopyEvent::default()
    };
    Some(match event {
        Event::Committed {
            path,
            size,
            hash,
            version,
            difference,
        } => proto::CopyEvent {
            hash: hash.map(|hash| hash.to_vec()).unwrap_or_default(),
            version,
            difference: difference.into(),
            ..of(Kind::Committed, path, size)
        },
        Event::Unchanged {
            path,
            size,
            difference,
        } => proto::CopyEvent {
            difference: difference.into(),
            ..of(Kind::Unchanged, path, size)
        },
        Event::Excluded { path, why } => proto::CopyEvent {
            exclusion: Some(why.to_wire(Vec::new())),
            ..of(Kind::Excluded, path, 0)
        },
        Event::Skipped { path, size } => of(Kind::Skipped, path, size),
        Event::Planned {
            path,
            size,
            difference,
        } => proto::CopyEvent {
            difference: difference.into(),
            ..of(Kind::Planned, path, size)
        },
        Event::Resumed { path, offset } => of(Kind::Resumed, path, offset),
        Event::Restarted { path, discarded } => of(Kind::Restarted, path, discarded),
        Event::Failed { path, code, text } => proto::CopyEvent {
            code: u32::from(code.0),
            text,
            ..of(Kind::Failed, path, 0)
        },
        Event::Deleted { .. }
        | Event::DeletionPlanned { .. }
        | Event::NotDeleted { .. }
        | Event::Retrying => return None,
    })
}

/// An event as the other side sent it, of a path behind `prefix`. `None` for a kind that this
/// version does not know.
fn event_from_wire(event: proto::CopyEvent, prefix: &[u8]) -> Option<Event> {
    let (kind, difference, size) = (event.kind(), event.difference(), event.size);
    let path = [prefix, &event.path].concat();
    Some(match kind {
        Kind::Committed => Event::Committed {
            path,
            size,
            hash: event.hash.as_slice().try_into().ok(),
            version: event.version,
            difference,
        },
        Kind::Unchanged => Event::Unchanged {
            path,
            size,
            difference,
        },
        Kind::Excluded => Event::Excluded {
            path,
            why: Exclusion::from_wire(event.exclusion.unwrap_or_default()),
        },
        Kind::Skipped => Event::Skipped { path, size },
        Kind::Planned => Event::Planned {
            path,
            size,
            difference,
        },
        Kind::Resumed => Event::Resumed { path, offset: size },
        Kind::Restarted => Event::Restarted {
            path,
            discarded: size,
        },
        Kind::Failed => Event::Failed {
            path,
            code: Code::from_wire(event.code),
            text: event.text,
        },
        Kind::Unspecified => return None,
    })
}

/// Reports here what the other side reports there.
pub struct RemoteReporter {
    reporter: Reporter,
    /// What the user writes before a path of the other side.
    prefix: Vec<u8>,
    /// Its counters, as they were last reported.
    last: proto::CopyCounts,
}

impl RemoteReporter {
    /// Paths of the other side stand behind `prefix`.
    pub fn new(reporter: Reporter, prefix: Vec<u8>) -> RemoteReporter {
        RemoteReporter {
            reporter,
            prefix,
            last: proto::CopyCounts::default(),
        }
    }

    /// Takes a report. Returns true if anything has moved since the last one.
    pub async fn report(&mut self, report: proto::CopyReport) -> bool {
        let mut has_moved = !report.events.is_empty();
        if let Some(now) = report.counts {
            has_moved |= *now != self.last;
            self.count(&now);
            self.last = *now;
        }
        for event in report.events {
            if let Some(event) = event_from_wire(event, &self.prefix) {
                self.reporter.pass_on(event).await;
            }
        }
        has_moved
    }

    /// The transfer has ended.
    pub fn finished(&self, finished: proto::Finished) {
        if let Some(omissions) = finished.omissions {
            self.reporter.counters.omitted(&omissions_from_wire(omissions));
        }
    }

    /// Adds what has been counted since the last report: the counters are also those of earlier
    /// attempts.
    fn count(&self, now: &proto::CopyCounts) {
        let (counters, last) = (&self.reporter.counters, &self.last);
        // bytes of a file that failed are subtracted there, too
        let add = |counter: &AtomicU64, now: u64, last: u64| {
            counter.fetch_add(now.wrapping_sub(last), Ordering::Relaxed);
        };
        add(&counters.files_found, now.files_found, last.files_found);
        add(&counters.bytes_found, now.bytes_found, last.bytes_found);
        add(&counters.files_done, now.files_done, last.files_done);
        add(&counters.bytes_done, now.bytes_done, last.bytes_done);
        add(&counters.bytes_moved, now.bytes_moved, last.bytes_moved);
        add(&counters.bytes_committed, now.bytes_committed, last.bytes_committed);
        add(&counters.unchanged, now.unchanged, last.unchanged);
        add(&counters.skipped, now.skipped, last.skipped);
        add(&counters.bytes_unchanged, now.bytes_unchanged, last.bytes_unchanged);
        add(&counters.planned, now.planned, last.planned);
        add(&counters.bytes_planned, now.bytes_planned, last.bytes_planned);
        add(&counters.bytes_resumed, now.bytes_resumed, last.bytes_resumed);
        add(&counters.dirs_done, now.dirs_done, last.dirs_done);
        add(&counters.dirs_made, now.dirs_made, last.dirs_made);
        add(&counters.failed, now.failed, last.failed);
        add(&counters.deferred, now.deferred, last.deferred);
        add(&counters.bytes_failed, now.bytes_failed, last.bytes_failed);
        counters.walked.store(now.walked, Ordering::Relaxed);
        counters.endless.fetch_or(now.endless, Ordering::Relaxed);
    }
}
