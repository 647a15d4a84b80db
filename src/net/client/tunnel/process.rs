//! The program that reaches a server for haul, as a child of this process.

use crate::net::client::tunnel::report::Report;
use crate::net::error::TunnelError;
use crate::net::lanes::carrier::enlarge;
use crate::net::task::{Task, Tasks};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Starts the program without the signals of the terminal: haul ends in an orderly way, and the
/// program is needed for that.
const START: &str = "trap '' INT HUP; exec \"$@\"";
/// The bytes of the program's messages that are remembered, to tell why it ended.
const TAIL: usize = 4 << 10;
/// How long a program that was asked to end may take: it may have to restore the terminal.
const LAST_MOMENTS: Duration = Duration::from_secs(1);
/// How long a program that has closed its output may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// The program. Dropping it ends it, unless it was let go.
pub(super) struct Process {
    program: String,
    /// `None` once it was let go, or asked to end.
    child: Mutex<Option<Child>>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    stderr: Mutex<Option<Task<()>>>,
}

/// Both directions of the program's bytes.
pub(super) type Pipes = (ChildStdout, ChildStdin);

impl Process {
    /// Starts a program; what it prints on standard error goes to `report`.
    ///
    /// # Errors
    /// [`TunnelError::Start`].
    pub(super) fn start(
        arguments: &[OsString],
        report: &Arc<dyn Report>,
    ) -> Result<(Process, Pipes), TunnelError> {
        let name = arguments.first().map(OsString::as_os_str).unwrap_or_default();
        let program = name.to_string_lossy().into_owned();
        let failed = |why: String| TunnelError::Start {
            program: program.clone(),
            why,
        };
        if !is_program(name) {
            return Err(failed("there is no such program".into()));
        }
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(START).arg("haul").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
        let pipes = (child.stdout.take(), child.stdin.take(), child.stderr.take());
        let (Some(stdout), Some(stdin), Some(stderr)) = pipes else {
            return Err(failed("it has no standard input and output".into()));
        };
        enlarge(&stdin);
        enlarge(&stdout);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let reading = pass_on(stderr, tail.clone(), report.clone());
        let process = Process {
            child: Mutex::new(Some(child)),
            tail,
            stderr: Mutex::new(Some(Tasks::new(|_| {}).spawn("messages", reading))),
            program,
        };
        Ok((process, (stdout, stdin)))
    }

    /// The program's name.
    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Waits for the end of a program that has closed its output. `None` if that takes too long.
    pub(super) async fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().take()?;
        let Ok(status) = timeout(ENDING, child.wait()).await else {
            *self.child.lock() = Some(child);
            return None;
        };
        let status = status.ok()?;
        // a master connection of ssh may hold the other end for ever
        let stderr = self.stderr.lock().take();
        if let Some(stderr) = stderr {
            let _ = timeout(Duration::from_millis(200), stderr).await;
        }
        Some(status)
    }

    /// The last of what the program printed on standard error.
    pub(super) fn tail(&self) -> String {
        let bytes: Vec<u8> = self.tail.lock().iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Lets the program end by itself.
    pub(super) fn let_go(&self) {
        drop(self.child.lock().take());
    }
}

/// What a program prints, at most so many bytes, and how it ended.
///
/// # Errors
/// [`TunnelError::Start`], and [`TunnelError::Noise`] if it prints more.
pub async fn output(
    arguments: &[OsString],
    report: &Arc<dyn Report>,
    most: usize,
) -> Result<(Option<ExitStatus>, Vec<u8>), TunnelError> {
    report.starting();
    let started = Process::start(arguments, report);
    let (process, (stdout, stdin)) = started.inspect_err(|_| report.started(false))?;
    drop(stdin);
    let mut printed = Vec::new();
    let _ = stdout.take(most.saturating_add(1) as u64).read_to_end(&mut printed).await;
    report.started(false);
    match printed.len() > most {
        true => Err(TunnelError::Noise(printed.len())),
        false => Ok((process.ended().await, printed)),
    }
}

/// Programs that were asked to end.
static ENDING_PROGRAMS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Asks a program to end. ssh then restores the terminal where it asked for a password.
fn ask_to_end(child: Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
        // also one that was stopped
        let _ = kill_process(pid, Signal::CONT);
        ENDING_PROGRAMS.lock().push(child);
    }
}

/// Waits, for a moment, until the programs that were asked to end have ended; then it ends them.
pub async fn end_programs() {
    let programs = std::mem::take(&mut *ENDING_PROGRAMS.lock());
    for mut child in programs {
        if timeout(LAST_MOMENTS, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child.get_mut().take() {
            ask_to_end(child);
        }
    }
}

/// Passes on what the program prints on standard error.
async fn pass_on(mut stderr: ChildStderr, tail: Arc<Mutex<VecDeque<u8>>>, report: Arc<dyn Report>) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        let bytes = buffer.get(..n).unwrap_or_default();
        report.said(bytes);
        let mut tail = tail.lock();
        tail.extend(bytes);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
    }
}

/// True if a program of this name can be started, as execvp(3) finds it.
fn is_program(name: &OsStr) -> bool {
    let is_one = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let named = Path::new(name);
    if named.components().count() > 1 {
        return is_one(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    !name.is_empty() && std::env::split_paths(&path).any(|dir| is_one(&dir.join(named)))
}
