//! A model of an engine for the simulation, in virtual time. It is slow, loses requests and
//! answers, carries requests out late, reports errors to the losers of races, and returns old
//! listings. It destroys an object whose upload is aborted while it is completed.

use crate::store::local::simulated::Chance;
use crate::store::objects::engine::{
    Body, Condition, Content, Engine, EngineError, Fault, Listing, Object,
};
mod world;

use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use world::{Order, Stored, World, error};

/// How old a listing may be.
const STALE: Duration = Duration::from_secs(10);

/// An engine, with all its objects. Cheap to clone.
#[derive(Clone)]
pub struct ModelEngine(Arc<Mutex<World>>, Arc<AtomicBool>);

impl ModelEngine {
    pub fn new(seed: u64) -> ModelEngine {
        let world = World {
            chance: Chance::new(seed),
            start: Instant::now(),
            objects: BTreeMap::new(),
            old: BTreeMap::new(),
            old_since: Instant::now(),
            uploads: BTreeMap::new(),
            tags: 0,
            written: BTreeMap::new(),
        };
        ModelEngine(Arc::new(Mutex::new(world)), Arc::new(AtomicBool::new(true)))
    }

    /// From now on it does what it is asked, and at once.
    pub fn calm(&self) {
        self.1.store(false, Ordering::Relaxed);
    }

    /// When a version of an entry was written.
    pub fn written(&self, version: &str) -> Option<Instant> {
        self.0.lock().written.get(version).copied()
    }

    /// All keys with a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let world = self.0.lock();
        world
            .objects
            .keys()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// A number below `n`.
    pub fn below(&self, n: usize) -> usize {
        self.0.lock().chance.below(n)
    }

    /// A way to it for one server.
    pub fn line(&self) -> Line {
        let (frozen, _) = watch::channel(false);
        Line {
            engine: self.clone(),
            frozen: Arc::new(frozen),
            dead: Arc::default(),
        }
    }
}

/// A server's way to the engine.
#[derive(Clone)]
pub struct Line {
    engine: ModelEngine,
    frozen: Arc<watch::Sender<bool>>,
    dead: Arc<AtomicBool>,
}

