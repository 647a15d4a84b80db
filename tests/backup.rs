//! Backups: what is replaced or deleted is moved aside, as the rsync binary does it.

use crate::support::chance::Chance;
use crate::support::tree::{set_mtime, write};
use crate::support::{Client, Server};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const NAMES: [&str; 6] = ["a", "b", "c.txt", "d~x", "é", "f"];

/// What a path has: a directory, a version of a file, or of a symlink.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(String),
    Link(String),
}

type Nodes = BTreeMap<String, Node>;

/// A random tree. A name that one of `others` has as a directory is one, and the other way round.
fn tree(chance: &mut Chance, others: &[Nodes]) -> Nodes {
    let mut nodes = Nodes::new();
    for _ in 0..4 + chance.below(14) {
        let depth = 1 + chance.below(3);
        let names: Vec<&str> = (0..depth).map(|_| *chance.of(&NAMES)).collect();
        let above: Vec<String> = (1..depth).map(|n| names[..n].join("/")).collect();
        let path = names.join("/");
        let has_dir = |path: &String| matches!(nodes.get(path), Some(Node::Dir) | None);
        let may_be_dir =
            |path: &String| others.iter().all(|o| matches!(o.get(path), Some(Node::Dir) | None));
        let fits = above.iter().all(|dir| has_dir(dir) && may_be_dir(dir));
        let is_taken = matches!(nodes.get(&path), Some(Node::Dir))
            || others.iter().any(|other| matches!(other.get(&path), Some(Node::Dir)));
        if !fits || is_taken {
            continue;
        }
        let version = chance.below(3);
        nodes.extend(above.into_iter().map(|dir| (dir, Node::Dir)));
        let text = format!("{path} {}", "v".repeat(version));
        nodes.insert(
            path,
            if chance.one_in(5) {
                Node::Link(text)
            } else {
                Node::File(text)
            },
        );
    }
    nodes
}

fn make(top: &Path, nodes: &Nodes) {
    std::fs::create_dir_all(top).unwrap();
    for (path, node) in nodes {
        let at = top.join(path);
        match node {
            Node::Dir => std::fs::create_dir_all(&at).unwrap(),
            Node::Link(target) => symlink(target, &at).unwrap(),
            Node::File(text) => {
                write(&at, text.as_bytes());
                let time = UNIX_EPOCH + Duration::from_secs(1_600_000_000 + text.len() as u64);
                std::fs::File::options()
                    .write(true)
                    .open(&at)
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            }
        }
    }
}

/// What is beneath a directory; nothing where there is none.
fn found(top: &Path) -> Nodes {
    let walk = walkdir::WalkDir::new(top).min_depth(1).into_iter().filter_map(Result::ok);
    let nodes = walk.map(|entry| {
        let node = match entry.file_type() {
            kind if kind.is_dir() => Node::Dir,
            kind if kind.is_symlink() => {
                Node::Link(std::fs::read_link(entry.path()).unwrap().to_str().unwrap().into())
            }
            _ => Node::File(std::fs::read_to_string(entry.path()).unwrap()),
        };
        let path = entry.path().strip_prefix(top).unwrap();
        (path.to_str().unwrap().to_string(), node)
    });
    nodes.collect()
}

