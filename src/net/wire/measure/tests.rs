//! Bounds of every list, and of messages that lie.

use super::*;
use prost::Message;
use proto::control_message::Body;
use proto::{ControlMessage, request, transfer_message};

fn transfer(body: transfer_message::Body) -> Vec<u8> {
    let message = proto::TransferMessage {
        transfer: 1,
        body: Some(body),
    };
    let body = Some(Body::Transfer(message));
    ControlMessage { body }.encode_to_vec()
}

fn request(body: request::Body) -> Vec<u8> {
    let request = proto::Request {
        number: 1,
        body: Some(body),
    };
    let body = Some(Body::Request(request));
    ControlMessage { body }.encode_to_vec()
}

fn reply(body: proto::reply::Body) -> Vec<u8> {
    let reply = proto::Reply {
        body: Some(body),
        ..Default::default()
    };
    let body = Some(Body::Reply(reply));
    ControlMessage { body }.encode_to_vec()
}

fn empty_offers(n: usize) -> proto::Offers {
    let offers = vec![proto::Offer::default(); n];
    proto::Offers { offers }
}

/// An offer with so many extended attributes.
fn one_offer(n: usize) -> proto::Offers {
    let offer = proto::Offer {
        xattrs: vec![proto::Xattr::default(); n],
        ..Default::default()
    };
    proto::Offers {
        offers: vec![offer],
    }
}

/// A changed offer with so many extended attributes.
fn changed_offer(n: usize) -> proto::Changed {
    let offer = one_offer(n).offers.pop().map(Box::new);
    proto::Changed {
        offer,
        ..Default::default()
    }
}

/// The wire's bytes of each list with `n` empty entries.
fn lists(n: usize) -> Vec<(Vec<u8>, usize)> {
    use transfer_message::Body::{Acks, Changed, Exclusions, Offers, Results, Wants, Withdrawals};
    let put = proto::Put {
        names: vec![Vec::new(); n],
        ..Default::default()
    };
    let source_ids = proto::Put {
        source_ids: vec![String::new(); n],
        ..Default::default()
    };
    let get = proto::Get {
        sources: vec![Vec::new(); n],
        ..Default::default()
    };
    let names = proto::Get {
        names: vec![Vec::new(); n],
        ..Default::default()
    };
    let destination_ancestors = proto::Get {
        destination_ancestors: vec![String::new(); n],
        ..Default::default()
    };
    let want = proto::Want {
        digests: vec![Vec::new(); n],
        ..Default::default()
    };
    let list = proto::ListReply {
        entries: vec![proto::Entry::default(); n],
        ..Default::default()
    };
    let locks = proto::LocksReply {
        locks: vec![proto::LockEntry::default(); n],
        ..Default::default()
    };
    let (wants, acks) = (vec![proto::Want::default(); n], vec![proto::Ack::default(); n]);
    let results = vec![proto::Result::default(); n];
    let withdrawals = vec![proto::Withdrawal::default(); n];
    let exclusions = vec![proto::Exclusion::default(); n];
    vec![
        (transfer(Offers(empty_offers(n))), MAX_OFFERS),
        (transfer(Offers(one_offer(n))), MAX_XATTRS),
        (transfer(Changed(changed_offer(n))), MAX_XATTRS),
        (transfer(Wants(proto::Wants { wants })), MAX_LIST),
        (transfer(Wants(proto::Wants { wants: vec![want] })), MAX_DIGESTS),
        (transfer(Acks(proto::Acks { acks })), MAX_LIST),
        (transfer(Results(proto::Results { results })), MAX_LIST),
        (transfer(Withdrawals(proto::Withdrawals { withdrawals })), MAX_LIST),
        (transfer(Exclusions(proto::Exclusions { exclusions })), MAX_LIST),
        (request(request::Body::Put(put)), MAX_LIST),
        (request(request::Body::Put(source_ids)), MAX_LIST),
        (request(request::Body::Get(get)), MAX_LIST),
        (request(request::Body::Get(destination_ancestors)), MAX_LIST),
        (request(request::Body::Get(names)), MAX_LIST),
        (reply(proto::reply::Body::List(list)), MAX_LIST),
        (reply(proto::reply::Body::Locks(locks)), MAX_LIST),
    ]
    .into_iter()
    .chain(lists_beneath(n))
    .chain(lists_of_options(n))
    .chain(lists_of_trash(n))
    .collect()
}

/// Those of what a transfer takes of its sources.
fn lists_of_options(n: usize) -> Vec<(Vec<u8>, usize)> {
    let view = proto::View {
        ignore_files: vec![Vec::new(); n],
        ..Default::default()
    };
    let options = proto::Options {
        view: Some(Box::new(view.clone())),
        ..Default::default()
    };
    let put = proto::Put {
        options: Some(options.clone()),
        ..Default::default()
    };
    let get = proto::Get {
        options: Some(options),
        ..Default::default()
    };
    let chosen = proto::Get {
        chosen: vec![Vec::new(); n],
        ..Default::default()
    };
    let stat = proto::StatBeneath {
        view: Some(view),
        ..Default::default()
    };
    vec![
        (request(request::Body::Put(put)), MAX_IGNORE_FILES),
        (request(request::Body::Get(get)), MAX_IGNORE_FILES),
        (request(request::Body::Get(chosen)), MAX_LIST),
        (request(request::Body::StatBeneath(stat)), MAX_IGNORE_FILES),
    ]
}

