//! An engine that the `object_store` crate speaks to: S3 and what speaks its protocol.

use super::clock::EngineClock;
use super::{Body, Condition, Content, Engine, EngineError, Fault, Listing, Object};
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, Error, GetOptions, GetRange, ObjectMeta, ObjectStore,
    PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The name of the metadata with an entry's record.
const RECORD: &str = "haul";
/// Longest answer of an engine that an error repeats, in characters.
const MAX_ANSWER: usize = 300;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection stays open.
const IDLE: Duration = Duration::from_secs(30);

/// What lists objects page by page.
enum Lister {
    Pages(Arc<dyn PaginatedListStore>),
    All,
}

/// An engine behind `object_store`.
pub struct S3Engine {
    store: Arc<dyn ObjectStore>,
    uploads: Arc<dyn MultipartStore>,
    lister: Lister,
    /// Conditions name entity tags in quotes.
    quotes: AtomicBool,
    name: String,
    host: Option<String>,
    clock: Option<EngineClock>,
}

/// Where an engine is, and the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket's name.
    pub bucket: String,
    /// The address of an engine that is not Amazon's, such as `http://ceph:7480`.
    pub endpoint: Option<String>,
}

/// What an engine knows its user by.
#[derive(Clone)]
pub struct Credentials {
    /// The access key's id.
    pub id: String,
    /// The secret.
    pub secret: String,
    /// The session token of temporary ones.
    pub token: Option<String>,
}

impl S3Engine {
    /// An engine at this place. Credentials come from the environment, the machine's metadata or
    /// its web identity, as `object_store` finds them.
    ///
    /// # Errors
    /// What is missing or malformed.
    pub fn at(place: &Place, credentials: Option<Credentials>) -> Result<S3Engine, EngineError> {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&place.bucket)
            .with_unsigned_payload(true)
            .with_retry(RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            })
            .with_client_options(
                ClientOptions::new()
                    .with_timeout_disabled()
                    .with_connect_timeout(CONNECT)
                    .with_pool_idle_timeout(IDLE)
                    .with_allow_http(true)
                    .with_http1_only(),
            );
        if let Some(endpoint) = &place.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(Credentials { id, secret, token }) = credentials {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            if let Some(token) = token {
                builder = builder.with_token(token);
            }
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let store: Arc<AmazonS3> = Arc::new(builder.build().map_err(|e| fault_of(&e))?);
        let endpoint = endpoint.unwrap_or_else(|| "https://s3.amazonaws.com".into());
        Ok(S3Engine {
            host: host_of(&endpoint),
            clock: EngineClock::new(&endpoint),
            name: format!("bucket {} at {endpoint}", place.bucket),
            store: store.clone(),
            uploads: store.clone(),
            lister: Lister::Pages(store),
            quotes: AtomicBool::new(false),
        })
    }

    /// The host that it is at.
    pub fn host(&self) -> Option<String> {
        self.host.clone()
    }

    /// An engine in the memory of this process.
    pub fn in_memory() -> S3Engine {
        let store = Arc::new(InMemory::new());
        S3Engine {
            store: store.clone(),
            uploads: store,
            lister: Lister::All,
            quotes: AtomicBool::new(false),
            name: "memory".into(),
            host: None,
            clock: None,
        }
    }
}

/// The host of an address.
fn host_of(endpoint: &str) -> Option<String> {
    let rest = endpoint.split_once("://")?.1;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => authority.split(':').next()?,
    };
    Some(host.to_string())
}

/// The answer that an error of `object_store` stands for.
fn fault_of(error: &Error) -> EngineError {
    let fault = match error {
        Error::NotFound { .. } => Fault::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            Fault::Condition
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Fault::Denied,
        Error::NotSupported { .. } | Error::NotImplemented { .. } | Error::InvalidPath { .. } => {
            Fault::Refused
        }
        _ => Fault::Unavailable,
    };
    let answer = full_text(error);
    EngineError {
        fault: refined(fault, &answer),
        answer,
    }
}

/// Errors of no kind of their own say in their text what the engine answered.
fn refined(fault: Fault, answer: &str) -> Fault {
    let has = |words: &[&str]| words.iter().any(|word| answer.contains(word));
    match fault {
        Fault::Denied if has(&["QuotaExceeded"]) => Fault::Full,
        Fault::Unavailable if has(&["SlowDown", "status code: 503", "status code: 429"]) => {
            Fault::Throttled
        }
        Fault::Unavailable if has(&["QuotaExceeded", "status code: 507"]) => Fault::Full,
        Fault::Unavailable if has(&["status code: 4"]) => Fault::Refused,
        other => other,
    }
}

/// An error with its causes, on one line, without the page of XML that engines like to send.
fn full_text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_ANSWER) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// A key as `object_store` wants it. All keys here are made of names that it accepts.
fn path(key: &str) -> Result<Path, EngineError> {
    Path::parse(key).map_err(|e| EngineError::new(Fault::Refused, e))
}

