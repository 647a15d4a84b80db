//! What a lane and its carrier know of it: the bytes that have arrived, and the windows of both
//! directions.

use crate::net::lanes::intake::Intake;
use crate::net::lanes::role::Role;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Bytes of a lane that its peer may have outstanding: more than ssh's own window of 2 MiB, so that
/// this one is not what holds a transfer up.
const DATA_WINDOW: usize = 4 << 20;
/// The same for a control connection.
const CONTROL_WINDOW: usize = 256 << 10;
/// Bytes of a lane that are read before the peer hears of it: at least so many, and an eighth of
/// what it may have outstanding. Each credit wakes ssh at both ends.
const LEAST_CREDIT: usize = 64 << 10;
const CREDITS: usize = 8;
/// An inbox that has become larger than this is made smaller once it is empty.
const IDLE_INBOX: usize = 256 << 10;

/// Bytes of a lane that one side lets the other have outstanding.
pub(super) fn window(role: Role) -> usize {
    match role {
        Role::Control => CONTROL_WINDOW,
        Role::Data => DATA_WINDOW,
    }
}

/// What a lane and its carrier know of it.
pub(super) struct LaneState {
    role: Role,
    /// Bytes that have arrived and were not read.
    inbox: VecDeque<u8>,
    /// Bytes that were read and not credited to the peer.
    uncredited: usize,
    /// Bytes that the peer still takes.
    credit: usize,
    /// How fast it takes them.
    intake: Intake,
    /// How fast this side takes the peer's bytes.
    own_intake: Intake,
    /// Nothing more arrives.
    is_read_ended: bool,
    /// Nothing more can be written.
    is_write_ended: bool,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

impl LaneState {
    /// A new lane's.
    pub(super) fn new(role: Role) -> LaneState {
        LaneState {
            role,
            inbox: VecDeque::new(),
            uncredited: 0,
            credit: window(role),
            intake: Intake::new(Instant::now()),
            own_intake: Intake::new(Instant::now()),
            is_read_ended: false,
            is_write_ended: false,
            readers: Vec::new(),
            writers: Vec::new(),
        }
    }

    /// Takes bytes that have arrived. Returns false if the peer had no credit for them.
    pub(super) fn arrive(&mut self, bytes: &[u8]) -> bool {
        let most = window(self.role).saturating_sub(self.uncredited);
        if self.is_read_ended || self.inbox.len().saturating_add(bytes.len()) > most {
            return false;
        }
        self.inbox.extend(bytes);
        wake(&mut self.readers);
        true
    }

    /// The peer takes more bytes. Returns false if that is more than it may ever take.
    pub(super) fn credited(&mut self, more: usize) -> bool {
        self.credit = self.credit.saturating_add(more);
        self.intake.took(more, Instant::now());
        wake(&mut self.writers);
        self.credit <= window(self.role)
    }

    /// Nothing more arrives.
    pub(super) fn end_reading(&mut self) {
        self.is_read_ended = true;
        wake(&mut self.readers);
    }

    /// The peer, or the carrier, takes nothing more.
    pub(super) fn end_writing(&mut self) {
        self.is_write_ended = true;
        wake(&mut self.writers);
    }

    /// The carrier has room for bytes again.
    pub(super) fn wake_writers(&mut self) {
        wake(&mut self.writers);
    }

    /// Ready once there is something to read, or the lane has ended.
    pub(super) fn poll_readable(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.inbox.is_empty() || self.is_read_ended {
            return Poll::Ready(());
        }
        remember(&mut self.readers, cx);
        Poll::Pending
    }

    /// Ready once the peer would take bytes and there is a place for them, or the lane has ended.
    pub(super) fn poll_writable(&mut self, has_place: bool, cx: &Context<'_>) -> Poll<()> {
        if self.is_write_ended || (has_place && self.room() > 0) {
            return Poll::Ready(());
        }
        remember(&mut self.writers, cx);
        Poll::Pending
    }

    /// Reads what has arrived, 0 bytes at the end; and the credit for the peer that is due.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has arrived.
    pub(super) fn read(
        &mut self,
        buffers: &mut [IoSliceMut<'_>],
    ) -> io::Result<(usize, Option<u32>)> {
        if self.inbox.is_empty() {
            return match self.is_read_ended {
                true => Ok((0, None)),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let taken = self.take(buffers);
        self.uncredited = self.uncredited.saturating_add(taken);
        let now = Instant::now();
        self.own_intake.took(taken, now);
        let due = self.own_intake.allowed(window(self.role), now) / CREDITS;
        let is_due = self.uncredited >= due.max(LEAST_CREDIT) && !self.is_read_ended;
        let credit = is_due.then(|| std::mem::take(&mut self.uncredited));
        Ok((taken, credit.map(|credit| u32::try_from(credit).unwrap_or(u32::MAX))))
    }

    /// The part of these bytes that may be sent now.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] at the end.
    pub(super) fn sendable<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        match self.is_write_ended {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(bytes.get(..self.room().min(bytes.len())).unwrap_or_default()),
        }
    }

    /// So many bytes were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(bytes);
    }

    /// Ends writing; true if it had not ended before.
    pub(super) fn shut_down(&mut self) -> bool {
        let is_first = !self.is_write_ended;
        self.end_writing();
        is_first
    }

    /// Bytes that may be sent now: no more than the peer takes, and on a data lane no more than it
    /// takes in a second.
    fn room(&mut self) -> usize {
        let most = window(self.role);
        let allowed = match self.role {
            Role::Control => most,
            Role::Data => self.intake.allowed(most, Instant::now()),
        };
        let outstanding = most.saturating_sub(self.credit);
        allowed.saturating_sub(outstanding).min(self.credit)
    }

    fn take(&mut self, buffers: &mut [IoSliceMut<'_>]) -> usize {
        let mut taken = 0_usize;
        for buffer in buffers {
            while taken < self.inbox.len() {
                let (front, back) = self.inbox.as_slices();
                let rest = front.get(taken..).filter(|rest| !rest.is_empty());
                let behind = taken.saturating_sub(front.len());
                let rest = rest.or_else(|| back.get(behind..)).unwrap_or_default();
                let n = rest.len().min(buffer.len());
                let (Some(from), Some(to)) = (rest.get(..n), buffer.get_mut(..n)) else {
                    break;
                };
                to.copy_from_slice(from);
                taken = taken.saturating_add(n);
                IoSliceMut::advance(buffer, n);
                if buffer.is_empty() {
                    break;
                }
            }
        }
        self.inbox.drain(..taken);
        if self.inbox.is_empty() && self.inbox.capacity() > IDLE_INBOX {
            self.inbox.shrink_to(IDLE_INBOX);
        }
        taken
    }
}

fn wake(wakers: &mut Vec<Waker>) {
    wakers.drain(..).for_each(Waker::wake);
}

fn remember(wakers: &mut Vec<Waker>, cx: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}
