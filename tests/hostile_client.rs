//! Clients that speak the protocol wrongly: the server refuses, stays up, and does not disturb
//! others.

use crate::support::Server;
use crate::support::messages::{ended, offer, offers, put};
use crate::support::script::{SESSION, ScriptedClient};
use crate::support::tree::write;
use haul::chunk::digest::whole_digest;
use haul::net::data::carry::{ReadFrames, WriteFrames};
use haul::net::wire::frame::{Attach, FrameHeader, FrameKind};
use haul::net::wire::proto::{self, control_message::Body, request, transfer_message};
use haul::store::Name;
use haul::store::partial_names::PartialNames;
use prost::Message;
use std::io::{Read, Write};
use std::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_elsewhere_are_refused_when_decoded() {
    let server = Server::start();
    write(&server.dir.path().join("outside/f"), b"precious");
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let mut number = 1;
    for path in [
        &b"../outside"[..],
        b"a/../../outside",
        b"..",
        b"//etc",
        b"a//b",
        b"a\0b",
        &PartialNames::of(&Name::parse(b"x").unwrap()).file,
        &[b'n'; 300],
    ] {
        let path = path.to_vec();
        let bodies = [
            request::Body::Stat(proto::Stat {
                path: path.clone(),
                hash: true,
            }),
            request::Body::List(proto::List {
                path: path.clone(),
                ..Default::default()
            }),
            request::Body::MakeDirectory(proto::MakeDirectory {
                path: path.clone(),
                parents: true,
            }),
            request::Body::Remove(proto::Remove {
                path: path.clone(),
                recursive: true,
            }),
            request::Body::Rename(proto::Rename {
                from: path.clone(),
                to: b"x".to_vec(),
                directory: true,
            }),
            request::Body::Rename(proto::Rename {
                from: b"x".to_vec(),
                to: path.clone(),
                directory: true,
            }),
            request::Body::Space(proto::Space { path: path.clone() }),
            request::Body::ChangeDirectory(proto::ChangeDirectory { path: path.clone() }),
            put(number as u32 + 1, &path),
        ];
        for body in bodies {
            number += 1;
            let reply = client.ask(number, body.clone()).await.unwrap();
            assert_eq!(reply.code, 553, "{body:?}: {reply:?}");
        }
    }
    assert_eq!(std::fs::read(server.dir.path().join("outside/f")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 0);
}

fn copy(transfer: u32, source: &[u8], destination: &[u8]) -> proto::Copy {
    proto::Copy {
        transfer,
        sources: vec![source.to_vec()],
        names: vec![b"f".to_vec()],
        destination: destination.to_vec(),
        each: true,
        options: Some(proto::Options {
            recursive: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What a copy reports of its first entry.
async fn reported(client: &mut ScriptedClient) -> proto::CopyEvent {
    loop {
        let message = client.receive().await;
        if let Body::Transfer(message) = message.unwrap_or_else(|| panic!("the server hung up"))
            && let Some(transfer_message::Body::Report(report)) = message.body
            && let Some(event) = report.events.into_iter().next()
        {
            return event;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_within_the_server_are_checked_like_puts_and_gets() {
    let server = Server::start();
    write(&server.dir.path().join("outside/f"), b"precious");
    write(&server.root.join("f"), b"f");
    std::os::unix::fs::symlink("../outside", server.root.join("out")).unwrap();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let (mut number, own) = (1, PartialNames::of(&Name::parse(b"x").unwrap()).file);
    let mut transfer = 0;
    for path in [&b"../outside"[..], b"a/../f", b"..", b"//etc", b"a//b", b"a\0b", &own] {
        (number, transfer) = (number + 2, transfer + 2);
        let to = request::Body::Copy(copy(transfer, b"f", path));
        assert_eq!(client.ask(number, to).await.unwrap().code, 553, "{path:?}");
        // a source that is none fails alone
        let from = request::Body::Copy(copy(transfer + 1, path, b"g"));
        assert_eq!(client.ask(number + 1, from).await.unwrap().code, 150, "{path:?}");
        let event = reported(&mut client).await;
        assert_eq!((event.kind(), event.code), (proto::CopyEventKind::Failed, 553), "{path:?}");
        assert_eq!(ended(&mut client).await, Some(0), "{path:?}");
    }
    let out = request::Body::Copy(copy(90, b"out/f", b"g"));
    assert_eq!(client.ask(90, out).await.unwrap().code, 150);
    assert_eq!(reported(&mut client).await.kind(), proto::CopyEventKind::Failed);
    assert_eq!(ended(&mut client).await, Some(0));
    let mut wrong = [(); 7].map(|()| copy(91, b"f", b"g"));
    wrong[0].sources.clear();
    wrong[1].names.clear();
    wrong[2].sources.push(b"f".to_vec());
    wrong[3].chmod = vec!["u+x".into(); 65];
    wrong[4].chmod = vec!["u+s".into()];
    wrong[5].chmod = vec!["u".repeat(2000)];
    wrong[6].options = Some(proto::Options {
        if_version: Some("v".repeat(300)),
        ..Default::default()
    });
    for (index, wrong) in (91..).zip(wrong) {
        let shown = format!("{wrong:?}");
        let code = client.ask(index, request::Body::Copy(wrong)).await.unwrap().code;
        assert_eq!(code, 501, "{}", &shown[..shown.len().min(200)]);
    }
    // more than a message may have: the session is over
    let mut many = copy(99, b"f", b"g");
    many.sources = vec![b"f".to_vec(); 5000];
    assert!(client.ask(99, request::Body::Copy(many)).await.is_none());
    assert_eq!(std::fs::read(server.dir.path().join("outside/f")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 2);
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_cancelled_ignored_or_too_many_end_in_order() {
    let server = Server::with(&["--session-grace", "0"]);
    write(&server.root.join("big"), &vec![7; 64 << 20]);
    for n in 0..3000 {
        write(&server.root.join(format!("many/{n:04}-{}", "n".repeat(200))), b"n");
    }
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let limit = request::Body::Limit(proto::Limit { rate: 1 << 20 });
    assert_eq!(client.ask(2, limit).await.unwrap().code, 200);
    let one = request::Body::Copy(copy(1, b"big", b"cancelled"));
    assert_eq!(client.ask(3, one).await.unwrap().code, 150);
    let cancel = proto::Cancel {
        code: 426,
        text: "enough".into(),
    };
    client.transfer(1, transfer_message::Body::Cancel(cancel)).await;
    assert_eq!(ended(&mut client).await, Some(426));
    assert!(!server.root.join("cancelled").exists());
    // a report that was not sent, and messages of another kind of transfer
    for (transfer, body) in [
        (2, transfer_message::Body::Taken(proto::ReportTaken {})),
        (3, transfer_message::Body::End(proto::EndOfOffers {})),
    ] {
        let one = request::Body::Copy(copy(transfer, b"big", b"confused"));
        assert_eq!(client.ask(2 + u64::from(transfer), one).await.unwrap().code, 150);
        client.transfer(transfer, body.clone()).await;
        client.transfer(transfer, body).await;
        assert_eq!(ended(&mut client).await, Some(500));
    }
    // one that takes no report does not get ever more of them, and does not fill the memory
    let ignored = request::Body::Copy(copy(4, b"many", b"ignored"));
    assert_eq!(client.ask(6, ignored).await.unwrap().code, 150);
    let mut reports = 0;
    let quiet = std::time::Duration::from_secs(2);
    while let Ok(Some(message)) = tokio::time::timeout(quiet, client.receive()).await {
        reports += u32::from(matches!(message, Body::Transfer(_)));
        assert!(reports <= 4, "{message:?}");
    }
    assert!(reports > 0);
    // as many as a session may have at once
    for (number, code) in [(5, 150), (6, 150), (7, 150), (8, 421)] {
        let more = request::Body::Copy(copy(number, b"big", format!("more{number}").as_bytes()));
        assert_eq!(
            client.ask(u64::from(number) + 2, more).await.unwrap().code,
            code,
            "{number}"
        );
    }
    assert_eq!(client.ask(20, request::Body::Quit(proto::Quit {})).await.unwrap().code, 221);
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn offered_names_that_are_none_end_the_transfer() {
    let server = Server::with(&["--session-grace", "0"]);
    for name in [&b".."[..], b"a/b", b"/etc", b"", b".", b"a\0"] {
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        assert_eq!(client.ask(2, put(1, b"t")).await.unwrap().code, 150);
        let dir = offer(1, 0, b"", proto::Kind::Dir, 0);
        let bad = offer(2, 1, name, proto::Kind::Symlink, 0);
        client.transfer(1, offers(vec![dir, bad])).await;
        assert_eq!(ended(&mut client).await, Some(500), "{name:?}");
    }
    // sources of no request, numbers that go back, closed directories, too many at once
    let file = |n, parent| offer(n, parent, b"x", proto::Kind::File, 1);
    let nonsense = [
        vec![proto::Offer {
            source: 7,
            ..offer(1, 0, b"", proto::Kind::File, 1)
        }],
        vec![offer(5, 0, b"", proto::Kind::Dir, 0), file(5, 5)],
        vec![file(1, 9)],
        vec![proto::Offer {
            closes: true,
            number: 3,
            ..Default::default()
        }],
        vec![proto::Offer {
            mtime_nanos: u32::MAX,
            ..offer(1, 0, b"", proto::Kind::File, 1)
        }],
        vec![proto::Offer {
            hash: vec![1],
            ..offer(1, 0, b"", proto::Kind::File, 1)
        }],
    ];
    for batch in nonsense {
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        assert_eq!(client.ask(2, put(1, b"t2")).await.unwrap().code, 150);
        let shown = format!("{:?}", &batch[..1]);
        client.transfer(1, offers(batch)).await;
        assert_eq!(ended(&mut client).await, Some(500), "{shown}");
    }
    // more than a message may have: it is not even decoded, and the session is over
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    assert_eq!(client.ask(2, put(1, b"t3")).await.unwrap().code, 150);
    let many = (2..2000).map(|n| file(n, 1));
    let batch = std::iter::once(offer(1, 0, b"", proto::Kind::Dir, 0)).chain(many);
    client.transfer(1, offers(batch.collect())).await;
    assert_eq!(ended(&mut client).await, None);
    server.still_serves();
}

/// Chosen paths and names of ignore files of a client that does not check them itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_get_chooses_stays_beneath_its_source_and_is_bounded() {
    let server = Server::start();
    std::fs::write(server.dir.path().join("outside"), b"precious").unwrap();
    std::fs::create_dir(server.root.join("d")).unwrap();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let get = |transfer: u32, chosen: &[u8], ignore_file: &[u8]| {
        request::Body::Get(proto::Get {
            transfer,
            sources: vec![b"d".to_vec()],
            chosen: vec![chosen.to_vec()],
            options: Some(proto::Options {
                recursive: true,
                view: Some(Box::new(proto::View {
                    ignore_files: vec![ignore_file.to_vec()],
                    ..Default::default()
                })),
                ..Default::default()
            }),
            ..Default::default()
        })
    };
    let (long, name) = (b"a\0".repeat(40 << 10), &b".gitignore"[..]);
    let wrong = [
        (&b"../../outside\0"[..], name),
        (b"/etc/passwd\0", name),
        (b"a/../b\0", name),
        (b"a", name),
        (&long, name),
        (b"a\0", b"../.gitignore"),
        (b"a\0", b""),
    ];
    for (number, (chosen, ignore_file)) in (2..).zip(wrong) {
        let reply = client.ask(number.into(), get(number, chosen, ignore_file)).await.unwrap();
        assert!((500..600).contains(&reply.code), "{reply:?}");
    }
    assert_eq!(client.ask(20, get(20, b"a/b\0", name)).await.unwrap().code, 150);
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_wrong_proofs_get_nothing() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    assert_eq!(client.ask(2, put(1, b"f")).await.unwrap().code, 150);
    client
        .transfer(1, offers(vec![offer(1, 0, b"", proto::Kind::File, 3)]))
        .await;

    let right = client.attach(1);
    let mut wrong = right;
    wrong.proof[0] ^= 1;
    assert!(client.data(&wrong).await.is_none(), "a wrong proof");
    assert!(
        client.data(&Attach { n: 2, ..right }).await.is_none(),
        "a proof for another number"
    );
    assert!(client.data(&right).await.is_some());
    assert!(client.data(&right).await.is_none(), "a replayed proof");

    // data frames without any proof
    let (mut reader, mut writer) = client.data_unattached().await;
    let header = FrameHeader {
        kind: FrameKind::File,
        transfer: 1,
        number: 1,
        length: 3,
        digest: whole_digest(b"bad"),
        ..FrameHeader::bare(FrameKind::File)
    };
    let _ = writer.write(&header, b"bad").await;
    let _ = writer.flush().await;
    assert!(!matches!(reader.next().await, Ok(Some(_))));

    // the transfer under way was not disturbed
    let (_reader, mut writer) = client.data(&client.attach(3)).await.unwrap();
    let header = FrameHeader {
        digest: whole_digest(b"yes"),
        ..header
    };
    writer.write(&header, b"yes").await.unwrap();
    writer.flush().await.unwrap();
    client.transfer(1, transfer_message::Body::End(proto::EndOfOffers {})).await;
    assert_eq!(ended(&mut client).await, Some(0));
    assert_eq!(std::fs::read(server.root.join("f")).unwrap(), b"yes");

    // after the logout the session's proofs are worth nothing
    assert_eq!(client.ask(3, request::Body::Quit(proto::Quit {})).await.unwrap().code, 221);
    assert!(client.receive().await.is_none());
    assert!(client.data(&client.attach(4)).await.is_none());
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_and_headers_are_bounded() {
    let server = Server::start();
    for raw in [&[0xff; 4][..], &[0, 0x10, 0, 1], &[0, 0, 0, 3, 0xff, 0xff, 0xff]] {
        let mut client = ScriptedClient::connect(&server).await;
        client.raw(raw).await;
        assert!(client.receive().await.is_none(), "before the login: {raw:?}");
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        client.raw(raw).await;
        assert!(client.receive().await.is_none(), "after the login: {raw:?}");
    }
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let (mut reader, mut writer) = client.data(&client.attach(1)).await.unwrap();
    let mut header = FrameHeader::bare(FrameKind::Goodbye).encode();
    header[0] = 77;
    let _ = writer.write_raw(&header).await;
    assert!(!matches!(reader.next().await, Ok(Some(_))));
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_cut_at_every_length_is_survived() {
    let server = Server::start();
    let message = proto::ControlMessage {
        body: Some(Body::Request(proto::Request {
            number: 2,
            body: Some(put(9, b"some/where")),
        })),
    };
    let whole = message.encode_to_vec();
    for n in (0..whole.len()).step_by(5) {
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        let mut bytes = (n as u32).to_be_bytes().to_vec();
        bytes.extend(&whole[..n]);
        client.raw(&bytes).await;
        // it is answered, or the session ends; the next one gets in only when this one is gone
        client.ask(99, request::Body::Quit(proto::Quit {})).await;
        while client.receive().await.is_some() {}
    }
    server.still_serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_requests_get_502_and_repeated_ones_the_first_answer() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    // before the login
    client.raw(&[0, 0, 0, 6, 0x0a, 0x04, 0x08, 0x01, 0x9a, 0x06]).await;
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    // field 99 of Request, which does not exist
    let mut request = proto::Request {
        number: 2,
        body: None,
    }
    .encode_to_vec();
    request.extend([0x9a, 0x06, 0x02, 0x08, 0x01]);
    let mut message = vec![0x0a, request.len() as u8];
    message.extend(request);
    let mut framed = (message.len() as u32).to_be_bytes().to_vec();
    framed.extend(message);
    client.raw(&framed).await;
    match client.receive().await {
        Some(Body::Reply(reply)) => assert_eq!((reply.number, reply.code), (2, 502)),
        other => panic!("{other:?}"),
    }
    let mkdir = || {
        request::Body::MakeDirectory(proto::MakeDirectory {
            path: b"d".to_vec(),
            parents: false,
        })
    };
    assert_eq!(client.ask(3, mkdir()).await.unwrap().code, 250);
    assert_eq!(client.ask(3, mkdir()).await.unwrap().code, 250, "the same request again");
    assert_eq!(client.ask(4, mkdir()).await.unwrap().code, 555, "another one");
    let cd = request::Body::ChangeDirectory(proto::ChangeDirectory {
        path: b"d".to_vec(),
    });
    assert_eq!(client.ask(5, cd).await.unwrap().code, 250);
    assert_eq!(
        client.ask(6, mkdir()).await.unwrap().code,
        250,
        "relative to the working directory"
    );
    assert!(server.root.join("d/d").is_dir());
    // a second login, a reply from a client
    let login = proto::Login {
        session: SESSION.to_vec(),
        ..Default::default()
    };
    assert_eq!(client.ask(7, request::Body::Login(login)).await.unwrap().code, 503);
    client.send(Body::Reply(proto::Reply::default())).await;
    assert!(client.receive().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_before_the_login() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    for (number, body) in [
        (
            1,
            request::Body::MakeDirectory(proto::MakeDirectory {
                path: b"d".to_vec(),
                parents: false,
            }),
        ),
        (2, put(1, b"f")),
        (3, request::Body::List(proto::List::default())),
    ] {
        assert_eq!(client.ask(number, body).await.unwrap().code, 530);
    }
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 0);
    // three wrong logins are enough for one connection
    for number in 4..=6 {
        let login = proto::Login {
            session: SESSION.to_vec(),
            user: "nobody".into(),
            ..Default::default()
        };
        let reply = client.ask(number, request::Body::Login(login)).await.unwrap();
        assert_eq!(reply.code, 530);
    }
    assert!(client.receive().await.is_none());
}

/// TLS with something wrong about it is closed before a request is read.
#[tokio::test(flavor = "multi_thread")]
async fn only_tls_13_with_our_alpn() {
    use haul::net::tls::config::{client_config, server_name};
    use haul::net::tls::pin::Pin;
    let server = Server::start();
    for alpn in [&b"h2"[..], b"haul/2", b""] {
        let config = client_config(alpn, &Pin::new(None), None).unwrap();
        let mut config = (*config).clone();
        if alpn.is_empty() {
            config.alpn_protocols.clear();
        }
        let tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        assert!(connector.connect(server_name(), tcp).await.is_err(), "{alpn:?}");
    }
    // a ClientHello of TLS 1.2, plain text, and nothing at all
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    for bytes in [&hello[..], b"GET / HTTP/1.1\r\n\r\n", b"STARTTLS\r\n"] {
        let mut tcp = TcpStream::connect(server.address).unwrap();
        tcp.write_all(bytes).unwrap();
        // the server may have closed the connection by now
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        assert!(
            answer.first().is_none_or(|kind| *kind == 0x15),
            "an alert at most: {answer:?}"
        );
    }
    server.still_serves();
}
