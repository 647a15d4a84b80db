//! The state of a server is its owner's alone.

use crate::support::{Ended, Server, haul, run_with};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// A user who can open a lock file can hold the lock for any time.
#[test]
fn locks_of_the_state_are_its_owners_alone() {
    let server = Server::start();
    let path = server.state.join("users.lock");
    let theirs = std::fs::File::create(&path).unwrap();
    theirs.set_permissions(Permissions::from_mode(0o644)).unwrap();
    theirs.lock().unwrap();
    server.user(&["add", "pat"], "pw");
    for name in ["users.lock", "users", "key"] {
        let mode = std::fs::metadata(server.state.join(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&server.state).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_state_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (root, state) = (dir.path().join("root"), dir.path().join("state"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&state).unwrap();
    let serve = || {
        let mut command = haul();
        command.args(["serve", "--listen", "127.0.0.1:0", "--state"]);
        command.arg(&state).arg(&root);
        Ended::of(run_with(command, b""))
    };
    let user = |arguments: &[&str]| {
        let mut command = haul();
        command.arg("user").args(arguments).arg("--state").arg(&state);
        Ended::of(run_with(command, b"pw"))
    };
    for mode in [0o755, 0o750, 0o701] {
        std::fs::set_permissions(&state, Permissions::from_mode(mode)).unwrap();
        let words = ["other users may look into", "chmod 700", state.to_str().unwrap()];
        serve().failed(1, &words);
        user(&["add", "pat"]).failed(1, &words);
    }
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "nothing was written");
    std::fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    if std::os::unix::fs::chown(&state, Some(65_534), Some(65_534)).is_err() {
        println!("skipped in part: only root gives directories away");
        return;
    }
    serve().failed(1, &["belongs to user 65534", "chown"]);
    // files that root writes for a server of another user belong to that user
    assert_eq!(user(&["add", "pat"]).code, 0);
    for name in ["users", "users.lock"] {
        assert_eq!(std::fs::metadata(state.join(name)).unwrap().uid(), 65_534, "{name}");
    }
}
