//! Sources of which only some paths are sent, each under its own: -R and --files-from; and sources
//! that are removed once they have arrived.

use crate::support::Server;
use crate::support::tree::{set_mode, set_mtime, snapshot, write};
use std::path::Path;
use std::process::Command;

fn names(top: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(top).min_depth(1).sort_by_file_name();
    let entries = entries.into_iter().map(Result::unwrap);
    entries
        .map(|entry| entry.path().strip_prefix(top).unwrap().display().to_string())
        .collect()
}

fn tree(top: &Path) {
    for path in ["a/b/c/f", "a/b/g", "a/h", "d/e", "d/i", "k"] {
        write(&top.join(path), path.as_bytes());
        set_mtime(&top.join(path), 1_000_000_000_000_000_000);
    }
    for (dir, mode) in [("a/b/c", 0o755), ("a/b", 0o700), ("a", 0o750), ("d", 0o755), ("", 0o755)] {
        set_mode(&top.join(dir), mode);
        set_mtime(&top.join(dir), 1_000_000_000_000_000_000);
    }
}

/// The same as rsync makes, with the modes and times of the directories on the way.
#[test]
fn relative_sources_go_to_their_whole_paths() {
    let server = Server::start();
    let client = server.client();
    let work = client.work();
    tree(&work.join("src"));
    tree(&server.root.join("src"));
    for (number, sources) in
        ["src/a/b src/k", "src/./a/b/c src/./d/e", "src/a/./b/ src/d/e", "./src/a/h"]
            .into_iter()
            .enumerate()
    {
        let sources: Vec<&str> = sources.split(' ').collect();
        let wanted = work.join(format!("rsync{number}"));
        std::fs::create_dir(&wanted).unwrap();
        let mut rsync = Command::new("rsync");
        let rsync = rsync.current_dir(&work).arg("-aR").args(&sources).arg(&wanted);
        assert!(rsync.status().unwrap().success());
        let mut wanted = snapshot(&wanted);
        let (put, copy, got) =
            (format!("put{number}"), format!("copy{number}"), format!("got{number}"));
        let run = |verb: &str, sources: Vec<String>, to: String| {
            let words = [verb.to_string(), "-aR".into()].into_iter().chain(sources).chain([to]);
            client.ok(words);
        };
        let local = || sources.iter().map(|source| source.to_string()).collect::<Vec<_>>();
        let remote = || sources.iter().map(|source| format!("srv:{source}")).collect();
        run("put", local(), format!("srv:{put}"));
        run("cp", local(), copy.clone());
        run("get", remote(), got.clone());
        for made in [server.root.join(put), work.join(copy), work.join(got)] {
            let mut made = snapshot(&made);
            // DEST itself is no part of it
            made.remove(Path::new(""));
            wanted.remove(Path::new(""));
            assert_eq!(made, wanted, "{sources:?}");
        }
    }
}

#[test]
fn a_destination_that_is_there_stays_as_it_is_but_for_what_is_sent() {
    let server = Server::start();
    let client = server.client();
    tree(&client.work().join("src"));
    let dest = server.root.join("dest");
    for path in ["a/b/c/old", "a/b/old", "a/old", "old"] {
        write(&dest.join(path), b"old");
    }
    set_mode(&dest, 0o711);
    client.ok(["put", "-aR", "--delete", "src/./a/b/c", "srv:dest"]);
    // only what is sent whole is mirrored
    assert!(!dest.join("a/b/c/old").exists() && dest.join("a/b/c/f").exists());
    assert!(dest.join("a/b/old").exists() && dest.join("old").exists());
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&dest.metadata().unwrap()) & 0o777,
        0o711
    );
    let refused = client.run(["put", "-aR", "src/../src/a", "srv:dest"]);
    refused.failed(2, &["-R src/../src/a", "/./"]);
}

#[test]
fn a_list_says_what_is_sent() {
    let server = Server::start();
    let client = server.client();
    let work = client.work();
    tree(&work.join("src"));
    tree(&server.root.join("src"));
    write(&work.join("list"), b"# some\na/b/g\r\n./d/e\n\nk\nd\n");
    let wanted = ["a", "a/b", "a/b/g", "d", "d/e", "k"];
    client.ok(["put", "-a", "--files-from=list", "src", "srv:put"]);
    assert_eq!(names(&server.root.join("put")), wanted);
    client.ok(["get", "-a", "--files-from", "list", "srv:src", "got"]);
    assert_eq!(names(&work.join("got")), wanted);
    client.ok(["cp", "-a", "--files-from=list", "src/", "copy"]);
    assert_eq!(names(&work.join("copy")), wanted);
    // with -r all of d is meant
    client.ok(["cp", "-ar", "--files-from=list", "src/", "all"]);
    assert!(work.join("all/d/i").exists());
    // from standard input, each with a NUL, and rules hold
    let mut command =
        client.command(["put", "-a0", "--files-from=-", "--exclude=e", "src/", "srv:zero"]);
    command.stdin(std::process::Stdio::piped());
    let out = crate::support::run_with(command, b"d/e\0a/h\0");
    assert!(out.status.success(), "{out:?}");
    assert_eq!(names(&server.root.join("zero")), ["a", "a/h", "d"]);
    // an empty one is a transfer of nothing
    write(&work.join("none"), b"");
    client.ok(["put", "-a", "--files-from=none", "src", "srv:none"]);
    assert_eq!(names(&server.root.join("none")), [""; 0]);
}

