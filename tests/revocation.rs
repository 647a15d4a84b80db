//! Changes of users, keys and access end the sessions and transfers that they no longer allow.

use crate::support::proxy::{Proxy, Rules};
use crate::support::script::ScriptedClient;
use crate::support::tree::{bytes, set_mode, staged, write};
use crate::support::{Client, Ended, Running, Server, has_strace, haul, run_with, until};
use haul::net::wire::proto::{self, control_message::Body, request};
use std::os::unix::fs::PermissionsExt;
use std::process::ChildStdin;
use std::time::{Duration, Instant};

/// A server that a change is reported to ends sessions sooner. It looks at the users by itself five
/// seconds after the last login.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Runs `haul user …` for a server; it may fail.
fn user(server: &Server, arguments: &[&str]) -> Ended {
    let mut command = haul();
    command.arg("user").args(arguments).arg("--state").arg(&server.state);
    Ended::of(run_with(command, b""))
}

/// Runs a server under strace, which makes calls of it fail or wait.
const STRACE: [&str; 6] = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"];

/// A put of a stream that has no end yet, once the server writes it.
fn endless_put(server: &Server, client: &Client, arguments: &[&str]) -> (Running, ChildStdin) {
    let mut put = client.spawn_with_input(["put"].iter().chain(arguments));
    let input = put.child.stdin.take().unwrap();
    until("it is staged", || {
        staged(&server.root.join("f")).exists() || put.child.try_wait().unwrap().is_some()
    });
    (put, input)
}

/// The put was ended by the server, for this reason, and nothing of it is there.
#[track_caller]
fn ended(server: &Server, put: (Running, ChildStdin), code: i32, why: &str) {
    let (put, input) = put;
    // its input is open: nothing but the server ends it
    put.end().failed(code, &[why]);
    drop(input);
    assert!(!server.root.join("f").exists());
}

#[test]
fn a_removed_users_transfer_ends_at_once() {
    let server = Server::start();
    let client = server.client();
    let put = endless_put(&server, &client, &["-", "srv:f"]);
    let removed = Instant::now();
    server.user(&["rm", "kim"], "");
    ended(&server, put, 5, "the user was removed");
    assert!(removed.elapsed() < AT_ONCE, "took {:?}", removed.elapsed());
    client.run(["ls", "srv:"]).failed(5, &["login refused"]);
}

#[test]
fn a_removed_keys_sessions_end_and_those_of_other_keys_do_not() {
    let server = Server::start();
    let (client, other) = (server.client(), server.client());
    let put = endless_put(&server, &client, &["-", "srv:f"]);
    let mut stays = other.spawn_with_input(["put", "-", "srv:g"]);
    until("it is staged", || staged(&server.root.join("g")).exists());
    let public = client.config().join("key.pub");
    assert_eq!(
        user(&server, &["key", "add", "kim", public.to_str().unwrap(), "--label", "lost"]).code,
        0
    );
    let removed = Instant::now();
    assert_eq!(user(&server, &["key", "rm", "kim", "lost"]).code, 0);
    ended(&server, put, 5, "the key was removed");
    assert!(removed.elapsed() < AT_ONCE, "took {:?}", removed.elapsed());
    drop(stays.child.stdin.take());
    assert_eq!(stays.end().code, 0);
}

#[test]
fn a_key_that_expires_ends_what_it_began() {
    let server = Server::start();
    let client = server.client();
    let key = client.config().join("key.pub");
    let put = endless_put(&server, &client, &["-", "srv:f"]);
    let expires = ["key", "add", "kim", key.to_str().unwrap(), "--expires", "2s"];
    assert_eq!(user(&server, &expires).code, 0);
    ended(&server, put, 5, "the key has expired");
    client.run(["ls", "srv:"]).failed(5, &["login refused"]);
}

#[test]
fn a_changed_password_ends_what_the_old_one_began() {
    let server = Server::start();
    server.user(&["add", "pat"], "old");
    let client = Client::new();
    write(&client.work().join("p"), b"old");
    let url = format!("haul://pat@{}/f", server.address);
    let put = endless_put(&server, &client, &["--accept-new", "--password-file", "p", "-", &url]);
    server.user(&["passwd", "pat"], "new");
    ended(&server, put, 5, "the password was changed");
}

