//! Compressed frames: what they save, when they are used, and what becomes of false ones.

use crate::support::messages::{offer, offered, offers, put, result, want, wanted};
use crate::support::proxy::{Proxy, Rules};
use crate::support::script::{ScriptedClient, ScriptedServer, against};
use crate::support::tree::{bytes, snapshot, write};
use crate::support::{Client, Server};
use haul::chunk::digest::{chunk_digest, whole_digest};
use haul::net::data::carry::{ReadFrames, WriteFrames};
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::net::wire::proto::{self, request, transfer_message};

const MIB: usize = 1 << 20;

/// Lines of a log: they take about a fifth when compressed.
fn text(length: usize) -> Vec<u8> {
    let noise = bytes(3, length / 7);
    let lines = noise.chunks(8).enumerate().flat_map(|(i, word)| {
        let word: String = word.iter().map(|b| char::from(b'a' + b % 16)).collect();
        format!(
            "2026-01-01T00:00:{:02} server[{i}]: the request {word} was answered\n",
            i % 60
        )
        .into_bytes()
    });
    lines.take(length).collect()
}

/// A client behind a proxy that counts.
fn counted(server: &Server, rate: Option<usize>) -> (Client, Proxy) {
    let rules = Rules {
        record: true,
        rate,
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, rules);
    (server.client_at(proxy.address), proxy)
}

/// The bytes that a command has on the wire, in both directions.
fn carried(proxy: &Proxy, client: &Client, command: &[&str]) -> usize {
    let before = proxy.recorded().len();
    client.ok(command);
    proxy.recorded().len() - before
}

#[test]
fn text_takes_a_part_of_the_wire_and_arrives_as_it_was() {
    let server = Server::start();
    let (client, proxy) = counted(&server, None);
    let work = client.work();
    write(&work.join("tree/big"), &text(5 * MIB + 12_345));
    write(&work.join("tree/mixed"), &[text(MIB), bytes(1, MIB)].concat());
    for i in 0..100 {
        write(&work.join(format!("tree/small/{i}")), &text(20_000 + 100 * i));
    }
    write(&work.join("tree/empty"), b"");
    write(&work.join("tree/tiny"), b"x");
    let whole = 10 * MIB;
    let put = carried(&proxy, &client, &["put", "-r", "--compress=3", "tree", "srv:"]);
    // what is compressed at once may be no more than a quarter of a chunk
    assert!(put < whole * 3 / 5, "{put}");
    let tree = snapshot(&work.join("tree"));
    assert_eq!(snapshot(&server.root.join("tree")), tree);
    let get = carried(&proxy, &client, &["get", "-r", "--compress=9", "srv:tree/", "back"]);
    assert!(get < whole * 3 / 5, "{get}");
    assert_eq!(snapshot(&work.join("back")), tree);
    let plain = carried(&proxy, &client, &["get", "-r", "--no-compress", "srv:tree/", "plain"]);
    assert!(plain > 9 * MIB, "{plain}");
    // a stream, and the summary
    let before = proxy.recorded().len();
    let ended =
        client.run_with(["put", "--json", "--compress=1", "-", "srv:stream"], &text(4 * MIB));
    let summary = ended.out.lines().last().map(serde_json::from_str::<serde_json::Value>);
    let saved = summary.unwrap().unwrap()["saved"].as_u64().unwrap();
    assert!(saved > 2 << 20, "{ended:?}");
    assert!(proxy.recorded().len() - before < 2 * MIB);
    assert_eq!(std::fs::read(server.root.join("stream")).unwrap(), text(4 * MIB));
}

#[test]
fn what_gets_no_smaller_travels_as_it_is() {
    let server = Server::start();
    let (client, proxy) = counted(&server, None);
    let random = bytes(9, 6 * MIB);
    write(&client.work().join("random"), &random);
    for level in ["-z", "--compress=3"] {
        let name = format!("srv:{level}");
        let put = carried(&proxy, &client, &["put", level, "random", &name]);
        assert!(put > 6 * MIB && put < 6 * MIB + 6 * MIB / 100 + 60_000, "{put}");
    }
    assert_eq!(std::fs::read(server.root.join("-z")).unwrap(), random);
}

