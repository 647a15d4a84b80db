//! A session of the simulation: both sides' cores, a control connection that is cut and reattached,
//! and data connections that are slow, silent or lost.

use super::Chance;
use crate::chunk::buffer::BufferPool;
use crate::net::control::codec::{SILENCE, refused};
use crate::net::control::queue::{ControlQueue, ControlSender, MOST_OUTGOING, write_messages};
use crate::net::control::replay::Replay;
use crate::net::data::simulated::{Line, LineFault, LineOptions};
use crate::net::error::{LossReason, NetError};
use crate::net::session::inbound::{Inbound, next_message};
use crate::net::session::{SessionBounds, SessionCore};
use crate::net::wire::proto::control_message::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, duplex, split};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Bytes of a window, in each direction: a little more than four chunks.
pub(super) const WINDOW: u64 = 5 << 20;
/// How long one side may still send when the other has ended.
const LAST: Duration = Duration::from_secs(1);

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) delay: Duration,
    pub(super) bytes_per_second: u64,
    /// Faults come, until so many connections have been lost.
    pub(super) faults: usize,
    pub(super) connections: usize,
}

impl Weather {
    pub(super) fn new(chance: &mut Chance, is_calm: bool) -> Weather {
        Weather {
            delay: Duration::from_millis(*chance.of(&[0, 1, 20, 200])),
            bytes_per_second: *chance.of(&[300_000, 10_000_000, 1_000_000_000]),
            faults: if is_calm { 0 } else { chance.below(6) },
            connections: 1 + chance.below(4),
        }
    }
}

/// One side of the control connection.
struct Side {
    core: Arc<SessionCore>,
    queue: ControlQueue,
    replay: Replay,
}

fn side() -> Side {
    let (control, queue) = ControlSender::channel(MOST_OUTGOING);
    let bounds = SessionBounds::of_client(WINDOW, WINDOW);
    Side {
        core: SessionCore::new(control, bounds, BufferPool::new(4)),
        queue,
        replay: Replay::new(0, 0),
    }
}

/// A session: the sending and the receiving side. Dropping it ends its network.
pub(super) struct Session {
    pub(super) sender: Arc<SessionCore>,
    pub(super) receiver: Arc<SessionCore>,
    _network: JoinSet<()>,
}

impl Session {
    pub(super) fn start(chance: &mut Chance, weather: Weather) -> Session {
        let (a, b) = (side(), side());
        let (sender, receiver) = (a.core.clone(), b.core.clone());
        let mut network = JoinSet::new();
        network.spawn(carry_control(a, b, Chance::new(chance.next()), weather));
        for _ in 0..weather.connections {
            let cores = [sender.clone(), receiver.clone()];
            network.spawn(maintain(cores, Chance::new(chance.next()), weather));
        }
        Session {
            sender,
            receiver,
            _network: network,
        }
    }

    /// Ends both sides, as a server does that is restarted.
    pub(super) fn restart(&self) {
        for core in [&self.sender, &self.receiver] {
            core.shut_down(NetError::lost("the server was restarted"));
        }
    }
}

/// Keeps a data connection up.
async fn maintain(cores: [Arc<SessionCore>; 2], mut chance: Chance, weather: Weather) {
    let mut faults = weather.faults;
    let options = LineOptions {
        delay: weather.delay,
        bytes_per_second: weather.bytes_per_second,
    };
    while cores.iter().all(|core| !core.is_down()) {
        sleep(weather.delay * 3).await;
        let (line, ends) = Line::new(options);
        let mut owners = cores
            .iter()
            .zip(ends)
            .map(|(core, (reader, writer))| core.pool().add(reader, writer).owner);
        let (Some(mut a), Some(mut b)) = (owners.next(), owners.next()) else {
            return;
        };
        let fault = async {
            if faults == 0 {
                return std::future::pending().await;
            }
            sleep(Duration::from_millis(chance.below(4000) as u64)).await;
            match chance.one_in(3) {
                true => line.set(LineFault::Silent),
                false => line.set(LineFault::Cut),
            }
            std::future::pending::<()>().await
        };
        // the one that hears of it first ends the connection for the other
        let rest = tokio::select! {
            biased;
            _ = &mut a => b,
            _ = &mut b => a,
            () = fault => return,
        };
        line.set(LineFault::Cut);
        let _ = rest.await;
        faults = faults.saturating_sub(1);
        sleep(Duration::from_millis(200)).await;
    }
}

