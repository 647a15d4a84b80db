//! The trash: what --keep-deleted moves there, and what undelete restores.

use crate::support::schema::valid_lines;
use crate::support::script::ScriptedClient;
use crate::support::tree::{Entry, set_mode, set_mtime, snapshot, write};
use crate::support::{Client, Ended, Server, has_strace, run_with, under};
use haul::net::wire::proto::{self, control_message, reply, request};
use haul::store::local::LocalStore;
use haul::store::trash::{EmptyScope, TrashItem};
use haul::store::{ErrorKind, RemotePath, Store};
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// A tree without the trash at its top.
fn seen(top: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = snapshot(top);
    all.retain(|path, _| !path.to_string_lossy().starts_with(".trash~"));
    all
}

/// The trash of a directory, on disk.
fn trash(top: &Path) -> PathBuf {
    let hash = blake3::hash(b"trash").to_hex();
    top.join(format!(".trash~{}.haul-trash", &hash[..16]))
}

/// Its batches.
fn batches(top: &Path) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(trash(top)).into_iter().flatten();
    dir.map(|entry| entry.unwrap().path()).collect()
}

/// Lets the batches of a trash expire.
fn expire(top: &Path) {
    for batch in batches(top) {
        let name = batch.file_name().unwrap().to_str().unwrap();
        let parts: Vec<&str> = name.split('-').collect();
        let expired = format!("{}-{:010x}-{}", parts[0], 1, parts[2]);
        std::fs::rename(&batch, batch.with_file_name(expired)).unwrap();
    }
}

fn listed(client: &Client, dest: &str) -> Vec<Value> {
    valid_lines(&client.ok(["undelete", "--json", dest]))
}

