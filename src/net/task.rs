//! Tasks. A panic in one ends its session with [`NetError::Internal`].
//!
//! No caller waits for most tasks, and a channel that closes because its task panicked looks like
//! one that closes at the end of its work. So every task of haul starts here, through the [`Tasks`]
//! of its session or of the server.

use crate::net::error::{LossReason, NetError};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Starts tasks that belong together. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    on_panic: Arc<dyn Fn(NetError) + Send + Sync>,
}

/// A running task. It is ready with the task's result, or with [`NetError::Internal`] after a
/// panic. Dropping it ends the task.
pub struct Task<T>(JoinHandle<Result<T, NetError>>);

impl Tasks {
    /// Tasks whose panics are reported to `on_panic` at once.
    pub fn new(on_panic: impl Fn(NetError) + Send + Sync + 'static) -> Tasks {
        Tasks {
            on_panic: Arc::new(on_panic),
        }
    }

    /// Starts a task. `name` says in one word what it does.
    #[must_use = "dropping a task ends it"]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (tasks, work) = (self.clone(), Box::pin(work));
        Task(tokio::spawn(async move { tasks.guard(name, work).await }))
    }

    /// Starts a task that runs to its own end.
    pub fn detach<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) {
        let (tasks, work) = (self.clone(), Box::pin(work));
        tokio::spawn(async move { tasks.guard(name, work).await.map(drop) });
    }

    /// Runs `work` as part of the calling task. It is boxed: a future that wraps another by value
    /// has a copy of its size.
    ///
    /// # Errors
    /// [`NetError::Internal`] if it panicked; `on_panic` was called before.
    pub async fn guard<T, W>(&self, name: &'static str, work: Pin<Box<W>>) -> Result<T, NetError>
    where
        W: Future<Output = T> + ?Sized,
    {
        caught(faults::injected(name, work)).await.map_err(|panic| {
            let error = NetError::Internal(format!("{name}: {}", message(&*panic)));
            (self.on_panic)(error.clone());
            error
        })
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, NetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.0).poll(cx));
        // the task caught its own panic: this error says that it was aborted
        Poll::Ready(joined.unwrap_or_else(|_| Err(NetError::Lost(LossReason::TaskEnded))))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs work that never ends, and restarts it `pause` after a panic.
pub async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    pause: Duration,
    mut work: impl FnMut() -> F,
) {
    while caught(faults::injected(name, Box::pin(work()))).await.is_err() {
        tokio::time::sleep(pause).await;
    }
}

/// The result of `work`, or its panic.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut work = pin!(work);
    // its state is not used any more, or is behind a lock whose content is valid at any moment
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// The message of a panic.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message")
}

/// Panics on demand, in debug builds only: with `HAUL_FAULTS=DIR` in the environment, the task NAME
/// panics once for each file `DIR/NAME`, which it removes. `tests/panics.rs` uses it for every
/// task.
#[cfg(debug_assertions)]
mod faults {
    use std::path::PathBuf;
    use std::pin::Pin;
    use std::sync::LazyLock;

    static FAULTS: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("HAUL_FAULTS").map(PathBuf::from));

    /// Runs `work`, which panics when it is next polled after its file appears. As with any panic,
    /// its values are dropped before the panic is caught.
    pub(super) async fn injected<T>(
        name: &'static str,
        mut work: Pin<Box<impl Future<Output = T> + ?Sized>>,
    ) -> T {
        std::future::poll_fn(|cx| {
            #[allow(clippy::panic)]
            if let Some(dir) = &*FAULTS
                && std::fs::remove_file(dir.join(name)).is_ok()
            {
                panic!("asked to, in {name}");
            }
            work.as_mut().poll(cx)
        })
        .await
    }
}

#[cfg(not(debug_assertions))]
mod faults {
    pub(super) fn injected<W: Future>(_name: &'static str, work: W) -> W {
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{mpsc, oneshot};

    fn watched() -> (Tasks, mpsc::UnboundedReceiver<NetError>) {
        let (reported, heard) = mpsc::unbounded_channel();
        (Tasks::new(move |e| drop(reported.send(e))), heard)
    }

    #[tokio::test]
    async fn a_panic_is_reported_whether_or_not_a_caller_waits_for_the_task() {
        let (tasks, mut heard) = watched();
        tasks.detach("first", async { assert_eq!(1, 2, "not equal") });
        let reported = heard.recv().await.unwrap().to_string();
        assert!(
            reported.contains("internal error: first") && reported.contains("not equal"),
            "{reported}"
        );
        let waited: Result<(), NetError> =
            tasks.spawn("second", async { panic!("on purpose") }).await;
        assert!(matches!(waited, Err(NetError::Internal(why)) if why == "second: on purpose"));
        assert!(matches!(heard.try_recv(), Ok(NetError::Internal(_))));
        assert_eq!(tasks.spawn("third", async { 3 }).await.unwrap(), 3);
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test]
    async fn dropping_a_task_ends_it() {
        let (tasks, _heard) = watched();
        let (guard, gone) = oneshot::channel::<()>();
        let task = tasks.spawn("waiting", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        drop(task);
        assert!(gone.await.is_err());
    }

    #[tokio::test]
    async fn what_never_ends_is_restarted_after_a_panic() {
        let mut runs = 0;
        supervise("again", Duration::ZERO, || {
            runs += 1;
            let run = runs;
            async move { assert!(run >= 3) }
        })
        .await;
        assert_eq!(runs, 3);
    }
}
