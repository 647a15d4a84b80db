//! `haul cp` within one server: the server copies, with the promises of a put, and no byte of a
//! file crosses the wire.

use crate::support::proxy::{Proxy, Rules, Which};
use crate::support::tree::{bytes, length, read, rich_sample, set_mode, snapshot, staged, write};
use crate::support::{Client, Server, until};
use haul::net::wire::proto::{self, control_message::Body, request, transfer_message};
use prost::Message;
use rustix::fs::getxattr;
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;

const MIB: usize = 1 << 20;

/// A server with a file that is copied so slowly that something can happen meanwhile, and the
/// command that does it.
fn slow() -> (Server, Client, [&'static str; 5]) {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("big"), &bytes(1, 24 * MIB));
    (server, client, ["cp", "--bwlimit=4M", "--json", "srv:big", "srv:copy"])
}

/// Some of the copy is there.
fn under_way(server: &Server) {
    let partial = staged(&server.root.join("copy"));
    until("some of it is there", || length(&partial) > 5 * MIB as u64);
}

#[test]
fn dest_is_always_the_same_place() {
    let server = Server::start();
    let client = server.client();
    let at = |path: &str| server.root.join(path);
    for (path, content) in [("src/a", "a"), ("src/d/b", "b"), ("other/c", "c"), ("f", "f")] {
        write(&at(path), content.as_bytes());
    }
    for round in 0..2 {
        for line in [
            "cp -a srv:src srv:named",
            "cp -a srv:src/ srv:contents",
            "cp -a srv:src/. srv:dot",
            "cp -a srv:src srv:other srv:both",
            "cp srv:f srv:g",
            "cp srv:f srv:other/",
            "cp srv:f srv:src/a srv:other",
            "cp -a --mkpath srv:f srv:deep/er/",
            "cp srv:{f,g} srv:src/d",
        ] {
            client.ok(line.split(' '));
        }
        for (path, content) in [
            ("named/src/d/b", "b"),
            ("contents/d/b", "b"),
            ("dot/d/b", "b"),
            ("both/src/a", "a"),
            ("both/other/c", "c"),
            ("g", "f"),
            ("other/f", "f"),
            ("other/a", "a"),
            ("deep/er/f", "f"),
            ("src/d/g", "f"),
        ] {
            assert_eq!(read(&at(path)), content, "{path}, round {round}");
        }
        assert!(!at("named/src/src").exists() && !at("contents/src").exists());
    }
}

#[test]
fn what_cannot_be_copied_is_refused_and_touches_nothing() {
    let server = Server::start();
    let client = server.client();
    for path in ["src/a", "src/d/b", "f", "d/src/f", "d/thesis"] {
        write(&server.root.join(path), path.as_bytes());
    }
    std::os::unix::fs::symlink("src", server.root.join("link")).unwrap();
    write(&client.work().join("here"), b"here");
    let before = snapshot(&server.root);
    for (line, code, words) in [
        ("cp srv:f srv:g srv:none", 8, &["none", "no such directory"][..]),
        ("cp srv:f srv:none/", 8, &["none", "no such directory"]),
        ("cp srv:src srv:none", 2, &["srv:src", "src", "use -r for directories"]),
        ("cp srv:src/ srv:none", 2, &["srv:src/", "use -r for directories"]),
        ("cp -a srv:src srv:f", 1, &["f", "not a directory"]),
        ("cp srv:missing srv:none", 8, &["srv:missing", "no such file"]),
        ("cp srv:f srv:f", 1, &["same file"]),
        ("cp srv:f srv:.", 1, &["same file"]),
        ("cp -a srv:src srv:.", 1, &["is the source, or within it"]),
        ("cp -a srv:src srv:src/d", 1, &["is the source, or within it"]),
        ("cp -a srv:src srv:src/new", 1, &["is the source, or within it"]),
        ("cp -a srv:src/ srv:link/d", 1, &["is the source, or within it"]),
        ("cp -a --delete srv:d/src/ srv:d", 1, &["within the destination"]),
        ("cp -r --delete srv:d/ srv:src srv:none", 2, &["--delete", "contents of"]),
        ("cp --delete srv:f srv:g", 2, &["--delete is for directories"]),
        ("cp srv:f here srv:src", 2, &["srv:f", "not on this machine"]),
        ("cp srv:f srv:src/f srv:d", 2, &["two sources"]),
        ("cp --chown=nobody-at-all srv:f srv:g", 2, &["nobody-at-all"]),
        ("cp srv:../f srv:g", 2, &["malformed"]),
        ("cp srv:no* srv:g", 8, &["no match"]),
    ] {
        let ended = client.run(line.split(' '));
        assert_eq!(ended.code, code, "{line}: {ended:?}");
        assert!(words.iter().all(|word| ended.err.contains(word)), "{line}: {ended:?}");
        assert!(snapshot(&server.root) == before, "{line}");
    }
    // one that is missing does not stop the others
    let partly = client.run(["cp", "-a", "srv:missing", "srv:src", "srv:new"]);
    partly.failed(3, &["srv:missing"]);
    assert_eq!(read(&server.root.join("new/src/d/b")), "src/d/b");
}

#[test]
fn a_user_needs_to_read_and_to_write() {
    let server = Server::start();
    write(&server.root.join("f"), b"f");
    server.user(&["add", "reader", "--read-only", "--invited"], "");
    server.user(&["add", "dropper", "--write-only", "--invited"], "");
    let reader = server.client_of("reader").run(["cp", "srv:f", "srv:g"]);
    reader.failed(8, &["may only read"]);
    let dropper = server.client_of("dropper").run(["cp", "srv:f", "srv:g"]);
    dropper.failed(8, &["may only put files"]);
    assert!(!server.root.join("g").exists());
}

#[test]
fn everything_arrives_as_it_is_and_nothing_crosses_the_wire() {
    let server = Server::start();
    let proxy = Proxy::recording(server.address);
    let client = server.client_at(proxy.address);
    let (from, to) = (server.root.join("from"), server.root.join("to"));
    rich_sample(&from);
    let before = snapshot(&from);
    let first = client.run(["cp", "-aHX", "srv:from/", "srv:to"]);
    assert!(first.code == 0 && first.err.starts_with("cp: 3"), "{first:?}");
    assert!(snapshot(&to) == before, "content, modes, times and links, and nothing else");
    let inode = |name: &str| to.join(name).metadata().unwrap().ino();
    assert_eq!(inode("large"), inode("other name"));
    let mut value = [0; 16];
    let length = getxattr(to.join("large"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"seen");
    assert!(proxy.recorded().len() < 200_000, "{}", proxy.recorded().len());
    assert_eq!(proxy.data_connections(), 0);

    let second = client.run(["cp", "-aHX", "srv:from/", "srv:to"]);
    assert!(
        second.err.contains("cp: 0 files") && second.err.contains("unchanged"),
        "{second:?}"
    );
    // a change that keeps size and time is seen by content alone
    let changed = to.join("sizes/2097152");
    let time = std::fs::metadata(&changed).unwrap().modified().unwrap();
    write(&changed, &bytes(99, 2 * MIB));
    std::fs::File::open(&changed).unwrap().set_modified(time).unwrap();
    client.ok(["cp", "-a", "srv:from/", "srv:to"]);
    assert!(snapshot(&to) != before);
    let by_content = client.run(["cp", "-ac", "--json", "srv:from/", "srv:to"]);
    let hash = blake3::hash(&bytes(8, 2 * MIB)).to_hex().to_string();
    let files = by_content.events("file");
    let [file] = &files[..] else {
        panic!("{by_content:?}")
    };
    assert_eq!(
        (&file["path"], &file["hash"]),
        (&"srv:from/sizes/2097152".into(), &hash.into())
    );
    let summary = by_content.events("summary").remove(0);
    assert_eq!((&summary["verb"], &summary["files"]), (&"cp".into(), &1.into()));
    assert!(summary["unchanged"].as_u64().unwrap() > 300, "{summary}");
    assert!(snapshot(&to) == before && snapshot(&from) == before);
}

#[test]
fn options_choose_what_is_copied() {
    let server = Server::start();
    let client = server.client();
    let at = |path: &str| server.root.join(path);
    for path in ["src/a", "src/x.log", "src/node_modules/m", "src/d/b"] {
        write(&at(path), path.as_bytes());
    }
    let line = "cp -ani --delete --exclude node_modules srv:src srv:to";
    let plan = client.run(line.split(' '));
    assert!(plan.code == 0 && plan.err.contains("would copy 3 files"), "{plan:?}");
    assert!(plan.err.contains("srv:src/d/b"), "{plan:?}");
    assert!(!at("to").exists(), "a dry run makes nothing");
    let named =
        client.run("cp -av --exclude=node_modules --exclude *.log srv:src srv:to".split(' '));
    assert!(named.err.contains("srv:src/d/b"), "{named:?}");
    assert!(at("to/src/d/b").exists() && !at("to/src/x.log").exists());
    assert!(!at("to/src/node_modules").exists());
    // what is newer there stays, as does what does not have the version
    write(&at("to/src/a"), b"newer");
    let skipped = client.run("cp -au --json srv:src srv:to".split(' '));
    assert_eq!(skipped.events("skipped")[0]["path"], "srv:src/a", "{skipped:?}");
    assert_eq!(read(&at("to/src/a")), "newer");
    let guarded = client.run("cp --if-version none srv:src/a srv:to/src/a".split(' '));
    assert_eq!(guarded.code, 7, "{guarded:?}");
    // modes are changed where the sender is
    set_mode(&at("src/a"), 0o644);
    client.ok("cp -a --chmod=D700,Fg-r,o= srv:src srv:modes".split(' '));
    let mode = |path: &str| at(path).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("modes/src/d"), mode("modes/src/a")), (0o700, 0o600));
}

