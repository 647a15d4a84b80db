//! `haul cp` from one server to another: the data goes through the client, which writes nothing.

use crate::support::messages::{offer, offers};
use crate::support::proxy::{Proxy, Rules, Which};
use crate::support::script::{Scripted, ScriptedServer, against};
use crate::support::tree::{bytes, length, read, rich_sample, set_mode, snapshot, staged, write};
use crate::support::{Client, Server, until};
use haul::net::wire::proto::{self, request, transfer_message};
use rustix::fs::getxattr;
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;

const MIB: usize = 1 << 20;

/// Two servers, `srv` and `vps`, and a client that is logged in at both, each through a proxy.
struct Two {
    from: Server,
    to: Server,
    at_from: Proxy,
    at_to: Proxy,
    client: Client,
}

impl Two {
    fn start() -> Two {
        Two::with(Rules::default())
    }

    /// With these rules between the client and the second server.
    fn with(rules: Rules) -> Two {
        let (from, to) = (Server::start(), Server::start());
        let at_from = Proxy::start(from.address, Rules::default());
        let at_to = Proxy::start(to.address, rules);
        let client = from.client_at(at_from.address);
        to.second_login(&client, at_to.address);
        Two {
            from,
            to,
            at_from,
            at_to,
            client,
        }
    }

    /// With a file that is copied so slowly that something can happen meanwhile.
    fn slow() -> Two {
        let two = Two::with(Rules {
            rate: Some(4 * MIB),
            ..Rules::default()
        });
        write(&two.from.root.join("big"), &bytes(1, 24 * MIB));
        two
    }

    /// Some of that file is there. The chunks of several connections arrive out of order, so that
    /// its beginning is shorter than what is there.
    fn under_way(&self) {
        let partial = staged(&self.to.root.join("copy"));
        until("some of it is there", || length(&partial) > 9 * MIB as u64);
    }

    fn is_copied(&self) {
        assert!(std::fs::read(self.to.root.join("copy")).unwrap() == bytes(1, 24 * MIB));
        assert_eq!(std::fs::read_dir(&self.to.root).unwrap().count(), 1, "no partial file");
    }
}

const SLOW: [&str; 4] = ["cp", "--json", "srv:big", "vps:copy"];

#[test]
fn dest_is_always_the_same_place() {
    let two = Two::start();
    let at = |path: &str| two.to.root.join(path);
    for (path, content) in [("src/a", "a"), ("src/d/b", "b"), ("other/c", "c"), ("f", "f")] {
        write(&two.from.root.join(path), content.as_bytes());
    }
    for round in 0..2 {
        for line in [
            "cp -a srv:src vps:named",
            "cp -a srv:src/ vps:contents",
            "cp -a srv:src srv:other vps:both",
            "cp srv:f vps:g",
            "cp srv:f vps:both/",
            "cp -a --mkpath srv:f vps:deep/er/",
            "cp srv:{f,src/a} vps:both/src/d",
            "cp -a srv:other vps:",
        ] {
            two.client.ok(line.split(' '));
        }
        for (path, content) in [
            ("named/src/d/b", "b"),
            ("contents/d/b", "b"),
            ("both/src/a", "a"),
            ("both/other/c", "c"),
            ("g", "f"),
            ("both/f", "f"),
            ("deep/er/f", "f"),
            ("both/src/d/a", "a"),
            ("other/c", "c"),
        ] {
            assert_eq!(read(&at(path)), content, "{path}, round {round}");
        }
        assert!(!at("named/src/src").exists() && !at("contents/src").exists());
    }
}