#[test]
fn another_root_ends_what_began_in_the_old_one() {
    let server = Server::start();
    let client = server.client();
    let put = endless_put(&server, &client, &["-", "srv:f"]);
    assert_eq!(user(&server, &["set", "kim", "--root", "other"]).code, 0);
    ended(&server, put, 5, "the user's root was changed");
    client.ok(["mkdir", "srv:d"]);
    assert!(server.root.join("other/d").exists(), "the key is still listed");
}

/// A put is over; a get of the same user, which is still allowed, is resumed by itself.
#[test]
fn narrowed_access_ends_what_it_does_not_allow_and_nothing_else() {
    let server = Server::start();
    let slow = Rules {
        rate: Some(4 << 20),
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, slow);
    let client = server.client_at(proxy.address);
    write(&server.root.join("big"), &bytes(1, 24 << 20));
    write(&client.work().join("f"), &bytes(2, 24 << 20));
    let get = client.spawn(["get", "srv:big", "."]);
    let put = client.spawn(["put", "f", "srv:"]);
    until("some of it is here", || staged(&client.work().join("big")).exists());
    until("some of it is there", || staged(&server.root.join("f")).exists());
    assert_eq!(user(&server, &["set", "kim", "--read-only"]).code, 0);
    let put = put.end();
    assert_eq!(put.code, 8, "{put:?}");
    assert!(put.err.contains("narrowed") && put.err.contains("may only read"), "{put:?}");
    assert!(!server.root.join("f").exists());
    let got = get.end();
    assert_eq!(got.code, 0, "{got:?}");
    assert_eq!(std::fs::read(client.work().join("big")).unwrap(), bytes(1, 24 << 20));
}

/// An idle client learns the reason, too, and cannot reattach its session.
#[tokio::test]
async fn an_idle_session_ends_and_is_told_why() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    server.user(&["rm", "kim"], "");
    let end = client.receive().await;
    let Some(Body::End(end)) = end else {
        panic!("not told: {end:?}");
    };
    assert_eq!(end.code, 530, "{end:?}");
    assert!(end.text.contains("the user was removed"), "{end:?}");
    assert!(client.receive().await.is_none());
}

#[test]
fn a_key_is_good_only_from_where_it_may_be_used() {
    let mut server = Server::start();
    let client = server.client();
    let key = client.config().join("key.pub");
    let from = |networks: &[&str]| {
        let arguments = ["key", "add", "kim", key.to_str().unwrap()];
        let networks = networks.iter().flat_map(|network| ["--from", network]);
        let arguments: Vec<&str> = arguments.into_iter().chain(networks).collect();
        user(&server, &arguments)
    };
    assert_eq!(from(&["192.0.2.0/24", "127.0.0.0/8"]).code, 0);
    client.ok(["ls", "srv:"]);
    let put = endless_put(&server, &client, &["-", "srv:f"]);
    assert_eq!(from(&["192.0.2.0/24", "2001:db8::/32"]).code, 0);
    ended(&server, put, 5, "the key may not be used from this address");
    client.run(["ls", "srv:"]).failed(5, &["login refused"]);
    assert_eq!(from(&["lan"]).code, 2);
    assert!(server.log().contains("may not be used from this address"));
}

/// The objects that `haul user …` prints.
fn listed(server: &Server, arguments: &[&str]) -> Vec<serde_json::Value> {
    let listed = user(server, arguments);
    assert_eq!(listed.code, 0, "{listed:?}");
    let lines = listed.out.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The table of users, and their objects; the key of the first one has this fingerprint.
fn users_are_listed(server: &Server, fingerprint: &serde_json::Value) {
    let table = user(server, &["ls"]).out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[0],
        "name           access      root      bwlimit  password  keys  invites"
    );
    assert_eq!(lines[1], "kim            full        /here     off      no        1     0");
    assert_eq!(lines[2], "a-longer-name  write-only  /sub dir  off      yes       0     0");
    let all = listed(server, &["ls", "--json"]);
    assert_eq!(all[0]["keys"][0]["fingerprint"], *fingerprint);
    assert_eq!((&all[1]["root"], &all[1]["password"]), (&"/sub dir".into(), &true.into()));
}

