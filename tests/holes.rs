//! Holes of files are kept: they are not sent, and take no room where they arrive.

use crate::support::messages::{offer, offers, put, result, wanted};
use crate::support::proxy::{Proxy, Rules};
use crate::support::script::ScriptedClient;
use crate::support::tree::{bytes, record_of, staged, write};
use crate::support::{Client, Ended, Server, until};
use haul::chunk::hole::MAX_HOLE;
use haul::net::data::carry::WriteFrames;
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::net::wire::proto;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const MIB: u64 = 1 << 20;

/// A file of `size` bytes with holes between what is written at these offsets.
fn sparse(path: &Path, size: u64, data: &[(u64, Vec<u8>)]) {
    let file = File::create(path).unwrap();
    for (offset, bytes) in data {
        file.write_all_at(bytes, *offset).unwrap();
    }
    file.set_len(size).unwrap();
    file.sync_all().unwrap();
    assert!(stored(path) < size, "this file system keeps holes");
}

/// Bytes that a file takes on the disk.
fn stored(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.blocks() * 512)
}

fn hash(path: &Path) -> String {
    let (mut file, mut hasher) = (File::open(path).unwrap(), blake3::Hasher::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hasher.finalize().to_hex().to_string(),
            n => hasher.update(&piece[..n]),
        };
    }
}

/// The event of this kind.
#[track_caller]
fn event(ended: &Ended, kind: &str) -> serde_json::Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    let events = ended
        .out
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let mut found = events.filter(|e| e["event"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind}: {ended:?}"))
}

fn slow(rate: u64) -> Rules {
    Rules {
        rate: Some(rate as usize),
        ..Rules::default()
    }
}

#[test]
fn holes_are_kept_and_cost_nothing_on_the_way() {
    let server = Server::start();
    let recording = Rules {
        record: true,
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, recording);
    let client = server.client_at(proxy.address);
    let (source, there, back) =
        (client.work().join("f"), server.root.join("f"), client.work().join("b"));
    // data within a chunk, across the border of two, and a hole that does not end where a chunk
    // does
    let size = 3072 * MIB + 12_345;
    let data = [
        (0, bytes(1, 5000)),
        (700 * MIB + 12_345, bytes(2, 100_000)),
        (1501 * MIB - 3000, bytes(3, 6000)),
        (2000 * MIB, bytes(4, 2 * MIB as usize)),
    ];
    sparse(&source, size, &data);
    let expected = hash(&source);
    let room = stored(&source) + 64 * 1024;
    for (arguments, to) in [
        (["put", "--json", "f", "srv:f"], &there),
        (["get", "--json", "srv:f", "b"], &back),
    ] {
        let before = proxy.recorded().len();
        let file = event(&client.run(arguments), "file");
        assert_eq!(
            (file["hash"].as_str(), file["size"].as_u64()),
            (Some(&*expected), Some(size))
        );
        assert_eq!(hash(to), expected);
        assert!(stored(to) <= room, "{} of {room}", stored(to));
        let moved = (proxy.recorded().len() - before) as u64;
        // seven chunks have data
        assert!(moved < 8 * MIB, "{moved} bytes");
    }
}

#[test]
fn a_killed_put_resumes_behind_a_hole() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(4 * MIB));
    let client = server.client_at(proxy.address);
    let (source, target) = (client.work().join("f"), server.root.join("f"));
    let size = 1100 * MIB;
    sparse(
        &source,
        size,
        &[(MIB, bytes(1, 100)), (1024 * MIB, bytes(2, 30 * MIB as usize))],
    );
    let put = client.spawn(["put", "f", "srv:"]);
    until("the hole is behind it", || {
        std::fs::metadata(staged(&target)).is_ok_and(|m| m.len() > 1030 * MIB)
    });
    put.kill();
    let before = proxy.sent();
    let ended = client.run(["put", "--json", "f", "srv:"]);
    let offset = event(&ended, "resumed")["offset"].as_u64().unwrap();
    assert!(offset >= 1028 * MIB, "{offset}");
    assert!((proxy.sent() - before) as u64 <= 28 * MIB);
    assert_eq!(event(&ended, "file")["hash"], hash(&source));
    assert_eq!(hash(&target), hash(&source));
    assert!(stored(&target) <= stored(&source) + 64 * 1024);
}

