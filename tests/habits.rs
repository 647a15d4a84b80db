//! What hands type from rsync's habit works as it does there, or is refused with what to type.

use crate::support::tree::{snapshot, write};
use crate::support::{Client, Server};
use std::path::Path;

fn source(client: &Client) {
    for path in ["src/a", "src/d/b", "src/node_modules/x.js", "src/.git/config", "src/c.log"] {
        write(&client.work().join(path), path.as_bytes());
    }
}

fn names(top: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(top)
        .sort_by_file_name()
        .into_iter()
        .map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| entry.path().strip_prefix(top).unwrap().display().to_string())
        .collect()
}

/// The most frequent command lines of rsync, with put in its place.
#[test]
fn old_command_lines_work() {
    let server = Server::start();
    let client = server.client();
    source(&client);
    let all = [".git/config", "a", "c.log", "d/b", "node_modules/x.js"];
    let few = ["a", "d/b"];
    for (number, (line, sent)) in [
        ("-av src/", &all[..]),
        ("-avz src/", &all),
        ("-avzP src/", &all),
        ("-az --progress src/", &all),
        ("-rlptv src/", &all),
        ("-avh --stats src/", &all),
        ("-a --info=progress2 --partial src/", &all),
        ("-avzu src/", &all),
        ("-avzhP --exclude node_modules --exclude .git --exclude=*.log src/", &few),
        ("-rtSWv --exclude=/.git/ --exclude=*.js --exclude=c.log -m src/", &few),
    ]
    .into_iter()
    .enumerate()
    {
        let to = format!("srv:{number}");
        let words = ["put"].into_iter().chain(line.split(' ')).chain([to.as_str()]);
        client.ok(words);
        assert_eq!(names(&server.root.join(number.to_string())), sent, "{line}");
    }
}

#[test]
fn dest_is_always_the_same_place() {
    let server = Server::start();
    let client = server.client();
    source(&client);
    let there = |path: &str| server.root.join(path);
    for round in 0..2 {
        client.ok(["put", "-r", "src", "srv:new"]);
        client.ok(["put", "-r", "src/", "srv:contents"]);
        client.ok(["put", "-r", "src/.", "srv:dot"]);
        client.ok(["put", "src/a", "srv:file"]);
        let in_new: Vec<_> = std::fs::read_dir(there("new")).unwrap().collect();
        assert_eq!(in_new.len(), 1, "{round}");
        assert_eq!(snapshot(&client.work().join("src")), snapshot(&there("new/src")));
        assert_eq!(snapshot(&client.work().join("src")), snapshot(&there("contents")));
        assert_eq!(snapshot(&there("dot")), snapshot(&there("contents")));
        assert!(there("file").is_file());
        // and back
        client.ok(["get", "-r", "srv:new/src", "back"]);
        client.ok(["get", "-r", "srv:new/src/", "flat"]);
        client.ok(["get", "srv:file", "renamed"]);
        assert_eq!(snapshot(&client.work().join("back/src")), snapshot(&there("new/src")));
        assert_eq!(snapshot(&client.work().join("flat")), snapshot(&there("new/src")));
        assert!(client.work().join("renamed").is_file());
    }
    // contents go into a directory that is made for them, as with rsync
    client.ok(["put", "-a", "src/", "srv:slash/"]);
    client.ok(["get", "-a", "srv:slash/", "slash/"]);
    client.ok(["cp", "-a", "src/", "slashed/"]);
    client.ok(["put", "-an", "src/", "srv:dry/"]);
    client.ok(["get", "-an", "srv:slash/", "dry/"]);
    let sent = snapshot(&client.work().join("src"));
    for dir in [there("slash"), client.work().join("slash"), client.work().join("slashed")] {
        assert_eq!(snapshot(&dir), sent, "{dir:?}");
    }
    assert!(!there("dry").exists() && !client.work().join("dry").exists());
    client
        .run(["put", "-a", "src/", "srv:file/"])
        .failed(1, &["not a directory"]);
    // several sources make the directory; what is above it must exist
    client.ok(["put", "-r", "src/a", "src/d", "srv:several"]);
    assert_eq!(names(&there("several")), ["a", "d/b"]);
    client
        .run(["put", "-r", "src", "srv:no/such"])
        .failed(8, &["no such directory: no"]);
    assert!(!there("no").exists());
    // a file is in the place
    client.run(["put", "-r", "src", "srv:file"]).failed(1, &["file"]);
}

