//! What goes out over a carrier, and its lanes: the state that its two tasks and its lanes share.

use crate::net::error::{LossReason, NetError};
use crate::net::lanes::role::Role;
use crate::net::lanes::segment::{HEADER, Header, Kind, MOST_DATA};
use crate::net::lanes::state::LaneState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};

/// Bytes of data connections that wait to be written. What waits here delays a control message.
const MOST_BULK: usize = 192 << 10;
/// Lanes that a client may have open at once.
pub(super) const MOST_LANES: usize = 16;
/// Bytes that are read at once.
const READ: usize = 256 << 10;

/// What goes out over a carrier, and the lanes that it belongs to.
pub(super) struct Outgoing {
    queue: Mutex<OutQueue>,
    filled: Notify,
    lanes: Mutex<Lanes>,
    /// When something came last.
    heard: Mutex<Instant>,
    /// Why the carrier is over.
    pub(super) over: watch::Sender<Option<NetError>>,
}

/// Bytes that wait to be written.
#[derive(Default)]
struct OutQueue {
    /// Of control connections, and of the carrier itself: they go first.
    urgent: Vec<u8>,
    /// Of data connections.
    bulk: Vec<u8>,
    /// No more bytes are taken.
    is_closing: bool,
}

/// A lane that was opened a moment ago.
pub(super) struct OpenedLane {
    pub(super) id: u16,
    pub(super) role: Role,
    pub(super) state: Arc<Mutex<LaneState>>,
}

/// Takes the lanes that the peer opens; false if there is no room for one.
pub(super) type Accept = dyn Fn(OpenedLane) -> bool + Send + Sync;

/// The open lanes of a carrier.
#[derive(Default)]
struct Lanes {
    open: HashMap<u16, Arc<Mutex<LaneState>>>,
    /// The number of the lane that was opened last.
    last: u16,
}

impl Outgoing {
    /// Nothing is queued but these bytes, and no lane is open.
    pub(super) fn new(first: Vec<u8>) -> Outgoing {
        let queue = OutQueue {
            urgent: first,
            ..OutQueue::default()
        };
        Outgoing {
            queue: Mutex::new(queue),
            filled: Notify::new(),
            lanes: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            over: watch::Sender::new(None),
        }
    }

