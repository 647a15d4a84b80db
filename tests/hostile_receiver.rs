//! Servers that receive wrongly: a put fails with the right code.

use crate::support::script::{ScriptedServer, against};
use crate::support::tree::write;
use haul::net::wire::proto::{self, transfer_message};

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_vanishes_after_the_listing_fails_alone() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    write(&client.work().join("t/gone"), b"1234");
    let ended = against(
        &client,
        &["put", "-r", "--connections", "1", "t", &server.url("x")],
        async {
            let mut peer = server.logged_in().await;
            let (number, _) = peer.request().await;
            peer.reply(number, 150, None).await;
            let (mut file, mut ended) = (0, false);
            let mut dirs = Vec::new();
            while file == 0 || !ended {
                match peer.message().await {
                    Some(transfer_message::Body::Offers(offers)) => {
                        for offer in offers.offers.iter().filter(|o| !o.closes) {
                            if offer.kind == i32::from(proto::Kind::File) {
                                file = offer.number
                            } else {
                                dirs.push(offer.number)
                            }
                        }
                    }
                    Some(transfer_message::Body::End(_)) => ended = true,
                    other => panic!("{other:?}"),
                }
            }
            std::fs::remove_file(client.work().join("t/gone")).unwrap();
            let wants = vec![proto::Want {
                number: file,
                ..Default::default()
            }];
            peer.transfer(1, transfer_message::Body::Wants(proto::Wants { wants }))
                .await;
            match peer.message().await {
                Some(transfer_message::Body::Withdrawals(list)) => {
                    assert_eq!((list.withdrawals[0].number, list.withdrawals[0].code), (file, 550))
                }
                other => panic!("{other:?}"),
            }
            let settled = |number, outcome: proto::Outcome| proto::Result {
                number,
                outcome: outcome.into(),
                code: 550,
                ..Default::default()
            };
            let mut results = vec![settled(file, proto::Outcome::Failed)];
            results.extend(dirs.into_iter().map(|n| settled(n, proto::Outcome::Committed)));
            peer.transfer(1, transfer_message::Body::Results(proto::Results { results }))
                .await;
            peer.transfer(1, transfer_message::Body::Finished(proto::Finished::default()))
                .await;
            let _ = peer.message().await;
        },
    )
    .await;
    ended.failed(3, &["t/gone", "no such file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_settles_or_wants_nonsense_is_refused() {
    let nonsense = [
        transfer_message::Body::Wants(proto::Wants {
            wants: vec![proto::Want {
                number: 99,
                ..Default::default()
            }],
        }),
        transfer_message::Body::Wants(proto::Wants {
            wants: vec![proto::Want {
                number: 1,
                offset: u64::MAX,
                ..Default::default()
            }],
        }),
        transfer_message::Body::Results(proto::Results {
            results: vec![proto::Result {
                number: 99,
                outcome: 1,
                ..Default::default()
            }],
        }),
        transfer_message::Body::Results(proto::Results {
            results: vec![proto::Result {
                number: 1,
                outcome: 77,
                ..Default::default()
            }],
        }),
        transfer_message::Body::Finished(proto::Finished::default()),
        transfer_message::Body::Offers(proto::Offers::default()),
    ];
    for body in nonsense {
        let server = ScriptedServer::start().await;
        let client = server.client();
        write(&client.work().join("f"), b"x");
        let shown = format!("{body:?}");
        let ended =
            against(&client, &["put", "--connections", "1", "f", &server.url("x")], async {
                let mut peer = server.logged_in().await;
                let (number, _) = peer.request().await;
                peer.reply(number, 150, None).await;
                while !matches!(peer.message().await, Some(transfer_message::Body::End(_)) | None) {
                }
                peer.transfer(1, body).await;
                while peer.message().await.is_some() {}
            })
            .await;
        assert_eq!(ended.code, 1, "{shown}: {ended:?}");
        assert!(ended.err.contains("broke the protocol"), "{shown}: {ended:?}");
    }
}
