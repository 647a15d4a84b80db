//! `haul cp` from one server to another that sends by itself: on a ticket for that one put.

use crate::support::messages::put;
use crate::support::proxy::Proxy;
use crate::support::script::ScriptedClient;
use crate::support::tree::{bytes, length, sample, snapshot, staged, write};
use crate::support::{Client, Ended, Server, until};
use haul::net::wire::proto::{self, control_message::Body, request};
use prost::Message;
use std::os::unix::fs::MetadataExt;

const MIB: usize = 1 << 20;

/// A server that may send to another one, and a client that is logged in at both: at the first
/// through a proxy.
struct Two {
    from: Server,
    to: Server,
    at_from: Proxy,
    client: Client,
}

impl Two {
    fn start() -> Two {
        let to = Server::start();
        let named = to.address.to_string();
        Two::between(Server::with(&["--send-to", &named]), to)
    }

    fn between(from: Server, to: Server) -> Two {
        let at_from = Proxy::recording(from.address);
        let client = from.client_at(at_from.address);
        to.second_login(&client, to.address);
        Two {
            from,
            to,
            at_from,
            client,
        }
    }

    /// With a large file, and the command that copies it slowly.
    fn slow() -> (Two, [&'static str; 5]) {
        let two = Two::start();
        write(&two.from.root.join("big"), &bytes(1, 24 * MIB));
        (two, ["cp", "--bwlimit=4M", "--json", "srv:big", "vps:copy"])
    }

    fn under_way(&self) {
        let partial = staged(&self.to.root.join("copy"));
        until("some of it is there", || length(&partial) > 5 * MIB as u64);
    }

    fn is_copied(&self) {
        assert!(std::fs::read(self.to.root.join("copy")).unwrap() == bytes(1, 24 * MIB));
        assert_eq!(std::fs::read_dir(&self.to.root).unwrap().count(), 1, "no partial file");
    }
}

/// The client said that the data goes through it.
fn is_relayed(ended: &Ended) -> bool {
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.err.contains("through")
}

#[test]
fn the_one_server_sends_to_the_other_by_itself() {
    let mut two = Two::start();
    let (from, to) = (two.from.root.join("from"), two.to.root.join("to"));
    sample(&from);
    write(&from.join("large"), &bytes(3, 20 * MIB + 7));
    write(&to.join("old"), b"gone");
    let before = snapshot(&from);
    let line = "cp -aH --delete --chown=root:root --wait=9s --json srv:from/ vps:to";
    let first = two.client.run(line.split(' '));
    assert!(!is_relayed(&first) && first.err.is_empty(), "{first:?}");
    assert!(snapshot(&to) == before, "content, modes, times and links, and nothing else");
    let files = first.events("file");
    let large = files.iter().find(|file| file["path"] == "srv:from/large").unwrap();
    let hash = blake3::hash(&bytes(3, 20 * MIB + 7)).to_hex().to_string();
    assert_eq!(large["hash"], hash);
    assert_eq!(first.events("deleted")[0]["path"], "vps:to/old");
    assert!(two.at_from.recorded().len() < 400_000, "{}", two.at_from.recorded().len());
    let second = two.client.run(["cp", "-aH", "srv:from/", "vps:to"]);
    assert!(!is_relayed(&second) && second.err.contains("cp: 0 files"), "{second:?}");
    // filters and dry runs too
    let line = "cp -an --exclude many --exclude sizes srv:from vps:new";
    let plan = two.client.run(line.split(' '));
    assert!(!is_relayed(&plan) && plan.err.contains("would copy"), "{plan:?}");
    assert!(!two.to.root.join("new").exists());
    let line = "cp -a --chmod=D700,F600 srv:from/modes vps:modes";
    assert!(!is_relayed(&two.client.run(line.split(' '))));
    let mode = |path: &str| two.to.root.join(path).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("modes/modes"), mode("modes/modes/script")), (0o700, 0o600));
    let log = two.to.log();
    assert!(log.contains("by=\"ticket\"") && log.contains("logout"), "{log}");
}

#[test]
fn where_it_cannot_the_data_goes_through_the_client_which_says_so() {
    let (to, other) = (Server::start(), Server::start());
    let named = other.address.to_string();
    let two = Two::between(Server::with(&["--send-to", &named]), to);
    write(&two.from.root.join("f"), b"f");
    let relayed = two.client.run(["cp", "srv:f", "vps:f"]);
    assert!(is_relayed(&relayed), "{relayed:?}");
    assert!(relayed.err.contains("operator does not let"), "{relayed:?}");
    assert_eq!(std::fs::read(two.to.root.join("f")).unwrap(), b"f");
    // where the operator has allowed nothing, nothing is tried
    let two = Two::between(Server::start(), Server::start());
    write(&two.from.root.join("f"), b"f");
    let relayed = two.client.run(["cp", "srv:f", "vps:f"]);
    assert!(is_relayed(&relayed), "{relayed:?}");
    assert!(!relayed.err.contains("operator"), "{relayed:?}");
}

