//! Rate limits: of a command, of a server, of a user; and `haul limit`, which changes that of a
//! transfer that runs.

use crate::support::proxy::{Proxy, Rules};
use crate::support::script::{ScriptedServer, against};
use crate::support::tree::{bytes, write};
use crate::support::{Client, Running, Server, until};
use haul::net::wire::proto::request;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Runs it, which must take from `least` on up to `most` seconds.
fn timed(least: f64, most: f64, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let took = start.elapsed().as_secs_f64();
    assert!(took > least && took < most, "{took} s, not {least} to {most}");
}

#[test]
fn a_put_and_a_get_go_no_faster_than_their_limit() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("big"), &bytes(1, 3 * MIB));
    timed(2.5, 12.0, || drop(client.ok(["put", "--bwlimit", "1M", "big", "srv:"])));
    timed(2.5, 12.0, || drop(client.ok(["get", "--bwlimit=1M", "srv:big", "back"])));
    timed(0.0, 2.5, || drop(client.ok(["get", "--bwlimit=off", "srv:big", "fast"])));
    // small files too
    for i in 0..60 {
        write(&client.work().join(format!("small/{i}")), &bytes(i, 50_000));
    }
    timed(2.3, 12.0, || {
        drop(client.ok(["put", "-r", "--bwlimit=1024", "small", "srv:"]))
    });
    assert_eq!(std::fs::read(client.work().join("back")).unwrap(), bytes(1, 3 * MIB));
}

#[test]
fn sessions_share_the_limit_of_their_server_in_both_directions() {
    let server = Server::with(&["--bwlimit", "1M"]);
    let (one, two) = (server.client(), server.client_of("sam"));
    write(&one.work().join("one"), &bytes(1, 2 * MIB));
    write(&two.work().join("two"), &bytes(2, 2 * MIB));
    let both = |commands: [[&str; 3]; 2]| {
        let start = Instant::now();
        let [first, second] = commands;
        let times = std::thread::scope(|scope| {
            let timed = |client: &Client, command: [&str; 3]| {
                client.ok(command);
                start.elapsed().as_secs_f64()
            };
            let (one, two) = (&one, &two);
            let a = scope.spawn(move || timed(one, first));
            let b = scope.spawn(move || timed(two, second));
            [a.join().unwrap(), b.join().unwrap()]
        });
        let last = times[0].max(times[1]);
        assert!(last > 3.3 && last < 16.0, "{times:?}");
        assert!(times[0].min(times[1]) > last * 0.6, "not shared: {times:?}");
    };
    both([["put", "one", "srv:"], ["put", "two", "srv:"]]);
    both([["get", "srv:one", "back"], ["get", "srv:two", "back"]]);
}

#[test]
fn the_limit_of_a_user_changes_while_a_transfer_runs() {
    let server = Server::start();
    let client = server.client();
    server.user(&["set", "kim", "--bwlimit", "32k"], "");
    write(&client.work().join("big"), &bytes(1, 4 * MIB));
    timed(2.0, 90.0, || {
        let mut put = client.spawn(["put", "big", "srv:"]);
        std::thread::sleep(Duration::from_secs(2));
        assert!(put.child.try_wait().unwrap().is_none(), "two minutes at that rate");
        server.user(&["set", "kim", "--bwlimit", "off"], "");
        ends(put);
    });
    assert_eq!(std::fs::read(server.root.join("big")).unwrap(), bytes(1, 4 * MIB));
}

#[test]
fn no_connection_of_a_slow_transfer_is_taken_for_dead() {
    let mut server = Server::with(&["--bwlimit", "100k", "--verbose"]);
    let proxy = Proxy::start(server.address, Rules::default());
    let client = server.client_at(proxy.address);
    write(&client.work().join("big"), &bytes(1, 2 * MIB));
    for command in [["put", "big", "srv:"], ["get", "srv:big", "back"]] {
        let (before, start) = (proxy.data_connections(), Instant::now());
        // a number that stays: more of them would be no replacements
        let ended = client.run([command[0], "--connections=4", command[1], command[2]]);
        assert_eq!((ended.code, ended.err.contains("trying again")), (0, false), "{ended:?}");
        assert!(proxy.data_connections() - before >= 4, "{command:?}");
        assert!(start.elapsed() > Duration::from_secs(15));
    }
    let (count, log) = (proxy.data_connections(), server.log());
    // one that is dialled while its session ends comes to nothing, and replaces none
    let unused = log.matches("closed during the handshake").count();
    assert!(count - unused == 8, "{count}, {unused} of them unused: {log}");
}

