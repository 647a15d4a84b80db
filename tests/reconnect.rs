//! Connections that are lost, silent or slow, sessions that are gone, and servers that come back: commands go on.

use crate::support::proxy::{Proxy, Rules, Which};
use crate::support::script::{SESSION, ScriptedClient, ScriptedServer};
use crate::support::tree::{bytes, sample, snapshot, staged, write};
use crate::support::{Client, Ended, Server, until};
use haul::net::wire::frame::{Attach, ROLE_CONTROL};
use haul::net::wire::proto::{self, control_message::Body, reply, request};
use ring::hmac;
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

/// It succeeded, and said in one line that the connection was lost.
#[track_caller]
fn went_on(ended: &Ended) {
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines: Vec<&str> = ended.err.lines().filter(|l| l.starts_with("haul: ")).collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
    assert!(lines[0].contains("trying again"), "{ended:?}");
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
    went_on(&put.end());
    assert_eq!(
        snapshot(&client.work().join("tree")),
        snapshot(&server.root.join("tree"))
    );

    let get = client.spawn(["get", "-r", "srv:tree", "back"]);
    until("some of it is here", || {
        staged(&client.work().join("back/big")).exists()
    });
    proxy.cut_now(Which::Control);
    went_on(&get.end());
    assert_eq!(
        snapshot(&client.work().join("back")),
        snapshot(&server.root.join("tree"))
    );
    // the sessions went on: nobody logged in a second time
    let log = server.log();
    assert_eq!(log.matches("the session goes on").count(), 2, "{log}");
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
    assert_eq!(
        snapshot(&client.work().join("tree")),
        snapshot(&server.root.join("tree"))
    );
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
    went_on(&put.end());
    assert_eq!(
        snapshot(&client.work().join("tree")),
        snapshot(&server.root.join("tree"))
    );
}

