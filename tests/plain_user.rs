//! What only a user who is not root comes across: modes that keep the owner out.

use crate::support::tree::{set_mode, staged, write};
use crate::support::{Client, Ended, Server, run_with, under};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// nobody
const PLAIN: u32 = 65_534;

/// Runs a client as a plain user, to whom all of its files belong.
fn run(client: &Client, arguments: &[&str]) -> Ended {
    for entry in walkdir::WalkDir::new(client.dir.path()) {
        chown(entry.unwrap().path(), Some(PLAIN), Some(PLAIN)).unwrap();
    }
    let user = PLAIN.to_string();
    let prefix =
        ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_string);
    Ended::of(run_with(under(client.command(arguments), &prefix), b""))
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can become another user");
    }
    root
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_tree_with_read_only_directories_can_be_fetched_again() {
    if !is_root() {
        return;
    }
    let server = Server::start();
    let client = server.client();
    let there = server.root.join("tree/closed");
    write(&there.join("f"), b"first");
    set_mode(&there, 0o555);
    set_mode(&server.root.join("tree"), 0o555);
    assert_eq!(run(&client, &["get", "-r", "srv:tree", "."]).code, 0);
    write(&there.join("f"), b"second time");
    write(&there.join("new"), b"new");
    let again = run(&client, &["get", "-r", "srv:tree", "."]);
    assert_eq!(again.code, 0, "{again:?}");
    let here = client.work().join("tree/closed");
    assert_eq!(std::fs::read(here.join("f")).unwrap(), b"second time");
    assert_eq!(std::fs::read(here.join("new")).unwrap(), b"new");
    assert_eq!((mode(&here), mode(&client.work().join("tree"))), (0o555, 0o555));
}

#[test]
fn a_tree_with_directories_that_may_not_be_read_can_be_fetched_again() {
    if !is_root() {
        return;
    }
    for closed in [0o300, 0o100, 0o000] {
        let server = Server::start();
        let client = server.client();
        let there = server.root.join("tree/closed");
        write(&there.join("f"), b"first");
        set_mode(&there, closed);
        assert_eq!(run(&client, &["get", "-r", "srv:tree", "."]).code, 0);
        let here = client.work().join("tree/closed");
        assert_eq!(mode(&here), closed);
        // another time and another mode of the directory, too
        write(&there.join("new"), b"new");
        for mode_now in [closed, 0o700] {
            set_mode(&there, mode_now);
            write(&there.join("f"), format!("with {mode_now:o}").as_bytes());
            let again = run(&client, &["get", "-r", "srv:tree", "."]);
            assert_eq!(again.code, 0, "{closed:o} {again:?}");
            assert_eq!(
                std::fs::read(here.join("f")).unwrap(),
                format!("with {mode_now:o}").as_bytes()
            );
            assert_eq!(std::fs::read(here.join("new")).unwrap(), b"new");
            let modified = |dir: &Path| dir.metadata().unwrap().modified().unwrap();
            assert_eq!((mode(&here), modified(&here)), (mode_now, modified(&there)));
        }
    }
}

#[test]
fn a_directory_that_may_not_be_read_takes_files() {
    if !is_root() {
        return;
    }
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("small"), b"small");
    write(&server.root.join("large"), &[7; 3 << 20]);
    let drop = client.work().join("drop");
    std::fs::create_dir(&drop).unwrap();
    set_mode(&drop, 0o300);
    let get = run(&client, &["get", "srv:small", "srv:large", "drop/"]);
    assert_eq!(get.code, 0, "{get:?}");
    assert_eq!(std::fs::read(drop.join("small")).unwrap(), b"small");
    assert_eq!(std::fs::read(drop.join("large")).unwrap(), [7; 3 << 20]);
}