/// Those of the requests about many entries.
fn lists_beneath(n: usize) -> Vec<(Vec<u8>, usize)> {
    use proto::reply::Body::{ListBeneath, RemoveBeneath};
    let list = proto::ListBeneath {
        dirs: vec![proto::DirCursor::default(); n],
        ..Default::default()
    };
    let stat = proto::StatBeneath {
        paths: vec![Vec::new(); n],
        ..Default::default()
    };
    let remove = proto::RemoveBeneath {
        removals: vec![proto::Removal::default(); n],
        ..Default::default()
    };
    let page = proto::DirPage {
        entries: vec![proto::Entry::default(); n],
        ..Default::default()
    };
    let glob = proto::GlobReply {
        paths: vec![Vec::new(); n],
        ..Default::default()
    };
    let pages = vec![proto::DirPage::default(); n];
    let removed = vec![proto::Removed::default(); n];
    vec![
        (reply(proto::reply::Body::Glob(glob)), MAX_LIST),
        (request(request::Body::ListBeneath(list)), MAX_LIST),
        (request(request::Body::StatBeneath(stat)), MAX_LIST),
        (request(request::Body::RemoveBeneath(remove)), MAX_LIST),
        (reply(ListBeneath(proto::ListBeneathReply { pages: vec![page] })), MAX_LIST),
        (reply(ListBeneath(proto::ListBeneathReply { pages })), MAX_LIST),
        (reply(RemoveBeneath(proto::RemoveBeneathReply { removed })), MAX_LIST),
    ]
}

/// Those of the requests about a trash.
fn lists_of_trash(n: usize) -> Vec<(Vec<u8>, usize)> {
    let discard = proto::Discard {
        removals: vec![proto::Removal::default(); n],
        ..Default::default()
    };
    let list = proto::ListTrashReply {
        entries: vec![proto::TrashedEntry::default(); n],
        ..Default::default()
    };
    let restore = proto::Restore {
        items: vec![proto::TrashItem::default(); n],
        ..Default::default()
    };
    let removed = vec![proto::Removed::default(); n];
    let restored = proto::RemoveBeneathReply { removed };
    vec![
        (request(request::Body::Discard(discard)), MAX_LIST),
        (request(request::Body::Restore(restore)), MAX_LIST),
        (reply(proto::reply::Body::ListTrash(list)), MAX_LIST),
        (reply(proto::reply::Body::Restore(restored)), MAX_LIST),
    ]
}

#[test]
fn lists_are_counted_before_they_are_decoded() {
    for (index, (_, most)) in lists(0).into_iter().enumerate() {
        let (fits, _) = lists(most).swap_remove(index);
        let size = decoded_size(&fits).unwrap();
        assert!(size >= most * size_of::<Vec<u8>>(), "list {index}: {size}");
        let (over, _) = lists(most + 1).swap_remove(index);
        assert!(decoded_size(&over).is_err(), "list {index}");
    }
}

/// Parts of one message that decoding would merge do not add up behind the counter's back.
#[test]
fn a_message_that_comes_in_parts_is_refused() {
    let mut twice = lists(MAX_OFFERS).swap_remove(0).0;
    twice.extend_from_within(..);
    assert!(ControlMessage::decode(&twice[..]).is_ok());
    assert!(decoded_size(&twice).is_err());
}

#[test]
fn long_texts_are_bounded_and_groups_refused() {
    let digests = vec![vec![0; 1]; MAX_DIGESTS];
    let want = proto::Want {
        digests,
        ..Default::default()
    };
    let wants = vec![want; MAX_LIST];
    let wants = transfer(transfer_message::Body::Wants(proto::Wants { wants }));
    assert!(decoded_size(&wants).is_err(), "64 digests in each of 4096 wants");
    for bytes in [&[0x0b][..], &[0x0c], &[0x0a, 5], &[0xff; 11], &[0x09, 1], &[0x0d]] {
        assert!(decoded_size(bytes).is_err(), "{bytes:?}");
    }
}

/// Every list of the definition is in a shape: a new one has to be entered there, and here.
#[test]
fn every_list_of_the_protocol_has_a_bound() {
    let bounded = [
        "ListReply 1",
        "LocksReply 1",
        "ListBeneath 2",
        "ListBeneathReply 1",
        "DirPage 1",
        "StatBeneath 2",
        "RemoveBeneath 2",
        "RemoveBeneathReply 1",
        "Discard 2",
        "ListTrashReply 1",
        "Restore 2",
        "GlobReply 1",
        "View 3",
        "Put 4",
        "Put 6",
        "Get 2",
        "Get 4",
        "Get 5",
        "Get 60",
        "Copy 2",
        "Copy 5",
        "Copy 9",
        "Copy 60",
        "Offer 22",
        "Offers 1",
        "Want 3",
        "Wants 1",
        "Acks 1",
        "Results 1",
        "Withdrawals 1",
        "Exclusions 1",
        "CopyReport 2",
    ];
    let (mut message, mut lists) = ("", Vec::new());
    let files = [
        include_str!("../control.proto"),
        include_str!("../transfer.proto"),
        include_str!("../entry.proto"),
    ];
    for line in files.iter().flat_map(|file| file.lines()) {
        if let Some(rest) = line.strip_prefix("message ") {
            message = rest.split_whitespace().next().unwrap_or_default();
        }
        for field in line.split("repeated ").skip(1) {
            let number = field.split(['=', ';']).nth(1).unwrap_or_default().trim();
            lists.push(format!("{message} {number}"));
        }
    }
    assert_eq!(lists, bounded);
}
