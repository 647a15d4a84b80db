//! Panics: wherever one happens, a command ends at once with one line and exit code 1; a server
//! logs it.

use super::failure::Failure;
use crate::net::task::message;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::sync::watch;

/// How long a command may take to end by itself after a panic: to inform the server, and to print
/// the summary.
const ENDING: Duration = Duration::from_millis(500);

/// The first panic: its place and its message.
static FIRST: LazyLock<watch::Sender<Option<String>>> = LazyLock::new(|| watch::Sender::new(None));

/// From here on no panic prints by itself, unless RUST_BACKTRACE asks for its trace.
pub fn catch() {
    let print = std::panic::take_hook();
    let with_trace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |panic| {
        if with_trace {
            print(panic);
        }
        let text = describe(panic);
        tracing::error!("internal error {text}");
        FIRST.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(text);
            is_first
        });
    }));
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let at = panic.location().map_or_else(|| "somewhere".into(), ToString::to_string);
    format!("at {at}: {}", message(panic.payload()))
}

/// Runs `work` on this thread.
///
/// # Errors
/// Its own, and its panic.
pub fn contain(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(first().unwrap_or_else(|| Failure::internal("internal error"))))
}

/// The failure of the first panic, if any.
fn first() -> Option<Failure> {
    let first = FIRST.borrow();
    first
        .as_ref()
        .map(|text| Failure::internal(&format!("internal error {text}")))
}

/// Runs a command. A panic anywhere, in a task of its own or in another thread, ends it.
///
/// # Errors
/// The command's own, and the first panic.
pub async fn run(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::pin!(command);
    let panicked = async {
        // never an error: the sender is static
        let _ = FIRST.subscribe().wait_for(Option::is_some).await;
    };
    let result = tokio::select! {
        result = &mut command => result,
        () = panicked => {
            let _ = tokio::time::timeout(ENDING, command).await;
            Ok(())
        }
    };
    first().map_or(result, Err)
}
