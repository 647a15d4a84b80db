//! A client of its own for a test, its commands, and how they end.

use super::{haul, run_with, wait};
use std::ffi::OsStr;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A client with settings and a working directory of its own.
pub struct Client {
    pub dir: TempDir,
    env: Vec<(String, String)>,
}

impl Client {
    pub fn new() -> Client {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        Client {
            dir,
            env: Vec::new(),
        }
    }

    /// With a variable in the environment of its commands.
    pub fn with_env(mut self, name: &str, value: &str) -> Client {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    /// The directory in which its commands run.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = haul();
        command
            .env("HAUL_CONFIG_DIR", self.config())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.work())
            .args(arguments);
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        Ended::of(run_with(self.command(arguments), b""))
    }

    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Ended {
        Ended::of(run_with(self.command(arguments), input))
    }

    /// Starts a command and leaves it running.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        self.spawn_from(arguments, Stdio::null())
    }

    /// The same with standard input from its child's `stdin`.
    pub fn spawn_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Running {
        self.spawn_from(arguments, Stdio::piped())
    }

    fn spawn_from<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: Stdio,
    ) -> Running {
        Running::start(self.command(arguments), input)
    }

    /// Runs a command that must succeed; returns its output.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    }
}

pub type Collected = std::thread::JoinHandle<Vec<u8>>;

pub fn collect(mut from: Box<dyn Read + Send>) -> Collected {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// A command under way.
pub struct Running {
    pub child: Child,
    out: Collected,
    err: Collected,
}

impl Running {
    /// Starts a command, with its output collected.
    pub fn start(mut command: Command, input: Stdio) -> Running {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (
            collect(Box::new(child.stdout.take().unwrap())),
            collect(Box::new(child.stderr.take().unwrap())),
        );
        Running { child, out, err }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let status = wait(&mut self.child);
        Ended::of(Output {
            status,
            stdout: self.out.join().unwrap(),
            stderr: self.err.join().unwrap(),
        })
    }

    /// Kills it.
    pub fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        self.end()
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub bytes: Vec<u8>,
}

impl Ended {
    pub fn of(output: Output) -> Ended {
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }

    /// It succeeded, and said in one line that the connection was lost.
    #[track_caller]
    pub fn retried(&self) {
        assert_eq!(self.code, 0, "{self:?}");
        let lines: Vec<&str> = self.err.lines().filter(|l| l.starts_with("haul: ")).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        assert!(lines[0].contains("trying again"), "{self:?}");
    }

    /// The objects with this `event` that it printed.
    pub fn events(&self, event: &str) -> Vec<serde_json::Value> {
        let objects = super::schema::valid_lines(&self.out).into_iter();
        objects
            .filter(|object: &serde_json::Value| object["event"] == event)
            .collect()
    }

    /// It failed with this code and one line that has all these words.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<&str> = self.err.lines().filter(|l| l.starts_with("haul: ")).collect();
        assert_eq!(lines.len(), 1, "one line: {self:?}");
        for word in words {
            assert!(lines[0].contains(word), "{word}: {self:?}");
        }
    }
}
