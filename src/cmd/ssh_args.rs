//! Options for the way to servers: directly, or over ssh.

use super::hint;
use crate::net::lanes::greeting::LOWEST_PORT;
use std::ffi::OsString;

/// How servers are reached.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SshArgs {
    /// Reach hosts directly, over ssh, or directly if a haul server answers at port 4285 within
    /// 1.5 s and else over ssh [default: as haul login saved it, else auto]
    #[arg(long, value_name = "WAY", value_enum)]
    pub via: Option<Via>,

    /// Reach hosts with this program in place of ssh, with its options, like 'ssh -p 2222'
    #[arg(
        short = 'e',
        long = "rsh",
        value_name = "COMMAND",
        allow_hyphen_values = true,
        value_hint = hint::COMMAND,
    )]
    pub program: Option<OsString>,

    /// Over ssh, let the server listen for direct data connections on one of these ports; 0: on
    /// none [default: any]
    #[arg(long, value_name = "A-B", value_parser = parse_ports)]
    pub ports: Option<Ports>,

    /// Over ssh, carry data over N connections of ssh, for a long path without a direct connection
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=4))]
    pub ssh_lanes: Option<u8>,

    /// Over ssh, put a copy of haul to ~/.cache/haul/bin there if there is none, without asking
    #[arg(long)]
    pub install: bool,
}

impl SshArgs {
    /// True where the user wants ssh.
    pub fn is_via_ssh(&self) -> bool {
        self.via == Some(Via::Ssh) || (self.via.is_none() && self.program.is_some())
    }
}

/// How the user wants hosts to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// Directly, or else over ssh
    Auto,
    /// Directly
    Direct,
    /// Over ssh
    Ssh,
}

/// Ports for direct data connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// Any.
    #[default]
    Any,
    /// None: there are no direct connections.
    None,
    /// One of these.
    Range(u16, u16),
}

impl Ports {
    /// The first and the last port; 0 for any. `None` if there are no direct connections.
    pub fn range(self) -> Option<(u16, u16)> {
        match self {
            Ports::Any => Some((0, 0)),
            Ports::None => None,
            Ports::Range(first, last) => Some((first, last)),
        }
    }
}

/// Reads `A-B`, a single port, or 0 for none.
///
/// # Errors
/// What is expected.
pub fn parse_ports(text: &str) -> Result<Ports, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(0), Ok(0)) => Ok(Ports::None),
        (Ok(first @ LOWEST_PORT..), Ok(last)) if first <= last => Ok(Ports::Range(first, last)),
        _ => Err("expected a port, ports A-B from 1024 on, or 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(parse_ports("5000-5010"), Ok(Ports::Range(5000, 5010)));
        assert_eq!(parse_ports("5000"), Ok(Ports::Range(5000, 5000)));
        assert_eq!(parse_ports("0"), Ok(Ports::None));
        for bad in ["", "80", "9-5", "5000-4000", "70000", "a-b"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }
}
