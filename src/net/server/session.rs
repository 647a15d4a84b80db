//! The state of a session: who it is, where it is, and what it has been answered.

use crate::auth::credential::Grant;
use crate::auth::user::Access;
use crate::net::error::NetError;
use crate::net::server::login::Reattached;
use crate::net::session::SessionCore;
use crate::net::wire::frame::{Attach, ROLE_CONTROL, ROLE_DATA};
use crate::net::wire::proto;
use crate::store::RemotePath;
use crate::store::local::LocalStore;
use parking_lot::Mutex;
use prost::Message;
use ring::hmac;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Numbers of proofs that are remembered. An honest client's come nearly in order: what is older has been used or is
/// not needed.
const PROOFS: usize = 1024;
/// Replies that are remembered for requests that come again.
const REPLIES: usize = 128;

/// The numbers of the proofs that were used.
#[derive(Default)]
struct Proofs {
    used: BTreeSet<u32>,
    /// The last one of a control connection: an older one that arrives late must not displace a newer connection.
    control: u32,
    /// All up to this one count as used.
    floor: u32,
}

impl Proofs {
    fn is_new(&mut self, n: u32) -> bool {
        let new = n > self.floor && self.used.insert(n);
        if self.used.len() > PROOFS
            && let Some(least) = self.used.pop_first()
        {
            self.floor = least;
        }
        new
    }
}

/// Longest reply that is remembered, in bytes.
const REMEMBERED: usize = 1024;

/// A logged-in session.
pub(super) struct Session {
    /// Who logged in, as they were then, and by what.
    pub(super) grant: Grant,
    /// `user@host`, for logs and locks.
    pub(super) who: String,
    /// What they see: their root and what is beneath it.
    pub(super) store: LocalStore,
    pub(super) core: Arc<SessionCore>,
    pub(super) working: Mutex<RemotePath>,
    proof_key: hmac::Key,
    proofs: Mutex<Proofs>,
    /// Where connections that go on with this session are passed to.
    pub(super) reattached: mpsc::Sender<Reattached>,
    /// Data connections that it may have.
    pub(super) most_connections: usize,
    transfers: AtomicUsize,
}

impl Session {
    /// True of a user who may not learn what is there.
    pub(super) fn is_write_only(&self) -> bool {
        self.grant.access() == Access::WriteOnly
    }

    pub(super) fn new(
        grant: Grant,
        who: String,
        store: LocalStore,
        core: Arc<SessionCore>,
        exported: &[u8],
        most_connections: usize,
        reattached: mpsc::Sender<Reattached>,
    ) -> Session {
        Session {
            grant,
            who,
            store,
            core,
            working: Mutex::new(RemotePath::root()),
            proof_key: hmac::Key::new(hmac::HMAC_SHA256, exported),
            proofs: Mutex::default(),
            reattached,
            most_connections,
            transfers: AtomicUsize::new(0),
        }
    }

    /// Checks a data connection's proof, and that there is room for it.
    ///
    /// # Errors
    /// [`NetError::Protocol`]; whoever gets it learns nothing more, and the session goes on.
    pub(super) fn admit(&self, attach: &Attach) -> Result<(), NetError> {
        self.prove(ROLE_DATA, attach)?;
        if self.core.is_down() {
            return Err(NetError::Protocol("the session of a connection is over".into()));
        }
        if self.core.pool().alive() >= self.most_connections {
            return Err(NetError::Protocol("it has too many data connections".into()));
        }
        Ok(())
    }

    /// Checks a proof, in constant time, and that its number is new.
    ///
    /// # Errors
    /// As [`Session::admit`].
    pub(super) fn prove(&self, role: u8, attach: &Attach) -> Result<(), NetError> {
        let signed = Attach::signed(role, &attach.session, attach.n);
        if hmac::verify(&self.proof_key, &signed, &attach.proof).is_err() {
            return Err(NetError::Protocol("the proof of a connection is wrong".into()));
        }
        let mut proofs = self.proofs.lock();
        let late = role == ROLE_CONTROL && attach.n <= proofs.control;
        if !late && proofs.is_new(attach.n) {
            if role == ROLE_CONTROL {
                proofs.control = attach.n;
            }
            Ok(())
        } else {
            Err(NetError::Protocol(
                "the proof of a connection came a second time".into(),
            ))
        }
    }

    /// The working directory.
    pub(super) fn working(&self) -> RemotePath {
        self.working.lock().clone()
    }

    /// A transfer is under way until the value is dropped.
    pub(super) fn transferring(self: &Arc<Session>) -> Transferring {
        self.transfers.fetch_add(1, Ordering::Relaxed);
        Transferring(self.clone())
    }

    /// Waits until no transfer is under way.
    pub(super) async fn still(&self) {
        while self.is_transferring() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn is_transferring(&self) -> bool {
        self.transfers.load(Ordering::Relaxed) > 0
    }
}

/// Counts a transfer while it lasts.
pub(super) struct Transferring(Arc<Session>);

impl Drop for Transferring {
    fn drop(&mut self) {
        self.0.transfers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The replies given so far, so that a request that comes again has its effect once.
#[derive(Default)]
pub(super) struct ReplyCache {
    replies: VecDeque<proto::Reply>,
    last: u64,
}

/// What a request's number says about it.
pub(super) enum Seen {
    /// It is new.
    No,
    /// It was answered before: the same answer again.
    Answered(Box<proto::Reply>),
    /// It came before, and its answer is on its way or not remembered any more.
    Unanswered,
}

impl ReplyCache {
    /// Looks a number up, and remembers it when it is new.
    pub(super) fn look_up(&mut self, number: u64) -> Seen {
        if number > self.last {
            self.last = number;
            return Seen::No;
        }
        match self.replies.iter().find(|reply| reply.number == number) {
            Some(reply) => Seen::Answered(Box::new(reply.clone())),
            None => Seen::Unanswered,
        }
    }

    /// Remembers an answer.
    pub(super) fn remember(&mut self, reply: proto::Reply) {
        // a long one is a listing's, which changes nothing; and all together are to be small
        if reply.encoded_len() > REMEMBERED {
            return;
        }
        if self.replies.len() >= REPLIES {
            self.replies.pop_front();
        }
        self.replies.push_back(reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_once_however_many_there_were() {
        let mut proofs = Proofs::default();
        assert!(!proofs.is_new(0));
        for n in 1..=5000 {
            assert!(proofs.is_new(n), "{n}");
        }
        for n in [1, 2, 3000, 4999, 5000] {
            assert!(!proofs.is_new(n), "{n}");
        }
        assert!(proofs.used.len() <= PROOFS);
    }

    #[test]
    fn a_repeated_request_gets_the_first_answer() {
        let mut cache = ReplyCache::default();
        assert!(matches!(cache.look_up(1), Seen::No));
        assert!(matches!(cache.look_up(1), Seen::Unanswered));
        let reply = proto::Reply {
            number: 1,
            code: 250,
            ..Default::default()
        };
        cache.remember(reply.clone());
        assert!(matches!(cache.look_up(1), Seen::Answered(r) if *r == reply));
        for number in 2..=200 {
            assert!(matches!(cache.look_up(number), Seen::No));
            cache.remember(proto::Reply {
                number,
                ..Default::default()
            });
        }
        assert!(matches!(cache.look_up(1), Seen::Unanswered), "the cache is bounded");
    }
}
