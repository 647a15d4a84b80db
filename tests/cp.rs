//! Copies within one machine: the same promises as over the network, and the same places.

use crate::support::disk::SmallDisk;
use crate::support::tree::{bytes, read, record_of, sample, snapshot, staged, write};
use crate::support::{Client, Ended, Running, Server, has_strace, under, until};
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

const MIB: usize = 1 << 20;

fn blocks(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks()
}

/// The events of a command with `--json`.
fn events(ended: &Ended) -> Vec<serde_json::Value> {
    ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Starts a copy whose larger files share no blocks, and in which each call that copies a part of
/// one takes a while.
fn slow(client: &Client, arguments: &[&str]) -> Running {
    traced(client, arguments, "delay_enter=250000")
}

/// Starts a copy whose larger files share no blocks, and with this fault in each call that copies a
/// part of one.
fn traced(client: &Client, arguments: &[&str], fault: &str) -> Running {
    let fault = format!("inject=copy_file_range:{fault}");
    let log = client.dir.path().join("trace");
    let strace = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        log.to_str().unwrap(),
        "-e",
        "trace=copy_file_range,ioctl",
        "-e",
        "inject=ioctl:error=EOPNOTSUPP",
        "-e",
        &fault,
    ];
    let command = under(client.command(arguments), &strace.map(str::to_string));
    Running::start(command, Stdio::null())
}

#[test]
fn dest_is_always_the_same_place() {
    let client = Client::new();
    let at = |path: &str| client.work().join(path);
    for (path, content) in [("src/a", "a"), ("src/d/b", "b"), ("other/c", "c"), ("f", "f")] {
        write(&at(path), content.as_bytes());
    }
    for round in 0..2 {
        client.ok(["cp", "-a", "src", "named"]);
        client.ok(["cp", "-a", "src/", "contents"]);
        client.ok(["cp", "-a", "src/.", "dot"]);
        client.ok(["cp", "-a", "src", "other", "both"]);
        client.ok(["cp", "f", "g"]);
        client.ok(["cp", "f", "other/"]);
        client.ok(["cp", "f", "src/a", "other"]);
        for (path, content) in [
            ("named/src/d/b", "b"),
            ("contents/d/b", "b"),
            ("dot/d/b", "b"),
            ("both/src/a", "a"),
            ("both/other/c", "c"),
            ("g", "f"),
            ("other/f", "f"),
            ("other/a", "a"),
        ] {
            assert_eq!(read(&at(path)), content, "{path}, round {round}");
        }
        assert!(!at("named/src/src").exists() && !at("contents/src").exists());
    }
    client
        .run(["cp", "f", "g", "none"])
        .failed(8, &["none", "no such directory"]);
    client.run(["cp", "f", "none/"]).failed(8, &["none/", "no such directory"]);
    client
        .run(["cp", "src", "none"])
        .failed(2, &["src", "use -r for directories"]);
    client.run(["cp", "-a", "src", "f"]).failed(1, &["f: not a directory"]);
    client.run(["cp", "missing", "none"]).failed(8, &["missing"]);
    assert_eq!((read(&at("f")), at("none").exists()), ("f".into(), false));
}

#[test]
fn everything_arrives_as_it_is() {
    let client = Client::new();
    let (from, to) = (client.work().join("from"), client.work().join("to"));
    sample(&from);
    let before = snapshot(&from);
    let first = client.run(["cp", "-a", "from/", "to"]);
    assert!(first.code == 0 && first.err.starts_with("cp: 3"), "{first:?}");
    assert!(snapshot(&to) == before, "content, modes, times and links, and nothing else");
    let second = client.run(["cp", "-a", "from/", "to"]);
    assert!(
        second.err.contains("cp: 0 files") && second.err.contains("unchanged"),
        "{second:?}"
    );
    // a change that keeps size and time is seen by content alone
    let changed = to.join("sizes/2097152");
    let time = std::fs::metadata(&changed).unwrap().modified().unwrap();
    write(&changed, &bytes(99, 2 * MIB));
    std::fs::File::open(&changed).unwrap().set_modified(time).unwrap();
    client.ok(["cp", "-a", "from/", "to"]);
    assert!(snapshot(&to) != before);
    let by_content = client.run(["cp", "-ac", "--json", "from/", "to"]);
    let hash = blake3::hash(&bytes(8, 2 * MIB)).to_hex().to_string();
    let file = events(&by_content)
        .into_iter()
        .find(|event| event["event"] == "file")
        .unwrap();
    assert_eq!((&file["path"], &file["hash"]), (&"from/sizes/2097152".into(), &hash.into()));
    assert!(snapshot(&to) == before && snapshot(&from) == before);
}

