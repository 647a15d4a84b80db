//! `installed`: where haul has put copies of itself, one line for each host:
//! `[USER@]HOST[:PORT] in=… name=…`.

use super::file::{self, FileError};
use std::path::Path;

/// The directory of a copy on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// `~/.cache/haul/bin`.
    Cache,
    /// `$XDG_RUNTIME_DIR/haul/bin`, where the home directory executes nothing.
    Runtime,
    /// `/var/tmp/haul-UID/bin`.
    Tmp,
}

impl Directory {
    /// All, in the order in which they are tried.
    pub const ALL: [Directory; 3] = [Directory::Cache, Directory::Runtime, Directory::Tmp];

    /// As in the file, and in the script that finds the directory.
    pub fn name(self) -> &'static str {
        match self {
            Directory::Cache => "cache",
            Directory::Runtime => "runtime",
            Directory::Tmp => "tmp",
        }
    }

    /// The directory above `bin`, as a word of a POSIX shell.
    pub fn word(self) -> &'static str {
        match self {
            Directory::Cache => "$HOME/.cache/haul",
            Directory::Runtime => "$XDG_RUNTIME_DIR/haul",
            Directory::Tmp => "/var/tmp/haul-$(id -u)",
        }
    }
}

/// A copy of haul on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its directory.
    pub directory: Directory,
    /// Its name there.
    pub name: String,
}

/// True of a name that a shell takes as it is.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

impl Place {
    /// A command of a POSIX shell that becomes the program, with these arguments, if it is the
    /// user's: others could have made a directory of that name where everybody may, or a symlink.
    pub fn command(&self, arguments: &str) -> String {
        let (word, name) = (self.directory.word(), &self.name);
        format!(
            "d=\"{word}\"; [ -h \"$d\" ] || [ -h \"$d/bin\" ] || {{ [ -O \"$d\" ] && \
            [ -O \"$d/bin\" ] && exec \"$d/bin/{name}\" {arguments}; }}; exit 127"
        )
    }
}

fn parse_line(line: &str) -> Result<(String, Place), String> {
    let mut words = line.split_whitespace();
    let host = words.next().unwrap_or_default().to_string();
    let (mut directory, mut name) = (None, None);
    for word in words {
        match word.split_once('=') {
            Some(("in", value)) => {
                directory = Directory::ALL.into_iter().find(|dir| dir.name() == value);
            }
            Some(("name", value)) if is_plain(value) => name = Some(value.to_string()),
            _ => return Err(format!("{word} is not in=… or name=…")),
        }
    }
    let place = Place {
        directory: directory.ok_or("in=cache, in=runtime or in=tmp is missing")?,
        name: name.ok_or("name=… is missing")?,
    };
    Ok((host, place))
}

fn format_line((host, place): &(String, Place)) -> String {
    format!("{host} in={} name={}\n", place.directory.name(), place.name)
}

/// Where the copy on a host is, if the file has one.
///
/// # Errors
/// [`FileError`], with the line.
pub fn find(path: &Path, host: &str) -> Result<Option<Place>, FileError> {
    let all = file::parse_lines(path, &file::read(path)?, parse_line)?;
    Ok(all.into_iter().find(|(name, _)| name == host).map(|(_, place)| place))
}

/// Saves where the copy on a host is, or that there is none.
///
/// # Errors
/// [`FileError`], also for a host whose line would be read as something else.
pub fn save(path: &Path, host: &str, place: Option<&Place>) -> Result<(), FileError> {
    let line = place.map(|place| (host.to_string(), place.clone()));
    let text: String = line.iter().map(format_line).collect();
    match file::parse_lines(path, &text, parse_line) {
        Ok(read) if read.as_slice() == line.as_slice() => {}
        _ => {
            return Err(FileError::content(path, "the host cannot be saved: blanks, or '#' first"));
        }
    }
    file::update(path, |text| {
        let mut all = file::parse_lines(path, &text, parse_line)?;
        all.retain(|(name, _)| name != host);
        all.extend(line);
        Ok((all.iter().map(format_line).collect(), ()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_saved_replaced_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("installed");
        let mut place = Place {
            directory: Directory::Cache,
            name: "haul-0.1.0".into(),
        };
        save(&path, "kim@h:22", Some(&place)).unwrap();
        place.directory = Directory::Tmp;
        save(&path, "kim@h:22", Some(&place)).unwrap();
        save(&path, "other", Some(&place)).unwrap();
        assert_eq!(find(&path, "kim@h:22").unwrap(), Some(place.clone()));
        save(&path, "kim@h:22", None).unwrap();
        assert_eq!(find(&path, "kim@h:22").unwrap(), None);
        assert_eq!(find(&path, "other").unwrap(), Some(place.clone()));
        assert!(save(&path, "a b", Some(&place)).is_err());
        assert_eq!(
            place.command("serve"),
            "d=\"/var/tmp/haul-$(id -u)\"; [ -h \"$d\" ] || [ -h \"$d/bin\" ] || \
            { [ -O \"$d\" ] && [ -O \"$d/bin\" ] && exec \"$d/bin/haul-0.1.0\" serve; }; exit 127"
        );
        place.name = "x; rm -rf".into();
        assert!(save(&path, "h", Some(&place)).is_err());
    }
}
