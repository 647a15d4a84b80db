//! Sources that differ from their offers: changed with their times set back, or of another size
//! than they say.

use crate::support::frames::{Connection, acknowledge, changed};
use crate::support::messages::{get, offered, want};
use crate::support::script::{ScriptedClient, ScriptedServer};
use crate::support::tree::{bytes, write};
use crate::support::{Client, Ended, Server, run_with, under};
use haul::net::wire::frame::FrameKind;
use haul::net::wire::proto::{self, transfer_message};
use std::fs::{File, FileTimes};
use std::io::Write;
use std::path::Path;

/// Overwrites a file with as many other bytes and sets its modification time back. Only its change
/// time, which no program can set, reveals it.
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
    let mut came = u64::from(first.header.length);
    while came < 8 << 20 {
        let frame = connection.next().await;
        assert_eq!((frame.header.kind, frame.header.attempt), (FrameKind::Chunk, 0));
        came += u64::from(frame.header.length);
        acknowledge(&mut client, &frame.header).await;
    }
    let changed = tokio::select! {
        changed = changed(&mut client) => changed,
        frame = connection.next() => panic!("the mixture is complete: {:?}", frame.header),
    };
    assert_eq!((changed.attempt, changed.offer.unwrap().number), (1, 1));
    client.transfer(1, want(1)).await;
    let (content, mut came) = (bytes(2, 8 << 20), 0);
    while came < content.len() {
        let frame = connection.next().await;
        assert_eq!((frame.header.attempt, frame.header.offset), (1, came as u64));
        let chunk = &content[came..][..frame.payload.len()];
        assert!(*frame.payload == *chunk, "{:?}", frame.header);
        came += chunk.len();
        acknowledge(&mut client, &frame.header).await;
    }
    assert_eq!(connection.next().await.header.kind, FrameKind::End);
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
    assert_eq!((frame.header.kind, frame.header.attempt), (FrameKind::File, 1));
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

/// Files that have not as many bytes as their size says: the file system, and the path in there.
const LYING: [(&str, &str); 3] = [
    ("/proc", "devices"),
    ("/proc", "kallsyms"),
    ("/sys", "kernel/mm/transparent_hugepage/enabled"),
];

/// The content of a file; `None` if it does not exist.
fn content(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

#[test]
fn files_that_lie_about_their_size_are_sent_to_their_end() {
    let server = Server::start();
    let client = server.client();
    for options in [&["-q"][..], &["-q", "--checksum"]] {
        for (top, path) in LYING {
            let source = Path::new(top).join(path);
            let Some(right) = content(&source) else {
                continue;
            };
            let serving = Server::on(Path::new(top));
            let getter = serving.client();
            // as a haul that did not read them would have written them
            let (put, got) = (server.root.join("f"), getter.work().join("f"));
            let time = source.metadata().unwrap().modified().unwrap();
            for empty in [&put, &got] {
                File::create(empty).unwrap().set_modified(time).unwrap();
            }
            client.ok([&["put", source.to_str().unwrap(), "srv:f"][..], options].concat());
            getter.ok([&["get", &format!("srv:{path}"), "f"][..], options].concat());
            assert!(content(&put).unwrap() == right, "put {options:?} {}", source.display());
            assert!(content(&got).unwrap() == right, "get {options:?} {}", source.display());
            let output = getter.run(["get", &format!("srv:{path}"), "-"]);
            assert_eq!(output.code, 0, "{output:?}");
            assert!(output.bytes == right, "{}", source.display());
        }
    }
    let devices = content(Path::new("/proc/devices")).unwrap();
    let shown = client.ok(["put", "--json", "/proc/devices", "srv:"]);
    let event: serde_json::Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert_eq!(event["size"], devices.len());
    assert_eq!(event["hash"], blake3::hash(&devices).to_hex().to_string());
}

/// More of them than go with their offers, into a tree where empty ones are that look the same.
#[test]
fn many_files_that_lie_about_their_size_are_never_taken_for_unchanged() {
    let server = Server::start();
    let client = server.client();
    let source = Path::new("/proc/sys/net/ipv4/conf");
    let files = |top: &Path| {
        let all = walkdir::WalkDir::new(top).into_iter().map(Result::unwrap);
        all.filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.into_path())
            .collect::<Vec<_>>()
    };
    let count = files(source).len();
    for _ in 0..2 {
        client.ok(["put", "-r", "/proc/sys/net/ipv4/conf", "srv:"]);
        let there = files(&server.root);
        assert_eq!(there.len(), count);
        for file in there {
            let of = source.join(file.strip_prefix(server.root.join("conf")).unwrap());
            assert_eq!(content(&file), content(&of), "{}", of.display());
            let time = of.metadata().unwrap().modified().unwrap();
            File::create(&file).unwrap().set_modified(time).unwrap();
        }
    }
}

/// Runs a line of bash, in which `haul` is `"$0"`.
fn bash(client: &Client, line: &str, input: &[u8]) -> Ended {
    let shell = ["bash", "-c", line].map(str::to_string);
    Ended::of(run_with(under(client.command([""; 0]), &shell), input))
}