#[test]
fn what_the_other_server_refuses_is_refused() {
    let two = Two::start();
    write(&two.from.root.join("f"), b"f");
    let missing = two.client.run(["cp", "srv:f", "vps:none/f"]);
    assert!(
        missing.code == 8 && missing.err.contains("no such directory"),
        "{missing:?}"
    );
    let owner = two.client.run(["cp", "--chown=nobody-at-all", "srv:f", "vps:g"]);
    assert!(owner.code == 2 && owner.err.contains("nobody-at-all"), "{owner:?}");
    two.to.user(&["set", "kim", "--read-only"], "");
    let denied = two.client.run(["cp", "srv:f", "vps:g"]);
    assert!(denied.code == 8 && denied.err.contains("may only read"), "{denied:?}");
    assert_eq!(std::fs::read_dir(&two.to.root).unwrap().count(), 0);
}

#[test]
fn a_killed_client_ends_the_transfer_and_the_next_one_resumes() {
    let (two, line) = Two::slow();
    let copying = two.client.spawn(line);
    two.under_way();
    copying.kill();
    // at once: both servers let go of what the dead client has begun
    let ended = two.client.run(["cp", "--json", "srv:big", "vps:copy"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let resumed = ended.events("resumed").pop().unwrap_or_else(|| panic!("{ended:?}"));
    assert!(
        resumed["path"] == "srv:big" && resumed["offset"].as_u64().unwrap() > 0,
        "{resumed}"
    );
    two.is_copied();
}

#[test]
fn a_restart_of_either_server_is_survived() {
    for restarts_sender in [true, false] {
        let (mut two, line) = Two::slow();
        let copying = two.client.spawn(line);
        two.under_way();
        let server = if restarts_sender { &mut two.from } else { &mut two.to };
        server.kill();
        server.restart();
        let ended = copying.end();
        assert_eq!(ended.code, 0, "{ended:?}");
        two.is_copied();
    }
}

#[test]
fn a_transfer_ends_with_the_rights_of_its_user() {
    let (two, line) = Two::slow();
    let copying = two.client.spawn(line);
    two.under_way();
    two.to.user(&["set", "kim", "--read-only"], "");
    let ended = copying.end();
    assert_eq!(ended.code, 8, "{ended:?}");
    assert!(!two.to.root.join("copy").exists());
}

fn the_put(transfer: u32) -> proto::Put {
    match put(transfer, b"x") {
        request::Body::Put(put) => put,
        other => panic!("{other:?}"),
    }
}

async fn ticket(client: &mut ScriptedClient, number: u64) -> Vec<u8> {
    let put = Some(the_put(0));
    let make = request::Body::MakeTicket(proto::MakeTicket {
        put: put.map(Box::new),
    });
    let reply = client.ask(number, make).await.unwrap();
    match reply.body {
        Some(proto::reply::Body::Ticket(reply)) => reply.ticket,
        other => panic!("{other:?}"),
    }
}

/// Logs in with a ticket; returns the code.
async fn redeem(client: &mut ScriptedClient, ticket: &[u8]) -> u32 {
    let login = proto::Login {
        session: client.session.to_vec(),
        window: 4 << 20,
        ticket: ticket.to_vec(),
        ..Default::default()
    };
    client.ask(1, request::Body::Login(login)).await.unwrap().code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_for_one_put_and_nothing_else() {
    let server = Server::start();
    write(&server.root.join("f"), b"precious");
    let mut owner = ScriptedClient::connect(&server).await;
    owner.login().await;
    let secret = ticket(&mut owner, 2).await;
    let stranger = server.client();
    let connect = || ScriptedClient::connect_as(&server, &stranger, *b"another stranger");
    let mut other = connect().await;
    assert_eq!(redeem(&mut other, &[7; 32]).await, 530);
    assert_eq!(redeem(&mut other, &secret).await, 230);
    let path = b"f".to_vec();
    for (number, body) in (2..).zip([
        request::Body::Stat(proto::Stat {
            path: path.clone(),
            hash: false,
        }),
        request::Body::List(proto::List::default()),
        request::Body::Remove(proto::Remove {
            path: path.clone(),
            recursive: true,
        }),
        request::Body::Get(proto::Get {
            transfer: 1,
            sources: vec![path.clone()],
            ..Default::default()
        }),
        request::Body::MakeTicket(proto::MakeTicket {
            put: Some(Box::new(the_put(0))),
        }),
        request::Body::Put(proto::Put {
            destination: path.clone(),
            ..the_put(2)
        }),
        request::Body::Put(proto::Put {
            options: Some(proto::Options {
                checksum: true,
                ..the_put(3).options.unwrap()
            }),
            ..the_put(3)
        }),
    ]) {
        let reply = other.ask(number, body.clone()).await.unwrap();
        assert_eq!(reply.code, 554, "{body:?}");
    }
    assert_eq!(other.ask(20, request::Body::Put(the_put(4))).await.unwrap().code, 150);
    assert_eq!(other.ask(21, request::Body::Put(the_put(5))).await.unwrap().code, 554);
    let mut late = connect().await;
    assert_eq!(redeem(&mut late, &secret).await, 530, "it is used up");
    // as many as may wait
    let mut codes = Vec::new();
    for number in 3..21 {
        let put = Some(the_put(0));
        let make = request::Body::MakeTicket(proto::MakeTicket {
            put: put.map(Box::new),
        });
        codes.push(owner.ask(number, make).await.unwrap().code);
    }
    assert_eq!((codes[15], codes[16]), (213, 421), "{codes:?}");
    assert_eq!(std::fs::read(server.root.join("f")).unwrap(), b"precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_makes_no_server_connect_to_where_its_operator_has_not_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let named = elsewhere.local_addr().unwrap().to_string();
    for server in [Server::start(), Server::with(&["--send-to", &named])] {
        write(&server.root.join("f"), b"f");
        let mut client = ScriptedClient::connect(&server).await;
        client.login().await;
        let copy = proto::Copy {
            transfer: 1,
            sources: vec![b"f".to_vec()],
            names: vec![b"f".to_vec()],
            destination: b"x".to_vec(),
            ..Default::default()
        };
        let send = proto::SendTo {
            copy: Some(Box::new(copy.clone())),
            host: "127.0.0.1".into(),
            port: port.into(),
            key: server.fingerprint.clone(),
            ticket: vec![7; 32],
        };
        for (number, host) in (2..).zip(["127.0.0.1", "localhost", "127.1", "", "[::1]"]) {
            let mut send = proto::SendTo {
                host: host.into(),
                ..send.clone()
            };
            send.copy.as_mut().unwrap().transfer = number;
            let reply = client.ask(number.into(), request::Body::SendTo(send)).await.unwrap();
            assert_eq!(reply.code, 502, "{host}: {reply:?}");
        }
        server.still_serves();
    }
    assert!(listener.accept().is_err(), "a server has connected");
}

/// The numbers of these messages and their fields never change.
#[test]
fn the_bytes_of_the_messages_are_frozen() {
    let hex = |body: Body| {
        let bytes = proto::ControlMessage { body: Some(body) }.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let request = |body| {
        Body::Request(proto::Request {
            number: 2,
            body: Some(body),
        })
    };
    let put = proto::Put {
        destination: b"b".to_vec(),
        ..Default::default()
    };
    let make = request::Body::MakeTicket(proto::MakeTicket {
        put: Some(Box::new(put)),
    });
    let copy = proto::Copy {
        transfer: 1,
        ..Default::default()
    };
    let send = request::Body::SendTo(proto::SendTo {
        copy: Some(Box::new(copy)),
        host: "h".into(),
        port: 4285,
        key: "k".into(),
        ticket: b"t".to_vec(),
    });
    let login = request::Body::Login(proto::Login {
        ticket: b"t".to_vec(),
        ..Default::default()
    });
    let reply = Body::Reply(proto::Reply {
        number: 2,
        body: Some(proto::reply::Body::Ticket(proto::TicketReply {
            ticket: b"t".to_vec(),
        })),
        ..Default::default()
    });
    assert_eq!(hex(request(make)), "0a0a0802f202050a03120162");
    assert_eq!(hex(request(send)), "0a150802fa02100a02080112016818bd2122016b2a0174");
    assert_eq!(hex(request(login)), "0a07080212033a0174");
    assert_eq!(hex(reply), "12080802f202030a0174");
}

/// A server that sends by itself sends what is chosen, and nothing else.
#[test]
fn what_is_chosen_is_sent_on_a_ticket() {
    let two = Two::start();
    for path in ["s/sub/f", "s/other", "top"] {
        write(&two.from.root.join(path), b"x");
    }
    let ended = two.client.run(["cp", "-aR", "srv:s/./sub", "vps:dest"]);
    assert!(ended.code == 0 && !ended.err.contains("through"), "{ended:?}");
    assert!(two.to.root.join("dest/sub/f").is_file());
    assert_eq!(std::fs::read_dir(two.to.root.join("dest")).unwrap().count(), 1);
}