/// A writer died when it had set the mode of a file that its owner may not read.
#[test]
fn a_dead_staging_file_of_any_mode_is_replaced() {
    if !is_root() {
        return;
    }
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("small"), b"small");
    write(&server.root.join("large"), &[7; 3 << 20]);
    for name in ["small", "large"] {
        for left in [0o200, 0o400, 0o444] {
            let dead = staged(&client.work().join(name));
            write(&dead, b"left");
            set_mode(&dead, left);
            let source = format!("srv:{name}");
            let get = run(&client, &["get", &source, "."]);
            assert_eq!(get.code, 0, "{left:o} {get:?}");
            assert!(!dead.exists());
            std::fs::remove_file(client.work().join(name)).unwrap();
        }
    }
    // and none is left that its owner could not open
    set_mode(&server.root.join("small"), 0o044);
    assert_eq!(run(&client, &["get", "srv:small", "."]).code, 0);
    assert_eq!(mode(&client.work().join("small")), 0o044);
}

#[test]
fn what_no_source_has_goes_from_read_only_directories_too() {
    if !is_root() {
        return;
    }
    let client = Client::new();
    let path = |path: &str| client.work().join(path);
    for file in ["s/ro/f", "d/ro/junk", "d/extra/sub/x", "d/unread/y", "d/old"] {
        write(&path(file), file.as_bytes());
    }
    for dir in ["s/ro", "d/ro", "d/extra/sub", "d/extra"] {
        set_mode(&path(dir), 0o555);
    }
    let first = run(&client, &["cp", "-a", "--delete", "--exclude=unread", "s/", "d"]);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(path("d/ro/f").exists() && !path("d/ro/junk").exists() && !path("d/extra").exists());
    assert_eq!(mode(&path("d/ro")), 0o555);
    // one that cannot be listed is named, and stays
    write(&path("d/old"), b"old");
    set_mode(&path("d/unread"), 0);
    let second = run(&client, &["cp", "-a", "--delete", "s/", "d"]);
    set_mode(&path("d/unread"), 0o755);
    assert_eq!(second.code, 3, "{second:?}");
    assert!(second.err.contains("d/unread: ") && !path("d/old").exists(), "{second:?}");
    assert!(path("d/unread/y").exists());
}

/// The server's sandbox allows what a file needs that its user may not open.
#[test]
fn modes_that_keep_the_server_out_can_be_changed() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(PLAIN), Some(PLAIN)).unwrap();
    let user = PLAIN.to_string();
    let prefix = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
    let server = Server::within(dir, &prefix, &[]);
    let client = server.client();
    write(&server.root.join("f"), b"f");
    for path in [server.root.clone(), server.root.join("f")] {
        chown(path, Some(PLAIN), Some(PLAIN)).unwrap();
    }
    set_mode(&server.root.join("f"), 0);
    client.ok(["touch", "srv:f"]);
    client.ok(["chmod", "640", "srv:f"]);
    assert_eq!(mode(&server.root.join("f")), 0o640);
}

/// They need permission to write, which a file in a new directory has before it is complete.
#[test]
fn files_in_a_new_directory_get_their_extended_attributes() {
    if !is_root() {
        return;
    }
    let client = Client::new();
    for (name, mode) in [("f", 0o644), ("closed", 0o444)] {
        let file = client.work().join("src/sub").join(name);
        write(&file, b"content");
        setxattr(&file, "user.x", b"value", XattrFlags::empty()).unwrap();
        set_mode(&file, mode);
    }
    let copied = run(&client, &["cp", "-r", "-X", "src/", "new"]);
    assert_eq!((copied.code, copied.err.contains("not set")), (0, false), "{copied:?}");
    for (name, wanted) in [("f", 0o644), ("closed", 0o444)] {
        let file = client.work().join("new/sub").join(name);
        let mut value = [0; 16];
        let length = getxattr(&file, "user.x", &mut value[..]).unwrap();
        assert_eq!((&value[..length], mode(&file)), (&b"value"[..], wanted));
    }
}
