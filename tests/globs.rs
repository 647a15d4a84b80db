//! Shell patterns in remote paths: what matches, what never does, and servers that lie about it.

use crate::support::Server;
use crate::support::script::{ScriptedServer, against};
use crate::support::tree::write;
use haul::net::wire::proto::{self, reply, request};

fn sample(server: &Server) {
    for name in ["a.txt", "b.txt", "c.log", "d/e.txt", "d/f/g.txt", "d/.h/i.txt", ".j.txt"] {
        write(&server.root.join(name), b"12345");
    }
    let outside = server.dir.path().join("outside");
    write(&outside.join("secret.txt"), b"x");
    std::os::unix::fs::symlink(&outside, server.root.join("out")).unwrap();
    std::os::unix::fs::symlink("d", server.root.join("in")).unwrap();
}

#[test]
fn commands_take_patterns_and_literal_names_win() {
    let server = Server::start();
    let client = server.client();
    sample(&server);
    let ls = |pattern: &str| client.ok(["ls", "-d", pattern]);
    assert_eq!(ls("srv:*.txt"), "a.txt\nb.txt\n");
    assert_eq!(ls("srv:**/*.txt"), "a.txt\nb.txt\nd/e.txt\nd/f/g.txt\n");
    assert_eq!(ls("srv:.*.txt"), ".j.txt\n");
    assert_eq!(ls("srv:{c,[ab]}.???"), "a.txt\nb.txt\nc.log\n");
    assert_eq!(ls("srv:in/*.txt"), "in/e.txt\n");
    assert_eq!(client.ok(["cat", "srv:?.txt"]), "1234512345");
    client.ok(["get", "-q", "srv:*.txt", "."]);
    assert!(client.work().join("b.txt").exists() && !client.work().join("c.log").exists());
    assert_eq!(client.ok(["stat", "srv:[ab].txt"]).matches("path ").count(), 2);
    write(&server.root.join("*.txt"), b"literal");
    assert_eq!(client.ok(["cat", "srv:*.txt"]), "literal");
    client.ok(["rm", "srv:*.txt"]);
    assert!(server.root.join("a.txt").exists(), "the literal name only");
    client.ok(["mv", "srv:*.txt", "srv:d"]);
    assert!(server.root.join("d/a.txt").exists() && !server.root.join("b.txt").exists());
    client.ok(["mkdir", "srv:x*"]);
    assert!(server.root.join("x*").is_dir(), "a new name is no pattern");
}

#[test]
fn what_matches_nothing_fails_and_nothing_outside_matches() {
    let server = Server::start();
    let client = server.client();
    sample(&server);
    for pattern in ["srv:*.pdf", "srv:out/*", "srv:*/secret.txt", "srv:**/secret.txt", "srv:z/*"] {
        client.run(["rm", "-r", pattern]).failed(8, &["no match"]);
        client.run(["ls", pattern]).failed(8, &["no match"]);
    }
    client.run(["rm", "srv:{../outside/*,a.txt}"]).failed(1, &["not allowed"]);
    client.run(["rm", "-r", "srv:{..,x}/*"]).failed(1, &["not allowed"]);
    client
        .run(["ls", &format!("srv:{}", "{a,b}".repeat(9))])
        .failed(1, &["alternatives"]);
    assert!(server.dir.path().join("outside/secret.txt").exists());
    client.ok(["rm", "-r", "srv:d/**", "srv:.*"]);
    assert!(server.root.join("d/.h/i.txt").exists(), "a hidden name needs its dot");
    assert!(!server.root.join("d/e.txt").exists() && !server.root.join(".j.txt").exists());
}

