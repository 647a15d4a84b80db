//! What a program that reads JSON learns of failures.

use crate::support::schema::valid_lines;
use crate::support::tree::write;
use crate::support::{Client, Server, haul};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

/// What a command that fails prints: objects, and one line for people.
fn objects(client: &Client, arguments: &[&str], code: i32) -> Vec<serde_json::Value> {
    let ended = client.run(arguments);
    assert_eq!(ended.code, code, "{ended:?}");
    assert!(ended.err.starts_with("haul: "), "{ended:?}");
    valid_lines(&ended.out)
}

/// Each command that prints JSON, and most of its events: a validator reads every line.
#[test]
fn every_line_is_as_the_schema_says() {
    let server = Server::start();
    let client = server.client();
    for path in ["t/a", "t/d/b", "t/latin-\u{e9}"] {
        write(&client.work().join(path), path.as_bytes());
    }
    let odd = std::ffi::OsStr::from_bytes(b"t/odd-\xff");
    write(&client.work().join(odd), b"odd");
    std::os::unix::fs::symlink("a", client.work().join("t/link")).unwrap();
    write(&server.root.join("old/gone"), b"gone");
    write(&server.root.join("many/1"), b"1");
    let mut seen = BTreeSet::new();
    for (line, code) in [
        ("put -a --json t srv:", 0),
        ("put -a --json t srv:", 0),
        ("put -an --json --delete t/ srv:old", 0),
        ("put -a --json --existing t/ srv:many", 0),
        ("put -a --json --delete t/ srv:old", 0),
        ("put -a --json --max-delete=0 --delete t/d/ srv:old", 9),
        ("put -a --json missing t srv:", 3),
        ("put --json --no-such-option t srv:", 2),
        ("get -a --json srv:t back", 0),
        ("cp -a --json t here", 0),
        ("cp -a --json srv:t srv:copy", 0),
        ("ls -la --json srv:t srv:none", 3),
        ("find --json srv:", 0),
        ("stat --json --hash srv:t/a srv:t", 0),
        ("du -a --json srv:", 0),
        ("df --json srv:", 0),
        ("locks -r --json srv:", 0),
        ("limit --json", 0),
    ] {
        let ended = client.run(line.split(' '));
        assert_eq!(ended.code, code, "{line}: {ended:?}");
        let names = valid_lines(&ended.out).into_iter();
        seen.extend(names.filter_map(|object| object["event"].as_str().map(String::from)));
    }
    for event in [
        "file",
        "unchanged",
        "skipped",
        "planned",
        "deleted",
        "deletion_planned",
        "not_deleted",
        "failed",
        "summary",
        "error",
    ] {
        assert!(seen.contains(event), "{event}: {seen:?}");
    }
    // on the server
    server.invite("invited");
    for words in [&["user", "ls"][..], &["user", "key", "ls", "kim"], &["invite", "ls"]] {
        let mut command = haul();
        command.args(words).arg("--json").arg("--state").arg(&server.state);
        let output = command.output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(!valid_lines(&out).is_empty(), "{words:?}");
    }
}

/// Programs that read JSON need not read standard error, however early a command fails.
#[test]
fn with_json_every_failure_is_an_object() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"f");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("haul://{unused}/");
    let objects = |arguments: &[&str], code| objects(&client, arguments, code);
    for arguments in [
        &["put", "--json", "f", &nowhere][..],
        &["get", "--json", &nowhere, "x"],
        &["ls", "--json", &nowhere],
        &["stat", "--json", &nowhere],
        &["df", "--json", &nowhere],
        &["locks", "--json", &nowhere],
    ] {
        let objects = objects(arguments, 4);
        let [error] = objects.as_slice() else {
            panic!("{arguments:?}: {objects:?}")
        };
        assert_eq!((&error["event"], &error["exit"]), (&"error".into(), &4.into()), "{error}");
        assert!(error["reason"].as_str().unwrap().contains("cannot connect"), "{error}");
        assert!(error["hint"].is_string(), "{error}");
    }
    assert_eq!(objects(&["put", "--json", "f", "g"], 2)[0]["exit"], 2);
    assert_eq!(
        objects(&["get", "--json", "srv:f", "haul://other/f", "x/"], 8)[0]["event"],
        "error"
    );
    // each of several
    let both = objects(&["stat", "--json", "srv:gone", "srv:missing"], 8);
    assert!(both.len() == 2 && both.iter().all(|error| error["exit"] == 8), "{both:?}");
}

#[test]
fn of_a_transfer_the_summary_comes_last() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"f");
    let objects = |arguments: &[&str], code| objects(&client, arguments, code);
    let missing = objects(&["put", "--json", "missing", "srv:"], 8);
    assert_eq!(
        (&missing[0]["event"], &missing[0]["path"]),
        (&"failed".into(), &"missing".into()),
        "{missing:?}"
    );
    assert_eq!(
        (&missing[1]["event"], &missing[1]["failed"]),
        (&"summary".into(), &1.into()),
        "{missing:?}"
    );
    let refused = objects(&["put", "--json", "f", "srv:no/where/"], 8);
    assert_eq!(
        (&refused[0]["event"], &refused[0]["exit"]),
        (&"error".into(), &8.into()),
        "{refused:?}"
    );
    assert_eq!(
        (&refused[1]["event"], &refused[1]["complete"]),
        (&"summary".into(), &false.into()),
        "{refused:?}"
    );
}
