//! A client of a server in the simulation.

use super::{Commit, DAY, Done, History, PART, PATHS, content, path, read};
use crate::store::local::simulated::Chance;
use crate::store::objects::simulated::Line;
use crate::store::objects::{ObjectStore, ServedObjects};
use crate::store::{
    Attributes, Checkpoint, Content, Durability, ErrorKind, NewEntry, RemoveScope, Resume, Served,
    StageRequest, Store, StoreError,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// One client of one server.
pub struct Worker {
    pub store: ObjectStore,
    pub line: Line,
    pub chance: Chance,
    pub history: Arc<Mutex<History>>,
    /// One at a time removes a path, or renames one: a racing put may be lost then.
    pub turns: Arc<Vec<tokio::sync::RwLock<()>>>,
}

impl Worker {
    fn new_id(&self) -> u64 {
        let mut history = self.history.lock();
        history.ids += 1;
        history.ids
    }

    fn note(&self, path: usize, id: Option<u64>, began: Instant, result: Result<(), StoreError>) {
        let ended = match result {
            Ok(()) => Some(Instant::now()),
            Err(e) if e.kind == ErrorKind::UnknownOutcome => None,
            Err(_) => return,
        };
        let done = Done {
            path,
            id,
            began,
            ended,
        };
        self.history.lock().done.push(done);
    }

    async fn put(&mut self, number: usize) {
        let (id, began) = (self.new_id(), Instant::now());
        let new = NewEntry {
            path: path(number),
            content: Content::File(Arc::new(content(id))),
            attributes: Attributes::default(),
            if_version: None,
        };
        let put = self
            .store
            .put_whole(vec![new], "small", Durability::Durable)
            .await
            .remove(0);
        self.note(number, Some(id), began, put.map(drop));
    }

    /// Stages a file; the source's version is its id, so that another client may resume it.
    async fn stage(&mut self, number: usize, id: u64) {
        let request = StageRequest {
            who: "large".into(),
            if_version: None,
            durability: Durability::Durable,
            size: None,
            window: 32 << 20,
            source: Some(id.to_string()),
        };
        let asked = Instant::now();
        let Ok(mut staging) = self.store.stage(&path(number), &request).await else {
            return;
        };
        let staged = Instant::now();
        self.history.lock().locks.push((number, asked, staged));
        let whole = content(id);
        let mut offset = match staging.resume() {
            Resume::From(point) => usize::try_from(point.offset).unwrap(),
            _ => 0,
        };
        while offset < whole.len() {
            let end = (offset + PART).min(whole.len());
            let part = Arc::new(whole[offset..end].to_vec());
            if staging.write(offset as u64, vec![part]).await.is_err() {
                return;
            }
            offset = end;
            if self.chance.one_in(3) {
                sleep(Duration::from_secs(self.chance.below(40) as u64)).await;
            }
            if self.chance.one_in(2) && offset < whole.len() {
                let point = Checkpoint {
                    offset: offset as u64,
                    digests: vec![[1; 32]],
                };
                if staging.checkpointer().unwrap().checkpoint(point).await.is_err() {
                    return;
                }
            }
            if self.chance.one_in(12) {
                return; // dropped
            }
        }
        let began = Instant::now();
        let committed = staging.commit(whole.len() as u64, Attributes::default()).await;
        if let Ok(version) = &committed {
            self.history.lock().commits.push(Commit {
                path: number,
                staged,
                version: version.clone(),
            });
        }
        self.note(number, Some(id), began, committed.map(drop));
    }

    /// Does something.
    pub async fn step(&mut self) {
        let number = self.chance.below(PATHS);
        let turns = self.turns.clone();
        match self.chance.below(12) {
            0..=2 => {
                let _turn = turns[number].read().await;
                self.put(number).await;
            }
            3..=7 => {
                // often what an earlier writer has begun
                let last = self.history.lock().ids;
                let id = match self.chance.one_in(2) && last > 0 {
                    true => last,
                    false => self.new_id(),
                };
                let _turn = turns[number].read().await;
                self.stage(number, id).await;
            }
            8 => {
                let _turn = turns[number].write().await;
                // a request that is carried out late would be a racing put
                sleep(Duration::from_secs(40)).await;
                let began = Instant::now();
                let removed = self.store.remove(&path(number), RemoveScope::Entry).await;
                self.note(number, None, began, removed);
                sleep(Duration::from_secs(40)).await;
            }
            9 => {
                let sweeping = ServedObjects(self.store.clone());
                let age = [Duration::from_secs(1800), DAY * 7][self.chance.below(2)];
                sweeping.sweep(age).await;
            }
            10 => sleep(Duration::from_secs(self.chance.below(100) as u64)).await,
            _ => drop(read(&self.store, number).await),
        }
    }
}
