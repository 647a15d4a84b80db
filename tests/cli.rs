//! The commands as a user sees them: results, bad input, exit codes.

use crate::support::tree::{bytes, set_mode, write};
use crate::support::{Client, Server, haul, run_with};
use std::io::Read;
use std::process::Stdio;

#[test]
fn ls_mkdir_mv_rm_stat_df() {
    let server = Server::start();
    let client = server.client();
    client.ok(["mkdir", "srv:d"]);
    client.run(["mkdir", "srv:d"]).failed(1, &["srv:d", "exists"]);
    client.ok(["mkdir", "-p", "srv:d", "srv:x/y/z"]);
    write(&server.root.join("d/f"), b"12345");
    write(&server.root.join(".hidden"), b"");
    std::os::unix::fs::symlink("d/f", server.root.join("link")).unwrap();
    assert_eq!(client.ok(["ls", "srv:"]), "d\nlink\nx\n");
    assert_eq!(client.ok(["ls", "-a", "srv:"]), ".hidden\nd\nlink\nx\n");
    let long = client.ok(["ls", "-l", "srv:"]);
    assert!(long.contains("drwx") && long.contains("link -> d/f"), "{long}");
    assert!(client.ok(["ls", "-lh", "srv:d/f"]).contains("5 B"));
    assert_eq!(client.ok(["ls", "-R", "srv:x"]), "srv:x:\ny\n\nsrv:x/y:\nz\n\nsrv:x/y/z:\n");
    let json = client.ok(["ls", "-R", "--json", "srv:"]);
    let entries: Vec<serde_json::Value> =
        json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let file = entries.iter().find(|e| e["path"] == "d/f").unwrap();
    assert_eq!(
        (&file["name"], &file["kind"], &file["size"]),
        (&"f".into(), &"file".into(), &5.into())
    );
    let link = entries.iter().find(|e| e["path"] == "link").unwrap();
    assert_eq!((&link["kind"], &link["target"]), (&"symlink".into(), &"d/f".into()));

    client.ok(["mv", "srv:d/f", "srv:g"]);
    client.ok(["mv", "srv:g", "srv:x"]);
    assert!(server.root.join("x/g").exists());
    client.run(["rm", "srv:x"]).failed(1, &["srv:x", "not empty"]);
    client
        .run(["rm", "srv:nothing"])
        .failed(8, &["srv:nothing", "no such file"]);
    client.ok(["rm", "-f", "srv:nothing"]);
    client.ok(["rm", "-f", "srv:nothing*", "srv:nothing"]);
    client.ok(["rm", "-rf", "srv:nothing*"]);
    client.run(["rm", "srv:nothing*"]).failed(8, &["srv:nothing*", "no match"]);
    client.ok(["rm", "-r", "srv:x"]);
    client.run(["rm", "-r", "srv:"]).failed(8, &["permission"]);
    let some = client.run(["rm", "srv:link", "srv:nothing"]);
    assert_eq!(some.code, 3, "{some:?}");

    let stat = client.ok(["stat", "srv:d"]);
    assert!(stat.contains("kind      dir"), "{stat}");
    assert!(client.ok(["df", "srv:"]).contains("free"));
}

/// What is reserved for the system is not in use.
/// With a slash at its end a name is that of a directory, or of nothing.
#[test]
fn a_directory_that_is_not_there_receives_nothing() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("a"), b"a");
    write(&server.root.join("file"), b"f");
    client
        .run(["mv", "srv:a", "srv:new/"])
        .failed(8, &["srv:new/", "no such directory: new"]);
    client
        .run(["mv", "srv:a", "srv:new/."])
        .failed(8, &["no such directory: new"]);
    client
        .run(["mv", "srv:a", "srv:file/"])
        .failed(1, &["srv:file/", "not a directory"]);
    assert_eq!(client.ok(["ls", "srv:"]), "a\nfile\n");
    client.ok(["mkdir", "srv:new"]);
    client.ok(["mv", "srv:a", "srv:new/"]);
    assert_eq!(client.ok(["ls", "srv:new"]), "a\n");
}

