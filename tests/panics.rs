//! Panics: none is lost, none looks like an end, and none reaches further than the session that it
//! happens in.
//!
//! A debug build lets each of its tasks panic on demand, by the name that it was started with
//! (`src/net/task.rs`).

use crate::support::script::ScriptedClient;
use crate::support::sshd::{Remote, Sshd};
use crate::support::store::{Delays, Slow, Trap};
use crate::support::{Client, Ended, Server, until};
use haul::auth::{Fingerprint, Identity};
use haul::net::NetError;
use haul::net::client::connect::Connection;
use haul::net::client::options::SessionOptions;
use haul::net::client::requests::{IfMissing, PutDestination};
use haul::net::transfer::options::Options;
use haul::net::transfer::report::Reporter;
use haul::net::transfer::send::source::{Origin, TransferSource};
use haul::net::wire::proto::{self, request};
use haul::store::local::LocalStore;
use haul::store::{Name, RemotePath};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// A server whose tasks panic when a file of their name is in this directory.
fn fragile_server() -> (Server, PathBuf) {
    let mut server = Server::start();
    let faults = server.state.join("faults");
    std::fs::create_dir(&faults).unwrap();
    server.kill();
    server.set_prefix(&["env", &format!("HAUL_FAULTS={}", faults.display())]);
    server.restart();
    (server, faults)
}

/// A tree with everything that a transfer can meet: small files, a larger one, one with a hole,
/// directories, a symlink.
fn make_tree(dir: &Path) {
    std::fs::create_dir_all(dir.join("sub/deep")).unwrap();
    for i in 0..40 {
        std::fs::write(dir.join(format!("small{i}")), vec![i as u8; 30_000]).unwrap();
    }
    std::fs::write(dir.join("sub/deep/large"), vec![7; 3 << 20]).unwrap();
    let sparse = std::fs::File::create(dir.join("sub/sparse")).unwrap();
    sparse.write_all_at(b"data", 6 << 20).unwrap();
    std::os::unix::fs::symlink("small1", dir.join("sub/link")).unwrap();
}

/// Makes a task panic once.
fn arm(faults: &Path, task: &str) {
    std::fs::write(faults.join(task), b"").unwrap();
}

/// Both ways over one server: what becomes of each with this fault.
fn put_or_get(client: &Client, verb: &str, to: &str) -> Ended {
    // of several connections the last one may begin when all is done: its fault would be the next
    // command's
    match verb {
        "put" => client.run(["put", "-r", "--connections=1", "tree/", &format!("srv:{to}")]),
        "get" => client.run(["get", "-r", "--connections=1", "srv:source/", to]),
        "cp" => client.run(["cp", "-r", "tree/", to]),
        "server" => client.run(["cp", "-r", "srv:source/", &format!("srv:{to}")]),
        "stream" => {
            let arguments = ["put", "--connections=1", "-", &format!("srv:{to}")];
            client.run_with(arguments, &[5; 3 << 20])
        }
        _ => client.run(["ls", "srv:"]),
    }
}

/// Tasks of the server, with a command that has each of them run.
const SERVER: [(&str, &str); 29] = [
    ("window", "put"),
    ("hole", "put"),
    ("layout", "get"),
    ("login", "ls"),
    ("read", "put"),
    ("requests", "ls"),
    ("requests", "put"),
    ("put", "put"),
    ("get", "get"),
    ("connection", "put"),
    ("connection", "get"),
    ("receive", "put"),
    ("receive", "get"),
    ("transmit", "put"),
    ("transmit", "get"),
    ("decide", "put"),
    ("group", "put"),
    ("open", "put"),
    ("write", "put"),
    ("write", "stream"),
    ("commit", "put"),
    ("directories", "put"),
    ("unchanged", "put"),
    ("walk", "get"),
    ("server-copy", "server"),
    ("put", "server"),
    ("transfer", "server"),
    ("ends", "server"),
    ("copy", "server"),
];

/// Tasks of a client.
const CLIENT: [(&str, &str); 26] = [
    ("window", "ls"),
    ("layout", "put"),
    ("hole", "get"),
    ("attachment", "ls"),
    ("attachment", "put"),
    ("transfer", "put"),
    ("transfer", "get"),
    ("dial", "put"),
    ("dialer", "get"),
    ("connection", "get"),
    ("receive", "put"),
    ("receive", "get"),
    ("transmit", "put"),
    ("transmit", "get"),
    ("walk", "put"),
    ("stream", "stream"),
    ("decide", "get"),
    ("group", "get"),
    ("open", "get"),
    ("write", "get"),
    ("commit", "get"),
    ("directories", "get"),
    ("ends", "cp"),
    ("copy", "cp"),
    ("put", "cp"),
    ("transfer", "cp"),
];

