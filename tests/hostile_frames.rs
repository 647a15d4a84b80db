//! Clients that misuse data connections: the server refuses, stays up, and does not disturb others.

use crate::support::Server;
use crate::support::messages::{ended, get, offer, offered, offers, put, result, want, wanted};
use crate::support::script::ScriptedClient;
use crate::support::tree::{bytes, write};
use haul::chunk::digest::chunk_digest;
use haul::net::data::carry::{ReadFrames, WriteFrames};
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::net::wire::proto::{self, control_message::Body, request, transfer_message};

/// A chunk of file 1 of transfer 1.
fn chunk(offset: u64, digest: [u8; 32], length: usize) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Chunk,
        transfer: 1,
        number: 1,
        offset,
        length: length as u32,
        digest,
        ..FrameHeader::bare(FrameKind::Chunk)
    }
}

type Frames<'a> = Vec<(FrameHeader, &'a [u8])>;

/// Frames for a file of 2 MiB that are no such file.
fn lies(mib: &[u8]) -> Vec<(&'static str, Frames<'_>)> {
    let right = |offset: u64, part: &[u8]| chunk(offset, chunk_digest(offset, part), part.len());
    let end = FrameHeader {
        kind: FrameKind::End,
        ..chunk(2 << 20, [9; 32], 0)
    };
    let short = mib.get(..5).unwrap();
    let second = (right(1 << 20, mib), mib);
    vec![
        ("a damaged chunk", vec![(chunk(0, [1; 32], 1 << 20), mib)]),
        (
            "a chunk after the end",
            vec![(right(8 << 20, short), short), (right(9 << 20, mib), mib)],
        ),
        ("a wrong root", vec![(right(0, mib), mib), second, (end, &[])]),
        ("an end too early", vec![second, (FrameHeader { offset: 1, ..end }, &[])]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_lie_never_make_a_file() {
    let server = Server::with(&["--session-grace", "0"]);
    write(&server.root.join("f"), b"old");
    let mib = bytes(1, 1 << 20);
    for (what, frames) in lies(&mib) {
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        assert_eq!(client.ask(2, put(1, b"f")).await.unwrap().code, 150);
        client
            .transfer(1, offers(vec![offer(1, 0, b"", proto::Kind::File, 2 << 20)]))
            .await;
        wanted(&mut client).await;
        let (_reader, mut writer) = client.data(&client.attach(1)).await.unwrap();
        for (header, payload) in frames {
            writer.write(&header, payload).await.unwrap();
        }
        writer.flush().await.unwrap();
        let result = result(&mut client).await;
        assert_eq!(
            (result.outcome, result.code),
            (proto::Outcome::Failed.into(), 500),
            "{what}: {result:?}"
        );
        assert_eq!(std::fs::read(server.root.join("f")).unwrap(), b"old", "{what}");
    }
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_withholds_a_chunk_cannot_fill_the_memory() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    assert_eq!(client.ask(2, put(1, b"f")).await.unwrap().code, 150);
    client
        .transfer(1, offers(vec![offer(1, 0, b"", proto::Kind::File, 1 << 40)]))
        .await;
    wanted(&mut client).await;
    let (mut reader, mut writer) = client.data(&client.attach(1)).await.unwrap();
    let mib = bytes(1, 1 << 20);
    // Chunk 0 never comes; the server writes chunks behind it, but not without end.
    let sending = async {
        for i in 1.. {
            let header = FrameHeader {
                kind: FrameKind::Chunk,
                transfer: 1,
                number: 1,
                offset: i << 20,
                length: 1 << 20,
                digest: chunk_digest(i << 20, &mib),
                ..FrameHeader::bare(FrameKind::Chunk)
            };
            if writer.write(&header, &mib).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
    };
    // the server's network may be ahead of its disk, and find out first: then the session is over
    let end = async {
        tokio::select! {
            () = sending => None,
            code = ended(&mut client) => code,
        }
    };
    let end = tokio::time::timeout(std::time::Duration::from_secs(60), end).await;
    match end.expect("all is taken") {
        Some(code) => assert_eq!(code, 500, "the transfer is over"),
        None => {
            assert!(!matches!(reader.next().await, Ok(Some(_))));
            assert!(
                client.receive().await.is_none() || ended(&mut client).await.is_none(),
                "the session is over"
            );
        }
    }
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_cannot_fill_the_memory_and_is_given_up() {
    let mut server = Server::with(&["--session-grace", "0"]);
    write(&server.root.join("f"), &bytes(1, 200 << 20));
    for n in 0..300 {
        write(&server.root.join(format!("many/a-rather-long-name-of-a-file-{n:04}")), b"");
    }
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    assert_eq!(client.ask(2, get(1, b"f")).await.unwrap().code, 150);
    let _data = client.data(&client.attach(1)).await.unwrap();
    offered(&mut client).await;
    client.transfer(1, want(1)).await;
    // from here on the client reads nothing, on either connection, and sends many requests
    let asking = async {
        for number in 3..200_000 {
            let list = proto::List {
                path: b"many".to_vec(),
                ..Default::default()
            };
            let body = Some(request::Body::List(list));
            client.send(Body::Request(proto::Request { number, body })).await;
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(15), asking).await;
    let peak = server.memory("VmHWM");
    assert!(peak < 150_000, "{peak} kB");
    // a connection that takes nothing for 20 s is lost
    tokio::time::sleep(std::time::Duration::from_secs(22)).await;
    server.still_serves();
    let log = server.log();
    assert!(log.contains("control connection lost"), "{log}");
}

/// A client says goodbye on a data connection: frames under way still arrive, and none twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_of_one_connection_takes_nothing_from_a_transfer() {
    const SIZE: usize = 24 << 20;
    let server = Server::start();
    write(&server.root.join("f"), &bytes(1, SIZE));
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    assert_eq!(client.ask(2, get(1, b"f")).await.unwrap().code, 150);
    let (send, mut frames) = tokio::sync::mpsc::unbounded_channel();
    let mut writers = Vec::new();
    for n in 1..=2 {
        let (mut reader, writer) = client.data(&client.attach(n)).await.unwrap();
        writers.push(writer);
        let send = send.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = reader.next().await {
                let _ = send.send((n, frame.header));
            }
        });
    }
    drop(send);
    offered(&mut client).await;
    client.transfer(1, want(1)).await;
    let (mut seen, mut goodbye, mut complete) = (std::collections::BTreeMap::new(), false, false);
    while !(goodbye && complete)
        && let Some((connection, header)) = frames.recv().await
    {
        match header.kind {
            FrameKind::Chunk => {
                let twice = seen.insert(header.offset, header.length as usize);
                assert_eq!(twice, None, "{} came twice", header.offset);
                assert!(!(goodbye && connection == 2), "a frame after the goodbye");
                let ack = proto::Ack {
                    number: 1,
                    offset: header.offset,
                    length: u64::from(header.length),
                };
                let acks = proto::Acks { acks: vec![ack] };
                client.transfer(1, transfer_message::Body::Acks(acks)).await;
                if seen.len() == 3 {
                    let writer = &mut writers[1];
                    writer.write(&FrameHeader::bare(FrameKind::Goodbye), &[]).await.unwrap();
                    writer.flush().await.unwrap();
                }
            }
            FrameKind::Goodbye => {
                assert_eq!(connection, 2, "only the one that was said goodbye to");
                goodbye = true;
            }
            FrameKind::End => complete = true,
            _ => {}
        }
    }
    assert_eq!(seen.values().sum::<usize>(), SIZE);
    assert!(goodbye, "the server answers");
    assert!(complete, "and continues over the other");
    server.still_serves();
}
