//! Tests of the reader.

use super::*;
use crate::chunk::buffer::BufferPool;
use crate::chunk::digest::RootHasher;
use crate::chunk::window::Allowance;
use crate::net::control::queue::ControlSender;
use crate::net::session::SessionBounds;
use crate::net::session::channel::TransferChannel;
use crate::net::transfer::send::reads::WantedFile;
use crate::net::transfer::send::state::{Phase, SendFile};
use crate::store::local::LocalStore;
use crate::store::{Allocation, RemotePath, Store, StoreExt};
use std::path::Path;

/// A transfer of one file of two chunks, `f` in `dir`.
struct Fixture {
    core: Arc<SessionCore>,
    reader: FileReader,
    state: SendState,
    store: Arc<dyn Store>,
    _channel: TransferChannel,
}

impl Fixture {
    async fn new(dir: &Path) -> Fixture {
        std::fs::write(dir.join("f"), vec![7; CHUNK_SIZE + 1]).unwrap();
        let (control, _queue) = ControlSender::channel(1 << 20);
        let bounds = SessionBounds::of_client(8 << 20, 8 << 20);
        let core = SessionCore::new(control, bounds, BufferPool::new(1));
        let channel = TransferChannel::join(&core, 1).unwrap();
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(dir).unwrap());
        let mut state = SendState::new(core.tasks().clone(), Arc::default(), false);
        let path = RemotePath::parse(b"f").unwrap();
        let entry = store.stat(&path).await.unwrap();
        let cost = Allowance::new(1).take(0);
        state.add(7, SendFile::new(0, path, Some(entry), cost));
        Fixture {
            reader: FileReader::new(core.clone(), 1),
            core,
            state,
            store,
            _channel: channel,
        }
    }

    /// The receiver wants this attempt at it.
    fn want(&mut self, attempt: u8) {
        let file = self.state.get_mut(7).unwrap();
        (file.attempt, file.phase) = (attempt, Phase::Offered);
        let entry = file.entry.clone().unwrap();
        self.state.queue(WantedFile {
            id: FileId { number: 7, attempt },
            store: self.store.clone(),
            path: RemotePath::parse(b"f").unwrap(),
            size: entry.size,
            version: entry.version,
            allocation: Allocation::Dense,
            offset: 0,
            root: RootHasher::default(),
        });
    }

    /// Reads until a job of this kind has ended, which is not processed.
    async fn until(&mut self, is_it: impl Fn(&ReadEvent) -> bool) -> ReadEvent {
        loop {
            assert!(self.reader.plan(&mut self.state).is_none());
            // as the connection that sends a deferred chunk does
            self.core.send_queue.connected(1);
            while let Some((_, body)) = self.core.send_queue.try_pop(1, tokio::time::Instant::now())
            {
                if let FrameBody::Deferred(chunk) = &*body {
                    let (mut reading, mut piece) = (chunk.read(), Vec::new());
                    while reading.next(&mut piece).await {}
                    reading.digest();
                }
            }
            let event = self.reader.next(&mut self.state).await;
            if is_it(&event) {
                return event;
            }
            assert!(self.reader.process(event, &mut self.state).is_empty());
        }
    }
}

/// A connection may find that a chunk is another one when it reads it once more, while the file is
/// looked at for the last time: then no end is sent, and the file does not count as sent.
#[tokio::test]
async fn an_attempt_that_was_given_up_has_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::new(dir.path()).await;
    let is_checked = |event: &ReadEvent| matches!(event, ReadEvent::Done(ReadDone::Checked { .. }));
    fixture.want(0);
    let old = fixture.until(is_checked).await;
    fixture.core.send_queue.forget_file(1, 7);
    fixture.want(1);
    assert!(fixture.reader.process(old, &mut fixture.state).is_empty());
    assert!(!fixture.core.send_queue.is_queued(), "given up");
    let new = fixture.until(is_checked).await;
    assert!(fixture.reader.process(new, &mut fixture.state).is_empty());
    let size = CHUNK_SIZE as u64 + 1;
    assert!(matches!(fixture.state.get(7).unwrap().phase, Phase::Sent(_, n) if n == size));
    assert!(fixture.core.send_queue.is_queued());
}

/// What is read of a file that is settled meanwhile is not sent, and takes nothing of the window
/// any more.
#[tokio::test]
async fn what_was_read_of_a_settled_file_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::new(dir.path()).await;
    let is_chunk = |event: &ReadEvent| matches!(event, ReadEvent::Done(ReadDone::Chunk { .. }));
    fixture.want(0);
    let read = fixture.until(is_chunk).await;
    fixture.state.settle(7).unwrap();
    assert!(fixture.reader.process(read, &mut fixture.state).is_empty());
    while !fixture.reader.ahead.is_empty() {
        let event = fixture.reader.next(&mut fixture.state).await;
        assert!(fixture.reader.process(event, &mut fixture.state).is_empty());
    }
    assert!(!fixture.core.send_queue.is_waiting(1));
    assert_eq!(fixture.core.send_queue.credit().outstanding(), 0);
}

/// A file that changes is offered as it is now, without what was read of it before: else its hash
/// would be reported.
#[tokio::test]
async fn a_change_forgets_what_was_read_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::new(dir.path()).await;
    fixture.want(0);
    let id = |attempt| FileId { number: 7, attempt };
    assert!(fixture.reader.plan(&mut fixture.state).is_none());
    assert!(fixture.state.is_live(id(0)));
    fixture.state.sent(id(0), Some([1; 32]), 5);
    assert_eq!(fixture.state.get(7).unwrap().hash(), Some([1; 32]));
    fixture.want(1);
    assert_eq!(fixture.state.get(7).unwrap().hash(), None);
    // the last word of the attempt before may come late
    fixture.state.sent(id(0), Some([1; 32]), 5);
    assert_eq!(fixture.state.get(7).unwrap().hash(), None);
    assert!(!fixture.state.is_live(id(0)));
}

/// All of a file is on its way, and a connection is lost: a chunk that cannot be read once more
/// fails the file, for which the receiver would wait.
#[tokio::test]
async fn a_chunk_that_cannot_be_resent_fails_a_file_that_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::new(dir.path()).await;
    fixture.want(0);
    let checked = fixture
        .until(|event| matches!(event, ReadEvent::Done(ReadDone::Checked { .. })))
        .await;
    assert!(fixture.reader.process(checked, &mut fixture.state).is_empty());
    assert!(matches!(fixture.state.get(7).unwrap().phase, Phase::Sent(..)));
    let lost = |attempt| {
        let path = RemotePath::parse(b"f").unwrap();
        ReadEvent::Deferred(ChunkRead {
            id: FileId { number: 7, attempt },
            extent: at(0, CHUNK_SIZE),
            digest: Err(StoreError::new(ErrorKind::SourceChanged, &path)),
        })
    };
    assert!(
        fixture.reader.process(lost(1), &mut fixture.state).is_empty(),
        "another attempt's"
    );
    let failures = fixture.reader.process(lost(0), &mut fixture.state);
    assert!(matches!(failures.as_slice(), [ReadFailure::Failed(id, _)] if id.number == 7));
}
