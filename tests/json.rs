//! What a program that reads JSON learns of failures.

use crate::support::tree::write;
use crate::support::{Client, Server};

/// What a command that fails prints: objects, and one line for people.
fn objects(client: &Client, arguments: &[&str], code: i32) -> Vec<serde_json::Value> {
    let ended = client.run(arguments);
    assert_eq!(ended.code, code, "{ended:?}");
    assert!(ended.err.starts_with("haul: "), "{ended:?}");
    let lines = ended.out.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
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