#[test]
fn without_dest_get_writes_here() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("d/x"), b"x");
    write(&server.root.join("y"), b"y");
    client.ok(["get", "srv:y"]);
    client.ok(["get", "-r", "srv:d"]);
    client.ok(["get", "srv:d/x", "srv:y"]);
    assert_eq!(names(&client.work()), ["d/x", "x", "y"]);
}

#[test]
fn targets_that_are_newer_or_exist_stay_as_the_user_says() {
    let server = Server::start();
    let client = server.client();
    let (here, there) = (client.work().join("t"), server.root.join("t"));
    let reset = || {
        for (name, at_source, at_target) in [("older", 100_000, 50_000), ("newer", 50_000, 100_000)]
        {
            write(&here.join(name), b"source");
            write(&there.join(name), b"target");
            modified(&here.join(name), at_source);
            modified(&there.join(name), at_target);
        }
        write(&here.join("fresh"), b"source");
        let _ = std::fs::remove_file(there.join("fresh"));
    };
    let content = |name: &str| std::fs::read_to_string(there.join(name)).unwrap();
    let check = |option: &str, older: &str, newer: &str, skipped: u64| {
        reset();
        let out = client.ok(["put", "-r", option, "--json", "t/", "srv:t"]);
        assert_eq!(
            [content("older"), content("newer"), content("fresh")],
            [older, newer, "source"]
        );
        let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!(summary["skipped"], skipped, "{option}: {out}");
        assert_eq!(out.matches(r#""event":"skipped""#).count() as u64, skipped, "{out}");
    };
    check("-u", "source", "target", 1);
    check("--ignore-existing", "target", "target", 2);
    check("--size-only", "target", "target", 0);
    // the times are those of the sources then
    assert_eq!(snapshot(&here)[Path::new("older")], {
        let mut entry = snapshot(&there)[Path::new("older")].clone();
        if let crate::support::tree::Entry::File { hash, .. } = &mut entry {
            *hash = blake3::hash(b"source").to_hex().to_string();
        }
        entry
    });
}

/// The names behind each difference of a dry run.
fn planned(out: &str) -> Vec<String> {
    let mut lines: Vec<String> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|event| event["event"] == "planned")
        .map(|event| format!("{} {}", event["difference"], event["path"]).replace('"', ""))
        .collect();
    lines.sort();
    lines
}

/// Sets how long after a day in 2001 a file was modified.
fn modified(path: &Path, after: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_000_000_000_000 + after);
    std::fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

/// Two trees that differ in every way in which files do.
fn differing(here: &Path, there: &Path) {
    for (name, at_source, at_target) in [
        ("same", "same", "same"),
        ("d/content", "1234", "4321"),
        ("d/size", "more", "less than it"),
        ("time", "1234", "1234"),
        ("near", "1234", "4321"),
    ] {
        for (path, content) in [(here.join(name), at_source), (there.join(name), at_target)] {
            write(&path, content.as_bytes());
            modified(&path, 0);
        }
    }
    modified(&there.join("time"), 60_000);
    // as near as a coarser clock would have it
    modified(&there.join("near"), 1500);
    write(&here.join("new/deep/f"), b"new");
    std::fs::write(there.join("kind"), b"file").unwrap();
    std::os::unix::fs::symlink("x", here.join("kind")).unwrap();
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_and_why() {
    let server = Server::start();
    let client = server.client();
    differing(&client.work().join("t"), &server.root.join("t"));
    let whole = || [snapshot(&client.work()), snapshot(&server.root)];
    let before = whole();
    let run = |words: &[&str]| {
        let out = client.ok([&["put", "-rn", "--json"], words].concat());
        assert_eq!(whole(), before, "{words:?}");
        planned(&out)
    };
    let by_time = [
        "kind t/kind",
        "new t/new/deep/f",
        "size t/d/size",
        "time t/near",
        "time t/time",
    ];
    assert_eq!(run(&["t/", "srv:t"]), by_time);
    let by_content = [
        "content t/d/content",
        "content t/near",
        "kind t/kind",
        "new t/new/deep/f",
        "size t/d/size",
    ];
    assert_eq!(run(&["-c", "t/", "srv:t"]), by_content);
    assert_eq!(run(&["t", "srv:nowhere"]).len(), 7);
    assert_eq!(run(&["--exclude=*", "t", "srv:nowhere"]).len(), 0);
    // what is planned is what is sent
    let shown = client.run(["put", "-rn", "t/", "srv:t"]);
    assert!(
        shown.err.contains("size    t/d/size\n") && shown.err.contains("put: would send 5 files"),
        "{shown:?}"
    );
    let get = client.ok(["get", "-rn", "--json", "srv:t", "fresh"]);
    assert_eq!((planned(&get).len(), whole()), (6, before), "{get}");
    let shown = client.run(["get", "-rn", "srv:t", "fresh"]);
    assert!(shown.err.contains("get: would fetch 6 files"), "{shown:?}");
    client.run(["get", "-n", "srv:t/same", "-"]).failed(2, &["--dry-run"]);
    let sent = client.ok(["put", "-r", "--json", "t/", "srv:t"]);
    assert_eq!(sent.matches(r#""event":"file""#).count(), 5, "{sent}");
}

#[test]
fn what_haul_cannot_do_is_refused_with_what_to_type() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("t/x"), b"x");
    for (words, named) in [
        (&["--append"][..], &["--append", "resumes"][..]),
        (&["--inplace"], &["--inplace", "mixture"]),
        (&["-C"], &["-C", "--exclude"]),
        (&["-P", "2222"], &["-P", "haul://HOST:2222/PATH"]),
    ] {
        let words = ["put", "-r"].iter().chain(words).chain(&["t", "srv:"]);
        client.run(words).failed(2, named);
    }
    for (place, instead) in [
        ("host::module/x", "haul serve"),
        ("rsync://host/x", "haul serve"),
        ("ftp://host/x", "haul serve"),
        ("sftp://host/x", "ssh://"),
    ] {
        client.run(["put", "-r", "t", place]).failed(2, &[place, instead]);
    }
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 0);
}

#[test]
fn only_what_exists_is_replaced() {
    let server = Server::start();
    let client = server.client();
    source(&client);
    write(&server.root.join("t/a"), b"older");
    write(&server.root.join("t/d/other"), b"stays");
    let out = client.ok(["put", "-a", "--existing", "--json", "src/", "srv:t"]);
    assert_eq!(names(&server.root.join("t")), ["a", "d/other"]);
    assert_eq!(std::fs::read(server.root.join("t/a")).unwrap(), b"src/a");
    assert!(!server.root.join("t/node_modules").exists());
    let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["files"], &summary["skipped"]), (&1.into(), &4.into()), "{out}");
    // and back
    client.ok(["get", "-a", "--existing", "srv:t/", "src"]);
    assert!(!client.work().join("src/d/other").exists());
}