/// A stream has no name that it could have in a directory.
#[test]
fn a_stream_does_not_go_into_a_directory() {
    let server = Server::start();
    let client = server.client();
    std::fs::create_dir(server.root.join("sub")).unwrap();
    let put = |arguments: &[&str]| client.run_with(arguments, b"content");
    put(&["put", "-", "srv:sub"]).failed(1, &["srv:sub: it is a directory"]);
    put(&["put", "-r", "-", "srv:sub"]).failed(1, &["it is a directory"]);
    assert_eq!(client.ok(["ls", "srv:sub"]), "");
    assert_eq!(put(&["put", "-", "srv:sub/name"]).code, 0);
    assert_eq!(put(&["put", "-", "srv:sub/name"]).code, 0, "a file there is replaced");
    let json = put(&["put", "--json", "-", "srv:sub/name"]);
    let objects: Vec<serde_json::Value> =
        json.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (&objects[0]["size"], &objects[1]["bytes"]),
        (&7.into(), &7.into()),
        "{json:?}"
    );
}

#[test]
fn stat_has_nanoseconds_and_octal_modes() {
    let server = Server::start();
    let client = server.client();
    let path = server.root.join("f");
    write(&path, b"x");
    set_mode(&path, 0o640);
    crate::support::tree::set_mtime(&path, 42);
    let stat: serde_json::Value =
        serde_json::from_str(&client.ok(["stat", "--json", "srv:f"])).unwrap();
    assert_eq!(stat["mtime"], "2009-02-13T23:31:30.000000042Z");
    assert_eq!(stat["mode"], "0640");
    assert_eq!(stat["path"], "f");
}

#[test]
fn bad_input_is_one_clear_line_and_changes_nothing() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), b"x");
    write(&client.work().join("d/g"), b"x");
    write(&server.root.join("dir/x"), b"x");
    client.run(["put", "missing", "srv:"]).failed(8, &["missing"]);
    client.run(["put", "d", "srv:"]).failed(2, &["d: it is a directory", "-r"]);
    client
        .run(["get", "srv:missing", "x"])
        .failed(8, &["missing", "no such file"]);
    client.run(["get", "srv:dir", "x"]).failed(2, &["dir", "directory", "-r"]);
    client.run(["put", "f", "srv:../x"]).failed(2, &["srv:../x", ".."]);
    client.run(["put", "f", "g"]).failed(2, &["not a remote path"]);
    client.run(["get", "f", "g"]).failed(2, &["not a remote path"]);
    client
        .run(["put", "srv:dir/x", "srv:y"])
        .failed(2, &["not on this machine"]);
    client.run(["put", "f", "-", "srv:x"]).failed(2, &["put alone"]);
    client.run(["put", "-", "srv:"]).failed(2, &["a stream needs a file name"]);
    client.run(["put", "f", "d/../f", "srv:dir"]).failed(2, &["two sources"]);
    let own = crate::support::tree::staged(std::path::Path::new("f"));
    let own = format!("srv:{}", own.display());
    client.run(["put", "f", &own]).failed(2, &["are haul's own"]);
    client
        .run(["put", "f", "srv:dir/x/y"])
        .failed(1, &["srv:dir/x/y", "not a directory"]);
    let over = client.run(["put", "-r", "d", "srv:dir/x"]);
    assert!(
        over.code == 1 && over.err.contains("haul: srv:dir/x: not a directory"),
        "{over:?}"
    );
    client.run(["frobnicate"]).failed_usage();
    client.run(["put"]).failed_usage();
    client
        .run(["ls", "no-such-host.invalid:"])
        .failed(4, &["no-such-host.invalid: no haul server", "over ssh"]);
    client
        .run(["ls", "haul://no-such-host.invalid/"])
        .failed(4, &["cannot connect", "no-such-host.invalid"]);
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    client
        .run(["ls", &format!("haul://{unused}/")])
        .failed(4, &["cannot connect", "refused"]);
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 1);
}

