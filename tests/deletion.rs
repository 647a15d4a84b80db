//! `--delete`: what no source has goes, last of all, and never by mistake.

use crate::support::chance::Chance;
use crate::support::tree::{snapshot, write};
use crate::support::{Client, Server};
use std::path::Path;

/// The names of all entries beneath a directory.
fn names(top: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(top).min_depth(1).sort_by_file_name();
    let entries = entries.into_iter().map(Result::unwrap);
    entries
        .map(|entry| entry.path().strip_prefix(top).unwrap().display().to_string())
        .collect()
}

fn many(top: &Path, count: usize) {
    for n in 0..count {
        write(&top.join(format!("{n}")), b"x");
    }
}

/// The tree at the source, and one with more at the destination.
fn trees(here: &Path, there: &Path) {
    for path in ["a", "d/b", "d/e/c"] {
        write(&here.join(path), path.as_bytes());
        write(&there.join(path), path.as_bytes());
    }
    for path in ["old", "d/old", "d/gone/x", "d/gone/y/z", "e"] {
        write(&there.join(path), b"old");
    }
    std::os::unix::fs::symlink("/etc/passwd", there.join("d/link")).unwrap();
    std::fs::create_dir(there.join("empty")).unwrap();
}

#[test]
fn what_no_source_has_is_deleted() {
    let server = Server::start();
    let client = server.client();
    for (number, line) in [
        "put -r --delete src/ srv:DEST",
        "put -a --delete-after src/. srv:DEST/",
        "put -a --del --json src/ srv:DEST",
        "get -r --delete srv:src/ DEST",
        "get -a --delete-before --delete-excluded srv:src/ DEST",
        "cp -a --delete-delay --mkpath src/ DEST",
    ]
    .into_iter()
    .enumerate()
    {
        let (at_source, at_dest) = match &line[..3] {
            "put" => (client.work(), server.root.clone()),
            "get" => (server.root.clone(), client.work()),
            _ => (client.work(), client.work()),
        };
        let dest = format!("dest{number}");
        trees(&at_source.join("src"), &at_dest.join(&dest));
        write(&at_dest.join("beside"), b"stays");
        let words: Vec<String> = line.split(' ').map(|word| word.replace("DEST", &dest)).collect();
        client.ok(words);
        assert_eq!(snapshot(&at_source.join("src")), snapshot(&at_dest.join(&dest)), "{line}");
        assert!(at_dest.join("beside").exists());
    }
    assert!(Path::new("/etc/passwd").exists());
}

/// A directory with a name of its own: only what is in it at the destination goes.
#[test]
fn a_named_directory_is_mirrored_beside_others() {
    let server = Server::start();
    let client = server.client();
    trees(&client.work().join("src"), &server.root.join("dest/src"));
    trees(&client.work().join("other"), &server.root.join("dest/other"));
    write(&server.root.join("dest/f"), b"old");
    write(&client.work().join("f"), b"new");
    client.ok(["put", "-a", "--delete", "src", "f", "srv:dest"]);
    assert_eq!(
        snapshot(&client.work().join("src")),
        snapshot(&server.root.join("dest/src"))
    );
    assert!(server.root.join("dest/other/old").exists());
    client.ok(["get", "-a", "--delete", "srv:dest/other", "srv:dest/src", "."]);
    assert!(client.work().join("other/d/gone/y/z").exists());
}

