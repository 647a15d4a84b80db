//! find, du, cat, chmod, ln, touch, rm -i -v, and mv with several sources.

use crate::support::Server;
use crate::support::terminal::Terminal;
use crate::support::tree::{set_mode, set_mtime, write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn find_tests_are_those_of_find() {
    let server = Server::start();
    let client = server.client();
    for (name, size) in [("a.TXT", 10), ("d/b.txt", 3000), ("d/e/c.log", 0), (".h/x.txt", 1)] {
        write(&server.root.join(name), &vec![0; size]);
    }
    symlink("/etc", server.root.join("out")).unwrap();
    set_mtime(&server.root.join("d/b.txt"), 1_000_000_000);
    let find = |arguments: &str| {
        let mut command = vec!["find"];
        command.extend(arguments.split(' '));
        let out = client.ok(command);
        let mut lines: Vec<String> = out.lines().map(str::to_string).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(find("srv: -name *.txt"), "srv:.h/x.txt srv:d/b.txt");
    assert_eq!(find("srv: -iname *.TxT -maxdepth 1"), "srv:a.TXT");
    assert_eq!(find("srv: -type d"), "srv: srv:.h srv:d srv:d/e");
    assert_eq!(find("srv: -type l"), "srv:out");
    assert_eq!(find("srv: -size +2k"), "srv:d/b.txt");
    assert_eq!(find("srv: -size 0 -type f"), "srv:d/e/c.log");
    assert_eq!(find("srv: -mtime +7"), "srv:d/b.txt");
    assert_eq!(find("srv: -type f -mtime -1"), "srv:.h/x.txt srv:a.TXT srv:d/e/c.log");
    assert_eq!(find("srv:/ -mindepth 2 -name c*"), "srv:/d/e/c.log");
    assert_eq!(find("srv: -type f -newer srv:d/b.txt").split(' ').count(), 3);
    assert_eq!(client.ok(["find", "srv:d", "-name", "*.log", "-print0"]), "srv:d/e/c.log\0");
    let json = client.ok(["find", "srv:d", "-name", "b.txt", "--json"]);
    assert!(json.contains("\"path\":\"d/b.txt\""), "{json}");
    client.run(["find", "srv:none", "-name", "x"]).failed(8, &["no such file"]);
    assert_eq!(client.run(["find", "srv:", "-size", "big"]).code, 2);
    assert_eq!(client.run(["find", "srv:", "-exec", "x"]).code, 2);
}

#[test]
fn du_adds_up_what_is_in_directories() {
    let server = Server::start();
    let client = server.client();
    for (name, size) in [("a", 10), ("d/b", 3000), ("d/e/c", 7)] {
        write(&server.root.join(name), &vec![0; size]);
    }
    symlink("/etc", server.root.join("out")).unwrap();
    assert_eq!(client.ok(["du", "srv:"]), "7\tsrv:d/e\n3007\tsrv:d\n3017\tsrv:\n");
    assert_eq!(client.ok(["du", "-s", "srv:d", "srv:a"]), "3007\tsrv:d\n10\tsrv:a\n");
    assert_eq!(
        client.ok(["du", "-h", "-d", "1", "srv:d"]),
        "7 B\tsrv:d/e\n2.94 KiB\tsrv:d\n"
    );
    assert!(client.ok(["du", "-a", "srv:d"]).contains("3000\tsrv:d/b\n"));
    let json = client.ok(["du", "-s", "--json", "srv:"]);
    assert_eq!(json, "{\"files\":4,\"path\":\"\",\"size\":3017}\n");
}

/// More directories than are listed at a time, and pages of a directory, each entry once.
#[test]
fn a_walk_visits_each_entry_once() {
    let server = Server::start();
    let client = server.client();
    for n in 0..60 {
        write(&server.root.join(format!("d/{n}/e/{n}")), b"1");
    }
    for n in 0..1500 {
        write(&server.root.join(format!("w/{n}")), b"1");
    }
    assert_eq!(client.ok(["du", "-s", "srv:"]), "1560\tsrv:\n");
    let out = client.ok(["find", "srv:", "-type", "f"]);
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 1560);
}

#[test]
fn cat_prints_files_in_order_and_fails_alone() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("a"), b"one\n");
    write(&server.root.join("b"), &vec![b'x'; 3 << 20]);
    let ended = client.run(["cat", "srv:a", "srv:none", "srv:b"]);
    assert_eq!(ended.code, 3, "{}", ended.err);
    assert_eq!(ended.bytes.len(), 4 + (3 << 20));
    assert!(ended.bytes.starts_with(b"one\nxxx"));
    assert!(ended.err.contains("none"), "{}", ended.err);
}

