//! A transfer's place in a session: what arrives for it, and the way out for its messages.

use crate::net::data::body::FrameBody;
use crate::net::data::payload::{ReceivedBytes, ReceivedFrame};
use crate::net::error::NetError;
use crate::net::session::SessionCore;
use crate::net::session::handed::HandedFile;
use crate::net::session::router::Arrivals;
use crate::net::wire::frame::FrameHeader;
use crate::net::wire::proto::{Cancel, TransferMessage, control_message, transfer_message};
use std::sync::Arc;

/// A transfer's place in a session; dropping it leaves the session.
pub struct TransferChannel {
    core: Arc<SessionCore>,
    transfer: u32,
    arrivals: Arrivals,
}

/// What arrives for a transfer.
pub enum ChannelEvent {
    /// On the control connection.
    Message(transfer_message::Body),
    /// On a data connection. It is charged to the window until it is dropped.
    Frame(ReceivedFrame),
    /// From a sender in this process: a file to copy.
    File(HandedFile),
}

impl TransferChannel {
    /// Takes part in the session as transfer `number`.
    ///
    /// # Errors
    /// [`NetError::Protocol`] if the number is taken, [`NetError::Refused`] if there are too many
    /// transfers.
    pub fn join(core: &Arc<SessionCore>, number: u32) -> Result<TransferChannel, NetError> {
        let arrivals = core.router().open(number)?;
        core.send_queue.begin(number);
        Ok(TransferChannel {
            core: core.clone(),
            transfer: number,
            arrivals,
        })
    }

    /// The session.
    pub fn core(&self) -> &Arc<SessionCore> {
        &self.core
    }

    /// The transfer's number.
    pub fn number(&self) -> u32 {
        self.transfer
    }

    /// The next message of the transfer. Cancel-safe.
    pub async fn receive(&mut self) -> Option<transfer_message::Body> {
        self.arrivals.messages.recv().await.map(|(body, _)| body)
    }

    /// The next message, frame or file of the transfer, messages first. Cancel-safe.
    pub async fn receive_any(&mut self) -> Option<ChannelEvent> {
        tokio::select! {
            biased;
            message = self.arrivals.messages.recv() => {
                message.map(|(body, _)| ChannelEvent::Message(body))
            }
            frame = self.arrivals.frames.recv() => frame.map(ChannelEvent::Frame),
            file = self.arrivals.files.recv() => file.map(ChannelEvent::File),
        }
    }

    /// Sends a message of this transfer.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn send(&self, body: transfer_message::Body) -> Result<(), NetError> {
        self.core.send(message(self.transfer, body)).await
    }

    /// The way out for its messages and frames alone.
    pub fn outgoing(&self) -> Outgoing {
        Outgoing {
            core: self.core.clone(),
            transfer: self.transfer,
        }
    }
}

/// The way out for the messages and frames of a transfer.
pub struct Outgoing {
    core: Arc<SessionCore>,
    transfer: u32,
}

impl Outgoing {
    /// Sends a message.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn send(&self, body: transfer_message::Body) -> Result<(), NetError> {
        self.core.send(message(self.transfer, body)).await
    }

    /// Queues a frame that has come over another session. It occupies its place in the window of
    /// that session until it is acknowledged here. One that has none is not passed on.
    pub fn pass_on(&self, frame: ReceivedFrame) {
        let ReceivedFrame {
            header,
            payload,
            charge,
            ..
        } = frame;
        if let (ReceivedBytes::Own(bytes), Some(place)) = (payload, charge) {
            let transfer = self.transfer;
            let header = FrameHeader { transfer, ..header };
            self.core.send_queue.push(header, FrameBody::Bytes(bytes), place);
        }
    }

    /// A frame has been written by the other side.
    pub fn acknowledged(&self, number: u64, offset: u64) {
        self.core.send_queue.acknowledge(self.transfer, number, offset);
    }

    /// No frame of this offer is to be sent any more.
    pub fn forget(&self, number: u64) {
        self.core.send_queue.forget_file(self.transfer, number);
    }

    /// Something went forward.
    pub fn progress(&self) {
        self.core.progress();
    }
}

impl Drop for TransferChannel {
    fn drop(&mut self) {
        self.core.router().close(self.transfer);
        self.core.send_queue.end(self.transfer);
    }
}

/// Tells the other side that a transfer ended for a reason that it does not know of.
pub async fn cancel(core: &SessionCore, transfer: u32, why: &NetError) {
    let (code, text) = why.to_wire();
    let code = u32::from(code.0);
    let cancel = transfer_message::Body::Cancel(Cancel { code, text });
    // a failure to send it changes nothing about the end
    let _ = core.control.send(message(transfer, cancel)).await;
}

fn message(transfer: u32, body: transfer_message::Body) -> control_message::Body {
    let body = Some(body);
    control_message::Body::Transfer(TransferMessage { transfer, body })
}
