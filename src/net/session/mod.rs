//! A session as both sides hold it: the queues of control messages and frames, the data
//! connections, its tasks, its end.
//!
//! Transfers take part through a [`channel`]; the [`router`] passes what arrives on to them.

pub mod channel;
pub mod handed;
pub mod inbound;
pub mod router;

use crate::chunk::buffer::BufferPool;
use crate::chunk::window::Allowance;
use crate::net::control::codec::{Encoded, Room};
use crate::net::control::queue::{ControlSender, Meter};
use crate::net::data::carry::FrameRouter;
use crate::net::data::pacer::Pacer;
use crate::net::data::pool::Pool;
use crate::net::data::send_queue::SendQueue;
use crate::net::error::{LossReason, NetError};
use crate::net::session::handed::HandedFile;
use crate::net::session::router::{MessageRoom, Router};
use crate::net::task::Tasks;
use crate::net::wire::proto::{SessionEnd, TransferMessage, control_message};
use crate::net::wire::{Code, FEATURE_COMPRESSION};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

/// How long the reason of a session's end may take to be known after the end itself.
const REASON: Duration = Duration::from_secs(5);

/// Of the window that a sender was granted, its unsettled offers take at most one part in this
/// many.
const OFFERED_PART: u64 = 8;
/// Of the window that a receiver grants, the unsettled offers that it takes have at most this part:
/// far more than an honest sender uses, who counts a little differently and stops after a batch.
const ACCEPTED_PART: u64 = 2;

/// How much a session may keep.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// Bytes of frames that the other side allows this one to have outstanding.
    pub credit: u64,
    /// Bytes of frames that this side allows the other one.
    pub window: u64,
    /// Bytes of decoded messages that wait; the reader of the control connection waits when there
    /// are more. An honest peer has less under way, so that the two sides never wait for each
    /// other.
    pub messages: usize,
    /// Transfers at once.
    pub transfers: usize,
}

impl SessionBounds {
    /// What a client keeps: enough for everything that an honest server has under way, so that a
    /// client never stops reading.
    pub const fn of_client(credit: u64, window: u64) -> SessionBounds {
        SessionBounds {
            credit,
            window,
            messages: 16 << 20,
            transfers: 64,
        }
    }
}

/// The shared half of a session.
pub struct SessionCore {
    /// Messages to the other side.
    pub control: ControlSender,
    /// Frames to the other side.
    pub send_queue: Arc<SendQueue>,
    router: Arc<Router>,
    pool: Arc<Pool>,
    tasks: Tasks,
    /// Room for messages that wait, of all transfers and requests.
    room: Arc<Semaphore>,
    most_messages: AtomicUsize,
    /// Where messages find room that are larger than all of that.
    meter: Option<Meter>,
    /// Bytes of frames that the other side may have outstanding.
    window: AtomicU64,
    /// What unsettled offers take, of those that this side made, and of those that came.
    offered: Allowance,
    accepted: Allowance,
    down: watch::Sender<Option<NetError>>,
    /// When anything last went forward: a frame or a message of a transfer.
    moved: Mutex<Instant>,
    /// There is a control connection at the moment.
    attached: AtomicBool,
    /// The other side, where that is in this process.
    other_side: OnceLock<Weak<SessionCore>>,
}

impl SessionCore {
    /// A session that sends messages through `control`, and frames as fast as it can.
    pub fn new(
        control: ControlSender,
        bounds: SessionBounds,
        buffers: BufferPool,
    ) -> Arc<SessionCore> {
        SessionCore::paced(control, bounds, buffers, Pacer::unlimited())
    }

    /// The same, with its data connections under the limits of `pacer`.
    pub fn paced(
        control: ControlSender,
        bounds: SessionBounds,
        buffers: BufferPool,
        pacer: Arc<Pacer>,
    ) -> Arc<SessionCore> {
        SessionCore::metered(control, bounds, buffers, (pacer, None))
    }

