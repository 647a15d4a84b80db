//! Shell patterns in paths: `*`, `?`, `[…]` and `{a,b}` within a component, and `**`.
//!
//! A pattern is matched component by component. The positions that a directory's path may have
//! reached in it ([`States`]) tell which of the directory's names match, and which lead on.

use super::pattern::Pattern;
use crate::store::Name;
use std::collections::BTreeSet;

/// Most alternatives that the braces of a pattern have together.
pub const MAX_ALTERNATIVES: usize = 64;
/// Most bytes of all alternatives: each name of a directory is matched against all of them.
pub const MAX_EXPANDED: usize = 2 << 10;
/// Most components of all alternatives.
pub const MAX_PARTS: usize = 128;

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// It has too many alternatives or components, or is too long.
    #[error("it has too many parts (at most 64 alternatives, 128 components and 2 KiB)")]
    TooLong,
    /// A component that no name can match: `..`, or a name of haul's own.
    #[error("a component of it is not allowed")]
    Component,
}

/// A component of a pattern.
#[derive(Clone, Debug)]
enum Part {
    /// One name.
    Name(Name),
    /// Names that match; hidden ones only if it begins with a dot.
    Names { pattern: Pattern, hidden: bool },
    /// `**`: any number of directories, or at the end everything beneath.
    Deep,
}

/// A pattern of a path.
#[derive(Clone, Debug)]
pub struct Glob {
    alternatives: Vec<Vec<Part>>,
}

/// The positions that a path has reached in a pattern: an alternative, and a component of it.
pub type States = BTreeSet<(usize, usize)>;

/// What a name means in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The path matches.
    pub matched: bool,
    /// The positions beneath it.
    pub beneath: States,
    /// Those of them that also count where it is a symlink to a directory: `**` follows none.
    pub through_links: States,
}

/// True of a path that may be a pattern.
pub fn is_pattern(path: &[u8]) -> bool {
    path.iter().any(|byte| b"*?[{".contains(byte))
}

impl Glob {
    /// Reads a pattern, of a path without a slash before it.
    ///
    /// # Errors
    /// [`BadGlob`].
    pub fn parse(text: &[u8]) -> Result<Glob, BadGlob> {
        let alternatives = expand(text)?;
        let alternatives = alternatives.iter().map(|text| {
            let parts = text.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            let mut parts = parts.map(Part::parse).collect::<Result<Vec<_>, _>>()?;
            // one `**` stands for as many directories as several
            parts.dedup_by(|a, b| matches!((a, b), (Part::Deep, Part::Deep)));
            Ok(parts)
        });
        let glob = Glob {
            alternatives: alternatives.collect::<Result<_, _>>()?,
        };
        match glob.parts() {
            ..=MAX_PARTS => Ok(glob),
            _ => Err(BadGlob::TooLong),
        }
    }

    /// Components of all alternatives: a path has at most as many positions.
    pub fn parts(&self) -> usize {
        self.alternatives.iter().map(Vec::len).sum()
    }

    /// The positions at the top.
    pub fn start(&self) -> States {
        let starts = self.alternatives.iter().enumerate().filter(|(_, parts)| !parts.is_empty());
        self.closed(starts.map(|(alternative, _)| (alternative, 0)).collect())
    }

    /// What `name` means in a directory at these positions.
    pub fn step(&self, states: &States, name: &Name) -> Step {
        let is_hidden = name.as_bytes().starts_with(b".");
        let mut step = Step::default();
        for (alternative, at) in states {
            let (part, next) = (self.part(*alternative, *at), at.saturating_add(1));
            let is_last = self.part(*alternative, next).is_none();
            match part {
                Some(Part::Deep) if !is_hidden => {
                    step.matched |= is_last;
                    step.beneath.insert((*alternative, *at));
                }
                Some(part) if part.matches(name, is_hidden) => {
                    step.matched |= is_last;
                    if !is_last {
                        step.through_links.insert((*alternative, next));
                    }
                }
                _ => {}
            }
        }
        step.through_links = self.closed(step.through_links);
        step.beneath.extend(step.through_links.iter().copied());
        step.beneath = self.closed(step.beneath);
        step
    }