#[test]
fn a_list_that_leads_out_of_the_source_is_refused() {
    let server = Server::start();
    let client = server.client();
    tree(&client.work().join("src"));
    tree(&server.root.join("src"));
    let list = client.work().join("list");
    for (line, named) in [("a/../../x", "line 2: "), ("/etc/passwd", "/etc/passwd is not within")] {
        write(&list, format!("k\n{line}\n").as_bytes());
        for words in [
            ["put", "-a", "--files-from=list", "src", "srv:dest"],
            ["get", "-a", "--files-from=list", "srv:src", "dest"],
        ] {
            client.run(words).failed(2, &["--files-from list, line 2", named]);
        }
    }
    assert!(!server.root.join("dest").exists() && !client.work().join("dest").exists());
    // a path that leads into it is one of it
    let inside = client.work().join("src/k").display().to_string();
    write(&list, inside.as_bytes());
    client.ok(["put", "-a", "--files-from=list", "src", "srv:dest"]);
    write(&list, b"/src/k\n");
    client.ok(["get", "-a", "--files-from=list", "srv:/src", "dest"]);
    assert_eq!(names(&server.root.join("dest")), ["k"]);
    assert_eq!(names(&client.work().join("dest")), ["k"]);
    client
        .run(["put", "--files-from=list", "src", "src", "srv:"])
        .failed(2, &["one SRC"]);
    client
        .run(["put", "-a", "--delete", "--files-from=list", "src", "srv:"])
        .failed(2, &["--delete", "-r"]);
}

#[test]
fn what_a_list_names_and_is_not_there_fails_by_name() {
    let server = Server::start();
    let client = server.client();
    tree(&client.work().join("src"));
    tree(&server.root.join("src"));
    write(&client.work().join("list"), b"k\nmissing\nk/beneath\nd/e\n");
    for words in [
        ["put", "-a", "--files-from=list", "src", "srv:dest"],
        ["get", "-a", "--files-from=list", "srv:src", "dest"],
    ] {
        let ended = client.run(words);
        assert!(ended.code == 3, "{ended:?}");
        for (name, why) in
            [("src/missing: ", "no such file"), ("src/k/beneath: ", "not a directory")]
        {
            let mut lines = ended.err.lines();
            assert!(lines.any(|line| line.contains(name) && line.contains(why)), "{ended:?}");
        }
    }
    assert_eq!(names(&server.root.join("dest")), ["d", "d/e", "k"]);
    assert_eq!(names(&client.work().join("dest")), ["d", "d/e", "k"]);
}

/// More paths than one request of a get may have.
#[test]
fn a_long_list_is_sent_completely() {
    let server = Server::start();
    let client = server.client();
    let mut list = Vec::new();
    for n in 0..2500 {
        let path = format!("{}/{n}-{}", n % 7, "x".repeat(40));
        write(&server.root.join("src").join(&path), b"");
        list.extend_from_slice(path.as_bytes());
        list.push(b'\n');
    }
    assert!(list.len() > 64 << 10);
    write(&server.root.join("src/0/other"), b"");
    write(&client.work().join("list"), &list);
    client.ok(["get", "-q", "--files-from=list", "srv:src", "dest"]);
    assert_eq!(names(&client.work().join("dest")).len(), 2500 + 7);
    client.ok(["cp", "-q", "--files-from=list", "dest", "copy"]);
    assert_eq!(names(&client.work().join("copy")).len(), 2500 + 7);
}