fn paths(listed: &[Value]) -> Vec<&str> {
    let mut paths: Vec<&str> = listed.iter().map(|e| e["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    paths
}

/// A mirror with much that its source does not have.
fn fill(top: &Path) {
    for path in ["a", "d/b", "d/e/c", "gone/x", "gone/deep/y"] {
        write(&top.join(path), path.as_bytes());
    }
    write(&top.join("large"), &vec![7; 2 << 20]);
    for path in ["a", "d/b", "d/e/c", "gone/deep/y", "large"] {
        set_mtime(&top.join(path), 4);
    }
    symlink("/etc/passwd", top.join("d/link")).unwrap();
    std::fs::create_dir_all(top.join("gone/empty/inner")).unwrap();
    set_mode(&top.join("gone/x"), 0o640);
    set_mtime(&top.join("gone/x"), 5);
    set_mtime(&top.join("gone/deep"), 6);
    set_mode(&top.join("gone/empty/inner"), 0o1710);
    for dir in ["gone/empty/inner", "gone/empty", "gone", "d/e", "d", "."] {
        set_mtime(&top.join(dir), 7);
    }
}

/// What a mirror of `a` deletes of it.
const DELETED: [&str; 12] = [
    "d",
    "d/b",
    "d/e",
    "d/e/c",
    "d/link",
    "gone",
    "gone/deep",
    "gone/deep/y",
    "gone/empty",
    "gone/empty/inner",
    "gone/x",
    "large",
];

#[test]
fn what_was_deleted_comes_back_as_it_was() {
    let server = Server::start();
    let client = server.client();
    for (verb, number) in [("put", 0), ("get", 1), ("cp", 2)] {
        let (at_source, at_dest) = match verb {
            "put" => (client.work(), server.root.clone()),
            "get" => (server.root.clone(), client.work()),
            _ => (client.work(), client.work()),
        };
        let (src, dest) = (format!("src{number}"), format!("dest{number}"));
        write(&at_source.join(&src).join("a"), b"a");
        let top = at_dest.join(&dest);
        fill(&top);
        let wanted = snapshot(&top);
        let there = |path: &str| format!("srv:{path}");
        let (from, to) = match verb {
            "put" => (format!("{src}/"), there(&dest)),
            "get" => (there(&format!("{src}/")), dest.clone()),
            _ => (format!("{src}/"), dest.clone()),
        };
        client.ok([verb, "-rt", "--delete", "--keep-deleted", &from, &to]);
        assert_eq!(
            seen(&top).into_keys().collect::<Vec<_>>(),
            [Path::new(""), Path::new("a")],
            "{verb}"
        );
        let entries = listed(&client, &to);
        assert_eq!(paths(&entries), DELETED);
        assert!(entries.iter().all(|entry| entry["id"] == entries[0]["id"]));
        // what a mirror compares and deletes does not have the trash, nor do listings
        client.ok([verb, "-rt", "--delete", &from, &to]);
        client.ok([verb, "-rtn", "--delete=yes", &from, &to]);
        if verb == "put" {
            assert_eq!(client.ok(["ls", "-a", &to]), "a\n");
        }
        // a directory with all that was in it, and what is above a file
        let beneath = |top: &BTreeMap<PathBuf, Entry>, dir: &str| -> BTreeMap<PathBuf, Entry> {
            let inside = top.iter().filter(|(path, _)| path.starts_with(dir));
            inside.map(|(path, entry)| (path.clone(), entry.clone())).collect()
        };
        client.ok(["undelete", &to, "gone/", "d/e/c"]);
        let now = seen(&top);
        assert_eq!(beneath(&now, "gone"), beneath(&wanted, "gone"), "{verb}");
        assert_eq!(beneath(&now, "d/e"), beneath(&wanted, "d/e"), "{verb}");
        assert_eq!(paths(&listed(&client, &to)), ["d/b", "d/link", "large"]);
        // all the rest
        client.ok(["undelete", &to, "."]);
        let (mut now, mut wanted) = (seen(&top), wanted);
        for written in ["", "a"].map(Path::new) {
            assert!(now.remove(written).is_some() && wanted.remove(written).is_some());
        }
        assert_eq!(now, wanted, "{verb}");
        assert!(!trash(&top).exists(), "{verb}: {:?}", batches(&top));
    }
}

#[test]
fn the_last_deletion_of_a_path_is_restored_and_nothing_is_overwritten() {
    let server = Server::start();
    let client = server.client();
    let top = server.root.join("dest");
    write(&client.work().join("src/a"), b"a");
    for text in ["first", "second", "third"] {
        write(&top.join("notes"), text.as_bytes());
        client.ok(["put", "-r", "--delete", "--keep-deleted=2h", "src/", "srv:dest"]);
    }
    let entries = listed(&client, "srv:dest");
    assert_eq!(paths(&entries), ["notes", "notes", "notes"]);
    let notes = || std::fs::read_to_string(top.join("notes")).unwrap();
    // the last run is listed first
    let id = |index: usize| entries[index]["id"].as_str().unwrap().to_string();
    client.ok(["undelete", "--at", &id(2), "srv:dest", "notes"]);
    assert_eq!(notes(), "first");
    let exists = client.run(["undelete", "srv:dest", "notes"]);
    exists.failed(1, &["notes: it already exists"]);
    assert_eq!((notes().as_str(), listed(&client, "srv:dest").len()), ("first", 2));
    std::fs::remove_file(top.join("notes")).unwrap();
    client.ok(["undelete", "srv:dest", "notes"]);
    assert_eq!(notes(), "third");
    client
        .run(["undelete", "srv:dest", "other"])
        .failed(8, &["other: nothing of that path"]);
    client
        .run(["undelete", "--at=2001-01-01", "srv:dest", "notes"])
        .failed(8, &["nothing of that path"]);
    client
        .run(["undelete", "srv:dest", "../x"])
        .failed(2, &["../x", "not allowed"]);
    // one line per entry, aligned
    let text = client.ok(["undelete", "srv:dest"]);
    assert!(text.contains(&id(1)) && text.ends_with("6 B  notes\n"), "{text}");
    client.ok(["undelete", "--empty", "-f", "srv:dest"]);
    assert_eq!(client.ok(["undelete", "srv:dest"]), "");
    assert!(!trash(&top).exists());
    client
        .run(["put", "-r", "--keep-deleted", "src/", "srv:dest"])
        .failed(2, &["--delete"]);
}

#[test]
fn what_has_expired_goes_with_the_next_run_or_with_the_server() {
    let mut server = Server::start();
    let client = server.client();
    let top = server.root.join("dest");
    write(&client.work().join("src/a"), b"a");
    let delete = |name: &str| {
        write(&top.join(name), b"x");
        client.ok(["put", "-r", "--delete", "--keep-deleted", "src/", "srv:dest"]);
    };
    delete("old");
    expire(&top);
    delete("newer");
    assert_eq!(paths(&listed(&client, "srv:dest")), ["newer"]);
    expire(&top);
    server.kill();
    server.restart();
    let gone = || !trash(&top).exists();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !gone() && std::time::Instant::now() < deadline {
        client.run(["ls", "srv:"]);
    }
    assert!(gone(), "{:?}", batches(&top));
}

/// More than a page, in several requests.
#[test]
fn large_trees_go_and_come_back_in_pages() {
    let server = Server::start();
    let client = server.client();
    let top = server.root.join("dest");
    write(&client.work().join("src/a"), b"a");
    for n in 0..3000 {
        write(&top.join(format!("d{}/{n}", n % 7)), b"x");
    }
    let before = seen(&top);
    client.ok(["put", "-r", "--delete=yes", "--keep-deleted", "src/", "srv:dest"]);
    assert_eq!(listed(&client, "srv:dest").len(), 3007);
    client.ok(["undelete", "srv:dest", "."]);
    let mut now = seen(&top);
    now.remove(Path::new("a"));
    let names = |all: &BTreeMap<PathBuf, Entry>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&now), names(&before));
    assert_eq!(now[Path::new("d3")], before[Path::new("d3")]);
}