#[test]
fn everything_arrives_as_it_is_and_nothing_is_written_here() {
    let two = Two::start();
    let (from, to) = (two.from.root.join("from"), two.to.root.join("to"));
    rich_sample(&from);
    std::fs::File::create(from.join("hole")).unwrap().set_len(9 << 20).unwrap();
    let before = snapshot(&from);
    let first = two.client.run(["cp", "-aHX", "srv:from/", "vps:to"]);
    assert!(first.code == 0 && first.err.contains("\ncp: 3"), "{first:?}");
    let lines: Vec<&str> = first.err.lines().filter(|l| l.starts_with("haul: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("through this machine"), "{first:?}");
    assert!(snapshot(&to) == before, "content, modes, times and links, and nothing else");
    let inode = |name: &str| to.join(name).metadata().unwrap().ino();
    assert_eq!(inode("large"), inode("other name"));
    assert!(to.join("hole").metadata().unwrap().blocks() < 64);
    let mut value = [0; 16];
    let length = getxattr(to.join("large"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"seen");
    assert_eq!(std::fs::read_dir(two.client.work()).unwrap().count(), 0);

    let second = two.client.run(["cp", "-aHXq", "srv:from/", "vps:to"]);
    assert!(second.code == 0 && second.err.is_empty(), "{second:?}");
    // a change that keeps size and time is seen by content alone
    let changed = to.join("sizes/2097152");
    let time = std::fs::metadata(&changed).unwrap().modified().unwrap();
    write(&changed, &bytes(99, 2 * MIB));
    std::fs::File::open(&changed).unwrap().set_modified(time).unwrap();
    two.client.ok(["cp", "-a", "srv:from/", "vps:to"]);
    assert!(snapshot(&to) != before);
    let by_content = two.client.run(["cp", "-ac", "--json", "srv:from/", "vps:to"]);
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
    assert_eq!(summary["bytes"], 2 * MIB);
    assert!(summary["unchanged"].as_u64().unwrap() > 300, "{summary}");
    assert!(snapshot(&to) == before && snapshot(&from) == before);
    // one that comes in one piece, one that comes with its offer, and a symlink
    let small = "cp -a --json srv:from/sizes srv:from/modes vps:small";
    let small = two.client.run(small.split(' '));
    let files = small.events("file");
    assert!(files.len() > 10, "{small:?}");
    for file in files {
        let path = file["path"].as_str().unwrap().strip_prefix("srv:").unwrap();
        let path = two.from.root.join(path);
        let hash = std::fs::read(&path).map(|bytes| blake3::hash(&bytes).to_hex().to_string());
        match path.is_symlink() {
            true => assert!(file["hash"].is_null(), "{file}"),
            false => assert_eq!(file["hash"], hash.unwrap(), "{file}"),
        }
    }
}

#[test]
fn options_choose_what_is_copied() {
    let two = Two::start();
    let at = |path: &str| two.to.root.join(path);
    for path in ["src/a", "src/x.log", "src/node_modules/m", "src/d/b"] {
        write(&two.from.root.join(path), path.as_bytes());
    }
    let line = "cp -ani --delete --exclude node_modules srv:src vps:to";
    let plan = two.client.run(line.split(' '));
    assert!(plan.code == 0 && plan.err.contains("would copy 3 files"), "{plan:?}");
    assert!(plan.err.contains("srv:src/d/b"), "{plan:?}");
    assert!(!at("to").exists(), "a dry run makes nothing");
    let line = "cp -av --exclude=node_modules --exclude *.log srv:src vps:to";
    let named = two.client.run(line.split(' '));
    assert!(named.err.contains("srv:src/d/b"), "{named:?}");
    assert!(at("to/src/d/b").exists() && !at("to/src/x.log").exists());
    assert!(!at("to/src/node_modules").exists());
    // what is newer there stays, as does what does not have the version
    write(&at("to/src/a"), b"newer");
    let skipped = two.client.run("cp -au --json srv:src vps:to".split(' '));
    assert_eq!(skipped.events("skipped")[0]["path"], "srv:src/a", "{skipped:?}");
    let guarded = two.client.run("cp --if-version none srv:src/a vps:to/src/a".split(' '));
    assert_eq!((guarded.code, read(&at("to/src/a"))), (7, "newer".into()), "{guarded:?}");
    set_mode(&two.from.root.join("src/a"), 0o644);
    two.client.ok("cp -a --chmod=D700,Fg-r,o= srv:src vps:modes".split(' '));
    let mode = |path: &str| at(path).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("modes/src/d"), mode("modes/src/a")), (0o700, 0o600));
    // what compresses is compressed on both of its ways
    write(&two.from.root.join("text"), "the same line\n".repeat(900_000).as_bytes());
    let sent = two.at_to.sent();
    two.client.ok(["cp", "-z", "srv:text", "vps:text"]);
    assert_eq!(length(&at("text")), length(&two.from.root.join("text")));
    assert!(two.at_to.sent() - sent < 3 * MIB, "{}", two.at_to.sent() - sent);
}

#[test]
fn a_mirror_is_made_and_guarded() {
    let two = Two::start();
    for path in ["src/a", "src/d/b"] {
        write(&two.from.root.join(path), path.as_bytes());
    }
    for path in ["to/a", "to/old", "to/d/gone/x", "to/stays.tmp"] {
        write(&two.to.root.join(path), path.as_bytes());
    }
    let line = "cp -a --delete --json --exclude *.tmp srv:src/ vps:to";
    let ended = two.client.run(line.split(' '));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.events("deleted").len(), 3, "{ended:?}");
    assert!(!two.to.root.join("to/old").exists() && two.to.root.join("to/stays.tmp").exists());
    for n in 0..150 {
        write(&two.to.root.join(format!("to/{n}")), b"x");
    }
    let guarded = two.client.run("cp -a --delete srv:src/ vps:to".split(' '));
    assert_eq!(guarded.code, 9, "{guarded:?}");
    assert!(
        guarded.err.contains("haul cp -a --delete=yes srv:src/ vps:to"),
        "{guarded:?}"
    );
    two.client.ok("cp -a --delete=yes srv:src/ vps:to".split(' '));
    assert_eq!(snapshot(&two.from.root.join("src")), snapshot(&two.to.root.join("to")));
}

