//! Sources that are not what they were offered as: changed with their times set back.

use crate::support::Server;
use crate::support::frames::{Connection, acknowledge, changed};
use crate::support::script::{ScriptedClient, ScriptedServer, get, offered, want};
use crate::support::tree::{bytes, write};
use haul::net::wire::frame::FrameKind;
use haul::net::wire::proto::{self, transfer_message};
use std::fs::{File, FileTimes};
use std::io::Write;
use std::path::Path;

/// Overwrites a file with as many other bytes and sets its time of change back, as programs do that
/// do not want to be noticed. Only the time that no program can set tells.
fn change_unnoticed(path: &Path, seed: u64) {
    let before = std::fs::metadata(path).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(&bytes(seed, usize::try_from(before.len()).unwrap()))
        .unwrap();
    file.set_times(FileTimes::new().set_modified(before.modified().unwrap()))
        .unwrap();
    let after = std::fs::metadata(path).unwrap();
    assert_eq!(
        (after.len(), after.modified().unwrap()),
        (before.len(), before.modified().unwrap())
    );
}

/// A get of `f`, of so many bytes, that has been offered.
async fn offered_file(server: &Server, length: usize) -> (ScriptedClient, Connection) {
    write(&server.root.join("f"), &bytes(1, length));
    let mut client = ScriptedClient::connect(server).await;
    client.login().await;
    assert_eq!(client.ask(2, get(1, b"f")).await.unwrap().code, 150);
    offered(&mut client).await;
    let connection = Connection::new(&client, 1).await;
    (client, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_source_that_changes_unnoticed_while_it_is_read_is_begun_anew() {
    let server = Server::start();
    let (mut client, mut connection) = offered_file(&server, 8 << 20).await;
    client.transfer(1, want(1)).await;
    let first = connection.next().await;
    change_unnoticed(&server.root.join("f"), 2);
    acknowledge(&mut client, &first.header).await;
    for _ in 1..8 {
        let frame = connection.next().await;
        assert_eq!((frame.header.kind, frame.header.attempt), (FrameKind::Chunk, 0));
        acknowledge(&mut client, &frame.header).await;
    }
    let changed = tokio::select! {
        changed = changed(&mut client) => changed,
        frame = connection.next() => panic!("the mixture is complete: {:?}", frame.header),
    };
    assert_eq!((changed.attempt, changed.offer.unwrap().number), (1, 1));
    client.transfer(1, want(1)).await;
    for chunk in bytes(2, 8 << 20).chunks(1 << 20) {
        let frame = connection.next().await;
        assert_eq!(frame.header.attempt, 1);
        assert!(*frame.payload == *chunk, "{:?}", frame.header);
        acknowledge(&mut client, &frame.header).await;
    }
    assert_eq!(connection.next().await.header.kind, FrameKind::Seal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_source_that_changed_unnoticed_is_offered_anew() {
    let server = Server::start();
    let (mut client, mut connection) = offered_file(&server, 100_000).await;
    change_unnoticed(&server.root.join("f"), 2);
    client.transfer(1, want(1)).await;
    let changed = tokio::select! {
        changed = changed(&mut client) => changed,
        frame = connection.next() => panic!("not what was offered: {:?}", frame.header),
    };
    assert_eq!((changed.attempt, changed.offer.unwrap().number), (1, 1));
    client.transfer(1, want(1)).await;
    let frame = connection.next().await;
    assert_eq!((frame.header.kind, frame.header.attempt), (FrameKind::Whole, 1));
    assert!(*frame.payload == *bytes(2, 100_000));
}

/// The same sender, at the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_offers_a_source_anew_that_changed_unnoticed() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    write(&client.work().join("f"), &bytes(1, 100_000));
    let put = client.spawn(["put", "--connections", "1", "f", &server.url("x")]);
    let mut peer = server.logged_in().await;
    let (number, _) = peer.request().await;
    peer.reply(number, 150, None).await;
    while !matches!(peer.message().await, Some(transfer_message::Body::End(_))) {}
    change_unnoticed(&client.work().join("f"), 2);
    peer.transfer(1, want(1)).await;
    match peer.message().await {
        Some(transfer_message::Body::Changed(proto::Changed { attempt: 1, .. })) => {}
        other => panic!("{other:?}"),
    }
    put.kill();
}