/// More matches than an answer has, each of them once and in order.
#[test]
fn thousands_of_matches_come_in_pages() {
    let server = Server::start();
    let client = server.client();
    for n in 0..9000 {
        write(&server.root.join(format!("d{}/{n:05}", n % 3)), b"");
    }
    let out = client.ok(["ls", "-d", "srv:d*/*"]);
    let mut expected: Vec<String> = (0..9000).map(|n| format!("d{}/{n:05}", n % 3)).collect();
    expected.sort();
    assert_eq!(out.lines().map(str::to_string).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_names_what_does_not_match_is_refused() {
    for (evil, cookie) in [
        (&b"../x.txt"[..], &b""[..]),
        (b"/etc/x.txt", b""),
        (b".bashrc", b""),
        (b"d/x.txt", b""),
        (b"x.txt\0", b""),
        (b"", b""),
        // out of order: the same path once more, without end
        (b"a.txt", b"more"),
    ] {
        let server = ScriptedServer::start().await;
        let client = server.client();
        let ended = against(&client, &["get", &server.url("*.txt"), "."], async {
            let mut peer = server.logged_in().await;
            for _ in 0..if cookie.is_empty() { 1 } else { 2 } {
                let (number, body) = peer.request().await;
                assert!(matches!(body, request::Body::Glob(_)), "{body:?}");
                let answer = proto::GlobReply {
                    paths: vec![evil.to_vec()],
                    cookie: cookie.to_vec(),
                };
                peer.reply(number, 213, Some(reply::Body::Glob(answer))).await;
            }
            while peer.message().await.is_some() {}
        })
        .await;
        ended.failed(1, &["broke the protocol"]);
        assert_eq!(std::fs::read_dir(client.work()).unwrap().count(), 0);
    }
}

/// A server that does not know patterns: the path is a name.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_gets_the_name() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let ended = against(&client, &["rm", &server.url("a[1]")], async {
        let mut peer = server.logged_in().await;
        let (number, _) = peer.request().await;
        peer.reply(number, 502, None).await;
        let (number, body) = peer.request().await;
        assert!(matches!(body, request::Body::Remove(r) if r.path == b"a[1]"));
        peer.reply(number, 250, None).await;
        let (number, _) = peer.request().await;
        peer.reply(number, 221, None).await;
    })
    .await;
    assert_eq!(ended.code, 0, "{ended:?}");
}

/// The numbers of these requests and their fields never change.
#[test]
fn the_bytes_of_the_requests_are_frozen() {
    use prost::Message;
    use proto::control_message::Body;
    let hex = |body: Body| {
        let bytes = proto::ControlMessage { body: Some(body) }.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let (path, target) = (b"a".to_vec(), b"b".to_vec());
    let requests = [
        request::Body::Glob(proto::Glob {
            pattern: b"a*".to_vec(),
            cookie: b"c".to_vec(),
            limit: 2,
        }),
        request::Body::SetAttributes(proto::SetAttributes {
            path: path.clone(),
            mode: Some(0o644),
            mtime: Some(5),
            mtime_nanos: 7,
            now: true,
            make: true,
        }),
        request::Body::MakeSymlink(proto::MakeSymlink {
            path: path.clone(),
            target: target.clone(),
            replace: true,
        }),
        request::Body::MoveNew(proto::MoveNew {
            from: path.clone(),
            to: target,
            directory: true,
        }),
    ];
    let found = requests.map(|body| {
        hex(Body::Request(proto::Request {
            number: 1,
            body: Some(body),
        }))
    });
    assert_eq!(
        found,
        [
            "0a0e0801920109".to_string() + "0a02612a" + "120163" + "1802",
            "0a1308019a010e".to_string() + "0a0161" + "10a403" + "180a" + "2007" + "2801" + "3001",
            "0a0d0801a20108".to_string() + "0a0161" + "120162" + "1801",
            "0a0d0801aa0108".to_string() + "0a0161" + "120162" + "1801",
        ]
    );
    let reply = proto::Reply {
        number: 1,
        code: 213,
        body: Some(reply::Body::Glob(proto::GlobReply {
            paths: vec![path],
            cookie: b"c".to_vec(),
        })),
        ..Default::default()
    };
    assert_eq!(
        hex(Body::Reply(reply)),
        "120e080110d501920106".to_string() + "0a0161" + "120163"
    );
}
