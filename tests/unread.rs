//! Chunks that are read as they are sent: again, where a connection was lost, and never as
//! something else.

use crate::support::Server;
use crate::support::frames::{Connection, acknowledge, changed};
use crate::support::messages::{get, offered, want};
use crate::support::script::ScriptedClient;
use crate::support::tree::{bytes, write};
use haul::chunk::LEAST_CHUNK;
use haul::chunk::digest::chunk_digest;
use haul::net::wire::frame::FrameKind;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The size of chunks while their rate is not known.
const FIRST: u64 = LEAST_CHUNK as u64;

/// A transfer of the file `f` of 6 MiB and a little, as offer 1 of transfer 1, to a client that has
/// wanted it and has one data connection; with its content.
async fn wanted(server: &Server) -> (Vec<u8>, ScriptedClient, Connection) {
    let content = bytes(1, (6 << 20) + 5);
    write(&server.root.join("f"), &content);
    let mut client = ScriptedClient::connect(server).await;
    client.login().await;
    assert_eq!(client.ask(2, get(1, b"f")).await.unwrap().code, 150);
    offered(&mut client).await;
    client.transfer(1, want(1)).await;
    let connection = Connection::new(&client, 1).await;
    (content, client, connection)
}

/// Receives the file until the seal of this attempt, acknowledges every chunk, and checks it
/// against `content`. The chunk at `not` does not come in an earlier attempt.
async fn receives_all(
    client: &mut ScriptedClient,
    connection: &mut Connection,
    (attempt, not): (u8, u64),
    content: &[u8],
) {
    let mut back = vec![0; content.len()];
    loop {
        let frame = connection.next().await;
        let header = frame.header;
        assert!(frame.intact);
        if header.attempt < attempt {
            // of the time before, and under way already
            assert_ne!(header.offset, not, "{header:?}");
            continue;
        }
        if header.kind == FrameKind::End {
            assert_eq!(header.digest, *blake3::hash(content).as_bytes());
            break;
        }
        assert_eq!(header.digest, chunk_digest(header.offset, &frame.payload));
        let at = usize::try_from(header.offset).unwrap();
        back[at..at + frame.payload.len()].copy_from_slice(&frame.payload);
        acknowledge(client, &header).await;
    }
    assert!(back == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_connection_had_is_read_again() {
    let server = Server::start();
    let (content, mut client, mut connection) = wanted(&server).await;
    for offset in 0..2 {
        assert_eq!(connection.next().await.header.offset, offset * FIRST);
    }
    drop(connection);
    let mut connection = Connection::new(&client, 2).await;
    receives_all(&mut client, &mut connection, (0, 0), &content).await;
}

/// Nothing but its content tells that the file is another: size and time are what they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_another_when_it_is_read_again_is_not_sent() {
    // in memory everything is at hand
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let server = Server::on(memory.path());
    let (mut content, mut client, mut connection) = wanted(&server).await;
    connection.next().await;
    // behind the first chunk the second was read: all of it has come
    let second = connection.next().await.header;
    assert_eq!(second.offset, FIRST);
    let file = File::options().write(true).open(server.root.join("f")).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    content[5] ^= 1;
    file.write_all_at(&content[5..6], 5).unwrap();
    file.set_modified(time).unwrap();
    drop(connection);
    let mut connection = Connection::new(&client, 2).await;
    let anew = changed(&mut client).await;
    assert_eq!((anew.attempt, anew.offer.unwrap().size), (1, content.len() as u64));
    client.transfer(1, want(1)).await;
    receives_all(&mut client, &mut connection, (1, 0), &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_cut_off_while_it_waits_is_void() {
    let server = Server::start();
    let (content, mut client, mut connection) = wanted(&server).await;
    let first = connection.next().await.header;
    assert_eq!(first.offset, 0);
    // the window, 4 MiB, has room for so many
    for offset in 1..15 {
        assert_eq!(connection.next().await.header.offset, offset * FIRST);
    }
    let file = File::options().write(true).open(server.root.join("f")).unwrap();
    let left = 15 * FIRST + 50_000;
    file.set_len(left).unwrap();
    acknowledge(&mut client, &first).await;
    let anew = changed(&mut client).await;
    assert_eq!((anew.attempt, anew.offer.unwrap().size), (1, left));
    client.transfer(1, want(1)).await;
    // nothing of the first attempt, and all of the second
    receives_all(&mut client, &mut connection, (1, 15 * FIRST), &content[..left as usize]).await;
}

/// What is not in the page cache is read ahead, by threads that may wait for the disk.
#[test]
fn what_has_to_come_from_the_disk_comes_too() {
    let server = Server::start();
    let client = server.client();
    let content = bytes(1, (9 << 20) + 5);
    for at in [server.root.join("f"), client.work().join("f")] {
        write(&at, &content);
        let file = File::open(&at).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    client.ok(["get", "srv:f", "got"]);
    client.ok(["put", "f", "srv:put"]);
    assert!(std::fs::read(client.work().join("got")).unwrap() == content);
    assert!(std::fs::read(server.root.join("put")).unwrap() == content);
}
