//! The window: how many bytes a sender may have outstanding, counted on both sides.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What a frame costs besides its payload, in bytes: its header, and about what it takes to remember it.
pub const FRAME_COST: u64 = 256;

/// What a frame with `payload` bytes takes from the window.
pub fn cost(payload: usize) -> u64 {
    FRAME_COST.saturating_add(payload as u64)
}

/// The sender's side: bytes granted by the receiver, less those outstanding. Cheap to clone.
#[derive(Clone)]
pub struct Credit {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<CreditState>,
    changed: Notify,
}

struct CreditState {
    granted: u64,
    /// What the sender allows itself of that.
    limit: u64,
    outstanding: u64,
}

impl Credit {
    /// A window of `granted` bytes.
    pub fn new(granted: u64) -> Credit {
        Credit {
            inner: Arc::new(Inner {
                state: Mutex::new(CreditState {
                    granted,
                    limit: u64::MAX,
                    outstanding: 0,
                }),
                changed: Notify::new(),
            }),
        }
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, CreditState> {
        self.inner.state.lock()
    }

    /// The receiver has granted another size.
    pub fn grant(&self, bytes: u64) {
        self.state().granted = bytes;
        self.inner.changed.notify_waiters();
    }

    /// The sender uses no more than `bytes` of what is granted: more would only lie in memory.
    pub fn limit(&self, bytes: u64) {
        let before = std::mem::replace(&mut self.state().limit, bytes);
        if bytes > before {
            self.inner.changed.notify_waiters();
        }
    }

    /// Waits until `bytes` fit, and takes them. A single frame always fits into an empty window, so that a window
    /// smaller than a chunk is slow but not the end.
    pub async fn take(&self, bytes: u64) {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            // registered before the look, so that no release in between is missed
            changed.as_mut().enable();
            {
                let mut state = self.state();
                let after = state.outstanding.saturating_add(bytes);
                if after <= state.granted.min(state.limit) || state.outstanding == 0 {
                    state.outstanding = after;
                    return;
                }
            }
            changed.await;
        }
    }

    /// The receiver is done with `bytes`, or they were never sent.
    pub fn give_back(&self, bytes: u64) {
        {
            let mut state = self.state();
            state.outstanding = state.outstanding.saturating_sub(bytes);
        }
        self.inner.changed.notify_waiters();
    }

    /// Bytes taken and not given back.
    pub fn outstanding(&self) -> u64 {
        self.state().outstanding
    }
}

/// The receiver's side: what arrived and is not done with may not exceed what was granted.
pub struct Account {
    granted: u64,
    held: AtomicU64,
}

/// The sender sent more than it was allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent more than its window allows")]
pub struct Overrun;

impl Account {
    /// A window of `granted` bytes.
    pub fn new(granted: u64) -> Account {
        Account {
            granted,
            held: AtomicU64::new(0),
        }
    }

    /// A frame of `bytes` (its [`cost`]) arrived.
    ///
    /// # Errors
    /// [`Overrun`] where it does not fit. A single frame always does.
    pub fn arrived(&self, bytes: u64) -> Result<(), Overrun> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        // What is sent again after its connection died is here twice for a moment: hence twice the window.
        let most = self.granted.saturating_mul(2);
        if before == 0 || before.saturating_add(bytes) <= most {
            Ok(())
        } else {
            self.done(bytes);
            Err(Overrun)
        }
    }

    /// A frame of `bytes` was written, or dropped.
    pub fn done(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A bound on what is kept besides frames: each part of it is a guard that gives itself back.
/// Cheap to clone.
#[derive(Clone)]
pub struct Allowance {
    inner: Arc<AllowanceInner>,
}

struct AllowanceInner {
    most: AtomicU64,
    held: AtomicU64,
    changed: Notify,
}

/// Bytes of an [`Allowance`]; they go back when the last clone is dropped.
#[derive(Clone)]
pub struct AllowancePermit {
    _held: Arc<Held>,
}

struct Held {
    inner: Arc<AllowanceInner>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.inner.changed.notify_waiters();
    }
}

impl Allowance {
    /// At most `most` bytes.
    pub fn new(most: u64) -> Allowance {
        Allowance {
            inner: Arc::new(AllowanceInner {
                most: AtomicU64::new(most),
                held: AtomicU64::new(0),
                changed: Notify::new(),
            }),
        }
    }

    /// Another bound from now on.
    pub fn set_most(&self, most: u64) {
        self.inner.most.store(most, Ordering::Relaxed);
        self.inner.changed.notify_waiters();
    }

    /// Takes `bytes`, whether or not they fit: the sender stops before the next batch.
    pub fn take(&self, bytes: u64) -> AllowancePermit {
        self.inner.held.fetch_add(bytes, Ordering::Relaxed);
        self.kept(bytes)
    }

