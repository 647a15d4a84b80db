//! Confinement of the server by Landlock, if the kernel has it.
//!
//! It is the second wall. The first one opens every path beneath the root's handle. If that fails,
//! this one still keeps the process from opening anything outside its root and its state, and from
//! starting other programs.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use std::path::Path;

/// The newest version of Landlock whose rights are used; an older kernel enforces those that it
/// knows.
const NEWEST: ABI = ABI::V5;
/// The files of the time zone, for the log.
const READABLE: [&str; 2] = ["/etc/localtime", "/usr/share/zoneinfo"];

/// Confines the calling thread, and those that it starts from now on, to reading and writing
/// beneath `root` and `state`, and to connections to these ports. Returns false if the kernel has
/// no Landlock.
///
/// # Errors
/// If the kernel has it and refuses.
pub fn confine(root: &Path, state: &Path, ports: &[u16]) -> Result<bool, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::ConnectTcp)?
        .create()?;
    for port in ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let all = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    for path in [root, state] {
        // both have been opened before: a directory that cannot be opened now would not be served
        // either
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
