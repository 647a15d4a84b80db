//! Signals that end a command early, and the time that it gets to end properly.

use super::failure::{Failure, exit};
use super::{prompt, screen};
use std::future::poll_fn;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// What to do after a transfer that ended early.
pub const RERUN: &str =
    "run the same command again, and it continues; new directories appear when they are complete";
/// How long a command that wants to end properly may take for it.
pub const GRACE: Duration = Duration::from_millis(700);

/// True once a signal that ends the command has come.
static ASKED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Waits until a signal has asked this command to end. While a task waits here, the command has
/// [`GRACE`] to end.
pub async fn asked() {
    let _ = ASKED.subscribe().wait_for(|asked| *asked).await;
}

/// Runs a command to its end, or to the first signal that ends it. A second one ends the process at
/// once.
///
/// # Errors
/// The command's own, and 128 and the signal's number: 130 for SIGINT, 143 for SIGTERM, 129 for
/// SIGHUP.
pub async fn run(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::pin!(command);
    // before the command can have changed anything, the terminal above all
    let signals = Signals::new()
        .map_err(|e| Failure::new(exit::FAILED, format!("cannot handle signals: {e}")))?;
    tokio::select! {
        result = &mut command => result,
        code = signalled(signals) => {
            ASKED.send_replace(true);
            // no task waits for the signal: nothing has to end properly
            if ASKED.receiver_count() == 0 {
                return Err(Failure::new(code, "interrupted"));
            }
            let _ = tokio::time::timeout(GRACE, command).await;
            Err(Failure::new(code, "interrupted").hint(RERUN))
        }
    }
}

/// The signals that end a process by default and are sent on purpose.
const ENDING: [SignalKind; 7] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
    SignalKind::quit(),
    SignalKind::alarm(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
];

/// The signals that this process waits for.
struct Signals {
    /// Those that end a command, with their exit codes.
    ending: Vec<(u8, Signal)>,
    /// Stops the process until it is continued; `None` if it is ignored.
    stop: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let ignored = ignored();
        let mut ending = Vec::with_capacity(ENDING.len());
        for kind in ENDING {
            let always = [SignalKind::interrupt(), SignalKind::terminate()].contains(&kind);
            // the parent has it ignored: nohup
            if always || !is_in(ignored, kind.as_raw_value()) {
                let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
                ending.push((number.saturating_add(128), signal(kind)?));
            }
        }
        let stop = rustix::process::Signal::TSTP.as_raw();
        let stop = match is_in(ignored, stop) {
            true => None,
            false => Some(signal(SignalKind::from_raw(stop))?),
        };
        Ok(Signals { ending, stop })
    }

    /// The exit code of the next signal that ends a command. Stops the process meanwhile when it is
    /// to stop.
    async fn next(&mut self) -> u8 {
        poll_fn(|context| {
            for (code, signal) in &mut self.ending {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*code);
                }
            }
            while let Some(stop) = &mut self.stop
                && stop.poll_recv(context).is_ready()
            {
                stop_until_continued();
            }
            Poll::Pending
        })
        .await
    }
}

/// Stops this process as Ctrl-Z does, with the terminal as it was; returns when it has been
/// continued.
fn stop_until_continued() {
    use rustix::process::{Signal, getpid, kill_process};
    let bar = screen::hide();
    prompt::suspend();
    // Not SIGSTOP: where no shell could continue it, a process must not stop.
    let _ = kill_process(getpid(), Signal::TTIN);
    prompt::resume();
    drop(bar);
}

/// The set of signals that this process ignores, as proc(5) tells.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(mask: u64, signal: i32) -> bool {
    let bit = u32::try_from(signal).unwrap_or(1).saturating_sub(1);
    mask.checked_shr(bit).unwrap_or(0) & 1 == 1
}

async fn signalled(mut signals: Signals) -> u8 {
    let code = signals.next().await;
    std::thread::spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(signals.next());
            screen::finish();
            std::process::exit(i32::from(code));
        }
    });
    code
}