#[test]
fn what_cannot_be_copied_is_refused_or_named() {
    let two = Two::start();
    for path in ["src/a", "f"] {
        write(&two.from.root.join(path), path.as_bytes());
    }
    write(&two.to.root.join("g"), b"there");
    let before = snapshot(&two.to.root);
    for (line, code, words) in [
        ("cp srv:f srv:src/a vps:none", 8, &["none", "no such directory"][..]),
        ("cp srv:src vps:none", 2, &["srv:src", "use -r for directories"]),
        ("cp srv:src/ vps:none", 2, &["srv:src/", "use -r for directories"]),
        ("cp -a srv:src vps:g", 1, &["g", "not a directory"]),
        ("cp srv:missing vps:none", 8, &["srv:missing", "no such file"]),
        ("cp srv:f vps:g vps:none", 2, &["vps:g", "another server"]),
        ("cp --chown=nobody-at-all srv:f vps:h", 2, &["nobody-at-all"]),
    ] {
        let ended = two.client.run(line.split(' '));
        assert_eq!(ended.code, code, "{line}: {ended:?}");
        assert!(words.iter().all(|word| ended.err.contains(word)), "{line}: {ended:?}");
        assert!(snapshot(&two.to.root) == before, "{line}");
    }
    let partly = two.client.run(["cp", "-a", "srv:missing", "srv:src", "vps:new"]);
    assert!(partly.code == 3 && partly.err.contains("srv:missing"), "{partly:?}");
    assert_eq!(read(&two.to.root.join("new/src/a")), "src/a");
    // the rights at each end are those of its user
    two.from.user(&["set", "kim", "--write-only"], "");
    let unread = two.client.run(["cp", "srv:f", "vps:h"]);
    assert!(unread.code == 8 && unread.err.contains("may only put files"), "{unread:?}");
    two.from.user(&["set", "kim", "--read-only"], "");
    two.client.ok(["cp", "srv:f", "vps:h"]);
    two.to.user(&["set", "kim", "--read-only"], "");
    let unwritten = two.client.run(["cp", "srv:f", "vps:i"]);
    assert!(
        unwritten.code == 8 && unwritten.err.contains("may only read"),
        "{unwritten:?}"
    );
}

#[test]
fn a_killed_client_ends_the_copy_and_the_next_one_resumes() {
    let two = Two::slow();
    let copying = two.client.spawn(SLOW);
    two.under_way();
    copying.kill();
    let ended = two.client.run(SLOW);
    assert_eq!(ended.code, 0, "{ended:?}");
    let resumed = ended.events("resumed").remove(0);
    let offset = resumed["offset"].as_u64().unwrap();
    assert!(resumed["path"] == "srv:big" && offset >= 4 * MIB as u64, "{resumed}");
    let summary = ended.events("summary").remove(0);
    assert_eq!(summary["bytes"].as_u64().unwrap(), 24 * MIB as u64 - offset, "{summary}");
    two.is_copied();
}

