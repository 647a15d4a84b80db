//! A transfer's target that is a stream: bytes go out in order, and cannot be taken back.

use crate::store::{
    Attributes, Bytes, Checkpoint, ErrorKind, Keeper, Left, PartRules, RemotePath, Staging, StoreError,
};
use async_trait::async_trait;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a stream goes, and how much of which source has gone there. Cheap to clone; all clones are the same stream.
#[derive(Clone)]
pub struct Stream {
    /// Held while something is written, which takes as long as its reader takes.
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    /// Never held for long.
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The version of the source that the first bytes were of.
    source: Option<String>,
    written: u64,
    /// Bytes that have been written, with the values to go on from there.
    kept: Checkpoint,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// A stream of which nothing has been written.
    pub fn new(out: Box<dyn Write + Send>) -> Stream {
        Stream {
            out: Arc::new(Mutex::new(out)),
            state: Arc::default(),
        }
    }

    /// Starts to write, or goes on where an earlier transfer of the same source was cut off.
    pub(super) async fn stage(&self, source: Option<String>) -> Result<Box<dyn Staging>, StoreError> {
        // what an earlier transfer was still writing is out then
        self.with(|_| Ok(())).await?;
        let mut state = lock(&self.state);
        let left = match state.written {
            0 => Left::Nothing,
            written if written == state.kept.offset && source.is_some() && source == state.source => {
                Left::Part(state.kept.clone())
            }
            _ => return Err(StoreError::new(ErrorKind::SourceChanged, &RemotePath::root())),
        };
        state.source = source;
        Ok(Box::new(StreamStaging {
            stream: self.clone(),
            left,
        }))
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let out = self.out.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut **lock(&out)));
        let result = done.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        result.map_err(|e| StoreError::io("write to standard output", &RemotePath::root(), &e))
    }
}

#[async_trait]
impl Keeper for Stream {
    async fn keep(&self, point: Checkpoint) -> Result<(), StoreError> {
        lock(&self.state).kept = point;
        Ok(())
    }
}

struct StreamStaging {
    stream: Stream,
    left: Left,
}

#[async_trait]
impl Staging for StreamStaging {
    fn part_rules(&self) -> PartRules {
        PartRules {
            least: 1,
            most: 4 << 20,
            held: None,
        }
    }

    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let state = self.stream.state.clone();
        let write = move |out: &mut (dyn Write + Send)| {
            let mut at = offset;
            for part in &parts {
                let bytes = (**part).as_ref();
                // counted before: what a failing write has put out is not known
                at = at.saturating_add(bytes.len() as u64);
                lock(&state).written = at;
                out.write_all(bytes)?;
            }
            Ok(())
        };
        self.stream.with(write).await
    }

    fn left(&self) -> Left {
        self.left.clone()
    }

    fn keeper(&self) -> Option<Arc<dyn Keeper>> {
        Some(Arc::new(self.stream.clone()))
    }

    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError> {
        let mut state = lock(&self.stream.state);
        if state.written > 0 {
            return Err(StoreError::new(ErrorKind::SourceChanged, &RemotePath::root()));
        }
        (state.source, self.left) = (source, Left::Nothing);
        Ok(())
    }

    async fn commit(self: Box<Self>, _size: u64, _attributes: Attributes) -> Result<String, StoreError> {
        self.stream.with(|out| out.flush()).await?;
        Ok(String::new())
    }

    async fn discard(self: Box<Self>) {}
}