impl Line {
    /// The server's process stops, or runs once more.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Whether it is stopped.
    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Waits until the process runs.
    pub async fn thaw(&self) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    /// The server's process is killed: nothing of it reaches the engine any more.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// What happens before a request: true for a request that never arrives.
    async fn way(&self) -> Result<(), EngineError> {
        self.thaw().await;
        if self.dead.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        if !self.engine.1.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (pause, fault) = {
            let mut world = self.engine.0.lock();
            (world.chance.below(60), world.chance.below(100))
        };
        sleep(Duration::from_millis(pause as u64)).await;
        match fault {
            0 => Err(error(Fault::Throttled)),
            1 => Err(error(Fault::Unavailable)),
            // a node died
            2 => {
                sleep(Duration::from_secs(12)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sometimes the process stops at the worst moment: just before a request is on its way.
    async fn stop_before(&self, order: &Order) {
        let often = match order {
            // a lock that is removed much later is the next writer's: docs/STORE.md says so
            Order::Delete(keys) if keys.iter().any(|key| key.contains("/l/")) => return,
            Order::Put(key, ..) if key.contains("/f/") => 12,
            Order::Delete(_) | Order::Complete(..) | Order::Abort(_) => 30,
            _ => 200,
        };
        let long = {
            let mut world = self.engine.0.lock();
            let stops = world.chance.one_in(often) && self.engine.1.load(Ordering::Relaxed);
            stops.then(|| *world.chance.of(&[20, 70, 100, 300, 60 * 3600]))
        };
        if let Some(long) = long {
            self.freeze(true);
            let line = self.clone();
            tokio::spawn(async move {
                sleep(Duration::from_secs(long)).await;
                line.freeze(false);
            });
            self.thaw().await;
        }
    }

    async fn change(&self, order: Order) -> Result<String, EngineError> {
        self.way().await?;
        self.stop_before(&order).await;
        let stormy = self.engine.1.load(Ordering::Relaxed);
        let fate = if stormy { self.engine.below(100) } else { 99 };
        match fate {
            // carried out late, and nothing is heard of it
            0 | 1 => {
                let (engine, late) = (self.engine.clone(), self.engine.below(30));
                tokio::spawn(async move {
                    sleep(Duration::from_secs(late as u64)).await;
                    let _ = engine.0.lock().apply(order);
                });
                Err(error(Fault::Unavailable))
            }
            // carried out, and the answer is lost
            2..5 => {
                let _ = self.engine.0.lock().apply(order);
                Err(error(Fault::Unavailable))
            }
            _ => match self.engine.0.lock().apply(order) {
                // the loser of a race
                Err(e) if e.fault == Fault::Condition && fate < 50 && stormy => {
                    Err(error(Fault::Unavailable))
                }
                done => done,
            },
        }
    }

    fn object(key: &str, stored: &Stored, record: bool) -> Object {
        Object {
            key: key.to_string(),
            size: stored.bytes.len() as u64,
            tag: stored.tag.clone(),
            modified: stored.modified,
            record: stored.record.clone().filter(|_| record),
        }
    }
}

fn joined(body: &Body) -> Vec<u8> {
    body.iter().flat_map(|piece| piece.iter().copied()).collect()
}

#[async_trait]
impl Engine for Line {
    async fn head(&self, key: &str) -> Result<Object, EngineError> {
        self.way().await?;
        let world = self.engine.0.lock();
        let stored = world.objects.get(key).ok_or_else(|| error(Fault::NotFound))?;
        Ok(Line::object(key, stored, true))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Content, EngineError> {
        self.way().await?;
        let world = self.engine.0.lock();
        let stored = world.objects.get(key).ok_or_else(|| error(Fault::NotFound))?;
        let all = 0..stored.bytes.len() as u64;
        let Range { start, end } = range.unwrap_or(all);
        let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
        let bytes = stored.bytes.get(start..end.min(stored.bytes.len())).unwrap_or_default();
        Ok(Content {
            object: Line::object(key, stored, true),
            bytes: bytes.to_vec(),
        })
    }

    async fn put(
        &self,
        key: &str,
        body: Body,
        record: Option<String>,
        condition: Condition,
    ) -> Result<String, EngineError> {
        self.change(Order::Put(key.into(), joined(&body), record, condition)).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), EngineError> {
        self.change(Order::Delete(keys)).await.map(drop)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing, EngineError> {
        self.way().await?;
        let mut world = self.engine.0.lock();
        let is_calm = !self.engine.1.load(Ordering::Relaxed);
        if is_calm || world.chance.one_in(3) || world.old_since.elapsed() > STALE {
            world.old = world.objects.clone();
            world.old_since = Instant::now();
        }
        let matches = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let found = world.old.iter().filter(|(key, _)| matches(key));
        let objects: Vec<_> = found
            .take(limit + 1)
            .map(|(key, stored)| Line::object(key, stored, false))
            .collect();
        let more = objects.len() > limit;
        let objects = objects.into_iter().take(limit).collect();
        Ok(Listing { objects, more })
    }

    async fn begin_upload(&self, key: &str) -> Result<String, EngineError> {
        self.change(Order::Begin(key.into())).await
    }

    async fn put_part(
        &self,
        _key: &str,
        upload: &str,
        number: usize,
        body: Body,
    ) -> Result<String, EngineError> {
        self.change(Order::Part(upload.into(), number, joined(&body))).await
    }

    async fn complete_upload(
        &self,
        _key: &str,
        upload: &str,
        parts: Vec<String>,
    ) -> Result<String, EngineError> {
        self.change(Order::Complete(upload.into(), parts)).await
    }

    async fn abort_upload(&self, _key: &str, upload: &str) -> Result<(), EngineError> {
        self.change(Order::Abort(upload.into())).await.map(drop)
    }

    fn describe(&self) -> String {
        "a model".into()
    }
}
