//! Arguments that name a place: a local path, or a remote one as `[USER@]HOST:PATH`, `haul://…` or
//! `ssh://…`.

use super::failure::Failure;
pub use super::remote::means_contents;
use super::remote::{Remote, tidy};
use super::server_name::malformed;
pub use super::server_name::{Scheme, ServerName};
use crate::net::printable;
use crate::store::{BadPath, Name, RemotePath};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A place that the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// On this machine.
    Local(PathBuf),
    /// On a server.
    Remote(Remote),
}

impl Location {
    /// Reads an argument. With a colon before any slash it is remote, as with scp; `./a:b` is
    /// local.
    ///
    /// # Errors
    /// A usage failure that says what is wrong.
    pub fn parse(argument: &OsStr) -> Result<Location, Failure> {
        let bytes = argument.as_bytes();
        for (prefix, scheme) in [(&b"haul://"[..], Scheme::Haul), (b"ssh://", Scheme::Ssh)] {
            if let Some(rest) = bytes.strip_prefix(prefix) {
                return parse_url(argument, rest, scheme).map(Location::Remote);
            }
        }
        refuse_other_protocols(argument)?;
        let Some((host, path)) = split_host(bytes) else {
            return match bytes {
                [] => Err(Failure::usage("a path is empty")),
                _ => Ok(Location::Local(PathBuf::from(argument))),
            };
        };
        let server = parse_server(argument, host)?;
        Remote::new(argument, server, path).map(Location::Remote)
    }

    /// Reads an argument that must be remote.
    ///
    /// # Errors
    /// A usage failure.
    pub fn remote(argument: &OsStr) -> Result<Remote, Failure> {
        match Location::parse(argument)? {
            Location::Remote(remote) => Ok(remote),
            Location::Local(path) => {
                Err(Failure::usage(format!("{} is not a remote path", path.display()))
                    .hint("write a remote path as [USER@]HOST:PATH"))
            }
        }
    }
}

/// Refuses the addresses of other programs.
fn refuse_other_protocols(argument: &OsStr) -> Result<(), Failure> {
    let text = argument.to_string_lossy();
    let is_module = split_host(argument.as_bytes()).is_some_and(|(_, path)| path.starts_with(b":"));
    let why = match text.split_once("://") {
        Some(("rsync", _)) => "haul does not speak to rsync's daemon",
        Some(("sftp" | "scp", _)) => {
            let shown = printable(&text);
            return Err(Failure::usage(format!("{shown}: haul does not speak this protocol"))
                .hint("over ssh, write ssh://[USER@]HOST[:PORT]/PATH"));
        }
        Some(("ftp" | "ftps", _)) => "haul speaks to haul serve only",
        _ if is_module => "haul has no modules",
        _ => return Ok(()),
    };
    let shown = printable(&text);
    Err(Failure::usage(format!("{shown}: {why}"))
        .hint("start haul serve there, and write [USER@]HOST:PATH"))
}

/// Splits at the colon after the host; `None` for a local path.
fn split_host(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = bytes.iter().position(|b| *b == b'@').map_or(0, |at| at.saturating_add(1));
    let bracket = match bytes.get(start) {
        Some(b'[') => bytes.iter().position(|b| *b == b']')?,
        _ => 0,
    };
    let colon = bytes.iter().skip(bracket).position(|b| *b == b':')?.saturating_add(bracket);
    let (host, path) = bytes.split_at_checked(colon)?;
    if host.is_empty() || host.contains(&b'/') || host.starts_with(b".") {
        return None;
    }
    Some((host, path.strip_prefix(b":").unwrap_or(path)))
}

fn parse_server(argument: &OsStr, bytes: &[u8]) -> Result<ServerName, Failure> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| malformed(argument, "the host is not text"))?;
    let (user, host) = match text.rsplit_once('@') {
        Some(("", _)) => return Err(malformed(argument, "there is no user before the '@'")),
        Some((user, _)) if user.starts_with('-') => {
            return Err(malformed(argument, "there is no valid user in it"));
        }
        Some((user, host)) => (Some(user.to_string()), host),
        None => (None, text),
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty()
        || host.starts_with('-')
        || host.contains(|c: char| c.is_whitespace() || c.is_control() || "[]/=".contains(c))
    {
        return Err(malformed(argument, "there is no valid host in it"));
    }
    Ok(ServerName {
        user,
        host: host.to_string(),
        port: None,
        scheme: Scheme::Any,
    })
}

