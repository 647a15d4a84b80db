//! A real sshd on loopback, with keys, a port and a home directory of its own; and clients whose
//! ssh knows it as `box`.

use super::{Client, until};
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";

/// What an sshd runs for its clients.
pub enum Remote<'a> {
    /// The command that they ask for, by this shell.
    Shell(&'a str),
    /// This line, whatever they ask for.
    Forced(&'a str),
}

/// A running sshd. Killed when dropped.
pub struct Sshd {
    pub dir: TempDir,
    pub port: u16,
    child: Child,
    settings: String,
}

/// True where an sshd can be run; says so where it cannot.
pub fn has_sshd() -> bool {
    let missing = [SSHD, "/usr/bin/ssh", "/usr/bin/ssh-keygen"];
    match missing.into_iter().find(|program| !Path::new(program).exists()) {
        None if is_locked() => {
            println!("skipped: the account of this user is locked");
            false
        }
        None => true,
        Some(program) => {
            println!("skipped: {program} is not installed");
            false
        }
    }
}

/// True if sshd would let this user in by no means, without PAM.
fn is_locked() -> bool {
    let accounts = fs::read_to_string("/etc/shadow").unwrap_or_default();
    accounts.lines().any(|line| line.starts_with(&format!("{}:!", user())))
}

/// True where a shell is installed; says so where it is not.
pub fn has_shell(shell: &str) -> bool {
    let found =
        Path::new("/usr/bin").join(shell).exists() || Path::new("/bin").join(shell).exists();
    if !found {
        println!("skipped: {shell} is not installed");
    }
    found
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

impl Sshd {
    /// Starts one whose clients find haul.
    pub fn start(remote: &Remote<'_>) -> Sshd {
        Sshd::with(remote, "")
    }

    /// With further lines of its configuration.
    pub fn with(remote: &Remote<'_>, settings: &str) -> Sshd {
        let dir = tempfile::Builder::new().prefix("haul-ssh-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["home", "home/bin", "real", "client"] {
            fs::create_dir(at(name)).unwrap();
        }
        // the path of the program names the test, for those that look for what is left over
        symlink(env!("CARGO_BIN_EXE_haul"), at("real/haul")).unwrap();
        let real = at("real/haul");
        script(&at("home/bin/haul"), &format!("exec {} \"$@\"", real.display()));
        for key in ["host", "key", "other"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(at(key))
                .status();
            assert!(made.unwrap().success());
        }
        fs::copy(at("key.pub"), at("authorized_keys")).unwrap();
        let command = match remote {
            Remote::Shell(shell) => format!("exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""),
            Remote::Forced(line) => (*line).to_string(),
        };
        let home = at("home");
        script(
            &at("remote"),
            &format!(
                "HOME={0} PATH={0}/bin:/usr/bin:/bin; export HOME PATH; cd; unset SHLVL\n{command}",
                home.display()
            ),
        );
        let settings = format!(
            "HostKey {host}\nPidFile none\nUsePAM no\nStrictModes no\nPrintMotd no\n\
            PasswordAuthentication no\nPermitRootLogin yes\nAuthorizedKeysFile {keys}\n\
            ForceCommand {remote}\n{settings}\n",
            host = at("host").display(),
            keys = at("authorized_keys").display(),
            remote = at("remote").display(),
        );
        let (child, port) = spawn(dir.path(), &settings, None);
        Sshd {
            dir,
            port,
            child,
            settings,
        }
    }

    /// The home directory of its clients.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A file of its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The remaining host has no haul.
    pub fn remove_haul(&self) {
        fs::remove_file(self.home().join("bin/haul")).unwrap();
    }

    /// What the host has in place of haul.
    pub fn replace_haul(&self, text: &str) {
        script(&self.home().join("bin/haul"), text);
    }

    /// A client whose ssh reaches it as `box`.
    pub fn client(&self) -> Client {
        self.client_with("")
    }

    /// With further lines of ssh's configuration for `box`.
    pub fn client_with(&self, settings: &str) -> Client {
        let at = |name: &str| self.path(name);
        let mut config = String::new();
        let public = fs::read_to_string(at("host.pub")).unwrap();
        let known = format!("[127.0.0.1]:{} {public}", self.port);
        fs::write(at("known_hosts"), known).unwrap();
        writeln!(
            config,
            "Host box\n{settings}\nHost *\nHostName 127.0.0.1\nPort {}\nUser {}\nIdentityFile {}\n\
            IdentitiesOnly yes\nStrictHostKeyChecking yes\nUserKnownHostsFile {}",
            self.port,
            user(),
            at("key").display(),
            at("known_hosts").display(),
        )
        .unwrap();
        fs::write(at("ssh_config"), config).unwrap();
        let ssh = format!("exec /usr/bin/ssh -F {} \"$@\"", at("ssh_config").display());
        script(&at("client/ssh"), &ssh);
        let path = format!("{}:/usr/bin:/bin", at("client").display());
        Client::new().with_env("PATH", &path)
    }

    /// The processes that belong to it and its clients, besides itself.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let own = i32::try_from(self.child.id()).unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&dir) && pid != own {
                found.push((pid, line));
            }
        }
        found
    }

    /// The ssh of a client, or the haul that it has started.
    #[track_caller]
    pub fn process(&self, what: &str) -> rustix::process::Pid {
        let mut found = None;
        until(what, || {
            found = self.processes().into_iter().find(|(_, line)| line.contains(what));
            found.is_some()
        });
        rustix::process::Pid::from_raw(found.unwrap().0).unwrap()
    }

    /// No process is left over on either side.
    #[track_caller]
    pub fn is_quiet(&self) {
        let mut last = Vec::new();
        let started = std::time::Instant::now();
        // a server waits 10 s for its client
        while started.elapsed() < std::time::Duration::from_secs(60) {
            last = self.processes();
            if last.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("left over: {last:?}");
    }

    /// Ends it, and its clients' connections.
    pub fn kill(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        // the processes of its connections have groups of their own
        let port = format!("127.0.0.1:{}", self.port);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
        for pid in connections_of(&port) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Starts it again, on the same port.
    pub fn restart(&mut self) {
        let (child, _) = spawn(self.dir.path(), &self.settings, Some(self.port));
        self.child = child;
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes of sshd that serve connections to this address.
fn connections_of(address: &str) -> Vec<rustix::process::Pid> {
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let output = Command::new("pgrep").arg("-x").arg("sshd").output().unwrap();
    let pids = String::from_utf8_lossy(&output.stdout).into_owned();
    let local = format!("0100007F:{port:04X}");
    let mut sockets = Vec::new();
    for line in fs::read_to_string("/proc/net/tcp").unwrap().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(1) == Some(&local.as_str()) {
            sockets.push(format!("socket:[{}]", fields[9]));
        }
    }
    let has_one = |pid: &&str| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    let pids = pids.lines().filter(has_one);
    pids.filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?))
        .collect()
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// Starts sshd; on a port that is free, unless it is to have this one.
fn spawn(dir: &Path, settings: &str, port: Option<u16>) -> (Child, u16) {
    // privileged, it wants this directory
    let _ = fs::create_dir_all("/run/sshd");
    loop {
        let port = port.unwrap_or_else(|| {
            TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
        });
        let config = dir.join("sshd_config");
        let text = format!("ListenAddress 127.0.0.1\nPort {port}\n{settings}");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(SSHD);
        command.arg("-D").arg("-f").arg(&config).arg("-E").arg(dir.join("sshd.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn().unwrap();
        let mut is_ready = false;
        until("sshd accepts connections", || {
            is_ready = TcpStream::connect(("127.0.0.1", port)).is_ok();
            is_ready || child.try_wait().unwrap().is_some()
        });
        if is_ready {
            return (child, port);
        }
        // another process has taken the port meanwhile
    }
}