#[test]
fn options_choose_what_is_copied() {
    let client = Client::new();
    let at = |path: &str| client.work().join(path);
    for path in ["src/a", "src/x.log", "src/node_modules/m", "src/d/b"] {
        write(&at(path), path.as_bytes());
    }
    let plan = client.run(["cp", "-an", "--exclude", "node_modules", "src", "to"]);
    assert!(plan.code == 0 && plan.err.contains("would copy 3 files"), "{plan:?}");
    assert!(!at("to").exists(), "a dry run makes nothing");
    client.ok(["cp", "-a", "--exclude=node_modules", "--exclude", "*.log", "src", "to"]);
    assert!(at("to/src/d/b").exists() && !at("to/src/x.log").exists());
    assert!(!at("to/src/node_modules").exists());
    // what is newer there stays, as does what does not have the version
    write(&at("to/src/a"), b"newer there");
    client.ok(["cp", "-au", "src", "to"]);
    assert_eq!(read(&at("to/src/a")), "newer there");
    client
        .run(["cp", "--if-version", "none", "src/a", "to/src/a"])
        .failed(7, &["src/a: at the destination"]);
    let verbose = client.run(["cp", "-av", "src", "to"]);
    assert!(verbose.code == 0 && verbose.err.contains("src/a\n"), "{verbose:?}");
    assert_eq!(read(&at("to/src/a")), "src/a");
}

#[test]
fn a_stream_becomes_a_file() {
    let client = Client::new();
    let content = bytes(7, 3 * MIB + 5);
    let put = client.run_with(["cp", "-", "out"], &content);
    assert_eq!(put.code, 0, "{put:?}");
    assert!(std::fs::read(client.work().join("out")).unwrap() == content);
    std::fs::create_dir(client.work().join("dir")).unwrap();
    client
        .run(["cp", "-", "dir"])
        .failed(2, &["a stream needs a file name", "dir/NAME"]);
    client.run(["cp", "-", "out", "dir"]).failed(2, &["can only be put alone"]);
    client.run(["cp", "out", "-"]).failed(2, &["./-"]);
}

#[test]
fn nothing_is_copied_onto_itself_or_into_itself() {
    let client = Client::new();
    let at = |path: &str| client.work().join(path);
    write(&at("a"), b"precious");
    write(&at("d/sub/x"), b"x");
    std::fs::hard_link(at("a"), at("hard")).unwrap();
    std::os::unix::fs::symlink("d", at("link")).unwrap();
    std::os::unix::fs::symlink("a", at("soft")).unwrap();
    let before = snapshot(&client.work());
    for arguments in [
        &["cp", "a", "a"][..],
        &["cp", "a", "./a"],
        &["cp", "a", "."],
        &["cp", "soft", "a"],
        &["cp", "a", "hard"],
        &["cp", "-c", "a", "hard"],
    ] {
        client.run(arguments).failed(1, &["are the same file"]);
    }
    for arguments in [
        &["cp", "-a", "d", "."][..],
        &["cp", "-a", "d/", "d"],
        &["cp", "-a", "d/", "d/sub"],
        &["cp", "-a", "d", "d/new"],
        &["cp", "-a", "d", "link/sub"],
        &["cp", "-a", "link/", "d/sub"],
    ] {
        client
            .run(arguments)
            .failed(1, &["the destination is the source, or within it"]);
    }
    assert_eq!(snapshot(&client.work()), before);
}

