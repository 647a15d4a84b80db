//! Connections that are lost, silent or slow, lost sessions, restarted servers: commands continue.

use crate::support::proxy::{Proxy, Rules, Which};
use crate::support::tree::{bytes, partial_dir, sample, snapshot, staged, write};
use crate::support::{Client, Server, until};
use std::path::Path;

const MIB: usize = 1 << 20;

/// A tree with one large file, which takes some seconds over a link of `slow()`.
fn large_tree(dir: &Path) {
    sample(dir);
    write(&dir.join("big"), &bytes(5, 24 * MIB + 17));
}

fn slow() -> Rules {
    Rules {
        rate: Some(3 * MIB),
        ..Rules::default()
    }
}

#[test]
fn a_lost_control_connection_is_replaced_and_transfers_go_on() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "tree", "srv:"]);
    until("some of it is on its way", || proxy.sent() > 3 * MIB);
    proxy.cut_now(Which::Control);
    put.end().retried();
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));

    let get = client.spawn(["get", "-r", "srv:tree/", "back"]);
    until("some of it is here", || {
        staged(&partial_dir(&client.work().join("back")).join("big")).exists()
    });
    proxy.cut_now(Which::Control);
    get.end().retried();
    assert_eq!(snapshot(&client.work().join("back")), snapshot(&server.root.join("tree")));
    // the sessions survived: no client logged in a second time
    let log = server.log();
    assert_eq!(log.matches("the session continues").count(), 2, "{log}");
    assert_eq!(log.matches("INFO login").count(), 3, "{log}");
}

#[test]
fn everything_cut_again_and_again_is_survived() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "tree", "srv:"]);
    for n in 1..=4 {
        until("it goes forward", || proxy.sent() > 4 * n * MIB);
        proxy.cut_now(Which::All);
    }
    let ended = put.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
}

#[test]
fn a_silent_control_connection_counts_as_lost() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "tree", "srv:"]);
    until("some of it is on its way", || proxy.sent() > 3 * MIB);
    proxy.silence(Which::Control);
    std::thread::sleep(std::time::Duration::from_secs(21));
    proxy.heal();
    proxy.cut_now(Which::Control);
    put.end().retried();
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
}