fn unquoted(tag: Option<String>) -> String {
    let tag = tag.unwrap_or_default();
    tag.trim_matches('"').to_string()
}

fn object(meta: ObjectMeta, attributes: Option<&Attributes>) -> Object {
    let since = meta.last_modified.timestamp_millis();
    let record = attributes.and_then(|all| all.get(&Attribute::Metadata(Cow::Borrowed(RECORD))));
    Object {
        key: meta.location.to_string(),
        size: meta.size,
        tag: unquoted(meta.e_tag),
        modified: Duration::from_millis(u64::try_from(since).unwrap_or(0)),
        record: record.map(|record| record.to_string()),
    }
}

#[async_trait]
impl Engine for S3Engine {
    async fn head(&self, key: &str) -> Result<Object, EngineError> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let found = self.store.get_opts(&path(key)?, options).await;
        let found = found.map_err(|e| fault_of(&e))?;
        Ok(object(found.meta, Some(&found.attributes)))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Content, EngineError> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let found = self.store.get_opts(&path(key)?, options).await;
        let found = found.map_err(|e| fault_of(&e))?;
        let about = object(found.meta.clone(), Some(&found.attributes));
        let length = found.range.end.saturating_sub(found.range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.map_err(|e| fault_of(&e))?);
        }
        if bytes.len() as u64 != length {
            return Err(EngineError::new(Fault::Unavailable, "the answer is cut short"));
        }
        let object = about;
        Ok(Content { object, bytes })
    }

    async fn put(
        &self,
        key: &str,
        body: Body,
        record: Option<String>,
        condition: Condition,
    ) -> Result<String, EngineError> {
        let mode = match condition {
            Condition::Always => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Matches(tag) => PutMode::Update(UpdateVersion {
                e_tag: Some(match self.quotes.load(Ordering::Relaxed) {
                    true => format!("\"{tag}\""),
                    false => tag,
                }),
                version: None,
            }),
        };
        let mut attributes = Attributes::new();
        if let Some(record) = record {
            attributes.insert(Attribute::Metadata(Cow::Borrowed(RECORD)), record.into());
        }
        let options = PutOptions {
            mode,
            attributes,
            ..PutOptions::default()
        };
        let payload: PutPayload = body.into_iter().collect();
        let put = self.store.put_opts(&path(key)?, payload, options).await;
        Ok(unquoted(put.map_err(|e| fault_of(&e))?.e_tag))
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), EngineError> {
        let paths: Vec<_> = keys.iter().map(|key| path(key)).collect::<Result<_, _>>()?;
        let paths = stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut deleted = self.store.delete_stream(paths);
        while let Some(one) = deleted.next().await {
            match one {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(fault_of(&e)),
            }
        }
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing, EngineError> {
        match &self.lister {
            Lister::Pages(store) => {
                let options = PaginatedListOptions {
                    offset: after.map(str::to_string),
                    max_keys: Some(limit),
                    ..PaginatedListOptions::default()
                };
                let page = store.list_paginated(Some(prefix), options).await;
                let page = page.map_err(|e| fault_of(&e))?;
                Ok(Listing {
                    objects: page.result.objects.into_iter().map(|m| object(m, None)).collect(),
                    more: page.page_token.is_some(),
                })
            }
            Lister::All => {
                let all = self.store.list(None).try_collect::<Vec<_>>().await;
                let mut found: Vec<_> = all.map_err(|e| fault_of(&e))?;
                let key = |meta: &ObjectMeta| meta.location.to_string();
                found.retain(|meta| {
                    let key = key(meta);
                    key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
                });
                found.sort_by_key(key);
                let more = found.len() > limit;
                found.truncate(limit);
                Ok(Listing {
                    objects: found.into_iter().map(|meta| object(meta, None)).collect(),
                    more,
                })
            }
        }
    }

    async fn begin_upload(&self, key: &str) -> Result<String, EngineError> {
        let begun = self.uploads.create_multipart(&path(key)?).await;
        begun.map_err(|e| fault_of(&e))
    }

    async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: usize,
        body: Body,
    ) -> Result<String, EngineError> {
        let (path, payload) = (path(key)?, body.into_iter().collect());
        let put = self.uploads.put_part(&path, &upload.to_string(), number, payload).await;
        Ok(put.map_err(|e| fault_of(&e))?.content_id)
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: Vec<String>,
    ) -> Result<String, EngineError> {
        let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
        let path = path(key)?;
        let done = self.uploads.complete_multipart(&path, &upload.to_string(), parts).await;
        Ok(unquoted(done.map_err(|e| fault_of(&e))?.e_tag))
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), EngineError> {
        let aborted = self.uploads.abort_multipart(&path(key)?, &upload.to_string()).await;
        aborted.map_err(|e| fault_of(&e))
    }

    fn quote_tags(&self) {
        self.quotes.store(true, Ordering::Relaxed);
    }

    async fn clock(&self) -> Option<Duration> {
        self.clock.as_ref()?.now().await
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}
