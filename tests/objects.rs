//! Servers of an object store: the built binary, over a small S3 server that misbehaves on demand.

use crate::model::live_at;
use crate::support::s3::{Engine, Manner};
use crate::support::tree::{bytes, rich_sample, snapshot};
use crate::support::{Server, haul};

fn server(engine: &Engine, more: &[&str]) -> Server {
    let key = engine.key();
    let mut arguments = engine.arguments();
    arguments.extend(["--key".to_string(), key.to_str().unwrap().to_string()]);
    arguments.extend(more.iter().map(ToString::to_string));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::with(&arguments)
}

#[test]
fn random_operations_over_an_engine_that_loses_answers_agree_with_the_model() {
    let engine = Engine::start(Manner::Sound);
    // a lock whose removal was lost is waited for
    let lease = ["--lease", "10s"];
    let (one, two) = (server(&engine, &lease), server(&engine, &lease));
    engine.behave(Manner::Stormy);
    live_at(&[&one, &two], false);
}

#[test]
fn a_tree_comes_back_from_another_server() {
    let engine = Engine::start(Manner::Sound);
    let (one, two) = (server(&engine, &[]), server(&engine, &[]));
    let (here, there) = (one.client(), two.client());
    let tree = here.work().join("tree");
    rich_sample(&tree);
    std::fs::write(tree.join("large"), bytes(1, 20 << 20)).unwrap();
    here.ok(["put", "-r", "tree", "srv:"]);
    there.ok(["get", "-r", "srv:tree", "back"]);
    assert_eq!(snapshot(&there.work().join("back/tree")), snapshot(&tree));
    let unchanged = there.ok(["put", "-r", "-n", "-v", "back/tree", "srv:"]);
    assert!(!unchanged.contains("(new"), "{unchanged}");
    // a rename takes the content along, also that of a larger file
    there.ok(["mv", "srv:tree/large", "srv:moved"]);
    here.ok(["get", "srv:moved", "moved"]);
    assert!(std::fs::read(here.work().join("moved")).unwrap() == bytes(1, 20 << 20));
    here.ok(["rm", "-r", "srv:tree"]);
    assert_eq!(there.ok(["ls", "srv:"]), "moved\n");
    here.ok(["rm", "srv:moved"]);
    assert_eq!(engine.keys("f/"), Vec::<String>::new());
    assert_eq!(engine.keys("l/"), Vec::<String>::new());
}

#[test]
fn the_record_of_an_entry_says_what_the_documentation_says() {
    let engine = Engine::start(Manner::Sound);
    let one = server(&engine, &[]);
    let client = one.client();
    std::fs::write(client.work().join("50% = x"), "hello").unwrap();
    std::fs::write(client.work().join("large"), bytes(2, 3 << 20)).unwrap();
    client.ok(["put", "50% = x", "large", "srv:"]);
    let small = engine.object("some/prefix/f/=/50%25 %3D x");
    let text = String::from_utf8(small).unwrap();
    let (line, content) = text.split_once('\n').unwrap();
    assert_eq!(content, "hello");
    let (nonce, json) = line.split_once(' ').unwrap();
    let record: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(
        (nonce.len(), &record["kind"], &record["size"]),
        (16, &"file".into(), &5.into())
    );
    assert_eq!(record["blake3"], blake3::hash(b"hello").to_hex().as_str());
    let large = String::from_utf8(engine.object("some/prefix/f/=/large")).unwrap();
    let record: serde_json::Value =
        serde_json::from_str(large.trim_end().split_once(' ').unwrap().1).unwrap();
    let blob = record["extents"][0]["blob"].as_str().unwrap();
    assert!(engine.object(&format!("some/prefix/b/{blob}")) == bytes(2, 3 << 20));
    assert_eq!(record["blake3"], blake3::hash(&bytes(2, 3 << 20)).to_hex().as_str());
}

#[test]
fn content_that_the_engine_has_damaged_is_noticed() {
    let engine = Engine::start(Manner::Sound);
    let one = server(&engine, &[]);
    let client = one.client();
    std::fs::write(client.work().join("f"), "hello").unwrap();
    client.ok(["put", "f", "srv:"]);
    engine.damage("some/prefix/f/=/f");
    let got = client.run(["get", "srv:f", "back"]);
    assert!(got.code != 0 && got.err.contains("damaged"), "{got:?}");
    assert!(!client.work().join("back").exists());
}

/// A server dies with a larger file half received. Another server resumes it when the lease is
/// over.
#[test]
fn another_server_resumes_what_one_that_died_has_received() {
    let engine = Engine::start(Manner::Sound);
    let (mut one, two) = (server(&engine, &["--lease", "3s"]), server(&engine, &["--lease", "3s"]));
    let client = one.client();
    let content = bytes(3, 100 << 20);
    std::fs::write(client.work().join("large"), &content).unwrap();
    let put = client.spawn(["put", "--bwlimit", "40M", "--retry-for", "1s", "large", "srv:"]);
    // a checkpoint says that a part is durable
    let is_durable = || {
        let locks = engine.keys("l/");
        locks.iter().any(|key| {
            let text = String::from_utf8(engine.object(key)).unwrap();
            !text.contains("\"offset\":0")
        })
    };
    crate::support::until("a checkpoint is there", is_durable);
    one.kill();
    put.end();
    two.second_login(&client, two.address);
    let second = client.run(["put", "-v", "large", "vps:"]);
    assert!(second.code == 0 && second.err.contains("resumes after"), "{second:?}");
    client.ok(["get", "vps:large", "back"]);
    assert!(std::fs::read(client.work().join("back")).unwrap() == content);
    assert_eq!(engine.keys("l/"), Vec::<String>::new(), "the lock was let go");
}

