//! A lane: one connection within a carrier, with a window in each direction.

use crate::net::lanes::outgoing::{OpenedLane, Outgoing};
use crate::net::lanes::role::Role;
use crate::net::lanes::segment::{Header, Kind};
use crate::net::lanes::state::LaneState;
use parking_lot::Mutex;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One connection within a carrier. Dropping it closes it.
pub struct Lane {
    id: u16,
    role: Role,
    state: Arc<Mutex<LaneState>>,
    outgoing: Arc<Outgoing>,
}

impl Lane {
    /// A lane that its carrier has opened.
    pub(super) fn new(opened: OpenedLane, outgoing: Arc<Outgoing>) -> Lane {
        let OpenedLane { id, role, state } = opened;
        Lane {
            id,
            role,
            state,
            outgoing,
        }
    }

    /// Which kind of connection it is.
    pub fn role(&self) -> Role {
        self.role
    }

    fn send(&self, kind: Kind, value: u32) {
        self.outgoing.push(Header {
            kind,
            lane: self.id,
            value,
        });
    }

    /// Ready once there is something to read, or the lane has ended.
    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.state.lock().poll_readable(cx)
    }

    /// Ready once the lane would take bytes, or has ended.
    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        state.poll_writable(self.outgoing.has_room(self.role), cx)
    }

    /// Reads what has arrived; 0 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has.
    pub(super) fn try_read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let (taken, credit) = self.state.lock().read(buffers)?;
        if let Some(credit) = credit {
            self.send(Kind::Credit, credit);
        }
        Ok(taken)
    }

    /// Writes as many of these bytes as the peer and the carrier take now.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if that is none; [`io::ErrorKind::BrokenPipe`] at the end.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        let sendable = state.sendable(bytes)?;
        let taken = self.outgoing.push_data(self.id, self.role, sendable);
        state.sent(taken);
        match taken {
            0 if !bytes.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.outgoing.closed(self.id);
        self.send(Kind::Close, 0);
    }
}

impl AsyncRead for Lane {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        let room = buffer.initialize_unfilled();
        let taken = self.try_read(&mut [IoSliceMut::new(room)])?;
        buffer.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lane {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.poll_writable(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // the carrier sends what it has at once
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.lock().shut_down() {
            self.send(Kind::End, 0);
        }
        Poll::Ready(Ok(()))
    }
}
