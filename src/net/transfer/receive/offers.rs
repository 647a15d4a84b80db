//! What the receiver does with offers: it finds the place of each, and has the decider compare it.
//! An offer may be withdrawn, or replaced when its file has changed.

use crate::chunk::window::SharedPermit;
use crate::net::error::NetError;
use crate::net::transfer::MAX_UNSETTLED;
use crate::net::transfer::cost::offer_cost;
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::receive::decide::{Batch, candidate_of, version_of};
use crate::net::transfer::receive::dirs::Place;
use crate::net::transfer::receive::files::Files;
use crate::net::transfer::receive::job::Jobs;
use crate::net::transfer::receive::receiver::Receiver;
use crate::net::transfer::receive::staged::Wanted;
use crate::net::transfer::report::{Counters, Event};
use crate::net::wire::{Code, entry, proto};
use crate::store::{Attributes, ErrorKind, Kind, Omissions, RemotePath, StoreError};

impl Receiver {
    pub(super) async fn offers(&mut self, offers: Vec<proto::Offer>) -> Result<(), NetError> {
        if self.ledger.len() > MAX_UNSETTLED {
            return Err(NetError::Protocol("it offers more at once than is allowed".into()));
        }
        let mut batch = Batch::default();
        for offer in offers {
            if offer.closes {
                self.ledger.dirs.close(offer.number)?;
            } else if let Err(error) = self.place(&offer, &mut batch)? {
                self.ledger.refuse(offer.number, error).await;
            }
        }
        if !batch.dirs.is_empty() || !batch.candidates.is_empty() {
            self.decider.add(batch);
        }
        Ok(())
    }

    /// Finds an offer's place. The outer error breaks the protocol and ends the transfer, the inner
    /// one only fails this entry.
    fn place(
        &mut self,
        offer: &proto::Offer,
        batch: &mut Batch,
    ) -> Result<Result<(), StoreError>, NetError> {
        if offer.number <= self.last_number || self.all_offered {
            return Err(NetError::Protocol("its offers are out of order".into()));
        }
        self.last_number = offer.number;
        let attributes = self.attributes_of(offer)?;
        let kind = entry::kind_from_wire(offer.kind);
        let place =
            match offer.parent {
                0 => {
                    let top = self.target.top(offer.source).filter(|_| offer.name.is_empty());
                    Place::At(top.ok_or_else(|| {
                        NetError::Protocol("it offers what was not asked for".into())
                    })?)
                }
                parent => self.ledger.dirs.place(parent, &offer.name)?,
            };
        let length = place.shown().len();
        let cost = self.channel.core().accepted().try_take(offer_cost(length, offer));
        let cost = cost.map_err(|_| {
            NetError::Protocol("it offers more at once than the window allows".into())
        })?;
        self.remember(offer, &place, (attributes.clone(), cost.clone()));
        let path = match place {
            Place::At(path) => path,
            Place::Not { error, .. } => return Ok(Err(error)),
        };
        match kind {
            Kind::Other => return Ok(Err(StoreError::new(ErrorKind::BadKind, &path))),
            kind if kind.is_special() && !self.options.metadata.devices => {
                return Ok(Err(StoreError::new(ErrorKind::BadKind, &path)));
            }
            Kind::Dir if !self.options.recursive => {
                return Ok(Err(StoreError::new(ErrorKind::IsADirectory, &path)));
            }
            Kind::Dir => {
                self.ledger.dirs.making(offer.number);
                batch.dirs.push((offer.number, path, attributes));
            }
            _ => {
                let counters = &self.ledger.reporter.counters;
                Counters::add(&counters.files_found, 1);
                Counters::add(&counters.bytes_found, offer.size);
                let mut candidate = candidate_of(offer, kind, path, attributes, cost)?;
                candidate.link = self.link_of(offer);
                match candidate.link.is_some() && self.ledger.contains(offer.link) {
                    // its first name is not there yet
                    true => self.ledger.wait_for(offer.link, candidate),
                    false => batch.candidates.push(candidate),
                }
            }
        }
        Ok(Ok(()))
    }

