//! Several reads at once, delivered in the order in which they were asked for.

use std::collections::VecDeque;
use std::future::Future;
use tokio::task::JoinHandle;

/// A queue of running jobs. Each has a single-use channel to its result (its task's handle), and the queue of those
/// channels keeps the order.
pub struct Ahead<T> {
    running: VecDeque<JoinHandle<T>>,
    most: usize,
}

impl<T: Send + 'static> Ahead<T> {
    /// At most `most` jobs at once.
    pub fn new(most: usize) -> Ahead<T> {
        Ahead {
            running: VecDeque::with_capacity(most),
            most,
        }
    }

    /// True when [`Ahead::next`] must be called before another job may start.
    pub fn is_full(&self) -> bool {
        self.running.len() >= self.most
    }

    /// True when no job is under way.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a job.
    pub fn start(&mut self, job: impl Future<Output = T> + Send + 'static) {
        self.running.push_back(tokio::spawn(job));
    }

    /// The oldest job's result; waits for it. None when no job is under way. Dropping the future before it is ready
    /// loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        let oldest = self.running.front_mut()?;
        let result = oldest.await;
        self.running.pop_front();
        match result {
            Ok(value) => Some(value),
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        for job in &self.running {
            job.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn results_keep_the_order_of_the_start() {
        let mut ahead = Ahead::new(3);
        let mut senders = Vec::new();
        for _ in 0..3 {
            let (send, receive) = oneshot::channel::<u32>();
            senders.push(send);
            ahead.start(async move { receive.await.unwrap() });
        }
        assert!(ahead.is_full());
        for (i, send) in senders.into_iter().enumerate().rev() {
            send.send(i as u32).unwrap();
        }
        for i in 0..3 {
            assert_eq!(ahead.next().await, Some(i));
        }
        assert_eq!(ahead.next().await, None);
    }
}