#[test]
fn times_within_the_window_are_the_same() {
    let server = Server::start();
    let client = server.client();
    let (here, there) = (client.work().join("f"), server.root.join("f"));
    write(&here, b"here");
    write(&there, b"over");
    modified(&here, 100_000);
    modified(&there, 102_000);
    client.ok(["put", "--modify-window=2", "f", "srv:"]);
    assert_eq!(std::fs::read(&there).unwrap(), b"over");
    client.ok(["put", "--modify-window", "1", "f", "srv:"]);
    assert_eq!(std::fs::read(&there).unwrap(), b"here");
}

#[test]
fn missing_directories_above_dest_are_made_if_asked_for() {
    let server = Server::start();
    let client = server.client();
    source(&client);
    client.ok(["put", "-a", "--mkpath", "--timeout=60", "src", "srv:x/y"]);
    client.ok(["put", "--mkpath", "src/a", "srv:p/q/b"]);
    client.ok(["put", "--mkpath", "src/a", "srv:m/n/"]);
    client.ok(["put", "-n", "--mkpath", "src/a", "src/c.log", "srv:x"]);
    assert!(server.root.join("x/y/src/a").is_file() && server.root.join("p/q/b").is_file());
    assert!(server.root.join("m/n/a").is_file());
    client.ok(["get", "--mkpath", "srv:p/q/b", "here/there/c"]);
    client.ok(["get", "-a", "--mkpath", "srv:x/y/src", "deep/er"]);
    assert!(client.work().join("here/there/c").is_file());
    assert!(client.work().join("deep/er/src/a").is_file());
}

#[test]
fn a_log_file_has_a_line_for_each_file() {
    let server = Server::start();
    let client = server.client();
    source(&client);
    write(&server.root.join("t/a/in/the/way"), b"x");
    client.ok(["put", "-aq", "--log-file=log", "src/d", "srv:"]);
    let failed = client.run(["put", "-aq", "--log-file", "log", "src/", "srv:t"]);
    assert_eq!(failed.code, 3, "{failed:?}");
    let log = std::fs::read_to_string(client.work().join("log")).unwrap();
    let has = |words: &[&str]| {
        let all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(all).count()
    };
    assert_eq!(has(&["src/d/b"]), 2, "{log}");
    assert_eq!(has(&["src/a: ", "it is a directory"]), 1, "{log}");
    assert_eq!(has(&["put: 1 file"]), 1, "{log}");
    assert!(
        log.lines().all(|line| line.len() > 20 && line.as_bytes()[4] == b'/'),
        "{log}"
    );
    client
        .run(["put", "--log-file=no/such/log", "src/a", "srv:"])
        .failed(8, &["no/such/log"]);
}