/// A small file waits as a larger one does for the lock that its client's earlier transfer had.
#[test]
fn a_small_file_waits_for_the_lock_of_a_server_that_died() {
    let engine = Engine::start(Manner::Sound);
    let (mut one, two) = (server(&engine, &["--lease", "3s"]), server(&engine, &["--lease", "3s"]));
    let client = one.client();
    std::fs::write(client.work().join("f"), bytes(3, 100 << 20)).unwrap();
    let put = client.spawn(["put", "--bwlimit", "4M", "--retry-for", "1s", "f", "srv:"]);
    crate::support::until("it is locked", || !engine.keys("l/").is_empty());
    one.kill();
    put.end();
    two.second_login(&client, two.address);
    std::fs::write(client.work().join("f"), "small").unwrap();
    client.ok(["put", "f", "vps:"]);
    assert_eq!(client.ok(["cat", "vps:f"]), "small");
}

/// What a server says that does not start over this engine.
fn refused(engine: &Engine) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = haul();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--state"])
        .arg(dir.path().join("state"));
    command.args(engine.arguments());
    let output = crate::support::run_with(command, b"");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && !errors.contains("secret"), "{errors}");
    errors
}

#[test]
fn a_wrong_clock_is_named() {
    let errors = refused(&Engine::start(Manner::Ahead));
    assert!(
        errors.contains("clock is 2") && errors.contains("minutes behind"),
        "{errors}"
    );
}

#[test]
fn an_engine_that_ignores_conditions_is_refused() {
    let engine = Engine::start(Manner::IgnoresConditions);
    let errors = refused(&engine);
    assert!(errors.contains("If-None-Match"), "{errors}");
    assert_eq!(engine.keys("f/"), Vec::<String>::new());
}

#[test]
fn what_an_object_store_cannot_do_is_refused_by_name() {
    let engine = Engine::start(Manner::Sound);
    let one = server(&engine, &[]);
    let client = one.client();
    std::fs::create_dir(client.work().join("d")).unwrap();
    std::fs::write(client.work().join("d/f"), "x").unwrap();
    client.ok(["put", "-r", "d", "srv:"]);
    for (arguments, word) in [
        (&["df", "srv:"][..], "how large"),
        (&["put", "-r", "--backup", "d", "srv:"], "no backups"),
        (&["mv", "srv:d", "srv:e"], "cannot be renamed"),
        (&["get", "-r", "-L", "srv:d", "back"], "symlinks"),
    ] {
        let refused = client.run(arguments);
        assert!(
            refused.code != 0 && refused.err.contains(word),
            "{arguments:?}: {refused:?}"
        );
    }
    // before it fails, it has said what the store is
    let bench = client.run(["bench", "srv:missing"]);
    assert!(bench.code != 0 && bench.out.contains("an S3 object store"), "{bench:?}");
    let long = format!("srv:{}/x", vec!["n".repeat(200); 6].join("/"));
    let refused = client.run(["mkdir", "-p", &long]);
    assert!(refused.code != 0 && refused.err.contains("1024"), "{refused:?}");
    // a mirror deletes, and what is locked by nobody is listed
    std::fs::write(client.work().join("d/g"), "y").unwrap();
    std::fs::remove_file(client.work().join("d/f")).unwrap();
    client.ok(["put", "-r", "--delete", "d/", "srv:d"]);
    assert_eq!(client.ok(["ls", "srv:d"]), "g\n");
    assert_eq!(client.ok(["locks", "srv:d"]), "");
}

#[test]
fn users_are_the_same_at_all_servers_of_a_bucket() {
    let engine = Engine::start(Manner::Sound);
    let (one, two) = (server(&engine, &[]), server(&engine, &[]));
    let invite = one.invite("kim");
    let client = crate::support::Client::new();
    let mut command = client.command(["login", "--name", "srv"]);
    command.arg(two.address.to_string());
    let output = crate::support::run_with(command, invite.as_bytes());
    assert!(output.status.success(), "{output:?}");
    client.ok(["ls", "srv:"]);
    // and one that is removed is a user of none
    let mut command = haul();
    command.args(["user", "rm", "kim"]).args(engine.arguments());
    assert!(command.status().unwrap().success());
    crate::support::until("the user is gone", || client.run(["ls", "srv:"]).code != 0);
}

#[test]
fn a_login_sees_a_key_that_was_listed_a_moment_ago() {
    let engine = Engine::start(Manner::Sound);
    let (one, two) = (server(&engine, &[]), server(&engine, &[]));
    let client = one.client();
    two.second_login(&client, two.address);
    let user = |arguments: &[&str]| {
        let mut command = haul();
        command.arg("user").args(arguments).args(engine.arguments());
        let output = crate::support::run_with(command, b"");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let key = client.config().join("key.pub");
    for _ in 0..3 {
        user(&["rm", "kim"]);
        for name in ["srv:", "vps:"] {
            let gone = || client.run(["ls", name]).code != 0;
            crate::support::until("the user is gone", gone);
        }
        user(&["add", "kim", "--key", &key.display().to_string()]);
        client.ok(["ls", "srv:"]);
        client.ok(["ls", "vps:"]);
    }
}