#[test]
fn holes_stay_holes() {
    let client = Client::new();
    let (from, to) = (client.work().join("from"), client.work().join("to"));
    let file = std::fs::File::create(&from).unwrap();
    for at in [3 * MIB + 17, 100 * MIB] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", at as u64).unwrap();
    }
    file.set_len(200 * MIB as u64).unwrap();
    client.ok(["cp", "from", "to"]);
    assert!(std::fs::read(&to).unwrap() == std::fs::read(&from).unwrap());
    assert!(blocks(&to) <= blocks(&from).max(256), "{} blocks", blocks(&to));
}

#[test]
fn blocks_are_shared_where_the_file_system_can() {
    let Some(disk) = SmallDisk::sharing() else {
        return;
    };
    let client = Client::new();
    // more than the file system sets aside for itself meanwhile
    let content = bytes(3, 160 * MIB + 5);
    let (from, to) = (disk.path().join("from"), disk.path().join("to"));
    write(&from, &content);
    write(&to, b"old");
    rustix::fs::sync();
    let before = disk.free();
    client.ok(["cp", "-p", from.to_str().unwrap(), to.to_str().unwrap()]);
    rustix::fs::sync();
    let taken = before.saturating_sub(disk.free());
    assert!(taken < 130 * MIB as u64, "{taken} bytes");
    assert!(std::fs::read(&to).unwrap() == content);
    // they part when one is written
    write(&from, b"other");
    assert!(std::fs::read(&to).unwrap() == content);
}

#[test]
fn with_a_remote_path_it_is_put_or_get() {
    let server = Server::start();
    let client = server.client();
    sample(&client.work().join("tree"));
    let put = client.run(["cp", "-a", "tree", "srv:to"]);
    assert!(put.code == 0 && put.err.starts_with("put: "), "{put:?}");
    client.ok(["cp", "-a", "srv:to/tree", "back"]);
    assert!(snapshot(&client.work().join("back/tree")) == snapshot(&client.work().join("tree")));
    let within = client.run(["cp", "-a", "srv:to/tree", "srv:copy"]);
    assert!(within.code == 0 && within.err.starts_with("cp: "), "{within:?}");
    client
        .run(["cp", "srv:to/a", "tree/modes/secret", "back"])
        .failed(2, &["srv:to/a", "not on this machine"]);
}

#[test]
fn a_target_has_one_writer() {
    let client = Client::new();
    let target = client.work().join("target");
    write(&target, b"old");
    write(&client.work().join("f"), &bytes(1, 2 * MIB));
    let mut first = client.spawn_with_input(["cp", "-", "target"]);
    let mut input = first.child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &bytes(2, 2 * MIB)).unwrap();
    until("it is staged", || staged(&target).exists());
    client
        .run(["cp", "f", "target"])
        .failed(7, &["f: at the destination", "haul cp, process"]);
    assert_eq!(read(&target), "old");
    let waiting = client.spawn(["cp", "--wait=60s", "f", "target"]);
    drop(input);
    assert_eq!(first.end().code, 0);
    assert_eq!(waiting.end().code, 0);
    assert!(std::fs::read(&target).unwrap() == bytes(1, 2 * MIB));
}

/// Starts a slow copy of `from`, and waits until a part of it is durable.
fn started(client: &Client) -> Running {
    let to = client.work().join("to");
    let copying = slow(client, &["cp", "from", "to"]);
    until("a part is durable", || {
        std::fs::read_to_string(record_of(&to)).is_ok_and(|record| record.contains("copied "))
            && std::fs::metadata(staged(&to)).is_ok_and(|found| found.len() > 80 * MIB as u64)
    });
    copying
}