/// rsync's command lines as they are, with rsync's exit codes.
#[test]
fn command_lines_of_rsync_run_as_they_are() {
    let server = Server::start();
    let client = server.client();
    source(&client);
    let run = |line: &str| client.run(["rsync"].into_iter().chain(line.split(' ')));
    let code = |line: &str| run(line).code;
    assert_eq!(code("-avzP --delete --exclude node_modules src/ srv:dst/"), 0);
    assert_eq!(names(&server.root.join("dst")), [".git/config", "a", "c.log", "d/b"]);
    assert_eq!(code("-a srv:dst/ back"), 0);
    assert_eq!(code("-a --exclude=.git src/ here"), 0);
    assert_eq!(
        names(&client.work().join("here")),
        ["a", "c.log", "d/b", "node_modules/x.js"]
    );
    // the codes of rsync(1)
    run("-a --rsync-path=x src srv:").failed(1, &["--rsync-path", "no such option"]);
    // over ssh, if that is named: there is none
    run("-a -e no-such-ssh src srv:").failed(10, &["no-such-ssh", "-e"]);
    run("-a --info").failed(1, &["--info"]);
    run("srv:").failed(1, &["haul ls"]);
    assert_eq!(code("-a missing srv:dst"), 23);
    assert_eq!(code("-a src/a missing srv:dst"), 23);
    std::fs::create_dir(client.work().join("empty")).unwrap();
    assert_eq!(code("-a --delete empty/ srv:dst"), 25);
    run("-a src haul://127.0.0.1:1/x --accept-new --timeout=0").failed(10, &["127.0.0.1:1"]);
}

#[test]
fn itemized_changes_say_why_each_file_was_sent() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("src/new"), b"new");
    write(&client.work().join("src/size"), b"size");
    write(&client.work().join("src/same"), b"same");
    write(&server.root.join("t/size"), b"another size");
    write(&server.root.join("t/gone"), b"gone");
    let put = client.run(["put", "-ai", "--delete", "src/", "srv:t"]);
    assert_eq!(put.code, 0, "{put:?}");
    let mut lines: Vec<&str> = put.err.lines().filter(|line| !line.starts_with("put:")).collect();
    lines.sort_unstable();
    let expected = [
        "delete  srv:t/gone",
        "new     src/new",
        "new     src/same",
        "size    src/size",
    ];
    assert_eq!(lines, expected);
    let get = client.run(["get", "-a", "--json", "srv:t/", "back"]);
    assert!(
        get.events("file").iter().all(|event| event["difference"] == "new"),
        "{get:?}"
    );
    let again = client.run(["put", "-ai", "src/", "srv:t"]);
    assert!(!again.err.contains("src/"), "{again:?}");
}

#[test]
fn modes_are_changed_on_the_way() {
    let server = Server::start();
    let client = server.client();
    source(&client);
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    };
    let there = |path: &str| server.root.join(path);
    client.ok(["put", "-a", "--chmod=D750,F640", "src", "srv:"]);
    assert_eq!((mode(&there("src/d")), mode(&there("src/d/b"))), (0o750, 0o640));
    for line in [
        "get -a --chmod Dg-x,o=r --chmod=Fu+x srv:src back",
        "cp -a --chmod Dg-x,o=r --chmod=Fu+x src copy",
    ] {
        client.ok(line.split(' '));
    }
    for (dir, file) in [("back/src/d", 0o744), ("copy/src/d", 0o744)] {
        assert_eq!(mode(&client.work().join(dir)) & 0o17, 0o4, "{dir}");
        assert_eq!(mode(&client.work().join(dir).join("b")), file, "{dir}");
    }
    // a run that finds nothing to change sends nothing
    let again = client.run(["put", "-ai", "--chmod=D750,F640", "src", "srv:"]);
    assert!(again.code == 0 && again.err.contains("0 files"), "{again:?}");
    client
        .run(["put", "-a", "--chmod=F4755", "src", "srv:"])
        .failed(2, &["--chmod F4755", "never"]);
}
