//! A receiver that works for long without a result gives signs of life. Time is virtual here:
//! sender and receiver are wired together in one process, and the clock jumps whenever both wait.

use crate::support::store::{Delays, Slow, Trap};
use crate::support::tree::{staged, write};
use haul::chunk::buffer::BufferPool;
use haul::net::NetError;
use haul::net::control::codec::read_encoded;
use haul::net::control::queue::{ControlQueue, ControlSender};
use haul::net::session::channel::TransferChannel;
use haul::net::session::{SessionBounds, SessionCore};
use haul::net::transfer::options::Options;
use haul::net::transfer::receive::destination::Target;
use haul::net::transfer::receive::receiver;
use haul::net::transfer::receive::tree::Tree;
use haul::net::transfer::report::{Counters, Reporter};
use haul::net::transfer::send::sender;
use haul::net::transfer::send::source::{Origin, TransferSource};
use haul::net::wire::MAX_CONTROL;
use haul::net::wire::proto::control_message::Body;
use haul::store::local::LocalStore;
use haul::store::{RemotePath, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Longer than a sender waits for a receiver that gives no sign of life.
const LONG: Duration = Duration::from_secs(300);

/// Delivers what one side sends to the other one.
async fn carry(mut queue: ControlQueue, to: Arc<SessionCore>) {
    while let Some(bytes) = queue.recv().await {
        let encoded = read_encoded(&mut bytes.bytes(), MAX_CONTROL).await.unwrap();
        let room = to.room_for(&encoded).await;
        if let Some(Body::Transfer(message)) = encoded.decode().unwrap().body {
            to.deliver(message, room);
        }
    }
}

fn link() -> (Arc<SessionCore>, ControlQueue) {
    let (control, queue) = ControlSender::channel(1 << 20);
    (
        SessionCore::new(control, SessionBounds::of_client(1 << 20, 1 << 20), BufferPool::new(1)),
        queue,
    )
}

async fn store_of(path: &Path) -> Arc<dyn Store> {
    LocalStore::open(path).unwrap().subtree(&RemotePath::root()).await.unwrap()
}

/// Sends `from` into a directory `d` of `to`, which has these delays. Gives how each side ended,
/// and what the sender counted.
async fn transfer(
    from: &Path,
    to: &Path,
    delays: Delays,
) -> (Result<(), NetError>, Result<(), NetError>, Reporter) {
    let ((sending, sent), (receiving, received)) = (link(), link());
    let carriers = [
        tokio::spawn(carry(sent, receiving.clone())),
        tokio::spawn(carry(received, sending.clone())),
    ];
    let origin = Origin::Tree {
        store: store_of(from).await,
        path: RemotePath::root(),
    };
    let sources = Arc::new(vec![TransferSource {
        label: b"t".to_vec(),
        origin,
        place: None,
        chosen: None,
    }]);
    let target = Target::Tree(Tree {
        store: Arc::new(Slow {
            inner: store_of(to).await,
            delays,
            trap: Trap::default(),
        }),
        tops: vec![RemotePath::parse(b"d").unwrap()],
        base: None,
        dry_run: false,
        who: "test".into(),
        release: None,
        own_lock_wait: Duration::ZERO,
        write_only: false,
    });
    let options = Options {
        recursive: true,
        ..Options::default()
    };
    let (channel, other) = (
        TransferChannel::join(&sending, 1).unwrap(),
        TransferChannel::join(&receiving, 1).unwrap(),
    );
    let reporter = Reporter::silent();
    let ended = tokio::join!(
        sender::send(channel, sources, options.clone(), reporter.clone()),
        receiver::receive(other, target, Vec::new(), options, Reporter::silent()),
    );
    carriers.into_iter().for_each(|carrier| carrier.abort());
    (ended.0, ended.1, reporter)
}

#[tokio::test(start_paused = true)]
async fn a_sender_waits_for_directories_that_take_long_to_complete() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write(&from.join("sub/f"), b"with its offer");
    std::fs::create_dir(&to).unwrap();
    let none = Delays::default();
    let slow = [
        Delays { sync: LONG, ..none },
        Delays {
            set_attributes: LONG,
            ..none
        },
        Delays {
            make_dirs: LONG,
            ..none
        },
    ];
    for delays in slow {
        let started = tokio::time::Instant::now();
        let (sent, received, reporter) = transfer(&from, &to, delays).await;
        assert!(started.elapsed() >= LONG, "it did not take long");
        sent.unwrap();
        received.unwrap();
        assert_eq!(Counters::get(&reporter.counters.dirs_done), 2);
        assert_eq!(std::fs::read(to.join("d/sub/f")).unwrap(), b"with its offer");
        std::fs::remove_dir_all(to.join("d")).unwrap();
    }
}

/// A file that cannot be staged, which takes long to find out.
#[tokio::test(start_paused = true)]
async fn a_sender_waits_for_a_file_that_takes_long_to_open() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write(&from.join("large"), &vec![0; 2 << 20]);
    std::fs::create_dir_all(staged(&to.join("d/large"))).unwrap();
    let delays = Delays {
        stage: LONG,
        ..Delays::default()
    };
    let (sent, received, reporter) = transfer(&from, &to, delays).await;
    sent.unwrap();
    received.unwrap();
    assert_eq!(Counters::get(&reporter.counters.failed), 1);
}
