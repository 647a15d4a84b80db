//! Limits how often a password may be tried: delays grow with the failed tries of an address and of
//! an account. A login by key needs no turn.
//!
//! A try counts as failed from its beginning, so that parallel tries do not avoid the delays; a
//! success takes it back. The tries for an account wait in two lanes: those from addresses with
//! failures have one of their own. So guesses, from however many addresses, do not delay a user who
//! comes from elsewhere.

use crate::net::server::admission::waiting::place;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Addresses whose failures are remembered, and as many accounts. Those with the fewest failures
/// are forgotten first.
const REMEMBERED: usize = 4096;
/// So many failures cost nothing, since people mistype. It is a little less than three, because
/// failures fade all the time.
const FREE: f64 = 2.5;
/// An address with fewer failures is in the account's lane for newcomers.
const NEWCOMER: f64 = 1.5;
/// The first delay; it doubles with each further failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest delay between two tries from one address.
const ADDRESS_DELAY: Duration = Duration::from_secs(30);
/// The longest delay between two tries for one account, in each of its lanes.
const LANE_DELAYS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];
/// Half of the failures are forgotten after this long.
const FORGETTING: Duration = Duration::from_secs(120);
/// A try that would have to wait for longer is refused.
const LONGEST_WAIT: Duration = Duration::from_secs(12);
/// Tries that are under way at once, of an address and of a lane; further ones wait in line.
const AT_ONCE: usize = 2;

/// The failures of an address or an account.
struct Failures {
    count: f64,
    at: Instant,
}

impl Failures {
    fn new(now: Instant) -> Failures {
        Failures {
            count: 0.0,
            at: now,
        }
    }

    /// How many are not forgotten yet.
    fn at(&mut self, now: Instant) -> f64 {
        let halves = now.duration_since(self.at).as_secs_f64() / FORGETTING.as_secs_f64();
        self.count *= (-halves).exp2();
        self.at = now;
        self.count
    }

    fn delay(&self, most: Duration) -> Duration {
        let over = self.count - FREE;
        if over < 0.0 {
            return Duration::ZERO;
        }
        FIRST_DELAY.mul_f64(over.min(16.0).exp2()).min(most)
    }
}

/// Tries that follow one another.
struct Lane {
    /// The next try waits until then.
    next: Instant,
    turn: Arc<Semaphore>,
}

impl Lane {
    fn new(now: Instant) -> Lane {
        Lane {
            next: now,
            turn: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// True while a try waits or is under way.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.turn) > 1
    }
}

/// An address or an account; the first one has a single lane.
struct GuessRecord<const LANES: usize> {
    failures: Failures,
    lanes: [Lane; LANES],
}

impl<const LANES: usize> GuessRecord<LANES> {
    fn new(now: Instant) -> GuessRecord<LANES> {
        GuessRecord {
            failures: Failures::new(now),
            lanes: std::array::from_fn(|_| Lane::new(now)),
        }
    }
}

type Account = [u8; 32];

/// Addresses and accounts that have failed.
#[derive(Default)]
struct Records {
    addresses: HashMap<IpAddr, GuessRecord<1>>,
    accounts: HashMap<Account, GuessRecord<2>>,
}

fn record<K: Hash + Eq + Copy, const LANES: usize>(
    records: &mut HashMap<K, GuessRecord<LANES>>,
    key: K,
    now: Instant,
) -> &mut GuessRecord<LANES> {
    if records.len() >= REMEMBERED && !records.contains_key(&key) {
        // invented names must not push out the failures of a real one
        let idle = records.iter().filter(|(_, r)| !r.lanes.iter().any(Lane::is_used));
        let least = idle.min_by(|(_, a), (_, b)| {
            let (a, b) = (&a.failures, &b.failures);
            a.count.total_cmp(&b.count).then(a.at.cmp(&b.at))
        });
        if let Some(least) = least.map(|(key, _)| *key) {
            records.remove(&least);
        }
    }
    records.entry(key).or_insert_with(|| GuessRecord::new(now))
}

impl Records {
    /// The account's lane for tries from this address.
    fn lane_of(&mut self, address: IpAddr, now: Instant) -> usize {
        let failures = record(&mut self.addresses, address, now).failures.at(now);
        usize::from(failures >= NEWCOMER)
    }

    /// Takes a try, which counts as failed from now on. Returns when it may be checked; `None` if
    /// that is after `deadline`, and then it is not taken.
    fn take(&mut self, who: &Who, lane: usize, now: Instant, deadline: Instant) -> Option<Instant> {
        let address = record(&mut self.addresses, who.address, now);
        let account = record(&mut self.accounts, who.account, now);
        let most = LANE_DELAYS.get(lane).copied().unwrap_or_default();
        address.failures.at(now);
        account.failures.at(now);
        let (Some(here), Some(there)) = (address.lanes.first_mut(), account.lanes.get_mut(lane))
        else {
            return None;
        };
        let starts = [
            here.next.max(now) + address.failures.delay(ADDRESS_DELAY),
            there.next.max(now) + account.failures.delay(most),
        ];
        let [at_address, at_account] = starts;
        if at_address.max(at_account) > deadline {
            return None;
        }
        (here.next, there.next) = (at_address, at_account);
        address.failures.count += 1.0;
        account.failures.count += 1.0;
        Some(at_address.max(at_account))
    }

