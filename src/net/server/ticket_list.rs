//! Tickets: each logs another machine in once, for a single put of the user who asked for it.

use crate::auth::credential::Grant;
use crate::auth::users::{self, Users};
use crate::net::error::{LossReason, NetError};
use crate::net::server::only_put::OnlyPut;
use crate::net::server::refusal::{Refusal, Rejection};
use crate::net::server::reply::refusal;
use crate::net::wire::{Code, proto};
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How long a ticket may wait for its use.
const LIFETIME: Duration = Duration::from_secs(60);
/// Tickets that wait, of a user and of all.
const OF_USER: usize = 16;
const OF_ALL: usize = 1024;
/// The answer to a ticket that is none.
const NO_TICKET: Refusal = (Code::LOGIN_REFUSED, "the ticket is unknown, used or expired");

/// What a ticket is worth.
struct Ticket {
    grant: Grant,
    only: OnlyPut,
    expires: Instant,
}

/// The tickets that wait.
#[derive(Default)]
pub(super) struct Tickets(Mutex<HashMap<[u8; 32], Ticket>>);

impl Tickets {
    /// Makes a ticket for a put of the user of `grant`.
    ///
    /// # Errors
    /// That too many wait.
    pub(super) fn make(&self, grant: &Grant, put: &proto::Put) -> Result<[u8; 32], NetError> {
        let mut secret = [0; 32];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| NetError::Lost(LossReason::NoRandomness))?;
        let now = Instant::now();
        let mut tickets = self.0.lock();
        tickets.retain(|_, ticket| ticket.expires > now);
        let of_user = tickets.values().filter(|ticket| ticket.grant.name() == grant.name());
        if of_user.count() >= OF_USER || tickets.len() >= OF_ALL {
            return Err(refusal(Code::UNAVAILABLE, "too many tickets wait for their use"));
        }
        let ticket = Ticket {
            grant: grant.clone(),
            only: OnlyPut::of(put),
            expires: now + LIFETIME,
        };
        tickets.insert(secret, ticket);
        Ok(secret)
    }

    /// Uses a ticket up. The login lasts no longer than that of the user who asked for it could,
    /// and a key that is bound to networks is also bound to them here.
    ///
    /// # Errors
    /// Why it is rejected.
    pub(super) fn redeem(
        &self,
        users: &Users,
        secret: &[u8],
        peer: SocketAddr,
    ) -> Result<(Grant, OnlyPut), Rejection> {
        let found = <[u8; 32]>::try_from(secret).ok();
        let found = found.and_then(|secret| self.0.lock().remove(&secret));
        let Some(ticket) = found.filter(|ticket| ticket.expires > Instant::now()) else {
            return Err(Rejection::new("no such ticket", NO_TICKET));
        };
        let grant = Grant {
            address: peer.ip(),
            ..ticket.grant
        };
        let all = users.current();
        let all = all.map_err(|_| Rejection::new("no list of users", NO_TICKET))?;
        match grant.check(&all, users::now()) {
            Ok(_) => Ok((grant, ticket.only)),
            Err(revoked) => Err(Rejection::new(revoked.to_string(), NO_TICKET)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::credential::Credential;
    use crate::auth::password;

    const LATE: Duration = Duration::from_secs(61);

    /// A users file with one user, who has a password, and their grant.
    fn with_user() -> (tempfile::TempDir, Users, Grant) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let hash = password::hash("secret").unwrap();
        std::fs::write(&path, format!("kim password={hash}\n")).unwrap();
        let users = Users::load(&path).unwrap();
        let grant = Grant {
            user: users.current().unwrap()[0].clone(),
            credential: Credential::Password(hash),
            address: peer().ip(),
        };
        (dir, users, grant)
    }

    fn peer() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9))
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_once_for_a_minute_and_while_its_user_may_log_in() {
        let (dir, users, grant) = with_user();
        let (tickets, put) = (Tickets::default(), proto::Put::default());
        let redeem = |secret: &[u8]| tickets.redeem(&users, secret, peer()).is_ok();
        let secret = tickets.make(&grant, &put).unwrap();
        assert!(!redeem(&[0; 32]) && !redeem(b"") && !redeem(&secret[1..]));
        assert!(redeem(&secret));
        assert!(!redeem(&secret), "it is used up");
        let late = tickets.make(&grant, &put).unwrap();
        tokio::time::advance(LATE).await;
        assert!(!redeem(&late));
        let of_nobody = tickets.make(&grant, &put).unwrap();
        std::fs::remove_file(dir.path().join("users")).unwrap();
        assert!(!redeem(&of_nobody), "the user is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn few_tickets_wait() {
        let (_dir, _, grant) = with_user();
        let (tickets, put) = (Tickets::default(), proto::Put::default());
        for _ in 0..OF_USER {
            tickets.make(&grant, &put).unwrap();
        }
        assert!(tickets.make(&grant, &put).is_err());
        tokio::time::advance(LATE).await;
        tickets.make(&grant, &put).unwrap();
        assert_eq!(tickets.0.lock().len(), 1, "those that have expired are gone");
    }
}
