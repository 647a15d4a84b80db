//! `known_servers`: the pinned keys, one line a server: `host:port SHA256:…`.

use super::file::{self, FileError};
use super::key::Fingerprint;
use std::path::{Path, PathBuf};

/// The pinned servers of a client.
pub struct KnownServers {
    path: PathBuf,
    pins: Vec<(String, Fingerprint)>,
}

fn parse_line(line: &str) -> Result<(String, Fingerprint), String> {
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(server), Some(print), None) => Fingerprint::parse(print)
            .map(|p| (server.to_string(), p))
            .ok_or_else(|| "the fingerprint is not of the form SHA256:base64".to_string()),
        _ => Err("a line is HOST:PORT and a fingerprint".to_string()),
    }
}

/// Parses the file's text.
///
/// # Errors
/// [`FileError::Line`].
pub fn parse(path: &Path, text: &str) -> Result<Vec<(String, Fingerprint)>, FileError> {
    file::parse_lines(path, text, parse_line)
}

impl KnownServers {
    /// Loads the file; one that does not exist pins nothing.
    ///
    /// # Errors
    /// [`FileError`], with the line.
    pub fn load(path: &Path) -> Result<KnownServers, FileError> {
        Ok(KnownServers {
            path: path.to_path_buf(),
            pins: parse(path, &file::read(path)?)?,
        })
    }

    /// The pin of `server` (`host:port`).
    pub fn pin(&self, server: &str) -> Option<Fingerprint> {
        self.pins.iter().find(|(name, _)| name == server).map(|(_, print)| *print)
    }

    /// Pins a server, in place of what was pinned for it.
    ///
    /// # Errors
    /// [`FileError`], also for a server whose line would be read as something else.
    pub fn set(&mut self, server: &str, print: Fingerprint) -> Result<(), FileError> {
        let path = self.path.clone();
        match parse(&path, &format!("{server} {print}\n")) {
            Ok(read) if read == [(server.to_string(), print)] => {}
            _ => {
                return Err(FileError::content(
                    &path,
                    "the host cannot be saved: blanks, or '#' first",
                ));
            }
        }
        self.pins = file::update(&path, |text| -> Result<_, FileError> {
            let mut pins = parse(&path, &text)?;
            pins.retain(|(name, _)| name != server);
            pins.push((server.to_string(), print));
            let text = pins.iter().map(|(name, print)| format!("{name} {print}\n")).collect();
            Ok((text, pins))
        })?;
        Ok(())
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_stored_and_replaced_and_bad_lines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_servers");
        let mut known = KnownServers::load(&path).unwrap();
        known.set("a:1", Fingerprint([1; 32])).unwrap();
        known.set("b:2", Fingerprint([2; 32])).unwrap();
        known.set("a:1", Fingerprint([3; 32])).unwrap();
        let error = known.set("d:4\na:1", Fingerprint([4; 32])).unwrap_err();
        assert!(error.to_string().contains("cannot be saved"), "{error}");
        let known = KnownServers::load(&path).unwrap();
        assert_eq!(known.pin("a:1"), Some(Fingerprint([3; 32])));
        assert_eq!(known.pin("b:2"), Some(Fingerprint([2; 32])));
        assert_eq!(known.pin("c:3"), None);

        std::fs::write(&path, "# fine\n\na:1 SHA256:nonsense\n").unwrap();
        let error = KnownServers::load(&path).err().unwrap().to_string();
        assert!(error.contains("known_servers:3:"), "{error}");
    }
}