fn rsync(dir: &Path, options: &[String]) {
    let mut command = Command::new("rsync");
    command
        .current_dir(dir)
        .args(["-rlt"])
        .args(options)
        .args(["src/", "dest/"]);
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{options:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Where haul's transfer has its source and its destination.
fn places(server: &Server, client: &Client, verb: &str, name: &str) -> (PathBuf, PathBuf) {
    let (here, there) = (client.work().join(name), server.root.join(name));
    match verb {
        "put" => (here, there),
        "get" => (there, here),
        _ => (here.clone(), here),
    }
}

#[test]
fn backups_are_those_of_rsync_over_random_trees() {
    let server = Server::start();
    let client = server.client();
    let rounds = std::env::var("HAUL_SEEDS").map_or(24, |n| n.parse().unwrap());
    for seed in 1..=rounds {
        let mut chance = Chance::of_seed(seed);
        let mut options = vec!["-b".to_string()];
        match chance.below(4) {
            0 => {}
            1 => options.push("--suffix=.old".into()),
            2 => options.push("--backup-dir=../bak".into()),
            _ => options.extend(["--backup-dir=bak/x", "--suffix=-was"].map(String::from)),
        }
        let deletes = chance.one_in(2);
        let (mut of_rsync, mut of_haul) = (options.clone(), options.clone());
        if deletes {
            of_haul.push("--delete=yes".into());
            // haul protects that by itself
            of_rsync.extend(["--delete", "--filter=P /bak/"].map(String::from));
        }
        let verb = *chance.of(&["put", "get", "cp"]);
        let name = format!("t{seed}");
        let (source, dest) = places(&server, &client, verb, &name);
        let oracle = tempfile::tempdir_in("/dev/shm").unwrap();
        let before = tree(&mut chance, &[]);
        make(&dest.join("dest"), &before);
        make(&oracle.path().join("dest"), &before);
        for round in 0..3 {
            let there = [dest.join("dest"), dest.join("dest/bak/x"), dest.join("bak")];
            let nodes = tree(&mut chance, &there.map(|top| found(&top)));
            for top in [oracle.path().join("src"), source.join("src")] {
                let _ = std::fs::remove_dir_all(&top);
                make(&top, &nodes);
            }
            rsync(oracle.path(), &of_rsync);
            let (from, to) = match verb {
                "put" => (format!("{name}/src/"), format!("srv:{name}/dest")),
                "get" => (format!("srv:{name}/src/"), format!("{name}/dest")),
                _ => (format!("{name}/src/"), format!("{name}/dest")),
            };
            let words = [verb.to_string(), "-a".into()].into_iter();
            client.ok(words.chain(of_haul.clone()).chain([from, to]));
            let context = format!("seed {seed}, round {round}: {verb} {of_haul:?}");
            for part in ["dest", "bak"] {
                let wanted = found(&oracle.path().join(part));
                assert_eq!(found(&dest.join(part)), wanted, "{part}, {context}");
            }
        }
    }
}

/// A suffix is no pattern.
#[test]
fn a_deletion_leaves_backups_beside_their_files() {
    let server = Server::start();
    let client = server.client();
    let there = server.root.join("dest");
    for path in ["a", "b.old[1]", "c.old1", "d/e.old[1]"] {
        write(&there.join(path), b"old");
    }
    write(&client.work().join("src/a"), b"newer");
    client.ok(["put", "-ab", "--suffix=.old[1]", "--delete", "src/", "srv:dest"]);
    let names: Vec<String> = found(&there).into_keys().collect();
    assert_eq!(names, ["a", "a.old[1]", "b.old[1]", "c.old1.old[1]", "d", "d/e.old[1]"]);
    client.ok(["put", "-ab", "--suffix=.old[1]", "--delete-excluded", "src/", "srv:dest"]);
    // nor does a deletion of what is excluded take them
    assert_eq!(found(&there).into_keys().collect::<Vec<_>>(), names);
}

/// Files, and larger ones that arrive in parts.
#[test]
fn a_backup_directory_is_anywhere_in_the_root() {
    let server = Server::start();
    let client = server.client();
    let large = |byte| vec![byte; 3 << 20];
    write(&server.root.join("www/site/large"), &large(1));
    // of another time, however fast all this is
    set_mtime(&server.root.join("www/site/large"), 1_000_000_000_000_000_000);
    write(&server.root.join("www/site/d/a"), b"old");
    write(&client.work().join("site/large"), &large(2));
    write(&client.work().join("site/d/a"), b"newer");
    client.ok(["put", "-a", "--backup-dir", "/old/today", "site/", "srv:www/site"]);
    let kept = |path: &str| std::fs::read(server.root.join("old/today").join(path)).unwrap();
    assert!(kept("large") == large(1));
    assert_eq!(kept("d/a"), b"old");
    assert!(std::fs::read(server.root.join("www/site/large")).unwrap() == large(2));
    // with a condition, too, although a backup gives the old file another version
    let stat = client.ok(["stat", "--json", "srv:www/site/d/a"]);
    let version = serde_json::from_str::<serde_json::Value>(&stat).unwrap()["version"].clone();
    let condition = format!("--if-version={}", version.as_str().unwrap());
    write(&client.work().join("third"), b"third");
    client.ok(["put", "-b", &condition, "third", "srv:www/site/d/a"]);
    assert_eq!(std::fs::read(server.root.join("www/site/d/a~")).unwrap(), b"newer");
    client
        .run(["put", "-b", &condition, "third", "srv:www/site/d/a"])
        .failed(7, &["version"]);
    client.ok(["put", "-a", "site/d/a", "srv:www/site/d/a"]);
    // an unchanged file has no new backup
    std::fs::remove_dir_all(server.root.join("old")).unwrap();
    client.ok(["put", "-a", "--backup-dir", "/old/today", "site/", "srv:www/site"]);
    assert!(!server.root.join("old").exists());
}

#[test]
fn what_cannot_have_a_backup_stays() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("dest/a"), b"old");
    write(&server.root.join("dest/b"), b"old");
    // something that is no backup is in its place
    write(&server.root.join("dest/a~/x"), b"x");
    write(&client.work().join("src/a"), b"newer");
    write(&client.work().join("src/b"), b"newer");
    let ended = client.run(["put", "-ab", "src/", "srv:dest"]);
    ended.failed(3, &["a: at the destination: its backup cannot be made"]);
    let content = |path: &str| std::fs::read_to_string(server.root.join(path)).unwrap();
    assert_eq!((content("dest/a"), content("dest/b")), ("old".into(), "newer".into()));
    assert_eq!(content("dest/b~"), "old");
    // nor may it be outside, or on another file system
    let outside = ["put", "-a", "--backup-dir=../../x", "src/", "srv:dest"];
    client.run(outside).failed(2, &["--backup-dir", "not allowed"]);
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir(client.work().join("here")).unwrap();
    write(&client.work().join("here/b"), b"old");
    let dir = format!("--backup-dir={}/x", shm.path().display());
    let elsewhere = client.run(["get", "-a", &dir, "srv:dest/b", "here/"]);
    elsewhere.failed(1, &["it is on another file system", shm.path().to_str().unwrap()]);
    assert_eq!(std::fs::read(client.work().join("here/b")).unwrap(), b"old");
    assert!(!shm.path().join("x").exists());
    server.user(&["add", "drop", "--write-only", "--root", "inbox"], "p");
    let drop = server.client_of("drop");
    write(&drop.work().join("b"), b"b");
    drop.run(["put", "-b", "b", "srv:"])
        .failed(8, &["--backup", "would tell what is there"]);
}

