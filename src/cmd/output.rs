//! Names, modes and entries as people and scripts read them, and the way to standard output.

use super::failure::{Failure, exit};
use super::units::rfc3339;
use crate::net::printable;
use crate::store::{Attributes, Entry, Kind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// A name or path for a terminal.
pub fn name(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// True of a name that a terminal shows as it is.
pub fn is_plain(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| printable(text) == text)
}

/// The kind of an entry, as in JSON.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char-device",
        Kind::BlockDevice => "block-device",
        Kind::Other => "other",
    }
}

/// `drwxr-xr-x`.
pub fn mode(kind: Kind, Attributes { mode, .. }: &Attributes) -> String {
    let mut out = String::from(match kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
        Kind::Other => '?',
    });
    for (shift, special, set, unset) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => unset,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// BLAKE3 as `b3sum` prints it.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// Adds text under `key`. If it is not UTF-8, its bytes follow as base64 under `key_bytes`.
pub fn put_text(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.into(), json!(String::from_utf8_lossy(bytes)));
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_bytes"), json!(STANDARD.encode(bytes)));
    }
}

/// An entry as one JSON object; `path` is as the user wrote it, plus the names beneath.
pub fn entry_json(entry: &Entry, path: &[u8], hash: Option<[u8; 32]>) -> Value {
    let mut object = Map::new();
    put_text(&mut object, "name", entry.name.as_ref().map_or(b"", |n| n.as_bytes()));
    put_text(&mut object, "path", path);
    object.insert("kind".into(), json!(kind(entry.kind)));
    object.insert("size".into(), json!(entry.size));
    object.insert("mtime".into(), json!(rfc3339(entry.attributes.mtime)));
    object.insert("mode".into(), json!(format!("{:04o}", entry.attributes.mode)));
    if let Some(target) = &entry.target {
        put_text(&mut object, "target", target);
    }
    if let Some(hash) = hash {
        object.insert("hash".into(), json!(hex(&hash)));
    }
    object.insert("version".into(), json!(entry.version.to_string()));
    Value::Object(object)
}

/// Writes a line to standard output. If the reader has closed it, like `head`, the command ends
/// without a failure.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}") {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::already_reported(0)),
        Err(e) => Err(Failure::new(exit::FAILED, format!("cannot write to standard output: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_usual() {
        let attributes = |mode| Attributes {
            mode,
            ..Attributes::default()
        };
        assert_eq!(mode(Kind::Dir, &attributes(0o1777)), "drwxrwxrwt");
        assert_eq!(mode(Kind::File, &attributes(0o4755)), "-rwsr-xr-x");
        assert_eq!(mode(Kind::File, &attributes(0o2644)), "-rw-r-Sr--");
    }

    #[test]
    fn names_that_are_not_utf8_are_lossless_in_json() {
        let mut object = Map::new();
        put_text(&mut object, "name", b"a\xff");
        assert_eq!(object["name"], "a\u{fffd}");
        assert_eq!(object["name_bytes"], "Yf8=");
    }
}
