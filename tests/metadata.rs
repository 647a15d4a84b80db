//! Owners, modes, extended attributes, ACLs, FIFOs and devices: compared with what the rsync binary
//! makes of them, and given to a side that may not set them.

use crate::support::chance::Chance;
use crate::support::messages::{ended, offer, offers, put, result};
use crate::support::script::ScriptedClient;
use crate::support::tree::{set_mode, write};
use crate::support::{Client, Ended, Server, run_with, under};
use haul::chunk::digest::whole_digest;
use haul::net::wire::proto::{self, request};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, getxattr, mknodat, setxattr,
};
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// nobody
const PLAIN: u32 = 65_534;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can set owners");
    }
    root
}

/// A POSIX ACL with an entry for another user, as the kernel reads it.
fn acl(user: u32, permissions: u16) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let entries = [
        (1, 6, u32::MAX),
        (2, permissions, user),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 4, u32::MAX),
    ];
    for (tag, permissions, id) in entries {
        acl.extend(u16::to_le_bytes(tag));
        acl.extend(u16::to_le_bytes(permissions));
        acl.extend(u32::to_le_bytes(id));
    }
    acl
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let length = getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn set_time(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec {
        tv_sec: secs,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn make_node(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

/// Gives an entry an owner, a mode, attributes and a time, all at random.
fn decorate(chance: &mut Chance, path: &Path) {
    let kind = path.symlink_metadata().unwrap().file_type();
    let ids = [0, 1, 7, 1000, PLAIN, 70_001];
    lchown(path, Some(*chance.of(&ids)), Some(*chance.of(&ids))).unwrap();
    if kind.is_file() || kind.is_dir() {
        for n in 0..chance.below(3) {
            let value = vec![b'v'; chance.below(300)];
            set_xattr(path, &format!("user.x{n}"), &value);
        }
        if chance.one_in(4) {
            set_xattr(path, "trusted.t", b"of root");
        }
    }
    if !kind.is_symlink() {
        let modes = [0o644, 0o600, 0o755, 0o444, 0o000, 0o4755, 0o2755, 0o1777, 0o6711, 0o060];
        set_mode(path, *chance.of(&modes));
    }
    if (kind.is_file() || kind.is_dir()) && chance.one_in(4) {
        set_xattr(path, "system.posix_acl_access", &acl(*chance.of(&ids), 6));
    }
    if kind.is_dir() && chance.one_in(4) {
        set_xattr(path, "system.posix_acl_default", &acl(*chance.of(&ids), 5));
    }
    let nanos = i64::try_from(chance.below(1_000_000_000)).unwrap();
    set_time(path, 1_500_000_000 + i64::try_from(chance.below(1 << 20)).unwrap(), nanos);
}

/// Makes a random tree; returns its entries, inner ones first.
fn make_tree(chance: &mut Chance, top: &Path) -> Vec<PathBuf> {
    std::fs::create_dir_all(top).unwrap();
    let (mut dirs, mut all) = (vec![top.to_path_buf()], vec![top.to_path_buf()]);
    for n in 0..4 + chance.below(16) {
        let dir = chance.of(&dirs).clone();
        let path = dir.join(format!("e{n}"));
        match chance.below(8) {
            0 | 1 => {
                std::fs::create_dir(&path).unwrap();
                dirs.push(path.clone());
            }
            2 => symlink(format!("to {n}"), &path).unwrap(),
            3 => make_node(&path, FileType::Fifo, 0),
            4 if chance.one_in(2) => {
                make_node(&path, FileType::CharacterDevice, rustix::fs::makedev(1, 3));
            }
            4 => make_node(&path, FileType::Socket, 0),
            5 if chance.one_in(3) => write(&path, &vec![7; (1 << 20) + 5]),
            _ => write(&path, format!("content {n}").as_bytes()),
        }
        all.push(path);
    }
    let files: Vec<PathBuf> = all.iter().filter(|path| !path.is_dir()).cloned().collect();
    for n in 0..chance.below(5).min(files.len()) {
        let path = chance.of(&dirs).join(format!("link{n}"));
        std::fs::hard_link(chance.of(&files), &path).unwrap();
        all.push(path);
    }
    all.reverse();
    for path in &all {
        decorate(chance, path);
    }
    all
}

/// What rsync would still do to make `to` what `from` is.
fn differences(options: &str, from: &Path, to: &Path) -> String {
    let mut rsync = Command::new("rsync");
    rsync.args([options, "--delete"]);
    let out = rsync.arg(format!("{}/", from.display())).arg(to).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn rsync_finds_no_difference_in_what_was_put_and_fetched() {
    if !is_root() {
        return;
    }
    let server = Server::with(&["--owners"]);
    let client = server.client();
    for seed in 1..25 {
        let mut chance = Chance::of_seed(seed);
        let from = client.work().join(format!("from{seed}"));
        let all = make_tree(&mut chance, &from);
        let (there, back) = (format!("srv:put{seed}"), format!("back{seed}"));
        let slash = format!("{}/", from.display());
        for round in 0..2 {
            client.ok(["put", "-aHAX", &slash, &there]);
            let to = server.root.join(format!("put{seed}"));
            assert_eq!(differences("-aHAXSnci", &from, &to), "", "put {seed}, round {round}");
            client.ok(["get", "-aHAX", &format!("{there}/"), &back]);
            let to = client.work().join(&back);
            assert_eq!(differences("-aHAXSnci", &from, &to), "", "get {seed}, round {round}");
            // the second time other attributes of the same content
            for path in &all {
                if chance.one_in(3) {
                    decorate(&mut chance, path);
                }
            }
        }
    }
}

/// The last line of a command, which says what could not be set.
fn last_line(ended: &Ended) -> &str {
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.err.lines().last().unwrap_or_default()
}

#[test]
fn what_a_server_may_not_set_is_one_line_and_no_failure() {
    if !is_root() {
        return;
    }
    let server = Server::start();
    let client = server.client();
    let tree = client.work().join("t");
    for name in ["a", "b", "suid"] {
        write(&tree.join(name), name.as_bytes());
        lchown(tree.join(name), Some(1000), Some(1001)).unwrap();
    }
    set_mode(&tree.join("suid"), 0o4755);
    set_xattr(&tree.join("a"), "user.u", b"of a user");
    set_xattr(&tree.join("a"), "trusted.t", b"of root");
    make_node(&tree.join("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make_node(&tree.join("fifo"), FileType::Fifo, 0);
    for _ in 0..2 {
        let put = client.run(["put", "-aX", "t", "srv:"]);
        assert_eq!(
            last_line(&put),
            "put: not set: owners of 3, groups of 3, set-uid and set-gid bits of 1, extended \
             attributes of 1, 1 devices or sockets: the server runs without --owners"
        );
    }
    let there = server.root.join("t");
    let suid = there.join("suid").metadata().unwrap();
    assert_eq!((suid.uid(), suid.mode() & 0o7777), (0, 0o755));
    assert_eq!(xattr(&there.join("a"), "user.u").unwrap(), b"of a user");
    assert_eq!(xattr(&there.join("a"), "trusted.t"), None);
    assert!(there.join("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    assert!(there.join("null").symlink_metadata().is_err());
    let json = client.ok(["put", "-aX", "--json", "t", "srv:"]);
    let summary: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!(summary["not_set"]["owners"], 3, "{summary}");
    assert_eq!(
        summary["not_set"]["reason"], "the server runs without --owners",
        "{summary}"
    );
    // what was not asked for is not missed
    let put = client.run(["put", "-r", "t/a", "srv:"]);
    assert!(!put.err.contains("not set"), "{put:?}");
    assert!(
        client
            .ok(["put", "-r", "--json", "t/a", "srv:"])
            .contains("\"complete\":true")
    );
}

#[test]
fn a_plain_user_fetches_what_they_may_and_learns_what_not() {
    if !is_root() {
        return;
    }
    let server = Server::start();
    let client = server.client();
    let there = server.root.join("t");
    write(&there.join("f"), b"f");
    lchown(there.join("f"), Some(1000), Some(1001)).unwrap();
    set_mode(&there.join("f"), 0o4711);
    make_node(&there.join("socket"), FileType::Socket, 0);
    symlink("f", there.join("link")).unwrap();
    set_time(&there.join("link"), 1_234_567_890, 123_456_789);
    for entry in walkdir::WalkDir::new(client.dir.path()) {
        lchown(entry.unwrap().path(), Some(PLAIN), Some(PLAIN)).unwrap();
    }
    let user = PLAIN.to_string();
    let prefix =
        ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_string);
    let command = client.command(["get", "-a", "srv:t", "."]);
    let get = Ended::of(run_with(under(command, &prefix), b""));
    let line = last_line(&get);
    assert!(
        line.contains("owners of 3, groups of 3, set-uid and set-gid bits of 1"),
        "{line}"
    );
    assert!(
        line.ends_with(", 1 devices or sockets: haul does not run as root"),
        "{line}"
    );
    let link = client.work().join("t/link").symlink_metadata().unwrap();
    assert_eq!((link.mtime(), link.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(client.work().join("t/f").metadata().unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn owners_are_mapped_as_rsync_maps_them() {
    if !is_root() {
        return;
    }
    let server = Server::with(&["--owners"]);
    let client = server.client();
    let from = client.work().join("t");
    for (name, uid, gid) in [("a", 1, 2), ("b", 70_001, 70_002), ("c", 0, 0), ("d", 7, 7)] {
        write(&from.join(name), name.as_bytes());
        lchown(from.join(name), Some(uid), Some(gid)).unwrap();
    }
    for (n, options) in [
        &["--chown=daemon:bin"][..],
        &["--chown=:7"],
        &["--chown=7"],
        &["--usermap=bin:9,0:8,60000-80000:5,*:6", "--groupmap=*:daemon"],
        &["--usermap=:70003,daemon:70004"],
        &["--numeric-ids"],
        &["--no-o"],
    ]
    .iter()
    .enumerate()
    {
        let to = server.root.join(n.to_string());
        let mut rsync = Command::new("rsync");
        rsync.arg("-a").args(options.iter()).arg(format!("{}/", from.display()));
        let by_rsync = client.work().join(format!("rsync{n}"));
        let out = rsync.arg(&by_rsync).output().unwrap();
        assert!(
            out.status.success(),
            "{options:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let place = format!("srv:{n}");
        client.ok(["put", "-a"].iter().chain(*options).chain(&["t/", &place]));
        assert_eq!(differences("-ani", &by_rsync, &to), "", "{options:?}");
    }
}

#[test]
fn an_owner_that_is_none_is_one_line_and_nothing_is_touched() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("t/f"), b"f");
    write(&server.root.join("u/f"), b"f");
    for (options, word) in [
        (&["--chown=no-such-user"][..], "no user no-such-user"),
        (&["--chown=:no-such-group"], "no group no-such-group"),
        (&["--usermap=a"], "a is not FROM:TO"),
        (&["--groupmap=9-1:0"], "9-1 is no range of numbers"),
    ] {
        let put = ["put", "-r"].iter().chain(options).chain(&["t", "srv:new"]);
        client.run(put).failed(2, &[word]);
        let get = ["get", "-r"].iter().chain(options).chain(&["srv:u", "new"]);
        client.run(get).failed(2, &[word]);
    }
    assert!(!server.root.join("new").exists());
    assert!(!client.work().join("new").exists());
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let server = Server::start();
    let client = server.client();
    let from = client.work().join("t");
    write(&from.join("a"), &vec![5; 3 << 20]);
    write(&from.join("sub/small"), b"small");
    std::fs::hard_link(from.join("a"), from.join("sub/b")).unwrap();
    std::fs::hard_link(from.join("sub/small"), from.join("z")).unwrap();
    let ids = |dir: &Path| {
        ["a", "sub/b", "sub/small", "z"].map(|name| dir.join(name).metadata().unwrap().ino())
    };
    let put = client.ok(["put", "-rH", "--json", "t", "srv:"]);
    let there = server.root.join("t");
    let [a, b, small, z] = ids(&there);
    assert!(a == b && small == z && a != z);
    let summary: serde_json::Value = serde_json::from_str(put.lines().last().unwrap()).unwrap();
    assert_eq!(summary["bytes"], (3 << 20) + 5, "the content is sent once: {summary}");
    // a repeat finds them
    let again = client.run(["put", "-rH", "t", "srv:"]);
    assert!(again.err.contains("4 unchanged"), "{again:?}");
    assert_eq!(ids(&there), [a, b, small, z]);
    // one that became a file of its own is a name of the other one again
    std::fs::copy(there.join("z"), there.join("new")).unwrap();
    std::fs::rename(there.join("new"), there.join("z")).unwrap();
    let dry = client.ok(["put", "-rHn", "--json", "t", "srv:"]);
    assert!(dry.contains("\"planned\":1"), "{dry}");
    client.ok(["put", "-rH", "t", "srv:"]);
    assert_eq!(ids(&there)[2], ids(&there)[3]);
    // without -H each is a file of its own
    client.ok(["put", "-r", "t", "srv:plain"]);
    let [a, b, ..] = ids(&server.root.join("plain/t"));
    assert_ne!(a, b);
    // a first name that fails takes none of the others with it
    std::fs::create_dir_all(server.root.join("busy/t/a")).unwrap();
    client.run(["put", "-rH", "t", "srv:busy"]).failed(3, &["t/a"]);
    assert_eq!(std::fs::read(server.root.join("busy/t/sub/b")).unwrap(), vec![5; 3 << 20]);
    client.ok(["get", "-rH", "srv:t", "back"]);
    let [a, b, small, z] = ids(&client.work().join("back/t"));
    assert!(a == b && small == z);
}

/// A server, and clients that ask for everything in puts of one source, `t`.
struct Hostile {
    server: Server,
    known: Client,
    sessions: u8,
}

impl Hostile {
    fn start() -> Hostile {
        let server = Server::with(&["--session-grace", "0"]);
        Hostile {
            known: server.client(),
            server,
            sessions: 0,
        }
    }

    /// Another client, which has offered this.
    async fn offers(&mut self, offered: Vec<proto::Offer>) -> ScriptedClient {
        self.sessions += 1;
        let session = [self.sessions; 16];
        let mut client = ScriptedClient::connect_as(&self.server, &self.known, session).await;
        client.login().await;
        let request::Body::Put(mut put) = put(1, b"t") else {
            panic!("a put is one")
        };
        put.options = Some(proto::Options {
            recursive: true,
            owner: true,
            group: true,
            devices: true,
            xattrs: true,
            acls: true,
            hard_links: true,
            ..Default::default()
        });
        let reply = client.ask(2, request::Body::Put(put)).await.unwrap();
        assert_eq!(reply.code, 150);
        client.transfer(1, offers(offered)).await;
        client
    }

    fn there(&self) -> PathBuf {
        self.server.root.join("t")
    }
}

/// An empty file with attributes of these names and sizes.
fn with_xattrs(xattrs: &[(&[u8], usize)]) -> proto::Offer {
    let xattr = |(name, length): &(&[u8], usize)| proto::Xattr {
        name: name.to_vec(),
        value: vec![1; *length],
    };
    proto::Offer {
        xattrs: xattrs.iter().map(xattr).collect(),
        digest: whole_digest(b"").to_vec(),
        uid: Some(u32::MAX),
        gid: Some(12),
        mode: 0o6755,
        ..offer(1, 0, b"", proto::Kind::File, 0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_are_too_large_or_too_many_end_the_transfer() {
    let mut hostile = Hostile::start();
    for bad in [
        &[(&b"user.x"[..], (64 << 10) + 1)][..],
        &[(b"user.a", 60 << 10), (b"user.b", 60 << 10), (b"user.c", 60 << 10)],
        &[(b"", 1)],
        &[(b"user.a\0b", 1)],
        &[(&[b'n'; 256], 1)],
    ] {
        let mut client = hostile.offers(vec![with_xattrs(bad)]).await;
        assert_eq!(ended(&mut client).await, Some(500));
    }
    let many: Vec<(&[u8], usize)> = vec![(b"user.x", 1); 129];
    let mut client = hostile.offers(vec![with_xattrs(&many)]).await;
    assert_eq!(ended(&mut client).await, None, "it is not even decoded");
    assert!(!hostile.there().exists());
    hostile.server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_root_may_set_is_not_set_for_a_client() {
    let mut hostile = Hostile::start();
    let record = haul::store::metadata::RECORD;
    let asked = [(&b"trusted.t"[..], 1), (record, 1), (b"system.x", 1), (b"user.u", 1)];
    let mut client = hostile.offers(vec![with_xattrs(&asked)]).await;
    let committed = result(&mut client).await;
    assert_eq!(committed.outcome(), proto::Outcome::Committed, "{committed:?}");
    let there = hostile.there();
    let found = there.metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 0, 0o755));
    assert_eq!(xattr(&there, "user.u"), Some(vec![1]));
    assert_eq!(xattr(&there, "trusted.t"), None);
    assert_eq!(xattr(&there, "user.haul.meta"), None);
    std::fs::remove_file(&there).unwrap();
    for kind in [proto::Kind::CharDevice, proto::Kind::BlockDevice, proto::Kind::Socket] {
        let device = proto::Offer {
            device: 1 << 32 | 3,
            ..offer(1, 0, b"", kind, 0)
        };
        let mut client = hostile.offers(vec![device]).await;
        assert_eq!(result(&mut client).await.outcome(), proto::Outcome::Skipped);
        assert!(!there.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_lead_nowhere_or_elsewhere_become_files() {
    let mut hostile = Hostile::start();
    write(&hostile.server.root.join("secret"), b"secret");
    for (link, path) in [
        (1, &b"../secret"[..]),
        (1, b"gone"),
        (7, b""),
        (2, b""),
        (u64::MAX, b"/secret"),
        (1, b""),
    ] {
        let dir = offer(1, 0, b"", proto::Kind::Dir, 0);
        let linked = proto::Offer {
            link,
            link_path: path.to_vec(),
            digest: whole_digest(b"new").to_vec(),
            content: b"new".to_vec(),
            ..offer(2, 1, b"x", proto::Kind::File, 3)
        };
        let mut client = hostile.offers(vec![dir, linked]).await;
        let committed = result(&mut client).await;
        assert_eq!(committed.outcome(), proto::Outcome::Committed, "{link} {committed:?}");
        let x = hostile.there().join("x");
        assert_eq!(std::fs::read(&x).unwrap(), b"new");
        assert_eq!(x.metadata().unwrap().nlink(), 1);
        std::fs::remove_dir_all(hostile.there()).unwrap();
    }
}

#[test]
fn an_entry_with_too_many_attributes_fails_alone() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("t/ok"), b"ok");
    write(&client.work().join("t/many"), b"many");
    for n in 0..200 {
        set_xattr(&client.work().join("t/many"), &format!("user.{n}"), b"");
    }
    let put = client.run(["put", "-rX", "t", "srv:"]);
    put.failed(3, &["t/many", "extended attributes are more than 128"]);
    assert!(server.root.join("t/ok").exists());
}

#[test]
fn a_server_that_records_gives_back_what_it_was_given() {
    if !is_root() {
        return;
    }
    let server = Server::with(&["--fake-super"]);
    let client = server.client();
    for seed in 1..12 {
        let mut chance = Chance::of_seed(seed);
        let from = client.work().join(format!("from{seed}"));
        let all = make_tree(&mut chance, &from);
        for path in &all {
            // links cannot have a record, and attributes of root are root's
            if path.is_symlink() {
                lchown(path, Some(0), Some(0)).unwrap();
            } else {
                let _ = rustix::fs::removexattr(path, "trusted.t");
            }
        }
        let (there, back) = (format!("srv:put{seed}"), format!("back{seed}"));
        let slash = format!("{}/", from.display());
        for round in 0..2 {
            let put = client.run(["put", "-aHAX", &slash, &there]);
            assert_eq!(put.code, 0, "{put:?}");
            assert!(!put.err.contains("not set"), "{put:?}");
            client.ok(["get", "-aHAX", &format!("{there}/"), &back]);
            let to = client.work().join(&back);
            assert_eq!(differences("-aHAXSnci", &from, &to), "", "{seed}, round {round}");
        }
    }
    // nothing of it is real there
    for entry in walkdir::WalkDir::new(&server.root) {
        let found = entry.unwrap().path().symlink_metadata().unwrap();
        let kind = found.file_type();
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink());
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o6000), (0, 0, 0));
    }
    // a record that makes no sense counts as none, and one of a directory is none of a file
    write(&server.root.join("x"), b"x");
    for record in [&b"nonsense"[..], b"1 mode=40755 uid=5 gid=5", b"1 mode=120777 uid=5 gid=5"] {
        set_xattr(&server.root.join("x"), "user.haul.meta", record);
        client.ok(["get", "-a", "srv:x", "."]);
        let got = client.work().join("x").metadata().unwrap();
        assert_eq!((got.is_file(), got.uid()), (true, 0));
    }
    assert_eq!(xattr(&client.work().join("x"), "user.haul.meta"), None);
}