#[test]
fn users_and_keys_are_listed_and_changed_one_by_one() {
    let server = Server::start();
    let client = server.client();
    server.user(&["add", "a-longer-name", "--root", "sub dir", "--write-only"], "pw");
    let key = || listed(&server, &["key", "ls", "kim", "--json"]).remove(0);
    until("the last use is noted", || key()["last_used"].is_string());
    let enrolled = key();
    assert!(!enrolled["label"].as_str().unwrap().is_empty(), "it has its machine's name");
    assert!(enrolled["added"].is_string() && enrolled["expires"].is_null(), "{enrolled}");

    let public = client.config().join("key.pub");
    let again = ["key", "add", "kim", public.to_str().unwrap(), "--label", "kim's laptop"];
    let limits = ["--expires", "2100-01-31", "--from", "127.0.0.1"];
    assert_eq!(user(&server, &[&again[..], &limits].concat()).code, 0);
    let changed = key();
    assert_eq!(changed["label"], "kim's laptop");
    assert_eq!(changed["from"], serde_json::json!(["127.0.0.1/32"]));
    assert!(changed["expires"].as_str().unwrap().starts_with("2100-01-3"), "{changed}");
    assert_eq!(changed["added"], enrolled["added"]);

    assert_eq!(user(&server, &["set", "kim", "--root", "here", "--read-only"]).code, 0);
    client.run(["mkdir", "srv:d"]).failed(8, &["may only read"]);
    assert_eq!(user(&server, &["set", "kim", "--full"]).code, 0);
    client.ok(["mkdir", "srv:d"]);
    assert!(server.root.join("here/d").exists());

    users_are_listed(&server, &changed["fingerprint"]);

    user(&server, &["set", "kim"]).failed(2, &["nothing to set"]);
    user(&server, &["set", "nobody", "--full"]).failed(1, &["no user nobody"]);
    user(&server, &["key", "ls", "nobody"]).failed(1, &["no user nobody"]);
    user(&server, &["key", "rm", "kim", "phone"])
        .failed(1, &["kim has no key phone", "haul user key ls kim"]);
    user(&server, &["key", "add", "kim", "/nonexistent"]).failed(1, &["/nonexistent"]);
    assert_eq!(
        user(&server, &["key", "rm", "kim", changed["fingerprint"].as_str().unwrap()]).code,
        0
    );
    client.run(["ls", "srv:"]).failed(5, &["login refused"]);
}

/// A file whose bytes are all there when its user is removed does not get its name any more.
#[test]
fn a_removed_users_file_is_not_committed() {
    if !has_strace() {
        return;
    }
    let mut server = Server::start();
    let client = server.client();
    let partial = staged(&server.root.canonicalize().unwrap().join("f"));
    // the server is still at the file's fsync when it learns that the user is gone
    let options = [
        "-P",
        partial.to_str().unwrap(),
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:delay_enter=4000000",
    ];
    server.set_prefix(&[&STRACE[..], &options].concat());
    server.kill();
    server.restart();
    write(&client.work().join("f"), &bytes(1, 3 << 20));
    set_mode(&client.work().join("f"), 0o640);
    let put = client.spawn(["put", "--retry-for=0", "f", "srv:f"]);
    until("it is complete", || {
        partial
            .metadata()
            .is_ok_and(|found| found.permissions().mode() & 0o777 == 0o640)
    });
    server.user(&["rm", "kim"], "");
    put.end().failed(5, &["the user was removed"]);
    assert!(partial.exists(), "its fsync is not over");
    until("its fsync is over", || !partial.exists());
    assert!(!server.root.join("f").exists());
}

/// A request that comes while the watch has not seen the change yet is checked for itself.
#[tokio::test]
async fn no_request_is_answered_for_a_key_that_is_gone() {
    if !has_strace() {
        return;
    }
    // a watch that reports nothing: the server looks five seconds after the login, and not before
    let options = ["-e", "trace=inotify_add_watch", "-e", "inject=inotify_add_watch:retval=1"];
    let server = Server::under(&[&STRACE[..], &options].concat(), &[]);
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let logged_in = Instant::now();
    let changed = server.state.join("changed");
    std::fs::write(&changed, "kim\n").unwrap();
    std::fs::rename(changed, server.state.join("users")).unwrap();
    let list = proto::List {
        path: b"/".to_vec(),
        ..Default::default()
    };
    let answer = client.ask(2, request::Body::List(list)).await;
    assert!(answer.is_none_or(|reply| reply.code == 530));
    assert!(logged_in.elapsed() < Duration::from_secs(4), "{:?}", logged_in.elapsed());
}
