//! Requests to the engine, each until its outcome is known or its time is over.
//!
//! A request that failed for a moment is sent a second time, later and later, by a random part
//! more. A write with a condition may have happened although its answer says otherwise: the answer
//! was lost, or the engine reports an internal error to the loser of a race. So every such write
//! carries a nonce, and an unclear answer is followed by a look at the object.

use super::clock::now;
use super::engine::clock::difference;
use super::engine::{Body, Condition, Content, Engine, EngineError, Fault, Listing, Object};
use super::outcome::{Failed, Swapped, Write};
use super::retry::Retry;
use crate::store::shares::{Share, Shares};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Requests under way at once: one user alone has half of them, 64.
const AT_ONCE: u64 = 128;
/// How long one attempt may take before it counts as lost. A node of an engine that dies holds up
/// requests for 12 s.
const ATTEMPT: Duration = Duration::from_secs(20);
/// The least rate at which bytes are expected to move, in bytes a second.
const LEAST_RATE: u64 = 256 << 10;
/// How long after it was lost a request may be carried out.
const LATEST: Duration = Duration::from_secs(30);
/// Bytes of a record's nonce, as text.
pub const NONCE: usize = 16;

/// Where random numbers come from.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Sends requests to an engine. Cheap to clone.
#[derive(Clone)]
pub struct Requests {
    engine: Arc<dyn Engine>,
    turns: Arc<Shares>,
    owner: Arc<str>,
    random: Random,
}

impl Requests {
    /// Sends requests to `engine`.
    pub fn new(engine: Arc<dyn Engine>, random: Random) -> Requests {
        Requests {
            engine,
            turns: Shares::new(AT_ONCE, 1),
            owner: "".into(),
            random,
        }
    }

    /// The same for one user, who gets a fair share of the requests.
    pub fn of(&self, owner: &str) -> Requests {
        Requests {
            owner: owner.into(),
            ..self.clone()
        }
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        (self.random)()
    }

    /// A nonce, which no other write of any server has.
    pub fn nonce(&self) -> String {
        format!("{:016x}", self.random())
    }

    /// Describes an object; `None` if there is none.
    ///
    /// # Errors
    /// The last one, after all attempts.
    pub async fn head(&self, key: &str) -> Result<Option<Object>, Failed> {
        found(self.repeat(key, 0, || self.engine.head(key)).await)
    }

