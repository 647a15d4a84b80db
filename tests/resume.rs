//! Larger files go on where they ended, and what is left can be seen and removed.

use crate::support::disk::SmallDisk;
use crate::support::proxy::{Proxy, Rules};
use crate::support::tree::{
    bytes, length, partial_dir, record_of, sample, snapshot, staged, write,
};
use crate::support::{Client, Ended, Server, has_strace, run_with, under, until};
use rustix::process::Signal;
use std::path::Path;

const MIB: usize = 1 << 20;

fn slow(rate: usize) -> Rules {
    Rules {
        rate: Some(rate),
        ..Rules::default()
    }
}

/// The event of this kind.
#[track_caller]
fn event(ended: &Ended, kind: &str) -> serde_json::Value {
    let events = ended
        .out
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let mut found = events.filter(|e| e["event"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind}: {ended:?}"))
}

/// Reads before `offset` that a traced command made of any file, where strace is there to tell.
fn traced(client: &Client, arguments: &[&str], offset: u64) -> (Ended, Option<u64>) {
    let log = client.dir.path().join("trace");
    if !has_strace() {
        return (client.run(arguments), None);
    }
    let strace = ["strace", "-f", "-qq", "-e", "trace=pread64", "-o", log.to_str().unwrap()];
    let strace = strace.map(str::to_string);
    let ended = Ended::of(run_with(under(client.command(arguments), &strace), b""));
    let text = std::fs::read_to_string(&log).unwrap();
    let mut before = 0;
    for line in text.lines().filter(|l| l.contains("pread64(") && !l.contains("resumed")) {
        // pread64(FD, "..."..., LENGTH, OFFSET) = N
        let arguments = line.split(" = ").next().unwrap().trim_end_matches(')');
        let mut last = arguments.rsplit(", ");
        let at: Option<u64> = last.next().and_then(|n| {
            n.trim_end_matches(" <unfinished ...>").trim_end_matches(')').parse().ok()
        });
        // the loader of the program reads little pieces of libraries
        let long = last
            .next()
            .and_then(|n| n.parse::<u64>().ok())
            .is_some_and(|n| n >= 64 << 10);
        before += u64::from(long && at.is_some_and(|at| at < offset));
    }
    (ended, Some(before))
}

#[test]
fn a_killed_put_goes_on_without_reading_the_prefix_again() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(4 * MIB));
    let client = server.client_at(proxy.address);
    let size = 40 * MIB + 5;
    write(&client.work().join("big"), &bytes(1, size));
    let put = client.spawn(["put", "big", "srv:"]);
    until("much of it is there", || {
        length(&staged(&server.root.join("big"))) > 8 * MIB as u64
    });
    put.kill();
    // the server still waits for the dead client, and lets go for its next run
    let before = proxy.sent();
    let (ended, read_before) = traced(&client, &["put", "--json", "big", "srv:"], 8 * MIB as u64);
    assert_eq!(ended.code, 0, "{ended:?}");
    let offset = event(&ended, "resumed")["offset"].as_u64().unwrap();
    assert!(offset >= 8 * MIB as u64, "{offset}");
    let sent = proxy.sent() - before;
    assert!(sent < size - offset as usize + MIB, "{sent} sent, from {offset} on");
    assert_eq!(read_before.unwrap_or(0), 0, "the beginning is not read again");
    assert_eq!(event(&ended, "summary")["bytes"].as_u64().unwrap(), size as u64 - offset);
    assert_eq!(
        event(&ended, "file")["hash"],
        blake3::hash(&std::fs::read(server.root.join("big")).unwrap())
            .to_hex()
            .to_string()
    );
    assert_eq!(
        std::fs::read(server.root.join("big")).unwrap(),
        std::fs::read(client.work().join("big")).unwrap()
    );
    let left: Vec<_> = std::fs::read_dir(&server.root).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_killed_get_goes_on() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(10 * MIB));
    let client = server.client_at(proxy.address);
    write(&server.root.join("big"), &bytes(2, 150 * MIB));
    let get = client.spawn(["get", "srv:big", "."]);
    let record = record_of(&client.work().join("big"));
    until("the record says that something is durable", || {
        let text = std::fs::read(&record).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains("\"offset\":")
            && !text.split("\"offset\":").skip(1).all(|rest| rest.starts_with("0,"))
    });
    get.kill();
    let ended = client.run(["get", "--json", "srv:big", "."]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(event(&ended, "resumed")["offset"].as_u64().unwrap() > 0);
    assert!(
        std::fs::read(server.root.join("big")).unwrap()
            == std::fs::read(client.work().join("big")).unwrap()
    );
    assert!(!record.exists());
}

