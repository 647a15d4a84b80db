//! Whether a frame is worth compressing, as a calculation: how fast the link and the encoder were,
//! and whether the last frames got smaller.

use std::time::Duration;

/// When a transfer compresses its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// Where the link turns out to be slower than 200 MB/s, and than the encoder.
    #[default]
    Auto,
    /// The same, and also before the link has been measured.
    Eager,
    /// Never.
    Never,
    /// Whatever the link is, at this level of zstd: 1 to [`MOST_LEVEL`].
    Level(u8),
}

/// The highest level of zstd.
pub const MOST_LEVEL: u8 = 19;
/// The highest level at which a server compresses: its encoders take less than 2 MiB each.
pub const MOST_SERVER_LEVEL: u8 = 3;
/// A link of so many bytes a second is faster without compression.
const FAST: f64 = 200e6;
/// Below this rate the encoder has time for the better of the two automatic levels.
const SLOW: f64 = 40e6;
const QUICK_LEVEL: u8 = 1;
const GOOD_LEVEL: u8 = 3;
/// A frame gets smaller by at least one part in this many, or travels as it is.
const LEAST_GAIN: usize = 20;
/// Bytes after which older measurements count half.
const FORGET: f64 = 8e6;
/// The least that a measurement needs: bytes, or seconds.
const LEAST_BYTES: f64 = 1e6;
const LEAST_SECONDS: f64 = 0.05;
/// The most frames that go uncompressed, one after another, before another one is tried.
const MOST_SKIPPED: u32 = 32;

impl Packing {
    /// The same for a server, whose memory is all users'.
    #[must_use]
    pub fn of_server(self) -> Packing {
        match self {
            Packing::Level(level) => Packing::Level(level.min(MOST_SERVER_LEVEL)),
            other => other,
        }
    }
}

/// Returns true if a payload of `raw` bytes is to travel as `packed` bytes.
pub(super) fn is_gain(raw: usize, packed: usize) -> bool {
    packed < raw.saturating_sub(raw / LEAST_GAIN)
}

/// Frames that are not tried after so many failures.
fn skipped(failures: u32) -> u32 {
    1_u32.checked_shl(failures).unwrap_or(MOST_SKIPPED).min(MOST_SKIPPED)
}

/// A rate over the last few megabytes.
#[derive(Debug, Default)]
struct Meter {
    bytes: f64,
    seconds: f64,
}

impl Meter {
    fn add(&mut self, bytes: usize, took: Duration) {
        self.bytes += bytes as f64;
        self.seconds += took.as_secs_f64();
        if self.bytes > FORGET {
            self.bytes /= 2.0;
            self.seconds /= 2.0;
        }
    }

    fn rate(&self) -> Option<f64> {
        let is_enough = self.bytes >= LEAST_BYTES || self.seconds >= LEAST_SECONDS;
        (is_enough && self.seconds > 0.0).then(|| self.bytes / self.seconds)
    }
}

/// The link of a session as its frames find it now.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkState {
    /// Connections that send at once.
    pub(super) connections: usize,
    /// The lowest limit, in bytes a second.
    pub(super) limit: Option<u64>,
}

/// What is known of a session's link and of its encoders.
#[derive(Debug)]
pub(super) struct PackingJudge {
    /// One connection.
    link: Meter,
    /// One encoder.
    encoder: Meter,
    /// Encoders at once.
    encoders: usize,
    /// Frames that got no smaller, one after another.
    misses: u32,
    /// How often the encoders were slower than the link, one after another.
    slow: u32,
    /// Frames that are to travel as they are, before another one is tried.
    skip: u32,
}

impl PackingJudge {
    /// Nothing is known, of so many encoders.
    pub(super) fn new(encoders: usize) -> PackingJudge {
        PackingJudge {
            link: Meter::default(),
            encoder: Meter::default(),
            encoders,
            misses: 0,
            slow: 0,
            skip: 0,
        }
    }

    /// A connection took so long for bytes of frames.
    pub(super) fn sent(&mut self, bytes: usize, took: Duration) {
        self.link.add(bytes, took);
    }

    /// An encoder took so long for a payload of `raw` bytes, and made `packed` of them.
    pub(super) fn encoded(&mut self, raw: usize, packed: usize, took: Duration) {
        self.encoder.add(raw, took);
        match is_gain(raw, packed) {
            true => self.misses = 0,
            false => self.missed(),
        }
    }

