//! `--max-memory` is a promise: every kind of message and frame, as many as a server takes.

use crate::support::Server;
use crate::support::script::{ScriptedClient, offer, offered, offers, wanted};
use crate::support::tree::{staged, write};
use haul::chunk::digest::whole_digest;
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::net::wire::proto::{self, control_message::Body, request, transfer_message};
use prost::Message;
use rustix::fs::FlockOperation;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// What the server may use for sessions, and what the process takes besides, in kB.
const MOST: &str = "16M";
const MOST_KB: u64 = 16 << 10;
const PROCESS_KB: u64 = 24 << 10;
/// Bytes of each kind that a session sends, if the server takes them.
const FLOOD: usize = 24 << 20;
/// A server that takes nothing for this long waits for its own memory.
const BLOCKED: Duration = Duration::from_secs(1);

/// A field of /proc/PID/status, in kB.
fn memory(server: &Server, field: &str) -> u64 {
    let path = format!("/proc/{}/status", server.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Makes the message with this index, as it travels; requests are numbered from 10 on.
type Kind = (&'static str, Box<dyn Fn(u64) -> Vec<u8> + Send + Sync>);

fn encoded(body: Body) -> Vec<u8> {
    let message = proto::ControlMessage { body: Some(body) }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&length[..], &message].concat()
}

fn of_request(name: &'static str, body: impl Fn() -> request::Body + Send + Sync + 'static) -> Kind {
    let make = move |index| {
        encoded(Body::Request(proto::Request {
            number: 10 + index,
            body: Some(body()),
        }))
    };
    (name, Box::new(make))
}

fn of_transfer(name: &'static str, body: impl Fn(u64) -> transfer_message::Body + Send + Sync + 'static) -> Kind {
    let make = move |index| {
        encoded(Body::Transfer(proto::TransferMessage {
            transfer: 1,
            body: Some(body(index)),
        }))
    };
    (name, Box::new(make))
}

/// The same message again and again.
fn always(name: &'static str, body: transfer_message::Body) -> Kind {
    let (_, make) = of_transfer(name, move |_| body.clone());
    let bytes = make(0);
    (name, Box::new(move |_| bytes.clone()))
}

/// As long as one field may be.
fn long() -> Vec<u8> {
    vec![b'x'; 1_000_000]
}

fn text() -> String {
    String::from_utf8(long()).unwrap()
}

/// Every request, with as much in it as fits.
fn requests() -> Vec<Kind> {
    use request::Body as R;
    vec![
        of_request("login", || {
            R::Login(proto::Login {
                user: text(),
                ..Default::default()
            })
        }),
        of_request("enroll", || {
            R::Enroll(proto::Enroll {
                code: long(),
                ..Default::default()
            })
        }),
        of_request("cd", || R::ChangeDirectory(proto::ChangeDirectory { path: long() })),
        of_request("stat", || {
            R::Stat(proto::Stat {
                path: long(),
                hash: true,
            })
        }),
        of_request("list", || {
            R::List(proto::List {
                cookie: long(),
                ..Default::default()
            })
        }),
        of_request("listing", || {
            R::List(proto::List {
                path: b"many".to_vec(),
                ..Default::default()
            })
        }),
        of_request("mkdir", || {
            R::MakeDirectory(proto::MakeDirectory {
                path: long(),
                parents: true,
            })
        }),
        of_request("rm", || {
            R::Remove(proto::Remove {
                path: long(),
                recursive: true,
            })
        }),
        of_request("mv", || {
            R::Rename(proto::Rename {
                from: long()[..500_000].into(),
                to: long()[..500_000].into(),
                ..Default::default()
            })
        }),
        of_request("df", || R::Space(proto::Space { path: long() })),
        of_request("put: names", || {
            R::Put(proto::Put {
                transfer: 7,
                names: vec![Vec::new(); 500_000],
                ..Default::default()
            })
        }),
        of_request("put: source_ids", || {
            R::Put(proto::Put {
                transfer: 7,
                source_ids: vec![String::new(); 4096],
                ..Default::default()
            })
        }),
        of_request("get: destination_ancestors", || {
            R::Get(proto::Get {
                transfer: 7,
                destination_ancestors: vec![String::new(); 500_000],
                ..Default::default()
            })
        }),
        of_request("noop", || R::Noop(proto::Noop {})),
        of_request("reattach", || {
            R::Reattach(proto::Reattach {
                proof: long(),
                ..Default::default()
            })
        }),
        of_request("locks", || {
            R::Locks(proto::Locks {
                cookie: long(),
                ..Default::default()
            })
        }),
        of_request("unlock", || {
            R::Unlock(proto::Unlock {
                path: long(),
                force: true,
            })
        }),
    ]
}

/// Each message of a transfer, with as many entries as fit and as are allowed.
fn messages() -> Vec<Kind> {
    use transfer_message::Body as T;
    vec![
        always("offers: as many as fit", offers(vec![proto::Offer::default(); 500_000])),
        of_transfer("offers: content", |index| {
            let content = vec![7; 16 << 10];
            let digest = whole_digest(&content).to_vec();
            let file = |n| proto::Offer {
                content: content.clone(),
                digest: digest.clone(),
                ..offer(2 + 60 * index + n, 1, b"locked", proto::Kind::File, 16 << 10)
            };
            offers((0..60).map(file).collect())
        }),
        of_transfer("offers: targets", |index| {
            let link = |n| proto::Offer {
                target: vec![b't'; 4000],
                ..offer(2 + 240 * index + n, 1, b"locked", proto::Kind::Symlink, 0)
            };
            offers((0..240).map(link).collect())
        }),
        of_transfer("offers: versions", |index| {
            let file = |n| proto::Offer {
                version: "v".repeat(250),
                ..offer(2 + 1000 * index + n, 1, b"locked", proto::Kind::File, 1 << 40)
            };
            offers((0..1000).map(file).collect())
        }),
        of_transfer("offers: directories", |index| {
            let dir = |n| offer(2 + 1000 * index + n, 1, &[b'd'; 250], proto::Kind::Dir, 0);
            offers((0..1000).map(dir).collect())
        }),
        of_transfer("offers: names that fail", |index| {
            let name = [b'n'; 256];
            let file = |n| offer(2 + 1000 * index + n, 1, &name, proto::Kind::File, 0);
            offers((0..1000).map(file).collect())
        }),
        always("wants", {
            let wants = vec![proto::Want::default(); 4096];
            T::Wants(proto::Wants { wants })
        }),
        always("digests", {
            let want = proto::Want {
                digests: vec![Vec::new(); 500_000],
                ..Default::default()
            };
            T::Wants(proto::Wants { wants: vec![want] })
        }),
        always("acks", {
            let acks = vec![proto::Ack::default(); 500_000];
            T::Acks(proto::Acks { acks })
        }),
        always("results", {
            let results = vec![proto::Result::default(); 500_000];
            T::Results(proto::Results { results })
        }),
        always("withdrawals", {
            let withdrawals = vec![proto::Withdrawal::default(); 4096];
            T::Withdrawals(proto::Withdrawals { withdrawals })
        }),
        always("changed", {
            T::Changed(proto::Changed {
                offer: Some(proto::Offer {
                    content: long(),
                    ..Default::default()
                }),
                attempt: 1,
            })
        }),
        always("end", T::End(proto::EndOfOffers {})),
        always("finished", T::Finished(proto::Finished {})),
        always(
            "cancel",
            T::Cancel(proto::Cancel {
                code: 500,
                text: text(),
            }),
        ),
        (
            "reply",
            Box::new(|_| {
                let text = text();
                encoded(Body::Reply(proto::Reply {
                    text,
                    ..Default::default()
                }))
            }),
        ),
        (
            "heartbeat",
            Box::new(|_| encoded(Body::Heartbeat(proto::Heartbeat { received: 0 }))),
        ),
    ]
}

/// Sends messages of a kind, as many as make up the flood, until the server hangs up or takes no more.
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

/// Runs each kind against a server of its own, of which one session gets all the memory.
async fn run(kinds: Vec<Kind>, is_transfer: bool) {
    for kind in kinds {
        let server = Server::with(&["--max-memory", MOST, "--session-grace", "0"]);
        for n in 0..400 {
            write(&server.root.join(format!("many/a-rather-long-name-{n:04}")), b"");
        }
        let locked = std::fs::File::create(staged(&server.root.join("locked"))).unwrap();
        rustix::fs::flock(&locked, FlockOperation::LockExclusive).unwrap();
        // hashing this takes longer than the flood: what comes behind it waits
        let huge = std::fs::File::create(server.root.join("huge")).unwrap();
        huge.set_len(1 << 42).unwrap();
        let mut session = ScriptedClient::connect(&server).await;
        session.login().await;
        if is_transfer {
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
    let peak = memory(server, "VmHWM");
    println!("{what}: {peak} kB");
    assert!(peak < MOST_KB + PROCESS_KB, "{what}: {peak} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_kind_stay_within_the_memory() {
    run(requests(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_kind_stay_within_the_memory() {
    run(messages(), true).await;
}

/// Chunks that never become complete, over as many connections as there may be, and very many small files that wait for
/// a lock.
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

/// A read-only user asks for the same sources again and again, and answers nothing.
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
    // a transfer is as far as it gets when it offers what nobody settles, or waits for memory
    let _ = timeout(BLOCKED, offered(&mut session)).await;
    within(&server, "sources");
}
