//! Hermetic servers and clients: the built binary, real sockets on port 0, directories of their own.

pub mod disk;
pub mod frames;
pub mod imports;
pub mod proxy;
pub mod script;
pub mod store;
pub mod terminal;
pub mod tree;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The built binary, without the environment of whoever runs the tests.
pub fn haul() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("USER", "tester")
        .env("HOME", "/nonexistent");
    command.stdin(Stdio::null());
    command
}

/// A command run by another program.
pub fn under(command: Command, prefix: &[String]) -> Command {
    let [program, arguments @ ..] = prefix else {
        return command;
    };
    let mut outer = Command::new(program);
    outer
        .args(arguments)
        .arg(command.get_program())
        .args(command.get_args());
    outer.env_clear().stdin(Stdio::null());
    outer.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| value.map(|value| (name, value))),
    );
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

/// True where strace can be run; says so where it cannot.
pub fn has_strace() -> bool {
    let found = Command::new("strace")
        .arg("-V")
        .output()
        .is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: strace is not installed");
    }
    found
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    pub address: std::net::SocketAddr,
    pub fingerprint: String,
    pub dir: TempDir,
    pub root: PathBuf,
    pub state: PathBuf,
    arguments: Vec<String>,
    prefix: Vec<String>,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Server {
    pub fn start() -> Server {
        Server::with(&[])
    }

    /// With further arguments of `haul serve`.
    pub fn with(arguments: &[&str]) -> Server {
        Server::under(&[], arguments)
    }

    /// Run by another program, which gets the server's command line after its own arguments.
    pub fn under(prefix: &[&str], arguments: &[&str]) -> Server {
        Server::within(tempfile::tempdir().unwrap(), prefix, arguments)
    }

    /// With its root and its state in this directory.
    pub fn within(dir: TempDir, prefix: &[&str], arguments: &[&str]) -> Server {
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        std::fs::create_dir(&root).unwrap();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let prefix: Vec<String> = prefix.iter().map(ToString::to_string).collect();
        let (child, address, fingerprint, log) = spawn(&root, &state, "127.0.0.1:0", &arguments, &prefix);
        Server {
            child,
            address,
            fingerprint,
            dir,
            root,
            state,
            arguments,
            prefix,
            log: Some(log),
        }
    }

    /// Serves another directory than one of its own.
    pub fn on(root: &Path) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let (child, address, fingerprint, log) = spawn(root, &state, "127.0.0.1:0", &[], &[]);
        Server {
            child,
            address,
            fingerprint,
            dir,
            root: root.to_path_buf(),
            state,
            arguments: Vec::new(),
            prefix: Vec::new(),
            log: Some(log),
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        wait(&mut self.child)
    }

    /// From its next start on it is run by this.
    pub fn set_prefix(&mut self, prefix: &[&str]) {
        self.prefix = prefix.iter().map(ToString::to_string).collect();
    }

    /// Its process.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Starts again on the same port, after [`Server::kill`].
    pub fn restart(&mut self) {
        let listen = self.address.to_string();
        let (child, address, _, log) = spawn(&self.root, &self.state, &listen, &self.arguments, &self.prefix);
        (self.child, self.address, self.log) = (child, address, Some(log));
    }

    /// Kills it and gives what it logged.
    pub fn log(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.take().unwrap().join().unwrap()
    }

    pub fn user(&self, arguments: &[&str], password: &str) {
        let mut command = haul();
        command.arg("user").args(arguments).arg("--state").arg(&self.state);
        let output = run_with(command, password.as_bytes());
        assert!(output.status.success(), "{output:?}");
    }

    pub fn invite(&self, user: &str) -> String {
        let output = haul()
            .args(["invite", user, "--state"])
            .arg(&self.state)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A client that is logged in as `kim` under the name `srv`.
    pub fn client(&self) -> Client {
        self.client_at(self.address)
    }

    /// A client that is logged in as another user.
    pub fn client_of(&self, user: &str) -> Client {
        self.logged_in(self.address, user)
    }

    /// A client that reaches the server at another address: through a proxy.
    pub fn client_at(&self, address: std::net::SocketAddr) -> Client {
        self.logged_in(address, "kim")
    }

    fn logged_in(&self, address: std::net::SocketAddr, user: &str) -> Client {
        let client = Client::new();
        let mut command = client.command(["login", "--name", "srv"]);
        command.arg(address.to_string());
        let output = run_with(command, self.invite(user).as_bytes());
        assert!(output.status.success(), "{output:?}");
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Spawned = (Child, std::net::SocketAddr, String, std::thread::JoinHandle<String>);

fn spawn(root: &Path, state: &Path, listen: &str, arguments: &[String], prefix: &[String]) -> Spawned {
    let mut command = under(haul(), prefix);
    command
        .args(["serve", "--json", "--listen", listen, "--state"])
        .arg(state)
        .args(arguments)
        .arg(root);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut errors = child.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = errors.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let ready: serde_json::Value = match serde_json::from_str(&line) {
        Ok(ready) => ready,
        Err(_) => panic!("the server did not start: {}", log.join().unwrap()),
    };
    assert_eq!(ready["event"], "listening");
    let address = ready["address"].as_str().unwrap().parse().unwrap();
    (child, address, ready["fingerprint"].as_str().unwrap().to_string(), log)
}

/// A client with settings and a working directory of its own.
pub struct Client {
    pub dir: TempDir,
    env: Vec<(String, String)>,
}

impl Client {
    pub fn new() -> Client {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        Client { dir, env: Vec::new() }
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

    pub fn run_with<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Ended {
        Ended::of(run_with(self.command(arguments), input))
    }

    /// Starts a command and leaves it running.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        self.spawn_from(arguments, Stdio::null())
    }

    /// The same with standard input from its child's `stdin`.
    pub fn spawn_with_input<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        self.spawn_from(arguments, Stdio::piped())
    }

    fn spawn_from<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: Stdio) -> Running {
        let mut command = self.command(arguments);
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (
            collect(Box::new(child.stdout.take().unwrap())),
            collect(Box::new(child.stderr.take().unwrap())),
        );
        Running { child, out, err }
    }

    /// Runs a command that must succeed; gives what it printed.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    }
}

type Collected = std::thread::JoinHandle<Vec<u8>>;

fn collect(mut from: Box<dyn Read + Send>) -> Collected {
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

/// Runs a command with input; it must end in time.
pub fn run_with(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (out, err) = (
        collect(Box::new(child.stdout.take().unwrap())),
        collect(Box::new(child.stderr.take().unwrap())),
    );
    let status = wait(&mut child);
    writer.join().unwrap();
    Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

/// Waits for a child, but not for ever.
pub fn wait(child: &mut Child) -> std::process::ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("a command hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until something is true; polls, and panics when it takes too long.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
