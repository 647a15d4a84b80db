//! A server of its own for a test.

use super::client::Client;
use super::{haul, run_with, under, wait};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tempfile::TempDir;

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
        let (child, address, fingerprint, log) =
            spawn(&root, &state, "127.0.0.1:0", &arguments, &prefix);
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

    /// Restarts on the same port, after [`Server::kill`].
    pub fn restart(&mut self) {
        let listen = self.address.to_string();
        let (child, address, _, log) =
            spawn(&self.root, &self.state, &listen, &self.arguments, &self.prefix);
        (self.child, self.address, self.log) = (child, address, Some(log));
    }

    /// Kills it and returns its log.
    pub fn log(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.take().unwrap().join().unwrap()
    }

    /// A field of its /proc/PID/status, in kB.
    pub fn memory(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// It still serves other clients.
    pub fn still_serves(&self) {
        self.client().ok(["ls", "srv:"]);
    }

    pub fn user(&self, arguments: &[&str], password: &str) {
        let mut command = haul();
        command.arg("user").args(arguments).arg("--state").arg(&self.state);
        let output = run_with(command, password.as_bytes());
        assert!(output.status.success(), "{output:?}");
    }

    pub fn invite(&self, user: &str) -> String {
        let mut command = haul();
        command.args(["invite", user, "--state"]).arg(&self.state);
        // those that say where the users and the key are
        for pair in self.arguments.windows(2) {
            if ["--store", "--endpoint", "--credentials", "--key"].contains(&pair[0].as_str()) {
                command.args(pair);
            }
        }
        let output = run_with(command, b"");
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
        self.log_in(&client, "srv", address, user);
        client
    }

    /// Logs a client in that reaches the server at `address`, and calls it `name`.
    fn log_in(&self, client: &Client, name: &str, address: std::net::SocketAddr, user: &str) {
        let mut command = client.command(["login", "--name", name]);
        command.arg(address.to_string());
        let output = run_with(command, self.invite(user).as_bytes());
        assert!(output.status.success(), "{output:?}");
    }

    /// Logs the client of another server in here, too, where it calls this one `vps`.
    pub fn second_login(&self, client: &Client, address: std::net::SocketAddr) {
        self.log_in(client, "vps", address, "kim");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take().filter(|_| std::thread::panicking()) {
            println!("the server's log:\n{}", log.join().unwrap_or_default());
        }
    }
}

type Spawned = (Child, std::net::SocketAddr, String, std::thread::JoinHandle<String>);

fn spawn(
    root: &Path,
    state: &Path,
    listen: &str,
    arguments: &[String],
    prefix: &[String],
) -> Spawned {
    let mut command = under(haul(), prefix);
    command
        .args(["serve", "--json", "--listen", listen, "--state"])
        .arg(state)
        .args(arguments);
    if !arguments.iter().any(|argument| argument == "--store") {
        command.arg(root);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
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