#[test]
fn what_the_rules_exclude_stays_with_the_directories_above_it() {
    let server = Server::start();
    let client = server.client();
    let there = server.root.join("dest");
    let fill = || {
        write(&client.work().join("src/a"), b"a");
        for path in ["a", "x.log", "d/e/y.log", "d/e/f", "d/g/h", "cache/z", "keep/k"] {
            write(&there.join(path), b"old");
        }
    };
    let put = |options: &str| {
        fill();
        let words = ["put", "-a", "--delete"].into_iter().chain(options.split(' '));
        client.ok(words.chain(["src/", "srv:dest"]));
        names(&there)
    };
    assert_eq!(
        put("--exclude *.log --exclude=/cache/"),
        ["a", "cache", "cache/z", "d", "d/e", "d/e/y.log", "x.log"]
    );
    // a rule for deletions only
    assert_eq!(put("-f P_*.log"), ["a", "d", "d/e", "d/e/y.log", "x.log"]);
    assert_eq!(put("--exclude=*.log --delete-excluded -f P_/keep"), ["a", "keep", "keep/k"]);
    // included again, beneath what is excluded
    assert_eq!(
        put("--include=f --exclude=/d"),
        ["a", "d", "d/e", "d/e/y.log", "d/g", "d/g/h"]
    );
    assert_eq!(put("--exclude=*.log --delete-excluded"), ["a"]);
}

#[test]
fn partial_files_stay() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("src/a"), b"a");
    let partial = server.root.join("dest/d");
    std::fs::create_dir_all(&partial).unwrap();
    write(&server.root.join("dest/d/old"), b"old");
    let name =
        haul::store::partial_names::PartialNames::of(&haul::store::Name::parse(b"big").unwrap());
    let name = String::from_utf8(name.file).unwrap();
    write(&partial.join(&name), b"half");
    client.ok(["put", "-a", "--delete", "src/", "srv:dest"]);
    assert_eq!(
        names(&server.root.join("dest")),
        ["a".into(), "d".into(), format!("d/{name}")]
    );
    let again = client.run(["put", "-a", "--delete", "--json", "src/", "srv:dest"]);
    assert_eq!(again.events("summary")[0]["dirs_not_empty"], 1, "{again:?}");
}

#[test]
fn the_guard_prevents_what_looks_like_a_mistake() {
    let server = Server::start();
    let client = server.client();
    let there = server.root.join("dest");
    write(&client.work().join("src/1"), b"x");
    std::fs::create_dir(client.work().join("empty")).unwrap();
    let reset = |count| {
        let _ = std::fs::remove_dir_all(&there);
        many(&there, count);
    };
    let left = || std::fs::read_dir(&there).unwrap().count();
    // more than half, and more than a hundred
    reset(102);
    let all = client.run(["put", "-a", "--delete", "src/", "srv:dest"]);
    all.failed(
        9,
        &[
            "nothing was deleted",
            "101 of 102",
            "haul put -a --delete=yes src/ srv:dest",
        ],
    );
    assert_eq!(left(), 102);
    let object = client.run(["put", "-a", "--json", "--delete", "src/", "srv:dest"]);
    assert_eq!(object.code, 9, "{object:?}");
    let not_deleted = object.events("not_deleted").remove(0);
    assert_eq!(not_deleted["planned"], 101);
    assert_eq!(not_deleted["command"], "haul put -a --json --delete=yes src/ srv:dest");
    client.ok(["put", "-a", "--delete=yes", "src/", "srv:dest"]);
    assert_eq!(left(), 1);
    // a hundred are few
    reset(101);
    client.ok(["put", "-a", "--delete", "src/", "srv:dest"]);
    assert_eq!(left(), 1);
    // a source that is empty, as of a disk that is not mounted
    reset(3);
    let empty = client.run(["put", "-a", "--delete", "empty/", "srv:dest"]);
    empty.failed(9, &["empty is empty", "3 of 3"]);
    assert_eq!(left(), 3);
    // one that is missing
    client
        .run(["put", "-a", "--delete", "missing/", "srv:dest"])
        .failed(8, &["missing"]);
    assert_eq!(left(), 3);
    // a limit of the user's own, which "yes" does not lift
    for limit in ["--max-delete=1", "--max-delete=50%"] {
        let over = client.run(["put", "-a", "--delete=yes", limit, "src/", "srv:dest"]);
        over.failed(9, &["2 of 3", "--max-delete=2"]);
        assert_eq!(left(), 3);
    }
    client.ok(["put", "-a", "--delete", "--max-delete", "2", "src/", "srv:dest"]);
    assert_eq!(left(), 1);
}

