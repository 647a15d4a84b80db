//! Fair shares of a resource that several owners use.
//!
//! An owner may hold at most half of the amount that all others leave. So one alone may take half,
//! the next a quarter, and each newcomer still gets some, however much the others want.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;

/// A resource that is divided among owners, by name.
pub struct Shares {
    total: u64,
    /// An owner that has nothing yet may take this much of the rest, even if it is more than half.
    least: u64,
    taken: Mutex<Taken>,
    changed: Notify,
}

#[derive(Default)]
struct Taken {
    all: u64,
    by_owner: HashMap<Arc<str>, u64>,
    /// Those of an owner who wait in line, by the numbers of their turns.
    lines: HashMap<Arc<str>, VecDeque<u64>>,
    turns: u64,
}

/// A place in the line of an owner. Dropping it leaves the line.
pub struct InLine {
    shares: Arc<Shares>,
    owner: Arc<str>,
    turn: u64,
}

impl InLine {
    /// How many of the same owner are ahead.
    pub fn ahead(&self) -> usize {
        let taken = self.shares.taken();
        let line = taken.lines.get(&self.owner);
        line.and_then(|line| line.iter().position(|turn| *turn == self.turn))
            .unwrap_or(0)
    }

    /// Takes what `amount` makes of the room that the owner has, if it is their turn and fits.
    pub fn try_take(&self, amount: impl FnOnce(u64) -> u64) -> Option<Share> {
        if self.ahead() > 0 {
            return None;
        }
        let amount = amount(self.shares.room(&self.owner));
        self.shares.try_take(&self.owner, amount)
    }

    /// Waits for that. Cancel-safe: the place in the line stays.
    pub async fn take(&self, amount: impl Fn(u64) -> u64) -> Share {
        loop {
            let changed = self.shares.changed.notified();
            tokio::pin!(changed);
            // registered before the check, so that no return in between is missed
            changed.as_mut().enable();
            if let Some(share) = self.try_take(&amount) {
                return share;
            }
            changed.await;
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        if let Some(line) = taken.lines.get_mut(&self.owner) {
            line.retain(|turn| *turn != self.turn);
            if line.is_empty() {
                taken.lines.remove(&self.owner);
            }
        }
        drop(taken);
        self.shares.changed.notify_waiters();
    }
}

/// The amount that an owner has taken. Dropping it returns it.
pub struct Share {
    shares: Arc<Shares>,
    owner: Arc<str>,
    amount: u64,
}

impl Share {
    /// The amount.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Returns all but `amount`.
    pub fn reduce(&mut self, amount: u64) {
        let rest = self.amount.saturating_sub(amount);
        self.amount = self.amount.saturating_sub(rest);
        drop(Share {
            shares: self.shares.clone(),
            owner: self.owner.clone(),
            amount: rest,
        });
    }