#[test]
fn a_slow_link_is_noticed() {
    let server = Server::start();
    // a megabyte a second for each of four connections
    let (client, proxy) = counted(&server, Some(MIB));
    write(&client.work().join("big"), &text(24 * MIB));
    let by_itself = carried(&proxy, &client, &["put", "big", "srv:"]);
    assert!(by_itself < 16 * MIB, "{by_itself}");
    let get = carried(&proxy, &client, &["get", "-z", "srv:big", "back"]);
    assert!(get < 12 * MIB, "{get}");
    assert_eq!(std::fs::read(client.work().join("back")).unwrap(), text(24 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_the_feature_gets_no_compressed_frames() {
    // a client
    let server = Server::start();
    write(&server.root.join("f"), &text(2 * MIB));
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let get = proto::Get {
        transfer: 1,
        sources: vec![b"f".to_vec()],
        names: vec![b"f".to_vec()],
        options: Some(proto::Options {
            compression: proto::Compression::Level.into(),
            level: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(client.ask(2, request::Body::Get(get)).await.unwrap().code, 150);
    offered(&mut client).await;
    client.transfer(1, want(1)).await;
    let (mut reader, _writer) = client.data(&client.attach(1)).await.unwrap();
    let frame = loop {
        let frame = reader.next().await.unwrap().unwrap();
        if frame.header.kind == FrameKind::Chunk {
            break frame;
        }
    };
    assert_eq!((frame.header.unpacked, frame.payload.len()), (0, MIB / 4));
    // a server
    let server = ScriptedServer::start().await;
    let client = server.client();
    write(&client.work().join("f"), &text(2 * MIB));
    let url = server.url("f");
    let command = ["put", "--compress=3", "--connections=1", "f", &url];
    against(&client, &command, async {
        let mut peer = server.logged_in().await;
        let (number, _) = peer.request().await;
        peer.reply(number, 150, None).await;
        let (mut reader, _writer) = server.accept_data(None).await.unwrap();
        while !matches!(peer.message().await, Some(transfer_message::Body::Offers(_)) | None) {}
        peer.transfer(1, want(1)).await;
        let frame = reader.next().await.unwrap().unwrap();
        assert_eq!((frame.header.unpacked, frame.payload.len()), (0, MIB / 4));
    })
    .await;
}

/// A frame of file 1 of transfer 1, whose content is said to have this length.
fn packed(kind: FrameKind, payload: &[u8], unpacked: usize, digest: [u8; 32]) -> FrameHeader {
    FrameHeader {
        kind,
        transfer: 1,
        number: 1,
        length: payload.len() as u32,
        unpacked: unpacked as u32,
        digest,
        ..FrameHeader::bare(kind)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_frames_that_lie_end_the_session() {
    let server = Server::with(&["--session-grace", "0"]);
    let mib = vec![7; MIB];
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    // 256 MiB in a few KiB
    let bomb: Vec<u8> = (0..256).flat_map(|_| zstd(&mib)).collect();
    let (right, half) = (zstd(&mib), zstd(&mib[..MIB / 2]));
    let mut cut = right.clone();
    cut.pop();
    for (what, payload) in [
        ("a bomb", bomb),
        ("too short", half),
        ("cut off", cut),
        ("no zstd", vec![0x55; 1000]),
        ("a frame behind it", [right.clone(), zstd(b"more")].concat()),
    ] {
        for kind in [FrameKind::Chunk, FrameKind::File] {
            let mut client = ScriptedClient::connect(&server).await;
            client.login().await;
            assert_eq!(client.ask(2, put(1, b"f")).await.unwrap().code, 150);
            let size = if kind == FrameKind::Chunk { 2 << 20 } else { 1 << 20 };
            client
                .transfer(1, offers(vec![offer(1, 0, b"", proto::Kind::File, size)]))
                .await;
            wanted(&mut client).await;
            let (_reader, mut writer) = client.data(&client.attach(1)).await.unwrap();
            let digest = match kind {
                FrameKind::Chunk => chunk_digest(0, &mib),
                _ => whole_digest(&mib),
            };
            let header = packed(kind, &payload, MIB, digest);
            writer.write(&header, &payload).await.unwrap();
            writer.flush().await.unwrap();
            while client.receive().await.is_some() {}
            assert!(!server.root.join("f").exists(), "{what}");
        }
    }
    assert!(server.memory("VmHWM") < 80 << 10, "{} kB", server.memory("VmHWM"));
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_frame_is_verified_by_its_content() {
    let server = Server::with(&["--session-grace", "0"]);
    let content = text(100_000);
    let payload = zstd::bulk::compress(&content, 3).unwrap();
    for (digest, appears) in [([9; 32], false), (whole_digest(&content), true)] {
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        assert_eq!(client.ask(2, put(1, b"f")).await.unwrap().code, 150);
        let size = content.len() as u64;
        client
            .transfer(1, offers(vec![offer(1, 0, b"", proto::Kind::File, size)]))
            .await;
        wanted(&mut client).await;
        let (_reader, mut writer) = client.data(&client.attach(1)).await.unwrap();
        let header = packed(FrameKind::File, &payload, content.len(), digest);
        writer.write(&header, &payload).await.unwrap();
        writer.flush().await.unwrap();
        client.transfer(1, transfer_message::Body::End(proto::EndOfOffers {})).await;
        result(&mut client).await;
        assert_eq!(server.root.join("f").exists(), appears);
    }
    assert_eq!(std::fs::read(server.root.join("f")).unwrap(), content);
}

#[test]
fn a_level_that_is_none_is_refused() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"x");
    for level in ["0", "20", "fast", "-1", ""] {
        let ended = client.run(["put", &format!("--compress={level}"), "f", "srv:"]);
        assert_eq!(ended.code, 2, "{level}: {ended:?}");
    }
    client.ok(["put", "-rzP", "f", "srv:"]);
    client.ok(["put", "--compress", "f", "srv:g"]);
}