    /// A sample got no smaller.
    pub(super) fn missed(&mut self) {
        self.misses = self.misses.saturating_add(1);
        self.skip = skipped(self.misses);
    }

    /// The level at which the next frame is compressed; `None`: it travels as it is.
    pub(super) fn level(&mut self, packing: Packing, now: LinkState) -> Option<u8> {
        let level = match (packing, self.link(now)) {
            (Packing::Never, _) | (Packing::Auto, None) => return None,
            (Packing::Level(level), _) => level.clamp(1, MOST_LEVEL),
            (Packing::Eager, None) => QUICK_LEVEL,
            (Packing::Auto | Packing::Eager, Some(link)) => self.automatic(link)?,
        };
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
            return None;
        }
        Some(level)
    }

    /// Bytes a second of the whole link.
    fn link(&self, now: LinkState) -> Option<f64> {
        let measured = self.link.rate().map(|rate| rate * now.connections.max(1) as f64);
        let limit = now.limit.map(|limit| limit as f64);
        measured.into_iter().chain(limit).reduce(f64::min)
    }

    fn automatic(&mut self, link: f64) -> Option<u8> {
        let encoders = self.encoder.rate().map(|rate| rate * self.encoders as f64);
        if link >= FAST {
            return None;
        }
        if encoders.is_some_and(|encoders| encoders < link) {
            // the machine may be less busy later
            self.encoder = Meter::default();
            self.slow = self.slow.saturating_add(1);
            self.skip = skipped(self.slow);
        } else if encoders.is_some() {
            self.slow = 0;
        }
        Some(if link < SLOW { GOOD_LEVEL } else { QUICK_LEVEL })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: LinkState = LinkState {
        connections: 4,
        limit: None,
    };

    /// A judge of a link with four connections of so many bytes a second each.
    fn judge(link: f64) -> PackingJudge {
        let mut judge = PackingJudge::new(2);
        judge.sent(1 << 20, Duration::from_secs_f64(f64::from(1 << 20) / link));
        judge
    }

    #[test]
    fn the_link_decides() {
        let level = |link, packing| judge(link).level(packing, NOW);
        assert_eq!(level(1e6, Packing::Auto), Some(GOOD_LEVEL));
        assert_eq!(level(20e6, Packing::Auto), Some(QUICK_LEVEL));
        assert_eq!(level(60e6, Packing::Auto), None);
        assert_eq!(level(60e6, Packing::Eager), None);
        assert_eq!(level(1e6, Packing::Never), None);
        assert_eq!(level(1e9, Packing::Level(200)), Some(MOST_LEVEL));
        let unknown = |packing| PackingJudge::new(2).level(packing, NOW);
        assert_eq!((unknown(Packing::Auto), unknown(Packing::Eager)), (None, Some(QUICK_LEVEL)));
        let limited = LinkState {
            limit: Some(1 << 20),
            ..NOW
        };
        assert_eq!(PackingJudge::new(2).level(Packing::Auto, limited), Some(GOOD_LEVEL));
    }

    #[test]
    fn an_encoder_that_is_slower_than_the_link_is_seldom_tried() {
        let mut judge = judge(20e6);
        let mut tried = 0;
        for _ in 0..1000 {
            if judge.level(Packing::Auto, NOW).is_some() {
                tried += 1;
                judge.encoded(1 << 20, 1 << 18, Duration::from_millis(50));
            }
        }
        assert!((10..100).contains(&tried), "{tried}");
    }

    #[test]
    fn what_gets_no_smaller_is_seldom_tried_and_what_does_always() {
        let mut judge = judge(1e6);
        let mut tries = |packed| {
            let tried = (0..1000).filter(|_| {
                judge.level(Packing::Auto, NOW).is_some() && {
                    judge.encoded(1000, packed, Duration::ZERO);
                    true
                }
            });
            tried.count()
        };
        let misses = tries(960);
        assert!((25..60).contains(&misses), "{misses}");
        assert!(tries(940) > 960);
        assert!(is_gain(1000, 949) && !is_gain(1000, 950));
        assert!(!is_gain(1, 1));
    }
}
