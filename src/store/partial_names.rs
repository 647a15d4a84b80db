//! The names of what haul makes beside a target.

use super::path::Name;
use super::reserved::{PARTIAL, PARTIAL_DIR, RECORD, REPLACED, stem_of, target_of};

/// The names of haul's files beside a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialNames {
    /// Of the partial file, which is the lock.
    pub file: Vec<u8>,
    /// Of the record. A symlink is staged under this name, too.
    pub record: Vec<u8>,
    /// Of the partial directory, whose lock is the partial file.
    pub dir: Vec<u8>,
    /// Of the file that is replaced, on its way to its backup.
    pub replaced: Vec<u8>,
}

impl PartialNames {
    /// The names for a target.
    pub fn of(name: &Name) -> PartialNames {
        PartialNames::of_stem(&stem_of(name.as_bytes()))
    }

    fn of_stem(stem: &[u8]) -> PartialNames {
        PartialNames {
            file: [stem, PARTIAL].concat(),
            record: [stem, RECORD].concat(),
            dir: [stem, PARTIAL_DIR].concat(),
            replaced: [stem, REPLACED].concat(),
        }
    }

    /// The name of the target, cut if it was too long, and the names for it; `None` if `file` is
    /// not the name of a partial file.
    pub fn of_file(file: &[u8]) -> Option<(&[u8], PartialNames)> {
        let stem = file.strip_suffix(PARTIAL)?;
        let target = target_of(stem)?;
        Some((target, PartialNames::of_stem(stem)))
    }

    /// The names for a target; `None` if `record` is not the name of a record.
    pub fn of_record(record: &[u8]) -> Option<PartialNames> {
        PartialNames::of_ending(record, RECORD)
    }

    /// As [`PartialNames::of_file`], of the name of a partial directory.
    pub fn of_dir(dir: &[u8]) -> Option<(&[u8], PartialNames)> {
        let target = target_of(dir.strip_suffix(PARTIAL_DIR)?)?;
        Some((target, PartialNames::of_ending(dir, PARTIAL_DIR)?))
    }

    /// The names for a target; `None` if `replaced` is not the name of a replaced file.
    pub fn of_replaced(replaced: &[u8]) -> Option<PartialNames> {
        PartialNames::of_ending(replaced, REPLACED)
    }

    fn of_ending(name: &[u8], ending: &[u8]) -> Option<PartialNames> {
        let stem = name.strip_suffix(ending)?;
        target_of(stem)?;
        Some(PartialNames::of_stem(stem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::reserved::{MAX_NAME, ROOM, is_reserved};

    fn names(name: &[u8]) -> PartialNames {
        PartialNames::of(&Name::parse(name).unwrap())
    }

    #[test]
    fn names_of_all_lengths_differ_from_users_names() {
        for length in [1, 10, ROOM - 1, ROOM, ROOM + 1, MAX_NAME] {
            let name = vec![b'n'; length];
            let found = names(&name);
            assert!(found.record.len() <= MAX_NAME);
            assert!(is_reserved(&found.file) && is_reserved(&found.record), "{length}");
            let (target, same) = PartialNames::of_file(&found.file).unwrap();
            assert_eq!((target, &same), (&name[..length.min(ROOM)], &found));
            assert!(is_reserved(&found.replaced) && is_reserved(&found.dir), "{length}");
            assert_eq!(PartialNames::of_record(&found.record), Some(found.clone()));
            let (target, same) = PartialNames::of_dir(&found.dir).unwrap();
            assert_eq!((target, &same), (&name[..length.min(ROOM)], &found));
            assert_eq!(PartialNames::of_replaced(&found.replaced), Some(found));
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
            assert_eq!(PartialNames::of_file(theirs), None);
            assert_eq!(PartialNames::of_record(theirs), None);
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