    /// The names that match at these positions or lead on, where there are no others.
    pub fn names(&self, states: &States) -> Option<BTreeSet<Name>> {
        let names = states.iter().map(|(alternative, at)| match self.part(*alternative, *at) {
            Some(Part::Name(name)) => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    /// True if this path matches.
    pub fn matches(&self, path: &crate::store::RemotePath) -> bool {
        let (mut states, mut matched) = (self.start(), false);
        for name in path.components() {
            let step = self.step(&states, &name);
            (states, matched) = (step.beneath, step.matched);
        }
        matched
    }

    fn part(&self, alternative: usize, at: usize) -> Option<&Part> {
        self.alternatives.get(alternative)?.get(at)
    }

    /// With the positions behind each `**`, which may stand for no directory at all.
    fn closed(&self, states: States) -> States {
        let mut closed = States::new();
        for (alternative, mut at) in states {
            if !closed.insert((alternative, at)) {
                // and all behind it
                continue;
            }
            while matches!(self.part(alternative, at), Some(Part::Deep))
                && self.part(alternative, at.saturating_add(1)).is_some()
            {
                at = at.saturating_add(1);
                closed.insert((alternative, at));
            }
        }
        closed
    }
}

impl Part {
    fn parse(text: &[u8]) -> Result<Part, BadGlob> {
        if text == b"**" {
            return Ok(Part::Deep);
        }
        if text.iter().any(|byte| b"*?[".contains(byte)) {
            return Ok(Part::Names {
                pattern: Pattern::parse(text),
                hidden: text.starts_with(b".") || text.starts_with(b"\\."),
            });
        }
        Name::parse(text).map(Part::Name).map_err(|_| BadGlob::Component)
    }

    fn matches(&self, name: &Name, is_hidden: bool) -> bool {
        match self {
            Part::Name(wanted) => wanted == name,
            Part::Names { pattern, hidden } => {
                (*hidden || !is_hidden) && pattern.matches(name.as_bytes())
            }
            Part::Deep => false,
        }
    }
}

/// A pattern of names, without a component's rules: it matches hidden names, too.
#[derive(Clone, Debug)]
pub struct NamePattern(Pattern);

impl NamePattern {
    /// Reads a pattern.
    pub fn new(text: &[u8]) -> NamePattern {
        NamePattern(Pattern::parse(text))
    }

    /// True if it matches a name.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.matches(name)
    }
}

/// All texts that the braces of a pattern stand for. Braces without a comma are themselves.
fn expand(text: &[u8]) -> Result<Vec<Vec<u8>>, BadGlob> {
    let (mut todo, mut done) = (vec![text.to_vec()], Vec::new());
    let mut bytes = 0_usize;
    while let Some(text) = todo.pop() {
        let Some(group) = first_group(&text) else {
            bytes = bytes.saturating_add(text.len());
            done.push(text);
            if done.len() > MAX_ALTERNATIVES || bytes > MAX_EXPANDED {
                return Err(BadGlob::TooLong);
            }
            continue;
        };
        if todo.len().saturating_add(group.choices.len()) > MAX_ALTERNATIVES {
            return Err(BadGlob::TooLong);
        }
        let whole = |choice: &&[u8]| [group.before, choice, group.behind].concat();
        todo.extend(group.choices.iter().rev().map(whole));
    }
    Ok(done)
}

/// The first braces that have a comma, and the texts around them.
struct Group<'a> {
    before: &'a [u8],
    choices: Vec<&'a [u8]>,
    behind: &'a [u8],
}

fn first_group(text: &[u8]) -> Option<Group<'_>> {
    let opens = text.iter().enumerate().filter(|(at, byte)| {
        let escaped = text.get(..*at).is_some_and(|before| before.ends_with(b"\\"));
        **byte == b'{' && !escaped
    });
    opens.map(|(open, _)| open).find_map(|open| group_at(text, open))
}

fn group_at(text: &[u8], open: usize) -> Option<Group<'_>> {
    let (mut depth, mut choices, mut from) = (0_usize, Vec::new(), open.saturating_add(1));
    let mut bytes = text.iter().enumerate().skip(from);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'{' => depth = depth.saturating_add(1),
            b'}' if depth > 0 => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                choices.push(text.get(from..at)?);
                from = at.saturating_add(1);
            }
            b'}' => {
                choices.push(text.get(from..at)?);
                let (before, behind) = (text.get(..open)?, text.get(at.saturating_add(1)..)?);
                return (choices.len() > 1).then_some(Group {
                    before,
                    choices,
                    behind,
                });
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RemotePath;

    fn matches(pattern: &str, path: &str) -> bool {
        let glob = Glob::parse(pattern.as_bytes()).unwrap();
        glob.matches(&RemotePath::parse(path.as_bytes()).unwrap())
    }

    #[test]
    fn patterns_match_as_a_shells_do() {
        for (pattern, path, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("[.]x", ".x", false),
            ("?", "a", true),
            ("[!a]b", "cb", true),
            ("d/*/f", "d/e/f", true),
            ("d/*/f", "d/f", false),
            ("**/f", "f", true),
            ("**/f", "a/b/f", true),
            ("**/f", "a/.b/f", false),
            ("**/**/f", "a/f", true),
            ("a/**", "a", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a/.b", false),
            ("a/**/c/*.d", "a/x/c/e.d", true),
            ("{a,b/c}.d", "b/c.d", true),
            ("{a,{b,c}}", "c", true),
            ("{a}", "{a}", true),
            ("x{,y}", "x", true),
            ("\\*?", "*b", true),
            ("\\*?", "ab", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_have_bounds_and_lead_nowhere_above() {
        let parse = |text: &[u8]| Glob::parse(text).map(drop);
        assert_eq!(parse(b"{../x,a}"), Err(BadGlob::Component));
        assert_eq!(parse(&b"{a,b}".repeat(7)), Err(BadGlob::TooLong));
        assert_eq!(
            parse(&[&b"{a,b}".repeat(6)[..], &[b'x'; 200]].concat()),
            Err(BadGlob::TooLong)
        );
        assert!(parse(&b"{a,b}".repeat(6)).is_ok());
        assert!(parse(&b"{".repeat(4000)).is_err(), "a name of 4,000 bytes");
        assert!(parse(b"").is_ok() && !matches("", "a"));
    }

    #[test]
    fn symlinks_are_passed_by_what_names_them_only() {
        let name = Name::parse(b"link").unwrap();
        let step = |pattern: &[u8]| {
            let glob = Glob::parse(pattern).unwrap();
            let step = glob.step(&glob.start(), &name);
            (!step.beneath.is_empty(), !step.through_links.is_empty())
        };
        assert_eq!(step(b"**/x"), (true, false));
        assert_eq!(step(b"l*/x"), (true, true));
    }
}