#[test]
fn sources_are_removed_once_they_have_arrived() {
    let server = Server::start();
    let client = server.client();
    for (verb, from, to) in [
        ("put", "src/", "srv:dest"),
        ("get", "srv:src/", "dest"),
        ("cp", "src/", "copy"),
    ] {
        let (at_source, at_dest) = match verb {
            "put" => (client.work().join("src"), server.root.join("dest")),
            "get" => (server.root.join("src"), client.work().join("dest")),
            _ => (client.work().join("src"), client.work().join("copy")),
        };
        tree(&at_source);
        std::os::unix::fs::symlink("k", at_source.join("link")).unwrap();
        // one is there already, and one stands in the way of another
        write(&at_dest.join("k"), b"k");
        set_mtime(&at_dest.join("k"), 5_000_000_000);
        set_mtime(&at_source.join("k"), 5_000_000_000);
        write(&at_dest.join("d/e/in/the/way"), b"x");
        let ended = client.run([verb, "-a", "--remove-source-files", from, to]);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert_eq!(names(&at_source), ["a", "a/b", "a/b/c", "d", "d/e"], "{verb}");
        assert!(at_dest.join("a/b/c/f").is_file() && at_dest.join("link").is_symlink());
        // what is left is done once the way is free
        std::fs::remove_dir_all(at_dest.join("d/e")).unwrap();
        client.ok([verb, "-a", "--remove-source-files", from, to]);
        assert_eq!(names(&at_source), ["a", "a/b", "a/b/c", "d"], "{verb}");
    }
    // single files, under another name; a dry run, and what is skipped, change nothing
    write(&client.work().join("one"), b"1");
    client.ok(["put", "-n", "--remove-source-files", "one", "srv:two"]);
    write(&server.root.join("two"), b"other");
    client.ok(["put", "--ignore-existing", "--remove-source-files", "one", "srv:two"]);
    assert!(client.work().join("one").exists());
    client.ok(["put", "--remove-source-files", "one", "srv:two"]);
    assert!(!client.work().join("one").exists());
    client.ok(["get", "--remove-source-files", "srv:two", "three"]);
    assert!(!server.root.join("two").exists());
    assert_eq!(std::fs::read(client.work().join("three")).unwrap(), b"1");
    client
        .run(["cp", "-aL", "--remove-source-files", "src", "x"])
        .failed(2, &["-L"]);
}

#[test]
fn a_user_who_may_only_read_has_no_sources_removed() {
    let server = Server::start();
    server.user(&["add", "reader", "--read-only"], "p");
    let reader = server.client_of("reader");
    write(&server.root.join("f"), b"f");
    let ended = reader.run(["get", "--remove-source-files", "srv:f", "."]);
    ended.failed(8, &["may only read"]);
    assert!(server.root.join("f").exists() && !reader.work().join("f").exists());
}

/// What would be the only copy, or was never sent, is not removed.
#[test]
fn nothing_is_removed_that_is_not_elsewhere() {
    let server = Server::start();
    let client = server.client();
    let work = client.work();
    let there = |path: &str| work.join(path).symlink_metadata().is_ok();
    // a dry run, also of what is unchanged
    write(&work.join("a/f"), b"1");
    client.ok(["cp", "-r", "a/", "b"]);
    client.ok(["put", "-r", "a/", "srv:b"]);
    client.ok(["cp", "-rn", "--remove-source-files", "a/", "b"]);
    client.ok(["put", "-rn", "--remove-source-files", "a/", "srv:b"]);
    client.ok(["get", "-rn", "--remove-source-files", "srv:b/", "b"]);
    assert!(there("a/f") && server.root.join("b/f").exists());
    // source and destination are one
    write(&work.join("list"), b"a/f\n");
    for words in [
        &["cp", "-R", "--remove-source-files", "a/f", "."][..],
        &["cp", "--remove-source-files", "--files-from=list", ".", "."],
        &["cp", "--remove-source-files", "a/f", "a"],
    ] {
        let ended = client.run(words);
        assert!(ended.code != 0 && there("a/f"), "{words:?}: {ended:?}");
    }
    // the same file by way of a server
    let inside = server.root.join("same");
    write(&inside.join("f"), b"1");
    let shown = inside.display().to_string();
    for (words, at) in [
        (vec!["put", "--remove-source-files", "f", "srv:same"], &shown),
        (vec!["put", "-R", "--remove-source-files", "f", "srv:same"], &shown),
        (vec!["get", "--remove-source-files", "srv:same/f", "."], &shown),
        (vec!["get", "-R", "--remove-source-files", "srv:same/./f", "."], &shown),
    ] {
        let mut command = client.command(&words);
        let output = command.current_dir(at).output().unwrap();
        assert!(
            !output.status.success() && inside.join("f").exists(),
            "{words:?}: {output:?}"
        );
    }
    // one that is missing does not shift the others
    write(&work.join("d1/f"), b"aa");
    write(&work.join("d2/g"), b"bb");
    std::fs::create_dir_all(work.join("d/g")).unwrap();
    let words = ["cp", "--remove-source-files", "none", "d1/f", "d2/g", "d"];
    assert_eq!(client.run(words).code, 3);
    assert!(!there("d1/f") && there("d2/g") && there("d/f"));
    // what a symlink leads to, and a stream
    write(&work.join("real"), b"x");
    std::os::unix::fs::symlink("real", work.join("link")).unwrap();
    for to in ["srv:links/", "links/"] {
        std::fs::create_dir_all(work.join("links")).unwrap();
        std::fs::create_dir_all(server.root.join("links")).unwrap();
        client
            .run(["cp", "--remove-source-files", "link", to])
            .failed(2, &["symlink", "-r"]);
    }
    let stream = client.run(["get", "--remove-source-files", "srv:b/f", "-"]);
    stream.failed(2, &["--remove-source-files", "standard output"]);
    assert!(there("real") && server.root.join("b/f").exists());
    // nothing is chosen of a source
    write(&work.join("empty"), b"");
    client.ok(["get", "--remove-source-files", "--files-from=empty", "srv:b", "got"]);
    assert!(server.root.join("b/f").exists() && !there("got/f"));
}

