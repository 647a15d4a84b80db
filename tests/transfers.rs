//! The main job: files and trees arrive unchanged.

use crate::support::tree::{bytes, sample, set_mode, snapshot, write};
use crate::support::{Client, Server};
use std::os::unix::fs::MetadataExt;

const MIB: usize = 1 << 20;

#[test]
fn a_tree_goes_there_and_back_unchanged() {
    let server = Server::start();
    let client = server.client();
    sample(&client.work().join("tree"));
    client.ok(["put", "-r", "tree", "srv:"]);
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
    client.ok(["get", "-r", "srv:tree/", "back"]);
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&client.work().join("back")));
}

#[test]
fn with_one_connection_and_with_many() {
    let server = Server::start();
    let client = server.client();
    sample(&client.work().join("tree"));
    for n in ["1", "9"] {
        client.ok(["put", "-r", "--no-fsync", "--connections", n, "tree/", &format!("srv:{n}")]);
        client.ok(["get", "-r", "--connections", n, &format!("srv:{n}/"), &format!("back-{n}")]);
        assert_eq!(
            snapshot(&client.work().join("tree")),
            snapshot(&client.work().join(format!("back-{n}")))
        );
    }
}

/// Everything in a directory that cannot be made fails with it, each under its own path.
#[test]
fn what_cannot_go_into_a_directory_is_named_by_its_path() {
    let server = Server::start();
    let client = server.client();
    let name_too_long = "n".repeat(255);
    for file in ["sub/a", "sub/deep/b", "sub/deep/er/c"] {
        write(&server.root.join("tree").join(file), b"x");
        write(&client.work().join("tree").join(file), b"x");
    }
    std::fs::create_dir_all(server.root.join("tree/sub").join(&name_too_long)).unwrap();
    let expected: std::collections::BTreeSet<String> = [
        "sub",
        "sub/a",
        "sub/deep",
        "sub/deep/b",
        "sub/deep/er",
        "sub/deep/er/c",
        &format!("sub/{name_too_long}"),
    ]
    .iter()
    .map(|path| format!("dest/tree/{path}"))
    .collect();
    write(&client.work().join("dest/tree/sub"), b"a file in the way");
    let get = client.run(["get", "-r", "--json", "srv:tree", "dest"]);
    let events: Vec<serde_json::Value> =
        get.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<_> = events.iter().filter(|event| event["event"] == "failed").collect();
    let paths: std::collections::BTreeSet<String> = failed
        .iter()
        .map(|event| event["path"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(paths, expected, "{get:?}");
    assert_eq!(failed.len(), expected.len(), "each once: {get:?}");
    assert!(failed.iter().all(|event| event["reason"] == "not a directory"), "{get:?}");
    let get = client.run(["get", "-rv", "srv:tree", "dest"]);
    for path in &expected {
        assert!(
            get.err.contains(&format!("haul: {path}: not a directory\n")),
            "{path}: {get:?}"
        );
    }
}

/// One cause is a few lines, however many files fail; with `-v` and in JSON each failure has its
/// own.
#[test]
fn many_failures_with_one_cause_are_a_few_lines() {
    const FILES: usize = 700;
    let server = Server::start();
    let client = server.client();
    for at in [&server.root, &client.work()] {
        for i in 0..FILES {
            write(&at.join(format!("from/tree/sub/{i}")), b"");
        }
        write(&at.join("to/tree/sub"), b"a file in the way");
        let pipe = at.join("from/tree/pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    for (verb, from, to) in [("put", "from/tree", "srv:to"), ("get", "srv:from/tree", "to")] {
        for quiet in [&[][..], &["-q"]] {
            let few = client.run([&[verb, "-r"], quiet, &[from, to]].concat());
            let lines: Vec<&str> =
                few.err.lines().filter(|line| line.starts_with("haul: ")).collect();
            assert_eq!(lines.len(), 5 + 1 + 1, "{few:?}");
            // the directory itself and its files
            let rest = format!("haul: and {} more: ", FILES + 1 - 5);
            assert!(
                lines[6].starts_with(&rest) && lines[6].contains("not a directory"),
                "{few:?}"
            );
            assert!(few.err.contains("pipe: "), "{few:?}");
        }
        let all = client.run([verb, "-rv", from, to]);
        assert_eq!(all.err.matches("not a directory\n").count(), FILES + 1, "{}", all.err);
        let json = client.run([verb, "-r", "--json", from, to]);
        assert_eq!(json.out.matches(r#""event":"failed""#).count(), FILES + 2);
        assert!(json.err.lines().count() < 10, "{}", json.err);
    }
}

/// More directories, and more entries, than one listing of several directories takes.
#[test]
fn wide_directories_full_and_empty_ones_in_turn() {
    let server = Server::start();
    let client = server.client();
    let tree = client.work().join("tree");
    for i in 0..100 {
        let dir = tree.join(format!("d{i}"));
        std::fs::create_dir_all(dir.join("empty")).unwrap();
        let files = match i {
            17 => 600,
            i => i % 4 * 7,
        };
        for f in 0..files {
            write(&dir.join(format!("inner{}/f{f}", f % 3)), b"");
            write(&dir.join(format!("f{f}")), b"");
        }
    }
    client.ok(["put", "-r", "--no-fsync", "tree", "srv:"]);
    assert_eq!(snapshot(&tree), snapshot(&server.root.join("tree")));
    client.ok(["get", "-r", "--no-fsync", "srv:tree/", "back"]);
    assert_eq!(snapshot(&tree), snapshot(&client.work().join("back")));
}

#[test]
fn streams_of_any_length() {
    let server = Server::start();
    let client = server.client();
    for length in [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 40 * MIB + 5] {
        let content = bytes(length as u64, length);
        let put = client.run_with(["put", "-", "srv:stream"], &content);
        assert_eq!(put.code, 0, "{put:?}");
        assert!(std::fs::read(server.root.join("stream")).unwrap() == content, "{length}");
        let got = client.run(["get", "srv:stream", "-"]);
        assert_eq!(got.code, 0, "{}", got.err);
        assert!(got.bytes == content, "{length}");
    }
}

#[test]
fn the_hash_is_the_one_that_b3sum_prints() {
    let server = Server::start();
    let client = server.client();
    for length in [0, 1, 5000, MIB, MIB + 1, 7 * MIB + 3] {
        let content = bytes(3, length);
        write(&client.work().join("f"), &content);
        let hash = blake3::hash(&content).to_hex().to_string();
        for (verb, from, to) in [("put", "f", "srv:f"), ("get", "srv:f", "back")] {
            let events = client.ok([verb, "--json", from, to]);
            let file: serde_json::Value =
                serde_json::from_str(events.lines().next().unwrap()).unwrap();
            assert_eq!(
                (file["event"].as_str(), file["hash"].as_str()),
                (Some("file"), Some(hash.as_str()))
            );
            assert_eq!(file["size"], length);
        }
        let stat: serde_json::Value =
            serde_json::from_str(&client.ok(["stat", "--json", "--hash", "srv:f"])).unwrap();
        assert_eq!(stat["hash"], hash);
        std::fs::remove_file(client.work().join("back")).unwrap();
        std::fs::remove_file(server.root.join("f")).unwrap();
    }
}

#[test]
fn destinations_follow_the_rules_of_cp() {
    let server = Server::start();
    let client = server.client();
    for name in ["a", "b", "d/x"] {
        write(&client.work().join(name), name.as_bytes());
    }
    let there = |path: &str| server.root.join(path).exists();
    client.ok(["put", "a", "srv:c"]);
    assert!(there("c"), "a new name");
    client.ok(["mkdir", "srv:dir"]);
    client.ok(["put", "a", "b", "srv:dir"]);
    assert!(there("dir/a") && there("dir/b"), "into a directory");
    client.ok(["put", "-r", "d/", "srv:new"]);
    assert!(there("new/x"), "a directory under a new name");
    client.ok(["put", "-r", "d", "srv:new"]);
    assert!(there("new/d/x"), "into one that exists");
    client.ok(["put", "-r", "d/.", "srv:dir"]);
    assert!(there("dir/x"), "its contents");
    client
        .run(["put", "a", "srv:missing/"])
        .failed(8, &["srv:missing/", "no such directory"]);
    client
        .run(["put", "a", "b", "srv:missing"])
        .failed(8, &["no such directory"]);
    client.run(["put", "a", "srv:no/such"]).failed(8, &["no such directory"]);

    let here = |path: &str| client.work().join(path).exists();
    client.ok(["get", "srv:c", "e"]);
    client.ok(["get", "srv:dir/a", "srv:dir/b", "d"]);
    assert!(here("e") && here("d/a") && here("d/b"));
    client.ok(["get", "-r", "srv:", "all"]);
    assert!(here("all/dir/a"));
    for night in 1..=2 {
        client.ok(["put", "-r", "d/.", "srv:nightly"]);
        client.ok(["get", "-r", "srv:nightly/.", "fetched"]);
        let found = [server.root.join("nightly"), client.work().join("fetched")].map(|dir| {
            let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
            names.collect::<std::collections::BTreeSet<_>>()
        });
        let wanted = ["a", "b", "x"].map(Into::into);
        assert_eq!(found, [wanted.clone().into(), wanted.into()], "night {night}");
    }
    client.run(["get", "srv:c", "missing/"]).failed(8, &["missing/"]);
    client.run(["get", "srv:c", "srv:dir/a", "missing"]).failed(8, &["missing"]);
}

#[test]
fn a_destination_that_is_a_link_is_replaced_not_written_through() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"new");
    let victim = server.dir.path().join("victim");
    write(&victim, b"precious");
    std::os::unix::fs::symlink(&victim, server.root.join("link")).unwrap();
    std::fs::hard_link(&victim, server.root.join("hard")).unwrap();
    client.ok(["put", "f", "srv:link"]);
    client.ok(["put", "f", "srv:hard"]);
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    for name in ["link", "hard"] {
        let meta = std::fs::symlink_metadata(server.root.join(name)).unwrap();
        assert!(meta.is_file() && meta.nlink() == 1);
    }
    std::os::unix::fs::symlink(&victim, client.work().join("back")).unwrap();
    client.ok(["get", "srv:link", "back"]);
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert_eq!(std::fs::read(client.work().join("back")).unwrap(), b"new");
}

#[test]
fn set_uid_and_set_gid_are_not_taken_over() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"x");
    write(&client.work().join("big"), &bytes(1, 2 * MIB));
    set_mode(&client.work().join("f"), 0o6755);
    set_mode(&client.work().join("big"), 0o4711);
    client.ok(["put", "f", "big", "srv:"]);
    let mode = |name: &str| std::fs::metadata(server.root.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("f"), mode("big")), (0o755, 0o711));
}

