//! Invites: one-time codes that carry the server's fingerprint and list a new key for a user.
//!
//! A code is `haul1-` and base64url of 16 random bytes and the 32 bytes of the fingerprint. The
//! server keeps only SHA-256 of the random bytes, with the user: an invite makes no user, and ends
//! with its user.

use super::file::FileError;
use super::key::Fingerprint;
use super::name::UserName;
use super::state_file::StateFile;
use super::user::{AuthorizedKey, OpenInvite, User};
use super::users;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

const PREFIX: &str = "haul1-";

/// What an invite's code carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invite {
    /// What the server knows it by; shown to no one else.
    pub secret: Zeroizing<[u8; 16]>,
    /// The server's key.
    pub server: Fingerprint,
}

impl Invite {
    /// A new one for the server with this key.
    ///
    /// # Errors
    /// A sentence where the system has no random numbers.
    pub fn new(server: Fingerprint) -> Result<Invite, &'static str> {
        let mut secret = Zeroizing::new([0; 16]);
        let filled = SystemRandom::new().fill(&mut secret[..]);
        filled.map_err(|_| "no random numbers to make an invite from")?;
        Ok(Invite { secret, server })
    }

    /// Reads a code as a person pasted it.
    pub fn parse(code: &str) -> Option<Invite> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(code.trim().strip_prefix(PREFIX)?).ok()?);
        let (secret, server) = bytes.split_first_chunk::<16>()?;
        Some(Invite {
            secret: Zeroizing::new(*secret),
            server: Fingerprint(server.try_into().ok()?),
        })
    }

    /// The code to type on the other machine.
    pub fn code(&self) -> String {
        let bytes = Zeroizing::new([&self.secret[..], &self.server.0].concat());
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn hash_of(secret: &[u8]) -> String {
    digest(&SHA256, secret)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Remembers an invite for `user` until `expires`; forgets those that are good no more at `now`.
pub fn add(user: &mut User, invite: &Invite, now: u64, expires: u64) {
    user.invites.retain(|open| open.expires > now);
    user.invites.push(OpenInvite {
        hash: hash_of(&invite.secret[..]),
        expires,
    });
}

/// Whom an invite is for; `None` where it is unknown, used or expired at `now`.
pub fn find<'a>(all: &'a [User], secret: &[u8], now: u64) -> Option<&'a User> {
    // The hash is compared, not the secret: how long that takes tells nothing that helps to guess
    // one.
    let hash = hash_of(secret);
    let good = |open: &OpenInvite| open.hash == hash && open.expires > now;
    all.iter().find(|user| user.invites.iter().any(good))
}

/// Uses an invite up and lists `key` for its user, in one step; gives the user, `None` as [`find`].
///
/// # Errors
/// [`FileError`].
pub fn redeem(
    at: &StateFile,
    secret: &[u8],
    key: AuthorizedKey,
    now: u64,
) -> Result<Option<UserName>, FileError> {
    users::update(at, |all| {
        let Some(name) = find(all, secret, now).map(|user| user.name.clone()) else {
            return Ok(None);
        };
        let hash = hash_of(secret);
        for user in all.iter_mut().filter(|user| user.name == name) {
            user.invites.retain(|open| open.hash != hash && open.expires > now);
            // an invite for a key that is listed already renews it
            user.keys.retain(|listed| listed.public != key.public);
            user.keys.push(key.clone());
        }
        Ok(Some(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PublicKey;

    #[test]
    fn a_code_survives_being_pasted_and_is_good_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let invite = Invite::new(Fingerprint([7; 32])).unwrap();
        assert_eq!(Invite::parse(&format!(" {}\n", invite.code())), Some(invite.clone()));
        assert_eq!(Invite::parse("haul1-short"), None);

        let name = UserName::parse("kim").unwrap();
        let invited = |expires: u64| {
            let updated = users::update(&path, |all| {
                all.retain(|user| user.name != name);
                let mut user = User::new(name.clone());
                add(&mut user, &invite, 0, expires);
                all.push(user);
                Ok::<_, FileError>(())
            });
            updated.unwrap();
        };
        let redeem = |secret: &[u8], now: u64| {
            let key = AuthorizedKey::new(PublicKey::from_der(&[1]));
            redeem(&StateFile::from(&path), secret, key, now).unwrap()
        };
        invited(100);
        assert_eq!(redeem(&[0; 16], 99), None);
        assert_eq!(redeem(&invite.secret[..], 100), None, "expired");
        assert_eq!(redeem(&invite.secret[..], 99), Some(name.clone()));
        assert_eq!(redeem(&invite.secret[..], 99), None, "used");
        let kim = users::read(&path).unwrap().remove(0);
        assert_eq!((kim.keys.len(), kim.invites.len()), (1, 0));

        invited(100);
        let removed = users::update(&path, |all| {
            all.clear();
            Ok::<_, FileError>(())
        });
        removed.unwrap();
        assert_eq!(redeem(&invite.secret[..], 99), None, "its user is gone");
        assert!(users::read(&path).unwrap().is_empty(), "and is not made again");
    }
}
