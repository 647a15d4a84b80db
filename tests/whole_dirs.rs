//! New directories appear whole: until then they have another name, which the next run resumes.

use crate::support::proxy::{Proxy, Rules};
use crate::support::tree::{
    bytes, length, partial_dir, sample, set_mode, set_mtime, snapshot, staged, write,
};
use crate::support::{Client, Running, Server, until};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const KIB: usize = 1 << 10;

/// A server behind a slow link, and its client with a tree of 62 files and more.
fn slow() -> (Server, Proxy, Client) {
    let server = Server::start();
    let rules = Rules {
        rate: Some(2 << 20),
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, rules);
    let client = server.client_at(proxy.address);
    fill(&client.work().join("tree"));
    (server, proxy, client)
}

fn fill(tree: &Path) {
    sample(tree);
    for n in 0..60 {
        write(&tree.join(format!("part-{n:02}")), &bytes(n, 300 * KIB));
    }
    write(&tree.join("z/large"), &bytes(99, 3000 * KIB));
}

/// A put of the tree that has come to the middle.
fn half_done(server: &Server, client: &Client) -> Running {
    let put = client.spawn(["put", "-r", "tree", "srv:"]);
    let partial = partial_dir(&server.root.join("tree"));
    until("some files are there", || arrived(&partial) >= 20);
    put
}

/// A put of the tree whose client and server have died in the middle.
fn abandoned(server: &mut Server, client: &Client) {
    let put = half_done(server, client);
    server.kill();
    put.kill();
    server.restart();
}

