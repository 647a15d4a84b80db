//! Names that make trouble, on the way and on the terminal.

use crate::support::Server;
use crate::support::tree::{bytes, record_of, snapshot, staged, write};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn odd_names_go_there_and_back_byte_for_byte() {
    let server = Server::start();
    let client = server.client();
    let long = [b'n'; 255];
    let names: [&[u8]; 9] = [
        b"\xff\xfe not utf-8",
        b" spaces ",
        b"quo\"te's",
        b"new\nline",
        b"-rf",
        b"--help",
        b"a:b",
        &long,
        b"\x1b[31mred",
    ];
    for (i, name) in names.iter().enumerate() {
        write(
            &client.work().join("t").join(OsStr::from_bytes(name)),
            &bytes(i as u64 + 1, 3),
        );
        write(
            &client.work().join("t/d").join(OsStr::from_bytes(name)).join("big"),
            &bytes(i as u64, (1 << 20) + 9),
        );
    }
    client.ok(["put", "-r", "t", "srv:"]);
    client.ok(["get", "-r", "srv:t/", "back"]);
    assert_eq!(snapshot(&client.work().join("t")), snapshot(&client.work().join("back")));
    // a 255-byte name has a shortened partial file
    write(&client.work().join(OsStr::from_bytes(&long)), &bytes(1, 3 << 20));
    client.ok([OsStr::new("put"), OsStr::from_bytes(&long), OsStr::new("srv:")]);
}

#[test]
fn listings_are_lossless_in_json_and_harmless_on_a_terminal() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join(OsStr::from_bytes(b"a\xff\x1b[31m\n\xe2\x80\xae")), b"x");
    let out = client.ok(["ls", "srv:"]);
    assert!(
        !out.contains('\x1b') && !out.contains('\u{202e}') && out.lines().count() == 1,
        "{out:?}"
    );
    let json: serde_json::Value =
        serde_json::from_str(client.ok(["ls", "--json", "srv:"]).trim()).unwrap();
    use base64::Engine;
    let name = base64::engine::general_purpose::STANDARD
        .decode(json["name_bytes"].as_str().unwrap())
        .unwrap();
    assert_eq!(name, b"a\xff\x1b[31m\n\xe2\x80\xae");
    let verbose = client.run(["get", "-rv", "srv:", "all"]);
    assert!(!verbose.err.contains('\x1b'), "{verbose:?}");
}

#[test]
fn a_path_that_is_too_long_fails_alone() {
    let server = Server::start();
    let client = server.client();
    // Deeper than a path can be: made, and removed again, level by level.
    let mut dir =
        rustix::fs::open(client.work().join(""), rustix::fs::OFlags::RDONLY, 0.into()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o755);
    for name in std::iter::once("t".to_string()).chain((0..25).map(|_| "d".repeat(200))) {
        rustix::fs::mkdirat(&dir, &name, mode).unwrap();
        dir = rustix::fs::openat(&dir, &name, rustix::fs::OFlags::RDONLY, 0.into()).unwrap();
    }
    write(&client.work().join("t/fine"), b"x");
    let put = client.run(["put", "-r", "t", "srv:"]);
    assert_eq!(put.code, 3, "{put:?}");
    assert!(put.err.contains("too long"), "{put:?}");
    assert!(server.root.join("t/fine").exists());
    client.ok(["rm", "-r", "srv:t"]);
    assert!(!server.root.join("t").exists());
}

#[test]
fn reserved_names_are_refused_and_not_shown() {
    let server = Server::start();
    let client = server.client();
    write(&staged(&server.root.join("d/x")), b"left over");
    write(&record_of(&server.root.join("d/x")), b"left over");
    write(&server.root.join("d/y"), b"y");
    assert_eq!(client.ok(["ls", "-a", "srv:d"]), "y\n");
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_string();
    let x = name(&staged(std::path::Path::new("x")));
    let get = client.run(["get", &format!("srv:d/{x}"), "x"]);
    get.failed(2, &["are haul's own"]);
    let y = staged(&client.work().join("y"));
    write(&y, b"x");
    let put = client.run(["put", &name(&y), "srv:"]);
    put.failed(1, &[&name(&y), "are haul's own"]);
    client.ok(["get", "-r", "srv:d/", "back"]);
    assert_eq!(std::fs::read_dir(client.work().join("back")).unwrap().count(), 1);
    client.ok(["rm", "srv:d/y"]);
    client.ok(["rm", "srv:d"]);
    assert!(!server.root.join("d").exists(), "what dead writers left is not in the way");
}

#[test]
fn a_file_that_is_being_replaced_is_found_at_any_moment() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("x"), b"0");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                write(&server.root.join(".y"), b"1");
                std::fs::rename(server.root.join(".y"), server.root.join("x")).unwrap();
            }
        });
        let puts = (0..100).map(|_| client.run(["put", "--checksum", "/etc/hostname", "srv:x"]));
        let failed = puts.into_iter().find(|put| put.code != 0);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}
