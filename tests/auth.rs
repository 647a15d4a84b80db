//! Logins by key and password, and the access of users.

use crate::support::messages::{offer, offers, put};
use crate::support::script::{SESSION, ScriptedClient};
use crate::support::tree::{set_mode, staged, write};
use crate::support::{Client, Server, haul, run_with, until};
use haul::net::wire::proto::{self, control_message, request, transfer_message};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn with_password(
    client: &Client,
    server: &Server,
    user: &str,
    password: &str,
    arguments: &[&str],
) -> crate::support::Ended {
    let url = format!("haul://{user}@{}/", server.address);
    let arguments: Vec<String> = arguments.iter().map(|a| a.replace("URL/", &url)).collect();
    std::fs::write(client.work().join("password"), password).unwrap();
    client.run(arguments.iter().map(String::as_str).chain([
        "--password-file",
        "password",
        "--accept-new",
    ]))
}

#[test]
fn passwords_by_file_and_by_environment() {
    let server = Server::start();
    server.user(&["add", "pat"], "right\n");
    let client = Client::new();
    assert_eq!(with_password(&client, &server, "pat", "right\n", &["ls", "URL/"]).code, 0);
    with_password(&client, &server, "pat", "wrong", &["ls", "URL/"])
        .failed(5, &["login refused", "pat@"]);
    let unknown = with_password(&client, &server, "nobody", "right", &["ls", "URL/"]);
    unknown.failed(5, &["login refused"]);
    let mut command = client.command(["ls", &format!("haul://pat@{}/", server.address)]);
    command.env("HAUL_PASSWORD", "right");
    assert!(run_with(command, b"").status.success());

    server.user(&["passwd", "pat"], "new");
    with_password(&client, &server, "pat", "right", &["ls", "URL/"]).failed(5, &["login refused"]);
    assert_eq!(with_password(&client, &server, "pat", "new", &["ls", "URL/"]).code, 0);
    server.user(&["rm", "pat"], "");
    with_password(&client, &server, "pat", "new", &["ls", "URL/"]).failed(5, &["login refused"]);
}

#[test]
fn an_unknown_server_is_refused_without_a_terminal_and_a_changed_one_always() {
    let server = Server::start();
    server.user(&["add", "pat"], "right");
    let client = Client::new();
    let url = format!("haul://pat@{}/", server.address);
    std::fs::write(client.work().join("password"), "right").unwrap();
    client
        .run(["ls", "--password-file", "password", &url])
        .failed(6, &["not known", &server.fingerprint]);
    client.ok(["ls", "--password-file", "password", "--accept-new", &url]);
    client.ok(["ls", "--password-file", "password", &url]);
    let other = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    std::fs::write(
        client.config().join("known_servers"),
        format!("{} {other}\n", server.address),
    )
    .unwrap();
    let ended = client.run(["ls", "--password-file", "password", "--accept-new", &url]);
    ended.failed(6, &[other, &server.fingerprint, "known_servers"]);
}

#[test]
fn a_key_can_be_listed_by_file() {
    let server = Server::start();
    let client = server.client();
    let key = client.config().join("key.pub");
    server.user(&["add", "ann", "--key", key.to_str().unwrap()], "");
    client.ok(["ls", &format!("haul://ann@{}/", server.address)]);
    let list = haul().args(["user", "ls", "--state"]).arg(&server.state).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let ann = list.lines().find(|line| line.starts_with("ann ")).unwrap();
    let cells: Vec<&str> = ann.split_whitespace().collect();
    assert_eq!(cells, ["ann", "full", "/", "off", "no", "1", "0"], "{list}");
}

/// A user who may only write learns no names, and changes nothing that was there before.
#[test]
fn a_write_only_user_gets_the_same_answer_whatever_is_there() {
    let server = Server::start();
    for taken in ["taken/f", "file"] {
        write(&server.root.join("inbox").join(taken), b"x");
    }
    server.user(&["add", "dropper", "--write-only", "--root", "inbox"], "p");
    let client = Client::new();
    let run = |arguments: &[&str]| with_password(&client, &server, "dropper", "p", arguments);
    for path in ["taken", "file", "new"] {
        let url = format!("URL/{path}");
        let made = run(&["mkdir", &url]);
        assert_eq!((made.code, made.out.as_str()), (0, ""), "{made:?}");
    }
    write(&client.work().join("f"), b"new");
    let answers = ["none", "0123456789abcdef"].map(|version| {
        let put = ["put", "--if-version", version, "f"];
        ["URL/file", "URL/nothing"].map(|target| {
            let refused = run(&[&put[..], &[target]].concat());
            refused.failed(8, &["may only write"]);
            refused.err.replace("nothing", "file")
        })
    });
    assert!(
        answers.iter().flatten().all(|answer| *answer == answers[0][0]),
        "{answers:?}"
    );
    for option in ["--update", "--ignore-existing"] {
        run(&["put", option, "f", "URL/file"]).failed(8, &["may only write"]);
    }
    // directories that were there keep their mode and time; one that comes has its own
    let old = server.root.join("inbox/taken");
    let facts = |path: &Path| {
        let found = path.metadata().unwrap();
        (found.permissions().mode() & 0o7777, found.modified().unwrap())
    };
    let before = facts(&old);
    for dir in ["taken", "fresh"] {
        let here = client.work().join("tree").join(dir);
        std::fs::create_dir_all(&here).unwrap();
        set_mode(&here, 0o711);
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(86_400);
        std::fs::File::open(&here).unwrap().set_modified(long_ago).unwrap();
    }
    let put = run(&["put", "-r", "--json", "tree/.", "URL/"]);
    assert_eq!(put.code, 0, "{put:?}");
    assert_eq!(facts(&old), before);
    assert_eq!(facts(&server.root.join("inbox/fresh")).0, 0o711);
}