#[test]
fn users_who_may_not_write_restore_nothing() {
    let server = Server::start();
    let owner = server.client();
    write(&owner.work().join("src/a"), b"a");
    write(&server.root.join("dest/x"), b"x");
    owner.ok(["put", "-r", "--delete", "--keep-deleted", "src/", "srv:dest"]);
    server.user(&["add", "reader", "--read-only"], "p");
    server.user(&["add", "writer", "--write-only"], "p");
    let (reader, writer) = (server.client_of("reader"), server.client_of("writer"));
    assert_eq!(paths(&listed(&reader, "srv:dest")), ["x"]);
    reader.run(["undelete", "srv:dest", "x"]).failed(8, &["may only read"]);
    reader
        .run(["undelete", "--empty", "-f", "srv:dest"])
        .failed(8, &["may only read"]);
    writer.run(["undelete", "srv:dest"]).failed(8, &["may only put"]);
    write(&writer.work().join("src/a"), b"a");
    let keeps = ["put", "-r", "--delete", "--keep-deleted", "src/", "srv:dest"];
    writer.run(keeps).failed(8, &["may only write"]);
    // no path leads into the trash
    let inside = trash(&server.root.join("dest"));
    let inside = inside.strip_prefix(&server.root).unwrap().display().to_string();
    for words in [["ls", ""], ["rm", "-r"], ["mkdir", "-p"]] {
        let mut line: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        line.retain(|word| !word.is_empty());
        line.push(format!("srv:{inside}"));
        owner.run(line).failed(2, &["are haul's own"]);
    }
    assert_eq!(paths(&listed(&owner, "srv:dest")), ["x"]);
}

/// Whatever a request names, nothing outside of the trash is moved.
#[tokio::test]
async fn requests_lead_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("top/x/log"), b"log");
    write(&dir.path().join("0"), b"outside");
    let store = LocalStore::open(&dir.path().join("top")).unwrap();
    let store = store.subtree(&RemotePath::root()).await.unwrap();
    let bin = store.trash().unwrap();
    std::fs::create_dir(trash(&dir.path().join("top"))).unwrap();
    let before = snapshot(dir.path());
    for batch in ["", ".", "..", "../x", "../..", "/", "x", "\0", &"f".repeat(300)] {
        for index in [0, 1, u32::MAX] {
            let item = TrashItem {
                batch: batch.into(),
                index,
            };
            let restored = bin.restore(vec![item]).await.remove(0);
            assert_eq!(restored.unwrap_err().kind, ErrorKind::NotFound, "{batch}");
        }
    }
    for cookie in [&b"x"[..], b"/", b"../0", &[0xff; 200]] {
        assert!(bin.page(cookie).await.is_err());
    }
    assert_eq!(snapshot(dir.path()), before);
    // a log that leads outside, or is cut, is none
    let batch = trash(&dir.path().join("top")).join("0000000000000001-00ffffffff-00000001");
    write(&batch.join("0"), b"x");
    for path in [&b"../0"[..], b"/0", b"a/../../0", b""] {
        let text = [&(path.len() as u16).to_be_bytes()[..], path].concat();
        let log = [&blake3::hash(&text).as_bytes()[..], &text].concat();
        for log in [&log[..], &log[..log.len() - 1]] {
            std::fs::write(batch.join("log"), log).unwrap();
            let item = TrashItem {
                batch: batch.file_name().unwrap().to_str().unwrap().into(),
                index: 0,
            };
            assert!(bin.restore(vec![item]).await.remove(0).is_err(), "{path:?}");
        }
    }
    assert!(batch.join("0").exists());
    assert_eq!(std::fs::read(dir.path().join("0")).unwrap(), b"outside");
    assert!(bin.page(b"").await.unwrap().entries.is_empty());
    assert!(!bin.empty(EmptyScope::All).await.unwrap().more);
    assert!(!trash(&dir.path().join("top")).exists());
}