/// A source that cannot be had is named, and the others go on.
#[test]
fn one_missing_source_stops_neither_a_put_nor_a_get() {
    let server = Server::start();
    let client = server.client();
    for at in [&server.root, &client.work()] {
        write(&at.join("f"), b"f");
        write(&at.join("g"), b"g");
        write(&at.join("dir/x"), b"x");
        std::fs::create_dir(at.join("into")).unwrap();
    }
    let put = client.run(["put", "f", "missing", "dir", "g", "srv:into"]);
    let get = client.run(["get", "srv:f", "srv:missing", "srv:dir", "srv:g", "into"]);
    for (ended, at) in [(put, &server.root), (get, &client.work())] {
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.err.contains("haul: missing: "), "{ended:?}");
        assert!(ended.err.contains("no such file or directory\n"), "{ended:?}");
        assert!(
            ended.err.contains("haul: dir: ") && ended.err.contains("(use -r for directories)\n"),
            "{ended:?}"
        );
        let arrived: Vec<_> = std::fs::read_dir(at.join("into"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(arrived.len(), 2, "{arrived:?}");
    }
}

/// Exit 3 says that something was done.
#[test]
fn where_nothing_was_done_the_exit_code_says_so() {
    let server = Server::start();
    let client = server.client();
    for at in [&server.root, &client.work()] {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at.join("pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        write(&at.join("from/tree/sub/x"), b"x");
        write(&at.join("to/tree/sub"), b"a file in the way");
    }
    assert_eq!(client.run(["put", "missing", "gone", "srv:to/"]).code, 8);
    assert_eq!(client.run(["put", "missing", "pipe", "srv:to/"]).code, 1);
    assert_eq!(client.run(["get", "srv:missing", "srv:gone", "to"]).code, 8);
    assert_eq!(client.run(["get", "srv:missing", "srv:pipe", "to"]).code, 1);
    assert_eq!(client.run(["rm", "srv:missing", "srv:from"]).code, 1);
    // the directory is there as it was before
    assert_eq!(client.run(["put", "-r", "from/tree", "srv:to"]).code, 1);
    assert_eq!(client.run(["get", "-r", "srv:from/tree", "to"]).code, 1);
    write(&client.work().join("from/tree/y"), b"y");
    assert_eq!(client.run(["put", "-r", "from/tree", "srv:to"]).code, 3);
}

impl crate::support::Ended {
    fn failed_usage(&self) {
        assert_eq!(self.code, 2, "{self:?}");
        assert!(self.err.contains("Usage"), "{self:?}");
    }
}

#[test]
fn without_permission_on_either_side() {
    if !rustix::process::geteuid().is_root() {
        let server = Server::start();
        let client = server.client();
        write(&client.work().join("secret"), b"x");
        set_mode(&client.work().join("secret"), 0);
        client
            .run(["put", "secret", "srv:"])
            .failed(8, &["secret", "permission denied"]);
        std::fs::create_dir(server.root.join("closed")).unwrap();
        set_mode(&server.root.join("closed"), 0o500);
        write(&client.work().join("f"), b"x");
        client.run(["put", "f", "srv:closed/"]).failed(8, &["permission denied"]);
        return;
    }
    // Root may do everything but write to what the system itself protects.
    let server = Server::on(std::path::Path::new("/proc/self"));
    let client = server.client();
    write(&client.work().join("f"), b"x");
    let put = client.run(["put", "f", "srv:new"]);
    assert!(matches!(put.code, 1 | 8), "{put:?}");
    put.failed(put.code, &["f: "]);
}

#[test]
fn malformed_settings_are_named_with_line_and_reason() {
    let server = Server::start();
    let client = server.client();
    let known = client.config().join("known_servers");
    let good = std::fs::read_to_string(&known).unwrap();
    std::fs::write(&known, format!("{good}what is this\n")).unwrap();
    client.run(["ls", "srv:"]).failed(1, &["known_servers:2:", "fingerprint"]);
    std::fs::write(&known, good).unwrap();
    let saved = client.config().join("servers");
    std::fs::write(&saved, "srv host=x port=none\n").unwrap();
    client.run(["ls", "srv:"]).failed(1, &["servers:1:", "none is not a port"]);
    std::fs::write(client.config().join("key"), "garbage").unwrap();
    std::fs::remove_file(&saved).unwrap();
    client.run(["ls", "x:"]).failed(1, &["key", "PEM"]);

    std::fs::write(server.state.join("users"), "kim shell=no\n").unwrap();
    let mut command = haul();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--state"])
        .arg(&server.state)
        .arg(&server.root);
    let output = run_with(command, b"");
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("users:1: shell"), "{err}");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |arguments: &[&str]| {
        let mut command = haul();
        command.arg("serve").args(arguments).current_dir(dir.path());
        let output = run_with(command, b"");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = serve(&["--state", "s", "missing"]);
    assert!(code == 8 && err.contains("missing"), "{err}");
    let (code, err) = serve(&["--state", "./inside", "."]);
    assert!(code == 2 && err.contains("would be served"), "{err}");
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, err) =
        serve(&["--state", "s", "--listen", &taken.local_addr().unwrap().to_string(), "root"]);
    assert!(code == 1 && err.contains("cannot listen"), "{err}");
    let (code, err) = serve(&["--state", "s", "--listen", "nonsense", "root"]);
    assert!(code == 2 && err.contains("--listen nonsense"), "{err}");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let server = Server::start();
    let client = server.client();
    for i in 0..2000 {
        write(&server.root.join(format!("some-longer-name-{i}")), b"");
    }
    let mut child = client
        .command(["ls", "-R", "--json", "srv:"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(crate::support::wait(&mut child).code(), Some(0));
}

#[test]
fn quiet_is_quiet_and_output_goes_where_it_belongs() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("f"), &bytes(1, 100));
    let put = client.run(["put", "-q", "f", "srv:"]);
    assert_eq!((put.code, put.out.as_str(), put.err.as_str()), (0, "", ""));
    let put = client.run(["put", "f", "srv:g"]);
    assert!(
        put.out.is_empty() && put.err.starts_with("put: 1 file, 100 B in "),
        "{put:?}"
    );
    let put = client.run(["put", "-v", "f", "srv:h"]);
    assert!(put.out.is_empty() && put.err.starts_with("f\n"), "{put:?}");
    let json = client.run(["get", "--json", "srv:f", "x"]);
    assert!(json.err.is_empty() && json.out.lines().count() == 2, "{json:?}");
}

#[test]
fn every_command_has_help_with_examples() {
    let help = |words: &[&str], columns: &str| {
        let ended = Client::new().with_env("COLUMNS", columns).run(words);
        assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
        ended.out
    };
    let listed = help(&["--help"], "80");
    let (_, commands) = listed.split_once("Commands:\n").unwrap();
    let commands: Vec<&str> = commands
        .lines()
        .map_while(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"serve") && commands.contains(&"generate"));
    let examples = |text: &str| {
        let (_, rest) = text.split_once("\nExample")?;
        rest.split("\n\n").next().map(str::to_string)
    };
    for command in commands {
        let text = help(&["help", command], "80");
        assert!(examples(&text).is_some(), "{command}: {text}");
        assert_eq!(text, help(&[command, "--help"], "80"));
        // they fit: wider terminals show the same
        assert_eq!(examples(&text), examples(&help(&[command, "--help"], "100")), "{command}");
    }
    assert_eq!(examples(&listed), examples(&help(&["--help"], "100")));
    assert!(help(&["put", "--help"], "100").contains("a week if none is given"));
}

#[test]
fn a_large_directory_is_listed_in_pages() {
    let server = Server::start();
    let client = server.client();
    std::fs::create_dir(server.root.join("d")).unwrap();
    for i in 0..3000 {
        std::fs::write(server.root.join(format!("d/{i:05}")), b"").unwrap();
    }
    let names: Vec<String> = client.ok(["ls", "srv:d"]).lines().map(str::to_string).collect();
    let expected: Vec<String> = (0..3000).map(|i| format!("{i:05}")).collect();
    assert_eq!(names, expected);
}

/// As with any command whose reader has enough.
#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("large"), &bytes(1, 6 << 20));
    for words in [["cat", "srv:large"].as_slice(), &["get", "srv:large", "-"]] {
        let mut command = client.command(words);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), said.as_ref()), (Some(0), ""), "{words:?}");
    }
}