#[test]
fn a_transfer_that_failed_in_part_deletes_nothing() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("src/a"), b"a");
    nix::unistd::mkfifo(
        &client.work().join("src/socket"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    write(&server.root.join("dest/old"), b"old");
    write(&client.work().join("src/b"), b"b");
    write(&server.root.join("dest/a/in/the/way"), b"old");
    let put = client.run(["put", "-r", "--delete", "src/", "srv:dest"]);
    assert_eq!(put.code, 3, "{put:?}");
    assert!(put.err.contains("nothing was deleted: 1 entries could not be"), "{put:?}");
    assert!(server.root.join("dest/old").exists());
}

#[test]
fn a_dry_run_lists_what_would_go_and_deletes_nothing() {
    let server = Server::start();
    let client = server.client();
    trees(&client.work().join("src"), &server.root.join("dest"));
    let before = names(&server.root.join("dest"));
    let plan = client.run(["put", "-an", "--json", "--delete", "src/", "srv:dest"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    let mut planned: Vec<String> = plan
        .events("deletion_planned")
        .iter()
        .map(|event| event["path"].as_str().unwrap().to_string())
        .collect();
    // what is in a directory goes before it
    assert!(
        planned.iter().position(|path| path == "srv:dest/d/gone/y/z")
            < planned.iter().position(|path| path == "srv:dest/d/gone/y")
    );
    planned.sort();
    assert_eq!(
        planned,
        [
            "d/gone",
            "d/gone/x",
            "d/gone/y",
            "d/gone/y/z",
            "d/link",
            "d/old",
            "e",
            "empty",
            "old"
        ]
        .map(|path| format!("srv:dest/{path}"))
    );
    assert_eq!(plan.events("summary")[0]["deletions_planned"], 9);
    assert_eq!(names(&server.root.join("dest")), before);
    // a destination that is not there has nothing to delete
    client.ok(["put", "-an", "--delete", "src/", "srv:new"]);
    client.ok(["get", "-an", "--delete", "srv:dest/", "new"]);
    assert!(!server.root.join("new").exists() && !client.work().join("new").exists());
}

#[test]
fn bad_input_is_refused_and_touches_nothing() {
    let server = Server::start();
    let client = server.client();
    trees(&client.work().join("src"), &server.root.join("dest"));
    write(&client.work().join("other/x"), b"x");
    let before = snapshot(&server.root);
    for (line, texts) in [
        ("put --delete src/a srv:dest", &["--delete is for directories"][..]),
        ("put -a --delete src/ other/ srv:dest", &["other", "src", "one by one"]),
        ("put -a --delete src/ other srv:dest", &["other", "src"]),
        ("put -a --delete=no src/ srv:dest", &["--delete"]),
        ("put -a --delete --max-delete=x src/ srv:dest", &["--max-delete"]),
        ("get -a --delete srv:dest/ srv:dest/d here", &["one by one"]),
    ] {
        let refused = client.run(line.split(' '));
        assert_eq!(refused.code, 2, "{line}: {refused:?}");
        assert!(texts.iter().all(|text| refused.err.contains(text)), "{line}: {refused:?}");
    }
    assert_eq!(snapshot(&server.root), before);
}

#[test]
fn users_who_may_not_see_or_write_delete_nothing() {
    let server = Server::start();
    for access in ["--write-only", "--read-only"] {
        let user = &access[2..];
        server.user(&["add", user, access, "--root", user, "--invited"], "");
        let client = server.client_of(user);
        write(&server.root.join(user).join("dest/old"), b"old");
        write(&client.work().join("src/a"), b"a");
        let put = client.run(["put", "-a", "--delete", "src/", "srv:dest"]);
        put.failed(8, &["this user may only"]);
        assert!(server.root.join(user).join("dest/old").exists());
    }
}

/// Many more entries than fit into one request, in one directory and in many.
#[test]
fn large_trees_are_compared_in_pages() {
    let server = Server::start();
    let client = server.client();
    let (here, there) = (client.work().join("src"), server.root.join("dest"));
    many(&here, 3000);
    many(&there, 5000);
    for n in 0..700 {
        write(&there.join(format!("dir{}/{n}/file", n % 40)), b"x");
    }
    for n in 0..300 {
        write(&here.join(format!("dir{}/{n}/file", n % 40)), b"x");
    }
    client.ok(["put", "-a", "--delete=yes", "src/", "srv:dest"]);
    assert_eq!(names(&here), names(&there));
    many(&here, 4000);
    client.ok(["get", "-a", "--delete", "srv:dest/", "src"]);
    assert_eq!(names(&here), names(&there));
}

/// Entries of several mirrors are in one plan.
#[test]
fn every_mirror_of_a_run_is_complete() {
    let server = Server::start();
    let client = server.client();
    let (here, there) = (client.work().join("s"), server.root.join("d"));
    for n in 0..20 {
        write(&here.join(format!("{n}/stays")), b"x");
        for name in ["stays", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "b", "c/cc/ccc"] {
            write(&there.join(format!("{n}/{name}")), b"x");
            write(&client.work().join(format!("d/{n}/{name}")), b"x");
        }
    }
    let sources = (0..20).map(|n| format!("s/{n}"));
    for dest in ["srv:d", "d"] {
        let verb = if dest == "d" { "cp" } else { "put" };
        let words = [verb, "-a", "--json", "--delete=yes"].map(String::from).into_iter();
        let ended = client.run(words.chain(sources.clone()).chain([dest.into()]));
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.events("summary")[0]["deleted"], 100, "{ended:?}");
    }
    assert_eq!(
        (names(&there), names(&client.work().join("d"))),
        (names(&here), names(&here))
    );
}

#[test]
fn excluded_entries_are_deleted_where_that_is_asked_for_even_if_the_source_has_them() {
    let client = Client::new();
    for dir in ["s", "d"] {
        for path in ["keep", "secret", "sub/secret", "secrets/x", "secrets/in"] {
            write(&client.work().join(dir).join(path), path.as_bytes());
        }
    }
    client.ok("cp -a --delete-excluded --exclude=secret s/ d".split(' '));
    assert_eq!(
        names(&client.work().join("d")),
        ["keep", "secrets", "secrets/in", "secrets/x", "sub"]
    );
    client.ok("cp -a --delete-excluded --include=in --exclude=secrets s/ d".split(' '));
    assert_eq!(
        names(&client.work().join("d")),
        ["keep", "secret", "secrets", "secrets/in", "sub", "sub/secret"]
    );
}

#[test]
fn nothing_is_mirrored_into_a_place_that_is_not_named_or_has_the_source() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("tree/a"), b"a");
    write(&client.work().join("thesis"), b"years");
    write(&client.work().join("d/src/f"), b"f");
    client
        .run(["get", "-a", "--delete", "srv:tree/"])
        .failed(2, &["DEST", "write ."]);
    let inside = client.run("cp -a --delete --exclude=x d/src/ d".split(' '));
    inside.failed(2, &["d/src/", "within the destination"]);
    assert!(client.work().join("thesis").exists() && client.work().join("d/src/f").exists());
    // options may be repeated, as scripts do
    client.ok("get -a -a -v -v --delete --delete-after srv:tree/ here".split(' '));
}