/// Once the removal at the source has begun, a lost session must not have anything compared again.
#[test]
fn a_session_that_is_lost_while_sources_are_removed_deletes_nothing() {
    let mut server = Server::start();
    let client = server.client();
    for n in 0..3000 {
        write(&server.root.join("src").join(n.to_string()), b"x");
    }
    let words = ["get", "-rq", "--delete", "--remove-source-files", "srv:src/", "dest"];
    let running = client.spawn(words);
    let first_half = server.root.join("src");
    crate::support::until("the removal begins", || {
        std::fs::read_dir(&first_half).unwrap().count() < 3000
    });
    server.kill();
    server.restart();
    let ended = running.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(names(&client.work().join("dest")).len(), 3000);
    assert_eq!(names(&server.root.join("src")), [""; 0]);
}

#[test]
fn a_list_may_name_the_contents_of_a_directory() {
    let server = Server::start();
    let client = server.client();
    for path in ["sub/f", "sub/d/deep", "other/x"] {
        write(&client.work().join("src").join(path), b"x");
        write(&server.root.join("src").join(path), b"x");
    }
    write(&client.work().join("list"), b"sub/\n");
    client.ok(["put", "-a", "--files-from=list", "src", "srv:dest"]);
    client.ok(["get", "-aR", "--files-from=list", "srv:src", "dest"]);
    let wanted = ["sub", "sub/d", "sub/f"];
    assert_eq!(names(&server.root.join("dest")), wanted);
    assert_eq!(names(&client.work().join("dest")), wanted);
    let both = ["put", "-a", "--files-from=-", "--exclude-from=-", "src", "srv:x"];
    client.run(both).failed(2, &["two lists", "standard input"]);
}

/// The rules say what is sent of what is chosen, and nothing of the way to it.
#[test]
fn rules_and_mirrors_of_chosen_paths() {
    let server = Server::start();
    let client = server.client();
    let work = client.work();
    for path in ["s/a/b/f", "s/a/k"] {
        write(&work.join(path), b"x");
    }
    write(&work.join("s/.gitignore"), b"*.o\n");
    client.ok(["cp", "-aR", "--exclude=a", "s/./a/b/f", "d1"]);
    assert!(work.join("d1/a/b/f").exists());
    // ignore files above what is chosen
    for path in ["d2/a/x.o", "d2/a/old"] {
        write(&work.join(path), b"x");
    }
    let ignoring = ["-aR", "--delete", "--ignore-file=.gitignore"];
    client.ok(["cp"].iter().chain(&ignoring).chain(&["s/./a", "d2"]));
    assert!(work.join("d2/a/x.o").exists() && !work.join("d2/a/old").exists());
    // what is excluded itself is not mirrored
    write(&work.join("d3/a/old"), b"x");
    client.ok(["cp", "-a", "--delete", "--exclude=a", "s/a", "d3"]);
    client.ok(["cp", "-aR", "--delete", "--exclude=/a", "s/./a", "d3"]);
    write(&work.join("s/.gitignore"), b"/a/\n");
    client.ok(["cp"].iter().chain(&ignoring).chain(&["s/./a", "d3"]));
    assert!(work.join("d3/a/old").exists());
    // two bases
    write(&work.join("t/c/g"), b"x");
    client.ok(["put", "-aR", "--delete", "s/./a/b", "t/./c", "srv:d4"]);
    assert!(server.root.join("d4/a/b/f").exists() && server.root.join("d4/c/g").exists());
    let overlap = ["put", "-aR", "--delete", "s/./a", "s/a/./k", "s/./a/b", "srv:d4"];
    client.ok(overlap);
    // a directory that is a symlink
    std::os::unix::fs::symlink("s", work.join("l")).unwrap();
    client.run(["cp", "-aR", "l/", "d5"]).failed(2, &["-R l/", "-k"]);
    client.ok(["cp", "-aRk", "l/", "d5"]);
    assert!(work.join("d5/l/a/k").exists());
    for refused in ["-d", "--no-relative", "--no-implied-dirs"] {
        client.run(["cp", "-a", refused, "s", "d6"]).failed(2, &[refused]);
    }
}
