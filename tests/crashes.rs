//! Killed, interrupted, full, locked: the target is the old file or the new one, and the next run
//! succeeds.

use crate::support::disk::SmallDisk;
use crate::support::tree::{Entry, bytes, record_of, sample, snapshot, staged, write};
use crate::support::{Client, Server, until, wait};
use rustix::process::Signal;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

fn start(client: &Client, arguments: &[&str]) -> Child {
    client
        .command(arguments)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Old or new, whole.
fn is_one_of(path: &Path, contents: &[&[u8]]) {
    let found = std::fs::read(path).unwrap();
    assert!(
        contents.iter().any(|c| *c == found),
        "{} has {} bytes of something else",
        path.display(),
        found.len()
    );
}

#[test]
fn a_killed_client_leaves_the_old_file_or_the_new_one() {
    let server = Server::start();
    let client = server.client();
    let (old, new) = (bytes(1, 3 << 20), bytes(2, 24 << 20));
    write(&client.work().join("new"), &new);
    write(&server.root.join("f"), &old);
    // killed at ever later moments, from before the login to after the commit
    for delay in (0..260).step_by(20) {
        let mut child = start(&client, &["put", "new", "srv:f"]);
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        wait(&mut child);
        is_one_of(&server.root.join("f"), &[&old, &new]);
        let mut child = start(&client, &["get", "srv:f", "got"]);
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        wait(&mut child);
        if client.work().join("got").exists() {
            is_one_of(&client.work().join("got"), &[&old, &new]);
        }
    }
    client.ok(["put", "--wait=20s", "new", "srv:f"]);
    client.ok(["get", "srv:f", "got"]);
    is_one_of(&client.work().join("got"), &[&new]);
    let left: Vec<_> = std::fs::read_dir(&server.root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["f"], "no partial file is left");
}

#[test]
fn a_killed_server_leaves_whole_files_and_the_next_run_completes() {
    let mut server = Server::start();
    let client = server.client().with_env("HAUL_RETRY_FOR", "1s");
    sample(&client.work().join("tree"));
    write(&client.work().join("tree/big"), &bytes(3, 20 << 20));
    for delay in [30, 80, 150] {
        let mut child = start(&client, &["put", "-r", "tree", "srv:"]);
        std::thread::sleep(Duration::from_millis(delay));
        server.kill();
        assert_ne!(wait(&mut child).code(), None);
        let sent = snapshot(&client.work().join("tree"));
        if server.root.join("tree").exists() {
            for (path, entry) in snapshot(&server.root.join("tree")) {
                let staged =
                    path.file_name().is_some_and(|n| n.to_string_lossy().contains(".haul"));
                if let Entry::File { .. } = &entry
                    && !staged
                {
                    assert_eq!(sent.get(&path), Some(&entry), "{}", path.display());
                }
            }
        }
        server.restart();
    }
    client.ok(["put", "-r", "tree", "srv:"]);
    let mut there = snapshot(&server.root.join("tree"));
    // the empty lock of a symlink that was made just before the server died waits for the sweep
    let sent = snapshot(&client.work().join("tree"));
    there.retain(|path, entry| {
        let is_empty = matches!(entry, Entry::File { size: 0, .. });
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let target = name.as_deref().and_then(|name| name.strip_prefix('.')?.rsplit_once('~'));
        let target = target.filter(|(_, rest)| rest.ends_with(".haul"));
        let target = target.and_then(|(target, _)| sent.get(&path.with_file_name(target)));
        !(is_empty && matches!(target, Some(Entry::Symlink { .. })))
    });
    assert!(sent == there, "{:?}", there.keys());
}

#[test]
fn interrupted_and_terminated_stop_at_once_with_their_codes() {
    let server = Server::start();
    let client = server.client();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut command = client.command(["put", "-", "srv:stream"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the stream is staged", || staged(&server.root.join("stream")).exists());
        let started = std::time::Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let _stdin = child.stdin.take();
        assert_eq!(wait(&mut child).code(), Some(code));
        assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
        assert!(!server.root.join("stream").exists());
        until("the lock is let go", || !staged(&server.root.join("stream")).exists());
    }
}

#[test]
fn a_stopped_server_ends_cleanly() {
    let mut server = Server::start();
    let client = server.client();
    client.ok(["ls", "srv:"]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    client.run(["ls", "srv:"]).failed(4, &["cannot connect"]);
}

#[test]
fn of_two_writers_one_wins_and_the_other_is_told_who_or_waits() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"small");
    write(&client.work().join("big"), &bytes(1, 2 << 20));
    let mut command = client.command(["put", "-", "srv:x"]);
    let mut holder = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("the first writer has the lock", || staged(&server.root.join("x")).exists());
    for source in ["f", "big"] {
        client
            .run(["put", source, "srv:x"])
            .failed(7, &["being written by kim@", "--wait"]);
    }
    client
        .run(["put", "--wait=1s", "f", "srv:x"])
        .failed(7, &["being written by kim@", "use --wait=TIME to wait longer"]);
    // another server on the same directory sees the same lock
    let second = Server::on(&server.root);
    second
        .client_put(&client.work().join("f"))
        .failed(7, &["being written by kim@"]);
    let mut waiting = start(&client, &["put", "--wait", "f", "srv:x"]);
    std::io::Write::write_all(holder.stdin.as_mut().unwrap(), b"first").unwrap();
    drop(holder.stdin.take());
    assert!(wait(&mut holder).success());
    assert!(wait(&mut waiting).success());
    assert_eq!(std::fs::read(server.root.join("x")).unwrap(), b"small");
}

impl Server {
    fn client_put(&self, file: &Path) -> crate::support::Ended {
        self.client().run(["put", file.to_str().unwrap(), "srv:x"])
    }
}

#[test]
fn many_writers_of_one_target_leave_one_of_their_files() {
    let server = Server::start();
    let clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    let contents: Vec<Vec<u8>> = (0..4)
        .map(|i| bytes(i + 1, if i % 2 == 0 { 5000 } else { 3 << 20 }))
        .collect();
    std::thread::scope(|scope| {
        for (client, content) in clients.iter().zip(&contents) {
            scope.spawn(move || {
                write(&client.work().join("f"), content);
                for _ in 0..5 {
                    let put = client.run(["put", "--wait=60s", "--checksum", "f", "srv:x"]);
                    assert_eq!(put.code, 0, "{put:?}");
                }
            });
        }
    });
    let all: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    is_one_of(&server.root.join("x"), &all);
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 1);
}