/// A copy at a server, and one to another server.
#[test]
fn copies_between_servers_have_backups() {
    let (server, other) = (Server::start(), Server::start());
    let client = server.client();
    other.second_login(&client, other.address);
    for (to, root) in [("srv", &server.root), ("vps", &other.root)] {
        write(&server.root.join("src/a"), b"newer");
        write(&root.join("dest/a"), b"old");
        write(&root.join("dest/gone"), b"gone");
        let dest = format!("{to}:dest");
        client.ok(["cp", "-ab", "--backup-dir=.before", "--delete", "srv:src/", &dest]);
        let read = |path: &str| std::fs::read(root.join("dest").join(path)).unwrap();
        assert_eq!(read("a"), b"newer", "{to}");
        assert_eq!(read(".before/a"), b"old", "{to}");
        assert_eq!(read(".before/gone"), b"gone", "{to}");
        client.ok(["cp", "-ab", "--backup-dir=.before", "--delete", "srv:src/", &dest]);
        assert_eq!(read(".before/a"), b"old", "{to}");
    }
}

/// A source that has files with the names of backups, too: neither what was there nor what is sent
/// is lost.
#[test]
fn names_of_backups_that_the_source_has_lose_nothing() {
    let server = Server::start();
    let client = server.client();
    for verb in ["cp", "put"] {
        let source = client.work().join(verb);
        let (dest, to) = match verb {
            "put" => (server.root.join("dest"), "srv:dest"),
            _ => (client.work().join("dest"), "dest"),
        };
        for n in 0..300 {
            write(&source.join(format!("f{n}")), format!("new {n}").as_bytes());
            write(&source.join(format!("f{n}~")), format!("sent {n}").as_bytes());
            write(&dest.join(format!("f{n}")), format!("old content {n}").as_bytes());
        }
        write(&source.join("large"), &vec![2; 3 << 20]);
        write(&source.join("large~"), b"sent");
        write(&dest.join("large"), &vec![1; 3 << 20]);
        set_mtime(&dest.join("large"), 1_000_000_000_000_000_000);
        // and one whose file is to be deleted
        write(&source.join("gone~"), b"sent");
        write(&dest.join("gone"), b"old");
        let from = format!("{verb}/");
        let ended = client.run([verb, "-ab", "--delete", &from, to]);
        assert!(ended.code == 3 && ended.err.contains("name of its backup"), "{ended:?}");
        let read = |name: &str| std::fs::read(dest.join(name)).unwrap_or_default();
        let text = |name: &str| String::from_utf8(read(name)).unwrap();
        for n in 0..300 {
            assert_eq!(text(&format!("f{n}")), format!("new {n}"));
            assert_eq!(text(&format!("f{n}~")), format!("sent {n}"));
            assert_eq!(text(&format!("f{n}~~")), format!("old content {n}"));
        }
        assert_eq!((text("large~"), read("large~~").len()), ("sent".into(), 3 << 20), "{verb}");
        assert_eq!((text("gone~"), text("gone")), ("sent".into(), "old".into()), "{verb}");
    }
}

/// What the run itself has moved aside stays, whatever else the rules say.
#[test]
fn a_deletion_leaves_the_backups_of_its_run() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("src/f"), b"new");
    for options in [&["--delete-excluded"][..], &["--delete", "--include=*"]] {
        for (to, dest) in
            [("srv:dest", server.root.join("dest")), ("dest", client.work().join("dest"))]
        {
            write(&dest.join("f"), b"old content");
            let words = ["cp", "-ab"].iter().chain(options).copied();
            client.ok(words.chain(["src/", to]));
            assert_eq!(std::fs::read(dest.join("f~")).unwrap(), b"old content", "{options:?} {to}");
            std::fs::remove_dir_all(dest).unwrap();
        }
    }
    // the first night, with a directory beside one that is not there yet
    client.ok(["cp", "-a", "--backup-dir=../before", "src/", "new"]);
    write(&client.work().join("src/f"), b"newer content");
    client.ok(["cp", "-a", "--backup-dir=../before", "src/", "new"]);
    assert_eq!(std::fs::read(client.work().join("before/f")).unwrap(), b"new");
}
