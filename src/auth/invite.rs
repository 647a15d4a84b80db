//! Invites: one-time codes that carry the server's fingerprint and list a new key for a user.
//!
//! A code is `haul1-` and base64url of 16 random bytes and the 32 bytes of the fingerprint. The server keeps only
//! SHA-256 of the random bytes, in `invites`: one line each, `NAME EXPIRES HEX`, with EXPIRES in seconds since 1970.

use super::file::{self, FileError};
use super::key::Fingerprint;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PREFIX: &str = "haul1-";

/// What an invite's code carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invite {
    /// What the server knows it by; shown to nobody else.
    pub secret: [u8; 16],
    /// The server's key.
    pub server: Fingerprint,
}

impl Invite {
    /// A new one for the server with this key.
    ///
    /// # Errors
    /// A sentence where the system has no random numbers.
    pub fn new(server: Fingerprint) -> Result<Invite, &'static str> {
        let mut secret = [0; 16];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| "no random numbers to make an invite from")?;
        Ok(Invite { secret, server })
    }

    /// Reads a code as a person pasted it.
    pub fn parse(code: &str) -> Option<Invite> {
        let bytes = URL_SAFE_NO_PAD.decode(code.trim().strip_prefix(PREFIX)?).ok()?;
        let (secret, server) = bytes.split_first_chunk::<16>()?;
        Some(Invite {
            secret: *secret,
            server: Fingerprint(server.try_into().ok()?),
        })
    }

    /// The code to type on the other machine.
    pub fn code(&self) -> String {
        let bytes = [&self.secret[..], &self.server.0].concat();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

struct Line {
    user: String,
    expires: u64,
    hash: String,
}

fn parse_line(line: &str) -> Result<Line, String> {
    let mut words = line.split_whitespace();
    match (words.next(), words.next().map(str::parse), words.next(), words.next()) {
        (Some(user), Some(Ok(expires)), Some(hash), None) => Ok(Line {
            user: user.to_string(),
            expires,
            hash: hash.to_string(),
        }),
        _ => Err("a line is NAME EXPIRES HASH".into()),
    }
}

fn format_lines(lines: &[Line]) -> String {
    lines
        .iter()
        .map(|l| format!("{} {} {}\n", l.user, l.expires, l.hash))
        .collect()
}

fn hash_of(secret: &[u8]) -> String {
    digest(&SHA256, secret)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Remembers an invite for `user` for as long as `ttl`.
///
/// # Errors
/// [`FileError`].
pub fn add(path: &Path, invite: &Invite, user: &str, ttl: Duration) -> Result<(), FileError> {
    file::update(path, |text| {
        let mut lines = file::parse_lines(path, &text, parse_line)?;
        lines.retain(|l| l.expires > now());
        lines.push(Line {
            user: user.to_string(),
            expires: now().saturating_add(ttl.as_secs()),
            hash: hash_of(&invite.secret),
        });
        Ok((format_lines(&lines), ()))
    })
}

/// Uses an invite up; gives whom it is for, none where it is unknown, used or expired.
///
/// # Errors
/// [`FileError`].
pub fn redeem(path: &Path, secret: &[u8]) -> Result<Option<String>, FileError> {
    // The hash is compared, not the secret: how long that takes tells nothing that helps to guess one.
    let wanted = hash_of(secret);
    if !file::read(path)?.contains(&wanted) {
        return Ok(None);
    }
    file::update(path, |text| {
        let mut lines = file::parse_lines(path, &text, parse_line)?;
        lines.retain(|l| l.expires > now());
        let found = lines
            .iter()
            .position(|l| l.hash == wanted)
            .map(|i| lines.remove(i).user);
        Ok((format_lines(&lines), found))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_being_pasted_and_is_good_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("invites");
        let invite = Invite::new(Fingerprint([7; 32])).unwrap();
        assert_eq!(Invite::parse(&format!(" {}\n", invite.code())), Some(invite));
        assert_eq!(Invite::parse("haul1-short"), None);

        let hour = Duration::from_secs(3600);
        add(&path, &invite, "kim", hour).unwrap();
        assert_eq!(redeem(&path, &[0; 16]).unwrap(), None);
        assert_eq!(redeem(&path, &invite.secret).unwrap(), Some("kim".into()));
        assert_eq!(redeem(&path, &invite.secret).unwrap(), None);

        add(&path, &invite, "kim", Duration::ZERO).unwrap();
        assert_eq!(redeem(&path, &invite.secret).unwrap(), None, "expired");
    }
}
