//! What the commands about users share: the options that name a user and bound their rights, and
//! the file of users.

use crate::auth::state_file::StateFile;
use crate::auth::user::{Access, User};
use crate::auth::users;
use crate::cmd::failure::{Failure, exit};
use crate::cmd::hint;
use crate::cmd::location::parse_relative;
use crate::cmd::rate::{Rate, parse_rate};
use crate::cmd::settings::state_dir;
use crate::cmd::store_args::StoreArgs;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct StateDir {
    /// The server's state directory, as in haul serve
    #[arg(long, value_name = "DIR", value_hint = hint::LOCAL_DIR)]
    state: Option<PathBuf>,

    #[command(flatten)]
    bucket: StoreArgs,
}

#[derive(clap::Args)]
pub struct Named {
    /// The user
    #[arg(value_hint = hint::USER)]
    pub name: String,

    #[command(flatten)]
    pub state: StateDir,
}

/// The rights of a user, as options.
#[derive(clap::Args, Default)]
pub struct Rights {
    /// The user's own root, beneath the server's
    #[arg(long, value_name = "SUBDIR")]
    root: Option<OsString>,

    /// May do everything beneath the root [default for a new user]
    #[arg(long, conflicts_with_all = ["read_only", "write_only"])]
    full: bool,

    /// May list and read, and change nothing
    #[arg(long, conflicts_with = "write_only")]
    read_only: bool,

    /// May put files and make directories, and nothing else: a drop-box
    #[arg(long)]
    write_only: bool,

    /// Move at most RATE (2M, 500k) in each direction, with all sessions together; 'off': no limit
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    bwlimit: Option<Rate>,
}

impl Rights {
    /// True if any option is given.
    pub fn any(&self) -> bool {
        self.root.is_some() || self.access().is_some() || self.bwlimit.is_some()
    }

    fn access(&self) -> Option<Access> {
        let given = [
            (self.full, Access::Full),
            (self.read_only, Access::ReadOnly),
            (self.write_only, Access::WriteOnly),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, access)| access)
    }

    /// Changes only the rights that the options name.
    pub fn apply(&self, user: &mut User) -> Result<(), Failure> {
        if let Some(root) = &self.root {
            user.root = parse_relative(root)?;
        }
        user.access = self.access().unwrap_or(user.access);
        user.rate = self.bwlimit.map_or(user.rate, |rate| rate.0);
        Ok(())
    }
}

impl StateDir {
    pub fn dir(&self) -> Result<PathBuf, Failure> {
        state_dir(self.state.clone())
    }

    /// The users, in the directory or the bucket.
    pub fn users(&self) -> Result<StateFile, Failure> {
        match self.bucket.named(None)? {
            Some(bucket) => bucket.users(),
            None => Ok(self.dir()?.join("users").into()),
        }
    }
}

/// The failure for a name that no user has.
pub(super) fn no_user(name: &str) -> Failure {
    about_users(format!("there is no user {name}"))
}

/// A failure that the list of users explains.
pub(super) fn about_users(reason: String) -> Failure {
    Failure::new(exit::FAILED, reason).hint("haul user ls lists them")
}

/// The user of this name.
pub fn find(at: &StateFile, name: &str) -> Result<User, Failure> {
    let found = users::read(at)?.into_iter().find(|user| user.name == *name);
    found.ok_or_else(|| no_user(name))
}

/// Changes the user of this name.
pub fn change(
    at: &StateFile,
    name: &str,
    mut work: impl FnMut(&mut User) -> Result<(), Failure>,
) -> Result<(), Failure> {
    users::update(at, |all| match all.iter_mut().find(|user| user.name == *name) {
        Some(user) => work(user),
        None => Err(no_user(name)),
    })
}