/// How many of the 60 parts are there.
fn arrived(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    names
        .filter(|e| e.file_name().as_encoded_bytes().starts_with(b"part-"))
        .count()
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_tree_appears_whole_and_a_killed_put_goes_on() {
    let (server, proxy, client) = slow();
    let tree = client.work().join("tree");
    let put = half_done(&server, &client);
    assert!(!server.root.join("tree").exists());
    assert_eq!(client.ok(["ls", "-a", "srv:"]), "", "nobody sees it");
    assert!(
        client.ok(["locks", "srv:"]).contains("tree"),
        "but for who looks for writers"
    );
    put.kill();
    let before = proxy.sent();
    let ended = client.run(["put", "-r", "--json", "tree", "srv:"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let unchanged = ended.events("summary")[0]["unchanged"].as_u64().unwrap();
    assert!(unchanged >= 20, "{ended:?}");
    let all: u64 = walkdir::WalkDir::new(&tree)
        .into_iter()
        .map(|e| length(e.unwrap().path()))
        .sum();
    let sent = proxy.sent() - before;
    assert!(
        sent < all as usize - 15 * 300 * KIB,
        "what had arrived is not sent again: {sent}"
    );
    assert_eq!(snapshot(&tree), snapshot(&server.root.join("tree")));
    assert_eq!(names(&server.root), ["tree"], "nothing is left");
}

#[test]
fn a_server_that_was_killed_resumes_the_directory() {
    let (mut server, _proxy, client) = slow();
    abandoned(&mut server, &client);
    let direct = server.client();
    let source = client.work().join("tree");
    let source = source.to_str().unwrap();
    let ended = direct.run(["put", "-r", "--json", source, "srv:"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.events("summary")[0]["unchanged"].as_u64().unwrap() >= 20, "{ended:?}");
    assert_eq!(snapshot(Path::new(source)), snapshot(&server.root.join("tree")));
    assert_eq!(names(&server.root), ["tree"]);
}

#[test]
fn a_get_appears_whole_too_and_goes_on() {
    let (server, _proxy, client) = slow();
    fill(&server.root.join("tree"));
    std::fs::remove_dir_all(client.work().join("tree")).unwrap();
    let here = client.work().join("tree");
    let get = client.spawn(["get", "-r", "srv:tree", "."]);
    until("some files are here", || arrived(&partial_dir(&here)) >= 20);
    assert!(!here.exists());
    get.kill();
    let ended = client.run(["get", "-r", "--json", "srv:tree", "."]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.events("summary")[0]["unchanged"].as_u64().unwrap() >= 20, "{ended:?}");
    assert_eq!(snapshot(&here), snapshot(&server.root.join("tree")));
    assert_eq!(names(&client.work()), ["tree"]);
}

#[test]
fn a_directory_that_appears_meanwhile_is_merged() {
    let (server, _proxy, client) = slow();
    let put = half_done(&server, &client);
    let there = server.root.join("tree");
    write(&there.join("theirs"), b"theirs");
    write(&there.join("part-03"), b"older");
    write(&there.join("z/theirs"), b"theirs");
    let ended = put.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    for theirs in ["theirs", "z/theirs"] {
        assert_eq!(std::fs::read(there.join(theirs)).unwrap(), b"theirs");
        std::fs::remove_file(there.join(theirs)).unwrap();
    }
    for file in ["part-03", "part-59", "z/large"] {
        let sent = std::fs::read(client.work().join("tree").join(file)).unwrap();
        assert!(std::fs::read(there.join(file)).unwrap() == sent, "{file}");
    }
    assert_eq!(names(&there).len(), names(&client.work().join("tree")).len());
    assert_eq!(names(&server.root), ["tree"]);
}

#[test]
fn a_file_that_has_the_name_by_then_is_an_error_and_stays() {
    let (server, _proxy, client) = slow();
    let put = half_done(&server, &client);
    write(&server.root.join("tree"), b"a file of somebody else");
    put.end().failed(3, &["tree", "a file has that name by now"]);
    assert_eq!(std::fs::read(server.root.join("tree")).unwrap(), b"a file of somebody else");
}

/// Two puts of one new directory do not wait for each other, and neither loses anything.
#[test]
fn a_second_writer_of_the_directory_makes_it_and_both_are_there() {
    let (server, _proxy, client) = slow();
    let put = half_done(&server, &client);
    let second = server.client();
    let (tree, there) = (second.work().join("tree"), server.root.join("tree"));
    write(&tree.join("second"), b"second");
    write(&tree.join("part-01"), b"the second's");
    second.ok(["put", "-r", "tree", "srv:"]);
    assert_eq!(names(&there), ["part-01", "second"]);
    assert_eq!(put.end().code, 0);
    assert_eq!(std::fs::read(there.join("second")).unwrap(), b"second");
    let first = client.work().join("tree/part-01");
    assert!(std::fs::read(there.join("part-01")).unwrap() == std::fs::read(first).unwrap());
    assert_eq!(names(&server.root), ["tree"]);
}

#[test]
fn a_second_writer_waits_for_the_directory_if_it_is_told_to() {
    let (server, _proxy, client) = slow();
    let put = half_done(&server, &client);
    let second = server.client();
    write(&second.work().join("tree/second"), b"second");
    second.ok(["put", "-r", "--wait", "tree", "srv:"]);
    let there = server.root.join("tree");
    assert!(there.join("part-59").exists(), "the first one was complete by then");
    assert_eq!(std::fs::read(there.join("second")).unwrap(), b"second");
    assert_eq!(put.end().code, 0);
}

#[test]
fn without_whole_directories_files_appear_one_by_one() {
    let (server, _proxy, client) = slow();
    let put = client.spawn(["put", "-r", "--no-whole-dirs", "tree", "srv:"]);
    let there = server.root.join("tree");
    until("some files are there", || arrived(&there) >= 5);
    assert!(arrived(&there) < 60);
    assert_eq!(put.end().code, 0);
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&there));
}

/// What is removed at its source has its name at the destination by then.
#[test]
fn sources_that_are_removed_appear_one_by_one() {
    let (server, _proxy, client) = slow();
    let put = client.spawn(["put", "-r", "--remove-source-files", "tree", "srv:"]);
    let source = client.work().join("tree");
    until("some files are there", || arrived(&server.root.join("tree")) >= 5);
    assert!(source.exists() && arrived(&server.root.join("tree")) < 60);
    assert_eq!(put.end().code, 0);
}

#[test]
fn an_abandoned_directory_is_unlocked_or_removed_with_what_it_is_in() {
    let (mut server, _proxy, client) = slow();
    std::fs::create_dir(server.root.join("sub")).unwrap();
    let abandon = |server: &mut Server, client: &Client| {
        let put = client.spawn(["put", "-r", "tree", "srv:sub"]);
        let partial = partial_dir(&server.root.join("sub/tree"));
        until("some files are there", || arrived(&partial) >= 20);
        server.kill();
        put.kill();
        server.restart();
        partial
    };
    let partial = abandon(&mut server, &client);
    let direct = server.client();
    assert!(direct.ok(["locks", "srv:sub"]).contains("tree"));
    direct.ok(["unlock", "srv:sub/tree"]);
    assert!(!partial.exists() && !staged(&server.root.join("sub/tree")).exists());
    // a directory that nobody is allowed to write to is no obstacle for its owner
    let slow = Proxy::start(
        server.address,
        Rules {
            rate: Some(2 << 20),
            ..Rules::default()
        },
    );
    let client = server.client_at(slow.address);
    fill(&client.work().join("tree"));
    set_mode(&client.work().join("tree/z"), 0o555);
    abandon(&mut server, &client);
    server.client().ok(["rm", "srv:sub"]);
    assert!(names(&server.root).is_empty());
}

/// A writer that lives and loses its lock by force publishes nothing, and does not harm the next.
#[test]
fn a_writer_that_lost_its_lock_publishes_nothing() {
    let (server, _proxy, client) = slow();
    let put = half_done(&server, &client);
    let second = server.client();
    second.ok(["unlock", "--force", "srv:tree"]);
    fill(&second.work().join("tree"));
    second.ok(["put", "-r", "tree", "srv:"]);
    let ended = put.end();
    assert_ne!(ended.code, 0, "{ended:?}");
    assert_eq!(snapshot(&second.work().join("tree")), snapshot(&server.root.join("tree")));
}

/// A directory that appears meanwhile does not make a private tree public.
#[test]
fn a_merged_directory_has_the_attributes_of_its_source() {
    let (server, _proxy, client) = slow();
    let tree = client.work().join("tree");
    for dir in [&tree.join("z"), &tree] {
        set_mode(dir, 0o700);
        set_mtime(dir, 1_000_000_000_123_456_789);
    }
    let put = half_done(&server, &client);
    let there = server.root.join("tree");
    write(&there.join("z/theirs"), b"theirs");
    set_mode(&there, 0o755);
    let ended = put.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    for dir in ["", "z"] {
        let (source, merged) =
            [&tree, &there].map(|top| std::fs::metadata(top.join(dir)).unwrap()).into();
        assert_eq!(merged.permissions().mode() & 0o7777, 0o700, "{dir:?}");
        assert_eq!(source.modified().unwrap(), merged.modified().unwrap(), "{dir:?}");
    }
}

/// What must not replace anything looks for that in its place, from the first file on.
#[test]
fn what_exists_and_is_to_stay_is_not_replaced_by_a_merge() {
    let (server, _proxy, client) = slow();
    let there = server.root.join("tree");
    let put = client.spawn(["put", "-r", "--ignore-existing", "tree", "srv:"]);
    until("some files are there", || arrived(&there) >= 5);
    assert!(!partial_dir(&there).exists());
    assert_eq!(put.end().code, 0);
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&there));
}

