//! `haul ls` as ls: columns, colours, orders, several directories, and directories without end.

use crate::support::script::ScriptedServer;
use crate::support::terminal::Terminal;
use crate::support::tree::{set_mode, set_mtime, write};
use crate::support::{Client, Server};
use haul::net::wire::proto::{self, reply, request};

/// Three files of different age and size, a directory, a link and a hidden name.
fn sample(server: &Server) {
    for (name, size, seconds) in [("a", 3000, 1), ("b", 5, 3), ("c", 70, 2), (".h", 1, 9)] {
        write(&server.root.join(name), &vec![0; size]);
        set_mtime(&server.root.join(name), seconds * 1_000_000_000);
    }
    write(&server.root.join("d/x"), b"1");
    write(&server.root.join("e/y"), b"1");
    for dir in ["d", "e"] {
        set_mtime(&server.root.join(dir), 0);
    }
    set_mode(&server.root.join("b"), 0o755);
    std::os::unix::fs::symlink("a", server.root.join("l")).unwrap();
}

fn lines(client: &Client, options: &str) -> String {
    client.ok(["ls", options, "srv:"]).lines().collect::<Vec<_>>().join(" ")
}

#[test]
fn orders_and_clusters_are_those_of_ls() {
    let server = Server::start();
    let client = server.client();
    sample(&server);
    let l = server.root.join("l");
    assert!(
        std::process::Command::new("touch")
            .args(["-hd@0"])
            .arg(l)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(lines(&client, "-1"), "a b c d e l");
    assert_eq!(lines(&client, "-t"), "b c a d e l");
    assert_eq!(lines(&client, "-tr"), "l e d a c b");
    assert_eq!(lines(&client, "-S"), "a c b d e l");
    assert_eq!(lines(&client, "-A"), ".h a b c d e l");
    assert_eq!(lines(&client, "--sort=time"), "b c a d e l");
    assert_eq!(lines(&client, "-F"), "a b* c d/ e/ l@");
    assert_eq!(lines(&client, "-d"), "/");
    assert_eq!(client.ok(["ls", "--sort=none", "srv:"]).lines().count(), 6);
    let long = client.ok(["ls", "-ltr", "srv:"]);
    let ends: Vec<&str> = long.lines().map(|l| l.rsplit(' ').next().unwrap()).collect();
    assert_eq!(ends, ["a", "e", "d", "a", "c", "b"], "{long}");
    let widths: Vec<usize> = long.lines().map(|line| line.find(':').unwrap()).collect();
    assert!(widths.iter().all(|at| *at == widths[0]), "aligned: {long}");
    assert!(client.ok(["ls", "-lah", "srv:"]).contains("2.93 KiB "));
    assert!(client.ok(["ls", "--help"]).contains("Usage: haul ls"));
}

#[test]
fn several_directories_have_headings_behind_the_files() {
    let server = Server::start();
    let client = server.client();
    sample(&server);
    assert_eq!(
        client.ok(["ls", "srv:e", "srv:b", "srv:d"]),
        "b\n\nsrv:d:\nx\n\nsrv:e:\ny\n"
    );
    assert_eq!(client.ok(["ls", "srv:[de]"]), "srv:d:\nx\n\nsrv:e:\ny\n");
    assert_eq!(client.ok(["ls", "-d", "srv:d", "srv:a"]), "a\nd\n");
    let partial = client.run(["ls", "srv:none", "srv:d"]);
    assert_eq!((partial.code, partial.out.as_str()), (3, "srv:d:\nx\n"), "{partial:?}");
}

fn at_terminal(client: &Client, arguments: &[&str], columns: u16, env: &[(&str, &str)]) -> String {
    let mut command = client.command(arguments);
    command.envs(env.iter().copied());
    let (code, text) = Terminal::start(command, columns).end_echoing();
    assert_eq!(code, Some(0), "{text}");
    text.replace("\r\n", "\n")
}

#[test]
fn a_terminal_gets_columns_colours_and_slashes() {
    let server = Server::start();
    let client = server.client();
    for n in 0..6 {
        write(&server.root.join(format!("file{n}")), b"");
    }
    std::fs::create_dir(server.root.join("dir")).unwrap();
    let plain = [("NO_COLOR", "1")];
    assert_eq!(
        at_terminal(&client, &["ls", "srv:"], 24, &plain),
        "dir/   file2  file5\nfile0  file3\nfile1  file4\n"
    );
    assert_eq!(at_terminal(&client, &["ls", "srv:"], 200, &plain).lines().count(), 1);
    assert_eq!(at_terminal(&client, &["ls", "-1", "srv:"], 200, &plain).lines().count(), 7);
    let colored = [("LS_COLORS", "di=01;35:*0=31")];
    let shown = at_terminal(&client, &["ls", "srv:"], 200, &colored);
    assert!(shown.contains("\u{1b}[1;35mdir\u{1b}[0m/"), "{shown:?}");
    assert!(shown.contains("\u{1b}[31mfile0\u{1b}[0m"), "{shown:?}");
    assert_eq!(client.ok(["ls", "srv:"]).lines().next(), Some("dir"), "piped: as it is");
    assert!(client.ok(["ls", "--color", "srv:"]).contains('\u{1b}'));
}

/// Beyond the bound there is a line, and the server's order.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_too_large_to_sort_is_listed_unsorted_and_says_so() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let ls = client.spawn(["ls", "-t", &server.url("dir/")]);
    let mut peer = server.logged_in().await;
    let (number, _) = peer.request().await;
    let dir = proto::Entry {
        kind: proto::Kind::Dir.into(),
        ..Default::default()
    };
    peer.reply(number, 213, Some(reply::Body::Entry(dir))).await;
    let pages = 200;
    for page in 0..pages {
        let (number, body) = peer.request().await;
        assert!(matches!(body, request::Body::List(_)), "{body:?}");
        let entries = (0..512).map(|n| proto::Entry {
            name: format!("{:06}", 999_999 - page * 512 - n).into_bytes(),
            kind: proto::Kind::File.into(),
            ..Default::default()
        });
        let list = proto::ListReply {
            entries: entries.collect(),
            cookie: if page + 1 < pages { b"more".to_vec() } else { Vec::new() },
        };
        peer.reply(number, 213, Some(reply::Body::List(list))).await;
    }
    let (number, _) = peer.request().await;
    peer.reply(number, 221, None).await;
    let ended = tokio::task::spawn_blocking(move || ls.end()).await.unwrap();
    ended.failed(0, &["more than 100000 entries", "not sorted"]);
    assert_eq!(ended.out.lines().count(), pages * 512);
    assert_eq!(ended.out.lines().next(), Some("999999"), "the server's order");
}
