//! Confinement of the server by the kernel: Landlock, where there is any.
//!
//! It is the second wall. The first is that every path is opened beneath the root's handle; this one holds should that
//! fail: the process can open nothing outside what it serves and its own state any more, and start no other program.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};
use std::path::Path;

/// The newest version of Landlock whose rights are asked for; an older kernel gives those that it has.
const NEWEST: ABI = ABI::V5;
/// What a time zone is read from, for the log.
const READABLE: [&str; 2] = ["/etc/localtime", "/usr/share/zoneinfo"];

/// Confines the calling thread, and those that it starts from now on, to reading and writing beneath `root` and `state`.
/// False where the kernel has no Landlock.
///
/// # Errors
/// Where the kernel has it and refuses.
pub fn confine(root: &Path, state: &Path) -> Result<bool, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?;
    let all = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    for path in [root, state] {
        // both have been opened before: what cannot be opened now would not be served either
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, all))?;
        }
    }
    for path in READABLE {
        if let Ok(fd) = PathFd::new(path) {
            let rights = match Path::new(path).is_dir() {
                true => AccessFs::from_read(NEWEST) & !AccessFs::Execute,
                false => AccessFs::ReadFile.into(),
            };
            rules = rules.add_rule(PathBeneath::new(fd, rights))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}