    /// Reads an object, or some of its bytes; `None` if there is none.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<Content>, Failed> {
        let size = range
            .as_ref()
            .map_or(1 << 20, |range| range.end.saturating_sub(range.start));
        found(self.repeat(key, size, || self.engine.get(key, range.clone())).await)
    }

    /// Lists objects.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing, Failed> {
        self.repeat(prefix, 0, || self.engine.list(prefix, after, limit)).await
    }

    /// Writes an object under a key that no other write has.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn put_unique(&self, key: &str, body: Body) -> Result<String, Failed> {
        let size = size_of(&body);
        let put = || self.engine.put(key, body.clone(), None, Condition::Always);
        self.repeat(key, size, put).await
    }

    /// Removes objects under keys that nothing is going to be written to.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn delete(&self, keys: Vec<String>) -> Result<(), Failed> {
        let key = keys.first().cloned().unwrap_or_default();
        self.repeat(&key, 0, || self.engine.delete(keys.clone())).await
    }

    /// Removes an object with one attempt. A second one could meet what somebody has written
    /// meanwhile, and so could the first one if it is carried out late.
    ///
    /// # Errors
    /// That of the attempt.
    pub async fn delete_once(&self, key: &str) -> Result<(), Failed> {
        let attempt = self.attempt(0, || self.engine.delete(vec![key.to_string()])).await;
        let (key, unknown) = (key.to_string(), true);
        attempt.map_err(|error| Failed {
            key,
            error,
            unknown,
        })
    }

    /// Removes objects, and returns when no attempt can be carried out any more: what is written
    /// there later stays.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn delete_settled(&self, keys: Vec<String>) -> Result<(), Failed> {
        let key = keys.first().cloned().unwrap_or_default();
        let (mut retry, mut unclear) = (Retry::new(), None);
        loop {
            let error = match self.attempt(0, || self.engine.delete(keys.clone())).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if error.fault == Fault::Unavailable {
                unclear = Some(Instant::now());
            }
            if !error.fault.is_transient() || !retry.pause(self.random()).await {
                let unknown = unclear.is_some();
                return Err(Failed {
                    key,
                    error,
                    unknown,
                });
            }
        }
        if let Some(unclear) = unclear {
            tokio::time::sleep_until(unclear + LATEST).await;
        }
        Ok(())
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn begin_upload(&self, key: &str) -> Result<String, Failed> {
        self.repeat(key, 0, || self.engine.begin_upload(key)).await
    }

    /// Uploads a part.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn put_part(
        &self,
        (key, upload): (&str, &str),
        number: usize,
        body: Body,
    ) -> Result<String, Failed> {
        let size = size_of(&body);
        let put = || self.engine.put_part(key, upload, number, body.clone());
        self.repeat(key, size, put).await
    }

    /// Completes an upload of `size` bytes. After a lost answer the upload is gone and the object
    /// is there: then its size says that this is so.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn complete_upload(
        &self,
        (key, upload): (&str, &str),
        parts: Vec<String>,
        size: u64,
    ) -> Result<(), Failed> {
        let complete = || self.engine.complete_upload(key, upload, parts.clone());
        match self.repeat(key, 0, complete).await {
            Err(e) if matches!(e.error.fault, Fault::NotFound | Fault::Refused) => {
                match self.head(key).await? {
                    Some(object) if object.size >= size => Ok(()),
                    _ => Err(e),
                }
            }
            ended => ended.map(drop),
        }
    }

    /// Forgets an upload; one that is gone is no error.
    ///
    /// # Errors
    /// As [`Requests::head`].
    pub async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), Failed> {
        let aborted = self.repeat(key, 0, || self.engine.abort_upload(key, upload)).await;
        found(aborted).map(drop)
    }

    /// Writes an object if its condition holds. Whatever the answers are, the result says what
    /// happened.
    ///
    /// # Errors
    /// The engine's refusal, or that the outcome is not known after all attempts.
    pub async fn swap(&self, write: Write) -> Result<Swapped, Failed> {
        let Write {
            key,
            body,
            record,
            condition,
        } = write;
        let size = size_of(&body);
        let (mut retry, mut unclear) = (Retry::new(), false);
        loop {
            let put = || {
                let (body, record) = (body.clone(), Some(record.clone()));
                self.engine.put(&key, body, record, condition.clone())
            };
            let error = match self.attempt(size, put).await {
                Ok(tag) => return Ok(Swapped::Done(tag)),
                Err(e) if e.fault == Fault::Condition || e.fault.is_transient() => e,
                Err(error) => {
                    let unknown = unclear;
                    return Err(Failed {
                        key,
                        error,
                        unknown,
                    });
                }
            };
            unclear = unclear || error.fault != Fault::Condition;
            let there = match self.head(&key).await {
                Ok(there) => there,
                Err(failed) => {
                    return Err(Failed {
                        unknown: true,
                        ..failed
                    });
                }
            };
            match &there {
                Some(object) if has_nonce(object, &record) => {
                    return Ok(Swapped::Done(object.tag.clone()));
                }
                Some(object) if condition == Condition::Matches(object.tag.clone()) => {}
                None if condition == Condition::Absent => {}
                _ if condition == Condition::Always => {}
                _ => return Ok(Swapped::Other(there)),
            }
            if !retry.pause(self.random()).await {
                let unknown = unclear;
                return Err(Failed {
                    key,
                    error,
                    unknown,
                });
            }
        }
    }

    /// One attempt, in its turn and within its time.
    async fn attempt<T, F>(&self, size: u64, request: impl FnOnce() -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let _turn: Share = self.turns.take(&self.owner, 1).await;
        let limit = ATTEMPT.saturating_add(Duration::from_secs(size / LEAST_RATE));
        match timeout(limit, request()).await {
            Ok(Err(error)) if error.fault == Fault::Denied => Err(self.explained(error).await),
            Ok(ended) => ended,
            Err(_) => {
                let text = format!("no answer for {} s", limit.as_secs());
                Err(EngineError::new(Fault::Unavailable, text))
            }
        }
    }

    /// A refusal, with what this machine's clock has to do with it.
    async fn explained(&self, error: EngineError) -> EngineError {
        let engine = self.engine.clock().await;
        let engine = engine.and_then(|time| i64::try_from(time.as_secs()).ok());
        match engine.and_then(|engine| difference(now().secs, engine)) {
            Some(clock) => EngineError {
                answer: format!("{clock} ({})", error.answer),
                ..error
            },
            None => error,
        }
    }

    /// Attempts until one says how it is.
    async fn repeat<T, F>(&self, key: &str, size: u64, request: impl Fn() -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let mut retry = Retry::new();
        loop {
            let error = match self.attempt(size, &request).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !error.fault.is_transient() || !retry.pause(self.random()).await {
                let (key, unknown) = (key.to_string(), false);
                return Err(Failed {
                    key,
                    error,
                    unknown,
                });
            }
        }
    }
}

/// What is not there is an answer.
fn found<T>(result: Result<T, Failed>) -> Result<Option<T>, Failed> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.error.fault == Fault::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// True if an object was written with this record.
fn has_nonce(object: &Object, record: &str) -> bool {
    let nonce = |text: &str| text.get(..NONCE).map(str::to_string);
    let found = object.record.as_deref().and_then(nonce);
    found.is_some() && found == nonce(record)
}

/// The bytes of a body.
fn size_of(body: &Body) -> u64 {
    body.iter().map(|piece| piece.len() as u64).sum()
}
