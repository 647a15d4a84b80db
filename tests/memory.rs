//! `--max-memory` is a promise: every kind of message and frame, as many as a server takes.

use crate::support::Server;
use crate::support::floods::{Kind, messages, requests};
use crate::support::messages::{offer, offered, offers, wanted};
use crate::support::script::ScriptedClient;
use crate::support::tree::{staged, write};
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::net::wire::proto::{self, control_message::Body, request};
use rustix::fs::FlockOperation;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// The memory that the server may use for sessions, and that of the process besides, in kB.
const MOST: &str = "16M";
const MOST_KB: u64 = 16 << 10;
const PROCESS_KB: u64 = 24 << 10;
/// Bytes of each kind that a session sends, if the server takes them.
const FLOOD: usize = 24 << 20;
/// A server that takes nothing for this long waits for its own memory.
const BLOCKED: Duration = Duration::from_secs(1);
/// In which a server answers a large request.
const UNDER_WAY: Duration = Duration::from_secs(60);

/// Sends a flood of messages of a kind, until the server hangs up or takes no more.
async fn flood(client: &mut ScriptedClient, kind: &Kind) {
    let mut sent = 0;
    for index in 0.. {
        let mut batch = kind.1(index);
        if batch.len() < 1000 {
            // small ones, many at once
            batch = (0..1000).flat_map(|n| kind.1(1000 * index + n)).collect();
        }
        sent += batch.len().max(64 << 10);
        let send = async {
            client.tls.write_all(&batch).await?;
            client.tls.flush().await
        };
        match timeout(BLOCKED, send).await {
            Ok(Ok(())) if sent < FLOOD => {}
            _ => return,
        }
    }
}

/// A put into the root, which waits for locks, with its first directory offered.
async fn begin(client: &mut ScriptedClient) {
    let put = proto::Put {
        transfer: 1,
        names: vec![Vec::new()],
        options: Some(proto::Options {
            recursive: true,
            wait_ms: Some(3_600_000),
            ..Default::default()
        }),
        ..Default::default()
    };
    let reply = client.ask(2, request::Body::Put(put)).await.unwrap();
    assert_eq!(reply.code, 150, "{reply:?}");
    let dir = offer(1, 0, b"", proto::Kind::Dir, 0);
    client.transfer(1, offers(vec![dir])).await;
}

/// The work that a flood waits behind.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    /// A request that takes long.
    Request,
    /// A transfer that waits for a lock.
    Transfer,
}

/// Runs each kind against a server of its own, of which one session gets all the memory.
async fn run(kinds: Vec<Kind>, behind: Behind) {
    for kind in kinds {
        let server = Server::with(&["--max-memory", MOST, "--session-grace", "0"]);
        for n in 0..400 {
            write(&server.root.join(format!("many/a-rather-long-name-{n:04}")), b"");
        }
        let locked = std::fs::File::create(staged(&server.root.join("locked"))).unwrap();
        rustix::fs::flock(&locked, FlockOperation::LockExclusive).unwrap();
        // hashing this takes longer than the flood: requests behind it wait
        let huge = std::fs::File::create(server.root.join("huge")).unwrap();
        huge.set_len(1 << 42).unwrap();
        let mut session = ScriptedClient::connect(&server).await;
        session.login().await;
        if behind == Behind::Transfer {
            begin(&mut session).await;
        } else {
            let (path, hash) = (b"huge".to_vec(), true);
            let stat = request::Body::Stat(proto::Stat { path, hash });
            let body = Some(stat);
            session.send(Body::Request(proto::Request { number: 2, body })).await;
        }
        flood(&mut session, &kind).await;
        within(&server, kind.0);
    }
}