/// Every name is a file, a symlink or a directory with something in it, at both ends by chance.
fn kinds(chance: &mut Chance, top: &Path) {
    std::fs::create_dir_all(top).unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        let at = top.join(name);
        match chance.below(6) {
            0 | 1 => write(&at, format!("{name}{}", chance.below(1000)).as_bytes()),
            2 => std::os::unix::fs::symlink(format!("to-{name}"), &at).unwrap(),
            3 => {
                write(&at.join("inner"), b"inner");
                write(&at.join("deep/x"), b"x");
            }
            4 if chance.one_in(2) => kinds(chance, &at.join("more")),
            4 => std::fs::create_dir_all(&at).unwrap(),
            _ => {}
        }
    }
}

fn listed(top: &Path) -> Vec<(String, String)> {
    let described = names(top).into_iter().map(|name| {
        let at = top.join(&name);
        let kind = std::fs::symlink_metadata(&at).unwrap().file_type();
        let what = match (kind.is_dir(), kind.is_symlink()) {
            (true, _) => "dir".into(),
            (_, true) => std::fs::read_link(&at).unwrap().display().to_string(),
            _ => std::fs::read_to_string(&at).unwrap(),
        };
        (name, what)
    });
    described.collect()
}

#[test]
fn files_and_directories_take_each_others_places_in_one_run() {
    let server = Server::start();
    let client = server.client();
    for seed in 1..=18 {
        let (name, mut chance) = (format!("k{seed}"), Chance::of_seed(seed));
        let verb = *chance.of(&["put", "get", "cp"]);
        let (here, there) = (client.work().join(&name), server.root.join(&name));
        let (source, dest) = match verb {
            "put" => (here, there),
            "get" => (there, here),
            _ => (here.clone(), here),
        };
        kinds(&mut chance, &source.join("src"));
        kinds(&mut chance, &dest.join("dest"));
        write(&source.join("src/same"), b"same");
        let (from, to) = match verb {
            "put" => (format!("{name}/src/"), format!("srv:{name}/dest")),
            "get" => (format!("srv:{name}/src/"), format!("{name}/dest")),
            _ => (format!("{name}/src/"), format!("{name}/dest")),
        };
        // a dry run changes nothing, and names what it would do
        let before = listed(&dest.join("dest"));
        client.ok([verb, "-an", "--delete=yes", &from, &to]);
        assert_eq!(listed(&dest.join("dest")), before, "seed {seed}");
        client.ok([verb, "-a", "--delete=yes", &from, &to]);
        let wanted = listed(&source.join("src"));
        assert_eq!(listed(&dest.join("dest")), wanted, "seed {seed}: {verb}");
    }
}

