//! Every message that a client may send, as large as it may be, for floods.

use super::messages::{offer, offers};
use haul::chunk::digest::whole_digest;
use haul::net::wire::proto::{self, control_message::Body, request, transfer_message};
use prost::Message;

/// Makes the message with this index, as it travels; requests are numbered from 10 on.
pub type Kind = (&'static str, Box<dyn Fn(u64) -> Vec<u8> + Send + Sync>);

fn encoded(body: Body) -> Vec<u8> {
    let message = proto::ControlMessage { body: Some(body) }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&length[..], &message].concat()
}

fn of_request(
    name: &'static str,
    body: impl Fn() -> request::Body + Send + Sync + 'static,
) -> Kind {
    let make = move |index| {
        encoded(Body::Request(proto::Request {
            number: 10 + index,
            body: Some(body()),
        }))
    };
    (name, Box::new(make))
}

fn of_transfer(
    name: &'static str,
    body: impl Fn(u64) -> transfer_message::Body + Send + Sync + 'static,
) -> Kind {
    let make = move |index| {
        encoded(Body::Transfer(proto::TransferMessage {
            transfer: 1,
            body: Some(body(index)),
        }))
    };
    (name, Box::new(make))
}

/// The same message every time.
fn always(name: &'static str, body: transfer_message::Body) -> Kind {
    let (_, make) = of_transfer(name, move |_| body.clone());
    let bytes = make(0);
    (name, Box::new(move |_| bytes.clone()))
}

/// As long as one field may be.
fn long() -> Vec<u8> {
    vec![b'x'; 1_000_000]
}

fn text() -> String {
    String::from_utf8(long()).unwrap()
}

/// Every request, with as much in it as fits.
pub fn requests() -> Vec<Kind> {
    let (files, transfers) = (requests_of_files(), requests_of_transfers());
    files.into_iter().chain(transfers).chain(requests_of_sessions()).collect()
}

/// Those that name paths.
fn requests_of_files() -> Vec<Kind> {
    use request::Body as R;
    vec![
        of_request("cd", || R::ChangeDirectory(proto::ChangeDirectory { path: long() })),
        of_request("stat", || {
            R::Stat(proto::Stat {
                path: long(),
                hash: true,
            })
        }),
        of_request("list", || {
            R::List(proto::List {
                cookie: long(),
                ..Default::default()
            })
        }),
        of_request("listing", || {
            R::List(proto::List {
                path: b"many".to_vec(),
                ..Default::default()
            })
        }),
        of_request("mkdir", || {
            R::MakeDirectory(proto::MakeDirectory {
                path: long(),
                parents: true,
            })
        }),
        of_request("rm", || {
            R::Remove(proto::Remove {
                path: long(),
                recursive: true,
            })
        }),
        of_request("mv", || {
            R::Rename(proto::Rename {
                from: long()[..500_000].into(),
                to: long()[..500_000].into(),
                ..Default::default()
            })
        }),
        of_request("df", || R::Space(proto::Space { path: long() })),
    ]
}

/// Those that start transfers.
fn requests_of_transfers() -> Vec<Kind> {
    use request::Body as R;
    vec![
        of_request("put: names", || {
            R::Put(proto::Put {
                transfer: 7,
                names: vec![Vec::new(); 500_000],
                ..Default::default()
            })
        }),
        of_request("put: source_ids", || {
            R::Put(proto::Put {
                transfer: 7,
                source_ids: vec![String::new(); 4096],
                ..Default::default()
            })
        }),
        of_request("copy: sources", || {
            R::Copy(proto::Copy {
                transfer: 7,
                sources: vec![Vec::new(); 4096],
                names: vec![Vec::new(); 4096],
                chmod: vec![String::new(); 4096],
                ..Default::default()
            })
        }),
        of_request("get: destination_ancestors", || {
            R::Get(proto::Get {
                transfer: 7,
                destination_ancestors: vec![String::new(); 500_000],
                ..Default::default()
            })
        }),
    ]
}

