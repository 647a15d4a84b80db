//! Owners, extended attributes and links of a transfer: what the user wants of them, and how they
//! travel with offers.

use crate::net::transfer::ids::{BadMap, IdMap, IdMapper};
use crate::net::wire::{Malformed, proto};
use crate::store::accounts::accounts;
use crate::store::metadata::{MAX_XATTR_BYTES, MAX_XATTR_NAME, MAX_XATTR_VALUE, MAX_XATTRS};
use crate::store::{Entry, Metadata, Omissions, RemotePath, Xattr, XattrSets};
use std::sync::Arc;

/// What a transfer preserves besides content, time and mode.
#[derive(Clone, Debug, Default)]
pub struct MetadataOptions {
    /// Users.
    pub owner: bool,
    /// Groups.
    pub group: bool,
    /// FIFOs, sockets and devices are sent.
    pub devices: bool,
    /// Extended attributes.
    pub xattrs: XattrSets,
    /// Names of one file are names of one file there.
    pub hard_links: bool,
    /// Owners are numbers, whatever their names are.
    pub numeric_ids: bool,
    /// Who the sender's users become.
    pub users: IdMap,
    /// Who its groups become.
    pub groups: IdMap,
    /// The same for this machine, at the receiver: see [`MetadataOptions::resolve`].
    pub mappers: Option<Arc<Mappers>>,
}

/// Users and groups of the receiver.
#[derive(Debug)]
pub struct Mappers {
    users: IdMapper,
    groups: IdMapper,
}

/// Another name of a file that was offered before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTo {
    /// The number of that offer.
    pub number: u64,
    /// The source that it belongs to.
    pub source: u32,
    /// Its path beneath that source.
    pub path: RemotePath,
}

/// What goes with the offer of an entry.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Its extended attributes, as far as they are preserved.
    pub xattrs: Vec<Xattr>,
    /// The file that it is another name of.
    pub link: Option<LinkTo>,
}

impl Details {
    /// About how many bytes they take in a message.
    pub fn size(&self) -> usize {
        let xattrs = self.xattrs.iter().map(|x| xattr_cost(x.name.len(), x.value.len()));
        let link = self.link.as_ref().map_or(0, |link| link.path.as_bytes().len());
        xattrs.fold(link, usize::saturating_add)
    }
}

/// What an extended attribute takes of the window's part for offers.
const XATTR_COST: usize = 64;

fn xattr_cost(name: usize, value: usize) -> usize {
    XATTR_COST.saturating_add(name).saturating_add(value)
}

/// What the metadata of an offer takes of the window's part for offers.
pub fn metadata_cost(offer: &proto::Offer) -> usize {
    let xattrs = offer.xattrs.iter().map(|x| xattr_cost(x.name.len(), x.value.len()));
    let texts = [&offer.user, &offer.group, &offer.link_path].map(|text| text.len());
    xattrs.chain(texts).fold(0, usize::saturating_add)
}

impl MetadataOptions {
    /// Writes them into the options that travel.
    pub fn to_wire(&self, options: &mut proto::Options) {
        options.owner = self.owner;
        options.group = self.group;
        options.devices = self.devices;
        options.xattrs = self.xattrs.attributes;
        options.acls = self.xattrs.acls;
        options.hard_links = self.hard_links;
        options.numeric_ids = self.numeric_ids;
        options.user_map = self.users.as_bytes().to_vec();
        options.group_map = self.groups.as_bytes().to_vec();
    }

    /// As a peer sent them.
    ///
    /// # Errors
    /// [`Malformed`] for a map with a rule that is none.
    pub fn from_wire(options: &proto::Options) -> Result<MetadataOptions, Malformed> {
        let map = |text: &[u8]| {
            IdMap::parse(text)
                .map_err(|_| Malformed("a map of owners has a rule that is none, or too many"))
        };
        Ok(MetadataOptions {
            owner: options.owner,
            group: options.group,
            devices: options.devices,
            xattrs: XattrSets {
                attributes: options.xattrs,
                acls: options.acls,
            },
            hard_links: options.hard_links,
            numeric_ids: options.numeric_ids,
            users: map(&options.user_map)?,
            groups: map(&options.group_map)?,
            mappers: None,
        })
    }

    /// Finds the users and groups that the maps name on this machine, which receives.
    ///
    /// # Errors
    /// [`BadMap`] for one that it does not have.
    pub fn resolve(&mut self) -> Result<(), BadMap> {
        let (all, numeric) = (accounts(), self.numeric_ids);
        self.mappers = Some(Arc::new(Mappers {
            users: IdMapper::new(&self.users, &all.users, "user", numeric)?,
            groups: IdMapper::new(&self.groups, &all.groups, "group", numeric)?,
        }));
        Ok(())
    }

