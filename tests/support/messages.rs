//! The messages that scripted peers send most, and those that they wait for.

use super::script::ScriptedClient;
use haul::net::wire::proto::{self, control_message::Body, request, transfer_message};

pub fn put(transfer: u32, destination: &[u8]) -> request::Body {
    request::Body::Put(proto::Put {
        transfer,
        destination: destination.to_vec(),
        directory: false,
        names: vec![b"f".to_vec()],
        source_ids: Vec::new(),
        if_missing: proto::IfMissing::Name.into(),
        options: Some(proto::Options {
            durability: proto::Durability::Volatile.into(),
            recursive: true,
            ..Default::default()
        }),
    })
}

pub fn offer(number: u64, parent: u64, name: &[u8], kind: proto::Kind, size: u64) -> proto::Offer {
    proto::Offer {
        number,
        parent,
        name: name.to_vec(),
        kind: kind.into(),
        size,
        mode: 0o755,
        ..Default::default()
    }
}

pub fn offers(offers: Vec<proto::Offer>) -> transfer_message::Body {
    transfer_message::Body::Offers(proto::Offers { offers })
}

pub fn get(transfer: u32, source: &[u8]) -> request::Body {
    request::Body::Get(proto::Get {
        transfer,
        sources: vec![source.to_vec()],
        ..Default::default()
    })
}

/// All of an offer is wanted.
pub fn want(number: u64) -> transfer_message::Body {
    let want = proto::Want {
        number,
        ..Default::default()
    };
    transfer_message::Body::Wants(proto::Wants { wants: vec![want] })
}

/// Waits for a message of a transfer.
async fn until<T>(
    client: &mut ScriptedClient,
    pick: impl Fn(transfer_message::Body) -> Option<T>,
) -> T {
    loop {
        if let Body::Transfer(message) = client.receive().await.expect("the server hung up")
            && let Some(found) = message.body.and_then(&pick)
        {
            return found;
        }
    }
}

/// Waits for an offer.
pub async fn offered(client: &mut ScriptedClient) {
    until(client, |body| {
        matches!(body, transfer_message::Body::Offers(_)).then_some(())
    })
    .await;
}

/// Waits for a want.
pub async fn wanted(client: &mut ScriptedClient) {
    until(client, |body| {
        matches!(body, transfer_message::Body::Wants(_)).then_some(())
    })
    .await;
}

/// How an offer ended.
pub async fn result(client: &mut ScriptedClient) -> proto::Result {
    let pick = |body| match body {
        transfer_message::Body::Results(results) => results.results.into_iter().next(),
        _ => None,
    };
    until(client, pick).await
}

/// Waits for the end of a transfer, or of the session.
pub async fn ended(client: &mut ScriptedClient) -> Option<u32> {
    loop {
        match client.receive().await? {
            Body::Transfer(proto::TransferMessage {
                body: Some(transfer_message::Body::Cancel(cancel)),
                ..
            }) => return Some(cancel.code),
            Body::Transfer(proto::TransferMessage {
                body: Some(transfer_message::Body::Finished(_)),
                ..
            }) => return Some(0),
            _ => {}
        }
    }
}
