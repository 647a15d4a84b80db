//! Servers that speak the protocol wrongly: the client fails with the right code and writes
//! nothing.

use crate::support::script::{Scripted, ScriptedServer, against};
use crate::support::tree::write;
use haul::auth::Identity;
use haul::auth::invite::Invite;
use haul::chunk::digest::{chunk_digest, whole_digest};
use haul::net::data::carry::WriteFrames;
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::net::wire::proto::{self, request, transfer_message};
use std::io::Write;

async fn get_started(server: &ScriptedServer) -> Scripted {
    let mut client = server.logged_in().await;
    let (number, body) = client.request().await;
    assert!(matches!(body, request::Body::Get(_)), "{body:?}");
    client.reply(number, 150, None).await;
    client
}

fn offer(number: u64, parent: u64, name: &[u8], kind: proto::Kind) -> proto::Offer {
    proto::Offer {
        number,
        parent,
        name: name.to_vec(),
        kind: kind.into(),
        size: 4,
        mode: 0o755,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_were_not_asked_for_are_refused() {
    let dir = |number| offer(number, 0, b"", proto::Kind::Dir);
    let cases = [
        (
            "another source",
            vec![proto::Offer {
                source: 1,
                ..offer(1, 0, b"", proto::Kind::File)
            }],
        ),
        (
            "a name for the source itself",
            vec![offer(1, 0, b"evil", proto::Kind::File)],
        ),
        ("dots", vec![dir(1), offer(2, 1, b"..", proto::Kind::Dir)]),
        ("a path", vec![dir(1), offer(2, 1, b"../evil", proto::Kind::File)]),
        (
            "an absolute path",
            vec![dir(1), offer(2, 1, b"/tmp/evil", proto::Kind::File)],
        ),
    ];
    for (what, offers) in cases {
        let server = ScriptedServer::start().await;
        let client = server.client();
        let ended = against(&client, &["get", "-r", &server.url("asked/"), "got"], async {
            let mut peer = get_started(&server).await;
            peer.transfer(1, transfer_message::Body::Offers(proto::Offers { offers }))
                .await;
            while peer.message().await.is_some() {}
        })
        .await;
        ended.failed(1, &["broke the protocol"]);
        let found: Vec<_> = walkdir::WalkDir::new(client.dir.path())
            .into_iter()
            .flatten()
            .map(|e| e.path().to_path_buf())
            .collect();
        assert!(!found.iter().any(|p| p.ends_with("evil")), "{what}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_do_not_go_through_symlinks_that_the_server_sent() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    write(&client.work().join("home/keep"), b"x");
    let ended = against(&client, &["get", "-r", &server.url("asked/"), "got"], async {
        let mut peer = get_started(&server).await;
        let link = proto::Offer {
            target: b"../home".to_vec(),
            ..offer(2, 1, b"x", proto::Kind::Symlink)
        };
        let first = vec![offer(1, 0, b"", proto::Kind::Dir), link];
        peer.transfer(1, transfer_message::Body::Offers(proto::Offers { offers: first }))
            .await;
        // the symlink is there: now a directory of the same name, and a file in it
        while !matches!(peer.message().await, Some(transfer_message::Body::Results(_)) | None) {}
        let second = vec![
            offer(3, 1, b"x", proto::Kind::Dir),
            offer(4, 3, b"authorized_keys", proto::Kind::File),
        ];
        peer.transfer(1, transfer_message::Body::Offers(proto::Offers { offers: second }))
            .await;
        let closes = |number| proto::Offer {
            number,
            closes: true,
            ..Default::default()
        };
        peer.transfer(
            1,
            transfer_message::Body::Offers(proto::Offers {
                offers: vec![closes(3), closes(1)],
            }),
        )
        .await;
        peer.transfer(1, transfer_message::Body::End(proto::EndOfOffers {})).await;
        while peer.message().await.is_some() {}
    })
    .await;
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("symlink"), "{ended:?}");
    assert!(!client.work().join("home/authorized_keys").exists());
}

/// A `File` frame for file 1 of transfer 1.
fn frame(payload: &[u8]) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::File,
        transfer: 1,
        number: 1,
        length: payload.len() as u32,
        digest: whole_digest(payload),
        ..FrameHeader::bare(FrameKind::File)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_is_never_the_end_of_a_file() {
    for cut_after in [0_u64, 1, 2] {
        let server = ScriptedServer::start().await;
        let client = server.client();
        write(&client.work().join("got"), b"old");
        let ended = against(
            &client,
            &["get", "--connections", "1", &server.url("asked/"), "got"],
            async {
                let mut peer = get_started(&server).await;
                let (_reader, mut writer) = server.accept_data(None).await.unwrap();
                let big = proto::Offer {
                    size: 3 << 20,
                    ..offer(1, 0, b"", proto::Kind::File)
                };
                peer.transfer(
                    1,
                    transfer_message::Body::Offers(proto::Offers { offers: vec![big] }),
                )
                .await;
                while !matches!(peer.message().await, Some(transfer_message::Body::Wants(_)) | None)
                {
                }
                let mib = vec![7; 1 << 20];
                for i in 0..cut_after {
                    let header = FrameHeader {
                        kind: FrameKind::Chunk,
                        offset: i << 20,
                        digest: chunk_digest(i << 20, &mib),
                        ..frame(&mib)
                    };
                    writer.write(&header, &mib).await.unwrap();
                }
                writer.flush().await.unwrap();
                // gone without close_notify, with everything else
            },
        )
        .await;
        assert_eq!(ended.code, 4, "{cut_after}: {ended:?}");
        assert_eq!(std::fs::read(client.work().join("got")).unwrap(), b"old");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_content_is_refused() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let ended = against(
        &client,
        &["get", "--connections", "1", &server.url("asked/"), "got"],
        async {
            let mut peer = get_started(&server).await;
            let (_reader, mut writer) = server.accept_data(None).await.unwrap();
            peer.transfer(
                1,
                transfer_message::Body::Offers(proto::Offers {
                    offers: vec![offer(1, 0, b"", proto::Kind::File)],
                }),
            )
            .await;
            while !matches!(peer.message().await, Some(transfer_message::Body::Wants(_)) | None) {}
            writer
                .write(
                    &FrameHeader {
                        digest: [0; 32],
                        ..frame(b"evil")
                    },
                    b"evil",
                )
                .await
                .unwrap();
            writer.flush().await.unwrap();
            peer.transfer(1, transfer_message::Body::End(proto::EndOfOffers {})).await;
            while peer.message().await.is_some() {}
        },
    )
    .await;
    ended.failed(1, &["got", "not what its header says"]);
    assert!(!client.work().join("got").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_connection_with_another_key_ends_it_all() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    write(&client.work().join("secret"), b"x");
    let other = tempfile::tempdir().unwrap();
    let other = Identity::load_or_create(&other.path().join("key")).unwrap();
    let ended = against(&client, &["put", "secret", &server.url("x")], async {
        let mut peer = server.logged_in().await;
        let (number, _) = peer.request().await;
        peer.reply(number, 150, None).await;
        // a connection that the client did not need after all is closed before it says anything
        let data = async {
            loop {
                assert!(server.accept_data(Some(&other)).await.is_none(), "the client went on");
            }
        };
        let control = async { while peer.message().await.is_some() {} };
        tokio::select! {
            () = data => {}
            () = control => {}
        }
    })
    .await;
    ended.failed(6, &["not the pinned"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_fails_before_a_login_is_sent() {
    let (server, impostor) = (ScriptedServer::start().await, ScriptedServer::start().await);
    let client = server.client();
    let known = std::fs::read_to_string(client.config().join("known_servers")).unwrap();
    let moved =
        known.replace(&server.address.port().to_string(), &impostor.address.port().to_string());
    std::fs::write(client.config().join("known_servers"), moved).unwrap();
    let asked = tokio::spawn(async move {
        let url = impostor.url("");
        let accept = tokio::spawn(async move { impostor.try_accept().await });
        (url, accept)
    });
    let (url, accept) = asked.await.unwrap();
    let ended = against(&client, &["ls", &url], async {}).await;
    ended.failed(6, &["not the pinned", "known_servers"]);
    assert!(!accept.await.unwrap(), "the handshake was completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_codes_and_evil_texts_are_survived() {
    for (code, exit) in [(299, 1), (599, 1), (0, 1), (u32::MAX, 1), (550, 8)] {
        let server = ScriptedServer::start().await;
        let client = server.client();
        let ended = against(&client, &["stat", &server.url("x")], async {
            let mut peer = server.logged_in().await;
            let (number, _) = peer.request().await;
            let text = "\x1b[31mred\r\n\u{202e}".to_string();
            peer.send(proto::control_message::Body::Reply(proto::Reply {
                number,
                code,
                text,
                body: None,
            }))
            .await;
            let _ = peer.message().await;
        })
        .await;
        assert_eq!(ended.code, exit, "{code}: {ended:?}");
        assert!(!ended.err.contains('\x1b') && !ended.err.contains('\u{202e}'), "{ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
}

/// The server's name for the user goes into the settings, where a line of its own would redirect a
/// later password.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_writes_nothing_into_the_settings() {
    for user in [
        "kim\nbank host=evil.example port=1 user=kim",
        "kim host=evil.example",
        "\x1b]0;kim\x07",
        "",
    ] {
        let server = ScriptedServer::start().await;
        let client = server.client();
        let invite = Invite::new(server.fingerprint()).unwrap();
        let mut login =
            client.spawn_with_input(["login", "--name", "nas", &server.address.to_string()]);
        writeln!(login.child.stdin.take().unwrap(), "{}", invite.code()).unwrap();
        let mut peer = server.accept().await;
        let (number, _) = peer.request().await;
        let reply = proto::EnrollReply { user: user.into() };
        peer.reply(number, 200, Some(proto::reply::Body::Enroll(reply))).await;
        let serving = tokio::spawn(async move {
            // a client that believes it logs in now
            while peer.message().await.is_some() {}
            drop(peer);
            server.logged_in().await
        });
        let ended = tokio::task::spawn_blocking(|| login.end()).await.unwrap();
        serving.abort();
        ended.failed(1, &["broke the protocol", "expected a user's name"]);
        assert!(!ended.err.contains('\x1b'), "{ended:?}");
        assert!(!client.config().join("servers").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_does_not_end_takes_no_memory() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let ls = client.spawn(["ls", &server.url("dir/")]);
    let mut peer = server.logged_in().await;
    let (number, _) = peer.request().await;
    let dir = proto::Entry {
        kind: proto::Kind::Dir.into(),
        ..Default::default()
    };
    peer.reply(number, 213, Some(proto::reply::Body::Entry(dir))).await;
    let pages = 1500;
    for page in 0..pages {
        let (number, body) = peer.request().await;
        assert!(matches!(body, request::Body::List(_)), "{body:?}");
        let entries = (0..512).map(|n| proto::Entry {
            name: format!("entry-{page:05}-{n:03}").into_bytes(),
            kind: proto::Kind::File.into(),
            ..Default::default()
        });
        let list = proto::ListReply {
            entries: entries.collect(),
            cookie: if page + 1 < pages { b"more".to_vec() } else { Vec::new() },
        };
        if page + 1 == pages {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", ls.child.id())).unwrap();
            let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
            let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!(peak < 150_000, "{peak} kB");
        }
        peer.reply(number, 213, Some(proto::reply::Body::List(list))).await;
    }
    let (number, body) = peer.request().await;
    assert!(matches!(body, request::Body::Quit(_)), "{body:?}");
    peer.reply(number, 221, None).await;
    let ended = tokio::task::spawn_blocking(move || ls.end()).await.unwrap();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(ended.out.lines().count(), pages * 512);
}
