//! What confines haul beside its own checks: seccomp, the loss of root, memory that nobody else
//! reads.

use crate::support::{Client, Ended, Server, haul, run_with, under};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A user without rights, and their group.
const NOBODY: (&str, u32) = ("nobody", 65_534);
/// Runs a command as that user.
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can become another user");
    }
    root
}

/// A field of a /proc/PID/status, without its name.
fn field(status: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(status).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().map(String::from).collect()
}

/// A directory that everybody may enter.
fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

fn as_nobody(command: Command) -> Command {
    under(command, &AS_NOBODY.map(String::from))
}

#[test]
fn every_thread_of_the_server_is_filtered_and_gains_no_rights() {
    let server = Server::start();
    server.client().ok(["mkdir", "srv:a"]);
    let tasks = format!("/proc/{}/task", server.pid().as_raw_nonzero());
    let mut threads = 0;
    for task in std::fs::read_dir(tasks).unwrap() {
        let status = task.unwrap().path().join("status");
        assert_eq!(field(&status, "Seccomp:"), ["2"]);
        assert_eq!(field(&status, "NoNewPrivs:"), ["1"]);
        threads += 1;
    }
    assert!(threads > 1);
}

#[test]
fn a_server_that_root_starts_can_become_another_user_for_good() {
    if !is_root() {
        return;
    }
    let server = Server::within(open_dir(), &[], &["--user", NOBODY.0]);
    let status = format!("/proc/{}/status", server.pid().as_raw_nonzero());
    let (status, id) = (Path::new(&status), NOBODY.1.to_string());
    assert_eq!(field(status, "Uid:"), [&id[..]; 4]);
    assert_eq!(field(status, "Gid:"), [&id[..]; 4]);
    let groups = Command::new("id").args(["-G", NOBODY.0]).output().unwrap();
    let groups = String::from_utf8(groups.stdout).unwrap();
    assert_eq!(field(status, "Groups:"), groups.split_whitespace().collect::<Vec<_>>());
    for capabilities in ["CapPrm:", "CapEff:"] {
        assert_eq!(field(status, capabilities), ["0000000000000000"]);
    }
    assert_eq!(std::fs::metadata(server.state.join("key")).unwrap().uid(), NOBODY.1);

    // it serves what this user may read and write, and no more
    chown(&server.root, Some(NOBODY.1), None).unwrap();
    std::fs::write(server.root.join("private"), b"of root").unwrap();
    std::fs::set_permissions(server.root.join("private"), PermissionsExt::from_mode(0o600))
        .unwrap();
    let mut invite = haul();
    invite.args(["invite", "kim", "--state"]).arg(&server.state);
    let invite = Ended::of(run_with(as_nobody(invite), b""));
    assert_eq!(invite.code, 0, "{invite:?}");
    let client = Client::new();
    let login = ["login", "--name", "srv", &server.address.to_string()].map(String::from);
    let ended = client.run_with(login, &invite.bytes);
    assert_eq!(ended.code, 0, "{ended:?}");
    std::fs::write(client.work().join("f"), b"content").unwrap();
    client.ok(["put", "f", "srv:"]);
    assert_eq!(std::fs::metadata(server.root.join("f")).unwrap().uid(), NOBODY.1);
    client.run(["get", "srv:private", "."]).failed(8, &["private"]);
}

#[test]
fn a_server_says_that_it_is_root_and_which_users_it_cannot_become() {
    if !is_root() {
        return;
    }
    let mut server = Server::start();
    let log = server.log();
    assert!(log.contains("all rights of root") && log.contains("--user NAME"), "{log}");
    let dir = open_dir();
    let serve = |user: &str| {
        let mut command = haul();
        command.args(["serve", "--listen", "127.0.0.1:0", "--user", user, "--state"]);
        command.arg(dir.path().join("state")).arg(dir.path());
        command
    };
    for (user, word) in [("no-such-user", "no such user"), ("root", "that is root")] {
        Ended::of(run_with(serve(user), b"")).failed(2, &[user, word]);
    }
    assert!(!dir.path().join("state").exists());
    let ended = Ended::of(run_with(runnable(serve("daemon"), dir.path()), b""));
    ended.failed(2, &["daemon", "only root"]);
}

