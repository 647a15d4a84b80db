//! The server's log: one line for each thing that a user did, with who, from where, what, and how
//! it ended.

use crate::support::tree::{staged, write};
use crate::support::{Server, until};

#[test]
fn everything_that_a_user_did_has_one_line() {
    let mut server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"x");
    write(&client.work().join("big"), &[7; 3 << 20]);
    client.ok(["put", "f", "big", "srv:"]);
    client.ok(["get", "srv:f", "back"]);
    client.ok(["mkdir", "srv:dir"]);
    client.ok(["mv", "srv:f", "srv:dir"]);
    client.run(["rm", "srv:dir"]).failed(1, &["not empty"]);
    client.ok(["rm", "-r", "srv:dir"]);
    write(&staged(&server.root.join("gone")), b"left");
    client.ok(["unlock", "srv:gone"]);
    client.ok(["ls", "srv:"]);
    let log = server.log();
    // an end that the client asked for is no loss
    assert!(!log.contains("connection lost"), "{log}");
    assert!(!log.contains("session over"), "{log}");
    let lines = |what: &str| {
        let all = log.lines().filter(|line| line.contains(what));
        all.map(str::to_string).collect::<Vec<_>>()
    };
    for (what, facts) in [
        ("put finished", &["path=\"/\"", "files=2"][..]),
        ("get finished", &["path=\"f\"", "files=1"]),
        ("mkdir done", &["path=\"dir\""]),
        ("mv done", &["path=\"f\"", "to=dir"]),
        ("rm failed", &["path=\"dir\"", "code=555"]),
        ("rm done", &["path=\"dir\""]),
        ("unlock done", &["path=\"gone\""]),
    ] {
        let found = lines(what);
        assert_eq!(found.len(), 1, "{what}: {found:?}\n{log}");
        for fact in facts.iter().chain(&["who=kim@", "from=127.0.0.1"]) {
            assert!(found[0].contains(fact), "{fact}: {}", found[0]);
        }
    }
    let (logins, logouts) = (lines("INFO login"), lines("logout"));
    assert!(logins.len() >= 8 && !logouts.is_empty(), "{log}");
}

/// A client that was killed is no logout.
#[test]
fn a_client_that_is_killed_is_a_loss() {
    let mut server = Server::with(&["--session-grace", "1s"]);
    let client = server.client();
    let mut command = client.command(["put", "-", "srv:stream"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    until("it is under way", || staged(&server.root.join("stream")).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    until("the session is over", || !staged(&server.root.join("stream")).exists());
    let log = server.log();
    assert!(log.contains("connection lost"), "{log}");
}
