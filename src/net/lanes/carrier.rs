//! A carrier: the byte stream, the two tasks that read and write it, and its lanes.

use crate::net::error::{LossReason, NetError};
use crate::net::lanes::greeting::{MARK, Unwelcome, Welcomed, await_welcome};
use crate::net::lanes::lane::Lane;
use crate::net::lanes::outgoing::{MOST_LANES, Outgoing};
use crate::net::lanes::role::Role;
use crate::net::task::{Task, Tasks};
use parking_lot::Mutex;
use rustix::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// The bytes that a pipe of a carrier holds, if the system allows that: the program at its other
/// end is woken less often.
const PIPE: usize = 1 << 20;
/// A carrier over which nothing has come for so long may be dead.
const SILENT: Duration = Duration::from_secs(7);
/// How long the last bytes of a carrier may take to go out.
const FAREWELL: Duration = Duration::from_secs(2);

/// A byte stream with lanes. Dropping it ends it, with all its lanes.
pub struct Carrier {
    outgoing: Arc<Outgoing>,
    accepted: Mutex<Option<mpsc::Receiver<Lane>>>,
    _reading: Task<()>,
    writing: Option<Task<()>>,
}

/// Lets a pipe hold as much as a carrier wants. Anything but a pipe stays as it is.
pub fn enlarge(pipe: impl AsFd) {
    // what it holds is a matter of speed only
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
}

/// What a client reads of the server's greeting.
pub type Answer = oneshot::Receiver<Result<Welcomed, Unwelcome>>;

impl Carrier {
    /// Starts a server's carrier, behind the greetings.
    pub fn accept<R, W>((reader, writer): (R, W)) -> Carrier
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let outgoing = Arc::new(Outgoing::new(Vec::new()));
        let (accepts, accepted) = mpsc::channel(MOST_LANES);
        let reads = outgoing.clone();
        let read = async move {
            let of = reads.clone();
            let accept = move |opened| accepts.try_send(Lane::new(opened, of.clone())).is_ok();
            reads.read_all(reader, Vec::new(), Some(&accept)).await
        };
        Carrier::run(outgoing, read, writer, accepted)
    }

    /// Starts a client's carrier with its hello. Lanes may be opened at once: their bytes go out
    /// before the server's greeting arrives.
    pub fn greet<R, W>(
        (mut reader, writer): (R, W),
        hello: Vec<u8>,
        nonce: [u8; MARK],
    ) -> (Carrier, Answer)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let outgoing = Arc::new(Outgoing::new(hello));
        let (said, answer) = oneshot::channel();
        let reads = outgoing.clone();
        let read = async move {
            let mut welcomed = match await_welcome(&mut reader, &nonce).await {
                Ok(welcomed) => welcomed,
                Err(unwelcome) => {
                    let _ = said.send(Err(unwelcome));
                    return NetError::Lost(LossReason::CarrierEnded);
                }
            };
            let rest = std::mem::take(&mut welcomed.rest);
            let _ = said.send(Ok(welcomed));
            reads.read_all(reader, rest, None).await
        };
        let (_, none) = mpsc::channel(1);
        (Carrier::run(outgoing, read, writer, none), answer)
    }

    fn run(
        outgoing: Arc<Outgoing>,
        read: impl Future<Output = NetError> + Send + 'static,
        writer: impl AsyncWrite + Unpin + Send + 'static,
        accepted: mpsc::Receiver<Lane>,
    ) -> Carrier {
        let (reads, writes, panicked) = (outgoing.clone(), outgoing.clone(), outgoing.clone());
        let tasks = Tasks::new(move |panic| panicked.end(panic));
        let read = async move { reads.end(read.await) };
        let write = async move {
            if let Err(e) = writes.write_all(writer).await {
                writes.end(NetError::lost(e));
            }
        };
        Carrier {
            outgoing,
            accepted: Mutex::new(Some(accepted)),
            _reading: tasks.spawn("carrier-in", read),
            writing: Some(tasks.spawn("carrier-out", write)),
        }
    }

    /// Opens a lane, for a client.
    ///
    /// # Errors
    /// Why the carrier is over.
    pub fn open(&self, role: Role) -> Result<Lane, NetError> {
        self.outgoing
            .open(role)
            .map(|opened| Lane::new(opened, self.outgoing.clone()))
    }

    /// The lanes that the client opens, for a server: once.
    pub fn accepted(&self) -> Option<mpsc::Receiver<Lane>> {
        self.accepted.lock().take()
    }

    /// True once the stream has ended.
    pub fn is_over(&self) -> bool {
        self.outgoing.over.borrow().is_some()
    }

    /// True if something came over it lately; heartbeats come every 5 s.
    pub fn is_heard(&self, now: Instant) -> bool {
        self.outgoing.silence(now) < SILENT
    }

    /// Waits until the stream has ended; returns why.
    pub async fn over(&self) -> NetError {
        let mut over = self.outgoing.over.subscribe();
        match over.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => why.clone(),
            _ => NetError::Lost(LossReason::CarrierEnded),
        }
    }

    /// Sends what is queued, then the end of the stream.
    pub async fn close(mut self) {
        self.outgoing.close();
        if let Some(writing) = self.writing.take() {
            let _ = timeout(FAREWELL, writing).await;
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.outgoing.end(NetError::Lost(LossReason::CarrierEnded));
    }
}

#[cfg(test)]
mod tests;
