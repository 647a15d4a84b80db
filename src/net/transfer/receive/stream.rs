//! A transfer's target that is a stream: bytes go out in order, and cannot be taken back.

use crate::chunk::CHUNK_SIZE;
use crate::store::{
    Allocation, Attributes, Bytes, Checkpoint, Checkpointer, ErrorKind, PartRules, RemotePath,
    Resume, Staging, StoreError, blocking,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::io::Write;
use std::sync::Arc;

/// Where a stream goes, and how much of which source has gone there. Cheap to clone; all clones are
/// the same stream.
#[derive(Clone)]
pub struct Stream {
    /// Locked while something is written, which takes as long as its reader takes.
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    /// Never locked for long.
    state: Arc<Mutex<OutputState>>,
}

#[derive(Default)]
struct OutputState {
    /// The version of the source that the first bytes were of.
    source: Option<String>,
    /// How many bytes have gone out: they do not go out again.
    written: u64,
    /// Some of these, with the values to resume from there.
    checkpoint: Checkpoint,
    /// A write that failed. What it put out is not known.
    broken: Option<StoreError>,
}

impl OutputState {
    /// Where a transfer of this version of the source resumes.
    fn begin(&mut self, source: Option<String>) -> Result<Resume, StoreError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if self.written > 0 && (source.is_none() || source != self.source) {
            return Err(StoreError::new(ErrorKind::SourceChanged, &RemotePath::root()));
        }
        self.source = source;
        match self.checkpoint.offset {
            0 => Ok(Resume::Fresh),
            _ => Ok(Resume::From(self.checkpoint.clone())),
        }
    }
}

fn failed(error: &std::io::Error) -> StoreError {
    StoreError::io("write to standard output", &RemotePath::root(), error)
}

impl Stream {
    /// A stream of which nothing has been written.
    pub fn new(out: Box<dyn Write + Send>) -> Stream {
        Stream {
            out: Arc::new(Mutex::new(out)),
            state: Arc::default(),
        }
    }

    /// Starts to write, or resumes where an earlier transfer of the same source was cut off: what
    /// has gone out since the last checkpoint is received again, and skipped.
    pub(super) async fn stage(
        &self,
        source: Option<String>,
    ) -> Result<Box<dyn Staging>, StoreError> {
        // what an earlier transfer was still writing is out then
        self.with(|_| Ok(())).await?;
        let mut state = self.state.lock();
        let resume = state.begin(source)?;
        Ok(Box::new(StreamStaging {
            stream: self.clone(),
            resume,
        }))
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut (dyn Write + Send)) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let out = self.out.clone();
        let result = blocking(move || work(&mut **out.lock())).await;
        result.map_err(|e| failed(&e))
    }
}

#[async_trait]
impl Checkpointer for Stream {
    async fn checkpoint(&self, point: Checkpoint) -> Result<(), StoreError> {
        self.state.lock().checkpoint = point;
        Ok(())
    }
}

struct StreamStaging {
    stream: Stream,
    resume: Resume,
}

#[async_trait]
impl Staging for StreamStaging {
    fn part_rules(&self) -> PartRules {
        PartRules {
            least: 1,
            most: 4 << 20,
            skip_gap_after: None,
        }
    }

    async fn write(&mut self, offset: u64, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let state = self.stream.state.clone();
        let write = move |out: &mut (dyn Write + Send)| {
            let mut at = offset;
            for part in &parts {
                let bytes = (**part).as_ref();
                let gone = state.lock().written.saturating_sub(at);
                let new = usize::try_from(gone).ok().and_then(|gone| bytes.get(gone..));
                at = at.saturating_add(bytes.len() as u64);
                if let Some(new) = new.filter(|new| !new.is_empty()) {
                    let written = out.write_all(new);
                    let mut state = state.lock();
                    if let Err(e) = written {
                        state.broken = Some(failed(&e));
                        return Err(e);
                    }
                    state.written = at;
                }
            }
            Ok(())
        };
        self.stream.with(write).await
    }

