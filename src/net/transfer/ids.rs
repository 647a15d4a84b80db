//! Users and groups of a transfer: which of the receiver's each of the sender's becomes.

use crate::net::transfer::filter::glob::NamePattern;
use crate::store::accounts::Names;
use std::fmt;
use std::ops::RangeInclusive;

/// The most bytes of a map.
const MAX_MAP: usize = 16 << 10;
/// The most rules of a map.
const MAX_RULES: usize = 1024;

/// Rules `FROM:TO`, as the user writes them and as they travel. The first that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    text: Vec<u8>,
}

/// Why a map is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMap {
    /// A rule is not FROM:TO.
    #[error("{0} is not FROM:TO")]
    NoRule(Shown),
    /// FROM is a range that has no numbers.
    #[error("{0} is no range of numbers")]
    NoRange(Shown),
    /// TO is no user or group of the receiver.
    #[error("the receiving side has no {0} {1}")]
    Unknown(&'static str, Shown),
    /// There are too many rules.
    #[error("a map has at most 1024 rules and 16 KiB")]
    TooLong,
}

/// A piece of a map in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    fn of(text: &[u8]) -> Shown {
        Shown(String::from_utf8_lossy(text).into_owned())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug)]
enum From {
    /// Everybody: `*`.
    Any,
    /// Those without a name: nothing.
    Nameless,
    /// Those that the sender calls so.
    Name(Vec<u8>),
    /// Those with a name that matches.
    Pattern(NamePattern),
    /// Those with these numbers: `7`, `7-9`.
    Ids(RangeInclusive<u32>),
}

impl From {
    fn parse(text: &[u8]) -> Result<From, BadMap> {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
        let is_number = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
        match text {
            [] => return Ok(From::Nameless),
            b"*" => return Ok(From::Any),
            text if text.iter().any(|byte| b"*?[".contains(byte)) => {
                return Ok(From::Pattern(NamePattern::new(text)));
            }
            text if !is_number(text) => return Ok(From::Name(text.to_vec())),
            _ => {}
        }
        let mut ends = text.splitn(2, |byte| *byte == b'-');
        let first = ends.next().and_then(number);
        let last = match ends.next() {
            Some(last) => number(last),
            None => first,
        };
        match first.zip(last) {
            Some((first, last)) if first <= last => Ok(From::Ids(first..=last)),
            _ => Err(BadMap::NoRange(Shown::of(text))),
        }
    }

    fn matches(&self, id: u32, name: &[u8]) -> bool {
        match self {
            From::Any => true,
            From::Nameless => name.is_empty(),
            From::Name(wanted) => wanted == name,
            From::Pattern(pattern) => !name.is_empty() && pattern.matches(name),
            From::Ids(ids) => ids.contains(&id),
        }
    }
}

impl IdMap {
    /// Reads a map, without asking who there is.
    ///
    /// # Errors
    /// [`BadMap`].
    pub fn parse(text: &[u8]) -> Result<IdMap, BadMap> {
        let map = IdMap {
            text: text.to_vec(),
        };
        map.rules()?;
        Ok(map)
    }

    /// The map that turns all into one.
    pub fn all_to(to: &[u8]) -> IdMap {
        IdMap {
            text: [b"*:", to].concat(),
        }
    }

    /// As it travels.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// True if it has no rules.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Its rules: whom they are about, and who that becomes.
    fn rules(&self) -> Result<Vec<(From, &[u8])>, BadMap> {
        if self.text.is_empty() {
            return Ok(Vec::new());
        }
        if self.text.len() > MAX_MAP {
            return Err(BadMap::TooLong);
        }
        let mut rules = Vec::new();
        for rule in self.text.split(|byte| *byte == b',') {
            let mut halves = rule.splitn(2, |byte| *byte == b':');
            match (halves.next(), halves.next()) {
                (Some(from), Some(to)) if !to.is_empty() => rules.push((From::parse(from)?, to)),
                _ => return Err(BadMap::NoRule(Shown::of(rule))),
            }
            if rules.len() > MAX_RULES {
                return Err(BadMap::TooLong);
            }
        }
        Ok(rules)
    }
}