/// Each call that moves something fails once, or is the last one.
#[test]
fn nothing_is_lost_by_a_deletion_that_is_stopped_at_any_call() {
    if !has_strace() {
        return;
    }
    let client = Client::new();
    let (work, log) = (client.work(), client.dir.path().join("log"));
    let top = work.join("dest");
    write(&work.join("src/a"), b"a");
    let wanted = || {
        let mut all = seen(&top);
        all.retain(|path, entry| !matches!(entry, Entry::Dir { .. }) && path != Path::new("a"));
        all
    };
    let mut stops = 0;
    for call in ["mkdirat", "pwrite64", "fsync", "renameat", "unlinkat"] {
        for (fault, at) in (1..=6).flat_map(|at| [("signal=SIGKILL", at), ("error=EIO", at)]) {
            let _ = std::fs::remove_dir_all(&top);
            fill(&top);
            let before = wanted();
            let inject = format!("inject={call}:{fault}:when={at}");
            let words = ["strace", "-D", "-f", "-qq", "-o", log.to_str().unwrap(), "-e"];
            let words = words.into_iter().map(String::from);
            let words: Vec<String> = words.chain([format!("trace={call}")]).collect();
            let words: Vec<String> = words.into_iter().chain(["-e".into(), inject]).collect();
            let copy = ["cp", "-rq", "--delete=yes", "--keep-deleted", "src/", "dest"];
            let ended = Ended::of(run_with(under(client.command(copy), &words), b""));
            stops += usize::from(ended.code != 0);
            let context = format!("{call} {at} {fault}: {ended:?}");
            // what is not in its place is in the trash, with its path
            let there = wanted();
            let entries = listed(&client, "dest");
            let lost = before.keys().find(|path| {
                let is_listed =
                    entries.iter().any(|e| Path::new(e["path"].as_str().unwrap()) == *path);
                !there.contains_key(*path) && !is_listed
            });
            assert_eq!(lost, None, "{context}");
            client.ok(["cp", "-rq", "--delete=yes", "--keep-deleted", "src/", "dest"]);
            assert!(wanted().is_empty(), "{context}");
            client.ok(["undelete", "dest", "."]);
            assert_eq!(wanted(), before, "{context}");
        }
    }
    assert!(stops > 20, "{stops}");
}

fn removal(path: &[u8]) -> proto::Removal {
    proto::Removal {
        path: path.to_vec(),
        kind: proto::Kind::File.into(),
        size: 1,
        ..Default::default()
    }
}

fn discard(base: &[u8], removal: proto::Removal) -> request::Body {
    request::Body::Discard(proto::Discard {
        base: base.to_vec(),
        removals: vec![removal],
        run: 3,
        lifetime: u64::MAX,
    })
}

fn remove(dir: &[u8], suffix: &[u8]) -> request::Body {
    request::Body::RemoveBeneath(proto::RemoveBeneath {
        base: b"d".to_vec(),
        removals: vec![removal(b"x")],
        backup: Some(proto::Backup {
            dir: dir.to_vec(),
            suffix: suffix.to_vec(),
        }),
    })
}

fn item(batch: &str) -> proto::TrashItem {
    proto::TrashItem {
        batch: batch.into(),
        index: 1,
    }
}

fn restore(base: &[u8], items: Vec<proto::TrashItem>) -> request::Body {
    request::Body::Restore(proto::Restore {
        base: base.to_vec(),
        items,
    })
}

fn list(base: &[u8]) -> request::Body {
    request::Body::ListTrash(proto::ListTrash {
        base: base.to_vec(),
        cookie: b"c".to_vec(),
    })
}

fn empty(base: &[u8]) -> request::Body {
    request::Body::EmptyTrash(proto::EmptyTrash {
        base: base.to_vec(),
        all: true,
    })
}

