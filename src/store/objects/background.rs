//! Work beside the calls of a store: reads ahead, renewals of locks, and what a dropped value gives
//! back.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Work that ends with this value.
pub struct Running(JoinHandle<()>);

impl Running {
    /// Starts work that matters only as long as the value exists.
    pub fn start(work: impl Future<Output = ()> + Send + 'static) -> Running {
        Running(tokio::spawn(work))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts work whose result several may wait for. A panic in it reaches them.
pub fn shared<T: Clone + Send + Sync + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Shared<BoxFuture<'static, T>> {
    let handle = tokio::spawn(work);
    let wait = async move {
        match handle.await {
            Ok(value) => value,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // the runtime is shutting down: no task polls this any more
                Err(_) => std::future::pending().await,
            },
        }
    };
    wait.boxed().shared()
}

/// Does what a dropped value cannot wait for. Without a runtime it is not done: a lock expires.
pub fn detach(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}