/// The outcomes of all offers of a transfer.
async fn outcomes(client: &mut ScriptedClient) -> BTreeMap<u64, proto::Outcome> {
    let mut outcomes = BTreeMap::new();
    loop {
        let control_message::Body::Transfer(message) =
            client.receive().await.expect("the server hung up")
        else {
            continue;
        };
        match message.body.unwrap() {
            transfer_message::Body::Results(found) => {
                outcomes
                    .extend(found.results.iter().map(|result| (result.number, result.outcome())));
            }
            transfer_message::Body::Finished(_) => return outcomes,
            transfer_message::Body::Cancel(cancel) => panic!("{cancel:?}"),
            _ => {}
        }
    }
}

/// The protocol tells a user who may only write no more than the commands show.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_only_users_messages_do_not_tell_what_is_there() {
    let server = Server::start();
    for taken in ["taken/f", "file"] {
        write(&server.root.join("inbox").join(taken), b"x");
    }
    std::os::unix::fs::symlink("taken", server.root.join("inbox/link")).unwrap();
    server.user(&["add", "dropper", "--write-only", "--root", "inbox"], "p");
    let mut client =
        ScriptedClient::connect_as(&server, &server.client_of("dropper"), SESSION).await;
    assert_eq!(client.try_login_as("dropper").await, None);
    let paths = [
        "/taken",
        "/file",
        "/link",
        "/file/beneath",
        "/nothing",
        "/nothing/beneath",
        "/",
    ];
    let mut number = 1;
    for path in paths {
        number += 1;
        let path = path.as_bytes().to_vec();
        let change = request::Body::ChangeDirectory(proto::ChangeDirectory { path });
        let reply = client.ask(number, change).await.unwrap();
        assert_eq!((reply.code, &*reply.text), (250, "working directory changed"), "{reply:?}");
    }
    let request::Body::Put(request) = put(1, b"/") else {
        unreachable!()
    };
    let request = request::Body::Put(proto::Put {
        directory: true,
        names: vec![b"taken".to_vec(), b"fresh".to_vec()],
        ..request
    });
    assert_eq!(client.ask(number + 1, request).await.unwrap().code, 150);
    let directory = |number| proto::Offer {
        source: u32::try_from(number).unwrap() - 1,
        ..offer(number, 0, b"", proto::Kind::Dir, 0)
    };
    let closed = |number| proto::Offer {
        number,
        closes: true,
        ..Default::default()
    };
    let all = vec![directory(1), closed(1), directory(2), closed(2)];
    client.transfer(1, offers(all)).await;
    let end = transfer_message::Body::End(proto::EndOfOffers::default());
    client.transfer(1, end).await;
    let committed = [1, 2].map(|number| (number, proto::Outcome::Committed));
    assert_eq!(outcomes(&mut client).await, BTreeMap::from(committed));
    assert!(server.root.join("inbox/fresh").is_dir());
}

/// A next step that the user may not take is no help.
#[test]
fn a_login_tells_what_this_user_may_do_next() {
    let server = Server::start();
    server.user(&["add", "dropper", "--write-only", "--invited"], "");
    for (user, next, not) in
        [("kim", "haul ls srv:", "put"), ("dropper", "haul put FILE srv:", "ls")]
    {
        let address = server.address.to_string();
        let login = Client::new()
            .run_with(["login", "--name", "srv", &address], server.invite(user).as_bytes());
        assert!(login.code == 0 && login.err.contains(next), "{login:?}");
        assert!(!login.err.contains(&format!("haul {not}")), "{login:?}");
    }
}