#[test]
fn an_interrupted_copy_leaves_a_durable_beginning() {
    let two = Two::slow();
    let copying = two.client.spawn(SLOW);
    two.under_way();
    copying.signal(Signal::INT);
    assert_eq!(copying.end().code, 130);
    let ended = two.client.run(SLOW);
    assert!(ended.events("resumed")[0]["offset"].as_u64().unwrap() >= 4 * MIB as u64);
    two.is_copied();
}

#[test]
fn lost_connections_do_not_disturb_a_copy() {
    let two = Two::slow();
    let copying = two.client.spawn(SLOW);
    two.under_way();
    let inode = staged(&two.to.root.join("copy")).metadata().unwrap().ino();
    two.at_from.cut_now(Which::All);
    two.at_to.cut_now(Which::All);
    let ended = copying.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.events("resumed").is_empty(), "{ended:?}");
    two.is_copied();
    assert_eq!(
        two.to.root.join("copy").metadata().unwrap().ino(),
        inode,
        "the same transfer"
    );
    assert_eq!(ended.events("summary")[0]["bytes"], 24 * MIB);
}

/// Each loss has the sending server resend what it does not know to be there.
#[test]
fn many_losses_of_a_data_connection_are_survived() {
    let two = Two::slow();
    write(&two.from.root.join("big"), &bytes(1, 96 * MIB));
    let copying = two.client.spawn(SLOW);
    let partial = staged(&two.to.root.join("copy"));
    for step in 1..12 {
        until("more of it is there", || length(&partial) > step * 5 * MIB as u64);
        two.at_from.cut_now(Which::Data);
    }
    let ended = copying.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.events("resumed").is_empty(), "{ended:?}");
    assert!(std::fs::read(two.to.root.join("copy")).unwrap() == bytes(1, 96 * MIB));
}

#[test]
fn a_copy_survives_a_restart_of_either_server() {
    for restarts_sender in [true, false] {
        let mut two = Two::slow();
        let copying = two.client.spawn(SLOW);
        two.under_way();
        let server = if restarts_sender { &mut two.from } else { &mut two.to };
        server.kill();
        server.restart();
        let ended = copying.end();
        ended.retried();
        two.is_copied();
    }
}

#[test]
fn a_source_that_changes_is_copied_as_it_is_in_the_end() {
    let two = Two::with(Rules {
        rate: Some(4 * MIB),
        ..Rules::default()
    });
    write(&two.from.root.join("big"), &bytes(1, 100 * MIB));
    let content = bytes(5, 9 * MIB);
    let copying = two.client.spawn(SLOW);
    two.under_way();
    // written in place: a reader has the beginning of the old file. It is never empty, as that
    // would be a version that is copied at once.
    let file = std::fs::File::options()
        .write(true)
        .open(two.from.root.join("big"))
        .unwrap();
    file.set_len(content.len() as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
    let ended = copying.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let copy = std::fs::read(two.to.root.join("copy")).unwrap();
    let is_old = copy == bytes(1, 100 * MIB);
    assert!(copy == content, "{} bytes, the old file: {is_old}; {ended:?}", copy.len());
    let hash = blake3::hash(&content).to_hex().to_string();
    assert_eq!(ended.events("file")[0]["hash"], hash, "{ended:?}");
}

#[test]
fn a_target_has_one_writer() {
    let two = Two::slow();
    write(&two.from.root.join("small"), b"small");
    let copying = two.client.spawn(SLOW);
    two.under_way();
    let other = two.to.client();
    write(&other.work().join("f"), b"other");
    other
        .run(["put", "f", "srv:copy"])
        .failed(7, &["being written by kim@", "--wait"]);
    let refused = two.client.run(["cp", "srv:small", "vps:copy"]);
    assert!(refused.code == 7 && refused.err.contains("being written by"), "{refused:?}");
    assert_eq!(copying.end().code, 0);
    two.is_copied();
}

/// What the one server sends faster than the other one takes it does not gather here.
#[test]
fn the_memory_of_the_client_is_bounded() {
    let two = Two::with(Rules {
        rate: Some(16 * MIB),
        ..Rules::default()
    });
    write(&two.from.root.join("big"), &bytes(1, 300 * MIB));
    let copying = two.client.spawn(SLOW);
    let partial = staged(&two.to.root.join("copy"));
    until("most of it is there", || length(&partial) > 100 * MIB as u64);
    let status = format!("/proc/{}/status", copying.child.id());
    let status = std::fs::read_to_string(status).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 110 << 10, "{peak} kB");
    copying.kill();
}