#[test]
fn chmod_changes_modes_and_follows_no_link() {
    let server = Server::start();
    let client = server.client();
    let outside = server.dir.path().join("outside");
    for file in [server.root.join("d/f"), server.root.join("d/x"), outside.clone()] {
        write(&file, b"1");
        set_mode(&file, 0o644);
    }
    set_mode(&server.root.join("d/x"), 0o744);
    symlink(&outside, server.root.join("d/link")).unwrap();
    client.ok(["chmod", "640", "srv:d/f"]);
    assert_eq!(mode(&server.root.join("d/f")), 0o640);
    client.ok(["chmod", "u+x,go-r", "srv:d/f", "srv:d/x"]);
    assert_eq!(mode(&server.root.join("d/f")), 0o700);
    client.ok(["chmod", "-x", "srv:d/f"]);
    assert_eq!(mode(&server.root.join("d/f")), 0o600);
    client.ok(["chmod", "-R", "a+rX,go-w", "srv:d"]);
    assert_eq!(mode(&server.root.join("d/f")), 0o644);
    assert_eq!(mode(&server.root.join("d/x")), 0o755);
    client.ok(["chmod", "-R", "700", "srv:d"]);
    assert_eq!(
        (mode(&server.root.join("d")), mode(&server.root.join("d/f"))),
        (0o700, 0o700)
    );
    assert_eq!(mode(&outside), 0o644);
    client.run(["chmod", "600", "srv:d/link"]).failed(1, &["symlink"]);
    client.run(["chmod", "4755", "srv:d/f"]).failed(2, &["never sets set-uid"]);
    client.run(["chmod", "u+q", "srv:d/f"]).failed(2, &["expected a mode"]);
    client.run(["chmod", "600", "srv:none"]).failed(8, &["no such file"]);
    // a mode that shuts its owner out, and back
    client.ok(["chmod", "-R", "0", "srv:d"]);
    assert_eq!((mode(&server.root.join("d")), mode(&server.root.join("d/f"))), (0, 0));
    client.ok(["chmod", "-R", "u+rwX", "srv:d"]);
    assert_eq!(
        (mode(&server.root.join("d")), mode(&server.root.join("d/f"))),
        (0o700, 0o600)
    );
}

#[test]
fn ln_makes_symlinks_and_touch_sets_times() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("d/a"), b"1");
    client.ok(["ln", "-s", "d/a", "srv:l"]);
    assert_eq!(std::fs::read_link(server.root.join("l")).unwrap(), Path::new("d/a"));
    client.run(["ln", "-s", "x", "srv:l"]).failed(1, &["exists"]);
    client.ok(["ln", "-sf", "x", "srv:l"]);
    assert_eq!(std::fs::read_link(server.root.join("l")).unwrap(), Path::new("x"));
    client.ok(["ln", "-s", "../l", "srv:d"]);
    assert_eq!(std::fs::read_link(server.root.join("d/l")).unwrap(), Path::new("../l"));
    client
        .run(["ln", "-s", "srv:d/a", "srv:m"])
        .failed(2, &["not a link's text"]);
    client.run(["ln", "-s", "a", "srv:none/"]).failed(8, &["no such directory"]);
    assert_eq!(client.run(["ln", "a", "srv:m"]).code, 2, "no hard links");

    client.ok(["touch", "srv:new", "-d", "@77"]);
    let new = std::fs::metadata(server.root.join("new")).unwrap();
    assert_eq!((new.len(), new.mtime(), new.mode() & 0o777), (0, 77, 0o644));
    client.ok(["touch", "srv:new", "srv:d/a"]);
    assert!(std::fs::metadata(server.root.join("new")).unwrap().mtime() > 1_000_000_000);
    assert_eq!(std::fs::read(server.root.join("d/a")).unwrap(), b"1");
    client.ok(["touch", "-c", "srv:none"]);
    assert!(!server.root.join("none").exists());
    symlink("/etc/hostname", server.root.join("out")).unwrap();
    client.run(["touch", "srv:out"]).failed(1, &["symlink"]);
    client.run(["touch", "srv:none/x"]).failed(8, &["no such file"]);
}

