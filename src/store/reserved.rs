//! The names that belong to haul: `.NAME~HASH.haul`, the staging file of NAME, and `.NAME~HASH.haul-info`, its record.
//!
//! HASH is what makes them haul's: 16 hexadecimal digits of NAME's BLAKE3 hash. A user's `.notes.haul` is a file like others.

use super::path::{MAX_NAME, Name};

const STAGED: &[u8] = b".haul";
const RECORD: &[u8] = b".haul-info";
/// Bytes of `~` and the digits.
const MARK: usize = 17;
/// Bytes of NAME that fit; more are cut.
const ROOM: usize = MAX_NAME - 1 - MARK - RECORD.len();

/// Names of the staging file and the record of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagingNames {
    /// Of the staging file, which is the lock.
    pub file: Vec<u8>,
    /// Of the record; also where a symlink is staged.
    pub record: Vec<u8>,
}

impl StagingNames {
    /// The names for a target.
    pub fn of(name: &Name) -> StagingNames {
        let bytes = name.as_bytes();
        let stem = bytes.get(..ROOM).unwrap_or(bytes);
        let stem = [b".", stem, &mark(bytes)].concat();
        StagingNames {
            file: [&stem, STAGED].concat(),
            record: [&stem, RECORD].concat(),
        }
    }

    /// The names that `file` is the first of, and its target's name, cut where it was too long.
    pub fn of_file(file: &[u8]) -> Option<(&[u8], StagingNames)> {
        let target = target_of(file.strip_suffix(STAGED)?)?;
        let record = [file, b"-info"].concat();
        let file = file.to_vec();
        Some((target, StagingNames { file, record }))
    }

    /// The names that `record` is the second of.
    pub fn of_record(record: &[u8]) -> Option<StagingNames> {
        target_of(record.strip_suffix(RECORD)?)?;
        let file = record.strip_suffix(b"-info")?.to_vec();
        let record = record.to_vec();
        Some(StagingNames { file, record })
    }
}

/// True for names that are haul's own.
pub fn is_reserved(name: &[u8]) -> bool {
    let stem = name.strip_suffix(STAGED).or_else(|| name.strip_suffix(RECORD));
    stem.is_some_and(|stem| target_of(stem).is_some())
}

/// `~` and digits of the name's hash.
fn mark(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    [b"~", hash.as_bytes().get(..MARK - 1).unwrap_or_default()].concat()
}

/// NAME of `.NAME~HASH`, if HASH is right; of a name that was cut it cannot be checked, only its form.
fn target_of(stem: &[u8]) -> Option<&[u8]> {
    let stem = stem.strip_prefix(b".")?;
    let (target, found) = stem.split_at_checked(stem.len().checked_sub(MARK)?)?;
    let digits = found.strip_prefix(b"~")?;
    let is_cut = target.len() == ROOM && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_cut || mark(target) == found).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &[u8]) -> StagingNames {
        StagingNames::of(&Name::parse(name).unwrap())
    }

    #[test]
    fn names_of_all_lengths_are_told_from_users_names() {
        for length in [1, 10, ROOM - 1, ROOM, ROOM + 1, MAX_NAME] {
            let name = vec![b'n'; length];
            let found = names(&name);
            assert!(found.record.len() <= MAX_NAME);
            assert!(is_reserved(&found.file) && is_reserved(&found.record), "{length}");
            let (target, same) = StagingNames::of_file(&found.file).unwrap();
            assert_eq!((target, &same), (&name[..length.min(ROOM)], &found));
            assert_eq!(StagingNames::of_record(&found.record), Some(found));
        }
        for theirs in [
            &b".notes.haul"[..],
            b".conf.haul-info",
            b".haul",
            b".haul-info",
            b"x~0123456789abcdef.haul",
            b".x~0123456789abcdef.haul",
            b".~.haul",
            b".x~ABCDEFABCDEFABCD.haul-info",
        ] {
            assert!(!is_reserved(theirs), "{theirs:?}");
            assert_eq!(StagingNames::of_file(theirs), None);
            assert_eq!(StagingNames::of_record(theirs), None);
        }
    }

    #[test]
    fn long_names_that_begin_alike_differ() {
        let long = |last: u8| {
            let mut name = vec![b'n'; MAX_NAME];
            name[MAX_NAME - 1] = last;
            names(&name)
        };
        assert_ne!(long(b'a'), long(b'b'));
    }
}
