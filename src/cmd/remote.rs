//! A place on a server: its path, how the user wrote it, and what it means over ssh.

use super::failure::Failure;
use super::server_name::{Scheme, ServerName, malformed};
use crate::store::{BadPath, RemotePath};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A place on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The server.
    pub server: ServerName,
    /// The path, beneath the user's root.
    pub path: RemotePath,
    /// The user wrote a slash at its end, or `/.`: as a destination it must be a directory, as a
    /// source it stands for its contents.
    pub directory: bool,
    /// As the user wrote it.
    pub shown: String,
    /// What the user wrote before a `/./` in the path, if there is one.
    pub anchor: Option<RemotePath>,
    /// What the user wrote before the path: the server, and the slash of the root.
    pub prefix: String,
    /// Where the path begins, if the server serves the whole machine.
    pub base: Base,
}

/// Where a path begins on a server that serves the whole machine, as over ssh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// At the root.
    Root,
    /// At the home directory of the user.
    Home,
    /// At a home directory, in place of its first component: `~`, or `~USER`.
    Tilde(Option<String>),
    /// It has been found: this is the directory that the prefix stands for, and what stands for the
    /// root.
    Found(RemotePath, String),
}

/// Reads a path as people write it, with extra slashes and `.`.
///
/// # Errors
/// Why it is none: a `..` in it, for example.
pub fn tidy(path: &[u8]) -> Result<RemotePath, BadPath> {
    let components: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
    RemotePath::parse(&components.join(&b'/'))
}

/// True of a path with `/` or `/.` at its end: a directory of that name stands for its contents, as
/// with rsync.
pub fn means_contents(path: &[u8]) -> bool {
    path.ends_with(b"/.") || path.ends_with(b"/")
}

/// Where this path begins over ssh.
fn base_of(scheme: Scheme, path: &[u8]) -> Base {
    let rest = match scheme {
        // what a URL has behind the slash that ends the host
        Scheme::Haul | Scheme::Ssh => path.strip_prefix(b"/").unwrap_or(path),
        Scheme::Any => path,
    };
    let first = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
    match (first.strip_prefix(b"~"), scheme) {
        (Some(b""), _) => Base::Tilde(None),
        (Some(user), _) => Base::Tilde(Some(String::from_utf8_lossy(user).into_owned())),
        (None, Scheme::Any) if !rest.starts_with(b"/") => Base::Home,
        (None, Scheme::Haul | Scheme::Ssh) if rest.is_empty() => Base::Home,
        (None, _) => Base::Root,
    }
}

impl Remote {
    /// The place that an argument names: a server, and the bytes of a path.
    ///
    /// # Errors
    /// A usage failure for a path that is none.
    pub fn new(argument: &OsStr, server: ServerName, path: &[u8]) -> Result<Remote, Failure> {
        let slashes = path.iter().take_while(|byte| **byte == b'/').count().min(1);
        let before = argument.as_bytes().len().saturating_sub(path.len()).saturating_add(slashes);
        let prefix = argument.as_bytes().get(..before).unwrap_or_default();
        let marked = path.windows(3).position(|three| three == b"/./");
        let anchor = marked.and_then(|at| path.get(..at)).map(tidy).transpose();
        let bad = |e: BadPath| malformed(argument, &e.to_string());
        Ok(Remote {
            anchor: anchor.map_err(bad)?,
            prefix: String::from_utf8_lossy(prefix).into_owned(),
            path: tidy(path).map_err(bad)?,
            directory: means_contents(path),
            base: base_of(server.scheme, path),
            server,
            shown: String::from_utf8_lossy(argument.as_bytes()).into_owned(),
        })
    }

    /// A directory on a server, with the server's own name for it.
    pub fn directory(server: &str, path: RemotePath) -> Remote {
        Remote {
            server: ServerName {
                user: None,
                host: server.to_string(),
                port: None,
                scheme: Scheme::Any,
            },
            path,
            directory: true,
            shown: server.to_string(),
            anchor: None,
            prefix: format!("{server}:"),
            base: Base::Root,
        }
    }

    /// True of a source that stands for its contents: `dir/`, `dir/.`, or the root.
    pub fn means_contents(&self) -> bool {
        self.directory || self.path.split().is_none()
    }

    /// True of the home directory that the path begins at, and of what it lies in: on a server that
    /// serves the whole machine.
    pub fn is_home(&self) -> bool {
        matches!(&self.base, Base::Found(home, _) if home.is_within(&self.path))
    }

    /// The path as a server is asked for it: with a slash first where it is one of the machine.
    pub fn asked(&self) -> Vec<u8> {
        self.asked_for(&self.path)
    }

    /// Another path on the same server, as a server is asked for it.
    pub fn asked_for(&self, path: &RemotePath) -> Vec<u8> {
        match &self.base {
            Base::Found(..) => [b"/", path.as_bytes()].concat(),
            _ => path.as_bytes().to_vec(),
        }
    }