#[test]
fn locks_of_the_dead_are_taken_over_at_once() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"small");
    write(&client.work().join("big"), &bytes(1, 2 << 20));
    let (staged, record) = (staged(&server.root.join("x")), record_of(&server.root.join("x")));
    let garbage: [&dyn Fn(); 5] = [
        &|| write(&staged, b""),
        &|| write(&staged, &bytes(9, 5 << 20)),
        &|| {
            write(&staged, b"dated in the future");
            let future = std::time::SystemTime::now() + Duration::from_secs(1 << 30);
            std::fs::File::open(&staged).unwrap().set_modified(future).unwrap();
            write(&record, b"{\"who\":\"nobody\",\"since\":99999999999999}");
        },
        &|| {
            write(&staged, b"read-only");
            crate::support::tree::set_mode(&staged, 0o444);
        },
        &|| {
            write(&staged, b"write-only");
            crate::support::tree::set_mode(&staged, 0o200);
        },
    ];
    for (i, make) in garbage.iter().enumerate() {
        for source in ["f", "big"] {
            let _ = std::fs::remove_file(server.root.join("x"));
            make();
            let put = client.run(["put", source, "srv:x"]);
            assert_eq!(put.code, 0, "{i}: {put:?}");
            let expected = std::fs::read(client.work().join(source)).unwrap();
            assert!(std::fs::read(server.root.join("x")).unwrap() == expected, "{i} {source}");
            assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 1, "{i} {source}");
        }
    }
    // a second name of another file is not written to
    let precious = server.dir.path().join("precious");
    write(&precious, b"precious");
    std::fs::hard_link(&precious, &staged).unwrap();
    client.ok(["put", "f", "srv:y"]);
    std::fs::rename(&staged, crate::support::tree::staged(&server.root.join("y"))).unwrap();
    client.ok(["put", "big", "srv:y"]);
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
}

