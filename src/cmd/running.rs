//! Transfers of this user that run on this machine: each listens on a socket, on which `haul limit`
//! asks what it does and changes its rate.
//!
//! The socket is called by the process id. A transfer removes its socket at its end. That of a
//! killed one answers to no call, and is removed by the next `haul limit`.

use super::failure::{Failure, exit};
use super::rate::Rate;
use super::settings::runtime_dir;
use crate::auth::file;
use crate::net::data::pacer::RateLimit;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long one side waits for the other.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest message, in bytes.
const LONGEST: u64 = 16 << 10;
/// The end of a socket's name.
const SUFFIX: &str = ".sock";

/// What is asked of a running transfer.
#[derive(Serialize, Deserialize)]
enum Question {
    /// What it does.
    State,
    /// To change its rate: bytes a second, or no limit.
    Limit(Option<u64>),
}

/// A running transfer, as it describes itself.
#[derive(Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    #[serde(skip)]
    pub pid: u32,
    /// `put` or `get`.
    pub verb: String,
    /// Where the data goes to, or comes from.
    pub about: String,
    /// Bytes a second.
    pub rate: Option<u64>,
}

/// The socket of this process' transfer; dropping it removes the socket.
struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl ControlSocket {
    /// Opens the socket. Only this user can connect to it.
    ///
    /// # Errors
    /// Why there is none. The transfer runs without it.
    fn open() -> io::Result<ControlSocket> {
        let dir = dir().map_err(|_| io::ErrorKind::NotFound)?;
        file::make_private_dir(&dir).map_err(io::Error::other)?;
        let user = rustix::process::geteuid().as_raw();
        file::check_private(&dir, Some(user)).map_err(io::Error::other)?;
        let path = dir.join(format!("{}{SUFFIX}", std::process::id()));
        // It gets its name when it accepts connections: a caller takes one that refuses them for
        // that of a killed process, and removes it.
        let new = path.with_extension("new");
        // of an earlier process with this id, which was killed
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, &path)?;
        Ok(ControlSocket { path, listener })
    }

    /// Answers one question after another, for as long as it is polled.
    async fn serve(&self, verb: &str, about: &str, limit: &RateLimit) {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                // out of file descriptors: the next one may find some
                tokio::time::sleep(ANSWER_TIMEOUT).await;
                continue;
            };
            let answer = async {
                if let Question::Limit(rate) = read(&mut stream).await? {
                    limit.set(rate);
                }
                let state = Running {
                    pid: 0,
                    verb: verb.into(),
                    about: about.into(),
                    rate: limit.rate(),
                };
                write(&mut stream, &state).await
            };
            // a caller that leaves, or says something else, has no answer
            let _ = timeout(ANSWER_TIMEOUT, answer).await;
        }
    }
}

/// Runs the transfer of this process. `haul limit` can change its rate meanwhile.
pub async fn adjustable<T>(
    transfer: impl Future<Output = T>,
    limit: &RateLimit,
    verb: &str,
    about: &str,
) -> T {
    let socket = ControlSocket::open();
    let answers = async {
        match &socket {
            Ok(socket) => socket.serve(verb, about, limit).await,
            Err(error) => tracing::debug!(%error, "haul limit does not reach this transfer"),
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = transfer => ended,
        never = answers => never,
    }
}

fn dir() -> Result<PathBuf, Failure> {
    Ok(runtime_dir()?.join("transfers"))
}

/// The transfers that run, by process id. Sockets of those that were killed are removed.
///
/// # Errors
/// If the sockets cannot be listed.
pub async fn all() -> Result<Vec<Running>, Failure> {
    let dir = dir()?;
    let listed = match std::fs::read_dir(&dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::io(&dir.display().to_string(), &e)),
    };
    let pid_of = |path: &Path| path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok();
    let paths = listed.flatten().map(|entry| entry.path());
    let mut pids: Vec<u32> = paths.filter_map(|path| pid_of(&path)).collect();
    pids.sort_unstable();
    let mut running = Vec::new();
    for pid in pids {
        running.extend(ask(pid, &Question::State).await?);
    }
    Ok(running)
}

/// Changes the rate of the transfer of a process.
///
/// # Errors
/// If that process runs no transfer.
pub async fn limit(pid: u32, rate: Rate) -> Result<(), Failure> {
    match ask(pid, &Question::Limit(rate.0)).await? {
        Some(_) => Ok(()),
        None => Err(
            Failure::new(exit::FAILED, format!("process {pid} runs no transfer of yours"))
                .hint("haul limit lists them"),
        ),
    }
}

/// Asks the transfer of a process; `None` if there is none, or it gives no answer.
async fn ask(pid: u32, question: &Question) -> Result<Option<Running>, Failure> {
    let path = dir()?.join(format!("{pid}{SUFFIX}"));
    let asked = async {
        let mut stream = UnixStream::connect(&path).await?;
        write(&mut stream, question).await?;
        read::<Running>(&mut stream).await
    };
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(running)) => Ok(Some(Running { pid, ..running })),
        Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
            let _ = std::fs::remove_file(&path);
            Ok(None)
        }
        // it has just ended, or is stopped
        _ => Ok(None),
    }
}

async fn write(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn read<T: for<'a> Deserialize<'a>>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}