#[test]
fn an_interrupted_get_keeps_what_arrived() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(3 * MIB));
    let client = server.client_at(proxy.address);
    write(&server.root.join("big"), &bytes(2, 30 * MIB));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let before = length(&staged(&client.work().join("big")));
        let get = client.spawn(["get", "srv:big", "."]);
        until("some of it is here", || {
            length(&staged(&client.work().join("big"))) > before + 3 * MIB as u64
        });
        get.signal(signal);
        let ended = get.end();
        assert_eq!(ended.code, code, "{ended:?}");
    }
    let ended = client.run(["get", "--json", "srv:big", "."]);
    assert!(event(&ended, "resumed")["offset"].as_u64().unwrap() >= 6 * MIB as u64);
    assert!(
        std::fs::read(server.root.join("big")).unwrap()
            == std::fs::read(client.work().join("big")).unwrap()
    );
}

#[test]
fn a_changed_source_starts_anew_and_says_so() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(4 * MIB));
    let client = server.client_at(proxy.address);
    write(&client.work().join("big"), &bytes(1, 20 * MIB));
    let put = client.spawn(["put", "big", "srv:"]);
    until("some of it is there", || {
        length(&staged(&server.root.join("big"))) > 4 * MIB as u64
    });
    put.signal(Signal::TERM);
    put.end();
    write(&client.work().join("big"), &bytes(7, 20 * MIB));
    let ended = client.run(["put", "big", "srv:"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("changed since the last attempt"), "{ended:?}");
    assert!(
        std::fs::read(server.root.join("big")).unwrap()
            == std::fs::read(client.work().join("big")).unwrap()
    );
}

#[test]
fn a_tree_that_is_put_again_sends_only_what_is_missing() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(2 * MIB));
    let client = server.client_at(proxy.address);
    let tree = client.work().join("tree");
    sample(&tree);
    for n in 0..60 {
        write(&tree.join(format!("part-{n:02}")), &bytes(n, 300 << 10));
    }
    let put = client.spawn(["put", "-r", "tree", "srv:"]);
    let partial = partial_dir(&server.root.join("tree"));
    until("some files are there", || partial.join("part-20").exists());
    put.kill();
    let there = walkdir::WalkDir::new(&server.root).into_iter().flatten();
    let there = there
        .filter(|e| e.file_type().is_file() && !e.file_name().to_string_lossy().contains(".haul"));
    let there = there.count() as u64;
    let ended = client.run(["put", "-r", "--json", "tree", "srv:"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let summary = event(&ended, "summary");
    assert!(summary["unchanged"].as_u64().unwrap() >= there, "{there}: {summary}");
    // what the killed client's session had begun may end after that, and touch the time of a
    // directory
    until("the trees are the same", || {
        client.ok(["put", "-r", "tree", "srv:"]);
        snapshot(&tree) == snapshot(&server.root.join("tree"))
    });
}

#[test]
fn records_that_make_no_sense_are_not_believed() {
    let server = Server::start();
    let client = server.client();
    let content = bytes(1, 5 * MIB);
    write(&client.work().join("big"), &content);
    let (staged, record) = (staged(&server.root.join("big")), record_of(&server.root.join("big")));
    let garbage: [&[u8]; 4] = [b"", b"{\"offset\":4194304}", &[0xff; 9000], b"{}\n{}\n{}"];
    for text in garbage {
        write(&staged, &bytes(99, 5 * MIB));
        write(&record, text);
        std::fs::remove_file(server.root.join("big")).ok();
        client.ok(["put", "big", "srv:"]);
        assert!(std::fs::read(server.root.join("big")).unwrap() == content);
        assert!(!staged.exists() && !record.exists());
    }
    // a record in the place of which somebody has put a link is not written through
    write(&server.dir.path().join("precious"), b"precious");
    std::os::unix::fs::symlink(server.dir.path().join("precious"), &record).unwrap();
    std::fs::remove_file(server.root.join("big")).unwrap();
    client.ok(["put", "big", "srv:"]);
    assert_eq!(std::fs::read(server.dir.path().join("precious")).unwrap(), b"precious");
}

#[test]
fn what_is_left_is_listed_unlocked_and_swept() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address, slow(4 * MIB));
    let client = server.client_at(proxy.address);
    write(&client.work().join("dir/big"), &bytes(1, 20 * MIB));
    std::fs::create_dir(server.root.join("dir")).unwrap();
    let put = client.spawn(["put", "-r", "dir", "srv:"]);
    let recent = staged(&server.root.join("dir/recent"));
    let staged = staged(&server.root.join("dir/big"));
    until("some of it is there", || length(&staged) > 4 * MIB as u64);
    let other = server.client();
    let writing = other.ok(["locks", "srv:dir"]);
    assert!(
        writing.starts_with("writing") && writing.contains("kim@") && writing.contains("dir/big"),
        "{writing}"
    );
    other
        .run(["unlock", "srv:dir/big"])
        .failed(7, &["dir/big", "being written by", "--force"]);
    put.signal(Signal::TERM);
    put.end();
    until("the server has let go", || {
        other.ok(["locks", "srv:dir"]).starts_with("partial")
    });
    let listed = other.ok(["locks", "-R", "--json", "srv:"]);
    let line: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&line["state"], &line["path"]), (&"partial".into(), &"dir/big".into()));
    assert!(
        line["bytes"].as_u64().unwrap() > 4 * MIB as u64 && line["locked_ms"].is_u64(),
        "{line}"
    );
    assert!(line["holder"].as_str().unwrap().starts_with("kim@"));
    other.ok(["unlock", "srv:dir/big"]);
    assert!(!staged.exists());
    assert_eq!(other.ok(["locks", "-R", "srv:"]), "");
    other.run(["unlock", "srv:dir/big"]).failed(8, &["no partial file"]);

    // by force also that of a writer at work, who cannot commit then
    let put = client.spawn(["put", "-r", "dir", "srv:"]);
    until("some of it is there", || length(&staged) > MIB as u64);
    other.ok(["unlock", "--force", "srv:dir/big"]);
    let ended = put.end();
    assert_eq!(ended.code, 7, "the directory was there before: {ended:?}");
    assert!(ended.err.contains("took the lock over"), "{ended:?}");
    assert!(!server.root.join("dir/big").exists());

    // the server removes what is old enough, and nothing else
    let put = client.spawn(["put", "-r", "dir", "srv:"]);
    until("some of it is there", || length(&staged) > 4 * MIB as u64);
    put.signal(Signal::TERM);
    put.end();
    until("the server has let go", || {
        other.ok(["locks", "srv:dir"]).starts_with("partial")
    });
    write(&recent, b"of a moment ago");
    let week_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 86_400);
    let file = std::fs::File::options().write(true).open(&staged).unwrap();
    file.set_modified(week_ago).unwrap();
    server.kill();
    server.restart();
    until("it is swept", || !staged.exists());
    assert!(!record_of(&server.root.join("dir/big")).exists());
    assert!(recent.exists());
}