#[test]
fn a_restarted_server_is_logged_in_to_again_and_the_transfer_resumes() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "--json", "tree", "srv:"]);
    until("some of it is there", || {
        std::fs::metadata(staged(&server.root.join("tree/big"))).is_ok_and(|m| m.len() > 4 * MIB as u64)
    });
    server.kill();
    server.restart();
    let ended = put.end();
    went_on(&ended);
    assert!(ended.out.contains(r#"{"event":"again"}"#), "{ended:?}");
    assert_eq!(
        snapshot(&client.work().join("tree")),
        snapshot(&server.root.join("tree"))
    );

    let get = client.spawn(["get", "-r", "--json", "srv:tree", "back"]);
    until("some of it is here", || {
        std::fs::metadata(staged(&client.work().join("back/big"))).is_ok_and(|m| m.len() > 4 * MIB as u64)
    });
    server.kill();
    server.restart();
    let ended = get.end();
    went_on(&ended);
    // what had arrived here is not sent again: the client was alive all the time, and kept it
    assert!(ended.out.contains(r#""event":"resumed""#), "{ended:?}");
    assert_eq!(
        snapshot(&client.work().join("back")),
        snapshot(&server.root.join("tree"))
    );
    // exactly one summary, and it counts every file once
    let summary: serde_json::Value = serde_json::from_str(ended.out.lines().last().unwrap()).unwrap();
    let files = snapshot(&server.root.join("tree"))
        .values()
        .filter(|e| !matches!(e, crate::support::tree::Entry::Dir { .. }))
        .count();
    assert_eq!(
        summary["files"].as_u64().unwrap() + summary["unchanged"].as_u64().unwrap(),
        files as u64
    );
}

/// What is sent a second time because the server was restarted does not count a second time, and what an earlier run left
/// does not count at all.
#[test]
fn the_summary_counts_no_byte_twice() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    let size = 20 * MIB as u64;
    write(&client.work().join("big"), &bytes(7, 20 * MIB));
    let arrived = |dir: std::path::PathBuf| std::fs::metadata(staged(&dir.join("big"))).map_or(0, |m| m.len());
    let summary = |ended: &crate::support::Ended| -> serde_json::Value {
        serde_json::from_str(ended.out.lines().last().unwrap()).unwrap()
    };
    let put = client.spawn(["put", "--json", "big", "srv:"]);
    until("some of it is there", || arrived(server.root.clone()) > 6 * MIB as u64);
    server.kill();
    server.restart();
    let ended = put.end();
    assert!(ended.out.contains(r#"{"event":"again"}"#), "{ended:?}");
    assert_eq!(summary(&ended)["bytes"], size, "{ended:?}");

    std::fs::remove_file(client.work().join("big")).unwrap();
    let get = client.spawn(["get", "--json", "srv:big", "."]);
    until("some of it is here", || arrived(client.work()) > 4 * MIB as u64);
    get.signal(rustix::process::Signal::TERM);
    assert_eq!(get.end().code, 143);
    let here = arrived(client.work());
    let get = client.spawn(["get", "--json", "srv:big", "."]);
    until("some more of it is here", || {
        arrived(client.work()) > here + 4 * MIB as u64
    });
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
    // no new sessions, but what runs has a grace time, which is too short for this
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(client.run(["ls", "srv:"]).code, 4);
    assert!(server.wait().success());
    server.restart();
    let ended = put.end();
    went_on(&ended);
    assert!(ended.out.contains(r#""event":"resumed""#), "{ended:?}");
    assert!(std::fs::read(server.root.join("big")).unwrap() == std::fs::read(client.work().join("big")).unwrap());
}

#[test]
fn a_network_that_is_gone_for_longer_than_the_session_lives_is_survived() {
    let server = Server::with(&["--session-grace", "1s"]);
    let proxy = Proxy::start(server.address, slow());
    let client = server.client_at(proxy.address);
    large_tree(&client.work().join("tree"));
    let put = client.spawn(["put", "-r", "--json", "tree", "srv:"]);
    until("some of it is there", || {
        std::fs::metadata(staged(&server.root.join("tree/big"))).is_ok_and(|m| m.len() > 4 * MIB as u64)
    });
    proxy.close();
    proxy.cut_now(Which::All);
    until("the server has let go", || client_sees_left(&server));
    proxy.heal();
    let ended = put.end();
    went_on(&ended);
    // the server ended the session in order: it kept what had arrived
    assert!(ended.out.contains(r#""event":"resumed""#), "{ended:?}");
    assert_eq!(
        snapshot(&client.work().join("tree")),
        snapshot(&server.root.join("tree"))
    );
}

/// The session is over: its lock is free.
fn client_sees_left(server: &Server) -> bool {
    let other = server.client();
    other.ok(["locks", "-R", "srv:"]).contains("left")
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
        ended.err.lines().any(|l| l.contains("resume where they stopped")),
        "{ended:?}"
    );
    // with the option also a first connection is tried again; without it is not
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
    assert_eq!(
        snapshot(&client.work().join("tree")),
        snapshot(&server.root.join("tree"))
    );
    proxy.heal();
    // and when all are silent, for good, there is a typed error in the end
    let get = client.spawn(["get", "-r", "--retry-for", "3s", "srv:tree", "back"]);
    until("some of it is here", || {
        staged(&client.work().join("back/big")).exists()
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

/// The reply of the server to this re-attachment.
async fn reattach(first: &ScriptedClient, n: u32, received: u64, key: &hmac::Key) -> (ScriptedClient, proto::Reply) {
    let mut again = ScriptedClient::open(first.address, first.fingerprint, None).await;
    let proof = hmac::sign(key, &Attach::signed(ROLE_CONTROL, &SESSION, n));
    let body = request::Body::Reattach(proto::Reattach {
        session: SESSION.to_vec(),
        n,
        proof: proof.as_ref().to_vec(),
        received,
    });
    let reply = again.ask(0, body).await.unwrap();
    (again, reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_its_effect_once_whatever_is_lost() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let mkdir = || {
        let path = b"d".to_vec();
        request::Body::MakeDirectory(proto::MakeDirectory { path, parents: false })
    };
    let request = |number| {
        Body::Request(proto::Request {
            number,
            body: Some(mkdir()),
        })
    };
    // the reply is lost with the connection
    client.send(request(2)).await;
    until("it is done", || server.root.join("d").exists());
    let (mut again, reply) = reattach(&client, 100, 1, &client.key).await;
    let Some(reply::Body::Reattach(reattached)) = reply.body else {
        panic!("{reply:?}")
    };
    assert_eq!((reply.code, reattached.received), (250, 2));
    match again.receive().await {
        Some(Body::Reply(reply)) => assert_eq!((reply.number, reply.code), (2, 250)),
        other => panic!("{other:?}"),
    }
    // and asked again it is the same answer, though the directory is there
    again.send(request(2)).await;
    match again.receive().await {
        Some(Body::Reply(reply)) => assert_eq!((reply.number, reply.code), (2, 250)),
        other => panic!("{other:?}"),
    }
    let stranger = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
    for (n, key) in [(100, &client.key), (101, &stranger)] {
        let (_, reply) = reattach(&client, n, 1, key).await;
        assert_eq!(reply.code, 430, "a proof that was used, and a wrong one");
    }
    let noop = again.ask(3, request::Body::Noop(proto::Noop {})).await.unwrap();
    assert_eq!(noop.code, 200, "the session was not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_known_is_reported_as_unknown() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let url = server.url("d");
    let run = tokio::task::spawn_blocking(move || client.run(["mkdir", &url]));
    let mut peer = server.logged_in().await;
    let (_, body) = peer.request().await;
    assert!(matches!(body, request::Body::MakeDirectory(_)));
    drop(peer);
    let mut next = server.accept().await;
    let (number, body) = next.request().await;
    assert!(matches!(body, request::Body::Reattach(_)), "{body:?}");
    next.reply(number, 430, None).await;
    let ended = run.await.unwrap();
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.err.contains("outcome unknown"), "{ended:?}");
}

#[test]
fn a_commit_whose_acknowledgement_was_lost_with_the_server_is_recognised() {
    let mut server = Server::start();
    let rules = Rules {
        rate: Some(2 * MIB),
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, rules);
    let client = server.client_at(proxy.address);
    write(&client.work().join("f"), &bytes(3, 6 * MIB));
    let put = client.spawn(["put", "--connections=1", "--if-version", "none", "f", "srv:f"]);
    until("some of it is on its way", || proxy.sent() > MIB);
    proxy.silence(Which::Control);
    until("it is committed", || server.root.join("f").exists());
    server.kill();
    server.restart();
    proxy.heal();
    proxy.cut_now(Which::All);
    let ended = put.end();
    went_on(&ended);
    assert!(ended.err.contains("1 unchanged"), "{ended:?}");
    // somebody else's file of that name is not taken for ours
    client
        .run(["put", "--if-version", "none", "f", "srv:f"])
        .failed(7, &["f"]);
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
