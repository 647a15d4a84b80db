//! The engine beneath a store of objects: what haul asks of an S3 server, one request each.
//!
//! An [`Engine`] tries each request once and says how it ended. Whether to ask a second time is
//! decided above it, in `requests`.

pub mod clock;
pub mod s3;

use async_trait::async_trait;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// What must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key has no object.
    Absent,
    /// The key's object has this entity tag.
    Matches(String),
}

/// How a request ended that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The key has no object, or there is no such upload.
    NotFound,
    /// The condition does not hold.
    Condition,
    /// The engine does not let these credentials do that, or the clocks differ too much.
    Denied,
    /// The engine asks to be asked less.
    Throttled,
    /// No answer, or one that says nothing of the outcome: a write may have happened.
    Unavailable,
    /// The engine has no room.
    Full,
    /// The engine refuses the request.
    Refused,
}

impl Fault {
    /// True if the same request may succeed in a moment.
    pub fn is_transient(self) -> bool {
        matches!(self, Fault::Throttled | Fault::Unavailable)
    }
}

/// Why a request failed: the engine's answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{answer}")]
pub struct EngineError {
    /// How it ended.
    pub fault: Fault,
    /// The engine's own words, on one line.
    pub answer: String,
}

impl EngineError {
    /// Makes an error.
    pub fn new(fault: Fault, answer: impl fmt::Display) -> EngineError {
        EngineError {
            fault,
            answer: answer.to_string(),
        }
    }
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Its entity tag, without quotes.
    pub tag: String,
    /// When it was written, by the engine's clock: since 1970.
    pub modified: Duration,
    /// The record that was put beside its bytes. Listings have none.
    pub record: Option<String>,
}

/// An object, with the bytes that were asked for.
#[derive(Clone, Debug)]
pub struct Content {
    /// What is known of it.
    pub object: Object,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Bytes in pieces, to be sent one behind the other.
pub type Body = Vec<bytes::Bytes>;

/// Some objects of a listing, in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The objects.
    pub objects: Vec<Object>,
    /// True if more follow.
    pub more: bool,
}

/// A server with objects under keys.
///
/// [`Condition`]s decide at one moment for all who write a key (linearizable). Listings may be a
/// moment old.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Describes an object.
    async fn head(&self, key: &str) -> Result<Object, EngineError>;

    /// Reads an object, or some of its bytes.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Content, EngineError>;

    /// Writes an object, and returns its entity tag.
    async fn put(
        &self,
        key: &str,
        body: Body,
        record: Option<String>,
        condition: Condition,
    ) -> Result<String, EngineError>;

    /// Removes objects; what is not there is no error.
    async fn delete(&self, keys: Vec<String>) -> Result<(), EngineError>;

    /// Lists at most `limit` objects whose keys begin with `prefix` and are greater than `after`.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing, EngineError>;

    /// Begins an upload in parts, and returns its id.
    async fn begin_upload(&self, key: &str) -> Result<String, EngineError>;

    /// Uploads the part with this number, from 0 on, and returns its entity tag.
    async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: usize,
        body: Body,
    ) -> Result<String, EngineError>;

    /// Makes an object of the parts with these entity tags, and returns its own.
    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: Vec<String>,
    ) -> Result<String, EngineError>;

    /// Forgets an upload.
    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), EngineError>;

    /// From now on conditions name entity tags in quotes: some engines compare them so, others
    /// without.
    fn quote_tags(&self) {}

    /// The engine's time, since 1970; `None` if it does not tell.
    async fn clock(&self) -> Option<Duration> {
        None
    }

    /// Says what the engine is, for people.
    fn describe(&self) -> String;
}