    /// The same place on a server of which the whole machine is served: at the root already.
    pub fn on_machine(&self) -> Remote {
        let base = match &self.base {
            Base::Root => Base::Found(RemotePath::root(), self.prefix.clone()),
            other => other.clone(),
        };
        Remote {
            base,
            ..self.clone()
        }
    }

    /// The same place, from the root of the machine; its path begins at this directory.
    ///
    /// # Errors
    /// Why the path is none there.
    pub fn beneath(&self, home: &RemotePath) -> Result<Remote, BadPath> {
        let has_tilde = matches!(self.base, Base::Tilde(_));
        let from_root = |path: &RemotePath| match path.halves() {
            _ if !has_tilde => home.append(path),
            // the tilde itself
            None => Ok(home.clone()),
            Some(_) => {
                let mut components = path.as_bytes().splitn(2, |byte| *byte == b'/').skip(1);
                home.append(&RemotePath::parse(components.next().unwrap_or_default())?)
            }
        };
        let (written, root) = match (self.server.scheme, self.prefix.strip_suffix('/')) {
            (Scheme::Haul | Scheme::Ssh, host) => {
                let host = host.unwrap_or(&self.prefix);
                (format!("{host}/~/"), format!("{host}/"))
            }
            (Scheme::Any, _) => (self.prefix.clone(), format!("{}/", self.prefix)),
        };
        let written = match &self.base {
            Base::Tilde(Some(user)) => format!("{root}~{user}/").replacen(":/~", ":~", 1),
            _ => written,
        };
        Ok(Remote {
            path: from_root(&self.path)?,
            // what the user wrote begins behind the home directory
            anchor: Some(match &self.anchor {
                Some(anchor) => from_root(anchor)?,
                None => home.clone(),
            }),
            prefix: written,
            base: Base::Found(home.clone(), root),
            // the home directory itself is one that exists
            directory: self.directory || self.path.is_root(),
            ..self.clone()
        })
    }

    /// Another path on the same server, shown as the user would write it.
    pub fn at(&self, path: RemotePath) -> Remote {
        Remote {
            server: self.server.clone(),
            shown: String::from_utf8_lossy(&self.written(&path)).into_owned(),
            prefix: self.prefix.clone(),
            base: self.base.clone(),
            anchor: self.anchor.clone(),
            directory: false,
            path,
        }
    }

    /// The contents of a directory on the same server, shown as the user would write it.
    pub fn as_contents(&self, path: &RemotePath) -> Remote {
        Remote {
            directory: true,
            anchor: None,
            ..self.at(path.clone())
        }
    }

    /// The bytes that name a path of the same server as an argument.
    pub fn written(&self, path: &RemotePath) -> Vec<u8> {
        match &self.base {
            Base::Found(home, root) => match path.beneath(home) {
                Some(path) => [self.prefix.as_bytes(), path.as_bytes()].concat(),
                None => [root.as_bytes(), path.as_bytes()].concat(),
            },
            _ => [self.prefix.as_bytes(), path.as_bytes()].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::location::Location;
    use super::*;

    fn over_ssh(text: &str) -> (String, String) {
        let remote = Location::remote(OsStr::new(text)).unwrap();
        let home = |user: &str| RemotePath::parse(format!("home/{user}").as_bytes()).unwrap();
        let found = match &remote.base {
            Base::Root | Base::Found(..) => remote.on_machine(),
            Base::Home | Base::Tilde(None) => remote.beneath(&home("me")).unwrap(),
            Base::Tilde(Some(user)) => remote.beneath(&home(user)).unwrap(),
        };
        let rewritten = found.at(found.path.clone()).shown;
        (String::from_utf8_lossy(found.path.as_bytes()).into_owned(), rewritten)
    }

    #[test]
    fn over_ssh_a_path_begins_at_home_or_at_the_root_and_is_written_alike() {
        for (text, path, rewritten) in [
            ("h:x/y", "home/me/x/y", "h:x/y"),
            ("h:", "home/me", "h:"),
            ("h:/x", "x", "h:/x"),
            ("h:/", "", "h:/"),
            ("h:~/x", "home/me/x", "h:x"),
            ("h:~u/x", "home/u/x", "h:~u/x"),
            ("h:~u", "home/u", "h:~u/"),
            ("ssh://me@h:22/", "home/me", "ssh://me@h:22/~/"),
            ("ssh://h", "home/me", "ssh://h/~/"),
            ("ssh://h/tmp", "tmp", "ssh://h/tmp"),
            ("ssh://h//", "", "ssh://h/"),
            ("ssh://h/~/x", "home/me/x", "ssh://h/~/x"),
            ("ssh://h/~u/x", "home/u/x", "ssh://h/~u/x"),
        ] {
            assert_eq!(over_ssh(text), (path.into(), rewritten.into()), "{text}");
        }
    }

    #[test]
    fn what_lies_elsewhere_is_written_from_the_root() {
        let remote = Location::remote(OsStr::new("h:x")).unwrap();
        let found = remote.beneath(&RemotePath::parse(b"home/me").unwrap()).unwrap();
        let other = RemotePath::parse(b"etc/x").unwrap();
        assert_eq!(found.at(other).shown, "h:/etc/x");
    }
}