/// Requests by hand: no path of them leads out of the root, and a lifetime without end is none.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_are_refused() {
    let server = Server::start();
    write(&server.dir.path().join("outside/f"), b"precious");
    write(&server.root.join("d/x"), b"x");
    let outside_and_root = || {
        let outside = snapshot(&server.dir.path().join("outside"));
        (outside, snapshot(&server.root))
    };
    let before = outside_and_root();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let outside = b"../outside";
    for (number, body) in (2..).zip([
        discard(outside, removal(b"f")),
        discard(b"d", removal(b"../../outside/f")),
        discard(b"d/x", removal(b"y")),
        remove(b"../../outside", b""),
        remove(b"/..", b""),
        remove(b"", b""),
        remove(b".", b""),
        remove(b"bak", b"/x"),
        restore(outside, vec![item("x")]),
        restore(b"d", vec![item("x"); 1025]),
        list(outside),
        list(b"d"),
        empty(outside),
    ]) {
        let reply = client.ask(number, body.clone()).await.unwrap();
        assert!((400..600).contains(&reply.code), "{body:?}: {reply:?}");
    }
    let reply = client.ask(100, restore(b"d", vec![item("../../outside")])).await.unwrap();
    let Some(reply::Body::Restore(restored)) = reply.body else {
        panic!("{reply:?}")
    };
    assert_eq!(restored.removed[0].code, 550);
    assert_eq!(outside_and_root(), before);
    // an honest one, whose time has no end
    let found = std::fs::metadata(server.root.join("d/x")).unwrap();
    let honest = proto::Removal {
        mtime: found.mtime(),
        mtime_nanos: u32::try_from(found.mtime_nsec()).unwrap(),
        ..removal(b"x")
    };
    assert_eq!(client.ask(101, discard(b"d", honest)).await.unwrap().code, 250);
    assert_eq!(paths(&listed(&server.client(), "srv:d")), ["x"]);
    server.still_serves();
}

/// The numbers of these requests and their fields never change.
#[test]
fn the_bytes_of_the_requests_are_frozen() {
    let hex = |body: control_message::Body| {
        let bytes = proto::ControlMessage { body: Some(body) }.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let requests = [
        discard(b"d", proto::Removal::default()),
        list(b"d"),
        restore(b"d", vec![item("b")]),
        empty(b"d"),
        remove(b"o", b"~"),
    ];
    let found = requests.map(|body| {
        hex(control_message::Body::Request(proto::Request {
            number: 1,
            body: Some(body),
        }))
    });
    assert_eq!(
        found,
        [
            "0a170801c20212".to_string() + "0a0164" + "1200" + "1803" + "20ffffffffffffffffff01",
            "0a0b0801ca0206".to_string() + "0a0164" + "120163",
            "0a0f0801d2020a".to_string() + "0a0164" + "12050a01621001",
            "0a0a0801da0205".to_string() + "0a0164" + "1001",
            "0a1908018202".to_string()
                + "14"
                + "0a0164"
                + "12070a017810011801"
                + "1a060a016f12017e"
        ]
    );
    let entry = proto::TrashedEntry {
        item: Some(item("b")),
        path: b"p".to_vec(),
        kind: 1,
        size: 2,
        deleted: 3,
        expires: 4,
        run: 5,
    };
    let page = proto::ListTrashReply {
        entries: vec![entry],
        cookie: b"c".to_vec(),
    };
    let reply = proto::Reply {
        number: 1,
        code: 213,
        body: Some(reply::Body::ListTrash(page)),
        ..Default::default()
    };
    let fields =
        "0a050a01621001".to_string() + "120170" + "1801" + "2002" + "2803" + "3004" + "3805";
    let bytes = hex(control_message::Body::Reply(reply));
    assert!(bytes.ends_with(&(fields + "120163")), "{bytes}");
}

/// A file in the place of a directory has no place in the trash: it stays.
#[test]
fn with_a_trash_no_file_gives_way_to_a_directory() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("src/a/x"), b"new");
    write(&server.root.join("dest/a"), b"old");
    let words = ["put", "-a", "--delete", "--keep-deleted", "src/", "srv:dest"];
    assert_ne!(client.run(words).code, 0);
    assert_eq!(std::fs::read(server.root.join("dest/a")).unwrap(), b"old");
    client.ok(["put", "-ab", "--delete", "--keep-deleted", "src/", "srv:dest"]);
    assert_eq!(std::fs::read(server.root.join("dest/a~")).unwrap(), b"old");
    assert_eq!(std::fs::read(server.root.join("dest/a/x")).unwrap(), b"new");
}
