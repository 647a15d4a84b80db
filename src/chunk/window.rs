//! The window: how many bytes may be outstanding, counted on both sides. Whatever occupies bytes
//! holds a [`Permit`], which gives them back when it is dropped.

use super::CHUNK_SIZE;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use tokio::sync::Notify;

/// Bytes that a frame costs besides its payload: its header, and about what it takes to remember
/// it.
pub const FRAME_COST: u64 = 256;

/// What a frame with `payload` bytes takes from the window.
pub fn cost(payload: usize) -> u64 {
    FRAME_COST.saturating_add(payload as u64)
}

/// The bytes that are taken, their bound, and a wake-up for those who wait for room.
struct Budget {
    counts: Mutex<Counts>,
    changed: Notify,
}

struct Counts {
    taken: u64,
    most: u64,
}

impl Budget {
    fn new(most: u64) -> Arc<Budget> {
        Arc::new(Budget {
            counts: Mutex::new(Counts { taken: 0, most }),
            changed: Notify::new(),
        })
    }

    fn set_most(&self, most: u64) {
        self.counts.lock().most = most;
        self.changed.notify_waiters();
    }

    fn taken(&self) -> u64 {
        self.counts.lock().taken
    }

    async fn within(&self, bytes: u64) {
        self.wait_for(|| (self.taken() <= bytes).then_some(())).await;
    }

    /// Takes `bytes` if `fits` says so of what is taken already and of the bound.
    fn try_take(
        self: &Arc<Budget>,
        bytes: u64,
        fits: impl FnOnce(u64, u64) -> bool,
    ) -> Option<Permit> {
        let mut counts = self.counts.lock();
        if !fits(counts.taken, counts.most) {
            return None;
        }
        counts.taken = counts.taken.saturating_add(bytes);
        let budget = self.clone();
        Some(Permit { budget, bytes })
    }

    /// Waits until `check` finds something, and looks again after every change. Cancel-safe.
    async fn wait_for<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // registered before the look, so that no change in between is missed
            changed.as_mut().enable();
            if let Some(found) = check() {
                return found;
            }
            changed.await;
        }
    }
}

/// Bytes of a window or an allowance. Dropping it gives them back.
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Permit {
    /// The bytes that it stands for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Cuts a permit for `bytes` off, at most for all that there are.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Permit {
        debug_assert!(bytes <= self.bytes, "{bytes} of {}", self.bytes);
        let bytes = bytes.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        let budget = self.budget.clone();
        Permit { budget, bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut counts = self.budget.counts.lock();
            debug_assert!(self.bytes <= counts.taken, "{} of {}", self.bytes, counts.taken);
            counts.taken = counts.taken.saturating_sub(self.bytes);
        }
        self.budget.changed.notify_waiters();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.bytes)
    }
}

/// A permit of an [`Allowance`] with several holders: the last one gives it back.
pub type SharedPermit = Arc<Permit>;

/// The sender's side: the bytes that the receiver granted. Cheap to clone.
#[derive(Clone)]
pub struct Credit {
    budget: Arc<Budget>,
    /// What the receiver granted, and what the sender allows itself of that.
    bounds: Arc<Mutex<(u64, u64)>>,
}

impl Credit {
    /// A window of `granted` bytes.
    pub fn new(granted: u64) -> Credit {
        Credit {
            budget: Budget::new(granted),
            bounds: Arc::new(Mutex::new((granted, u64::MAX))),
        }
    }

    /// The receiver has granted another size.
    pub fn grant(&self, bytes: u64) {
        self.bound(|bounds| bounds.0 = bytes);
    }

    /// The sender uses no more than `bytes` of what is granted: more would only lie in memory.
    pub fn limit(&self, bytes: u64) {
        self.bound(|bounds| bounds.1 = bytes);
    }

    fn bound(&self, change: impl FnOnce(&mut (u64, u64))) {
        let mut bounds = self.bounds.lock();
        let before = *bounds;
        change(&mut bounds);
        if *bounds != before {
            self.budget.set_most(bounds.0.min(bounds.1));
        }
    }

    /// Waits until `bytes` fit, and takes them. A single frame always fits into an empty window, so
    /// that a window smaller than a chunk is slow but not the end. Cancel-safe.
    pub async fn acquire(&self, bytes: u64) -> Permit {
        let fits = |taken: u64, most: u64| taken == 0 || taken.saturating_add(bytes) <= most;
        self.budget.wait_for(|| self.budget.try_take(bytes, fits)).await
    }

    /// Bytes taken and not given back.
    pub fn outstanding(&self) -> u64 {
        self.budget.taken()
    }

    /// Waits until no more than `bytes` are outstanding. Cancel-safe.
    pub async fn within(&self, bytes: u64) {
        self.budget.within(bytes).await;
    }
}

/// The sender sent more than it was allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent more than its window allows")]
pub struct Overrun;

/// The receiver's side: the frames that arrived and are still in memory fit into what was granted.
/// Cheap to clone.
#[derive(Clone)]
pub struct Window {
    budget: Arc<Budget>,
}

impl Window {
    /// A window of `granted` bytes.
    pub fn new(granted: u64) -> Window {
        Window {
            budget: Budget::new(granted),
        }
    }

    /// Charges a frame of `bytes` (its [`cost`]), from its header on and until it is written or
    /// dropped.
    ///
    /// # Errors
    /// [`Overrun`] if it does not fit. A single frame always does.
    pub fn charge(&self, bytes: u64) -> Result<Permit, Overrun> {
        // A frame that is resent after its connection died is here twice for a moment: hence twice
        // the window, of which a single frame may be a little more.
        let fits = |taken: u64, granted: u64| {
            let most = granted.saturating_mul(2).max(cost(CHUNK_SIZE).saturating_mul(2));
            taken.saturating_add(bytes) <= most
        };
        self.budget.try_take(bytes, fits).ok_or(Overrun)
    }