#[test]
fn streams_are_given_by_path_too() {
    let server = Server::start();
    let client = server.client();
    let large = bytes(1, (2 << 20) + 5);
    write(&client.work().join("large"), &large);
    std::fs::create_dir(server.root.join("d")).unwrap();
    let lines: [(&str, &[u8], &[u8]); 7] = [
        (r#""$0" put /dev/stdin srv:x"#, &large, &large),
        (r#""$0" put /dev/fd/0 srv:x"#, b"", b""),
        (r#""$0" put /dev/stdin srv:x < large"#, b"", &large),
        (r#""$0" put <(cat large) srv:x"#, b"", &large),
        (r#""$0" put -r <(printf abc) srv:x"#, b"", b"abc"),
        (r#""$0" put /proc/self/fd/7 srv:x 7< large"#, b"", &large),
        (r#""$0" put <(printf abc; rm large) srv:x"#, b"", b"abc"),
    ];
    for (line, input, right) in lines {
        let put = bash(&client, line, input);
        assert_eq!(put.code, 0, "{line}: {put:?}");
        assert!(content(&server.root.join("x")).unwrap() == right, "{line}");
        std::fs::remove_file(server.root.join("x")).unwrap();
    }
    bash(&client, r#""$0" put <(printf abc) srv:"#, b"").failed(2, &["a file name", "srv:NAME"]);
    bash(&client, r#""$0" put <(printf abc) srv:d/"#, b"")
        .failed(2, &["a file name", "srv:d/NAME"]);
    bash(&client, r#""$0" put <(printf 1) <(printf 2) srv:x"#, b"").failed(2, &["put alone"]);
    bash(&client, r#""$0" put /dev/fd/99 srv:x"#, b"").failed(8, &["/dev/fd/99", "o such file"]);
    // a directory is one, whatever its path
    client.ok(["mkdir", "srv:e"]);
    let tree = bash(&client, r#"mkdir t; touch t/a; "$0" put -r /dev/fd/7/. srv:e 7< t"#, b"");
    assert_eq!(tree.code, 0, "{tree:?}");
    assert!(server.root.join("e/a").exists());
}

/// Sources `a`, `b` and `c`, of which some have an entry of the same name: path and content.
const OVERLAPPING: [(&str, &str); 12] = [
    ("a/same", "a"),
    ("a/only-a", "a"),
    ("a/dir/same", "a"),
    ("a/dir/only-a", "a"),
    ("a/file-here", "a"),
    ("a/c", "a"),
    ("b/same", "longer"),
    ("b/only-b", "b"),
    ("b/dir/same", "longer"),
    ("b/dir/only-b", "b"),
    ("b/file-here/x", "b"),
    ("c", "c"),
];

fn text(path: &Path) -> String {
    String::from_utf8(content(path).unwrap()).unwrap()
}

/// The entries of `a` are beneath `top`, and each refused name was named with the first source.
fn first_won(ended: Ended, top: &Path, refused: &[(&str, &str)]) {
    assert_eq!(ended.code, 3, "{ended:?}");
    for (name, first) in refused {
        let line = ended.err.lines().find(|line| line.contains(&format!("{name}:")));
        let line = line.unwrap_or_else(|| panic!("{name}: {ended:?}"));
        assert!(
            line.contains(&format!("{first} goes to the same name and came first")),
            "{line}"
        );
    }
    for path in ["same", "only-a", "dir/same", "dir/only-a", "file-here"] {
        assert_eq!(text(&top.join(path)), "a", "{path}");
    }
}

/// haul sends the first source of a name and refuses the others, whichever side has the sources.
#[test]
fn of_sources_that_go_to_one_name_the_first_is_sent_and_the_others_are_named() {
    let server = Server::start();
    let client = server.client();
    for (path, content) in OVERLAPPING {
        write(&client.work().join(path), content.as_bytes());
        write(&server.root.join(path), content.as_bytes());
    }
    std::fs::create_dir(server.root.join("put")).unwrap();
    std::fs::create_dir(client.work().join("got")).unwrap();
    let both = client.run(["put", "-r", "a/.", "b/.", "srv:put"]);
    first_won(
        both,
        &server.root.join("put"),
        &[
            ("b/same", "a/same"),
            ("b/dir/same", "a/dir/same"),
            ("b/file-here", "a/file-here"),
        ],
    );
    for path in ["only-b", "dir/only-b"] {
        assert_eq!(text(&server.root.join("put").join(path)), "b");
    }
    // a name of its own, and one beneath a source whose contents are meant
    std::fs::remove_dir_all(server.root.join("put")).unwrap();
    std::fs::create_dir(server.root.join("put")).unwrap();
    first_won(
        client.run(["put", "-r", "a/.", "c", "srv:put"]),
        &server.root.join("put"),
        &[("c", "a/c")],
    );
    assert_eq!(text(&server.root.join("put/c")), "a");
    let got = client.work().join("got");
    first_won(client.run(["get", "-r", "srv:a/.", "srv:c", "got"]), &got, &[("c", "a/c")]);
    assert_eq!(text(&got.join("c")), "a");
    std::fs::remove_dir_all(&got).unwrap();
    std::fs::create_dir(&got).unwrap();
    first_won(client.run(["get", "-r", "srv:c", "srv:a/.", "got"]), &got, &[("a/c", "c")]);
    assert_eq!(text(&got.join("c")), "c");
}
