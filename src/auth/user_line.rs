//! One line of the `users` file:
//!
//! ```text
//! NAME [root=SUBDIR] [access=read-only|write-only] [bwlimit=BYTES] [password=PHC]
//!      [key=KEY]… [invite=INVITE]…
//! KEY:    BASE64[;label=TEXT][;added=TIME][;expires=TIME][;from=NETWORK]…
//! INVITE: HASH;expires=TIME
//! ```
//!
//! A limit is in bytes a second, a time in seconds since 1970. What is not visible ASCII is
//! percent-encoded.

use super::key::PublicKey;
use super::name::UserName;
use super::password;
use super::user::{Access, AuthorizedKey, OpenInvite, User, is_hash, parse_network};
use crate::store::RemotePath;
use std::fmt::Write;

/// Parses a line.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(super) fn parse(line: &str) -> Result<User, String> {
    let mut words = line.split_whitespace();
    let mut user = User::new(UserName::parse(words.next().unwrap_or_default())?);
    for word in words {
        let (field, value) = pair(word)?;
        match field {
            "root" => user.root = parse_root(value)?,
            "access" => {
                let access = Access::ALL.into_iter().find(|a| a.name() == value);
                user.access = access.ok_or_else(|| {
                    format!("access is full, read-only or write-only, not {value}")
                })?;
            }
            "bwlimit" => user.rate = Some(parse_rate(value)?),
            "password" if password::is_hash(value) => user.password = Some(value.to_string()),
            "password" => {
                return Err("password is not an argon2 hash; set it with haul user passwd".into());
            }
            "key" => user.keys.push(parse_key(value)?),
            "invite" => user.invites.push(parse_invite(value)?),
            _ => {
                return Err(format!(
                    "{field} is not root, access, bwlimit, password, key or invite"
                ));
            }
        }
    }
    Ok(user)
}

/// The line of a user, with its end.
pub(super) fn format(user: &User) -> String {
    let mut line = user.name.to_string();
    if !user.root.is_root() {
        line += &format!(" root={}", escape(user.root.as_bytes()));
    }
    if user.access != Access::Full {
        line += &format!(" access={}", user.access.name());
    }
    if let Some(rate) = user.rate {
        line += &format!(" bwlimit={rate}");
    }
    if let Some(hash) = &user.password {
        line += &format!(" password={hash}");
    }
    for key in &user.keys {
        line += " key=";
        line += &format_key(key);
    }
    for invite in &user.invites {
        line += &format!(" invite={};expires={}", invite.hash, invite.expires);
    }
    line + "\n"
}

fn pair(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=').ok_or_else(|| format!("{word} is not FIELD=VALUE"))
}

fn parse_root(value: &str) -> Result<RemotePath, String> {
    let bytes = unescape(value).map_err(|e| format!("root {e}"))?;
    RemotePath::parse(&bytes)
        .map_err(|e| format!("root is not a path beneath the server's root: {e}"))
}

fn parse_rate(value: &str) -> Result<u64, String> {
    value
        .parse()
        .ok()
        .filter(|rate| *rate > 0)
        .ok_or_else(|| format!("bwlimit is not a number of bytes a second: {value}"))
}

fn parse_key(text: &str) -> Result<AuthorizedKey, String> {
    let mut parts = text.split(';');
    let public = parts.next().and_then(PublicKey::from_base64);
    let mut key = AuthorizedKey::new(public.ok_or("key is not base64")?);
    for part in parts {
        match pair(part)? {
            ("label", value) => {
                let text = unescape(value).map_err(|e| format!("label {e}"))?;
                key.label = String::from_utf8(text).map_err(|_| "label is not UTF-8 text")?;
            }
            ("added", value) => key.added = Some(parse_time("added", value)?),
            ("expires", value) => key.expires = Some(parse_time("expires", value)?),
            ("from", value) => key.from.push(parse_network(value)?),
            (field, _) => {
                return Err(format!("{field} of a key is not label, added, expires or from"));
            }
        }
    }
    Ok(key)
}