#[track_caller]
fn within(server: &Server, what: &str) {
    let peak = server.memory("VmHWM");
    println!("{what}: {peak} kB");
    assert!(peak < MOST_KB + PROCESS_KB, "{what}: {peak} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_kind_stay_within_the_memory() {
    run(requests(), Behind::Request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_kind_stay_within_the_memory() {
    run(messages(), Behind::Transfer).await;
}

/// Chunks that never become complete, over as many connections as allowed, and very many small
/// files that wait for a lock.
#[tokio::test(flavor = "multi_thread")]
async fn frames_stay_within_the_memory() {
    let server = Server::with(&["--max-memory", MOST, "--session-grace", "0"]);
    let mut session = ScriptedClient::connect(&server).await;
    session.login().await;
    begin(&mut session).await;
    let file = offer(2, 1, b"a", proto::Kind::File, 64 << 20);
    session.transfer(1, offers(vec![file])).await;
    wanted(&mut session).await;
    let mut connections = Vec::new();
    for connection in 1..=32 {
        // the session may be over by now: it has too much under way
        let Some((reader, mut writer)) = session.data(&session.attach(connection)).await else {
            break;
        };
        let header = FrameHeader {
            transfer: 1,
            number: 2,
            length: 1 << 20,
            offset: u64::from(connection) << 20,
            ..FrameHeader::bare(FrameKind::Chunk)
        };
        let sent = async {
            writer.write_raw(&header.encode()).await?;
            writer.write_raw(&vec![7; (1 << 20) - 1]).await
        };
        let _ = timeout(BLOCKED, sent).await;
        connections.push((reader, writer));
    }
    within(&server, "chunks");
}

/// A read-only user requests the same sources repeatedly, and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn transfers_of_many_sources_stay_within_the_memory() {
    let server = Server::with(&["--max-memory", MOST, "--session-grace", "0"]);
    for n in 0..3000 {
        write(&server.root.join(format!("d{}/a-rather-long-name-{n:04}", n % 10)), b"");
    }
    let mut session = ScriptedClient::connect(&server).await;
    session.login().await;
    for transfer in 0..64 {
        let sources = (0..4096).map(|n| format!("d{}", n % 10).into_bytes()).collect();
        let get = proto::Get {
            transfer,
            sources,
            options: Some(proto::Options {
                recursive: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let body = Some(request::Body::Get(get));
        let number = 2 + u64::from(transfer);
        let request = Body::Request(proto::Request { number, body });
        if timeout(BLOCKED, session.send(request)).await.is_err() {
            break;
        }
    }
    // a transfer ends up with offers that the client does not settle, or waits for memory
    let _ = timeout(BLOCKED, offered(&mut session)).await;
    within(&server, "sources");
}

/// A user copies the same trees within the server repeatedly, and takes no report.
#[tokio::test(flavor = "multi_thread")]
async fn copies_within_the_server_stay_within_the_memory() {
    let server = Server::with(&["--max-memory", "64M", "--session-grace", "0"]);
    for n in 0..3000 {
        write(
            &server.root.join(format!("d{}/a-rather-long-name-{n:04}", n % 10)),
            &[7; 9000],
        );
    }
    let mut session = ScriptedClient::connect(&server).await;
    session.login().await;
    let mut started = 0;
    for transfer in 0..16 {
        let copy = proto::Copy {
            transfer,
            sources: (0..4096).map(|n| format!("d{}", n % 10).into_bytes()).collect(),
            names: (0..4096).map(|n| format!("{n}").into_bytes()).collect(),
            destination: format!("to{transfer}").into_bytes(),
            if_missing: proto::IfMissing::Make.into(),
            each: true,
            options: Some(proto::Options {
                recursive: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let number = 2 + u64::from(transfer);
        // one that waits for memory has no answer, and the first one does not wait
        let limit = if started == 0 { UNDER_WAY } else { BLOCKED };
        match timeout(limit, session.ask(number, request::Body::Copy(copy))).await {
            Ok(reply) => {
                let code = reply.unwrap().code;
                assert!([150, 421].contains(&code), "{code}");
                started += u32::from(code == 150);
            }
            Err(_) => break,
        }
    }
    assert!((1..=4).contains(&started), "{started}");
    let peak = server.memory("VmHWM");
    assert!(peak < (64 << 10) + PROCESS_KB, "{peak} kB");
}