    /// A try was no failure.
    fn give_back(&mut self, who: &Who, now: Instant) {
        let less = |failures: &mut Failures| failures.count = (failures.at(now) - 1.0).max(0.0);
        less(&mut record(&mut self.addresses, who.address, now).failures);
        less(&mut record(&mut self.accounts, who.account, now).failures);
    }
}

/// Who tries, and whose password.
struct Who {
    address: IpAddr,
    account: Account,
}

/// The tries of all addresses for all accounts. Cheap to clone.
#[derive(Clone, Default)]
pub struct Throttle(Arc<Mutex<Records>>);

/// A try that may be checked now. It is a failure unless [`Try::succeeded`] is called.
pub struct Try {
    throttle: Throttle,
    who: Who,
    _turns: [OwnedSemaphorePermit; 2],
}

impl Throttle {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock()
    }

    /// Waits until a password for `user` may be checked; `None` if that would take too long. It
    /// does not depend on whether the user exists.
    pub async fn turn(&self, peer: SocketAddr, user: &str) -> Option<Try> {
        let who = Who {
            address: place(peer.ip()),
            account: *blake3::hash(user.as_bytes()).as_bytes(),
        };
        let now = Instant::now();
        let deadline = now + LONGEST_WAIT;
        let turn =
            self.turn_of(|records| record(&mut records.addresses, who.address, now).lanes.first());
        let at_address = in_line(turn?, deadline).await?;
        let now = Instant::now();
        let lane = self.records().lane_of(who.address, now);
        let turn =
            self.turn_of(|records| record(&mut records.accounts, who.account, now).lanes.get(lane));
        let at_account = in_line(turn?, deadline).await?;
        let start = self.records().take(&who, lane, Instant::now(), deadline)?;
        let taken = Try {
            throttle: self.clone(),
            who,
            _turns: [at_address, at_account],
        };
        sleep_until(start).await;
        Some(taken)
    }

    fn turn_of(&self, lane: impl FnOnce(&mut Records) -> Option<&Lane>) -> Option<Arc<Semaphore>> {
        lane(&mut self.records()).map(|lane| lane.turn.clone())
    }
}

async fn in_line(turn: Arc<Semaphore>, deadline: Instant) -> Option<OwnedSemaphorePermit> {
    timeout_at(deadline, turn.acquire_owned()).await.ok()?.ok()
}

impl Try {
    /// The password was right.
    pub fn succeeded(self) {
        self.throttle.records().give_back(&self.who, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(last: u8, user: &str) -> Who {
        Who {
            address: place([192, 0, 2, last].into()),
            account: *blake3::hash(user.as_bytes()).as_bytes(),
        }
    }

    /// How long a try waits that comes at `now`.
    fn wait(records: &mut Records, who: &Who, now: Instant) -> Option<Duration> {
        let lane = records.lane_of(who.address, now);
        let start = records.take(who, lane, now, now + LONGEST_WAIT)?;
        Some(start.duration_since(now))
    }

    #[test]
    fn tries_at_once_count_as_those_one_after_another() {
        let (mut records, now) = (Records::default(), Instant::now());
        let mut waits = Vec::new();
        while let Some(wait) = wait(&mut records, &who(1, "kim"), now) {
            waits.push(wait);
        }
        assert_eq!(waits[..3], [Duration::ZERO; 3], "people mistype");
        assert!(waits[3..].is_sorted() && waits[3] > Duration::from_millis(200), "{waits:?}");
        assert!(waits.len() < 10, "{waits:?}");
        // refused tries are not taken: a minute or two later the next one has a turn
        let later = now + 2 * FORGETTING;
        assert!(wait(&mut records, &who(1, "kim"), later).is_some());
    }

    #[test]
    fn delays_rise_by_address_and_by_account() {
        let (mut records, now) = (Records::default(), Instant::now());
        for _ in 0..4 {
            assert!(wait(&mut records, &who(1, "kim"), now).is_some());
        }
        let later = now + Duration::from_secs(1);
        let mut wait = |who: &Who| wait(&mut records, who, later);
        assert!(wait(&who(1, "other")) > Some(Duration::from_millis(200)), "by address");
        assert!(wait(&who(2, "kim")) > Some(Duration::from_millis(200)), "by account");
        assert_eq!(wait(&who(3, "third")), Some(Duration::ZERO));
    }

    #[test]
    fn the_right_password_gives_its_try_back() {
        let (mut records, now) = (Records::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(wait(&mut records, &who(1, "kim"), now), Some(Duration::ZERO));
            records.give_back(&who(1, "kim"), now);
        }
    }

    #[test]
    fn guesses_from_many_addresses_leave_newcomers_their_share() {
        let (mut records, mut now) = (Records::default(), Instant::now());
        for _ in 0..60 {
            for address in 0..12 {
                // as many at once as there may be
                for _ in 0..AT_ONCE {
                    wait(&mut records, &who(address, "kim"), now);
                }
            }
            now += Duration::from_secs(1);
            let right = wait(&mut records, &who(99, "kim"), now);
            assert!(right.is_some_and(|wait| wait < LONGEST_WAIT * 2 / 3), "{right:?}");
            records.give_back(&who(99, "kim"), now);
        }
    }

    #[tokio::test]
    async fn memory_is_bounded_for_any_number_of_addresses() {
        let throttle = Throttle::default();
        let peer = SocketAddr::from(([192, 0, 2, 1], 1000));
        let waiting = throttle.turn(peer, "kim").await.unwrap();
        let now = Instant::now();
        for n in 0..2 * REMEMBERED {
            let who = who(2, &format!("user{n}"));
            throttle.records().take(&who, 0, now, now + Duration::from_secs(1 << 20));
        }
        assert!(throttle.records().accounts.len() <= REMEMBERED);
        assert!(throttle.records().accounts.contains_key(&waiting.who.account));
    }
}
