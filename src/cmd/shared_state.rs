//! The users of a bucket, which all servers of the bucket share.

use super::failure::{Failure, exit};
use crate::auth::FileError;
use crate::auth::state_file::SharedText;
use crate::store::StoreError;
use crate::store::objects::ObjectStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// A runtime that may end where others run.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A text in a bucket.
pub struct StoreText {
    store: ObjectStore,
    shown: String,
    name: String,
    /// Callers have none of their own, or may not block it.
    runtime: Arc<OwnRuntime>,
}

impl StoreText {
    /// The text `name` of a store, which is shown as `shown`.
    ///
    /// # Errors
    /// Without the means to wait for it.
    pub fn new(store: ObjectStore, shown: &str, name: &str) -> Result<StoreText, Failure> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let failed = |e| Failure::new(exit::FAILED, format!("cannot start a runtime: {e}"));
        Ok(StoreText {
            store,
            shown: shown.to_string(),
            name: name.to_string(),
            runtime: Arc::new(OwnRuntime(Some(runtime.map_err(failed)?))),
        })
    }

    /// Waits on a thread of its own: a thread of the caller's runtime cannot.
    fn wait<T: Send>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, FileError> {
        let Some(runtime) = &self.runtime.0 else {
            return Err(FileError::content(&self.name(), "the runtime has ended"));
        };
        let waited = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(work)).join());
        match waited {
            Ok(done) => done.map_err(|e| FileError::content(&self.name(), e.describe())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl SharedText for StoreText {
    fn name(&self) -> PathBuf {
        Path::new(&self.shown).join("s").join(&self.name)
    }

    fn read(&self) -> Result<(String, Option<String>), FileError> {
        let found = self.wait(self.store.own_text(&self.name))?;
        Ok(found.map_or((String::new(), None), |(text, version)| (text, Some(version))))
    }

    fn replace(&self, text: &str, version: Option<&str>) -> Result<bool, FileError> {
        self.wait(self.store.put_own_text(&self.name, text, version))
    }

    fn beside(&self, name: &str) -> Arc<dyn SharedText> {
        Arc::new(StoreText {
            store: self.store.clone(),
            shown: self.shown.clone(),
            name: name.to_string(),
            runtime: self.runtime.clone(),
        })
    }
}
