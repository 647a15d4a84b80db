//! Turns what the walk finds into offers, and remembers each in the sender's state.

use crate::chunk::window::Permit;
use crate::net::error::code_of;
use crate::net::session::SessionCore;
use crate::net::transfer::cost::offer_cost;
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Counters, Event, Reporter};
use crate::net::transfer::send::found::{Found, Walked};
use crate::net::transfer::send::offer::{
    Inline, InlineContent, offer_of, offer_of_stream, unsized_offer,
};
use crate::net::transfer::send::source::{TransferSource, shown_in, store_of};
use crate::net::transfer::send::state::{Phase, SendFile, SendState};
use crate::net::wire::proto;
use crate::store::{Kind, RemotePath};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What goes out for a batch of the walk.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) offers: Vec<proto::Offer>,
    pub(super) withdrawals: Vec<proto::Withdrawal>,
    pub(super) exclusions: Vec<proto::Exclusion>,
    /// The walk has ended.
    pub(super) is_last: bool,
}

/// Makes the offers of a transfer.
pub(super) struct Offering {
    core: Arc<SessionCore>,
    sources: Arc<Vec<TransferSource>>,
    inline: Inline,
    options: Options,
}

impl Offering {
    pub(super) fn new(
        core: Arc<SessionCore>,
        sources: Arc<Vec<TransferSource>>,
        inline: Inline,
        options: Options,
    ) -> Offering {
        Offering {
            core,
            sources,
            inline,
            options,
        }
    }

    /// Makes the offers for a batch of the walk.
    pub(super) async fn batch(
        &mut self,
        found: Vec<Walked>,
        state: &mut SendState,
        reporter: &Reporter,
    ) -> Batch {
        let mut batch = Batch::default();
        for step in found {
            match step {
                Walked::Entry(found) => {
                    batch.offers.push(self.entry(*found, state, reporter).await)
                }
                Walked::Stream { number, source } => {
                    Counters::add(&reporter.counters.files_found, 1);
                    reporter.counters.endless.store(true, Ordering::Relaxed);
                    let (path, offer) = (RemotePath::root(), offer_of_stream(number, source));
                    let cost = self.cost(&path, &offer);
                    state.add(number, SendFile::new(source, path, None, cost));
                    batch.offers.push(offer);
                }
                Walked::Close { number } => batch.offers.push(proto::Offer {
                    number,
                    closes: true,
                    ..Default::default()
                }),
                Walked::End => batch.is_last = true,
                Walked::Excluded { source, path, why } => {
                    let why = self.exclusion(source, why);
                    let path = shown_in(&self.sources, source, &path);
                    batch.exclusions.push(why.to_wire(path.clone()));
                    reporter.report(Event::Excluded { path, why }).await;
                }
                Walked::Failed {
                    source,
                    path,
                    error,
                } => {
                    let path = shown_in(&self.sources, source, &path);
                    batch.withdrawals.push(proto::Withdrawal {
                        number: 0,
                        code: u32::from(code_of(&error.kind).0),
                        text: error.describe(),
                        path: path.clone(),
                    });
                    reporter.failed(path, &error).await;
                }
            }
        }
        batch
    }

    /// The same reason, in terms of what the user knows.
    fn exclusion(&self, source: usize, why: Exclusion) -> Exclusion {
        match why {
            Exclusion::IgnoreFile {
                file,
                line,
                pattern,
            } => Exclusion::IgnoreFile {
                file: match RemotePath::parse(&file) {
                    Ok(path) => shown_in(&self.sources, source, &path),
                    Err(_) => file,
                },
                line,
                pattern,
            },
            why => why,
        }
    }

    /// What an offer takes of the window until it is settled.
    fn cost(&self, path: &RemotePath, offer: &proto::Offer) -> Permit {
        self.core.offered().take(offer_cost(path.as_bytes().len(), offer))
    }

    /// The offer of an entry, with its content if there is room for that.
    async fn entry(
        &mut self,
        found: Found,
        state: &mut SendState,
        reporter: &Reporter,
    ) -> proto::Offer {
        let Found {
            number,
            parent,
            is_way,
            source,
            path,
            entry,
            hash,
            sized,
            details,
        } = found;
        let content = match (sized, store_of(&self.sources, source)) {
            (false, _) => InlineContent::Unsized,
            // most often it becomes another name of a file that is there
            (true, _) if details.link.is_some() => InlineContent::Later,
            (true, Some(store)) => self.inline.content(&*store, &path, &entry).await,
            (true, None) => InlineContent::Later,
        };
        let mut offer = offer_of(number, parent, source, &entry, hash);
        offer.mode = self.options.chmod.apply(offer.mode, entry.kind == Kind::Dir);
        self.options.metadata.describe(&mut offer, &entry, details);
        offer.is_way = is_way;
        let is_dir = entry.kind == Kind::Dir;
        let (mut phase, mut is_sized) = (Phase::Offered, true);
        match content {
            InlineContent::Here(bytes, digest) => {
                phase = Phase::Inline(digest);
                (offer.content, offer.digest) = (bytes, digest.to_vec());
            }
            InlineContent::Unsized => {
                reporter.counters.endless.store(true, Ordering::Relaxed);
                is_sized = false;
                offer = unsized_offer(offer);
            }
            InlineContent::Later => {}
        }
        let cost = self.cost(&path, &offer);
        let mut file = SendFile::new(source, path, Some(entry), cost);
        (file.phase, file.sized) = (phase, is_sized);
        if !is_dir {
            Counters::add(&reporter.counters.files_found, 1);
            Counters::add(&reporter.counters.bytes_found, file.size());
        }
        state.add(number, file);
        offer
    }
}