#[test]
fn a_killed_get_resumes_within_a_hole_and_behind_it() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(8 * MIB));
    let client = server.client_at(proxy.address);
    let (source, target) = (server.root.join("f"), client.work().join("f"));
    let size = 4096 * MIB;
    sparse(&source, size, &[(3072 * MIB, bytes(2, 60 * MIB as usize))]);
    let get = client.spawn(["get", "srv:f", "."]);
    let record = record_of(&target);
    until("the record says that something is durable", || {
        let text = std::fs::read(&record).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let offsets = text.split("\"offset\":").skip(1);
        offsets.into_iter().any(|rest| !rest.starts_with("0,"))
    });
    get.kill();
    let ended = client.run(["get", "--json", "srv:f", "."]);
    assert!(event(&ended, "resumed")["offset"].as_u64().unwrap() > 0);
    assert_eq!(event(&ended, "file")["hash"], hash(&source));
    assert_eq!(hash(&target), hash(&source));
    assert!(stored(&target) <= stored(&source) + 64 * 1024);
}

/// A file of at most a chunk travels whole; its blocks of zeros are holes again. Zeros that the
/// source stores are stored.
#[test]
fn small_files_keep_their_holes_and_dense_ones_stay_dense() {
    let server = Server::start();
    let client = server.client();
    let work = client.work().join("there");
    std::fs::create_dir(&work).unwrap();
    std::fs::create_dir(client.work().join("back")).unwrap();
    let sized = |size: u64| (format!("sparse-{size}"), format!("dense-{size}"));
    // with its offer, in one frame, in chunks
    let sizes = [16 << 10, 900 << 10, 3 * MIB + 100];
    for size in sizes {
        let (holes, dense) = sized(size);
        sparse(&work.join(&holes), size, &[(8192, b"x".to_vec())]);
        write(&work.join(&dense), &vec![0; size as usize]);
        File::open(work.join(&dense)).unwrap().sync_all().unwrap();
    }
    client.ok(["put", "-r", "there", "srv:"]);
    client.ok(["get", "-r", "srv:there", "back"]);
    for size in sizes {
        let (holes, dense) = sized(size);
        for place in [server.root.join("there"), client.work().join("back/there")] {
            assert_eq!(stored(&place.join(&holes)), stored(&work.join(&holes)), "{holes}");
            assert_eq!(stored(&place.join(&dense)), stored(&work.join(&dense)), "{dense}");
            for name in [&holes, &dense] {
                assert_eq!(hash(&place.join(name)), hash(&work.join(name)), "{name}");
            }
        }
    }
}

#[test]
fn a_hole_goes_to_standard_output_as_zeros() {
    let server = Server::start();
    let client: Client = server.client();
    sparse(&server.root.join("f"), 5 * MIB + 7, &[(4 * MIB, b"data".to_vec())]);
    let mut command = client.command(["get", "srv:f", "-"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout == std::fs::read(server.root.join("f")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_that_lie_never_make_a_file() {
    let server = Server::with(&["--session-grace", "0"]);
    write(&server.root.join("f"), b"old");
    let bare = |offset| FrameHeader {
        transfer: 1,
        number: 1,
        offset,
        ..FrameHeader::bare(FrameKind::Hole)
    };
    let hole = |offset, length| FrameHeader::of_hole(bare(offset), length);
    let seal = |digest| FrameHeader {
        kind: FrameKind::End,
        digest,
        ..bare(2 * MIB)
    };
    let cases = [
        ("beyond the size", vec![hole(MIB, MAX_HOLE)]),
        ("far behind it", vec![hole(1 << 40, MIB)]),
        ("over another one", vec![hole(MIB, MIB), hole(0, 2 * MIB)]),
        ("of another hash", vec![hole(0, 2 * MIB), seal([1; 32])]),
    ];
    for (what, frames) in cases {
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        assert_eq!(client.ask(2, put(1, b"f")).await.unwrap().code, 150);
        client
            .transfer(1, offers(vec![offer(1, 0, b"", proto::Kind::File, 2 * MIB)]))
            .await;
        wanted(&mut client).await;
        let (_reader, mut writer) = client.data(&client.attach(1)).await.unwrap();
        for header in frames {
            writer.write(&header, &[]).await.unwrap();
        }
        writer.flush().await.unwrap();
        let result = result(&mut client).await;
        let failed = (proto::Outcome::Failed.into(), 500);
        assert_eq!((result.outcome, result.code), failed, "{what}: {result:?}");
        assert_eq!(std::fs::read(server.root.join("f")).unwrap(), b"old", "{what}");
    }
}
