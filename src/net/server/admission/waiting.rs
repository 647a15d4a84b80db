//! Bounds the connections that have not logged in, and shares them between addresses.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Connections that may wait for their login, or their proof.
const PENDING: usize = 512;

/// The part of an address that identifies a client: of IPv6 the network, since a host can choose
/// the rest.
pub fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// Connections that have not logged in yet. When there are too many, the oldest one of the address
/// with most of them is closed: a flood displaces itself first, and a newcomer always gets in.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    by_place: HashMap<IpAddr, usize>,
}

impl Line {
    fn leave(&mut self, number: u64) {
        if let Some((place, _)) = self.waiting.remove(&number)
            && let Some(count) = self.by_place.get_mut(&place)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_place.remove(&place);
            }
        }
    }

    fn make_room(&mut self) {
        let most = self
            .by_place
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(place, _)| *place);
        let oldest = self
            .waiting
            .iter()
            .find(|(_, (place, _))| Some(*place) == most)
            .map(|(n, _)| *n);
        if let Some(number) = oldest {
            // dropping its sender tells it to close
            self.leave(number);
        }
    }
}

/// A connection's place, which is dropped after the login.
pub struct Turn {
    line: Waiting,
    number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.line().leave(self.number);
    }
}

impl Waiting {
    fn line(&self) -> parking_lot::MutexGuard<'_, Line> {
        self.0.lock()
    }

    /// Adds a connection. The second value is ready, with an error, when the connection must close.
    pub fn enter(&self, peer: SocketAddr) -> (Turn, oneshot::Receiver<()>) {
        let (go, gone) = oneshot::channel();
        let place = place(peer.ip());
        let mut line = self.line();
        if line.waiting.len() >= PENDING {
            line.make_room();
        }
        let number = line.next;
        line.next = number.saturating_add(1);
        line.waiting.insert(number, (place, go));
        let count = line.by_place.entry(place).or_default();
        *count = count.saturating_add(1);
        drop(line);
        let line = self.clone();
        (Turn { line, number }, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1000))
    }

    #[test]
    fn the_oldest_of_the_address_with_most_goes() {
        let waiting = Waiting::default();
        let (_one, mut lone) = waiting.enter(peer(9));
        let mut flood: Vec<_> = (0..PENDING).map(|_| waiting.enter(peer(1))).collect();
        assert!(
            flood[0].1.try_recv() == Err(oneshot::error::TryRecvError::Closed),
            "the oldest has gone"
        );
        assert!(flood[1].1.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        assert!(lone.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        drop(flood);
        assert_eq!(waiting.line().waiting.len(), 1);
        assert_eq!(waiting.line().by_place.len(), 1);
    }
}
