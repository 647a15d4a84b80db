//! Tasks, and what becomes of a panic in one: the session that the task belongs to ends with [`NetError::Internal`].
//!
//! Most tasks have no one who waits for them, and a channel that closes because its task panicked looks like one that
//! closes because all is done. So every task of haul starts here, through the [`Tasks`] of its session or of the server.

use crate::net::error::NetError;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Starts tasks that belong together. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    on_panic: Arc<dyn Fn(NetError) + Send + Sync>,
}

/// A task under way. Ready with its result, or with [`NetError::Internal`] if it panicked; dropping it ends the task.
pub struct Task<T>(JoinHandle<Result<T, NetError>>);

impl Tasks {
    /// Tasks of which `on_panic` hears as soon as one panics.
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
    pub fn detach<T: Send + 'static>(&self, name: &'static str, work: impl Future<Output = T> + Send + 'static) {
        let (tasks, work) = (self.clone(), Box::pin(work));
        tokio::spawn(async move { tasks.guard(name, work).await.map(drop) });
    }

    /// Runs `work` as part of the calling task. It is boxed: what is wrapped in futures by value is there once in each.
    ///
    /// # Errors
    /// [`NetError::Internal`] if it panicked; `on_panic` has heard of it by then.
    pub async fn guard<T, W>(&self, name: &'static str, work: Pin<Box<W>>) -> Result<T, NetError>
    where
        W: Future<Output = T> + ?Sized,
    {
        caught(faults::injected(name, work)).await.map_err(|panic| {
            let error = NetError::Internal(format!("{name}: {}", message(&*panic)));
            (self.on_panic)(error.duplicate());
            error
        })
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, NetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.0).poll(cx));
        // a panic has been caught within: this is a task that was ended
        Poll::Ready(joined.unwrap_or_else(|_| Err(NetError::lost("the task was ended"))))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tasks whose results come back through one channel. Cheap to clone.
pub struct Jobs<T> {
    tasks: Tasks,
    results: mpsc::UnboundedSender<T>,
}

impl<T> Clone for Jobs<T> {
    fn clone(&self) -> Jobs<T> {
        Jobs {
            tasks: self.tasks.clone(),
            results: self.results.clone(),
        }
    }
}

impl<T: Send + 'static> Jobs<T> {
    /// Jobs among `tasks`, and where their results come out.
    pub fn new(tasks: Tasks) -> (Jobs<T>, mpsc::UnboundedReceiver<T>) {
        let (results, ended) = mpsc::unbounded_channel();
        (Jobs { tasks, results }, ended)
    }

    /// The tasks that these are among.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Starts a job.
    pub fn start(&self, name: &'static str, job: impl Future<Output = T> + Send + 'static) {
        let run = self.run(job);
        self.tasks.detach(name, run);
    }

    /// Runs a job and sends its result, as part of the calling task.
    pub fn run(&self, job: impl Future<Output = T> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let results = self.results.clone();
        async move {
            let _ = results.send(job.await);
        }
    }
}

/// Runs what never ends, and starts it again `pause` after it has panicked.
pub async fn keep_running<F: Future<Output = ()>>(name: &'static str, pause: Duration, mut work: impl FnMut() -> F) {
    while caught(faults::injected(name, Box::pin(work()))).await.is_err() {
        tokio::time::sleep(pause).await;
    }
}

/// What `work` panicked with, if it did.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut work = pin!(work);
    // what it leaves behind is not used any more, or is behind a lock whose content is valid at any moment
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// What a panic says.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message")
}

/// Panics on demand, in debug builds only: where the environment has `HAUL_FAULTS=DIR`, the task NAME panics once for
/// each file `DIR/NAME`, which it removes. `tests/panics.rs` uses it for every task that there is.
#[cfg(debug_assertions)]
mod faults {
    use std::path::PathBuf;
    use std::pin::Pin;
    use std::sync::LazyLock;

    static FAULTS: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("HAUL_FAULTS").map(PathBuf::from));

    /// `work`, which panics at the next step after it has been asked to. As with any panic, what it owns is dropped before
    /// the panic is caught.
    pub(super) async fn injected<T>(name: &'static str, mut work: Pin<Box<impl Future<Output = T> + ?Sized>>) -> T {
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
    use tokio::sync::oneshot;

    fn watched() -> (Tasks, mpsc::UnboundedReceiver<NetError>) {
        let (told, heard) = mpsc::unbounded_channel();
        (Tasks::new(move |e| drop(told.send(e))), heard)
    }

    #[tokio::test]
    async fn a_panic_is_told_whether_or_not_anyone_waits_for_the_task() {
        let (tasks, mut heard) = watched();
        tasks.detach("first", async { assert_eq!(1, 2, "not equal") });
        let told = heard.recv().await.unwrap().to_string();
        assert!(
            told.contains("internal error: first") && told.contains("not equal"),
            "{told}"
        );
        let waited: Result<(), NetError> = tasks.spawn("second", async { panic!("on purpose") }).await;
        assert!(matches!(waited, Err(NetError::Internal(why)) if why == "second: on purpose"));
        assert!(matches!(heard.try_recv(), Ok(NetError::Internal(_))));
        assert_eq!(tasks.spawn("third", async { 3 }).await.unwrap(), 3);
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test]
    async fn dropping_a_task_ends_it() {
        let (tasks, _heard) = watched();
        let (held, gone) = oneshot::channel::<()>();
        let task = tasks.spawn("waiting", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(task);
        assert!(gone.await.is_err());
    }

    #[tokio::test]
    async fn what_never_ends_is_started_again_after_a_panic() {
        let mut runs = 0;
        keep_running("again", Duration::ZERO, || {
            runs += 1;
            let run = runs;
            async move { assert!(run >= 3) }
        })
        .await;
        assert_eq!(runs, 3);
    }
}
