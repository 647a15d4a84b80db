//! Signals: what ends a command early, and how it gets to end properly.

use super::failure::{Failure, exit};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long a command that wants to end properly may take for it.
pub const GRACE: Duration = Duration::from_millis(700);

/// True once a signal has come.
static ASKED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Waits until a signal has asked this command to end. Whoever waits for it is given [`GRACE`].
pub async fn asked() {
    let _ = ASKED.subscribe().wait_for(|asked| *asked).await;
}

/// Runs a command to its end, or to the first SIGINT, SIGTERM or SIGHUP. A second signal ends the process at once.
///
/// # Errors
/// The command's own, and exit codes 130, 143 and 129.
pub async fn run(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::pin!(command);
    tokio::select! {
        result = &mut command => result,
        failure = signalled() => {
            ASKED.send_replace(true);
            // nobody waits for the sign: there is nothing to be ended properly
            if ASKED.receiver_count() > 0 {
                let _ = tokio::time::timeout(GRACE, command).await;
            }
            Err(failure)
        }
    }
}

/// The signals that end a command.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where whoever started the command has it ignored: nohup.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => exit::INTERRUPTED,
            _ = self.terminate.recv() => exit::TERMINATED,
            _ = hangup => exit::HUNG_UP,
        }
    }
}

/// Whether this process has a signal ignored, as proc(5) tells.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let bit = u32::try_from(kind.as_raw_value()).unwrap_or(1).saturating_sub(1);
    mask.checked_shr(bit).unwrap_or(0) & 1 == 1
}

async fn signalled() -> Failure {
    let Ok(mut signals) = Signals::new() else {
        return std::future::pending().await;
    };
    let code = signals.next().await;
    std::thread::spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(signals.next());
            std::process::exit(i32::from(code));
        }
    });
    Failure::new(code, "interrupted")
        .hint("what is complete is kept, and larger files go on where they ended: run the same command again")
}
