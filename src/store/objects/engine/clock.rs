//! The engine's clock: engines refuse requests whose time is not near theirs.

use std::time::Duration;

/// How far a clock may be off before it is worth a word: engines allow 15 minutes.
const ALLOWED: i64 = 10 * 60;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Asks an engine for its time.
pub struct EngineClock {
    client: reqwest::Client,
    endpoint: String,
}

impl EngineClock {
    /// The clock of the engine at this address. It loads what it needs to know certificates: a
    /// confined process could not.
    pub fn new(endpoint: &str) -> Option<EngineClock> {
        let client = reqwest::Client::builder().timeout(ANSWER).build().ok()?;
        Some(EngineClock {
            client,
            endpoint: endpoint.to_string(),
        })
    }

    /// The time in an answer's header, since 1970. Any answer has one, also a refusal.
    pub async fn now(&self) -> Option<Duration> {
        let answer = self.client.head(&self.endpoint).send().await.ok()?;
        let date = answer.headers().get("date")?.to_str().ok()?;
        let time = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
        Some(Duration::from_secs(u64::try_from(time.as_second()).ok()?))
    }
}

/// What to say of this machine's clock if the engine's is far from it; both in seconds since 1970.
pub fn difference(here: i64, engine: i64) -> Option<String> {
    let off = here.saturating_sub(engine);
    let direction = if off > 0 { "ahead of" } else { "behind" };
    let minutes = off.saturating_abs() / 60;
    (off.saturating_abs() > ALLOWED).then(|| {
        format!("this machine's clock is {minutes} minutes {direction} the engine's: set it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_named() {
        assert_eq!(difference(1000, 1000 + ALLOWED), None);
        let ahead = difference(10_000, 10_000 - 1500).unwrap();
        assert!(ahead.contains("25 minutes ahead"), "{ahead}");
        let behind = difference(10_000, 10_000 + 1500).unwrap();
        assert!(behind.contains("25 minutes behind"), "{behind}");
    }
}
