//! Which entries of a tree a transfer takes: an ordered list of rules with rsync's meaning. The
//! first rule that matches an entry decides; an entry that none matches is taken.
//!
//! One thing differs from rsync: a directory that is excluded is still searched where a rule before
//! the one that excluded it may include something beneath it. So `+ *.jpg`, `- *` finds all
//! pictures without a rule for every directory.

pub mod glob;
pub mod ignore_files;
mod pattern;
mod rule;
#[cfg(test)]
mod tests;

pub use self::rule::{BadRule, Rule};
use std::collections::HashMap;
use std::sync::Arc;

/// Most bytes of the rules of a transfer, as text.
pub const MAX_FILTER: usize = 1 << 20;
/// Most bytes of rules that a receiver sends to its sender: a server keeps them for each transfer.
pub const MAX_SENT_FILTER: usize = 32 << 10;
/// Most rules of a transfer.
pub const MAX_RULES: usize = 16_384;

/// The rules of a transfer. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Filter(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    rules: Vec<Rule>,
    /// The rules that match one name, by that name, in order: a list of thousands is mostly these.
    names: HashMap<Vec<u8>, Vec<usize>>,
    /// The other rules, in order.
    others: Vec<usize>,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken, by this rule if any matched it.
    Take(Option<usize>),
    /// It is not, nor is anything beneath it, because of this rule.
    Skip(usize),
    /// A directory that this rule excludes, directly or with one above it. Something beneath it may
    /// be included.
    Descend(usize),
}

impl Filter {
    /// A filter of these rules.
    ///
    /// # Errors
    /// [`BadRule`] where they are more than [`MAX_RULES`] or [`MAX_FILTER`].
    pub fn new(rules: Vec<Rule>) -> Result<Filter, BadRule> {
        let bytes = rules.iter().map(|rule| rule.text().len().saturating_add(1));
        if rules.len() > MAX_RULES || bytes.sum::<usize>() > MAX_FILTER {
            return Err(BadRule::TooMany);
        }
        let (mut names, mut others) = (HashMap::<Vec<u8>, Vec<usize>>::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            match rule.name() {
                Some(name) => names.entry(name.to_vec()).or_default().push(index),
                None => others.push(index),
            }
        }
        Ok(Filter(Arc::new(Rules {
            rules,
            names,
            others,
        })))
    }

    /// The rules of a list of lines, `+ PATTERN` or `- PATTERN`, each ended by a NUL.
    ///
    /// # Errors
    /// [`BadRule`].
    pub fn from_wire(lines: &[u8]) -> Result<Filter, BadRule> {
        if lines.len() > MAX_SENT_FILTER {
            return Err(BadRule::TooMany);
        }
        let lines = lines.split_inclusive(|byte| *byte == 0);
        let lines = lines.map(|line| line.strip_suffix(b"\0").unwrap_or(line));
        Filter::new(lines.map(Rule::parse).collect::<Result<_, _>>()?)
    }

    /// The same lines.
    pub fn to_wire(&self) -> Vec<u8> {
        let lines = self.0.rules.iter().flat_map(|rule| [rule.text(), b"\0"]);
        lines.flatten().copied().collect()
    }

    /// The rule with this index.
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.0.rules.get(index)
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.0.rules
    }

    /// True where there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.rules.is_empty()
    }

    /// Decides about the entry at `path`, from the transfer's root. `within` is the rule of the
    /// [`Verdict::Descend`] of the directory that it is in.
    pub fn judge(&self, path: &[u8], is_dir: bool, within: Option<usize>) -> Verdict {
        let first = self.first_match(path, is_dir);
        let rule = first.and_then(|index| Some((index, self.0.rules.get(index)?)));
        let excluded_by = match (rule, within) {
            (None, None) => return Verdict::Take(None),
            (Some((index, rule)), _) if rule.includes() && within.is_none_or(|k| index < k) => {
                return Verdict::Take(Some(index));
            }
            (Some((index, rule)), _) if !rule.includes() => index.min(within.unwrap_or(index)),
            (_, Some(index)) => index,
            (Some((index, _)), None) => index,
        };
        let mut before = self.0.rules.iter().take(excluded_by);
        match is_dir && before.any(|rule| rule.may_include_beneath(path)) {
            true => Verdict::Descend(excluded_by),
            false => Verdict::Skip(excluded_by),
        }
    }

    /// The index of the first rule that matches.
    fn first_match(&self, path: &[u8], is_dir: bool) -> Option<usize> {
        let matches = |index: &usize| {
            let rule = self.0.rules.get(*index);
            rule.is_some_and(|rule| rule.matches(path, is_dir))
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let named = self.0.names.get(name);
        let named = named.and_then(|indices| indices.iter().copied().find(|i| matches(i)));
        let before = |index: &usize| named.is_none_or(|named| *index < named);
        let other = self.0.others.iter().copied().take_while(before).find(|i| matches(i));
        other.or(named)
    }
}
