//! A user of a server: their rights, and the credentials that log them in.

use super::key::PublicKey;
use super::name::UserName;
use crate::store::RemotePath;
use ipnet::IpNet;
use std::net::IpAddr;

/// Longest label of a key, in characters.
const MAX_LABEL: usize = 64;

/// The rights of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// All rights.
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

    /// True if everything that `other` allows is allowed.
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
    /// Their rights.
    pub access: Access,
    /// Bytes a second that their sessions may move together, in each direction; `None`: no limit.
    pub rate: Option<u64>,
    /// argon2id hash; `None`: no login by password.
    pub password: Option<String>,
    /// Keys that log in without a password.
    pub keys: Vec<AuthorizedKey>,
    /// Invites that have not been used yet. They are part of the user, so that none outlives its
    /// user.
    pub invites: Vec<OpenInvite>,
}

impl User {
    /// A user with full access and no way to log in yet.
    pub fn new(name: UserName) -> User {
        User {
            name,
            root: RemotePath::root(),
            access: Access::Full,
            rate: None,
            password: None,
            keys: Vec::new(),
            invites: Vec::new(),
        }
    }

    /// True if a password or a key logs this user in.
    pub fn can_log_in(&self) -> bool {
        self.password.is_some() || !self.keys.is_empty()
    }
}

/// A key that a user may log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedKey {
    /// The key.
    pub public: PublicKey,
    /// The name that users gave it; may be empty.
    pub label: String,
    /// When it was added, in seconds since 1970.
    pub added: Option<u64>,
    /// The time from which it logs in no more, in seconds since 1970.
    pub expires: Option<u64>,
    /// Networks that it may be used from; empty: all.
    pub from: Vec<IpNet>,
}

impl AuthorizedKey {
    /// Makes a key without an end, for all networks.
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

/// Parses an address or a network: `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`.
///
/// # Errors
/// A sentence for the user.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network: IpNet =
        network.map_err(|_| format!("{text} is not an address or a network like 192.0.2.0/24"))?;
    Ok(network.trunc())
}

/// An invite that has not been used, as the server stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenInvite {
    /// SHA-256 of its secret, in hexadecimal.
    pub hash: String,
    /// The time from which it is invalid, in seconds since 1970.
    pub expires: u64,
}

impl OpenInvite {
    /// The short id by which users tell invites apart. It does not help to use the invite.
    pub fn id(&self) -> &str {
        self.hash.get(..8).unwrap_or(&self.hash)
    }
}

/// True if the text has the form of an invite's hash.
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
