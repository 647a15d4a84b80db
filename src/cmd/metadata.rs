//! The options of put and get that say what is preserved besides content, time and mode: owners,
//! extended attributes, links and devices, as with rsync.

use super::failure::Failure;
use crate::net::transfer::ids::{BadMap, IdMap};
use crate::net::transfer::metadata::MetadataOptions;
use crate::store::XattrSets;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What is preserved.
#[derive(clap::Args, Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct MetadataArgs {
    /// Preserve users: by name, or by number where the receiving side has no such name. It has to
    /// run as root for that
    #[arg(short, long, overrides_with = "no_owner")]
    owner: bool,

    /// Preserve groups in the same way; without root those that the receiving user is in
    #[arg(short, long, overrides_with = "no_group")]
    group: bool,

    #[arg(long, alias = "no-o", hide = true)]
    no_owner: bool,

    #[arg(long, alias = "no-g", hide = true)]
    no_group: bool,

    /// Preserve the numbers of users and groups, not their names
    #[arg(long)]
    numeric_ids: bool,

    /// Give everything to this user and group; one of them may be missing
    #[arg(long, value_name = "USER:GROUP", conflicts_with_all = ["usermap", "groupmap"])]
    chown: Option<OsString>,

    /// Turn users into others: each FROM is a name, a number, a range like 0-99, or *; the first
    /// that matches decides
    #[arg(long, value_name = "FROM:TO,...")]
    usermap: Option<OsString>,

    /// Turn groups into others
    #[arg(long, value_name = "FROM:TO,...")]
    groupmap: Option<OsString>,

    /// Make names of one file names of one file there, as far as all of them are sent
    #[arg(short = 'H', long)]
    hard_links: bool,

    /// Preserve extended attributes: those of users, and all others where both sides run as root
    #[arg(short = 'X', long)]
    xattrs: bool,

    /// Preserve POSIX ACLs
    #[arg(short = 'A', long)]
    acls: bool,

    /// Send FIFOs, sockets and devices; only root makes the last two
    #[arg(short = 'D', overrides_with = "no_devices")]
    devices_and_specials: bool,

    #[arg(long, hide = true)]
    devices: bool,

    #[arg(long, hide = true)]
    specials: bool,

    #[arg(long = "no-D", hide = true)]
    no_devices: bool,
}

impl MetadataArgs {
    /// What a transfer preserves; with `archive` owners, groups and devices, too.
    ///
    /// # Errors
    /// A usage failure: a map that is none.
    pub fn options(&self, archive: bool) -> Result<MetadataOptions, Failure> {
        let (mut users, mut groups) = (
            map("--usermap", self.usermap.as_deref())?,
            map("--groupmap", self.groupmap.as_deref())?,
        );
        if let Some(chown) = &self.chown {
            (users, groups) = chown_maps(chown);
        }
        Ok(MetadataOptions {
            owner: self.owner || !users.is_empty() || (archive && !self.no_owner),
            group: self.group || !groups.is_empty() || (archive && !self.no_group),
            devices: self.devices_and_specials
                || self.devices
                || self.specials
                || (archive && !self.no_devices),
            xattrs: XattrSets {
                attributes: self.xattrs,
                acls: self.acls,
            },
            hard_links: self.hard_links,
            numeric_ids: self.numeric_ids,
            users,
            groups,
            ..MetadataOptions::default()
        })
    }

    /// The option that names the owners of the receiving side.
    fn option(&self) -> &'static str {
        match (&self.chown, &self.usermap) {
            (Some(_), _) => "--chown",
            (None, Some(_)) => "--usermap",
            (None, None) => "--groupmap",
        }
    }

    /// Finds the owners that the maps name on this machine, which receives.
    ///
    /// # Errors
    /// A usage failure: this machine does not have one.
    pub fn resolve(&self, options: &mut MetadataOptions) -> Result<(), Failure> {
        options.resolve().map_err(|e| bad_map(self.option(), &e))
    }
}

fn bad_map(option: &str, why: &BadMap) -> Failure {
    Failure::usage(format!("{option}: {why}"))
}

fn map(option: &str, text: Option<&OsStr>) -> Result<IdMap, Failure> {
    let text = text.map(OsStr::as_bytes).unwrap_or_default();
    IdMap::parse(text).map_err(|e| bad_map(option, &e))
}

/// The maps that give everything to one user and one group.
fn chown_maps(text: &OsStr) -> (IdMap, IdMap) {
    let mut halves = text.as_bytes().splitn(2, |byte| *byte == b':');
    let mut map = || match halves.next().unwrap_or_default() {
        [] => IdMap::default(),
        to => IdMap::all_to(to),
    };
    (map(), map())
}
