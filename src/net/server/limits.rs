//! Who may try how much before a login: a bounded number of connections, and delays that grow with wrong passwords.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Connections that may be between their acceptance and their login, or their proof.
const PENDING: usize = 512;
/// Addresses and accounts whose failures are remembered, each; when there are more, those with the fewest failures are
/// forgotten.
const REMEMBERED: usize = 4096;
/// As many failures cost nothing, since people mistype; a little less than three, because they are being forgotten all
/// the time.
const FREE: f64 = 2.5;
/// The first delay; it doubles with each further failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest delay between two tries from one address.
const ADDRESS_DELAY: Duration = Duration::from_secs(30);
/// The longest delay between two tries for one account: whoever knows the password still gets in.
const ACCOUNT_DELAY: Duration = Duration::from_secs(5);
/// Half of the failures are forgotten after this long.
const FORGETTING: Duration = Duration::from_secs(120);
/// A try that would have to wait for longer is refused at once.
const LONGEST_WAIT: Duration = Duration::from_secs(12);

/// An address as far as it tells people apart: of IPv6 the network, since a host can choose the rest.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// Connections that have not logged in yet. When there are too many, the oldest of the address that has most of them
/// has to go: whoever floods the server is in their own way first, and a newcomer always gets in.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Line>>);

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
            // its sender is dropped with it, and that is the sign to go
            self.leave(number);
        }
    }
}

/// A connection's place among those that wait; dropped when it has logged in.
pub(super) struct Turn {
    line: Waiting,
    number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.line().leave(self.number);
    }
}

impl Waiting {
    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection. The second value is ready, with an error, when it has to go.
    pub(super) fn enter(&self, peer: SocketAddr) -> (Turn, oneshot::Receiver<()>) {
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

/// What is remembered of an address or an account.
#[derive(Clone, Copy)]
struct Record {
    failures: f64,
    at: Instant,
    /// Before this the next try is not looked at.
    next: Instant,
}

impl Record {
    fn new(now: Instant) -> Record {
        Record {
            failures: 0.0,
            at: now,
            next: now,
        }
    }

    fn forget(&mut self, now: Instant) {
        let halves = now.duration_since(self.at).as_secs_f64() / FORGETTING.as_secs_f64();
        self.failures *= (-halves).exp2();
        self.at = now;
    }

    fn delay(&self, most: Duration) -> Duration {
        let over = self.failures - FREE;
        if over < 0.0 {
            return Duration::ZERO;
        }
        FIRST_DELAY.mul_f64(over.min(16.0).exp2()).min(most)
    }

    /// Takes the next turn; says how long that is away, or none where that is too long.
    fn turn(&mut self, now: Instant, most: Duration) -> Option<Duration> {
        self.forget(now);
        let start = self.next.max(now);
        let delay = self.delay(most);
        let wait = start.saturating_duration_since(now).saturating_add(delay.min(most));
        if wait > LONGEST_WAIT {
            return None;
        }
        self.next = start + delay;
        Some(wait)
    }
}

/// Delays for passwords, by address and by account. A login by key needs none and gets none.
#[derive(Default)]
pub(super) struct Penalties {
    addresses: Mutex<HashMap<IpAddr, Record>>,
    accounts: Mutex<HashMap<[u8; 32], Record>>,
}

fn account(user: &str) -> [u8; 32] {
    *blake3::hash(user.as_bytes()).as_bytes()
}

fn with<K: std::hash::Hash + Eq + Copy, T>(
    records: &Mutex<HashMap<K, Record>>,
    key: K,
    work: impl FnOnce(&mut Record) -> T,
) -> T {
    let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
    if records.len() >= REMEMBERED
        && !records.contains_key(&key)
        && let Some(least) = records
            .iter()
            .min_by(|(_, a), (_, b)| a.failures.total_cmp(&b.failures).then(a.at.cmp(&b.at)))
            .map(|(key, _)| *key)
    {
        // whoever makes up names must not make what is known of a real one forgotten
        records.remove(&least);
    }
    work(records.entry(key).or_insert_with(|| Record::new(Instant::now())))
}

impl Penalties {
    /// How long the next password of this address for this account has to wait; none: too long, refuse it. Each call
    /// takes a turn, so that many connections at once wait for one another.
    pub(super) fn turn(&self, peer: SocketAddr, user: &str) -> Option<Duration> {
        let now = Instant::now();
        // an address that is refused takes no turn of the account: it would keep others out
        let here = with(&self.addresses, place(peer.ip()), |r| r.turn(now, ADDRESS_DELAY))?;
        let there = with(&self.accounts, account(user), |r| r.turn(now, ACCOUNT_DELAY))?;
        Some(here.max(there))
    }

    /// A password was refused: wrong, or of an unknown user. The same for both.
    pub(super) fn failed(&self, peer: SocketAddr, user: &str) {
        let now = Instant::now();
        let more = |r: &mut Record| {
            r.forget(now);
            r.failures += 1.0;
        };
        with(&self.addresses, place(peer.ip()), more);
        with(&self.accounts, account(user), more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1000))
    }

    #[test]
    fn delays_grow_by_address_and_by_account_and_are_bounded() {
        let penalties = Penalties::default();
        for _ in 0..3 {
            assert!(penalties.turn(peer(1), "kim").unwrap() < Duration::from_millis(50));
            penalties.failed(peer(1), "kim");
        }
        let first = penalties.turn(peer(1), "other").unwrap();
        assert!(first > Duration::from_millis(200), "by address: {first:?}");
        assert!(
            penalties.turn(peer(2), "kim").unwrap() > Duration::from_millis(200),
            "by account"
        );
        assert!(penalties.turn(peer(3), "third").unwrap() < Duration::from_millis(50));
        for _ in 0..40 {
            penalties.failed(peer(1), "kim");
        }
        assert_eq!(penalties.turn(peer(1), "third"), None, "too long to wait for");
        assert!(
            penalties.turn(peer(4), "kim").unwrap() <= Duration::from_secs(6),
            "an account is never shut"
        );
    }

    #[test]
    fn memory_is_bounded_whoever_tries() {
        let penalties = Penalties::default();
        for n in 0..2 * REMEMBERED {
            penalties.failed(peer(1), &format!("user{n}"));
        }
        assert!(penalties.accounts.lock().unwrap().len() <= REMEMBERED);
    }

    #[test]
    fn the_oldest_of_whoever_has_most_goes() {
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