    /// The same, for a session that has little memory of its own until it is
    /// [lent](SessionCore::lend) more: larger messages take theirs from a meter.
    pub fn metered(
        control: ControlSender,
        bounds: SessionBounds,
        buffers: BufferPool,
        (pacer, meter): (Arc<Pacer>, Option<Meter>),
    ) -> Arc<SessionCore> {
        let send_queue = Arc::new(SendQueue::new(bounds.credit));
        let router = Arc::new(Router::new(bounds.window, bounds.transfers));
        Arc::new_cyclic(|core: &Weak<SessionCore>| {
            let core = core.clone();
            // one that is gone has ended already
            let tasks = Tasks::new(move |panic| {
                core.upgrade().into_iter().for_each(|l| l.shut_down(panic.clone()))
            });
            SessionCore {
                control,
                pool: Pool::new(send_queue.clone(), router.clone(), buffers, tasks.clone(), pacer),
                send_queue,
                router,
                tasks,
                room: Arc::new(Semaphore::new(bounds.messages)),
                most_messages: AtomicUsize::new(bounds.messages),
                meter,
                window: AtomicU64::new(bounds.window),
                offered: Allowance::new(bounds.credit / OFFERED_PART),
                accepted: Allowance::new(bounds.window / ACCEPTED_PART),
                down: watch::Sender::new(None),
                moved: Mutex::new(Instant::now()),
                attached: AtomicBool::new(true),
                other_side: OnceLock::new(),
            }
        })
    }

    /// Bytes of frames that the other side may have outstanding.
    pub fn window(&self) -> u64 {
        self.window.load(Ordering::Relaxed)
    }

    /// This side takes at least so many bytes of frames from now on. What was allowed already may
    /// be on its way, and stays allowed.
    pub fn allow(&self, window: u64) {
        self.take_up_to(self.window().max(window));
    }

    /// The other side has no more than so many bytes outstanding: this side takes no more.
    pub fn shrink(&self, window: u64) {
        self.take_up_to(window);
    }

    fn take_up_to(&self, window: u64) {
        self.window.store(window, Ordering::Relaxed);
        self.router.window().grant(window);
        self.accepted.set_most(window / ACCEPTED_PART);
        self.pool.buffers().set_window(window);
    }

    /// The session has more memory from now on.
    pub fn lend(&self, bounds: SessionBounds) {
        self.allow(bounds.window);
        self.grant(bounds.credit);
        let before = self.most_messages.fetch_max(bounds.messages, Ordering::Relaxed);
        self.room.add_permits(bounds.messages.saturating_sub(before));
    }

    /// The other side allows this one to have so many bytes outstanding.
    pub fn grant(&self, credit: u64) {
        self.send_queue.credit().grant(credit);
        self.offered.set_most(credit / OFFERED_PART);
    }

    /// The other side has these features.
    pub fn peer_features(&self, features: u64) {
        if features & FEATURE_COMPRESSION != 0 {
            self.pool.packer().accept();
        }
    }

    /// Whether BBR decides how fast the other side sends, and this one.
    pub fn has_bbr(&self) -> [bool; 2] {
        [self.router.has_bbr(), self.pool.has_bbr()]
    }

    /// Waits until this side has no more outstanding than a window of `bytes` has room for.
    pub async fn settled_within(&self, bytes: u64) {
        self.send_queue.credit().within(bytes).await;
        self.offered.within(bytes / OFFERED_PART).await;
    }

    /// What the unsettled offers of this side take.
    pub fn offered(&self) -> &Allowance {
        &self.offered
    }

    /// What the unsettled offers of the other side take.
    pub fn accepted(&self) -> &Allowance {
        &self.accepted
    }

    /// Something went forward.
    pub fn progress(&self) {
        *self.moved.lock() = Instant::now();
    }

    /// For how long nothing has gone forward.
    pub fn stalled(&self) -> Duration {
        self.moved.lock().elapsed()
    }