/// A client of a scripted server that is logged in at a real one, too.
fn also_at(scripted: &ScriptedServer, server: &Server) -> Client {
    let client = scripted.client();
    let login = ["login", "--name", "real", &server.address.to_string()].map(String::from);
    let ended = client.run_with(login, server.invite("kim").as_bytes());
    assert_eq!(ended.code, 0, "{ended:?}");
    client
}

/// Waits for the request to send, and agrees.
async fn is_asked_to_send(peer: &mut Scripted) {
    loop {
        match peer.request().await {
            (number, request::Body::Get(_)) => return peer.reply(number, 150, None).await,
            (number, _) => peer.reply(number, 550, None).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sender_may_have_outstanding_what_the_receiver_grants() {
    let server = Server::with(&["--max-memory", "128M"]);
    let scripted = ScriptedServer::start().await;
    let client = also_at(&scripted, &server);
    let from = scripted.url("f");
    let arguments = ["cp", "-q", "--retry-for", "0s", &from, "real:x"];
    let ended = against(&client, &arguments, async {
        let mut peer = scripted.logged_in().await;
        is_asked_to_send(&mut peer).await;
        // a third of half of what is lent, in four windows and a fixed part
        let window = peer.window().await;
        assert_eq!(window, 2 << 20);
    });
    assert_ne!(ended.await.code, 0);
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sending_server_that_breaks_the_protocol_is_refused() {
    let server = Server::start();
    write(&server.root.join("x"), b"precious");
    let file = |number, parent| offer(number, parent, b"", proto::Kind::File, 1);
    let wants = proto::Wants::default();
    for nonsense in [
        vec![offers(vec![file(2, 0), file(1, 0)])],
        vec![offers(vec![file(1, 9)])],
        vec![offers(vec![proto::Offer {
            source: 7,
            ..file(1, 0)
        }])],
        vec![offers(vec![file(1, 0), file(2, 1)])],
        vec![transfer_message::Body::End(proto::EndOfOffers {}), offers(vec![file(1, 0)])],
        vec![transfer_message::Body::Wants(wants)],
        vec![transfer_message::Body::Changed(proto::Changed::default())],
    ] {
        let scripted = ScriptedServer::start().await;
        let client = also_at(&scripted, &server);
        let from = scripted.url("f");
        let shown = format!("{nonsense:?}");
        let arguments = ["cp", "-q", "--connections", "1", &from, "real:x"];
        let ended = against(&client, &arguments, async {
            let mut peer = scripted.logged_in().await;
            is_asked_to_send(&mut peer).await;
            for body in nonsense {
                peer.transfer(1, body).await;
            }
            while peer.message().await.is_some() {}
        })
        .await;
        assert_eq!(ended.code, 1, "{shown}: {ended:?}");
        assert!(ended.err.contains("broke the protocol"), "{shown}: {ended:?}");
    }
    assert_eq!(std::fs::read(server.root.join("x")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 1);
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiving_server_that_breaks_the_protocol_is_refused() {
    let server = Server::start();
    write(&server.root.join("f"), b"f");
    let result = |number, outcome| {
        transfer_message::Body::Results(proto::Results {
            results: vec![proto::Result {
                number,
                outcome,
                ..Default::default()
            }],
        })
    };
    for nonsense in [
        result(99, 1),
        result(1, 77),
        transfer_message::Body::Finished(proto::Finished::default()),
        offers(Vec::new()),
        transfer_message::Body::Taken(proto::ReportTaken {}),
    ] {
        let scripted = ScriptedServer::start().await;
        let client = also_at(&scripted, &server);
        let (to, shown) = (scripted.url("x"), format!("{nonsense:?}"));
        let arguments = ["cp", "-q", "--connections", "1", "real:f", &to];
        let ended = against(&client, &arguments, async {
            let mut peer = scripted.logged_in().await;
            let (number, _) = peer.request().await;
            peer.reply(number, 150, None).await;
            while !matches!(peer.message().await, Some(transfer_message::Body::Offers(_))) {}
            peer.transfer(1, nonsense).await;
            while peer.message().await.is_some() {}
        })
        .await;
        assert_eq!(ended.code, 1, "{shown}: {ended:?}");
        assert!(ended.err.contains("broke the protocol"), "{shown}: {ended:?}");
    }
    server.still_serves();
}