/// After a lost stream a hint names the command to check it, if the user may use it.
#[test]
fn a_lost_stream_tells_what_this_user_may_do_next() {
    use std::process::Stdio;
    let mut server = Server::start();
    server.user(&["add", "dropper", "--write-only", "--invited"], "");
    for (user, next) in [("kim", "check with haul stat"), ("dropper", "send it again")] {
        let client = Client::new();
        let address = server.address.to_string();
        let login =
            client.run_with(["login", "--name", "srv", &address], server.invite(user).as_bytes());
        assert_eq!(login.code, 0, "{login:?}");
        let mut put = client.command(["put", "-", &format!("srv:{user}")]);
        let (stdin, stderr) = (Stdio::piped(), Stdio::piped());
        let mut put = put.stdin(stdin).stderr(stderr).spawn().unwrap();
        // haul would retry a stream of which nothing was read
        let mut open = put.stdin.take().unwrap();
        std::io::Write::write_all(&mut open, &vec![1; 2 << 20]).unwrap();
        let staged = staged(&server.root.join(user));
        crate::support::until("some of the stream is there", || {
            std::fs::metadata(&staged).is_ok_and(|m| m.len() > 0)
        });
        server.kill();
        server.restart();
        let ended = crate::support::Ended::of(put.wait_with_output().unwrap());
        assert!(ended.code == 4 && ended.err.contains(next), "{ended:?}");
    }
}

#[test]
fn read_only_write_only_and_a_root_of_ones_own() {
    let server = Server::start();
    write(&server.root.join("public/f"), b"x");
    write(&server.root.join("private"), b"x");
    server.user(&["add", "reader", "--read-only", "--root", "public"], "p");
    server.user(&["add", "dropper", "--write-only", "--root", "inbox/here"], "p");
    let client = Client::new();
    write(&client.work().join("f"), b"new");
    let run =
        |user: &str, arguments: &[&str]| with_password(&client, &server, user, "p", arguments);
    assert_eq!(run("reader", &["ls", "URL/"]).out, "f\n");
    assert_eq!(run("reader", &["get", "URL/f", "got"]).code, 0);
    for command in [
        &["put", "f", "URL/"][..],
        &["mkdir", "URL/d"],
        &["rm", "URL/f"],
        &["mv", "URL/f", "URL/g"],
    ] {
        run("reader", command).failed(8, &["may only read"]);
    }
    assert_eq!(std::fs::read(server.root.join("public/f")).unwrap(), b"x");
    assert_eq!(run("dropper", &["put", "f", "URL/"]).code, 0);
    assert_eq!(run("dropper", &["mkdir", "URL/d"]).code, 0);
    for command in [
        &["ls", "URL/"][..],
        &["get", "URL/f", "g"],
        &["rm", "URL/f"],
        &["stat", "URL/f"],
        &["df", "URL/"],
        &["mv", "URL/f", "URL/g"],
    ] {
        run("dropper", command).failed(8, &["may only put"]);
    }
    assert_eq!(std::fs::read(server.root.join("inbox/here/f")).unwrap(), b"new");
    // a write-only user does not learn that the same file is there, nor who is writing one
    let again = run("dropper", &["put", "--json", "f", "URL/"]);
    assert!(!again.out.contains("\"event\":\"unchanged\""), "{again:?}");
    let everything = server.client();
    let mut command = everything.command(["put", "-", "srv:inbox/here/f"]);
    let mut writer = command
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("it is being written", || staged(&server.root.join("inbox/here/f")).exists());
    let locked = run("dropper", &["put", "f", "URL/"]);
    locked.failed(7, &["another writer"]);
    assert!(!locked.err.contains("kim"), "{locked:?}");
    let _ = (writer.kill(), writer.wait());
}

#[test]
fn secrets_are_not_in_argv_or_the_log() {
    let mut server = Server::with(&["-v"]);
    server.user(&["add", "pat"], "correct-horse");
    let client = Client::new();
    with_password(&client, &server, "pat", "correct-horse", &["ls", "URL/"]);
    with_password(&client, &server, "pat", "wrong-staple", &["ls", "URL/"]);
    let log = server.log();
    assert!(log.contains("login refused") && log.contains("pat@"), "{log}");
    assert!(!log.contains("correct-horse") && !log.contains("wrong-staple"), "{log}");
}

#[test]
fn users_are_managed_with_clear_errors() {
    let server = Server::start();
    let user = |arguments: &[&str], input: &str| {
        let mut command = haul();
        command.arg("user").args(arguments).arg("--state").arg(&server.state);
        let output = run_with(command, input.as_bytes());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(user(&["add", "pat"], "pw").0, 0);
    let cases = [
        (&["add", "pat"][..], "pw", 1, "already"),
        (&["add", "sam"], "\n", 1, "empty"),
        (&["add", "sam"], "", 1, "no password was given"),
        (&["add", "-- -x"], "pw", 2, ""),
        (&["add", "a b"], "pw", 2, "user name"),
        (&["add", "sam", "--root", "../x"], "pw", 2, "beneath the root"),
        (&["add", "sam", "--key", "/nonexistent"], "", 1, "/nonexistent"),
        (&["rm", "sam"], "", 1, "no user sam"),
        (&["passwd", "sam"], "x", 1, "no user sam"),
    ];
    for (arguments, input, code, word) in cases {
        let (got, err) = user(arguments, input);
        assert!(got == code && err.contains(word), "{arguments:?}: {got} {err}");
    }
}