    /// An offer is unsettled from now on.
    fn remember(&mut self, offer: &proto::Offer, place: &Place, with: (Attributes, SharedPermit)) {
        let source = match offer.parent {
            0 => offer.source,
            parent => self.ledger.dirs.source_of(parent).unwrap_or_default(),
        };
        if entry::kind_from_wire(offer.kind) == Kind::Dir {
            let of = (offer.parent, source, offer.is_way);
            self.ledger.dirs.insert(offer.number, of, place.clone(), with);
        } else {
            let of = self.entry_of(source, place);
            self.ledger.add(offer, of, place, with.1);
        }
    }

    /// The source of an entry and its path there, if the client wants to know.
    fn entry_of(&self, source: u32, place: &Place) -> Option<(usize, RemotePath)> {
        let (Some(_), Place::At(path)) = (&self.options.on_settled, place) else {
            return None;
        };
        let beneath = path.beneath(&self.target.top(source)?)?;
        Some((source as usize, beneath))
    }

    /// Where the file is that an offer is another name of. An offer of which the sender knows no
    /// more than that there is one becomes a file of its own, like one that links to nothing.
    fn link_of(&self, offer: &proto::Offer) -> Option<RemotePath> {
        if !self.options.metadata.hard_links || offer.link == 0 {
            return None;
        }
        if offer.link >= offer.number {
            self.target.omit(&Omissions {
                links: 1,
                ..Omissions::default()
            });
            return None;
        }
        let beneath = RemotePath::parse(&offer.link_path).ok()?;
        self.target.top(offer.link_source)?.append(&beneath).ok()
    }

    /// What an offered entry is to have.
    fn attributes_of(&self, offer: &proto::Offer) -> Result<Attributes, NetError> {
        let attributes = entry::offered_attributes(offer)?;
        let metadata = self.options.metadata.of_offer(offer)?;
        let is_dir = entry::kind_from_wire(offer.kind) == Kind::Dir;
        Ok(Attributes {
            mode: self.options.chmod.apply(attributes.mode, is_dir),
            metadata,
            ..attributes
        })
    }

    pub(super) async fn withdrawn(&mut self, withdrawal: proto::Withdrawal, files: &mut Files) {
        let code = Code::from_wire(withdrawal.code);
        let text = format!("at the source: {}", withdrawal.text);
        if withdrawal.number == 0 {
            let path = withdrawal.path;
            self.ledger.reporter.report(Event::Failed { path, code, text }).await;
        } else if self.ledger.contains(withdrawal.number) {
            files.withdrawn(withdrawal.number, code);
            self.ledger.settle_failed(withdrawal.number, code, text).await;
        }
    }

    /// The sender does not send an entry, and the user wants to know why.
    pub(super) async fn excluded(&mut self, mut exclusion: proto::Exclusion) {
        if self.options.explain {
            let path = std::mem::take(&mut exclusion.path);
            let why = Exclusion::from_wire(exclusion);
            self.ledger.reporter.report(Event::Excluded { path, why }).await;
        }
    }

    pub(super) fn changed(
        &mut self,
        changed: proto::Changed,
        files: &mut Files,
        jobs: &mut Jobs,
    ) -> Result<(), NetError> {
        let (Some(offer), Ok(attempt)) = (changed.offer, u8::try_from(changed.attempt)) else {
            return Err(NetError::Protocol("a change without an offer".into()));
        };
        if !self.ledger.contains(offer.number) {
            return Ok(());
        }
        let cost = self.channel.core().accepted().try_take(offer_cost(0, &offer));
        let cost = cost.map_err(|_| {
            NetError::Protocol("it changes offers to more than the window allows".into())
        })?;
        let wanted = Wanted {
            attempt,
            size: (!offer.stream).then_some(offer.size),
            attributes: self.attributes_of(&offer)?,
            source_version: version_of(&offer)?,
            hash: None,
            is_copied: false,
        };
        Counters::add(&self.ledger.reporter.counters.bytes_found, offer.size);
        self.ledger.restarted(&offer, cost);
        if files.restart(offer.number, wanted, jobs) {
            self.ledger.answers.want_all(offer.number);
        }
        Ok(())
    }
}
