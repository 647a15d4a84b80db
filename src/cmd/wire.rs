//! Options of put and get about the way of their data: rate and compression.

use super::rate::{Rate, parse_rate};
use crate::net::data::packing::{MOST_LEVEL, Packing};

/// How data travels.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct WireArgs {
    /// Move at most RATE bytes a second: 2M, 1.5m, 500k; a number alone is in KiB, as with rsync.
    /// haul limit changes it meanwhile
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    bwlimit: Option<Rate>,

    /// Compress from the start. Without it haul compresses once the link turns out to be slower
    /// than 200 MB/s and than the processor (auto). With a level of zstd, 1 to 19, haul compresses
    /// on every link; a server uses 3 at most. haul never compresses what gets no smaller
    #[arg(
        short = 'z',
        long,
        value_name = "auto|LEVEL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        value_parser = parse_packing,
        overrides_with = "no_compress"
    )]
    compress: Option<Packing>,

    /// Do not compress
    #[arg(long)]
    no_compress: bool,
}

impl WireArgs {
    /// Bytes a second; `None`: no limit.
    pub fn rate(&self) -> Option<u64> {
        self.bwlimit.and_then(|rate| rate.0)
    }

    /// When the sender compresses.
    pub fn packing(&self) -> Packing {
        match self.no_compress {
            true => Packing::Never,
            false => self.compress.unwrap_or_default(),
        }
    }
}

fn parse_packing(text: &str) -> Result<Packing, String> {
    match (text, text.parse()) {
        ("yes", _) => Ok(Packing::Eager),
        ("auto", _) => Ok(Packing::Auto),
        (_, Ok(level @ 1..=MOST_LEVEL)) => Ok(Packing::Level(level)),
        _ => Err(format!("expected auto or a level from 1 to {MOST_LEVEL}, got {text}")),
    }
}