#[test]
fn mv_takes_several_sources_and_replaces_nothing_with_n() {
    let server = Server::start();
    let client = server.client();
    for name in ["a", "b", "c", "d/a"] {
        write(&server.root.join(name), name.as_bytes());
    }
    client.ok(["mv", "-n", "srv:a", "srv:d"]);
    client.ok(["mv", "-n", "srv:a", "srv:b"]);
    assert_eq!(std::fs::read(server.root.join("d/a")).unwrap(), b"d/a");
    assert_eq!(std::fs::read(server.root.join("b")).unwrap(), b"b");
    let out = client.ok(["mv", "-nv", "srv:a", "srv:b", "srv:d"]);
    assert_eq!(out, "renamed srv:b -> srv:d\n");
    let onto_a_file = client.run(["mv", "srv:a", "srv:d/b", "srv:c"]);
    assert_eq!(
        (onto_a_file.code, onto_a_file.err.lines().count()),
        (1, 2),
        "{onto_a_file:?}"
    );
    client.ok(["mv", "srv:a", "srv:c", "srv:d"]);
    assert_eq!(std::fs::read(server.root.join("d/a")).unwrap(), b"a");
    client.run(["mv", "-n", "srv:none", "srv:x"]).failed(8, &["no such file"]);
    client.run(["mv", "-i", "srv:d/a", "srv:d/b"]).failed(2, &["terminal"]);
}

#[test]
fn rm_says_what_it_removed_and_asks_at_a_terminal_only() {
    let server = Server::start();
    let client = server.client();
    for name in ["a", "d/x", "d/y"] {
        write(&server.root.join(name), b"1");
    }
    assert_eq!(client.ok(["rm", "-v", "srv:a"]), "removed srv:a\n");
    client.run(["rm", "-i", "srv:d/x"]).failed(2, &["terminal"]);
    let mut terminal = Terminal::start(client.command(["rm", "-rvi", "srv:d"]), 80);
    terminal.expect("search directory srv:d? ");
    terminal.enter("y\r");
    for answer in ["y\r", "n\r"] {
        terminal.expect("remove srv:d/");
        terminal.expect("? ");
        terminal.enter(answer);
    }
    let (code, text) = terminal.end_echoing();
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("remove directory"), "something in it stays: {text}");
    assert_eq!(std::fs::read_dir(server.root.join("d")).unwrap().count(), 1, "{text}");
}

#[test]
fn users_without_the_right_are_refused() {
    let server = Server::start();
    server.user(&["add", "reader", "--read-only"], "p");
    server.user(&["add", "writer", "--write-only"], "p");
    write(&server.root.join("a"), b"1");
    let (reader, writer) = (server.client_of("reader"), server.client_of("writer"));
    for command in [
        &["chmod", "600", "srv:a"][..],
        &["touch", "srv:a"],
        &["ln", "-s", "a", "srv:b"],
        &["mv", "-n", "srv:a", "srv:b"],
        &["rm", "srv:*"],
    ] {
        reader.run(command).failed(8, &["may only read"]);
        writer.run(command).failed(8, &["may only put"]);
    }
    for command in [&["ls", "srv:*"][..], &["find", "srv:"], &["du", "srv:"], &["cat", "srv:a"]] {
        reader.ok(command);
        writer.run(command).failed(8, &["may only put"]);
    }
}
