//! The wire: what is on it, and what happens when data connections are lost.

use crate::support::Server;
use crate::support::proxy::{Proxy, Rules};
use crate::support::tree::{bytes, sample, snapshot, staged, write};

#[test]
fn nothing_on_the_wire_is_readable() {
    let server = Server::start();
    let proxy = Proxy::recording(server.address);
    let client = server.client_at(proxy.address);
    let marker = b"a plain text that must not be seen by anybody on the way";
    write(&client.work().join("a-name-to-hide"), &marker.repeat(100_000));
    write(&client.work().join("small"), marker);
    client.ok(["put", "--no-compress", "a-name-to-hide", "small", "srv:"]);
    client.ok(["get", "srv:small", "back"]);
    let seen = proxy.recorded();
    assert!(seen.len() > 5_000_000);
    for secret in [&marker[..20], b"a-name-to-hide"] {
        assert!(
            !seen.windows(secret.len()).any(|w| w == secret),
            "{}",
            String::from_utf8_lossy(secret)
        );
    }
}

#[test]
fn chunks_of_a_lost_connection_go_out_on_others_and_a_new_one_is_dialled() {
    let server = Server::start();
    // each of the first connections is cut somewhere else: in the attach message, in a frame,
    // between frames
    let cuts = vec![700, 100_000, 1_500_000, 3_000_000, 2_000, 5_000_000, 250_000, 4_000_000];
    let proxy = Proxy::start(
        server.address,
        Rules {
            cuts,
            ..Rules::default()
        },
    );
    let client = server.client_at(proxy.address);
    sample(&client.work().join("tree"));
    write(&client.work().join("tree/big"), &bytes(5, (40 << 20) + 17));
    client.ok(["put", "-r", "tree", "srv:"]);
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
    assert!(
        proxy.cut() >= 4 && proxy.data_connections() > 4,
        "{} {}",
        proxy.cut(),
        proxy.data_connections()
    );
    let proxy = Proxy::start(
        server.address,
        Rules {
            cuts: vec![900_000, 2_000_000, 100, 4_000_000, 50_000],
            ..Rules::default()
        },
    );
    let client = server.client_at(proxy.address);
    client.ok(["get", "-r", "srv:tree/", "back"]);
    assert_eq!(snapshot(&client.work().join("back")), snapshot(&server.root.join("tree")));
    assert!(proxy.cut() >= 3);
}

#[test]
fn a_transfer_begins_with_the_connections_that_its_path_has_needed() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, Rules::default());
    let client = server.client_at(proxy.address);
    write(&client.work().join("big"), &bytes(1, 20 << 20));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let connections = |remembered: &str, options: &[&str]| {
        write(&client.config().join("paths"), remembered.as_bytes());
        let before = proxy.data_connections();
        client.ok([&["put", "--no-compress"], options, &["big", "srv:"]].concat());
        proxy.data_connections() - before
    };
    let path = |millis: u64, since| {
        let address = proxy.address;
        format!("{address} connections=9 round_trip={} since={since}\n", millis * 1000)
    };
    // on a busy machine also a short path may look longer, once
    assert!(
        (0..5).any(|_| connections(&path(1, now), &[]) == 9),
        "not those of last time"
    );
    assert_eq!(connections(&path(1, now), &["--connections=2"]), 2, "the user has said so");
    assert!(connections(&path(1, now - 8 * 24 * 3600), &[]) <= 4, "too old");
    assert!(connections("nonsense\n", &[]) <= 4);
    // the path of one that is shorter: what has been dialled before that is known is given back
    let (other, remembered) = (path(1000, now), client.config().join("paths"));
    connections(&other, &[]);
    let stays = std::fs::read_to_string(&remembered).unwrap();
    assert_eq!(stays, other, "a short path is not worth a line");
}

#[test]
fn with_no_data_connection_at_all_the_client_gives_up_with_a_reason() {
    let server = Server::start();
    let proxy = Proxy::start(
        server.address,
        Rules {
            no_data: true,
            ..Rules::default()
        },
    );
    let client = server.client_at(proxy.address);
    // more than goes with an offer
    write(&client.work().join("f"), &bytes(1, 100_000));
    client.ok(["ls", "srv:"]);
    client
        .run(["put", "--retry-for=2s", "f", "srv:"])
        .failed(4, &["srv:", "connection"]);
    assert!(!server.root.join("f").exists());
}

#[test]
fn sessions_are_limited_and_the_refused_one_is_told() {
    let server = Server::with(&["--max-sessions", "1"]);
    let client = server.client();
    let mut stream = client.command(["put", "-", "srv:held"]);
    let mut held = stream
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::support::until("the stream is staged", || staged(&server.root.join("held")).exists());
    client.run(["ls", "srv:"]).failed(4, &["no room", "try again later"]);
    drop(held.stdin.take());
    assert!(crate::support::wait(&mut held).success());
    crate::support::until("the session has ended", || client.run(["ls", "srv:"]).code == 0);
}
