//! One rule of a filter: whether it includes or excludes, and what it matches.

use super::pattern::{Pattern, Start};
use std::sync::Arc;

/// Longest pattern, in bytes: as long as any path.
const MAX_PATTERN: usize = 4096;

/// A rule that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// Neither `+ ` nor `- ` begins it.
    #[error("expected '+ PATTERN' or '- PATTERN'")]
    NoSign,
    /// Nothing follows the sign.
    #[error("the pattern is empty")]
    Empty,
    /// Longer than any path.
    #[error("the pattern is longer than 4096 bytes")]
    TooLong,
    /// It has a NUL, which no name has.
    #[error("the pattern has a NUL byte")]
    Nul,
    /// There are more rules than a transfer takes.
    #[error("there are more than 16384 rules, or they are too long")]
    TooMany,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    text: Vec<u8>,
    includes: bool,
    /// A slash at its end: it matches directories only.
    dirs_only: bool,
    /// `***` at its end: behind a slash it matches a directory and everything beneath it.
    with_contents: bool,
    pattern: Pattern,
    /// Where the user wrote it.
    origin: Option<Arc<str>>,
}

impl Rule {
    /// Reads `+ PATTERN` or `- PATTERN`.
    ///
    /// # Errors
    /// [`BadRule`].
    pub fn parse(line: &[u8]) -> Result<Rule, BadRule> {
        let (includes, text) = match line.split_at_checked(2) {
            Some((b"+ ", text)) => (true, text),
            Some((b"- ", text)) => (false, text),
            _ => return Err(BadRule::NoSign),
        };
        Rule::new(includes, text)
    }

    /// A rule that includes or excludes what `pattern` matches.
    ///
    /// # Errors
    /// [`BadRule`].
    pub fn new(includes: bool, pattern: &[u8]) -> Result<Rule, BadRule> {
        if pattern.len() > MAX_PATTERN {
            return Err(BadRule::TooLong);
        }
        if pattern.contains(&0) {
            return Err(BadRule::Nul);
        }
        let dirs_only = pattern.len() > 1 && pattern.ends_with(b"/");
        let shape = match dirs_only {
            true => pattern.strip_suffix(b"/").unwrap_or(pattern),
            false => pattern,
        };
        let with_contents = shape.ends_with(b"***");
        if shape.is_empty() {
            return Err(BadRule::Empty);
        }
        let sign: &[u8] = if includes { b"+ " } else { b"- " };
        Ok(Rule {
            text: [sign, pattern].concat(),
            includes,
            dirs_only,
            with_contents,
            pattern: Pattern::parse(shape),
            origin: None,
        })
    }

    /// As [`Rule::parse`] reads it.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Where the user wrote it: an option, or a line of a file. It does not travel.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Sets where the user wrote it.
    pub fn set_origin(&mut self, origin: &str) {
        self.origin = Some(origin.into());
    }

    /// True where it includes what it matches.
    pub fn includes(&self) -> bool {
        self.includes
    }

    /// The name that an entry must have, where the rule matches one name wherever it is.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.pattern.literal_name()
    }

    /// True if it matches the entry at `path`.
    pub(super) fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        if self.dirs_only && !is_dir {
            return false;
        }
        match is_dir && self.with_contents {
            true => self.pattern.matches(&[path, b"/"].concat()),
            false => self.pattern.matches(path),
        }
    }

    /// True if it may include something beneath the directory `dir`.
    pub(super) fn may_include_beneath(&self, dir: &[u8]) -> bool {
        self.includes
            && match self.pattern.start() {
                Start::Root => self.pattern.may_match_beneath(dir),
                Start::Name | Start::Anywhere | Start::Tail(_) => true,
            }
    }
}
