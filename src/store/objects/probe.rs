//! Checks that an engine is what this store needs, with scratch objects, before anything is served.
//!
//! An engine that ignores a condition and reports success would lose data without a word. So each
//! condition is tried where it holds and where it does not.

use super::engine::{Body, Condition, Engine, EngineError, Fault};
use super::keys::Keys;
use super::requests::{NONCE, Random};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Writers of the race.
const WRITERS: usize = 8;
/// Attempts of a request that fails for a moment.
const ATTEMPTS: u32 = 6;
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Why an engine cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unusable {
    /// It does not answer as it should.
    #[error("{what}: {error}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// The answer.
        error: EngineError,
    },
    /// It reports success where it must not, or otherwise does not do what it says.
    #[error(
        "{0}: files would be lost without a word. Use an engine with conditional writes, such \
        as AWS S3 or Ceph (RGW 16 and later), and a bucket without versioning"
    )]
    Unsafe(&'static str),
}

struct Probe<'a> {
    engine: &'a dyn Engine,
    random: Random,
    base: String,
}

/// Tries what this store needs beneath a prefix, and removes what it wrote.
///
/// Returns what it is, for people.
///
/// # Errors
/// [`Unusable`].
pub async fn probe(
    engine: &Arc<dyn Engine>,
    prefix: &str,
    random: &Random,
) -> Result<String, Unusable> {
    let base = Keys::new(prefix).own(&format!("probe/{:016x}/", random()));
    let probe = Probe {
        engine: &**engine,
        random: random.clone(),
        base,
    };
    let found = probe.run().await;
    let keys = ["one", "race", "gone", "parts"].map(|name| probe.key(name)).to_vec();
    let _ = engine.delete(keys).await;
    found?;
    Ok(engine.describe())
}

impl Probe<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    async fn put(&self, name: &str, condition: Condition) -> Result<String, EngineError> {
        let nonce = format!("{:016x}", (self.random)());
        let body: Body = vec![nonce.clone().into()];
        self.engine.put(&self.key(name), body, Some(nonce), condition).await
    }

    /// Repeats what fails for a moment.
    async fn settled<T, F>(
        &self,
        what: &'static str,
        request: impl Fn() -> F,
    ) -> Result<Result<T, EngineError>, Unusable>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let mut error = EngineError::new(Fault::Unavailable, "no answer");
        for attempt in 0..ATTEMPTS {
            sleep(Duration::from_millis(200).saturating_mul(attempt)).await;
            match timeout(ATTEMPT, request()).await {
                Ok(Err(e)) if e.fault.is_transient() => error = e,
                Ok(answer) => return Ok(answer),
                Err(_) => {}
            }
        }
        Err(Unusable::Failed { what, error })
    }

    async fn run(&self) -> Result<(), Unusable> {
        let failed = |what| move |error| Unusable::Failed { what, error };
        let first = "write an object";
        let unconditional = || self.put("one", Condition::Always);
        let tag = self.settled(first, unconditional).await?.map_err(failed(first))?;
        self.expect_refusal(
            ("one", Condition::Absent),
            "it replaces an object although If-None-Match says not to",
        )
        .await?;
        self.expect_refusal(
            ("one", Condition::Matches("0123456789abcdef0123456789abcdef".into())),
            "it replaces an object although If-Match names another version",
        )
        .await?;
        let mut swapped = self.swap(&tag).await?;
        if swapped == tag {
            self.engine.quote_tags();
            swapped = self.swap(&tag).await?;
        }
        if swapped == tag {
            return Err(Unusable::Unsafe("it does not replace the version that If-Match names"));
        }
        self.expect_refusal(
            ("gone", Condition::Matches(tag)),
            "it makes an object although If-Match names a version that is not there",
        )
        .await?;
        self.metadata().await?;
        self.race().await?;
        self.parts().await
    }

    /// Replaces an object of this version; returns the version that is there then.
    async fn swap(&self, tag: &str) -> Result<String, Unusable> {
        let what = "replace an object of the version that If-Match names";
        let swap = || self.put("one", Condition::Matches(tag.to_string()));
        match self.settled(what, swap).await? {
            // it is the wrong version, or an attempt without an answer has happened
            Err(e) if e.fault == Fault::Condition => self.tag("one").await,
            swapped => swapped.map_err(|error| Unusable::Failed { what, error }),
        }
    }

    async fn tag(&self, name: &str) -> Result<String, Unusable> {
        let what = "describe an object";
        let key = self.key(name);
        let head = self.settled(what, || self.engine.head(&key)).await?;
        head.map(|object| object.tag)
            .map_err(|error| Unusable::Failed { what, error })
    }

    async fn expect_refusal(
        &self,
        (name, condition): (&str, Condition),
        fault: &'static str,
    ) -> Result<(), Unusable> {
        let what = "write an object on a condition";
        match self.settled(what, || self.put(name, condition.clone())).await? {
            Ok(_) => Err(Unusable::Unsafe(fault)),
            Err(e) if matches!(e.fault, Fault::Condition | Fault::NotFound) => Ok(()),
            Err(error) => Err(Unusable::Failed { what, error }),
        }
    }

    /// Metadata come back, from HEAD and beside the bytes.
    async fn metadata(&self) -> Result<(), Unusable> {
        let what = "read an object";
        let key = self.key("one");
        let failed = |error| Unusable::Failed { what, error };
        let head = self.settled(what, || self.engine.head(&key)).await?.map_err(failed)?;
        let get = self.settled(what, || self.engine.get(&key, None)).await?.map_err(failed)?;
        let written = String::from_utf8_lossy(&get.bytes).into_owned();
        if written.len() != NONCE
            || head.record.as_ref() != Some(&written)
            || head.tag != get.object.tag
        {
            return Err(Unusable::Unsafe("an object comes back without what was written"));
        }
        let prefix = &self.base;
        let listed = self.settled(what, || self.engine.list(prefix, None, 10)).await?;
        let listed = listed.map_err(failed)?;
        match listed
            .objects
            .iter()
            .any(|object| object.key == key && object.tag == head.tag)
        {
            true => Ok(()),
            false => Err(Unusable::Unsafe("a listing lacks an object that is there")),
        }
    }

    /// Of several writers that make the same object one wins.
    async fn race(&self) -> Result<(), Unusable> {
        let writers = (0..WRITERS).map(|_| self.put("race", Condition::Absent));
        let won = join_all(writers).await.iter().filter(|result| result.is_ok()).count();
        match won {
            0 | 1 => Ok(()),
            _ => Err(Unusable::Unsafe("several writers made the same object at once")),
        }
    }

    /// An upload in parts becomes an object.
    async fn parts(&self) -> Result<(), Unusable> {
        let what = "upload an object in parts";
        let failed = |error| Unusable::Failed { what, error };
        let key = self.key("parts");
        let begun = self.settled(what, || self.engine.begin_upload(&key)).await?;
        let upload = begun.map_err(failed)?;
        let part = || self.engine.put_part(&key, &upload, 0, vec!["part".into()]);
        let tag = self.settled(what, part).await?.map_err(failed)?;
        let complete = || self.engine.complete_upload(&key, &upload, vec![tag.clone()]);
        self.settled(what, complete).await?.map_err(failed)?;
        let read = self.settled(what, || self.engine.get(&key, Some(1..3))).await?;
        match read.map_err(failed)?.bytes == b"ar" {
            true => Ok(()),
            false => Err(Unusable::Unsafe("a range of an object has other bytes")),
        }
    }
}
