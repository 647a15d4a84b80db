//! The names that belong to haul: `.NAME~HASH.haul`, the partial file of NAME,
//! `.NAME~HASH.haul-info`, its record, `.NAME~HASH.haul-dir`, the partial directory of NAME, and
//! `.NAME~HASH.haul-old`, a replaced file on its way to its backup. A directory's trash is
//! `.trash~HASH.haul-trash`.
//!
//! HASH makes them haul's: 16 hexadecimal digits of NAME's BLAKE3 hash. A user's `.notes.haul` is a
//! file like others.

/// Longest name of an entry, in bytes (NAME_MAX of Linux).
pub const MAX_NAME: usize = 255;

/// How the name of a partial file ends.
pub(super) const PARTIAL: &[u8] = b".haul";
/// How the name of a record ends.
pub(super) const RECORD: &[u8] = b".haul-info";
/// How the name of a partial directory ends.
pub(super) const PARTIAL_DIR: &[u8] = b".haul-dir";
/// How the name of a replaced file ends until it has its backup's.
pub(super) const REPLACED: &[u8] = b".haul-old";
/// How the name of a trash ends.
const TRASH: &[u8] = b".haul-trash";
/// Bytes of `~` and the digits.
const MARK: usize = 17;
/// Bytes of NAME that fit; a longer one is cut.
pub(super) const ROOM: usize = MAX_NAME - 1 - MARK - RECORD.len();

/// True for names that are haul's own.
pub fn is_reserved(name: &[u8]) -> bool {
    let mut stems = [PARTIAL, RECORD, PARTIAL_DIR, REPLACED, TRASH]
        .iter()
        .filter_map(|end| name.strip_suffix(*end));
    stems.any(|stem| target_of(stem).is_some())
}

/// The name of the trash of a directory.
pub(super) fn trash_name() -> Vec<u8> {
    [&stem_of(b"trash"), TRASH].concat()
}

/// True for the name of a trash.
pub(super) fn is_trash(name: &[u8]) -> bool {
    name == trash_name()
}

/// Returns `.NAME~HASH`.
pub(super) fn stem_of(name: &[u8]) -> Vec<u8> {
    let target = name.get(..ROOM).unwrap_or(name);
    [b".", target, &mark(name)].concat()
}

/// Returns `~` and digits of the name's hash.
fn mark(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    [b"~", hash.as_bytes().get(..MARK - 1).unwrap_or_default()].concat()
}

/// Returns NAME of `.NAME~HASH` if HASH is right. Of a name that was cut only the form can be
/// checked.
pub(super) fn target_of(stem: &[u8]) -> Option<&[u8]> {
    let stem = stem.strip_prefix(b".")?;
    let (target, found) = stem.split_at_checked(stem.len().checked_sub(MARK)?)?;
    let digits = found.strip_prefix(b"~")?;
    let is_cut =
        target.len() == ROOM && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_cut || mark(target) == found).then_some(target)
}
