//! Several jobs at once, with their results in the order of their starts.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// A queue of jobs, in the order of their starts.
pub struct Ahead<T> {
    jobs: VecDeque<Job<T>>,
    most: usize,
}

enum Job<T> {
    Running(JoinHandle<T>),
    Done(T),
}

impl<T: Send + Unpin + 'static> Ahead<T> {
    /// Makes a queue of at most `most` jobs at once.
    pub fn new(most: usize) -> Ahead<T> {
        Ahead {
            jobs: VecDeque::with_capacity(most),
            most,
        }
    }

    /// True if [`Ahead::next`] must be called before another job may start.
    pub fn is_full(&self) -> bool {
        self.jobs.len() >= self.most
    }

    /// True if no job is under way.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Starts a job.
    pub fn start(&mut self, job: impl Future<Output = T> + Send + 'static) {
        self.jobs.push_back(Job::Running(tokio::spawn(job)));
    }

    /// Waits for the result of the oldest job; `None` if no job is under way. Dropping the future
    /// before it is ready loses nothing. A panic in any job reaches the caller at once, however
    /// long the jobs before it take.
    pub async fn next(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        for job in &mut self.jobs {
            let Job::Running(handle) = job else { continue };
            match Pin::new(handle).poll(cx) {
                Poll::Ready(Ok(value)) => *job = Job::Done(value),
                Poll::Ready(Err(e)) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // the runtime is shutting down
                    Err(_) => return Poll::Pending,
                },
                Poll::Pending => {}
            }
        }
        match self.jobs.pop_front() {
            Some(Job::Done(value)) => Poll::Ready(Some(value)),
            Some(running) => {
                self.jobs.push_front(running);
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        for job in &self.jobs {
            if let Job::Running(handle) = job {
                handle.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn results_come_in_the_order_of_the_start() {
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

    #[tokio::test]
    async fn a_panic_does_not_wait_for_a_job_before_it() {
        let mut ahead = Ahead::new(3);
        ahead.start(std::future::pending());
        ahead.start(async { 1 });
        ahead.start(async { panic!("on purpose") });
        let waiting = tokio::spawn(async move { ahead.next().await });
        assert!(waiting.await.unwrap_err().is_panic());
    }
}