fn format_key(key: &AuthorizedKey) -> String {
    let mut out = key.public.to_base64();
    if !key.label.is_empty() {
        let _ = write!(out, ";label={}", escape(key.label.as_bytes()));
    }
    for (field, time) in [("added", key.added), ("expires", key.expires)] {
        if let Some(time) = time {
            let _ = write!(out, ";{field}={time}");
        }
    }
    for network in &key.from {
        let _ = write!(out, ";from={network}");
    }
    out
}

fn parse_invite(text: &str) -> Result<OpenInvite, String> {
    let (hash, expires) = text.split_once(";expires=").unwrap_or_default();
    if !is_hash(hash) {
        return Err("an invite is HASH;expires=TIME".into());
    }
    Ok(OpenInvite {
        hash: hash.to_string(),
        expires: parse_time("expires", expires)?,
    })
}

fn parse_time(field: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{field} is not a time in seconds since 1970"))
}

/// Percent-encodes what is not visible ASCII, and what has a meaning here.
fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        match b {
            b'%' | b';' => {
                let _ = write!(out, "%{b:02X}");
            }
            b if b.is_ascii_graphic() => out.push(char::from(*b)),
            b => {
                let _ = write!(out, "%{b:02X}");
            }
        }
        out
    })
}

fn unescape(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let digit = |b: Option<u8>| {
            b.and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err("has a '%' that is not followed by two hexadecimal digits"),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::users;
    use super::*;
    use std::path::Path;

    fn sample() -> Vec<User> {
        let mut kim = User::new(UserName::parse("kim").unwrap());
        kim.root = RemotePath::parse("a dir/50%;/\u{e4}".as_bytes()).unwrap();
        kim.access = Access::ReadOnly;
        kim.rate = Some(2 << 20);
        kim.password = Some(password::hash("secret").unwrap());
        kim.keys = vec![
            AuthorizedKey::new(PublicKey::from_der(&[1, 2, 3])),
            AuthorizedKey {
                label: "kim's lapt\u{f6}p; 50%".into(),
                added: Some(1),
                expires: Some(u64::MAX),
                from: vec![parse_network("10.0.0.0/8").unwrap(), parse_network("fd00::1").unwrap()],
                ..AuthorizedKey::new(PublicKey::from_der(&[4]))
            },
        ];
        kim.invites = vec![OpenInvite {
            hash: "ab".repeat(32),
            expires: 7,
        }];
        vec![kim, User::new(UserName::parse("sam@host").unwrap())]
    }

    #[test]
    fn what_is_written_is_reread() {
        let users = sample();
        let text: String = users.iter().map(format).collect();
        assert_eq!(users::parse(Path::new("users"), &text).unwrap(), users);
    }

    #[test]
    fn bad_lines_are_named_with_their_reason() {
        let error = |text: &str| users::parse(Path::new("users"), text).unwrap_err().to_string();
        assert_eq!(error("kim\nkim\n"), "users:2: kim stands here a second time");
        assert!(error("# x\nkim root=../up").starts_with("users:2: root is not a path"));
        assert!(error("kim root=%zz").contains("hexadecimal"));
        assert!(error("kim password=hunter2").contains("haul user passwd"));
        assert!(error("kim access=all").contains("access is full"));
        assert!(error("kim bwlimit=0").contains("bwlimit is not"));
        assert!(error("-rf").contains("user name"));
        assert!(error("kim shell=/bin/sh").contains("shell is not"));
        assert!(error("kim key").contains("FIELD=VALUE"));
        assert!(error("kim key=AQID;label=%ff").contains("label is not UTF-8"));
        assert!(error("kim key=AQID;expires=soon").contains("seconds since 1970"));
        assert!(error("kim key=AQID;from=lan").contains("lan is not an address"));
        assert!(error("kim key=AQID;colour=red").contains("colour of a key"));
        assert!(error("kim invite=abc;expires=1").contains("HASH;expires=TIME"));
    }
}