    /// Takes `bytes` where they fit.
    ///
    /// # Errors
    /// [`Overrun`] where they do not.
    pub fn try_take(&self, bytes: u64) -> Result<AllowancePermit, Overrun> {
        let fits = |held: u64| {
            let after = held.saturating_add(bytes);
            (after <= self.inner.most.load(Ordering::Relaxed)).then_some(after)
        };
        let held = &self.inner.held;
        let taken = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(|_| self.kept(bytes)).map_err(|_| Overrun)
    }

    fn kept(&self, bytes: u64) -> AllowancePermit {
        let inner = self.inner.clone();
        let held = Held { inner, bytes };
        AllowancePermit { _held: Arc::new(held) }
    }

    /// True while less than the bound is taken.
    pub fn has_room(&self) -> bool {
        self.held() < self.inner.most.load(Ordering::Relaxed)
    }

    /// Waits until less than the bound is taken. Cancel-safe.
    pub async fn room(&self) {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.has_room() {
                return;
            }
            changed.await;
        }
    }

    /// Bytes that are taken.
    pub fn held(&self) -> u64 {
        self.inner.held.load(Ordering::Relaxed)
    }
}

/// A frame that has begun to come, charged to an [`Account`]: it is given back where the frame never
/// becomes complete.
pub struct Arriving {
    account: Arc<Account>,
    bytes: u64,
}

impl Arriving {
    /// A frame of `bytes` (its [`cost`]) begins to come.
    ///
    /// # Errors
    /// As [`Account::arrived`].
    pub fn begin(account: &Arc<Account>, bytes: u64) -> Result<Arriving, Overrun> {
        account.arrived(bytes)?;
        let account = account.clone();
        Ok(Arriving { account, bytes })
    }

    /// It is complete: from now on [`Account::done`] is to be told.
    pub fn complete(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.account.done(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_allowance_comes_back_with_its_last_guard_and_wakes() {
        let allowance = Allowance::new(100);
        let kept = allowance.try_take(60).unwrap();
        assert!(allowance.try_take(41).is_err());
        let also = kept.clone();
        drop(kept);
        let over = allowance.take(80);
        assert_eq!((allowance.held(), allowance.has_room()), (140, false));
        let waiting = tokio::spawn({
            let allowance = allowance.clone();
            async move { allowance.room().await }
        });
        tokio::task::yield_now().await;
        drop((also, over));
        waiting.await.unwrap();
        assert_eq!(allowance.held(), 0);
        allowance.set_most(0);
        assert!(!allowance.has_room());
    }

    /// Takes in a task of its own, which has come as far as it can.
    async fn take_meanwhile(credit: &Credit, bytes: u64) -> tokio::task::JoinHandle<()> {
        let credit = credit.clone();
        let waiting = tokio::spawn(async move { credit.take(bytes).await });
        tokio::task::yield_now().await;
        waiting
    }

    #[tokio::test]
    async fn take_waits_for_room() {
        let credit = Credit::new(100);
        credit.take(60).await;
        let waiting = take_meanwhile(&credit, 60).await;
        assert_eq!(credit.outstanding(), 60);
        credit.give_back(60);
        waiting.await.unwrap();
        assert_eq!(credit.outstanding(), 60);
    }

    #[tokio::test]
    async fn one_frame_always_fits_and_a_grant_wakes() {
        let credit = Credit::new(10);
        credit.take(1000).await;
        let waiting = take_meanwhile(&credit, 1000).await;
        credit.grant(5000);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_limit_holds_within_what_is_granted_and_wakes_when_it_grows() {
        let credit = Credit::new(100);
        credit.limit(50);
        credit.take(40).await;
        let waiting = take_meanwhile(&credit, 40).await;
        assert_eq!(credit.outstanding(), 40);
        credit.limit(80);
        waiting.await.unwrap();
        assert_eq!(credit.outstanding(), 80);
    }

    #[test]
    fn a_frame_that_never_becomes_complete_gives_back_what_it_took() {
        let account = Arc::new(Account::new(100));
        let complete = Arriving::begin(&account, 150).unwrap();
        assert!(Arriving::begin(&account, 60).is_err());
        drop(Arriving::begin(&account, 50).unwrap());
        complete.complete();
        assert!(
            account.arrived(51).is_err(),
            "the complete one counts until it is done with"
        );
        account.done(150);
        assert_eq!(account.arrived(200), Ok(()));
    }

    #[test]
    fn the_account_refuses_an_overrun() {
        let account = Account::new(100);
        assert_eq!(account.arrived(1000), Ok(()));
        account.done(1000);
        assert_eq!(account.arrived(100), Ok(()));
        assert_eq!(account.arrived(100), Ok(()));
        assert_eq!(account.arrived(1), Err(Overrun));
        account.done(200);
        assert_eq!(account.arrived(100), Ok(()));
    }
}
