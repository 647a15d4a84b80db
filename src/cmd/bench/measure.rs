//! How long a transfer takes, and what it mostly waits for.

use crate::cmd::output;
use crate::net::NetError;
use crate::net::transfer::report::{Counters, Event, Reporter, Waiting};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A processor that is busy for this share of the time is the limit.
const BUSY: f64 = 0.85;

/// The figures of one transfer.
pub(super) struct Measured {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) time: Duration,
    /// What it mostly waited for.
    pub(super) limit: &'static str,
}

/// Which side this machine plays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Sends,
    Receives,
}

/// Runs a transfer and measures it; its failures go to standard error.
pub(super) async fn measure<F: Future<Output = Result<(), NetError>>>(
    side: Side,
    transfer: impl FnOnce(Reporter) -> F,
) -> Result<Measured, NetError> {
    let (events, mut incoming) = mpsc::channel(64);
    let reporter = Reporter::new(events, false);
    let counters = reporter.counters.clone();
    let failures = tokio::spawn(async move {
        while let Some(event) = incoming.recv().await {
            if let Event::Failed { path, text, .. } = event {
                eprintln!("haul: {}: {}", output::name(&path), crate::net::printable(&text));
            }
        }
    });
    let (busy, started) = (BusyTime::now(), Instant::now());
    transfer(reporter).await?;
    let time = started.elapsed();
    let _ = failures.await;
    Ok(Measured {
        files: Counters::get(&counters.files_done),
        bytes: Counters::get(&counters.bytes_done),
        time,
        limit: limit(&counters, side, BusyTime::now().share_since(busy)),
    })
}

/// The part that a transfer mostly waited for.
fn limit(counters: &Counters, side: Side, busy: f64) -> &'static str {
    if busy > BUSY {
        return "processor";
    }
    let waited = |what: Waiting| counters.waited.get(what as usize).map_or(0, Counters::get);
    let all = [Waiting::Source, Waiting::Network, Waiting::Receiver];
    let most = all.into_iter().max_by_key(|what| waited(*what));
    match (side, most) {
        (Side::Sends, Some(Waiting::Source)) => "reading here",
        (Side::Sends, Some(Waiting::Network)) => "network",
        (Side::Sends, _) => "writing there",
        (Side::Receives, Some(Waiting::Receiver)) => "writing here",
        (Side::Receives, _) => "network, or reading there",
    }
}

/// How long the processors of this machine have been busy and idle since its start (proc(5),
/// /proc/stat).
#[derive(Clone, Copy)]
struct BusyTime {
    busy: u64,
    idle: u64,
}

impl BusyTime {
    fn now() -> BusyTime {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            first.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        let idle = ticks.iter().skip(3).take(2).sum();
        let all: u64 = ticks.iter().take(8).sum();
        BusyTime {
            busy: all.saturating_sub(idle),
            idle,
        }
    }

    fn share_since(self, before: BusyTime) -> f64 {
        let busy = self.busy.saturating_sub(before.busy) as f64;
        let idle = self.idle.saturating_sub(before.idle) as f64;
        if busy + idle > 0.0 { busy / (busy + idle) } else { 0.0 }
    }
}