/// The same command as nobody, who may not enter the directory of the built binary.
fn runnable(command: Command, dir: &Path) -> Command {
    let copy = dir.join("haul");
    std::fs::copy(command.get_program(), &copy).unwrap();
    let mut copied = Command::new(copy);
    copied.args(command.get_args());
    copied.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    as_nobody(copied)
}

/// Whether nobody can read the environment of this process, as a debugger could read its memory.
fn can_be_read(pid: u32) -> bool {
    let mut cat = Command::new("cat");
    cat.arg(format!("/proc/{pid}/environ"));
    as_nobody(cat).stderr(Stdio::null()).output().unwrap().status.success()
}

/// Whether any of these is in the memory that a process can write.
fn has_in_memory(pid: i32, needles: &[Vec<u8>]) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().filter(|map| map.contains(" rw")).any(|map| {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        let read = memory.read_exact_at(&mut bytes, from).is_ok();
        read && needles.iter().any(|n| bytes.windows(n.len()).any(|window| window == n))
    })
}

#[test]
fn a_server_that_runs_has_its_key_file_nowhere_in_its_memory() {
    if !is_root() {
        return;
    }
    // it has made the key, and then loads it
    let mut server = Server::start();
    server.kill();
    server.restart();
    server.client().ok(["ls", "srv:"]);
    let pem = std::fs::read_to_string(server.state.join("key")).unwrap();
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(&text).unwrap();
    // PKCS #8 of Ed25519: 16 bytes, and then the seed
    let needles = [text.as_bytes()[24..60].to_vec(), der[16..48].to_vec()];
    let pid = server.pid().as_raw_nonzero().get();
    // its public key is there: the search finds what there is
    let public = std::fs::read_to_string(server.state.join("key.pub")).unwrap();
    let public = STANDARD
        .decode(public.lines().filter(|l| !l.starts_with('-')).collect::<String>())
        .unwrap();
    assert!(has_in_memory(pid, &[public]));
    assert!(!has_in_memory(pid, &needles[..1]), "the file's text");
    assert!(!has_in_memory(pid, &needles[1..]), "the seed");
}

#[test]
fn programs_of_the_same_user_cannot_read_a_password_out_of_a_client() {
    if !is_root() {
        return;
    }
    let dir = open_dir();
    let config = dir.path().join("config");
    std::fs::create_dir(&config).unwrap();
    chown(&config, Some(NOBODY.1), Some(NOBODY.1)).unwrap();
    // a server that says nothing: the client waits for its handshake
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = haul();
    command.env("HAUL_CONFIG_DIR", &config).env("HAUL_PASSWORD", "secret");
    command.args(["ls", &format!("haul://kim@{}/", listener.local_addr().unwrap())]);
    let mut client = runnable(command, dir.path()).stderr(Stdio::null()).spawn().unwrap();
    let (_connection, _) = listener.accept().unwrap();
    let client_read = can_be_read(client.id());
    client.kill().unwrap();
    client.wait().unwrap();
    let mut other = Command::new("cat");
    other.stdin(Stdio::piped());
    let mut other = as_nobody(other).stdin(Stdio::piped()).spawn().unwrap();
    // it has become nobody once it is cat
    crate::support::until("cat runs", || {
        std::fs::read_to_string(format!("/proc/{}/comm", other.id()))
            .is_ok_and(|name| name == "cat\n")
    });
    let other_read = can_be_read(other.id());
    drop(other.stdin.take());
    other.wait().unwrap();
    assert!(other_read, "what any other program has in its environment can be read");
    assert!(!client_read);
}
