//! Invites: a code lets one machine in, for one user, with what that user may do.

use crate::support::tree::write;
use crate::support::{Client, Ended, Server, haul, run_with, until};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

#[test]
fn an_invite_is_all_that_a_newcomer_needs() {
    let server = Server::start();
    let client = Client::new();
    let invite = server.invite("kim");
    let login =
        client.run_with(["login", "--name", "srv", &server.address.to_string()], invite.as_bytes());
    assert_eq!(login.code, 0, "{login:?}");
    client.ok(["ls", "srv:"]);
    let key = std::fs::metadata(client.config().join("key")).unwrap();
    assert_eq!(key.mode() & 0o777, 0o600);
    let again = Client::new().run_with(["login", &server.address.to_string()], invite.as_bytes());
    again.failed(5, &["invite"]);
    let garbage = Client::new().run_with(["login", &server.address.to_string()], b"haul1-xyz");
    garbage.failed(5, &["not an invite"]);
    let other = Server::start();
    let wrong = Client::new()
        .run_with(["login", &other.address.to_string()], server.invite("kim").as_bytes());
    wrong.failed(6, &["invite is for another server"]);
    assert_eq!(std::fs::metadata(server.state.join("key")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn invites_expire() {
    let server = Server::start();
    let output = haul()
        .args(["invite", "kim", "--ttl", "0s", "--state"])
        .arg(&server.state)
        .output()
        .unwrap();
    let late = Client::new().run_with(["login", &server.address.to_string()], &output.stdout);
    late.failed(5, &["expired"]);
}

#[test]
fn an_invite_for_a_new_user_says_what_they_may_do_and_a_restricted_one_stays_restricted() {
    let server = Server::start();
    let invite = |name: &str| {
        let mut command = haul();
        command.args(["invite", name, "--state"]).arg(&server.state);
        run_with(command, b"")
    };
    let new = invite("kim");
    assert!(
        String::from_utf8_lossy(&new.stderr).contains("new user, with full access"),
        "{new:?}"
    );
    server.user(&["add", "guest", "--invited", "--read-only"], "");
    let guest = invite("guest");
    assert!(guest.stderr.is_empty(), "{guest:?}");
    let client = Client::new();
    let login =
        client.run_with(["login", "--name", "srv", &server.address.to_string()], &guest.stdout);
    assert_eq!(login.code, 0, "{login:?}");
    client.run(["mkdir", "srv:d"]).failed(8, &["may only read"]);
}

/// A code that outlives its user would make that user again, with more access than before.
#[test]
fn an_invite_ends_with_its_user() {
    let server = Server::start();
    let login = |invite: &str| {
        let client = Client::new();
        let arguments = ["login", "--name", "srv", &server.address.to_string()];
        (client.run_with(arguments, invite.as_bytes()), client)
    };
    server.user(&["add", "kim", "--invited", "--read-only"], "");
    let invite = server.invite("kim");
    server.user(&["rm", "kim"], "");
    login(&invite).0.failed(5, &["the invite is unknown"]);
    // nor is it the next one's of that name
    server.user(&["add", "kim", "--invited"], "");
    login(&invite).0.failed(5, &["the invite is unknown"]);
    let users = std::fs::read_to_string(server.state.join("users")).unwrap();
    assert!(!users.contains("key="), "{users}");
    assert_eq!(login(&server.invite("kim")).0.code, 0);
}

#[test]
fn an_invite_says_what_its_new_user_may_do() {
    let server = Server::start();
    write(&server.root.join("public/f"), b"x");
    let invite = |arguments: &[&str]| {
        let mut command = haul();
        command.arg("invite").args(arguments).arg("--state").arg(&server.state);
        Ended::of(run_with(command, b""))
    };
    let made = invite(&["guest", "--read-only", "--root", "public"]);
    assert!(
        made.err.contains("guest is a new user, with read-only access to /public"),
        "{made:?}"
    );
    let client = Client::new();
    let login = ["login", "--name", "srv", &server.address.to_string()];
    assert_eq!(client.run_with(login, &made.bytes).code, 0);
    assert_eq!(client.ok(["ls", "srv:"]), "f\n");
    client.run(["mkdir", "srv:d"]).failed(8, &["may only read"]);
    invite(&["guest", "--full"]).failed(1, &["a user guest already", "haul user set guest"]);

    let (list, guest) = (invite(&["ls"]), invite(&["guest"]));
    assert_eq!(list.out, "user  id  expires\n", "the one that was used is gone");
    let list: serde_json::Value = serde_json::from_str(&invite(&["ls", "--json"]).out).unwrap();
    assert_eq!(list["user"], "guest");
    assert!(!guest.out.contains(list["id"].as_str().unwrap()));
    invite(&["rm", "guest", "00000000"]).failed(1, &["no such invite"]);
    assert_eq!(invite(&["rm", "guest", list["id"].as_str().unwrap()]).code, 0);
    let late = Client::new().run_with(login, &guest.bytes);
    late.failed(5, &["the invite is unknown"]);
    invite(&["rm", "nobody"]).failed(1, &["no user nobody"]);
}

/// Another program holds the lock of the users: newcomers wait, other clients do not.
#[test]
fn invites_that_wait_for_a_lock_stall_nobody() {
    let server = Server::start();
    let client = server.client();
    let cores = std::thread::available_parallelism().unwrap().get();
    let invites: Vec<String> = (0..2 * cores).map(|_| server.invite("kim")).collect();
    let held = std::fs::File::create(server.state.join("users.lock")).unwrap();
    held.lock().unwrap();
    let newcomers: Vec<_> = invites.iter().map(|_| Client::new()).collect();
    let mut logins = Vec::new();
    for (newcomer, invite) in newcomers.iter().zip(&invites) {
        let address = server.address.to_string();
        let mut login = newcomer.spawn_with_input(["login", "--name", "srv", &address]);
        login.child.stdin.take().unwrap().write_all(invite.as_bytes()).unwrap();
        logins.push(login);
    }
    let pid = format!(" {} ", server.pid().as_raw_nonzero());
    until("an invite waits for the lock", || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&pid))
    });
    for _ in 0..20 {
        client.ok(["ls", "srv:"]);
    }
    drop(held);
    for login in logins {
        let ended = login.end();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}
