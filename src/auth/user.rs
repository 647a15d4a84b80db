//! A user of a server: what they may do, and what logs them in.

use super::key::PublicKey;
use super::name::UserName;
use crate::store::RemotePath;
use ipnet::IpNet;
use std::net::IpAddr;

/// Longest label of a key, in characters.
const MAX_LABEL: usize = 64;

/// What a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    #[default]
    Full,
    /// Read and list, change nothing.
    ReadOnly,
    /// Put files and make directories, see nothing: a drop-box.
    WriteOnly,
}

impl Access {
    /// All of them.
    pub const ALL: [Access; 3] = [Access::Full, Access::ReadOnly, Access::WriteOnly];

    /// `full`, `read-only` or `write-only`, as in the file.
    pub fn name(self) -> &'static str {
        match self {
            Access::Full => "full",
            Access::ReadOnly => "read-only",
            Access::WriteOnly => "write-only",
        }
    }

    /// True when whatever `other` allows is allowed.
    pub fn covers(self, other: Access) -> bool {
        self == Access::Full || self == other
    }
}

/// A user of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: UserName,
    /// Directory beneath the server's root that is this user's root.
    pub root: RemotePath,
    /// What they may do.
    pub access: Access,
    /// argon2id hash; `None`: no login by password.
    pub password: Option<String>,
    /// Keys that log in without a password.
    pub keys: Vec<AuthorizedKey>,
    /// Invites that have not been used yet. They are part of the user, so that none outlives one.
    pub invites: Vec<OpenInvite>,
}

impl User {
    /// A user with full access and no way to log in yet.
    pub fn new(name: UserName) -> User {
        User {
            name,
            root: RemotePath::root(),
            access: Access::Full,
            password: None,
            keys: Vec::new(),
            invites: Vec::new(),
        }
    }

    /// True when a password or a key logs this user in.
    pub fn can_log_in(&self) -> bool {
        self.password.is_some() || !self.keys.is_empty()
    }
}

/// A key that a user may log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedKey {
    /// The key.
    pub public: PublicKey,
    /// What people call it; may be empty.
    pub label: String,
    /// When it was added, in seconds since 1970.
    pub added: Option<u64>,
    /// From when on it logs in no more.
    pub expires: Option<u64>,
    /// Where it may be used from; empty: everywhere.
    pub from: Vec<IpNet>,
}

impl AuthorizedKey {
    /// A key that is good for ever and from everywhere.
    pub fn new(public: PublicKey) -> AuthorizedKey {
        AuthorizedKey {
            public,
            label: String::new(),
            added: None,
            expires: None,
            from: Vec::new(),
        }
    }
}

/// Returns a label as it may stand in a list: without control characters, at most 64 characters.
pub fn clean_label(text: &str) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(MAX_LABEL).collect()
}

/// An address or a network: `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`.
///
/// # Errors
/// A sentence that says so.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network: IpNet = network.map_err(|_| format!("{text} is not an address or a network like 192.0.2.0/24"))?;
    Ok(network.trunc())
}

/// What the server keeps of an invite that has not been used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenInvite {
    /// SHA-256 of its secret, in hexadecimal.
    pub hash: String,
    /// From when on it is good no more, in seconds since 1970.
    pub expires: u64,
}

impl OpenInvite {
    /// What people tell it by, and what reveals nothing that helps to use it.
    pub fn id(&self) -> &str {
        self.hash.get(..8).unwrap_or(&self.hash)
    }
}

/// True for what may be the hash of an invite.
pub(super) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed_and_labels_are_harmless() {
        assert_eq!(parse_network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_network("::1").unwrap().to_string(), "::1/128");
        assert!(parse_network("10.0.0.0/33").is_err());
        assert_eq!(clean_label("a\n\x1b[b"), "a[b");
        assert_eq!(clean_label(&"x".repeat(100)).len(), 64);
    }
}
