//! Confinement of the server by Landlock, if the kernel has it.
//!
//! It is the second wall. The first one opens every path beneath the root's handle. If that fails,
//! this one still keeps the process from opening anything outside its root and its state, and from
//! starting other programs.

use super::calls::{self, Sockets};
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

/// The files of resolvers and of certificates, for the engine of an object store.
const OF_NETWORK: [&str; 8] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/ssl",
    "/etc/pki",
    "/usr/share/ca-certificates",
    "/usr/lib/ssl",
];

/// Names the file of a web identity, from which credentials are renewed.
const WEB_IDENTITY: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";

/// The connections that a server may make.
pub enum Network {
    /// By TCP, to these ports.
    Ports(Vec<u16>),
    /// To the engine of an object store, and to what finds it and knows its credentials.
    Engine,
}

/// Confines the calling thread, and those that it starts from now on, by both walls: to these
/// directories and these connections, and to the system calls of a server. What the kernel
/// does not have is done without; the log says so.
pub fn confine_to(directories: &[&Path], network: &Network) {
    match confine(directories, network) {
        Ok(true) => tracing::debug!("confined by Landlock"),
        Ok(false) => tracing::debug!("this kernel has no Landlock"),
        Err(e) => tracing::warn!(error = %e, "Landlock failed; running without it"),
    }
    let sockets = match network {
        Network::Ports(ports) if ports.is_empty() => Sockets::None,
        Network::Ports(_) => Sockets::Tcp,
        Network::Engine => Sockets::Internet,
    };
    match calls::restrict(sockets) {
        Ok(true) => tracing::debug!("confined by seccomp"),
        Ok(false) => tracing::debug!("no seccomp filter for this architecture"),
        Err(e) => tracing::warn!(error = %e, "seccomp failed; running without it"),
    }
}

/// Confines the calling thread to reading and writing beneath these directories, and to these
/// connections. Returns false if the kernel has no Landlock.
///
/// # Errors
/// If the kernel has it and refuses.
fn confine(directories: &[&Path], network: &Network) -> Result<bool, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?;
    let (mut rules, readable) = match network {
        Network::Ports(ports) => {
            let mut rules = rules.handle_access(AccessNet::ConnectTcp)?.create()?;
            for port in ports {
                rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
            }
            (rules, &[][..])
        }
        Network::Engine => (rules.create()?, &OF_NETWORK[..]),
    };
    let all = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    for path in directories {
        // all have been opened before: a directory that cannot be opened now would not be served
        // either
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, all))?;
        }
    }
    let token = std::env::var(WEB_IDENTITY).ok().filter(|_| !readable.is_empty());
    let readable = READABLE.iter().chain(readable).copied().chain(token.as_deref());
    for path in readable {
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
