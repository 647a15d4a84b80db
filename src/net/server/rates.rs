//! The rate limits of a server: of all its sessions together, of each user's, and what a client
//! asked for.

use crate::auth::UserName;
use crate::net::data::pacer::{Pacer, RateLimit};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// A limit for each direction.
pub(super) struct BothWays {
    outgoing: Arc<RateLimit>,
    incoming: Arc<RateLimit>,
}

impl BothWays {
    fn new(rate: Option<u64>) -> BothWays {
        BothWays {
            outgoing: RateLimit::new(rate),
            incoming: RateLimit::new(rate),
        }
    }

    fn set(&self, rate: Option<u64>) {
        for limit in [&self.outgoing, &self.incoming] {
            if limit.rate() != rate {
                limit.set(rate);
            }
        }
    }
}

/// The limits of a server. Those of a user last as long as their sessions.
pub(super) struct Rates {
    all: BothWays,
    users: Mutex<HashMap<UserName, Weak<BothWays>>>,
}

impl Rates {
    /// So many bytes a second in each direction for all sessions; `None`: no limit.
    pub(super) fn new(rate: Option<u64>) -> Rates {
        Rates {
            all: BothWays::new(rate),
            users: Mutex::default(),
        }
    }

    /// The limits of a session of a user who may move so many bytes a second in each direction.
    pub(super) fn of_session(&self, name: &UserName, rate: Option<u64>) -> SessionRates {
        let mut users = self.users.lock();
        let shared = users.get(name).and_then(Weak::upgrade);
        let user = shared.unwrap_or_else(|| Arc::new(BothWays::new(rate)));
        user.set(rate);
        users.retain(|_, shared| shared.strong_count() > 0);
        users.insert(name.clone(), Arc::downgrade(&user));
        let asked = RateLimit::new(None);
        let outgoing = vec![asked.clone(), user.outgoing.clone(), self.all.outgoing.clone()];
        let incoming = vec![user.incoming.clone(), self.all.incoming.clone()];
        SessionRates {
            pacer: Pacer::new(outgoing.clone(), incoming),
            outgoing,
            asked,
            user,
        }
    }
}

/// The limits of a session.
pub(super) struct SessionRates {
    pub(super) pacer: Arc<Pacer>,
    outgoing: Vec<Arc<RateLimit>>,
    asked: Arc<RateLimit>,
    user: Arc<BothWays>,
}

impl SessionRates {
    /// The client asks for no more than this.
    pub(super) fn ask(&self, rate: Option<u64>) {
        self.asked.set(rate);
    }

    /// All limits of what goes out.
    pub(super) fn outgoing(&self) -> &[Arc<RateLimit>] {
        &self.outgoing
    }

    /// What the client asked for.
    pub(super) fn asked(&self) -> &Arc<RateLimit> {
        &self.asked
    }

    /// The user may have so much from now on.
    pub(super) fn set_user(&self, rate: Option<u64>) {
        self.user.set(rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_a_user_share_a_limit_that_ends_with_them() {
        let rates = Rates::new(None);
        let (kim, sam) = (UserName::parse("kim").unwrap(), UserName::parse("sam").unwrap());
        let first = rates.of_session(&kim, Some(1 << 20));
        let second = rates.of_session(&kim, Some(2 << 20));
        assert!(Arc::ptr_eq(&first.user, &second.user));
        assert_eq!(first.user.outgoing.rate(), Some(2 << 20), "as the users file says now");
        let other = rates.of_session(&sam, None);
        assert_eq!(other.user.incoming.rate(), None);
        first.set_user(None);
        assert_eq!(second.user.incoming.rate(), None);
        drop((first, second));
        rates.of_session(&sam, None);
        assert_eq!(rates.users.lock().len(), 1);
    }
}
