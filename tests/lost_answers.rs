//! Answers that are lost on their way: a request has its effect once, or its outcome is reported as
//! unknown.

use crate::support::proxy::{Proxy, Rules, Which};
use crate::support::script::{SESSION, ScriptedClient, ScriptedServer};
use crate::support::tree::{bytes, write};
use crate::support::{Server, until};
use haul::net::wire::frame::{Attach, ROLE_CONTROL};
use haul::net::wire::proto::{self, control_message::Body, reply, request};
use ring::hmac;

const MIB: usize = 1 << 20;

/// The reply of the server to this re-attachment.
async fn reattach(
    first: &ScriptedClient,
    n: u32,
    received: u64,
    key: &hmac::Key,
) -> (ScriptedClient, proto::Reply) {
    let mut again = ScriptedClient::open(first.address, first.fingerprint, None).await;
    let proof = hmac::sign(key, &Attach::signed(ROLE_CONTROL, &SESSION, n));
    let body = request::Body::Reattach(proto::Reattach {
        session: SESSION.to_vec(),
        n,
        proof: proof.as_ref().to_vec(),
        received,
    });
    let reply = again.ask(0, body).await.unwrap();
    (again, reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_its_effect_once_whatever_is_lost() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let mkdir = || {
        let path = b"d".to_vec();
        request::Body::MakeDirectory(proto::MakeDirectory {
            path,
            parents: false,
        })
    };
    let request = |number| {
        Body::Request(proto::Request {
            number,
            body: Some(mkdir()),
        })
    };
    // the reply is lost with the connection
    client.send(request(2)).await;
    until("it is done", || server.root.join("d").exists());
    let (mut again, reply) = reattach(&client, 100, 1, &client.key).await;
    let Some(reply::Body::Reattach(reattached)) = reply.body else {
        panic!("{reply:?}")
    };
    assert_eq!((reply.code, reattached.received), (250, 2));
    match again.receive().await {
        Some(Body::Reply(reply)) => assert_eq!((reply.number, reply.code), (2, 250)),
        other => panic!("{other:?}"),
    }
    // and a retry gets the same answer, though the directory is there
    again.send(request(2)).await;
    match again.receive().await {
        Some(Body::Reply(reply)) => assert_eq!((reply.number, reply.code), (2, 250)),
        other => panic!("{other:?}"),
    }
    let stranger = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
    for (n, key) in [(100, &client.key), (101, &stranger)] {
        let (_, reply) = reattach(&client, n, 1, key).await;
        assert_eq!(reply.code, 430, "a proof that was used, and a wrong one");
    }
    let noop = again.ask(3, request::Body::Noop(proto::Noop::default())).await.unwrap();
    assert_eq!(noop.code, 200, "the session was not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_known_is_reported_as_unknown() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let url = server.url("d");
    let run = tokio::task::spawn_blocking(move || client.run(["mkdir", &url]));
    let mut peer = server.logged_in().await;
    let (_, body) = peer.request().await;
    assert!(matches!(body, request::Body::MakeDirectory(_)));
    drop(peer);
    let mut next = server.accept().await;
    let (number, body) = next.request().await;
    assert!(matches!(body, request::Body::Reattach(_)), "{body:?}");
    next.reply(number, 430, None).await;
    let ended = run.await.unwrap();
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.err.contains("outcome unknown"), "{ended:?}");
}

#[test]
fn a_commit_whose_acknowledgement_was_lost_with_the_server_is_recognised() {
    let mut server = Server::start();
    let rules = Rules {
        rate: Some(2 * MIB),
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, rules);
    let client = server.client_at(proxy.address);
    write(&client.work().join("f"), &bytes(3, 6 * MIB));
    let put = client.spawn(["put", "--connections=1", "--if-version", "none", "f", "srv:f"]);
    until("some of it is on its way", || proxy.sent() > MIB);
    proxy.silence(Which::Control);
    until("it is committed", || server.root.join("f").exists());
    server.kill();
    server.restart();
    proxy.heal();
    proxy.cut_now(Which::All);
    let ended = put.end();
    ended.retried();
    assert!(ended.err.contains("1 unchanged"), "{ended:?}");
    // another writer's file of that name is not taken for this one
    client.run(["put", "--if-version", "none", "f", "srv:f"]).failed(7, &["f"]);
}
