//! What a process needs to run a command: a runtime, private memory, and enough open files.

use super::failure::{Failure, exit};
use super::panics;
use crate::store::BLOCKING_THREADS;
use std::time::Duration;

/// How long blocking work may take after a command has ended.
const SHUTDOWN: Duration = Duration::from_millis(200);

/// Runs `work` to its end, on threads that are started for it.
pub fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(exit::FAILED, format!("cannot start: {e}")))?;
    let result = panics::contain(|| runtime.block_on(work));
    // the process does not wait for blocking work that an interrupt abandoned
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

/// Runs `work` to its end on the calling thread alone.
pub fn on_this_thread<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(exit::FAILED, format!("cannot start: {e}")))?;
    runtime.block_on(work)
}

/// Keeps keys and passwords from other programs of the same user: they can read neither this
/// process nor a core dump.
pub fn forbid_memory_dumps() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Raises the limit of open files as far as the system allows: 1024, the usual one, is little for a
/// pool and its batches.
pub fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const ENOUGH: u64 = 65_536;
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if limit.current.is_some_and(|now| now < wanted) {
        limit.current = Some(wanted);
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