/// Carries control messages both ways, over one connection after another.
async fn carry_control(mut a: Side, mut b: Side, mut chance: Chance, weather: Weather) {
    let (mut first_a, mut first_b) = (Vec::new(), Vec::new());
    let mut faults = weather.faults;
    loop {
        let (near_a, far_a) = duplex(64 << 10);
        let (near_b, far_b) = duplex(64 << 10);
        let line = delayed(far_a, far_b, weather.delay);
        let lasts = match faults {
            0 => Duration::MAX,
            _ => Duration::from_millis(chance.below(5000) as u64),
        };
        let both = async {
            let (sending, receiving) = (
                a.carry(near_a, std::mem::take(&mut first_a)),
                b.carry(near_b, std::mem::take(&mut first_b)),
            );
            tokio::pin!(sending, receiving);
            // what one side says last is still heard by the other
            tokio::select! {
                biased;
                ended = &mut sending => ended.and(timeout(LAST, receiving).await.unwrap_or(Ok(()))),
                ended = &mut receiving => ended.and(timeout(LAST, sending).await.unwrap_or(Ok(()))),
            }
        };
        let ended = timeout(lasts, both).await;
        drop(line);
        let cores = [a.core.clone(), b.core.clone()];
        cores.iter().for_each(|core| core.set_attached(false));
        match ended {
            Ok(Err(why)) if !matches!(why, NetError::Lost(_)) => {
                cores.iter().for_each(|core| core.shut_down(why.clone()));
            }
            Ok(Err(_)) | Err(_) => {}
            Ok(Ok(())) => cores
                .iter()
                .for_each(|core| core.shut_down(NetError::Lost(LossReason::SessionOver))),
        }
        if let Some(why) = cores.iter().find_map(|core| core.ended()) {
            cores.iter().for_each(|core| core.shut_down(why.clone()));
            return;
        }
        faults = faults.saturating_sub(1);
        sleep(Duration::from_millis(chance.below(30_000) as u64)).await;
        let resent = a.replay.resend(b.replay.count(), &mut first_a);
        resent
            .and(b.replay.resend(a.replay.count(), &mut first_b))
            .expect("both count alike");
        cores.iter().for_each(|core| core.set_attached(true));
    }
}

impl Side {
    /// Messages both ways over one connection, until it ends.
    async fn carry(&mut self, stream: DuplexStream, first: Vec<u8>) -> Result<(), NetError> {
        let (reader, mut writer) = split(stream);
        let (core, replay) = (&self.core, &self.replay);
        tokio::select! {
            biased;
            read = read_all(core, replay, reader) => read,
            written = write_messages(&mut writer, first, &mut self.queue, replay) => written,
        }
    }
}

async fn read_all(
    core: &Arc<SessionCore>,
    replay: &Replay,
    mut reader: ReadHalf<DuplexStream>,
) -> Result<(), NetError> {
    loop {
        let Inbound { body, room, length } = next_message(&mut reader, replay, core).await?;
        match body {
            Some(Body::Transfer(message)) => core.deliver(message, room),
            Some(Body::End(end)) => return Err(refused(end.code, end.text)),
            other => panic!("not a message of a transfer: {other:?}"),
        }
        core.progress();
        replay.received(length);
    }
}

/// Carries bytes between two streams, each after `delay`, until it is dropped.
fn delayed(a: DuplexStream, b: DuplexStream, delay: Duration) -> JoinSet<()> {
    let ((read_a, write_a), (read_b, write_b)) = (split(a), split(b));
    let mut line = JoinSet::new();
    for (mut from, mut to) in [(read_a, write_b), (read_b, write_a)] {
        line.spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n) = from.read(&mut buffer).await {
                sleep(delay).await;
                if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
            let _ = to.shutdown().await;
        });
    }
    debug_assert!(delay < SILENCE);
    line
}
