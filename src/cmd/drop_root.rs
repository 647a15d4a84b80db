//! Turns a server that root has started into a process of another user, for good.

use super::failure::{Failure, exit};
use nix::unistd::{
    Gid, Uid, User, getgrouplist, getresgid, getresuid, setgroups, setresgid, setresuid,
};
use std::ffi::CString;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

/// Becomes the user `name`, with all of their groups and without root's rights. Creates `state` for
/// them if it is missing. The process must have a single thread.
///
/// # Errors
/// If the user does not exist, or this process may not become another user.
pub fn become_user(name: &str, state: &Path) -> Result<(), Failure> {
    let cannot = |doing: &str, e: &dyn std::fmt::Display| {
        Failure::new(exit::FAILED, format!("cannot run as {name}: {doing}: {e}"))
    };
    let user = User::from_name(name)
        .map_err(|e| cannot("the users of this machine cannot be read", &e))?;
    let Some(user) = user else {
        return Err(Failure::usage(format!("--user {name}: this machine has no such user")));
    };
    if user.uid.is_root() {
        return Err(Failure::usage(format!("--user {name}: that is root"))
            .hint("name a user without its rights"));
    }
    if !Uid::effective().is_root() {
        return match Uid::current() == user.uid && Uid::effective() == user.uid {
            true => Ok(()),
            false => {
                Err(Failure::usage(format!("--user {name}: only root may become another user")))
            }
        };
    }
    make_state(state, &user).map_err(|e| cannot(&format!("make {}", state.display()), &e))?;
    let c_name = CString::new(name).map_err(|e| cannot("the name", &e))?;
    let groups = getgrouplist(&c_name, user.gid).map_err(|e| cannot("its groups", &e))?;
    setgroups(&groups).map_err(|e| cannot("set its groups", &e))?;
    setresgid(user.gid, user.gid, user.gid).map_err(|e| cannot("set its group", &e))?;
    setresuid(user.uid, user.uid, user.uid).map_err(|e| cannot("set its id", &e))?;
    match is_only(user.uid, user.gid) {
        true => Ok(()),
        false => Err(cannot("check", &"some of root's rights remain")),
    }
}

/// True if the process has no rights of another user, and cannot regain them.
fn is_only(uid: Uid, gid: Gid) -> bool {
    let users = getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [uid; 3]);
    let groups = getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [gid; 3]);
    users && groups && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err()
}

/// Creates the state directory for the user. An existing one keeps its owner, and is checked later.
fn make_state(state: &Path, user: &User) -> std::io::Result<()> {
    if let Some(parent) = state.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(state) {
        Ok(()) => chown(state, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}