/// Only what has a name with haul's mark, and is a regular file, is haul's: anything else is a file
/// like others, or is named.
#[test]
fn what_haul_did_not_make_is_not_removed() {
    let mut server = Server::with(&["--partial-max-age", "1s"]);
    let client = server.client();
    let tree = client.work().join("tree");
    let theirs = [".notes.haul", ".conf.haul-info", ".report.haul", ".haul/within", "notes"];
    for name in theirs {
        write(&tree.join(name), name.as_bytes());
        write(&server.root.join(name), name.as_bytes());
    }
    // a sweep, an overwritten neighbour, a tree
    let week_ago = std::time::SystemTime::now() - Duration::from_secs(8 * 86_400);
    let old = staged(&server.root.join("gone"));
    for path in [&old, &server.root.join(".notes.haul"), &server.root.join(".conf.haul-info")] {
        write(path, b"old");
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(week_ago).unwrap();
    }
    server.kill();
    server.restart();
    until("the sweep has come by", || !old.exists());
    write(&client.work().join("report"), b"report");
    client.ok(["put", "report", "srv:"]);
    for kept in [".notes.haul", ".conf.haul-info"] {
        assert_eq!(std::fs::read(server.root.join(kept)).unwrap(), b"old", "{kept}");
    }
    assert_eq!(std::fs::read(server.root.join(".report.haul")).unwrap(), b".report.haul");
    client.ok(["put", "-r", "tree/", "srv:back"]);
    for name in theirs {
        assert_eq!(std::fs::read(server.root.join("back").join(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(client.ok(["ls", "-a", "srv:back/.haul"]), "within\n");
    // what is in the way is named, and stays
    let link = staged(&server.root.join("linked"));
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let directory = staged(&server.root.join("under"));
    std::fs::create_dir(&directory).unwrap();
    for (target, obstacle) in [("srv:linked", &link), ("srv:under", &directory)] {
        let name = obstacle.file_name().unwrap().to_str().unwrap();
        client.run(["put", "report", target]).failed(1, &[name, "in the way"]);
        assert!(obstacle.symlink_metadata().is_ok());
    }
}

#[test]
fn a_full_disk_fails_the_file_and_keeps_the_old_one() {
    for options in ["size=6m", "size=64m,nr_inodes=12"] {
        let Some(disk) = SmallDisk::mount(options) else {
            return;
        };
        let server = Server::on(disk.path());
        let client = server.client();
        write(&disk.path().join("big"), b"old");
        write(&client.work().join("t/big"), &bytes(1, 8 << 20));
        for i in 0..40 {
            write(&client.work().join(format!("t/small-{i:02}")), &bytes(i, 100));
        }
        let put = client.run(["put", "-r", "t/.", "srv:"]);
        assert_eq!(put.code, 3, "{options}: {put:?}");
        assert!(put.err.contains("no space left"), "{put:?}");
        if options == "size=6m" {
            assert!(put.err.contains("t/big: at the destination: no space left"), "{put:?}");
            assert_eq!(std::fs::read(disk.path().join("big")).unwrap(), b"old");
            assert!(disk.path().join("small-39").exists(), "other files go on");
        }
        // and the same on the way back
        let home = server.client();
        write(&home.work().join("f"), &bytes(1, 100));
        let source = Server::start();
        let other = source.client();
        write(&source.root.join("huge"), &bytes(1, 80 << 20));
        let target = disk.path().join("huge");
        let got = other.run(["get", "srv:huge", target.to_str().unwrap()]);
        got.failed(1, &["huge", "no space left"]);
        assert!(!target.exists());
    }
}

#[test]
fn a_source_that_keeps_changing_is_reported_not_mixed() {
    let server = Server::start();
    let client = server.client();
    let path = client.work().join("log");
    write(&path, &bytes(1, 30 << 20));
    write(&server.root.join("log"), b"old");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let put = std::thread::scope(|scope| {
        let (appended, stop) = (&path, &stop);
        scope.spawn(move || {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().append(true).open(appended).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"one more line\n").unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let put = client.run(["put", "log", "srv:"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        put
    });
    put.failed(7, &["log", "changed while it was read"]);
    assert_eq!(std::fs::read(server.root.join("log")).unwrap(), b"old");
    client.ok(["put", "log", "srv:"]);
    assert!(std::fs::read(server.root.join("log")).unwrap() == std::fs::read(&path).unwrap());
}

#[test]
fn a_writer_that_was_paused_past_a_take_over_cannot_commit() {
    let server = Server::start();
    let rules = crate::support::proxy::Rules {
        rate: Some(4 << 20),
        ..Default::default()
    };
    let proxy = crate::support::proxy::Proxy::start(server.address, rules);
    let client = server.client_at(proxy.address);
    write(&server.root.join("f"), &bytes(1, 12 << 20));
    let get = client.spawn(["get", "srv:f", "f"]);
    let staged = staged(&client.work().join("f"));
    until("it is under way", || staged.metadata().is_ok_and(|m| m.len() > 1 << 20));
    get.signal(Signal::STOP);
    // somebody breaks the lock, and another writer comes
    std::fs::remove_file(&staged).unwrap();
    write(&client.work().join("other"), b"another one's");
    std::fs::rename(client.work().join("other"), client.work().join("f")).unwrap();
    get.signal(Signal::CONT);
    let ended = get.end();
    assert_eq!(ended.code, 7, "{ended:?}");
    assert_eq!(std::fs::read(client.work().join("f")).unwrap(), b"another one's");
}