fn ends(running: Running) {
    let ended = running.end();
    assert_eq!(ended.code, 0, "{ended:?}");
}

/// The sockets of the client's transfers.
fn sockets(client: &Client) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(client.config().join("transfers"));
    dir.map(|dir| dir.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default()
}

/// The transfers that `haul limit` lists.
fn listed(client: &Client) -> Vec<serde_json::Value> {
    let out = client.ok(["limit", "--json"]);
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn haul_limit_lists_transfers_and_changes_one_that_runs() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("big"), &bytes(1, 8 * MIB));
    for command in [
        ["put", "--bwlimit", "32k", "big", "srv:"],
        ["get", "--bwlimit", "32k", "srv:big", "back"],
    ] {
        let start = Instant::now();
        let running = client.spawn(command);
        until("the transfer is listed", || !listed(&client).is_empty());
        let found = &listed(&client)[0];
        assert_eq!((&found["verb"], &found["rate"]), (&command[0].into(), &(32 << 10).into()));
        let pid = found["pid"].to_string();
        assert_eq!(pid, running.child.id().to_string());
        let socket = &sockets(&client)[0];
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(socket), mode(socket.parent().unwrap())), (0o600, 0o700));
        client.ok(["limit", "1M", &pid]);
        assert_eq!(listed(&client)[0]["rate"], 1 << 20);
        let table = client.ok(["limit"]);
        assert!(table.contains("1 MiB/s") && table.contains(&pid), "{table}");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(listed(&client).len(), 1, "eight seconds at that rate");
        client.ok(["limit", "off"]);
        ends(running);
        assert!(start.elapsed() < Duration::from_secs(90), "256 s at the first rate");
        assert!(sockets(&client).is_empty());
    }
    assert_eq!(std::fs::read(client.work().join("back")).unwrap(), bytes(1, 8 * MIB));
}

#[test]
fn sockets_of_killed_transfers_are_removed_and_several_need_a_name() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("big"), &bytes(1, 4 * MIB));
    let put = |name: &str| client.spawn(["put", "--bwlimit=20k", "big", &format!("srv:{name}")]);
    let killed = put("a");
    until("the transfer is listed", || listed(&client).len() == 1);
    killed.kill();
    assert_eq!(sockets(&client).len(), 1);
    assert!(listed(&client).is_empty());
    assert!(sockets(&client).is_empty());
    let ended = client.run(["limit", "1M"]);
    assert_eq!((ended.code, ended.err.as_str()), (2, "haul: no transfer runs\n"));
    let both = [put("b"), put("c")];
    until("both are listed", || listed(&client).len() == 2);
    let ended = client.run(["limit", "1M"]);
    assert!(ended.code == 2 && ended.err.contains("2 transfers run"), "{ended:?}");
    for running in both {
        running.kill();
    }
    let ended = client.run(["limit", "1M", "1"]);
    assert!(
        ended.code == 1 && ended.err.contains("process 1 runs no transfer"),
        "{ended:?}"
    );
}

#[test]
fn a_rate_that_is_none_is_refused_before_anything_happens() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"x");
    for rate in ["fast", "2X", "-1", "1b", "1e9"] {
        for command in [
            vec!["put", "f", "srv:", "--bwlimit", rate],
            vec!["get", "srv:f", "--bwlimit", rate],
            vec!["limit", rate],
            vec!["user", "set", "kim", "--bwlimit", rate],
            vec!["serve", ".", "--bwlimit", rate],
        ] {
            let ended = client.run(&command);
            assert_eq!(ended.code, 2, "{command:?} {ended:?}");
        }
    }
    assert!(!server.root.join("f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_from_a_server_that_knows_no_limits_fails_with_the_reason() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let url = server.url("f");
    let ended = against(&client, &["get", "--bwlimit=1M", &url, "got"], async {
        let mut peer = server.logged_in().await;
        let (number, body) = peer.request().await;
        let request::Body::Limit(limit) = body else {
            panic!("expected a limit, got {body:?}");
        };
        assert_eq!(limit.rate, 1 << 20);
        peer.reply(number, 502, None).await;
        let (_, body) = peer.request().await;
        assert!(matches!(body, request::Body::Quit(_)), "{body:?}");
    })
    .await;
    ended.failed(1, &["too old to limit"]);
}