/// What needs a rare moment, and is started in the same way as those above.
const RARE: [&str; 8] = [
    "checkpoint",
    "empty",
    "discard",
    "retry",
    "suspend",
    "enrol",
    "outbound",
    "reread",
];

/// What carries a session over ssh: after a panic another one takes its place.
const CARRIERS: [&str; 8] = [
    "attempt",
    "carrier",
    "carrier-in",
    "carrier-out",
    "greeting",
    "joins",
    "lane",
    "messages",
];

/// Where a panic takes the session's connection along.
const CONNECTION: &str = "session";

/// What outlives a panic.
const OUTLIVE: [&str; 10] = [
    "peer", "accept", "sweep", "watch", "note", "listener", "sweeper", "watcher", "uses", "trimmer",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_server_ends_that_session_at_once_and_no_other() {
    let (mut server, faults) = fragile_server();
    make_tree(&server.root.join("source"));
    let client = server.client();
    make_tree(&client.work().join("tree"));
    let mut other = ScriptedClient::connect(&server).await;
    other.login().await;
    let mut number = 1;
    for (i, (task, verb)) in SERVER.into_iter().enumerate() {
        arm(&faults, task);
        let ended = put_or_get(&client, verb, &format!("{verb}{i}"));
        assert!(!faults.join(task).exists(), "{task} is no part of {verb}: {ended:?}");
        assert_eq!(ended.code, 1, "{task} in {verb}: {ended:?}");
        ended.failed(1, &["internal error", "its"]);
        number += 1;
        let reply = other.ask(number, request::Body::Noop(proto::Noop::default())).await;
        assert_eq!(reply.unwrap().code, 200, "{task} in {verb}");
        let again = put_or_get(&client, verb, &format!("{verb}{i}"));
        assert_eq!(again.code, 0, "{task} in {verb}: {again:?}");
    }
    let log = server.log();
    assert!(log.contains("internal error at src/net/task.rs"), "{log}");
    assert!(!log.contains("panicked at"), "one line for each: {log}");
}

#[test]
fn a_panic_in_the_client_is_one_line_and_exit_1() {
    let server = Server::start();
    make_tree(&server.root.join("source"));
    let client = server.client();
    let faults = client.dir.path().join("faults");
    std::fs::create_dir(&faults).unwrap();
    let client = client.with_env("HAUL_FAULTS", faults.to_str().unwrap());
    make_tree(&client.work().join("tree"));
    for (i, (task, verb)) in CLIENT.into_iter().enumerate() {
        arm(&faults, task);
        let ended = put_or_get(&client, verb, &format!("{verb}{i}"));
        assert!(!faults.join(task).exists(), "{task} is no part of {verb}: {ended:?}");
        let place = format!("asked to, in {task}");
        ended.failed(1, &["internal error at src/net/task.rs:", &place, "please report"]);
        let again = put_or_get(&client, verb, &format!("{verb}{i}"));
        assert_eq!(again.code, 0, "{task} in {verb}: {again:?}");
    }
}

#[test]
fn a_panic_that_takes_the_connection_along_is_told_on_the_next_one() {
    let (server, faults) = fragile_server();
    let client = server.client();
    let mut command = client.command(["put", "-", "srv:stream"]);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut putting = pipes.spawn().unwrap();
    let mut input = putting.stdin.take().unwrap();
    input.write_all(&vec![1; 5 << 20]).unwrap();
    until("it is staged", || std::fs::read_dir(&server.root).unwrap().next().is_some());
    arm(&faults, CONNECTION);
    until("it panics", || {
        let _ = input.write_all(&vec![2; 1 << 20]);
        !faults.join(CONNECTION).exists()
    });
    // nobody reads it any more, or it is not a transfer's end
    drop(input);
    let ended = Ended::of(putting.wait_with_output().unwrap());
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("an internal error on the other side"), "{ended:?}");
    assert!(!server.root.join("stream").exists());
}

#[test]
fn the_server_outlives_a_panic_before_a_login_and_while_it_accepts() {
    let (server, faults) = fragile_server();
    let client = server.client();
    for task in ["peer", "accept", "watch", "note"] {
        arm(&faults, task);
        // a connection that ends before it is encrypted cannot be told anything
        client.run(["ls", "srv:"]);
        until("it panics", || !faults.join(task).exists());
        client.ok(["ls", "srv:"]);
    }
    let new = Client::new();
    arm(&faults, "enrol");
    let invite = server.invite("pat");
    let login = ["login", "--name", "srv", &server.address.to_string()].map(String::from);
    new.run_with(login.clone(), invite.as_bytes())
        .failed(1, &["internal error; its log says where"]);
    let ended = new.run_with(login, invite.as_bytes());
    assert_eq!(ended.code, 0, "the invite was not used up: {ended:?}");
}