#[test]
fn fifos_and_sockets_are_skipped_at_once_and_named() {
    let server = Server::start();
    let client = server.client();
    let tree = client.work().join("t");
    write(&tree.join("file"), b"x");
    let fifo = |path: &std::path::Path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    fifo(&tree.join("pipe"));
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let put = client.run(["put", "-r", "t", "srv:"]);
    assert_eq!(put.code, 3, "{put:?}");
    assert!(
        put.err.contains("haul: t/pipe: ") && put.err.contains("haul: t/socket: "),
        "{put:?}"
    );
    assert!(server.root.join("t/file").exists() && !server.root.join("t/pipe").exists());

    fifo(&server.root.join("t/pipe"));
    let got = client.run(["get", "-r", "srv:t/", "back"]);
    assert_eq!(got.code, 3, "{got:?}");
    assert!(got.err.contains("pipe"), "{got:?}");
    assert!(client.work().join("back/file").exists());
    client.run(["get", "srv:t/pipe", "p"]).failed(1, &["pipe", "not a file"]);
    client.run(["put", "t/pipe", "srv:p"]).failed(1, &["t/pipe", "not a file"]);
}

#[test]
fn many_clients_at_once() {
    let server = Server::start();
    let clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    std::thread::scope(|scope| {
        for (i, client) in clients.iter().enumerate() {
            scope.spawn(move || {
                sample(&client.work().join("tree"));
                client.ok(["put", "-r", "tree/", &format!("srv:{i}")]);
                client.ok(["get", "-r", &format!("srv:{i}/"), "back"]);
                assert_eq!(
                    snapshot(&client.work().join("tree")),
                    snapshot(&client.work().join("back"))
                );
            });
        }
    });
}

#[test]
fn bench_runs_and_verifies() {
    let client = Client::new();
    sample(&client.work().join("tree"));
    let bench = client.run(["bench", "tree"]);
    assert_eq!(bench.code, 0, "{bench:?}");
    assert!(
        bench.out.contains("put tree") && bench.out.contains("verified: "),
        "{bench:?}"
    );
    assert!(!bench.err.contains("haul:"), "{bench:?}");
}

#[test]
fn bench_measures_a_real_server_and_leaves_nothing_there() {
    let server = Server::start();
    let client = server.client();
    let bench = client.run(["bench", "srv:"]);
    assert_eq!(bench.code, 0, "{bench:?}");
    assert!(
        bench.out.contains("limited by") && bench.out.contains("verified: "),
        "{bench:?}"
    );
    assert!(!bench.out.contains("object store"), "{bench:?}");
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 0);
}