#[test]
fn a_stream_to_standard_output_goes_on_over_a_restart() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address, slow(3 * MIB));
    let client = server.client_at(proxy.address);
    let content = bytes(4, 30 * MIB);
    write(&server.root.join("big"), &content);
    let get = client.spawn(["get", "srv:big", "-"]);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    server.kill();
    server.restart();
    let ended = get.end();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.bytes == content);
    assert!(ended.err.contains("resumes after"), "{}", ended.err);
}

/// Cuts a put of `big` off when some of it is durable at the server.
fn begin(client: &Client, server: &Server) {
    let put = client.spawn(["put", "big", "srv:"]);
    until("some of it is there", || {
        length(&staged(&server.root.join("big"))) > 12 * MIB as u64
    });
    put.signal(Signal::TERM);
    put.end();
}

/// The next put resumes it.
#[track_caller]
fn resumes(client: &Client, server: &Server) {
    let put = client.run(["put", "--json", "big", "srv:"]);
    assert_eq!(put.code, 0, "{put:?}");
    let offset = event(&put, "resumed")["offset"].as_u64().unwrap();
    assert!(offset >= 8 * MIB as u64, "{offset}");
    let content = |path: &Path| std::fs::read(path).unwrap();
    assert!(content(&server.root.join("big")) == content(&client.work().join("big")));
}

#[test]
fn a_read_error_of_the_source_keeps_the_durable_beginning() {
    if !has_strace() {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::start(server.address, slow(12 * MIB));
    let client = server.client_at(proxy.address);
    let source = client.work().join("big");
    write(&source, &bytes(1, 40 * MIB));
    begin(&client, &server);
    let inject = "inject=pread64,preadv2:error=EIO:when=4+";
    let strace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        inject,
        "-P",
        source.to_str().unwrap(),
    ];
    let strace = strace.map(str::to_string);
    let failed = Ended::of(run_with(under(client.command(["put", "big", "srv:"]), &strace), b""));
    failed.failed(1, &["big", "read", "Input/output error"]);
    resumes(&client, &server);
}

#[test]
fn a_full_disk_keeps_the_durable_beginning() {
    let Some(disk) = SmallDisk::mount("size=40m") else {
        return;
    };
    let server = Server::on(disk.path());
    let proxy = Proxy::start(server.address, slow(12 * MIB));
    let client = server.client_at(proxy.address);
    write(&client.work().join("big"), &bytes(1, 60 * MIB));
    begin(&client, &server);
    let full = client.run(["put", "big", "srv:"]);
    full.failed(1, &["big", "no space left"]);
    let kept = length(&staged(&server.root.join("big")));
    assert!(
        (8..39).contains(&(kept / MIB as u64)),
        "what is not durable makes room: {kept}"
    );
    disk.remount("size=80m");
    resumes(&client, &server);
}
