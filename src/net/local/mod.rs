//! A transfer within one process: the sender and the receiver of every transfer, with nothing
//! between them but memory.
//!
//! Both sides have a session, as client and server have. Control messages pass from one to the
//! other as values, and frames with the bytes that the sender has read: no connection, no
//! encryption, no second copy.

use crate::chunk::buffer::BufferPool;
use crate::net::control::queue::ControlSender;
use crate::net::data::local::connect;
use crate::net::data::pacer::{Pacer, RateLimit};
use crate::net::error::{LossReason, NetError};
use crate::net::session::channel::{TransferChannel, cancel};
use crate::net::session::{SessionBounds, SessionCore};
use crate::net::task::Task;
use crate::net::transfer::mode::ModeRules;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::receive::receiver;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::sender;
use crate::net::transfer::send::source::TransferSource;
use crate::net::wire::proto::control_message::Body;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Bytes of frames that the receiver has not written, where memory is not short.
pub const WINDOW: u64 = 32 << 20;
/// Most tasks that carry frames, and read chunks as they do.
const MOST_CARRIERS: usize = 4;

/// Where a transfer within this machine goes.
#[derive(Clone)]
pub struct LocalDestination {
    /// A place for each source.
    pub target: Target,
    /// What the user calls it.
    pub label: Vec<u8>,
}

/// A session of which both sides are here. It ends when it is dropped.
pub struct LocalSession {
    sender: Arc<SessionCore>,
    receiver: Arc<SessionCore>,
    /// The number of the last transfer.
    transfers: AtomicU32,
    _carriers: Vec<Task<Result<(), NetError>>>,
    _ends: Task<()>,
}

impl LocalSession {
    /// Starts a session whose receiver has at most `window` bytes of frames that it has not
    /// written. Under a limit all bytes pass through it: no file is handed over.
    pub fn start(limit: &Arc<RateLimit>, window: u64) -> LocalSession {
        let buffers = BufferPool::for_window(window);
        let (sender, receiver) = pair(&buffers, limit, window);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut carriers = Vec::new();
        for _ in 0..processors.min(MOST_CARRIERS) {
            let ends = connect(&buffers).into_iter().zip([&sender, &receiver]);
            carriers.extend(ends.map(|((from, to), core)| core.pool().add(from, to).owner));
        }
        let ends = end_together(sender.clone(), receiver.clone());
        LocalSession {
            _carriers: carriers,
            transfers: AtomicU32::new(0),
            _ends: sender.tasks().spawn("ends", ends),
            sender,
            receiver,
        }
    }

    /// Copies the sources. Files that fail are reported, and do not end it.
    ///
    /// # Errors
    /// Why the transfer ended before it was complete.
    pub async fn copy(
        &self,
        sources: Arc<Vec<TransferSource>>,
        destination: LocalDestination,
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let LocalDestination { target, label } = destination;
        let number = self.transfers.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let to = TransferChannel::join(&self.receiver, number)?;
        let from = TransferChannel::join(&self.sender, number)?;
        // the sender changes modes, and tells of what is there
        let received = Options {
            chmod: ModeRules::default(),
            on_settled: None,
            removes: options.removes || options.on_settled.is_some(),
            ..options.clone()
        };
        let receive = receiver::receive(to, target, label, received, Reporter::silent());
        let send = sender::send(from, sources, options, reporter);
        let receiving = ending_both((self.receiver.clone(), number), receive);
        let receiving = self.receiver.tasks().spawn("put", receiving);
        let sending = self
            .sender
            .tasks()
            .spawn("transfer", ending_both((self.sender.clone(), number), send));
        let (sent, _) = tokio::join!(sending, receiving);
        sent.flatten()
    }

    /// Ends the transfer early. What has been written of larger files by then is made durable
    /// before [`LocalSession::copy`] returns.
    pub fn leave(&self) {
        self.end(&NetError::Lost(LossReason::LoggedOut));
    }

    /// The same, for this reason.
    pub fn end(&self, why: &NetError) {
        for core in [&self.sender, &self.receiver] {
            core.shut_down(why.clone());
        }
    }
}

impl Drop for LocalSession {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The sending and the receiving side.
fn pair(
    buffers: &BufferPool,
    limit: &Arc<RateLimit>,
    window: u64,
) -> (Arc<SessionCore>, Arc<SessionCore>) {
    let limited = Pacer::new(vec![limit.clone()], Vec::new());
    let (sender, to_sender) = side(buffers, limited, window);
    let (receiver, to_receiver) = side(buffers, Pacer::unlimited(), window);
    for (from, deliver_to, to) in
        [(&sender, to_sender, &receiver), (&receiver, to_receiver, &sender)]
    {
        if limit.rate().is_none() {
            // a file that is handed over is copied at once
            from.join(to);
        }
        let set = deliver_to.set(Arc::downgrade(to));
        debug_assert!(set.is_ok(), "a side has one other side");
    }
    (sender, receiver)
}

/// Where the messages of a side go.
type OtherSide = Arc<OnceLock<Weak<SessionCore>>>;

/// A side, and the place for the other one.
fn side(buffers: &BufferPool, pacer: Arc<Pacer>, window: u64) -> (Arc<SessionCore>, OtherSide) {
    let other_side = OtherSide::default();
    let deliver_to = other_side.clone();
    let control = ControlSender::here(Arc::new(move |body| {
        match (deliver_to.get().and_then(Weak::upgrade), body) {
            (Some(core), Body::Transfer(message)) => {
                core.deliver_here(message);
                true
            }
            // it has ended; and nothing but a transfer is spoken of
            (None, _) | (Some(_), _) => false,
        }
    }));
    let bounds = SessionBounds::of_client(window, window);
    (SessionCore::paced(control, bounds, buffers.clone(), pacer), other_side)
}

/// Runs one side of a transfer, and has the other one end when it fails.
async fn ending_both(
    (core, number): (Arc<SessionCore>, u32),
    side: impl Future<Output = Result<(), NetError>>,
) -> Result<(), NetError> {
    let ended = side.await;
    if let Err(why) = &ended {
        cancel(&core, number, why).await;
    }
    ended
}

/// Ends each side when the other one has ended.
async fn end_together(a: Arc<SessionCore>, b: Arc<SessionCore>) {
    tokio::select! {
        why = a.down() => b.shut_down(why),
        why = b.down() => a.shut_down(why),
    }
}