    /// The control connection was lost, or is there again. Deadlines of transfers do not run while
    /// it is lost.
    pub fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Ordering::Relaxed);
    }

    /// True while there is a control connection.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// Bytes of frames that have arrived and are still in memory.
    pub fn charged(&self) -> u64 {
        self.router.window().charged()
    }

    /// The routes to transfers.
    pub(super) fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// The data connections.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The session's tasks. A panic in one ends the session.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The session is over, and why. Transfers that are under way end with that. The other side
    /// learns of an error that it would meet again in another session.
    pub fn shut_down(&self, why: NetError) {
        let tell = matches!(why, NetError::Internal(_));
        self.finish(why, tell);
    }

    /// This side ends the session, and tells the other one why.
    pub fn end(&self, why: NetError) {
        self.finish(why, true);
    }

    fn finish(&self, why: NetError, tell: bool) {
        let end = tell.then(|| why.to_wire());
        let first = self.down.send_if_modified(|down| {
            let first = down.is_none();
            if first {
                *down = Some(why.into_session_end());
            }
            first
        });
        if let Some((code, text)) = end.filter(|_| first) {
            let code = u32::from(code.0);
            self.control.close_with(SessionEnd { code, text });
        }
        self.pool.close();
        self.control.close();
    }

    /// Queues a message for the control connection; waits where too many are queued.
    ///
    /// # Errors
    /// Why the session is over: that nothing is taken any more is only what follows from it, and
    /// may be seen first.
    pub async fn send(&self, body: control_message::Body) -> Result<(), NetError> {
        match self.control.send(body).await {
            Ok(()) => Ok(()),
            Err(closed) => Err(timeout(REASON, self.down()).await.unwrap_or(closed)),
        }
    }

    /// True once the session is over.
    pub fn is_down(&self) -> bool {
        self.down.borrow().is_some()
    }

    /// Why the session is over, once it is.
    pub fn ended(&self) -> Option<NetError> {
        self.down.borrow().clone()
    }

    /// Waits for the end of the session; gives the reason.
    pub async fn down(&self) -> NetError {
        let mut watch = self.down.subscribe();
        let ended = watch.wait_for(Option::is_some).await;
        let why = ended.ok().and_then(|why| why.clone());
        why.unwrap_or_else(|| NetError::Lost(LossReason::SessionOver))
    }

    /// True once a side has ended the session against the other's will: nothing that is queued
    /// counts any more.
    pub fn is_refused(&self) -> bool {
        matches!(&*self.down.borrow(), Some(NetError::Refused { code, .. }) if *code != Code::BYE)
    }

    /// Waits until a message that came fits into the session's memory, and takes its room. One that
    /// is larger than all of it takes all of it.
    pub async fn room_for(&self, encoded: &Encoded) -> MessageRoom {
        let (size, most) = (encoded.decoded_size(), self.most_messages.load(Ordering::Relaxed));
        if let Some(meter) = self.meter.as_ref().filter(|_| size > most) {
            let share = meter.shares.take(&meter.owner, size as u64).await;
            return MessageRoom::new(Some(Box::new(share)));
        }
        let permits = size.min(most);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        // the semaphore is never closed
        let permit = self.room.clone().acquire_many_owned(permits).await.ok();
        MessageRoom::new(permit.map(|permit| Box::new(permit) as Room))
    }

    /// The other side is in this process, too.
    pub fn join(&self, other_side: &Arc<SessionCore>) {
        let joined = self.other_side.set(Arc::downgrade(other_side));
        debug_assert!(joined.is_ok(), "it is joined once");
    }

    /// True where the other side is in this process, so that files can be handed over.
    pub fn hands_over(&self) -> bool {
        self.other_side.get().is_some()
    }

    /// Hands a file over to the other side of a transfer.
    pub fn hand_over(&self, transfer: u32, file: HandedFile) {
        if let Some(other_side) = self.other_side.get().and_then(Weak::upgrade) {
            other_side.router.hand(transfer, file);
        }
    }

    /// Passes a message on that comes from a sender or receiver in this process. It takes no room:
    /// what the transfer may have unsettled bounds how many there are.
    pub fn deliver_here(&self, message: TransferMessage) {
        self.deliver(message, MessageRoom::new(None));
    }

    /// Passes a message on to its transfer. One for no transfer is dropped: the transfer may have
    /// ended while the message was on its way.
    pub fn deliver(&self, message: TransferMessage, room: MessageRoom) {
        if let Some(body) = message.body {
            self.router.deliver(message.transfer, body, room);
        }
    }
}