#[test]
fn a_restarted_server_is_logged_in_to_again_and_the_transfer_resumes() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "--json", "tree", "srv:"]);
    until("some of it is there", || {
        std::fs::metadata(staged(&partial_dir(&server.root.join("tree")).join("big")))
            .is_ok_and(|m| m.len() > 4 * MIB as u64)
    });
    server.kill();
    server.restart();
    let ended = put.end();
    ended.retried();
    assert!(ended.out.contains(r#"{"event":"retrying"}"#), "{ended:?}");
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));

    let get = client.spawn(["get", "-r", "--json", "srv:tree/", "back"]);
    until("some of it is here", || {
        std::fs::metadata(staged(&partial_dir(&client.work().join("back")).join("big")))
            .is_ok_and(|m| m.len() > 4 * MIB as u64)
    });
    server.kill();
    server.restart();
    let ended = get.end();
    ended.retried();
    // the server does not resend chunks that arrived here: the client was alive, and kept them
    assert!(ended.out.contains(r#""event":"resumed""#), "{ended:?}");
    assert_eq!(snapshot(&client.work().join("back")), snapshot(&server.root.join("tree")));
    // exactly one summary, and it counts every file once
    let summary: serde_json::Value =
        serde_json::from_str(ended.out.lines().last().unwrap()).unwrap();
    let files = snapshot(&server.root.join("tree"))
        .values()
        .filter(|e| !matches!(e, crate::support::tree::Entry::Dir { .. }))
        .count();
    assert_eq!(
        summary["files"].as_u64().unwrap() + summary["unchanged"].as_u64().unwrap(),
        files as u64
    );
}

/// Bytes that are resent because the server was restarted count once, and those of an earlier run
/// not at all.
#[test]
fn the_summary_counts_no_byte_twice() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    let size = 20 * MIB as u64;
    write(&client.work().join("big"), &bytes(7, 20 * MIB));
    let arrived = |dir: std::path::PathBuf| {
        std::fs::metadata(staged(&dir.join("big"))).map_or(0, |m| m.len())
    };
    let summary = |ended: &crate::support::Ended| -> serde_json::Value {
        serde_json::from_str(ended.out.lines().last().unwrap()).unwrap()
    };
    let put = client.spawn(["put", "--json", "big", "srv:"]);
    until("some of it is there", || arrived(server.root.clone()) > 6 * MIB as u64);
    server.kill();
    server.restart();
    let ended = put.end();
    assert!(ended.out.contains(r#"{"event":"retrying"}"#), "{ended:?}");
    assert_eq!(summary(&ended)["bytes"], size, "{ended:?}");

    std::fs::remove_file(client.work().join("big")).unwrap();
    let get = client.spawn(["get", "--json", "srv:big", "."]);
    until("some of it is here", || arrived(client.work()) > 4 * MIB as u64);
    get.signal(rustix::process::Signal::TERM);
    assert_eq!(get.end().code, 143);
    let here = arrived(client.work());
    let get = client.spawn(["get", "--json", "srv:big", "."]);
    until("some more of it is here", || arrived(client.work()) > here + 4 * MIB as u64);
    server.kill();
    server.restart();
    let ended = get.end();
    let resumed: Vec<u64> = (ended.out.lines())
        .filter(|line| line.contains(r#""event":"resumed""#))
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["offset"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(
        resumed.len(),
        2,
        "once what the earlier run left, once what this one did: {ended:?}"
    );
    assert_eq!(summary(&ended)["bytes"], size - resumed[0], "{ended:?}");
}

#[test]
fn a_server_that_is_stopped_and_started_again_is_gone_on_with() {
    let mut server = Server::start();
    let proxy = Proxy::start(
        server.address,
        Rules {
            rate: Some(MIB / 2),
            ..Rules::default()
        },
    );
    let client = server.client_at(proxy.address);
    write(&client.work().join("big"), &bytes(5, 40 * MIB));
    let put = client.spawn(["put", "--json", "big", "srv:"]);
    until("some of it is there", || {
        std::fs::metadata(staged(&server.root.join("big"))).is_ok_and(|m| m.len() > 2 * MIB as u64)
    });
    server.signal(rustix::process::Signal::TERM);
    // no new sessions; running transfers have a grace time, which is too short for this
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(client.run(["ls", "srv:"]).code, 4);
    assert!(server.wait().success());
    server.restart();
    let ended = put.end();
    ended.retried();
    assert!(ended.out.contains(r#""event":"resumed""#), "{ended:?}");
    assert!(
        std::fs::read(server.root.join("big")).unwrap()
            == std::fs::read(client.work().join("big")).unwrap()
    );
}

#[test]
fn a_network_that_is_gone_for_longer_than_the_session_lives_is_survived() {
    let server = Server::with(&["--session-grace", "1s"]);
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "--json", "tree", "srv:"]);
    until("some of it is there", || {
        std::fs::metadata(staged(&partial_dir(&server.root.join("tree")).join("big")))
            .is_ok_and(|m| m.len() > 4 * MIB as u64)
    });
    proxy.close();
    proxy.cut_now(Which::All);
    until("the server has let go", || has_partial_file(&server));
    proxy.heal();
    let ended = put.end();
    ended.retried();
    // the server ended the session in order, with a checkpoint
    assert!(ended.out.contains(r#""event":"resumed""#), "{ended:?}");
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
}

/// The session is over: its lock is free.
fn has_partial_file(server: &Server) -> bool {
    let other = server.client();
    other.ok(["locks", "-R", "srv:"]).contains("partial")
}

#[test]
fn trying_again_has_an_end() {
    let mut server = Server::start();
    let client = server.client();
    write(&client.work().join("big"), &bytes(5, 8 * MIB));
    let proxy = Proxy::start(server.address, slow());
    let client = {
        let through = server.client_at(proxy.address);
        std::fs::rename(client.work().join("big"), through.work().join("big")).unwrap();
        through
    };
    let put = client.spawn(["put", "--retry-for", "2s", "big", "srv:"]);
    until("some of it is on its way", || proxy.sent() > MIB);
    server.kill();
    let ended = put.end();
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(
        ended
            .err
            .lines()
            .any(|l| l.contains("run the same command again, and it continues")),
        "{ended:?}"
    );
    // with the option haul also retries a first connection; without it does not
    assert_eq!(client.run(["ls", "srv:"]).code, 4);
    let ls = client.spawn(["ls", "--retry-for", "1m", "srv:"]);
    server.restart();
    assert_eq!(ls.end().code, 0);
}

#[test]
fn a_silent_data_connection_is_given_up_and_the_others_go_on() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "tree", "srv:"]);
    until("some of it is on its way", || proxy.sent() > 3 * MIB);
    proxy.silence(Which::OneData(1));
    let ended = put.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
    proxy.heal();
    // and when all are silent, for good, there is a typed error in the end
    let get = client.spawn(["get", "-r", "--retry-for", "3s", "srv:tree/", "back"]);
    until("some of it is here", || {
        staged(&partial_dir(&client.work().join("back")).join("big")).exists()
    });
    proxy.silence(Which::Data);
    let ended = get.end();
    assert_eq!(ended.code, 4, "{ended:?}");
}

#[test]
fn one_slow_connection_does_not_hold_back_the_others() {
    let server = Server::start();
    let rules = Rules {
        rates: vec![Some(40 << 10), Some(20 * MIB), Some(20 * MIB), Some(20 * MIB)],
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, rules);
    let client = server.client_at(proxy.address);
    let size = 60 * MIB;
    write(&client.work().join("f"), &bytes(9, size));
    client.ok(["put", "f", "srv:"]);
    assert_eq!(
        std::fs::read(server.root.join("f")).unwrap(),
        std::fs::read(client.work().join("f")).unwrap()
    );
    let carried = proxy.by_connection();
    // the slow one was given a chunk that it could not deliver before all was done
    assert!(carried[0] > 0 && carried[0] < MIB, "{carried:?}");
    let all: usize = carried.iter().sum();
    assert!(all < size + size / 20 + size / 50 + 2 * MIB, "{carried:?}");
}

#[test]
fn what_a_connection_is_stuck_in_the_middle_of_goes_out_over_another() {
    let server = Server::start();
    for direction in ["put", "get"] {
        let rules = Rules {
            rate: Some(10 * MIB),
            ..Rules::default()
        };
        let proxy = Proxy::start(server.address, rules);
        let client = server.client_at(proxy.address);
        let (source, target) = match direction {
            "put" => (client.work().join("f"), server.root.join("f")),
            _ => (server.root.join("g"), client.work().join("g")),
        };
        write(&source, &bytes(9, 60 * MIB));
        let running = match direction {
            "put" => client.spawn(["put", "f", "srv:"]),
            _ => client.spawn(["get", "srv:g"]),
        };
        let carries = || proxy.passed(Which::OneData(0)) > 4 * MIB;
        until("the first connection carries data", carries);
        proxy.silence(Which::OneData(0));
        let since = std::time::Instant::now();
        let ended = running.end();
        assert_eq!(ended.code, 0, "{direction}: {ended:?}");
        assert_eq!(std::fs::read(source).unwrap(), std::fs::read(target).unwrap());
        // nothing waited until a socket that takes nothing was given up: that is a minute
        assert!(since.elapsed().as_secs() < 45, "{direction}: {:?}", since.elapsed());
    }
}

#[test]
fn ls_goes_on_over_a_restart() {
    let mut server = Server::start();
    for n in 0..3000 {
        write(&server.root.join(format!("dir/file-{n:04}")), b"");
    }
    let rules = Rules {
        delay: std::time::Duration::from_millis(60),
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, rules);
    let client: Client = server.client_at(proxy.address);
    let ls = client.spawn(["ls", "-R", "srv:"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.kill();
    server.restart();
    let ended = ls.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.out.lines().filter(|l| l.starts_with("file-")).count(), 3000);
}