#[test]
fn a_mirror_is_made_and_guarded() {
    let server = Server::start();
    let client = server.client();
    for path in ["src/a", "src/d/b", "to/a", "to/old", "to/d/gone/x", "to/stays.tmp"] {
        write(&server.root.join(path), path.as_bytes());
    }
    let line = "cp -a --delete --json --exclude *.tmp srv:src/ srv:to";
    let ended = client.run(line.split(' '));
    assert_eq!(ended.code, 0, "{ended:?}");
    let deleted = ended.events("deleted");
    let paths: Vec<&str> = deleted.iter().filter_map(|event| event["path"].as_str()).collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
    assert!(paths.contains(&"srv:to/d/gone/x"), "{paths:?}");
    assert!(!server.root.join("to/old").exists() && server.root.join("to/stays.tmp").exists());
    for n in 0..150 {
        write(&server.root.join(format!("to/{n}")), b"x");
    }
    let guarded = client.run("cp -a --delete srv:src/ srv:to".split(' '));
    assert_eq!(guarded.code, 9, "{guarded:?}");
    assert!(
        guarded.err.contains("haul cp -a --delete=yes srv:src/ srv:to"),
        "{guarded:?}"
    );
    assert!(server.root.join("to/149").exists());
    client.ok("cp -a --delete=yes srv:src/ srv:to".split(' '));
    assert_eq!(snapshot(&server.root.join("src")), snapshot(&server.root.join("to")));
}

