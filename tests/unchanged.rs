//! A further run sends only files that changed, by size and time, by content, or by version.

use crate::support::Server;
use crate::support::tree::{bytes, sample, set_mode, set_mtime, snapshot, write};
use std::os::unix::fs::MetadataExt;

const MIB: usize = 1 << 20;

#[test]
fn a_second_run_sends_nothing_and_a_third_only_what_changed() {
    let server = Server::start();
    let client = server.client();
    sample(&client.work().join("tree"));
    client.ok(["put", "-r", "tree", "srv:"]);
    let again = client.run(["put", "-r", "--json", "tree", "srv:"]);
    let summary: serde_json::Value =
        serde_json::from_str(again.out.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["files"], &summary["bytes"]), (&0.into(), &0.into()), "{again:?}");

    write(&client.work().join("tree/many/1/1"), b"changed");
    set_mode(&client.work().join("tree/modes/script"), 0o700);
    let third = client.run(["put", "-r", "--json", "tree", "srv:"]);
    let summary: serde_json::Value =
        serde_json::from_str(third.out.lines().last().unwrap()).unwrap();
    assert_eq!(summary["files"], 1, "{third:?}");
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
}

/// Backup programs go by change times, and each one that changes is a write to the disk.
#[test]
fn what_is_unchanged_keeps_its_change_time() {
    let server = Server::start();
    let client = server.client();
    sample(&client.work().join("tree"));
    client.ok(["put", "-r", "tree", "srv:"]);
    let change_times = || {
        let entries = walkdir::WalkDir::new(server.root.join("tree")).sort_by_file_name();
        let stats = entries.into_iter().map(|e| e.unwrap().metadata().unwrap());
        stats.map(|s| (s.ctime(), s.ctime_nsec())).collect::<Vec<_>>()
    };
    let before = change_times();
    client.ok(["put", "-r", "tree", "srv:"]);
    assert_eq!(change_times(), before);
}

#[test]
fn checksum_sees_what_size_and_time_hide() {
    let server = Server::start();
    let client = server.client();
    let local = client.work().join("f");
    for content in [b"one".to_vec(), bytes(1, 3 * MIB)] {
        write(&local, &content);
        set_mtime(&local, 5);
        client.ok(["put", "f", "srv:"]);
        let mut other = content.clone();
        other[0] ^= 1;
        write(&server.root.join("f"), &other);
        set_mtime(&server.root.join("f"), 5);
        client.ok(["put", "f", "srv:"]);
        assert_eq!(
            std::fs::read(server.root.join("f")).unwrap(),
            other,
            "same size and time: skipped"
        );
        client.ok(["put", "--checksum", "f", "srv:"]);
        assert_eq!(std::fs::read(server.root.join("f")).unwrap(), content);
        client.ok(["get", "--checksum", "srv:f", "f"]);
    }
}

#[test]
fn a_version_that_changed_meanwhile_is_not_overwritten() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"mine");
    client.ok(["put", "--if-version", "none", "f", "srv:f"]);
    let version = || {
        let stat: serde_json::Value =
            serde_json::from_str(&client.ok(["stat", "--json", "srv:f"])).unwrap();
        stat["version"].as_str().unwrap().to_string()
    };
    let first = version();
    client
        .run(["put", "--if-version", "none", "f", "srv:f"])
        .failed(7, &["version"]);
    write(&server.root.join("f"), b"theirs");
    client
        .run(["put", "--if-version", &first, "f", "srv:f"])
        .failed(7, &["f: ", "version"]);
    assert_eq!(std::fs::read(server.root.join("f")).unwrap(), b"theirs");
    client.ok(["put", "--if-version", &version(), "f", "srv:f"]);
    assert_eq!(std::fs::read(server.root.join("f")).unwrap(), b"mine");
    write(&client.work().join("big"), &bytes(9, 3 * MIB));
    client
        .run(["put", "--if-version", &first, "big", "srv:f"])
        .failed(7, &["version"]);
    assert_eq!(std::fs::read(server.root.join("f")).unwrap(), b"mine");
}