#[test]
fn an_interrupted_copy_is_resumed() {
    if !has_strace() {
        return;
    }
    let client = Client::new();
    let content = bytes(5, 320 * MIB);
    let (from, to) = (client.work().join("from"), client.work().join("to"));
    write(&from, &content);
    write(&to, b"old");
    let interrupted = started(&client);
    interrupted.signal(Signal::INT);
    assert_eq!(interrupted.end().code, 130);
    assert_eq!(read(&to), "old");
    let killed = started(&client);
    killed.kill();
    assert_eq!(read(&to), "old");
    let resumed = client.run(["cp", "--json", "from", "to"]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    let events = events(&resumed);
    assert!(events[0]["event"] == "resumed" && events[0]["offset"].as_u64() > Some(0));
    let summary = events.last().unwrap();
    assert!(summary["bytes"].as_u64() < Some(300 * MIB as u64), "{summary}");
    assert!(std::fs::read(&to).unwrap() == content);
    assert!(!staged(&to).exists() && !record_of(&to).exists());
}

#[test]
fn chunks_do_not_resume_what_was_copied_without_a_hash() {
    if !has_strace() {
        return;
    }
    let client = Client::new();
    let content = bytes(6, 200 * MIB);
    write(&client.work().join("from"), &content);
    started(&client).kill();
    let restarted = client.run(["cp", "-c", "--json", "from", "to"]);
    assert_eq!(restarted.code, 0, "{restarted:?}");
    let events = events(&restarted);
    assert_eq!(events[0]["event"], "restarted", "{events:?}");
    assert_eq!(events[1]["hash"], blake3::hash(&content).to_hex().to_string());
    assert!(std::fs::read(client.work().join("to")).unwrap() == content);
}

#[test]
fn a_source_that_changes_is_copied_as_it_is_in_the_end() {
    if !has_strace() {
        return;
    }
    let client = Client::new();
    let (from, to) = (client.work().join("from"), client.work().join("to"));
    write(&from, &bytes(5, 40 * MIB));
    for new in [bytes(6, 40 * MIB), bytes(7, 24 * MIB), bytes(8, MIB / 2)] {
        let _ = std::fs::remove_file(&to);
        let copying = slow(&client, &["cp", "from", "to"]);
        let has_begun = || std::fs::metadata(staged(&to)).is_ok_and(|found| found.len() > 0);
        until("it is being copied", has_begun);
        // in place: the copy has the same file open
        let file = std::fs::File::options().write(true).open(&from).unwrap();
        file.set_len(new.len() as u64).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &new, 0).unwrap();
        let ended = copying.end();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(std::fs::read(&to).unwrap() == new, "{} bytes", new.len());
    }
}

#[test]
fn haul_copies_where_the_system_does_not() {
    if !has_strace() {
        return;
    }
    let client = Client::new();
    let (content, to) = (bytes(4, 40 * MIB + 3), client.work().join("to"));
    write(&client.work().join("from"), &content);
    for (fault, code) in [("error=EXDEV", 0), ("error=EIO", 0), ("error=ENOSPC", 1)] {
        write(&to, b"old");
        let ended = traced(&client, &["cp", "from", "to"], fault).end();
        assert_eq!(ended.code, code, "{fault}: {ended:?}");
        let expected = if code == 0 { &content[..] } else { b"old" };
        assert!(std::fs::read(&to).unwrap() == expected, "{fault}");
        assert!(!staged(&to).exists(), "{fault}");
    }
}

#[test]
fn what_fails_is_named_and_the_rest_is_copied() {
    let client = Client::new();
    let at = |path: &str| client.work().join(path);
    write(&at("src/a"), b"a");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("src/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let partial = client.run(["cp", "-r", "--json", "src", "to"]);
    assert_eq!(partial.code, 3, "{partial:?}");
    let events = events(&partial);
    let failed = events.iter().find(|event| event["event"] == "failed").unwrap();
    assert_eq!(failed["path"], "src/fifo");
    let summary = events.last().unwrap();
    assert_eq!(
        (
            &summary["verb"],
            &summary["files"],
            &summary["failed"],
            &summary["complete"]
        ),
        (&"cp".into(), &1.into(), &1.into(), &true.into())
    );
    assert_eq!(client.run(["cp", "src/a", "missing", "to"]).code, 3);
    assert_eq!(read(&at("to/a")), "a");
    let Some(disk) = SmallDisk::mount("size=6m") else {
        return;
    };
    write(&at("big/large"), &bytes(1, 8 * MIB));
    write(&at("big/small"), b"small");
    let to = disk.path().join("to");
    let full = client.run(["cp", "-a", "big/", to.to_str().unwrap()]);
    assert!(full.code == 3 && full.err.contains("big/large"), "{full:?}");
    assert_eq!(read(&to.join("small")), "small");
    assert!(!to.join("large").exists() && !staged(&to.join("large")).exists());
}