    /// Another size was granted.
    pub fn grant(&self, bytes: u64) {
        self.budget.set_most(bytes);
    }

    /// Bytes of frames that are in memory.
    pub fn charged(&self) -> u64 {
        self.budget.taken()
    }
}

/// A bound on memory besides frames. Cheap to clone.
#[derive(Clone)]
pub struct Allowance {
    budget: Arc<Budget>,
}

impl Allowance {
    /// At most `most` bytes.
    pub fn new(most: u64) -> Allowance {
        Allowance {
            budget: Budget::new(most),
        }
    }

    /// Waits until no more than `bytes` are taken. Cancel-safe.
    pub async fn within(&self, bytes: u64) {
        self.budget.within(bytes).await;
    }

    /// Another bound from now on.
    pub fn set_most(&self, most: u64) {
        self.budget.set_most(most);
    }

    /// Takes `bytes`, whether or not they fit: the sender stops before the next batch.
    pub fn take(&self, bytes: u64) -> Permit {
        let mut counts = self.budget.counts.lock();
        counts.taken = counts.taken.saturating_add(bytes);
        let budget = self.budget.clone();
        Permit { budget, bytes }
    }

    /// Takes `bytes` if they fit.
    ///
    /// # Errors
    /// [`Overrun`] if they do not.
    pub fn try_take(&self, bytes: u64) -> Result<SharedPermit, Overrun> {
        let fits = |taken: u64, most: u64| taken.saturating_add(bytes) <= most;
        self.budget.try_take(bytes, fits).map(Arc::new).ok_or(Overrun)
    }

    /// True while less than the bound is taken.
    pub fn has_room(&self) -> bool {
        let counts = self.budget.counts.lock();
        counts.taken < counts.most
    }

    /// Waits until less than the bound is taken. Cancel-safe.
    pub async fn room(&self) {
        self.budget.wait_for(|| self.has_room().then_some(())).await;
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> u64 {
        self.budget.taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_allowance_comes_back_with_its_last_permit_and_wakes() {
        let allowance = Allowance::new(100);
        let permit = allowance.try_take(60).unwrap();
        assert!(allowance.try_take(41).is_err());
        let also = permit.clone();
        drop(permit);
        let over = allowance.take(80);
        assert_eq!((allowance.taken(), allowance.has_room()), (140, false));
        let waiting = tokio::spawn({
            let allowance = allowance.clone();
            async move { allowance.room().await }
        });
        tokio::task::yield_now().await;
        drop((also, over));
        waiting.await.unwrap();
        assert_eq!(allowance.taken(), 0);
        allowance.set_most(0);
        assert!(!allowance.has_room());
    }

    /// Acquires in a task of its own, which has come as far as it can.
    async fn acquire_meanwhile(credit: &Credit, bytes: u64) -> tokio::task::JoinHandle<Permit> {
        let credit = credit.clone();
        let waiting = tokio::spawn(async move { credit.acquire(bytes).await });
        tokio::task::yield_now().await;
        waiting
    }

    #[tokio::test]
    async fn acquire_waits_for_room() {
        let credit = Credit::new(100);
        let first = credit.acquire(60).await;
        let waiting = acquire_meanwhile(&credit, 60).await;
        assert_eq!(credit.outstanding(), 60);
        drop(first);
        let second = waiting.await.unwrap();
        assert_eq!(credit.outstanding(), 60);
        drop(second);
        assert_eq!(credit.outstanding(), 0);
    }

    #[tokio::test]
    async fn one_frame_always_fits_and_a_grant_wakes() {
        let credit = Credit::new(10);
        let _first = credit.acquire(1000).await;
        let waiting = acquire_meanwhile(&credit, 1000).await;
        credit.grant(5000);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_limit_holds_within_what_is_granted_and_wakes_when_it_grows() {
        let credit = Credit::new(100);
        credit.limit(50);
        let _first = credit.acquire(40).await;
        let waiting = acquire_meanwhile(&credit, 40).await;
        assert_eq!(credit.outstanding(), 40);
        credit.limit(80);
        let _second = waiting.await.unwrap();
        assert_eq!(credit.outstanding(), 80);
    }

    #[tokio::test]
    async fn what_is_cut_off_a_permit_is_given_back_by_itself() {
        let credit = Credit::new(100);
        let mut all = credit.acquire(90).await;
        let part = all.split(30);
        assert_eq!((part.bytes(), all.bytes(), credit.outstanding()), (30, 60, 90));
        drop(all);
        assert_eq!(credit.outstanding(), 30);
        drop(part);
        assert_eq!(credit.outstanding(), 0);
    }

    #[test]
    fn a_window_refuses_an_overrun() {
        let window = Window::new(8 << 20);
        let both = (window.charge(8 << 20).unwrap(), window.charge(8 << 20).unwrap());
        assert_eq!(window.charge(1).err(), Some(Overrun));
        drop(both);
        assert_eq!(window.charged(), 0);
        window.grant(10 << 20);
        assert!(window.charge(20 << 20).is_ok());
        // a frame and its repetition always fit
        let small = Window::new(100);
        let chunk = cost(CHUNK_SIZE);
        let both = (small.charge(chunk).unwrap(), small.charge(chunk).unwrap());
        assert_eq!(small.charge(1).err(), Some(Overrun));
        drop(both);
    }
}
