//! The options of `--delete`, and its guard.

use super::failure::Failure;
use super::filter::Excluded;
use super::units::parse_time;
use crate::net::deletion::plan::Plan;
use crate::net::transfer::options::{Options, PreservedTargets};
use crate::store::RemotePath;
use std::collections::HashMap;
use std::time::Duration;

/// Entries that may go without a question, however many there are.
const FEW: u64 = 100;

/// Options about deletion.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DeletionArgs {
    /// Once everything has arrived, delete at DEST what no source has. Refuses if that is more than
    /// half and more than 100 entries, or if a source is empty; =yes deletes all the same
    #[arg(
        long,
        value_name = "yes",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = parse_answer,
        aliases = ["del", "delete-before", "delete-during", "delete-delay", "delete-after"]
    )]
    delete: Option<String>,

    /// Like --delete, and delete what the rules exclude, too
    #[arg(long)]
    delete_excluded: bool,

    /// With --delete, move what it deletes to the trash of DEST for TIME; haul undelete lists and
    /// restores it
    #[arg(
        long = "keep-deleted",
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30d",
        value_parser = parse_time
    )]
    lifetime: Option<Duration>,

    /// Delete nothing if that would be more than N entries, or more than P% of DEST
    #[arg(long, value_name = "N|P%", value_parser = parse_limit)]
    max_delete: Option<Limit>,
}

/// How much may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Entries(u64),
    Percent(u64),
}

fn parse_answer(text: &str) -> Result<String, String> {
    match text {
        "" | "yes" => Ok(text.into()),
        _ => Err("expected --delete or --delete=yes".into()),
    }
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let wrong = || format!("expected a number of entries or a percentage like 20%, got {text}");
    let (digits, limit): (_, fn(u64) -> Limit) = match text.strip_suffix('%') {
        Some(digits) => (digits, Limit::Percent),
        None => (text, Limit::Entries),
    };
    digits.parse().map(limit).map_err(|_| wrong())
}

impl Limit {
    fn allows(self, count: u64, found: u64) -> bool {
        match self {
            Limit::Entries(most) => count <= most,
            Limit::Percent(most) => count.saturating_mul(100) <= found.saturating_mul(most),
        }
    }
}

impl DeletionArgs {
    /// True where something is to be deleted.
    pub fn is_wanted(&self) -> bool {
        self.delete.is_some() || self.delete_excluded
    }

    /// How long what is deleted stays in the trash; `None`: it does not go there.
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// What becomes of what the rules exclude.
    pub fn excluded(&self) -> Excluded {
        match self.delete_excluded {
            true => Excluded::Deleted,
            false => Excluded::Protected,
        }
    }

    /// Has directories and other entries replace each other where a deletion follows and all that
    /// is offered is sent.
    pub fn apply(&self, options: &mut Options) {
        let is_any_size = options.min_size.is_none() && options.max_size.is_none();
        let replaces_all = options.preserved == PreservedTargets::None && !options.existing;
        options.mirror = self.is_wanted() && is_any_size && replaces_all;
        // a file that gives way to a directory does so at once, and would not be in the trash
        options.keeps_files = self.lifetime.is_some() && options.backup.is_none();
    }

    /// Checks that directories are sent with what is in them.
    ///
    /// # Errors
    /// A usage failure.
    pub fn check(&self, recursive: bool) -> Result<(), Failure> {
        match (self.is_wanted(), recursive, self.lifetime) {
            (true, false, _) => Err(Failure::usage("--delete is for directories").hint("add -r")),
            (false, _, Some(_)) => {
                Err(Failure::usage("--keep-deleted is for deletions").hint("add --delete"))
            }
            _ => Ok(()),
        }
    }

    /// Checks where the sources go: what one of them puts into the directory of another would be
    /// deleted there.
    ///
    /// # Errors
    /// A usage failure.
    pub fn check_places(&self, places: &[(RemotePath, String)]) -> Result<(), Failure> {
        if !self.is_wanted() {
            return Ok(());
        }
        let mut mirrors = HashMap::new();
        for (place, name) in places {
            if let Some(other) = mirrors.insert(place, name) {
                return Err(overlap(name, other));
            }
        }
        for (place, name) in places {
            let mut dir = place.split().map(|(dir, _)| dir);
            while let Some(above) = dir {
                if let Some(other) = mirrors.get(&above) {
                    return Err(overlap(name, other));
                }
                dir = above.split().map(|(dir, _)| dir);
            }
        }
        Ok(())
    }

    /// Why nothing may be deleted without being asked for it.
    pub fn guard(&self, plan: &Plan, empty: Option<&str>) -> Option<Guarded> {
        let (count, found) = (plan.count(), plan.found);
        let of = || format!("{count} of {found} entries would go");
        match self.max_delete {
            Some(limit) if !limit.allows(count, found) => {
                return Some(Guarded {
                    reason: format!("{}, more than --max-delete allows", of()),
                    instead: format!("--max-delete={count}"),
                });
            }
            Some(_) => {}
            None if count > FEW && count.saturating_mul(2) > found => {
                return Some(Guarded {
                    reason: of(),
                    instead: "--delete=yes".into(),
                });
            }
            None => {}
        }
        empty.map(|source| Guarded {
            reason: format!("{source} is empty, and {}", of()),
            instead: "--delete=yes".into(),
        })
    }

    /// True where the user has answered the question of the guard.
    pub fn is_confirmed(&self) -> bool {
        self.delete.as_deref() == Some("yes") && self.max_delete.is_none()
    }
}

/// The refusal of a source that goes where the contents of another go.
fn overlap(name: &str, other: &str) -> Failure {
    Failure::usage(format!("--delete: {name} goes where the contents of {other} go"))
        .hint("transfer them one by one")
}

/// A deletion that the guard prevents.
pub struct Guarded {
    /// Why.
    pub reason: String,
    /// The option that allows it.
    pub instead: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_percentages() {
        assert_eq!(parse_limit("20%"), Ok(Limit::Percent(20)));
        assert_eq!(parse_limit("0"), Ok(Limit::Entries(0)));
        for wrong in ["", "%", "-1", "x", "1.5%"] {
            assert!(parse_limit(wrong).is_err(), "{wrong}");
        }
        assert!(Limit::Percent(50).allows(5, 10));
        assert!(!Limit::Percent(50).allows(6, 10));
        assert!(!Limit::Entries(5).allows(6, 1000));
    }
}