    /// A stream has no holes: zeros go out.
    async fn hole(&mut self, offset: u64, length: u64) -> Result<(), StoreError> {
        let zeros: Bytes = Arc::new(vec![0; CHUNK_SIZE]);
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let part = match usize::try_from(end.saturating_sub(at)) {
                Ok(resume) if resume < CHUNK_SIZE => Arc::new(vec![0; resume]),
                _ => zeros.clone(),
            };
            let bytes = (*part).as_ref().len() as u64;
            self.write(at, vec![part]).await?;
            at = at.saturating_add(bytes);
        }
        Ok(())
    }

    fn allocate(&mut self, _: Allocation) {}

    fn resume(&self) -> Resume {
        self.resume.clone()
    }

    fn checkpointer(&self) -> Option<Arc<dyn Checkpointer>> {
        Some(Arc::new(self.stream.clone()))
    }

    async fn restart(&mut self, source: Option<String>) -> Result<(), StoreError> {
        let mut state = self.stream.state.lock();
        state.checkpoint = Checkpoint::default();
        self.resume = state.begin(source)?;
        Ok(())
    }

    async fn commit(
        self: Box<Self>,
        _size: u64,
        _attributes: Attributes,
    ) -> Result<String, StoreError> {
        self.stream.with(|out| out.flush()).await?;
        Ok(String::new())
    }

    async fn discard(self: Box<Self>) {}
}

#[cfg(test)]
mod tests {
    use crate::net::transfer::receive::stream::*;
    use crate::store::Time;

    /// Takes so many bytes, and then none.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>, usize);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut taken = self.0.lock();
            let n = bytes.len().min(self.1.saturating_sub(taken.len()));
            taken.extend_from_slice(&bytes[..n]);
            match n {
                0 => Err(std::io::ErrorKind::BrokenPipe.into()),
                n => Ok(n),
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn stream(room: usize) -> (Stream, Pipe) {
        let pipe = Pipe(Arc::default(), room);
        (Stream::new(Box::new(pipe.clone())), pipe)
    }

    fn parts(bytes: &[&[u8]]) -> Vec<Bytes> {
        bytes.iter().map(|part| Arc::new(part.to_vec()) as Bytes).collect()
    }

    fn source(version: &str) -> Option<String> {
        Some(version.into())
    }

    #[tokio::test]
    async fn what_has_gone_out_is_skipped_wherever_parts_begin_and_end() {
        for gone in 0..=9 {
            let (stream, pipe) = stream(100);
            let mut first = stream.stage(source("v")).await.unwrap();
            first.write(0, parts(&[&b"123456789"[..gone]])).await.unwrap();
            drop(first);
            let mut second = stream.stage(source("v")).await.unwrap();
            assert_eq!(second.resume(), Resume::Fresh);
            second.write(0, parts(&[b"123", b"45"])).await.unwrap();
            second.write(5, parts(&[b"6789"])).await.unwrap();
            let attributes = Attributes {
                mtime: Time::default(),
                mode: 0,
                ..Attributes::default()
            };
            second.commit(9, attributes).await.unwrap();
            assert_eq!(*pipe.0.lock(), b"123456789", "{gone}");
        }
    }

    #[tokio::test]
    async fn a_write_that_failed_and_another_version_are_no_place_to_go_on() {
        let (stream, pipe) = stream(5);
        let mut first = stream.stage(source("v")).await.unwrap();
        first.write(0, parts(&[b"123"])).await.unwrap();
        for other in [None, source("w")] {
            let refused = stream.stage(other.clone()).await.err().unwrap();
            assert_eq!(refused.kind, ErrorKind::SourceChanged, "{other:?}");
        }
        assert!(first.write(3, parts(&[b"456"])).await.is_err());
        let refused = stream.stage(source("v")).await.err().unwrap();
        assert!(refused.describe().contains("write to standard output"), "{refused}");
        assert_eq!(*pipe.0.lock(), b"12345");
    }
}