/// Turns the sender's users, or its groups, into those of this machine.
#[derive(Clone, Debug)]
pub struct IdMapper {
    rules: Vec<(From, u32)>,
    /// `None` if numbers stay what they are.
    names: Option<&'static Names>,
}

impl IdMapper {
    /// Resolves the names that rules turn others into. `what` they are names of: user, group. With
    /// `numeric` only rules change a number.
    ///
    /// # Errors
    /// [`BadMap`], also for a name that this machine does not have.
    pub fn new(
        map: &IdMap,
        names: &'static Names,
        what: &'static str,
        numeric: bool,
    ) -> Result<IdMapper, BadMap> {
        let mut rules = Vec::new();
        for (from, to) in map.rules()? {
            let number = std::str::from_utf8(to).ok().and_then(|to| to.parse().ok());
            let id = number.filter(|id| *id != u32::MAX).or_else(|| names.id(to));
            rules.push((from, id.ok_or_else(|| BadMap::Unknown(what, Shown::of(to)))?));
        }
        let names = (!numeric).then_some(names);
        Ok(IdMapper { rules, names })
    }

    /// Returns who `id` becomes, which the sender calls `name`. Root stays root, whatever its name
    /// is.
    pub fn map(&self, id: u32, name: &[u8]) -> u32 {
        let rule = self.rules.iter().find(|(from, _)| from.matches(id, name));
        match (rule, self.names) {
            (Some((_, to)), _) => *to,
            (None, Some(names)) if id != 0 && !name.is_empty() => names.id(name).unwrap_or(id),
            (None, _) => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts::accounts;

    fn mapped(map: &str, numeric: bool, id: u32, name: &str) -> u32 {
        let map = IdMap::parse(map.as_bytes()).unwrap();
        let mapper = IdMapper::new(&map, &accounts().users, "user", numeric).unwrap();
        mapper.map(id, name.as_bytes())
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_then_the_name() {
        let map = "kim:7,10-20:8,:9,0:5,*:6";
        for (id, name, to) in [
            (1000, "kim", 7),
            (10, "ann", 8),
            (20, "", 8),
            (21, "", 9),
            (0, "root", 5),
            (21, "ann", 6),
        ] {
            assert_eq!(mapped(map, false, id, name), to, "{id} {name}");
        }
        let patterns = "k*:7,?nn:8,[xy]z:9";
        for (id, name, to) in [(1000, "kim", 7), (1, "ann", 8), (2, "yz", 9), (3, "", 3)] {
            assert_eq!(mapped(patterns, false, id, name), to, "{id} {name}");
        }
        // every machine has a root
        assert_eq!(mapped("", false, 1000, "root"), 0);
        assert_eq!(mapped("", true, 1000, "root"), 1000);
        assert_eq!(mapped("", false, 0, "daemon"), 0);
        assert_eq!(mapped("", false, 1000, "no such user"), 1000);
        assert_eq!(mapped("*:root", true, 1000, "x"), 0);
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for (map, message) in [
            ("kim", "kim is not FROM:TO"),
            ("kim:", "kim: is not FROM:TO"),
            ("a:1,", " is not FROM:TO"),
            ("9-7:1", "9-7 is no range of numbers"),
            ("7x:1", "7x is no range of numbers"),
            ("4294967296:1", "4294967296 is no range of numbers"),
        ] {
            assert_eq!(IdMap::parse(map.as_bytes()).unwrap_err().to_string(), message);
        }
        assert_eq!(IdMap::parse(&[b'a'; MAX_MAP + 1]), Err(BadMap::TooLong));
        let map = IdMap::parse(b"*:no such user").unwrap();
        let unknown = IdMapper::new(&map, &accounts().users, "user", false).unwrap_err();
        assert_eq!(unknown.to_string(), "the receiving side has no user no such user");
        let map = IdMap::parse(b"*:4294967295").unwrap();
        assert!(IdMapper::new(&map, &accounts().users, "user", false).is_err(), "no number");
    }
}