    /// Takes more, up to `amount`; false if that is more than the owner's share, or somebody waits
    /// for it.
    pub fn extend(&mut self, amount: u64) -> bool {
        let more = amount.saturating_sub(self.amount);
        if !self.shares.taken().lines.is_empty() {
            return false;
        }
        let Some(mut taken) = self.shares.try_take(&self.owner, more) else {
            return false;
        };
        self.amount = self.amount.saturating_add(std::mem::take(&mut taken.amount));
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all = taken.all.saturating_sub(self.amount);
        if let Some(own) = taken.by_owner.get_mut(&self.owner) {
            *own = own.saturating_sub(self.amount);
            if *own == 0 {
                taken.by_owner.remove(&self.owner);
            }
        }
        drop(taken);
        self.shares.changed.notify_waiters();
    }
}

impl Shares {
    /// Divides `total`, of which a newcomer gets at least `least` while that much is free.
    pub fn new(total: u64, least: u64) -> Arc<Shares> {
        Arc::new(Shares {
            total,
            least,
            taken: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn taken(&self) -> parking_lot::MutexGuard<'_, Taken> {
        self.taken.lock()
    }

    /// All that there is.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns how much more `owner` may take now.
    pub fn room(&self, owner: &str) -> u64 {
        self.room_in(&self.taken(), owner)
    }

    fn room_in(&self, taken: &Taken, owner: &str) -> u64 {
        let own = taken.by_owner.get(owner).copied().unwrap_or(0);
        let others = taken.all.saturating_sub(own);
        let share = self.total.saturating_sub(others).div_ceil(2).saturating_sub(own);
        let least = if own == 0 { self.least } else { 0 };
        share.max(least).min(self.total.saturating_sub(taken.all))
    }

    /// Takes `amount` for `owner`; `None` if that is more than their share.
    pub fn try_take(self: &Arc<Shares>, owner: &Arc<str>, amount: u64) -> Option<Share> {
        let mut taken = self.taken();
        if amount > self.room_in(&taken, owner) {
            return None;
        }
        taken.all = taken.all.saturating_add(amount);
        let own = taken.by_owner.entry(owner.clone()).or_default();
        *own = own.saturating_add(amount);
        drop(taken);
        Some(Share {
            shares: self.clone(),
            owner: owner.clone(),
            amount,
        })
    }

    /// Joins the end of an owner's line.
    pub fn line_up(self: &Arc<Shares>, owner: &Arc<str>) -> InLine {
        let mut taken = self.taken();
        let turn = taken.turns;
        taken.turns = turn.saturating_add(1);
        taken.lines.entry(owner.clone()).or_default().push_back(turn);
        InLine {
            shares: self.clone(),
            owner: owner.clone(),
            turn,
        }
    }

    /// Takes `amount` for `owner`, or the most that one owner can ever have; waits until their
    /// share allows it.
    pub async fn take(self: &Arc<Shares>, owner: &Arc<str>, amount: u64) -> Share {
        let amount = amount.min(self.total.div_ceil(2).max(self.least));
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // registered before the check, so that no return in between is missed
            changed.as_mut().enable();
            if let Some(share) = self.try_take(owner, amount) {
                return share;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    /// Takes as many single shares as an owner can get.
    fn all(shares: &Arc<Shares>, name: &str) -> Vec<Share> {
        std::iter::from_fn(|| shares.try_take(&owner(name), 1)).collect()
    }

    #[test]
    fn a_user_that_takes_all_it_can_leaves_a_share_for_the_next() {
        let shares = Shares::new(64, 1);
        let taken: Vec<_> =
            ["a", "b", "c", "d", "e", "f", "g"].map(|name| all(&shares, name)).into();
        let counts: Vec<usize> = taken.iter().map(Vec::len).collect();
        assert_eq!(counts, [32, 16, 8, 4, 2, 1, 1]);
        assert!(all(&shares, "h").is_empty(), "all are taken");
        drop(taken);
        assert_eq!(shares.room("h"), 32);
        assert!(shares.taken().by_owner.is_empty());
    }

    #[test]
    fn a_newcomer_gets_the_least_that_is_of_use() {
        let shares = Shares::new(20, 14);
        let first = shares.try_take(&owner("a"), 14).unwrap();
        assert_eq!((shares.room("a"), shares.room("b")), (0, 6));
        drop(first);
        assert_eq!(shares.room("b"), 14);
    }

    #[tokio::test]
    async fn a_share_grows_unless_somebody_waits_and_what_it_returns_is_taken() {
        let shares = Shares::new(16, 1);
        let mut first = shares.try_take(&owner("a"), 4).unwrap();
        assert!(first.extend(6) && !first.extend(9), "half is more than one may have");
        let line = shares.line_up(&owner("a"));
        assert!(!first.extend(7), "somebody waits");
        assert!(line.try_take(|_| 5).is_none());
        first.reduce(3);
        assert_eq!((first.amount(), shares.room("a")), (3, 5));
        let second = line.take(|_| 5).await;
        drop((first, second));
        assert_eq!(shares.taken().all, 0);
    }

    #[tokio::test]
    async fn those_in_line_have_their_turns_and_another_owner_does_not_wait() {
        let shares = Shares::new(4, 1);
        let lines = [(); 3].map(|()| shares.line_up(&owner("a")));
        let first = lines[0].take(|room| room).await;
        assert_eq!((first.amount(), lines[2].ahead()), (2, 2));
        let [one, two, three] = lines;
        drop(one);
        // it is the next one's turn, who finds nothing; another owner does not wait for that
        let at_least_one = |room: u64| room.max(1);
        let other = shares.line_up(&owner("b")).take(|room| room).await;
        assert_eq!(other.amount(), 1);
        assert!(two.try_take(at_least_one).is_none() && three.try_take(at_least_one).is_none());
        drop(first);
        assert!(three.try_take(at_least_one).is_none(), "it has jumped the line");
        let waiting = tokio::spawn(async move { three.take(at_least_one).await.amount() });
        let second = two.take(at_least_one).await;
        drop((second, two));
        assert_eq!(waiting.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn one_that_has_its_share_waits_and_others_do_not() {
        let shares = Shares::new(4, 1);
        let taken = [shares.take(&owner("a"), 1).await, shares.take(&owner("a"), 1).await];
        let more = tokio::spawn({
            let shares = shares.clone();
            async move { shares.take(&owner("a"), 1).await.amount() }
        });
        tokio::task::yield_now().await;
        drop(shares.take(&owner("b"), 1).await);
        assert!(!more.is_finished());
        drop(taken);
        assert_eq!(more.await.unwrap(), 1);
        // more than the total is as much as one owner can have
        assert_eq!(shares.take(&owner("a"), 100).await.amount(), 2);
    }
}