/// Reads a server: `[USER@]HOST[:PORT]`, also as `haul://…` or `ssh://…`.
///
/// # Errors
/// A usage failure.
pub fn parse_host(text: &str) -> Result<ServerName, Failure> {
    let argument = OsStr::new(text);
    let (text, scheme) = match (text.strip_prefix("haul://"), text.strip_prefix("ssh://")) {
        (Some(text), _) => (text, Scheme::Haul),
        (None, Some(text)) => (text, Scheme::Ssh),
        (None, None) => (text, Scheme::Any),
    };
    let text = text.trim_end_matches('/');
    let text = text.strip_suffix(':').unwrap_or(text);
    let after_user = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if after_user.matches(':').count() == 1 || host.ends_with(']') => {
            (host, Some(parse_port(argument, port)?))
        }
        _ => (text, None),
    };
    let server = parse_server(argument, host.as_bytes())?;
    Ok(ServerName {
        port,
        scheme,
        ..server
    })
}

fn parse_port(argument: &OsStr, port: &str) -> Result<u16, Failure> {
    match port.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(malformed(argument, &format!("{port} is not a port"))),
    }
}

fn parse_url(argument: &OsStr, rest: &[u8], scheme: Scheme) -> Result<Remote, Failure> {
    let slash = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(slash).unwrap_or((rest, &[]));
    let authority =
        std::str::from_utf8(authority).map_err(|_| malformed(argument, "the host is not text"))?;
    let server = ServerName {
        scheme,
        ..parse_host(authority)?
    };
    Remote::new(argument, server, path)
}

/// Reads a directory beneath the server's root.
///
/// # Errors
/// A usage failure.
pub fn parse_relative(argument: &OsStr) -> Result<RemotePath, Failure> {
    tidy(argument.as_bytes()).map_err(|e| {
        Failure::usage(format!("{} is not a directory beneath the root: {e}", argument.display()))
    })
}

/// The directory that holds a local path, and its name there as a path beneath that directory.
///
/// # Errors
/// Why the name is not allowed.
pub fn split_local(path: &Path) -> Result<(PathBuf, RemotePath), BadPath> {
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let last = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let name = Name::parse(last)?;
    Ok((parent.to_path_buf(), RemotePath::root().join(&name).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Name;
    use crate::store::partial_names::PartialNames;

    fn remote(text: &str) -> (Option<String>, String, Option<u16>, String, bool) {
        match Location::parse(OsStr::new(text)) {
            Ok(Location::Remote(r)) => {
                let path = String::from_utf8_lossy(r.path.as_bytes()).into_owned();
                (r.server.user, r.server.host, r.server.port, path, r.directory)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn remote_paths_are_those_of_scp() {
        assert_eq!(remote("nas:a/b"), (None, "nas".into(), None, "a/b".into(), false));
        assert_eq!(
            remote("kim@nas:/a//./b/"),
            (Some("kim".into()), "nas".into(), None, "a/b".into(), true)
        );
        assert_eq!(remote("[::1]:x"), (None, "::1".into(), None, "x".into(), false));
        assert_eq!(remote("kim@[fe80::1]:x").1, "fe80::1");
        assert_eq!(remote("nas:"), (None, "nas".into(), None, String::new(), false));
        assert_eq!(remote("nas:x:y").3, "x:y");
        let url = remote("haul://kim@nas:99/a/b");
        assert_eq!(url, (Some("kim".into()), "nas".into(), Some(99), "a/b".into(), false));
        assert_eq!(remote("haul://[::1]:99/a").2, Some(99));
        assert_eq!(remote("haul://nas").3, "");
    }

    #[test]
    fn other_paths_of_a_server_are_written_alike() {
        for (text, other) in [
            ("nas:a/b", "nas:c"),
            ("kim@[::1]:/a", "kim@[::1]:/c"),
            ("haul://nas:9/a", "haul://nas:9/c"),
            ("nas:", "nas:c"),
        ] {
            let remote = Location::remote(OsStr::new(text)).unwrap();
            assert_eq!(remote.at(RemotePath::parse(b"c").unwrap()).shown, other);
        }
    }

    #[test]
    fn local_paths_stay_local() {
        for path in ["a", "./a:b", "/a:b", "a/b:c", "../x:y"] {
            assert_eq!(Location::parse(OsStr::new(path)).unwrap(), Location::Local(path.into()));
        }
    }

    #[test]
    fn malformed_ones_are_refused() {
        let names = PartialNames::of(&Name::parse(b"x").unwrap());
        let own = format!("nas:{}", String::from_utf8(names.file).unwrap());
        for path in [
            "nas:../x",
            "nas:a/../b",
            "@nas:x",
            &own,
            "haul://nas:99999/x",
            "haul:///x",
            "n s:x",
            "",
        ] {
            let failure = Location::parse(OsStr::new(path)).unwrap_err();
            assert_eq!(failure.exit(), 2, "{path}");
        }
    }

    #[test]
    fn hosts_alone() {
        assert_eq!(parse_host("nas").unwrap().port(), 4285);
        assert_eq!(parse_host("kim@nas:5").unwrap().port, Some(5));
        assert_eq!(parse_host("[::1]:5").unwrap().host, "::1");
        assert_eq!(parse_host("::1").unwrap().host, "::1");
        assert_eq!(parse_host("nas:").unwrap().host, "nas");
    }
}