#[test]
fn a_killed_client_ends_the_copy_and_the_next_one_resumes() {
    let (server, client, line) = slow();
    let copying = client.spawn(line);
    under_way(&server);
    copying.kill();
    let ended = client.run(["cp", "--bwlimit=1G", "--json", "srv:big", "srv:copy"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let resumed = ended.events("resumed").remove(0);
    assert_eq!(resumed["path"], "srv:big");
    let offset = resumed["offset"].as_u64().unwrap();
    assert!(offset >= 4 * MIB as u64, "{offset}");
    let summary = ended.events("summary").remove(0);
    assert_eq!(summary["bytes"].as_u64().unwrap(), 24 * MIB as u64 - offset, "{summary}");
    assert!(std::fs::read(server.root.join("copy")).unwrap() == bytes(1, 24 * MIB));
    assert_eq!(
        std::fs::read_dir(&server.root).unwrap().count(),
        2,
        "no partial file is there"
    );
}

#[test]
fn an_interrupted_copy_leaves_a_durable_beginning() {
    let (server, client, line) = slow();
    let copying = client.spawn(line);
    under_way(&server);
    copying.signal(Signal::INT);
    let ended = copying.end();
    assert_eq!(ended.code, 130, "{ended:?}");
    until("the server has ended the copy", || {
        let locks = client.run(["locks", "--json", "srv:"]).out;
        locks.contains("\"state\":\"partial\"")
    });
    let next = client.run(["cp", "--bwlimit=1G", "--json", "srv:big", "srv:copy"]);
    let resumed = next.events("resumed");
    assert!(resumed[0]["offset"].as_u64().unwrap() >= 4 * MIB as u64);
}

#[test]
fn a_lost_connection_does_not_disturb_a_copy() {
    let (server, _, line) = slow();
    let proxy = Proxy::start(server.address, Rules::default());
    let client = server.client_at(proxy.address);
    let copying = client.spawn(line);
    under_way(&server);
    let partial = staged(&server.root.join("copy"));
    let inode = partial.metadata().unwrap().ino();
    proxy.cut_now(Which::All);
    let ended = copying.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(server.root.join("copy").metadata().unwrap().ino(), inode, "the same copy");
    assert!(ended.events("resumed").is_empty(), "{ended:?}");
    assert_eq!(ended.events("summary")[0]["bytes"], 24 * MIB);
}

#[test]
fn a_copy_survives_a_restart_of_the_server() {
    let (mut server, client, line) = slow();
    let copying = client.spawn(line);
    under_way(&server);
    server.kill();
    server.restart();
    let ended = copying.end();
    ended.retried();
    assert!(std::fs::read(server.root.join("copy")).unwrap() == bytes(1, 24 * MIB));
}

#[test]
fn a_target_has_one_writer() {
    let (server, client, line) = slow();
    write(&server.root.join("small"), b"small");
    let other = server.client();
    let copying = client.spawn(line);
    under_way(&server);
    other
        .run(["cp", "srv:small", "srv:copy"])
        .failed(7, &["being written by kim@", "--wait"]);
    let waiting = other.spawn(["cp", "--wait", "srv:small", "srv:copy"]);
    assert_eq!(copying.end().code, 0);
    assert_eq!(waiting.end().code, 0);
    assert_eq!(read(&server.root.join("copy")), "small");
}

#[test]
fn a_copy_ends_with_the_rights_of_its_user() {
    let (server, client, line) = slow();
    let copying = client.spawn(line);
    under_way(&server);
    server.user(&["set", "kim", "--read-only"], "");
    let ended = copying.end();
    assert_eq!(ended.code, 8, "{ended:?}");
    assert!(!server.root.join("copy").exists());
}

#[test]
fn a_server_that_stops_lets_a_copy_end_in_order() {
    let (mut server, client, line) = slow();
    let copying = client.spawn(line);
    under_way(&server);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    server.restart();
    let ended = copying.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(std::fs::read(server.root.join("copy")).unwrap() == bytes(1, 24 * MIB));
}

/// A message as it travels, in hexadecimal.
fn hex(body: Body) -> String {
    let bytes = proto::ControlMessage { body: Some(body) }.encode_to_vec();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The numbers of the request and its fields never change.
#[test]
fn the_bytes_of_the_request_are_frozen() {
    let copy = proto::Copy {
        chosen: Vec::new(),
        transfer: 1,
        sources: vec![b"a".to_vec()],
        destination: b"b".to_vec(),
        directory: true,
        names: vec![b"c".to_vec()],
        if_missing: proto::IfMissing::Make.into(),
        options: Some(proto::Options {
            checksum: true,
            ..Default::default()
        }),
        each: true,
        chmod: vec!["u+x".into()],
        umask: 0o22,
        mirror: true,
    };
    let request = Body::Request(proto::Request {
        number: 2,
        body: Some(request::Body::Copy(copy)),
    });
    assert_eq!(
        hex(request),
        "0a230802ea021e08011201611a016220012a016330013a02080140014a03752b7850125801"
    );
}

/// Nor do those of the messages.
#[test]
fn the_bytes_of_the_messages_are_frozen() {
    let transfer = |body| {
        Body::Transfer(proto::TransferMessage {
            transfer: 1,
            body: Some(body),
        })
    };
    let counts = proto::CopyCounts {
        deferred: 0,
        files_found: 1,
        bytes_found: 2,
        walked: true,
        endless: true,
        files_done: 5,
        bytes_done: 6,
        bytes_moved: 7,
        bytes_committed: 8,
        unchanged: 9,
        skipped: 10,
        bytes_unchanged: 11,
        planned: 12,
        bytes_planned: 13,
        bytes_resumed: 14,
        dirs_done: 15,
        dirs_made: 16,
        failed: 17,
        bytes_failed: 18,
    };
    let event = proto::CopyEvent {
        exclusion: None,
        kind: proto::CopyEventKind::Failed.into(),
        path: b"a".to_vec(),
        size: 3,
        hash: b"h".to_vec(),
        version: "v".into(),
        difference: proto::Difference::Size.into(),
        code: 550,
        text: "t".into(),
    };
    let report = transfer_message::Body::Report(proto::CopyReport {
        counts: Some(Box::new(counts)),
        events: vec![event],
    });
    let taken = transfer_message::Body::Taken(proto::ReportTaken {});
    assert_eq!(
        hex(transfer(report)),
        "1a450801a201400a27080110021801200128053006380740084809500a580b600c680d700e780f80\
         01108801119001121215080712016118032201682a0176300338a604420174"
    );
    assert_eq!(hex(transfer(taken)), "1a050801aa0100");
}

/// What a copy takes of its sources, within a server and between two, is what a put takes.
#[test]
fn what_is_chosen_and_seen_holds_between_servers() {
    let (server, other) = (Server::start(), Server::start());
    let client = server.client();
    other.second_login(&client, other.address);
    let src = server.root.join("src");
    for path in ["a/b/f", "a/g", "c.o", "k"] {
        write(&src.join(path), path.as_bytes());
    }
    write(&src.join(".ig"), b"*.o\n");
    std::os::unix::fs::symlink("a/b", src.join("link")).unwrap();
    write(&client.work().join("list"), b"a/b/f\nk\n");
    for (to, root) in [("srv", &server.root), ("vps", &other.root)] {
        let copy = |options: &[&str], from: &str, dest: &str| {
            let dest = format!("{to}:{dest}");
            let words = ["cp"].iter().chain(options).copied();
            let ended = client.run(words.chain([from, dest.as_str()]));
            assert_eq!(ended.code, 0, "{options:?}: {ended:?}");
            ended
        };
        copy(&["-aR"], "srv:src/./a/b", "r");
        assert!(root.join("r/a/b/f").is_file() && !root.join("r/a/g").exists());
        copy(&["-a", "--files-from=list"], "srv:src", "l");
        assert!(root.join("l/a/b/f").is_file() && root.join("l/k").is_file());
        assert!(!root.join("l/a/g").exists());
        copy(&["-aL", "--ignore-file=.ig"], "srv:src/", "v");
        assert!(root.join("v/link/f").is_file() && !root.join("v/c.o").exists());
        let shown = copy(&["-an", "--why", "--ignore-file=.ig"], "srv:src/", "w");
        assert!(
            shown.err.contains("src/c.o (") && shown.err.contains(".ig, line 1: *.o"),
            "{shown:?}"
        );
        let dest = format!("{to}:x");
        let refused = client.run(["cp", "-a", "--remove-source-files", "srv:src/", &dest]);
        refused.failed(2, &["--remove-source-files", "haul mv"]);
    }
}