    /// Adds to the offer of an entry what is preserved of it.
    pub fn describe(&self, offer: &mut proto::Offer, entry: &Entry, details: Details) {
        let name = |name: Option<&[u8]>| match self.numeric_ids {
            true => Vec::new(),
            false => name.unwrap_or_default().to_vec(),
        };
        if let Some(owner) = entry.owner.filter(|_| self.owner) {
            offer.uid = Some(owner.uid);
            offer.user = name(accounts().users.name(owner.uid));
        }
        if let Some(owner) = entry.owner.filter(|_| self.group) {
            offer.gid = Some(owner.gid);
            offer.group = name(accounts().groups.name(owner.gid));
        }
        offer.device = entry.device;
        let xattrs = details.xattrs.into_iter();
        let xattrs = xattrs.map(|Xattr { name, value }| proto::Xattr { name, value });
        offer.xattrs = xattrs.collect();
        if let Some(LinkTo {
            number,
            source,
            path,
        }) = details.link
        {
            offer.link = number;
            offer.link_source = source;
            offer.link_path = path.as_bytes().to_vec();
        }
    }

    /// What an offered entry is to have; `None` where nothing is preserved.
    ///
    /// # Errors
    /// [`Malformed`] for attributes that no honest sender offers.
    pub fn of_offer(&self, offer: &proto::Offer) -> Result<Option<Arc<Metadata>>, Malformed> {
        if !(self.owner || self.group || self.xattrs.is_any()) {
            return Ok(None);
        }
        let mappers = self.mappers.as_deref();
        let is_id = |id: &u32| *id != u32::MAX;
        let map = |is_wanted: bool, id: Option<u32>, map: &dyn Fn(&Mappers, u32) -> u32| {
            let id = id.filter(|_| is_wanted).filter(is_id)?;
            Some(mappers.map_or(id, |mappers| map(mappers, id)))
        };
        Ok(Some(Arc::new(Metadata {
            uid: map(self.owner, offer.uid, &|m, id| m.users.map(id, &offer.user)),
            gid: map(self.group, offer.gid, &|m, id| m.groups.map(id, &offer.group)),
            sets: self.xattrs,
            xattrs: self.xattrs_of(offer)?,
            special: None,
        })))
    }

    fn xattrs_of(&self, offer: &proto::Offer) -> Result<Vec<Xattr>, Malformed> {
        if !self.xattrs.is_any() {
            return Ok(Vec::new());
        }
        let mut bytes = 0_usize;
        for proto::Xattr { name, value } in &offer.xattrs {
            bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
            let is_name = !name.is_empty() && name.len() <= MAX_XATTR_NAME && !name.contains(&0);
            if !is_name || value.len() > MAX_XATTR_VALUE {
                return Err(Malformed("an extended attribute has no name, or is too large"));
            }
        }
        if offer.xattrs.len() > MAX_XATTRS || bytes > MAX_XATTR_BYTES {
            return Err(Malformed("an entry has too many extended attributes"));
        }
        // like a set-uid bit, a capability is nothing without the owner it was given by
        let may_act = |name: &[u8]| self.owner || name != b"security.capability";
        let wanted = offer.xattrs.iter().filter(|x| self.xattrs.contains(&x.name, true));
        let wanted = wanted.filter(|x| may_act(&x.name));
        let wanted = wanted.map(|proto::Xattr { name, value }| Xattr {
            name: name.clone(),
            value: value.clone(),
        });
        Ok(wanted.collect())
    }
}

/// What could not be set, as it travels.
pub fn omissions_to_wire(omissions: &Omissions) -> Option<proto::Omissions> {
    (!omissions.is_empty()).then(|| proto::Omissions {
        owners: omissions.owners,
        groups: omissions.groups,
        set_ids: omissions.set_ids,
        xattrs: omissions.xattrs,
        acls: omissions.acls,
        devices: omissions.devices,
        links: omissions.links,
        why: omissions.why.clone(),
    })
}

/// What a peer could not set.
pub fn omissions_from_wire(omissions: proto::Omissions) -> Omissions {
    Omissions {
        owners: omissions.owners,
        groups: omissions.groups,
        set_ids: omissions.set_ids,
        xattrs: omissions.xattrs,
        acls: omissions.acls,
        devices: omissions.devices,
        links: omissions.links,
        why: omissions.why,
    }
}