#[test]
fn a_panic_in_what_carries_a_session_over_ssh_costs_at_most_a_connection() {
    if !crate::support::sshd::has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let faults = sshd.path("faults");
    std::fs::create_dir(&faults).unwrap();
    let real = sshd.path("real/haul");
    let arming = format!("HAUL_FAULTS={}", faults.display());
    // of the client, and then of the server
    for side in ["client", "server"] {
        let client = match side {
            "client" => sshd.client().with_env("HAUL_FAULTS", faults.to_str().unwrap()),
            _ => {
                sshd.replace_haul(&format!("{arming} exec {} \"$@\"", real.display()));
                sshd.client()
            }
        };
        make_tree(&client.work().join("tree"));
        for task in CARRIERS {
            let is_of = match task {
                "attempt" | "greeting" | "messages" => side == "client",
                "carrier" | "joins" | "lane" => side == "server",
                _ => true,
            };
            if !is_of {
                continue;
            }
            arm(&faults, task);
            let to = format!("ssh://box/~/{side}-{task}");
            let ended = client.run(["put", "-r", "tree/", &to, "--ports=0"]);
            let named = ended.err.contains("internal error");
            assert!(ended.code == 0 || named || ended.code == 4, "{side} {task}: {ended:?}");
            let _ = std::fs::remove_file(faults.join(task));
            let next = client.run(["put", "-r", "tree/", &to]);
            assert_eq!(next.code, 0, "{side} {task}: {next:?}");
        }
    }
    sshd.is_quiet();
}

/// Every task is in one of the lists above.
#[test]
fn every_task_has_its_panic() {
    let mut names = BTreeSet::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = walkdir::WalkDir::new(src).into_iter().map(Result::unwrap);
    for file in files.filter(|f| f.path().extension().is_some_and(|x| x == "rs")) {
        let text = std::fs::read_to_string(file.path()).unwrap();
        let product = text.split("mod tests {").next().unwrap();
        for call in [".spawn(", ".detach(", "Work::new(", ".guard(", "supervise(", "decided("] {
            for (at, _) in product.match_indices(call) {
                let rest = product[at + call.len()..].trim_start();
                if let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    names.insert(name.to_string());
                }
            }
        }
    }
    let tables = SERVER.iter().chain(&CLIENT).map(|(name, _)| *name);
    let known: BTreeSet<String> = tables
        .chain(RARE)
        .chain(CARRIERS)
        .chain(OUTLIVE)
        .chain([CONNECTION])
        .map(String::from)
        .collect();
    assert_eq!(names, known);
}

/// A store that panics in the middle of a tree is never a smaller tree, whatever of it has arrived
/// by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_or_a_read_that_panics_is_no_complete_transfer() {
    let server = Server::start();
    let known = server.client();
    let identity = Identity::load(&known.config().join("key")).unwrap();
    let tree = tempfile::tempdir().unwrap();
    make_tree(tree.path());
    // a source after a complete one, a directory, a small file that is larger than what goes with
    // its offer, a larger file
    for at in ["small9", "deep", "small30", "large"] {
        let pin = Fingerprint::parse(&server.fingerprint).unwrap();
        let options = SessionOptions::fixed(2, Duration::from_secs(5));
        let connection =
            Connection::open("127.0.0.1", server.address.port(), Some(pin), identity.as_ref());
        let client = connection.await.unwrap().login("kim", None, &options).await.unwrap();
        let source = |path| {
            let store = Arc::new(Slow {
                inner: Arc::new(LocalStore::open(tree.path()).unwrap()),
                delays: Delays::default(),
                trap: Trap::at(at),
            });
            TransferSource {
                label: b"tree".to_vec(),
                place: None,
                chosen: None,
                origin: Origin::Tree { store, path },
            }
        };
        let path =
            |name: &str| RemotePath::root().join(&Name::parse(name.as_bytes()).unwrap()).unwrap();
        let (sources, names) = match at {
            "small9" => (vec![source(path("small8")), source(path(at))], vec!["8", "9"]),
            _ => (vec![source(RemotePath::root())], vec![at]),
        };
        let options = Options {
            recursive: true,
            ..Options::default()
        };
        let names = names.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        let to = PutDestination {
            path: Vec::new(),
            directory: true,
            names,
            if_missing: IfMissing::Name,
        };
        let put = client.put(Arc::new(sources), to, options, Reporter::silent()).await;
        let is_its = |text: &str| text.contains(at) && text.contains("is reached");
        assert!(
            matches!(&put, Err(NetError::Internal(text)) if is_its(text)),
            "{at}: {put:?}"
        );
        // and it stays so, for whatever else the session is asked
        let then = client.make_dir(b"more", false).await;
        assert!(matches!(then, Err(NetError::Internal(_))), "{then:?}");
    }
}