/// On one machine, too.
#[test]
fn sources_that_are_removed_have_their_names_at_once() {
    let client = Client::new();
    fill(&client.work().join("tree"));
    let arguments = ["cp", "-r", "--remove-source-files", "--bwlimit=2M", "tree/", "new"];
    let cp = client.spawn(arguments);
    let there = client.work().join("new");
    until("some files are there", || arrived(&there) >= 5);
    assert_eq!(cp.end().code, 0);
    assert_eq!(arrived(&there), 60);
}

/// A partial directory whose lock became the target, of another kind, is listed and unlocked.
#[test]
fn a_directory_without_its_lock_is_listed_and_unlocked() {
    let (mut server, _proxy, client) = slow();
    abandoned(&mut server, &client);
    let direct = server.client();
    write(&direct.work().join("file"), b"a file");
    direct.ok(["put", "file", "srv:tree"]);
    let partial = partial_dir(&server.root.join("tree"));
    assert!(partial.exists() && !staged(&server.root.join("tree")).exists());
    assert!(direct.ok(["locks", "srv:"]).contains("tree"));
    direct.ok(["unlock", "srv:tree"]);
    assert!(!partial.exists());
    assert_eq!(direct.ok(["locks", "srv:"]), "");
    assert_eq!(names(&server.root), ["tree"]);
}

/// Two writers of two directories, in either order, do not wait for each other.
#[test]
fn writers_that_wait_have_no_directory_that_others_wait_for() {
    let server = Server::start();
    let [one, other] = [(); 2].map(|()| server.client());
    for client in [&one, &other] {
        for dir in ["a", "b"] {
            for n in 0..20 {
                write(&client.work().join(dir).join(n.to_string()), &bytes(n, 100 * KIB));
            }
        }
    }
    for _ in 0..5 {
        for dir in ["a", "b"] {
            let _ = std::fs::remove_dir_all(server.root.join(dir));
        }
        let first = one.spawn(["put", "-r", "--wait=20s", "a", "b", "srv:"]);
        let second = other.spawn(["put", "-r", "--wait=20s", "b", "a", "srv:"]);
        let began = std::time::Instant::now();
        assert_eq!((first.end().code, second.end().code), (0, 0));
        assert!(began.elapsed().as_secs() < 15, "they waited for each other");
        assert_eq!(names(&server.root), ["a", "b"]);
    }
}
