//! Confinement: what is outside the root is not read, changed, listed, or even stat-ed.

use crate::support::Server;
use crate::support::tree::{snapshot, write};
use std::os::unix::fs::symlink;
use std::path::Path;

/// Every verb on a path that leads outside through `way`.
fn every_verb(
    client: &crate::support::Client,
    way: &str,
) -> Vec<(Vec<String>, crate::support::Ended)> {
    let commands = [
        vec!["ls", "-R", "srv:WAY"],
        vec!["ls", "srv:WAY/"],
        vec!["stat", "--hash", "srv:WAY/secret"],
        vec!["get", "srv:WAY/secret", "stolen"],
        vec!["get", "-r", "srv:WAY/", "stolen-tree"],
        vec!["put", "mine", "srv:WAY/new"],
        vec!["put", "mine", "srv:WAY/secret"],
        vec!["put", "-r", "tree", "srv:WAY/tree"],
        vec!["mkdir", "srv:WAY/dir"],
        vec!["mkdir", "-p", "srv:WAY/a/b"],
        vec!["mv", "srv:mine", "srv:WAY/mine"],
        vec!["mv", "srv:WAY/secret", "srv:taken"],
        vec!["rm", "srv:WAY/secret"],
        vec!["rm", "-r", "srv:WAY/sub"],
        vec!["df", "srv:WAY/sub"],
        vec!["locks", "-R", "srv:WAY"],
        vec!["unlock", "--force", "srv:WAY/staged"],
    ];
    let run = |command: Vec<&str>| {
        // a link that was fetched must not be what the next one goes through: this machine's own
        // links are followed
        let _ = std::fs::remove_file(client.work().join("stolen-tree"));
        let command: Vec<String> = command.into_iter().map(|a| a.replace("WAY", way)).collect();
        let ended = client.run(&command);
        (command, ended)
    };
    commands.into_iter().map(run).collect()
}

fn outside(server: &Server) -> std::path::PathBuf {
    let outside = server.dir.path().join("outside");
    write(&outside.join("secret"), b"a secret outside the root");
    write(&outside.join("sub/f"), b"x");
    write(&outside.join(".staged.haul"), b"x");
    outside
}

#[test]
fn symlinks_that_lead_outside_are_followed_by_no_verb() {
    let server = Server::start();
    let client = server.client();
    let outside = outside(&server);
    let before = snapshot(&outside);
    write(&client.work().join("mine"), b"mine");
    write(&client.work().join("tree/f"), b"mine");
    write(&server.root.join("mine"), b"mine");
    symlink(&outside, server.root.join("absolute")).unwrap();
    symlink("../outside", server.root.join("relative")).unwrap();
    symlink("relative", server.root.join("twice")).unwrap();
    symlink("/proc/self/cwd", server.root.join("magic")).unwrap();
    for way in ["absolute", "relative", "twice"] {
        for (command, ended) in every_verb(&client, way) {
            // the links themselves may be looked at
            let shows_link = command[0] == "ls" && ended.code == 0;
            assert!(ended.code != 0 || shows_link, "{command:?}: {ended:?}");
            assert!(
                !ended.out.contains("secret\n") && !ended.out.contains("a secret"),
                "{command:?}: {ended:?}"
            );
        }
    }
    assert_ne!(client.run(["get", "-r", "srv:magic/", "magic"]).code, 0);
    assert_eq!(snapshot(&outside), before);
    assert!(!client.work().join("stolen").exists());
    // a link that stays inside is followed
    write(&server.root.join("inside/f"), b"fine");
    symlink("inside", server.root.join("link")).unwrap();
    assert_eq!(client.ok(["ls", "srv:link/"]), "f\n");
    client.ok(["put", "mine", "srv:link/"]);
    assert!(server.root.join("inside/mine").exists());
}

#[test]
fn symlinks_swapped_while_requests_run_lead_nowhere() {
    let server = Server::start();
    let client = server.client();
    let outside = outside(&server);
    let before = snapshot(&outside);
    write(&client.work().join("mine"), b"mine");
    write(&client.work().join("tree/f"), b"mine");
    // `way` is a directory and a symlink to the outside in turn, as fast as it goes
    write(&server.root.join("way/secret"), b"inside");
    symlink(&outside, server.root.join("other")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (root, stop) = (&server.root, &stop);
        scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                exchange(&root.join("way"), &root.join("other"));
            }
        });
        for _ in 0..8 {
            for (command, ended) in every_verb(&client, "way") {
                assert!(!ended.out.contains("a secret"), "{command:?}: {ended:?}");
                if let Ok(stolen) = std::fs::read(client.work().join("stolen")) {
                    assert_ne!(stolen, b"a secret outside the root", "{command:?}");
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(snapshot(&outside), before);
}

fn exchange(a: &Path, b: &Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
}

#[test]
fn a_users_own_root_is_a_wall_too() {
    let server = Server::start();
    write(&server.root.join("other/secret"), b"x");
    server.user(&["add", "pat", "--root", "pat"], "p");
    std::fs::create_dir(server.root.join("pat")).unwrap();
    symlink("../other", server.root.join("pat/way")).unwrap();
    let client = server.client();
    std::fs::write(client.work().join("p"), "p").unwrap();
    let url = format!("haul://pat@{}/way/", server.address);
    assert_ne!(client.run(["ls", "--password-file", "p", &url]).code, 0);
    assert_ne!(
        client
            .run(["get", "--password-file", "p", &format!("{url}secret"), "x"])
            .code,
        0
    );
    assert!(!client.work().join("x").exists());
}

#[test]
fn a_directory_is_not_put_or_fetched_into_itself() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("dir/sub/f"), b"x");
    let local = |path: &str| server.root.join(path).to_str().unwrap().to_string();
    let before = snapshot(&server.root);
    let text = "the destination is the source, or within it";
    for (source, destination) in [
        ("dir", "srv:"),
        ("dir", "srv:dir/sub"),
        (".", "srv:dir/copy"),
        ("dir/.", "srv:dir"),
    ] {
        client.run(["put", "-r", &local(source), destination]).failed(1, &[text]);
    }
    for (source, destination) in
        [("srv:dir", "dir/sub"), ("srv:", "dir"), ("srv:dir", "dir/sub/new")]
    {
        client.run(["get", "-r", source, &local(destination)]).failed(1, &[text]);
    }
    // above what is served, too
    let all = server.root.parent().unwrap().to_str().unwrap();
    client.run(["put", "-r", all, "srv:all"]).failed(1, &[text]);
    assert_eq!(snapshot(&server.root), before);
    client.ok(["put", "-r", &local("dir/sub"), "srv:"]);
    assert!(server.root.join("sub/f").exists(), "beside it is fine");
}