/// What the guard, a rule or a backup prevents stays, and is reported.
#[test]
fn a_directory_that_stays_is_not_replaced_by_a_file() {
    let server = Server::start();
    let client = server.client();
    let there = server.root.join("dest");
    write(&client.work().join("src/x"), b"file");
    write(&client.work().join("src/y/f"), b"f");
    let fill = || {
        let _ = std::fs::remove_dir_all(&there);
        write(&there.join("x/inner"), b"inner");
        write(&there.join("y"), b"was a file");
    };
    fill();
    let ended = client.run(["put", "-a", "--delete", "--max-delete=1", "src/", "srv:dest"]);
    ended.failed(9, &["--max-delete"]);
    assert_eq!(names(&there), ["x", "x/inner", "y", "y/f"]);
    fill();
    let ended = client.run(["put", "-a", "--delete", "-f", "P inner", "src/", "srv:dest"]);
    ended.failed(3, &["x: at the destination: it is a directory"]);
    assert_eq!(names(&there), ["x", "x/inner", "y", "y/f"]);
    fill();
    let ended = client.run(["put", "-a", "--delete", "-f", "P x", "src/", "srv:dest"]);
    ended.failed(3, &["1 directories stay that are in the way"]);
    assert_eq!(names(&there), ["x", "x/inner", "y", "y/f"]);
    // without --delete nothing gives way
    fill();
    assert_eq!(client.run(["put", "-a", "src/", "srv:dest"]).code, 1);
    assert_eq!(names(&there), ["x", "x/inner", "y"]);
    // what gave way has a backup, or is in the trash
    let backups = ["put", "-a", "--delete", "--backup-dir=../bak", "src/", "srv:dest"];
    client.ok(backups);
    assert_eq!(names(&there), ["x", "y", "y/f"]);
    assert_eq!(names(&server.root.join("bak")), ["x", "x/inner", "y"]);
    fill();
    std::fs::remove_file(there.join("y")).unwrap();
    client.ok(["put", "-a", "--delete", "--keep-deleted", "src/", "srv:dest"]);
    assert!(client.ok(["undelete", "srv:dest"]).contains("x/inner\n"));
}
