//! Options of put and get about the way of their data.

use super::rate::{Rate, parse_rate};

/// How fast data goes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct WireArgs {
    /// Move at most RATE bytes a second: 2M, 1.5m, 500k; a number alone is in KiB, as with rsync.
    /// haul limit changes it meanwhile
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    bwlimit: Option<Rate>,
}

impl WireArgs {
    /// Bytes a second; `None`: no limit.
    pub fn rate(&self) -> Option<u64> {
        self.bwlimit.and_then(|rate| rate.0)
    }
}
