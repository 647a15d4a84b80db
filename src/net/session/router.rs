//! Passes messages and frames that arrive on to the transfers that they are for.

use crate::chunk::window::{Window, cost};
use crate::net::control::codec::Room;
use crate::net::data::carry::FrameRouter;
use crate::net::data::payload::ReceivedFrame;
use crate::net::error::NetError;
use crate::net::session::handed::HandedFile;
use crate::net::wire::Code;
use crate::net::wire::frame::{ATTACHED_BBR, FrameKind};
use crate::net::wire::proto::transfer_message::Body;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// What a message takes of a session's memory, until it has been processed.
pub struct MessageRoom {
    _room: Option<Room>,
}

impl MessageRoom {
    pub(super) fn new(room: Option<Room>) -> MessageRoom {
        MessageRoom { _room: room }
    }
}

/// Where the messages and the frames of a transfer go. The channels have no bounds of their own:
/// messages hold their room, frames are charged to the window, and a file is handed over when it is
/// wanted.
struct Route {
    messages: mpsc::UnboundedSender<(Body, MessageRoom)>,
    frames: mpsc::UnboundedSender<ReceivedFrame>,
    files: mpsc::UnboundedSender<HandedFile>,
}

/// The receiving ends of a route.
pub(super) struct Arrivals {
    pub(super) messages: mpsc::UnboundedReceiver<(Body, MessageRoom)>,
    pub(super) frames: mpsc::UnboundedReceiver<ReceivedFrame>,
    pub(super) files: mpsc::UnboundedReceiver<HandedFile>,
}

/// The routes of a session, by the numbers of the transfers.
pub struct Router {
    routes: Mutex<HashMap<u32, Route>>,
    most: usize,
    window: Window,
    /// BBR decides how fast the other side sends.
    has_bbr: AtomicBool,
}

impl Router {
    /// No routes yet, and at most `most`; frames are charged to a window of `window` bytes.
    pub(super) fn new(window: u64, most: usize) -> Router {
        Router {
            routes: Mutex::default(),
            most,
            window: Window::new(window),
            has_bbr: AtomicBool::new(false),
        }
    }

    /// Whether BBR decides how fast the other side sends.
    pub(super) fn has_bbr(&self) -> bool {
        self.has_bbr.load(Ordering::Relaxed)
    }

    /// Opens the route to transfer `number`.
    ///
    /// # Errors
    /// [`NetError::Protocol`] if the number is taken, [`NetError::Refused`] if there are too many
    /// transfers.
    pub(super) fn open(&self, number: u32) -> Result<Arrivals, NetError> {
        let (messages_in, messages) = mpsc::unbounded_channel();
        let (frames_in, frames) = mpsc::unbounded_channel();
        let (files_in, files) = mpsc::unbounded_channel();
        let mut routes = self.routes.lock();
        if routes.contains_key(&number) {
            return Err(NetError::Protocol("the number of a transfer is used twice".into()));
        }
        if routes.len() >= self.most {
            let text = format!("a session has at most {} transfers at once", self.most);
            let code = Code::UNAVAILABLE;
            return Err(NetError::Refused { code, text });
        }
        let route = Route {
            messages: messages_in,
            frames: frames_in,
            files: files_in,
        };
        routes.insert(number, route);
        Ok(Arrivals {
            messages,
            frames,
            files,
        })
    }

    /// Closes it.
    pub(super) fn close(&self, number: u32) {
        self.routes.lock().remove(&number);
    }

    /// Passes a message on to its transfer, if that is still under way.
    pub(super) fn deliver(&self, transfer: u32, body: Body, room: MessageRoom) {
        if let Some(route) = self.routes.lock().get(&transfer) {
            let _ = route.messages.send((body, room));
        }
    }

    /// Hands a file over to its transfer, if that is still under way.
    pub(super) fn hand(&self, transfer: u32, file: HandedFile) {
        if let Some(route) = self.routes.lock().get(&transfer) {
            let _ = route.files.send(file);
        }
    }
}

impl FrameRouter for Router {
    fn window(&self) -> &Window {
        &self.window
    }

    fn route(&self, mut frame: ReceivedFrame) -> Result<(), NetError> {
        if frame.header.kind == FrameKind::Attached {
            let has_bbr = frame.header.attempt == ATTACHED_BBR;
            self.has_bbr.fetch_or(has_bbr, Ordering::Relaxed);
            return Ok(());
        }
        if frame.charge.is_none() {
            // its header came right behind the proof, or it came from this process
            let charge = self.window.charge(cost(frame.payload.len()));
            frame.charge = Some(charge.map_err(|e| NetError::Protocol(e.to_string()))?);
        }
        // one of a transfer that has ended is accepted and dropped
        if let Some(route) = self.routes.lock().get(&frame.header.transfer) {
            let _ = route.frames.send(frame);
        }
        Ok(())
    }
}
