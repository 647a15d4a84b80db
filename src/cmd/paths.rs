//! `paths`: what earlier transfers have found out about the paths to servers, one line each:
//! `HOST:PORT connections=… round_trip=… since=…`, microseconds, and seconds since 1970.
//!
//! Nothing depends on it but how fast a transfer begins: what cannot be read or written is skipped.

use super::settings::client_state_dir;
use crate::auth::file::{self, FileError};
use crate::auth::users::now;
use crate::net::client::path::PathTraits;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most paths that are remembered.
const MOST: usize = 256;
/// Seconds until a path is found out about from the beginning: it may have become better.
const LIFETIME: u64 = 7 * 24 * 3600;

/// A path that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered {
    address: String,
    traits: PathTraits,
    /// Since when, in seconds since 1970.
    since: u64,
}

/// What is remembered of the path to `address`.
pub fn find(address: &str) -> Option<PathTraits> {
    find_in(&location()?, address, now())
}

/// Remembers what a session has found out about its path, which began with `before`. Only a path
/// that needs more connections than usual is worth it.
pub fn note(address: &str, before: Option<PathTraits>, found: PathTraits, usual: usize) {
    let is_known = before.is_some_and(|before| before.connections == found.connections);
    if is_known || (before.is_none() && found.connections <= usual) {
        return;
    }
    if let Some(path) = location()
        && let Err(error) = note_in(&path, (address, found, usual), now())
    {
        tracing::debug!(%error, "the path is not remembered");
    }
}

fn location() -> Option<PathBuf> {
    client_state_dir().ok().map(|dir| dir.join("paths"))
}

fn find_in(path: &Path, address: &str, now: u64) -> Option<PathTraits> {
    let text = file::read(path).ok()?;
    let all = current(&text, now);
    all.into_iter()
        .find(|known| known.address == address)
        .map(|known| known.traits)
}

fn note_in(
    path: &Path,
    (address, traits, usual): (&str, PathTraits, usize),
    now: u64,
) -> Result<(), FileError> {
    file::update(path, |text| {
        let mut all = current(&text, now);
        all.retain(|known| known.address != address);
        if traits.connections > usual {
            let address = address.to_string();
            all.push(Remembered {
                address,
                traits,
                since: now,
            });
        }
        let oldest = all.len().saturating_sub(MOST);
        Ok((all.split_off(oldest).iter().map(format_line).collect(), ()))
    })
}

/// The lines that are understood and not too old.
fn current(text: &str, now: u64) -> Vec<Remembered> {
    let known = text.lines().filter_map(parse_line);
    known
        .filter(|known| known.since <= now && now.saturating_sub(known.since) < LIFETIME)
        .collect()
}

fn parse_line(line: &str) -> Option<Remembered> {
    let mut words = line.split_whitespace();
    let address = words.next()?.to_string();
    let mut number = |name: &str| {
        let (found, value) = words.next()?.split_once('=')?;
        value.parse::<u64>().ok().filter(|_| found == name)
    };
    let connections = usize::try_from(number("connections")?).ok()?;
    let round_trip = Duration::from_micros(number("round_trip")?);
    Some(Remembered {
        address,
        traits: PathTraits {
            connections,
            round_trip,
        },
        since: number("since")?,
    })
}

fn format_line(known: &Remembered) -> String {
    let Remembered {
        address,
        traits,
        since,
    } = known;
    let (connections, round_trip) = (traits.connections, traits.round_trip.as_micros());
    format!("{address} connections={connections} round_trip={round_trip} since={since}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: usize = 4;

    fn traits(connections: usize) -> PathTraits {
        PathTraits {
            connections,
            round_trip: Duration::from_micros(50_123),
        }
    }

    #[test]
    fn a_path_is_remembered_for_a_week_unless_it_needs_no_more_than_usual() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state").join("paths");
        let find = |address: &str, now| find_in(&path, address, now);
        assert_eq!(find("nas:1", 100), None);
        note_in(&path, ("nas:1", traits(32), USUAL), 100).unwrap();
        note_in(&path, ("nas:2", traits(16), USUAL), 101).unwrap();
        assert_eq!(find("nas:1", 100 + LIFETIME - 1), Some(traits(32)));
        assert_eq!(find("nas:1", 100 + LIFETIME), None);
        assert_eq!(find("nas:1", 99), None, "a clock that went back");
        note_in(&path, ("nas:1", traits(USUAL), USUAL), 102).unwrap();
        assert_eq!((find("nas:1", 103), find("nas:2", 103)), (None, Some(traits(16))));
    }

    #[test]
    fn the_file_is_bounded_and_what_is_not_understood_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("paths");
        std::fs::write(&path, "nas:9\nnas:9 connections=x round_trip=1 since=5\n\u{0}\n").unwrap();
        for port in 0..300 {
            note_in(&path, (&format!("nas:{port}"), traits(8), USUAL), 10).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), MOST);
        assert!(
            text.starts_with("nas:44 connections=8 round_trip=50123 since=10\n"),
            "{text}"
        );
    }
}
