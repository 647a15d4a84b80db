//! Jobs whose results one task waits for: a panic in one ends the session like any other, and
//! dropping the set ends them.

use crate::net::error::NetError;
use crate::net::task::Tasks;
use std::pin::Pin;
use tokio::task::{AbortHandle, JoinSet};

/// A job that has not been started. Its maker need not know what its result becomes part of.
#[must_use = "work does nothing unless it is started"]
pub struct Work<T> {
    name: &'static str,
    run: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T: Send + 'static> Work<T> {
    /// Work that a job of this name does.
    pub fn new(name: &'static str, run: impl Future<Output = T> + Send + 'static) -> Work<T> {
        let run = Box::pin(run);
        Work { name, run }
    }

    /// Runs it as a task of its own, to its own end.
    pub fn detach(self, tasks: &Tasks) {
        tasks.detach(self.name, self.run);
    }

    /// Runs it as part of the calling task.
    ///
    /// # Errors
    /// [`NetError::Internal`] if it panicked; the owner of `tasks` has heard of it by then.
    pub async fn guard(self, tasks: &Tasks) -> Result<T, NetError> {
        tasks.guard(self.name, self.run).await
    }
}

/// The jobs of one task, all with results of one type.
pub struct JobSet<T> {
    tasks: Tasks,
    running: JoinSet<Result<T, NetError>>,
}

impl<T: Send + 'static> JobSet<T> {
    /// No jobs yet; those that come are among `tasks`.
    pub fn new(tasks: Tasks) -> JobSet<T> {
        JobSet {
            tasks,
            running: JoinSet::new(),
        }
    }

    /// The tasks that these are among.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Starts a job, whose result becomes a `T`. The handle ends it early.
    pub fn start<U: Send + 'static>(
        &mut self,
        work: Work<U>,
        result: impl FnOnce(U) -> T + Send + 'static,
    ) -> AbortHandle {
        let tasks = self.tasks.clone();
        self.running.spawn(async move { work.guard(&tasks).await.map(result) })
    }

    /// The next result, in the order in which jobs end; `None` while there is no job. Cancel-safe.
    ///
    /// # Errors
    /// [`NetError::Internal`] if the job panicked.
    pub async fn next(&mut self) -> Option<Result<T, NetError>> {
        loop {
            match self.running.join_next().await? {
                Ok(result) => return Some(result),
                // it was ended early, or the runtime is shutting down: panics are caught within
                Err(_) => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn results_come_as_jobs_end_and_panics_as_errors() {
        let mut jobs = JobSet::new(Tasks::new(|_| {}));
        let (go, wait) = oneshot::channel::<u32>();
        jobs.start(Work::new("late", wait), |result| result.unwrap());
        jobs.start(Work::new("soon", async { 1 }), |one: u32| one + 1);
        assert_eq!(jobs.next().await.unwrap().unwrap(), 2);
        jobs.start(Work::new("bad", async { panic!("on purpose") }), |never: u32| never);
        let failed = jobs.next().await.unwrap();
        assert!(matches!(failed, Err(NetError::Internal(why)) if why == "bad: on purpose"));
        go.send(7).unwrap();
        assert_eq!(jobs.next().await.unwrap().unwrap(), 7);
        assert!(jobs.next().await.is_none());
    }

    #[tokio::test]
    async fn a_job_ends_with_its_handle_and_with_the_set() {
        let mut jobs = JobSet::<()>::new(Tasks::new(|_| {}));
        let start = |jobs: &mut JobSet<()>| {
            let (guard, gone) = oneshot::channel::<()>();
            let waits = async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            };
            (jobs.start(Work::new("waits", waits), |()| ()), gone)
        };
        let (handle, first) = start(&mut jobs);
        let (_handle, second) = start(&mut jobs);
        handle.abort();
        assert!(first.await.is_err());
        drop(jobs);
        assert!(second.await.is_err());
    }
}