/// Those of sessions and locks.
fn requests_of_sessions() -> Vec<Kind> {
    use request::Body as R;
    vec![
        of_request("login", || {
            R::Login(proto::Login {
                user: text(),
                ..Default::default()
            })
        }),
        of_request("enroll", || {
            R::Enroll(proto::Enroll {
                code: long(),
                ..Default::default()
            })
        }),
        of_request("noop", || R::Noop(proto::Noop::default())),
        of_request("reattach", || {
            R::Reattach(proto::Reattach {
                proof: long(),
                ..Default::default()
            })
        }),
        of_request("locks", || {
            R::Locks(proto::Locks {
                cookie: long(),
                ..Default::default()
            })
        }),
        of_request("unlock", || {
            R::Unlock(proto::Unlock {
                path: long(),
                force: true,
            })
        }),
    ]
}

/// Each message of a transfer, with as many entries as fit and as are allowed.
pub fn messages() -> Vec<Kind> {
    let (offers, answers) = (messages_with_offers(), messages_of_receivers());
    offers.into_iter().chain(answers).chain(other_messages()).collect()
}

/// Offers: many, and large in each of their fields.
fn messages_with_offers() -> Vec<Kind> {
    vec![
        always("offers: as many as fit", offers(vec![proto::Offer::default(); 500_000])),
        of_transfer("offers: content", |index| {
            let content = vec![7; 16 << 10];
            let digest = whole_digest(&content).to_vec();
            let file = |n| proto::Offer {
                content: content.clone(),
                digest: digest.clone(),
                ..offer(2 + 60 * index + n, 1, b"locked", proto::Kind::File, 16 << 10)
            };
            offers((0..60).map(file).collect())
        }),
        of_transfer("offers: targets", |index| {
            let link = |n| proto::Offer {
                target: vec![b't'; 4000],
                ..offer(2 + 240 * index + n, 1, b"locked", proto::Kind::Symlink, 0)
            };
            offers((0..240).map(link).collect())
        }),
        of_transfer("offers: versions", |index| {
            let file = |n| proto::Offer {
                version: "v".repeat(250),
                ..offer(2 + 1000 * index + n, 1, b"locked", proto::Kind::File, 1 << 40)
            };
            offers((0..1000).map(file).collect())
        }),
        of_transfer("offers: directories", |index| {
            let dir = |n| offer(2 + 1000 * index + n, 1, &[b'd'; 250], proto::Kind::Dir, 0);
            offers((0..1000).map(dir).collect())
        }),
        of_transfer("offers: names that fail", |index| {
            let name = [b'n'; 256];
            let file = |n| offer(2 + 1000 * index + n, 1, &name, proto::Kind::File, 0);
            offers((0..1000).map(file).collect())
        }),
    ]
}

/// Messages that only a receiver sends.
fn messages_of_receivers() -> Vec<Kind> {
    use transfer_message::Body as T;
    vec![
        always("wants", {
            let wants = vec![proto::Want::default(); 4096];
            T::Wants(proto::Wants { wants })
        }),
        always("digests", {
            let want = proto::Want {
                digests: vec![Vec::new(); 500_000],
                ..Default::default()
            };
            T::Wants(proto::Wants { wants: vec![want] })
        }),
        always("acks", {
            let acks = vec![proto::Ack::default(); 500_000];
            T::Acks(proto::Acks { acks })
        }),
        always("results", {
            let results = vec![proto::Result::default(); 500_000];
            T::Results(proto::Results { results })
        }),
    ]
}

/// The rest, replies and heartbeats among them.
fn other_messages() -> Vec<Kind> {
    use transfer_message::Body as T;
    vec![
        always("withdrawals", {
            let withdrawals = vec![proto::Withdrawal::default(); 4096];
            T::Withdrawals(proto::Withdrawals { withdrawals })
        }),
        always("changed", {
            T::Changed(proto::Changed {
                offer: Some(Box::new(proto::Offer {
                    content: long(),
                    ..Default::default()
                })),
                attempt: 1,
            })
        }),
        always("end", T::End(proto::EndOfOffers {})),
        always("finished", T::Finished(proto::Finished::default())),
        always(
            "cancel",
            T::Cancel(proto::Cancel {
                code: 500,
                text: text(),
            }),
        ),
        (
            "reply",
            Box::new(|_| {
                let text = text();
                encoded(Body::Reply(proto::Reply {
                    text,
                    ..Default::default()
                }))
            }),
        ),
        (
            "heartbeat",
            Box::new(|_| encoded(Body::Heartbeat(proto::Heartbeat { received: 0 }))),
        ),
    ]
}