    /// Queues a segment without data.
    pub(super) fn push(&self, header: Header) {
        let mut queue = self.queue.lock();
        if !queue.is_closing {
            // behind the lane's data, which it must not overtake
            let bytes = match header.kind {
                Kind::End | Kind::Close => &mut queue.bulk,
                Kind::Open | Kind::Data | Kind::Credit => &mut queue.urgent,
            };
            bytes.extend_from_slice(&header.encode());
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// Queues bytes of a lane; returns how many.
    pub(super) fn push_data(&self, lane: u16, role: Role, bytes: &[u8]) -> usize {
        let mut queue = self.queue.lock();
        let (out, room) = match role {
            // as much as the peer takes
            Role::Control => (&mut queue.urgent, bytes.len()),
            Role::Data => {
                let room = MOST_BULK.saturating_sub(queue.bulk.len());
                (&mut queue.bulk, room)
            }
        };
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        for piece in taken.chunks(MOST_DATA) {
            let header = Header {
                kind: Kind::Data,
                lane,
                value: u32::try_from(piece.len()).unwrap_or_default(),
            };
            out.extend_from_slice(&header.encode());
            out.extend_from_slice(piece);
        }
        drop(queue);
        if !taken.is_empty() {
            self.filled.notify_one();
        }
        taken.len()
    }

    /// True if [`Outgoing::push_data`] would take something.
    pub(super) fn has_room(&self, role: Role) -> bool {
        role == Role::Control || self.queue.lock().bulk.len() < MOST_BULK
    }

    /// This side has dropped the lane.
    pub(super) fn closed(&self, lane: u16) {
        self.lanes.lock().open.remove(&lane);
    }

    fn lane(&self, id: u16) -> Option<Arc<Mutex<LaneState>>> {
        self.lanes.lock().open.get(&id).cloned()
    }

    fn all_lanes(&self) -> Vec<Arc<Mutex<LaneState>>> {
        self.lanes.lock().open.values().cloned().collect()
    }

    /// No more bytes are taken; those that are queued go out.
    pub(super) fn close(&self) {
        self.queue.lock().is_closing = true;
        self.filled.notify_one();
    }

    /// The carrier is over, and so are its lanes.
    pub(super) fn end(&self, why: NetError) {
        self.queue.lock().is_closing = true;
        self.over.send_if_modified(|over| {
            let is_first = over.is_none();
            over.get_or_insert(why);
            is_first
        });
        for lane in self.all_lanes() {
            let mut lane = lane.lock();
            lane.end_reading();
            lane.end_writing();
        }
        self.filled.notify_one();
    }

    /// Writes what is queued until the carrier is closed.
    pub(super) async fn write_all(
        &self,
        mut writer: impl AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let mut batch = Vec::new();
        loop {
            let is_closing = {
                let mut queue = self.queue.lock();
                let next = match queue.urgent.is_empty() {
                    true => &mut queue.bulk,
                    false => &mut queue.urgent,
                };
                std::mem::swap(next, &mut batch);
                queue.is_closing
            };
            if !batch.is_empty() {
                self.all_lanes().iter().for_each(|lane| lane.lock().wake_writers());
                writer.write_all(&batch).await?;
                batch.clear();
            } else if is_closing {
                return writer.shutdown().await;
            } else {
                writer.flush().await?;
                self.filled.notified().await;
            }
        }
    }

    /// How long nothing has come.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.heard.lock())
    }

    /// Opens the next lane.
    pub(super) fn open(&self, role: Role) -> Result<OpenedLane, NetError> {
        let mut lanes = self.lanes.lock();
        if let Some(why) = &*self.over.borrow() {
            return Err(why.clone());
        }
        if lanes.open.len() >= MOST_LANES / 2 {
            // the other side may not know yet which of them have ended
            return Err(NetError::Lost(LossReason::LanesUsedUp));
        }
        let id = lanes.last.checked_add(1).ok_or(NetError::Lost(LossReason::LanesUsedUp))?;
        lanes.last = id;
        let state = Arc::new(Mutex::new(LaneState::new(role)));
        lanes.open.insert(id, state.clone());
        drop(lanes);
        self.push(Header {
            kind: Kind::Open,
            lane: id,
            value: match role {
                Role::Control => 0,
                Role::Data => 1,
            },
        });
        Ok(OpenedLane { id, role, state })
    }

    /// The peer has opened a lane.
    fn opened(&self, id: u16, value: u32) -> Result<OpenedLane, NetError> {
        let role = match value {
            0 => Role::Control,
            1 => Role::Data,
            _ => return Err(NetError::Protocol("an unknown kind of lane".into())),
        };
        let mut lanes = self.lanes.lock();
        if id <= lanes.last || lanes.open.len() >= MOST_LANES {
            return Err(NetError::Protocol("a lane that may not be opened".into()));
        }
        lanes.last = id;
        let state = Arc::new(Mutex::new(LaneState::new(role)));
        lanes.open.insert(id, state.clone());
        Ok(OpenedLane { id, role, state })
    }

    /// Takes a segment that has arrived, with its data.
    fn arrived(
        &self,
        header: Header,
        data: &[u8],
        accept: Option<&Accept>,
    ) -> Result<(), NetError> {
        let broken = |what: &str| Err(NetError::Protocol(what.to_string()));
        if header.kind == Kind::Open {
            let Some(accept) = accept else {
                return broken("a server opened a lane");
            };
            return match accept(self.opened(header.lane, header.value)?) {
                true => Ok(()),
                false => broken("too many lanes at once"),
            };
        }
        let Some(lane) = self.lane(header.lane) else {
            let was_open = header.lane <= self.lanes.lock().last;
            return if was_open {
                Ok(())
            } else {
                broken("a lane that was never opened")
            };
        };
        let mut lane = lane.lock();
        match header.kind {
            Kind::Data if !lane.arrive(data) => broken("more bytes of a lane than it may send"),
            Kind::Credit if !lane.credited(header.value as usize) => {
                broken("more credit than a lane has")
            }
            Kind::End => {
                lane.end_reading();
                Ok(())
            }
            Kind::Close => {
                lane.end_reading();
                lane.end_writing();
                Ok(())
            }
            Kind::Data | Kind::Credit | Kind::Open => Ok(()),
        }
    }

    /// Reads segments until the stream ends.
    pub(super) async fn read_all(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut bytes: Vec<u8>,
        accept: Option<&Accept>,
    ) -> NetError {
        loop {
            match self.take_segments(&bytes, accept) {
                Ok(taken) => drop(bytes.drain(..taken)),
                Err(e) => return e,
            }
            bytes.reserve(READ);
            match reader.read_buf(&mut bytes).await {
                Ok(0) => return NetError::Lost(LossReason::CarrierEnded),
                Ok(_) => *self.heard.lock() = Instant::now(),
                Err(e) => return NetError::lost(e),
            }
        }
    }

    /// Takes all segments that are complete; returns their length.
    fn take_segments(&self, bytes: &[u8], accept: Option<&Accept>) -> Result<usize, NetError> {
        let mut rest = bytes;
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER>() {
            let header = Header::decode(*header)?;
            let length = match header.kind {
                Kind::Data => header.value as usize,
                _ => 0,
            };
            let Some((data, behind)) = behind.split_at_checked(length) else {
                break;
            };
            self.arrived(header, data, accept)?;
            rest = behind;
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }
}
