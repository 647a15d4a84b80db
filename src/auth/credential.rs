//! What logs a user in, and whether a login that was granted still holds.

use super::key::PublicKey;
use super::name::UserName;
use super::user::{Access, AuthorizedKey, User};
use std::net::IpAddr;

/// With what somebody logged in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// The key of the handshake.
    Key(PublicKey),
    /// The password with this hash.
    Password(String),
}

/// Why a login does not hold, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Revoked {
    /// There is no such user.
    #[error("the user was removed")]
    User,
    /// The user sees another part of the tree now.
    #[error("the user's root was changed")]
    Root,
    /// The user may do less than before.
    #[error("what the user may do was narrowed")]
    Access,
    /// The key is not the user's.
    #[error("the key was removed")]
    Key,
    /// The key's time is over.
    #[error("the key has expired")]
    Expired,
    /// The key is for other networks.
    #[error("the key may not be used from this address")]
    Address,
    /// There is another password, or none.
    #[error("the password was changed")]
    Password,
}

impl Credential {
    /// Whether it logs `user` in at `now` from `address`.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, user: &User, now: u64, address: IpAddr) -> Result<(), Revoked> {
        match self {
            Credential::Key(public) => {
                let key = user.keys.iter().find(|key| key.public == *public);
                check_key(key.ok_or(Revoked::Key)?, now, address)
            }
            Credential::Password(hash) if user.password.as_ref() == Some(hash) => Ok(()),
            Credential::Password(_) => Err(Revoked::Password),
        }
    }
}

/// Whether a key logs in at `now` from `address`.
fn check_key(key: &AuthorizedKey, now: u64, address: IpAddr) -> Result<(), Revoked> {
    let address = address.to_canonical();
    if key.expires.is_some_and(|end| end <= now) {
        return Err(Revoked::Expired);
    }
    if !key.from.is_empty() && !key.from.iter().any(|network| network.contains(&address)) {
        return Err(Revoked::Address);
    }
    Ok(())
}

/// A login that was granted: to whom, and by what.
#[derive(Clone)]
pub struct Grant {
    /// The user as they were then.
    pub user: User,
    /// What logged them in.
    pub credential: Credential,
    /// Where they came from.
    pub address: IpAddr,
}

impl Grant {
    /// Whether it holds at `now`, with the users as they are; gives the user as they are.
    ///
    /// # Errors
    /// Why not any more.
    pub fn check<'a>(&self, users: &'a [User], now: u64) -> Result<&'a User, Revoked> {
        self.check_from(users, now, self.address)
    }

    /// The same for another connection of the session, from `address`.
    ///
    /// # Errors
    /// Why not.
    pub fn check_from<'a>(
        &self,
        users: &'a [User],
        now: u64,
        address: IpAddr,
    ) -> Result<&'a User, Revoked> {
        let user = self.current(users).ok_or(Revoked::User)?;
        self.credential.check(user, now, address)?;
        if user.root != self.user.root {
            return Err(Revoked::Root);
        }
        match user.access.covers(self.user.access) {
            true => Ok(user),
            false => Err(Revoked::Access),
        }
    }

    /// Where the login came from.
    pub fn address(&self) -> IpAddr {
        self.address.to_canonical()
    }

    /// When it ends by itself.
    pub fn expires(&self, users: &[User]) -> Option<u64> {
        let Credential::Key(public) = &self.credential else {
            return None;
        };
        let user = self.current(users)?;
        user.keys.iter().find(|key| key.public == *public)?.expires
    }

    /// Who it was granted to.
    pub fn name(&self) -> &UserName {
        &self.user.name
    }

    /// What it allows.
    pub fn access(&self) -> Access {
        self.user.access
    }

    fn current<'a>(&self, users: &'a [User]) -> Option<&'a User> {
        users.iter().find(|user| user.name == self.user.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::user::parse_network;
    use super::*;
    use crate::store::RemotePath;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

    fn granted() -> (User, Grant) {
        let public = PublicKey::from_der(&[1]);
        let mut user = User::new(UserName::parse("kim").unwrap());
        user.keys.push(AuthorizedKey::new(public.clone()));
        user.password = Some("hash".into());
        let grant = Grant {
            user: user.clone(),
            credential: Credential::Key(public),
            address: HERE,
        };
        (user, grant)
    }

    #[test]
    fn a_grant_ends_with_what_it_rests_on() {
        let (user, mut grant) = granted();
        let check = |grant: &Grant, change: &dyn Fn(&mut User)| {
            let mut user = user.clone();
            change(&mut user);
            grant.check(&[user], 100).map(drop)
        };
        assert_eq!(check(&grant, &|_| {}), Ok(()));
        assert_eq!(grant.check(&[], 100).map(drop), Err(Revoked::User));
        assert_eq!(check(&grant, &|u| u.keys.clear()), Err(Revoked::Key));
        let root = RemotePath::parse(b"sub").unwrap();
        assert_eq!(check(&grant, &|u| u.root = root.clone()), Err(Revoked::Root));
        assert_eq!(check(&grant, &|u| u.access = Access::ReadOnly), Err(Revoked::Access));
        assert_eq!(check(&grant, &|u| u.password = None), Ok(()));
        grant.credential = Credential::Password("hash".into());
        assert_eq!(check(&grant, &|u| u.keys.clear()), Ok(()));
        assert_eq!(check(&grant, &|u| u.password = None), Err(Revoked::Password));
        grant.user.access = Access::ReadOnly;
        assert_eq!(check(&grant, &|_| {}), Ok(()), "more than before is no reason to end");
    }

    #[test]
    fn a_key_is_good_until_it_expires_and_from_where_it_may_be_used() {
        let (mut user, grant) = granted();
        user.keys[0].expires = Some(100);
        assert_eq!(grant.check(&[user.clone()], 99), Ok(&user));
        assert_eq!(grant.check(&[user.clone()], 100), Err(Revoked::Expired));
        assert_eq!(grant.expires(&[user.clone()]), Some(100));
        user.keys[0].from = vec![parse_network("10.1.0.0/16").unwrap()];
        assert_eq!(grant.check(&[user.clone()], 0), Ok(&user));
        let mapped = Ipv4Addr::new(10, 1, 9, 9).to_ipv6_mapped();
        assert_eq!(grant.check_from(&[user.clone()], 0, mapped.into()), Ok(&user));
        let elsewhere = Ipv4Addr::new(10, 2, 0, 1);
        assert_eq!(grant.check_from(&[user], 0, elsewhere.into()), Err(Revoked::Address));
    }
}
