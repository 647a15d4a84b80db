//! Owners, extended attributes and device numbers: what of an entry only some stores may set.

use super::kind::Kind;
use parking_lot::Mutex;
use std::sync::Arc;

/// The user and the group of an entry, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its name, with the namespace.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Which extended attributes a transfer preserves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XattrSets {
    /// All but ACLs: those of users, and for root those of the system.
    pub attributes: bool,
    /// POSIX ACLs.
    pub acls: bool,
}

/// The most extended attributes of an entry that are transferred.
pub const MAX_XATTRS: usize = 128;
/// The most bytes of an entry's extended attributes, names and values together.
pub const MAX_XATTR_BYTES: usize = 128 << 10;
/// The most bytes of a value.
pub const MAX_XATTR_VALUE: usize = 64 << 10;
/// The most bytes of a name.
pub const MAX_XATTR_NAME: usize = 255;

/// The attribute with the owner, mode and device that a store could not set. Only haul reads and
/// writes it; it is never transferred.
pub const RECORD: &[u8] = b"user.haul.meta";

const ACL: &[u8] = b"system.posix_acl_";
const USER: &[u8] = b"user.";
/// What a store without root's rights may set are `user.` attributes and ACLs. These belong to
/// their machine: its policy sets them.
const OF_THE_MACHINE: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];

impl XattrSets {
    /// True if any are preserved.
    pub fn is_any(self) -> bool {
        self.attributes || self.acls
    }

    /// True of the name of an attribute that these sets have, with or without root's rights.
    pub fn contains(self, name: &[u8], with_root: bool) -> bool {
        if is_acl(name) {
            return self.acls;
        }
        let is_system = name.starts_with(b"system.")
            || name.starts_with(b"trusted.overlay.")
            || OF_THE_MACHINE.contains(&name);
        let is_settable = name.starts_with(USER) || with_root;
        self.attributes && !is_system && is_settable && name != RECORD
    }
}

/// True of the name of an ACL.
pub fn is_acl(name: &[u8]) -> bool {
    name == [ACL, b"access"].concat() || name == [ACL, b"default"].concat()
}

/// What a transfer preserves of an entry besides its [`super::Attributes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The user; `None`: that of the writer.
    pub uid: Option<u32>,
    /// The group; `None`: whatever the system makes it.
    pub gid: Option<u32>,
    /// Which attributes `xattrs` has all of.
    pub sets: XattrSets,
    /// The attributes of these sets, by name. Others stay.
    pub xattrs: Vec<Xattr>,
    /// The kind and device of an entry that a store records in place of making it.
    pub special: Option<(Kind, u64)>,
}

/// What a store may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Owners, devices, set-uid and set-gid bits, and all extended attributes.
    All,
    /// Groups that are listed, `user.` attributes and ACLs.
    Own {
        /// The groups of the process.
        groups: Arc<[u32]>,
        /// Why no more.
        why: &'static str,
    },
    /// The same without groups; what cannot be set is recorded in [`RECORD`].
    Recorded,
}

impl Default for Rights {
    fn default() -> Rights {
        Rights::own("haul does not run as root")
    }
}

impl Rights {
    /// What a process may set for the user who runs it.
    pub fn of_process() -> Rights {
        match rustix::process::geteuid().is_root() {
            true => Rights::All,
            false => Rights::default(),
        }
    }

    /// What a process may set without root's rights; `why` it has none.
    pub fn own(why: &'static str) -> Rights {
        let more = rustix::process::getgroups().unwrap_or_default();
        let groups = more.into_iter().chain([rustix::process::getegid()]);
        Rights::Own {
            groups: groups.map(rustix::process::Gid::as_raw).collect(),
            why,
        }
    }

    /// True if all may be set.
    pub fn are_all(&self) -> bool {
        *self == Rights::All
    }

    /// True if an entry may be given to this group.
    pub fn has_group(&self, gid: u32) -> bool {
        match self {
            Rights::All => true,
            Rights::Own { groups, .. } => groups.contains(&gid),
            Rights::Recorded => false,
        }
    }

    /// True if an entry of this kind may be made.
    pub fn may_make(&self, kind: Kind) -> bool {
        match kind {
            Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                !matches!(self, Rights::Own { .. })
            }
            Kind::Other => false,
            Kind::File | Kind::Dir | Kind::Symlink | Kind::Fifo => true,
        }
    }
}

/// How many entries a store could not give what they were to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Omissions {
    /// Users.
    pub owners: u64,
    /// Groups.
    pub groups: u64,
    /// Set-uid and set-gid bits.
    pub set_ids: u64,
    /// Extended attributes.
    pub xattrs: u64,
    /// ACLs.
    pub acls: u64,
    /// Devices and sockets that were not made.
    pub devices: u64,
    /// Hard links that became files of their own.
    pub links: u64,
    /// Why, if the store has a reason of its own.
    pub why: String,
}

impl Omissions {
    /// True if everything was set.
    pub fn is_empty(&self) -> bool {
        let Omissions {
            owners,
            groups,
            set_ids,
            xattrs,
            acls,
            devices,
            links,
            why: _,
        } = self;
        [owners, groups, set_ids, xattrs, acls, devices, links]
            .iter()
            .all(|count| **count == 0)
    }

    /// Adds the counts of another store.
    pub fn add(&mut self, other: &Omissions) {
        for (to, more) in [
            (&mut self.owners, other.owners),
            (&mut self.groups, other.groups),
            (&mut self.set_ids, other.set_ids),
            (&mut self.xattrs, other.xattrs),
            (&mut self.acls, other.acls),
            (&mut self.devices, other.devices),
            (&mut self.links, other.links),
        ] {
            *to = to.saturating_add(more);
        }
        if self.why.is_empty() {
            self.why.clone_from(&other.why);
        }
    }
}

/// The [`Omissions`] of a store that is in use. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OmissionCounter(Arc<Mutex<Omissions>>);

impl OmissionCounter {
    /// Counts one entry.
    pub fn count(&self, omitted: &Omissions) {
        if !omitted.is_empty() {
            self.0.lock().add(omitted);
        }
    }

    /// The counts so far.
    pub fn get(&self) -> Omissions {
        self.0.lock().clone()
    }
}
