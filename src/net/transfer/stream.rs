//! A transfer's target that is a stream: bytes go out in order, and cannot be taken back.

use crate::store::{Attributes, Bytes, Checkpoint, ErrorKind, Keeper, Left, RemotePath, Staging, StoreError};
use async_trait::async_trait;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a stream goes, and how much of which source has gone there. Cheap to clone; all clones are the same stream.
#[derive(Clone)]
pub struct Stream(Arc<Mutex<State>>);

struct State {
    out: Box<dyn Write + Send>,
    /// The version of the source that the first bytes were of.
    source: Option<String>,
    written: u64,
    /// Bytes that have been written, with the values to go on from there.
    kept: Checkpoint,
}

impl Stream {
    /// A stream of which nothing has been written.
    pub fn new(out: Box<dyn Write + Send>) -> Stream {
        Stream(Arc::new(Mutex::new(State {
            out,
            source: None,
            written: 0,
            kept: Checkpoint::default(),
        })))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to write, or goes on where an earlier transfer of the same source was cut off.
    pub(super) fn stage(&self, source: Option<String>) -> Result<Box<dyn Staging>, StoreError> {
        let mut state = self.state();
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
        work: impl FnOnce(&mut State) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let stream = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut stream.state()));
        let result = done.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        result.map_err(|e| StoreError::io("write to standard output", &RemotePath::root(), &e))
    }
}

#[async_trait]
impl Keeper for Stream {
    async fn keep(&self, point: Checkpoint) -> Result<(), StoreError> {
        self.state().kept = point;
        Ok(())
    }
}

struct StreamStaging {
    stream: Stream,
    left: Left,
}

#[async_trait]
impl Staging for StreamStaging {
    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let write = move |state: &mut State| {
            for part in &parts {
                let bytes = (**part).as_ref();
                // counted before: what a failing write has put out is not known
                state.written = state.written.max(offset).saturating_add(bytes.len() as u64);
                state.out.write_all(bytes)?;
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
        let mut state = self.stream.state();
        if state.written > 0 {
            return Err(StoreError::new(ErrorKind::SourceChanged, &RemotePath::root()));
        }
        (state.source, self.left) = (source, Left::Nothing);
        Ok(())
    }

    async fn commit(self: Box<Self>, _size: u64, _attributes: Attributes) -> Result<String, StoreError> {
        self.stream.with(|state| state.out.flush()).await?;
        Ok(String::new())
    }

    async fn discard(self: Box<Self>) {}
}
