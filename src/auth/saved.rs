//! `servers`: names for servers, one line each: `NAME host=… port=… user=… via=…`.

use super::file::{self, FileError};
use super::name::UserName;
use std::path::Path;

/// A server under a name of the user's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedServer {
    /// What stands before the colon of a remote path.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User to log in as.
    pub user: Option<UserName>,
    /// How it is reached.
    pub via: Via,
}

/// How a saved server is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Directly.
    #[default]
    Direct,
    /// Over ssh.
    Ssh,
    /// Directly if a haul server answers, and else over ssh.
    Auto,
}

fn parse_line(line: &str) -> Result<SavedServer, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default().to_string();
    let (mut host, mut port, mut user, mut via) = (None, None, None, Via::Direct);
    for word in words {
        match word.split_once('=') {
            Some(("host", value)) if !value.is_empty() => host = Some(value.to_string()),
            Some(("port", value)) => {
                port = Some(value.parse().map_err(|_| format!("{value} is not a port"))?)
            }
            Some(("user", value)) if !value.is_empty() => user = Some(UserName::parse(value)?),
            Some(("via", "direct")) => via = Via::Direct,
            Some(("via", "ssh")) => via = Via::Ssh,
            Some(("via", "auto")) => via = Via::Auto,
            _ => return Err(format!("{word} is not host=…, port=…, user=… or via=…")),
        }
    }
    // ssh's own configuration has both
    let over_ssh = via == Via::Ssh;
    let host = host.or_else(|| over_ssh.then(|| name.clone()));
    let port = port.or(over_ssh.then_some(0));
    Ok(SavedServer {
        host: host.ok_or("host=… is missing")?,
        port: port.ok_or("port=… is missing")?,
        name,
        user,
        via,
    })
}

/// Loads the file; one that does not exist has no names.
///
/// # Errors
/// [`FileError`], with the line.
pub fn load(path: &Path) -> Result<Vec<SavedServer>, FileError> {
    file::parse_lines(path, &file::read(path)?, parse_line)
}

fn format_line(server: &SavedServer) -> String {
    let user = server.user.as_ref().map(|user| format!(" user={user}"));
    let SavedServer {
        name, host, port, ..
    } = server;
    let via = match server.via {
        Via::Direct => "",
        Via::Ssh => " via=ssh",
        Via::Auto => " via=auto",
    };
    format!("{name} host={host} port={port}{}{via}\n", user.unwrap_or_default())
}

/// Saves a name, in place of what had that name.
///
/// # Errors
/// [`FileError`], also for a server whose line would be read as something else.
pub fn save(path: &Path, server: &SavedServer) -> Result<(), FileError> {
    let line = format_line(server);
    match file::parse_lines(path, &line, parse_line) {
        Ok(read) if read == [server.clone()] => {}
        _ => {
            return Err(FileError::content(
                path,
                "the name or the host cannot be saved: blanks, or '#' first",
            ));
        }
    }
    file::update(path, |text| {
        let mut all = file::parse_lines(path, &text, parse_line)?;
        all.retain(|s| s.name != server.name);
        all.push(server.clone());
        Ok((all.iter().map(format_line).collect(), ()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_saved_replaced_and_bad_lines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers");
        let mut server = SavedServer {
            name: "nas".into(),
            host: "::1".into(),
            port: 1,
            user: None,
            via: Via::Direct,
        };
        save(&path, &server).unwrap();
        server.user = UserName::parse("kim").ok();
        save(&path, &server).unwrap();
        assert_eq!(load(&path).unwrap(), vec![server.clone()]);
        for host in ["a b", "a\nnas host=evil", ""] {
            let host = host.to_string();
            let error = save(
                &path,
                &SavedServer {
                    host,
                    ..server.clone()
                },
            )
            .unwrap_err();
            assert!(error.to_string().contains("cannot be saved"), "{error}");
        }
        assert_eq!(load(&path).unwrap(), vec![server.clone()]);
        std::fs::write(&path, "nas via=ssh\n").unwrap();
        let over_ssh = load(&path).unwrap();
        assert_eq!((over_ssh[0].host.as_str(), over_ssh[0].via), ("nas", Via::Ssh));
        save(&path, &server).unwrap();
        std::fs::write(&path, "nas host=x port=99999\n").unwrap();
        assert!(
            load(&path)
                .unwrap_err()
                .to_string()
                .contains("servers:1: 99999 is not a port")
        );
    }
}
